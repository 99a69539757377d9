"""Training with each fusion, fewer modalities, and other poolings, from settings to metrics."""

import numpy as np
import pytest
from conftest import SMALL_MODEL, model_config

from lmf_multitask.config import build
from lmf_multitask.data.modality import MODALITIES
from lmf_multitask.models.fusion import FUSIONS
from lmf_multitask.pipeline.runs import Run
from lmf_multitask.pipeline.settings import ExperimentConfig, recipe_config
from lmf_multitask.training.config import TrainingConfig

CHOICES = [
    *({"fusion.kind": kind} for kind in FUSIONS),
    {"fusion.kind": "concat", "encoders.text.pooling": "last_present"},
    {"modalities": ["audio", "text"]},
    {"fusion": {"kind": "tfn", "dim": None}, "modalities": ["video"]},
]


@pytest.mark.parametrize("choice", CHOICES, ids=lambda choice: "-".join(map(str, choice.values())))
def test_trained_saved_and_evaluated(tmp_path, sample_path, choice):
    from lmf_multitask.pipeline.experiment import run_experiment
    from lmf_multitask.pipeline.reporting import evaluate_run

    sizes = {"encoders": SMALL_MODEL["encoders"]}
    config = ExperimentConfig(
        data_path=str(sample_path),
        output_dir=str(tmp_path / "run"),
        model=model_config(sizes, choice),
        training=TrainingConfig(epochs=1, factor_learning_rate=0.002),
    )
    metrics = run_experiment(config, report=False, quiet=True)
    run = Run(tmp_path / "run")
    assert run.load_config().model == run.load_model().config == config.model
    found, _ = evaluate_run(tmp_path / "run")  # the data have all three modalities
    assert found.metrics["emotions"] == metrics["emotions"]
    assert 0 < metrics["mean"]["weighted_f1"] < 1


def test_the_optimiser_has_every_parameter_once():
    from lmf_multitask.models.lmf import LMFModel
    from lmf_multitask.training.module import LMFModule

    for choice in CHOICES:
        inputs = {"audio": (5,), "video": (4,), "text": (6, 3)}
        module = LMFModule(LMFModel(inputs, ["one"], model_config(choice)))
        for group in module.configure_optimizers()._param_groups:  # of buffers that the weights are views of
            for weight in group["params"]:
                weight.set_value(np.arange(weight.size, dtype="f4").reshape(weight.shape) + 1e6)
        numbers = np.concatenate([w.numpy().ravel() for w in module.parameters() if not w.stop_gradient])
        assert len(np.unique(numbers)) == len(numbers) and numbers.min() >= 1e6


@pytest.mark.parametrize("recipe", ["lmf_paddle", "paper"])
@pytest.mark.parametrize("emotion", ["default", "happy", "sad", "angry", "neutral"])
def test_the_published_models(recipe, emotion):
    model = build(ExperimentConfig, recipe_config(recipe, emotion)).model
    assert isinstance(model.fusion, FUSIONS["lmf"].Settings)
    assert (model.fusion.dim, model.modalities, model.encoders.text.pooling) == (None, list(MODALITIES), "last_step")
