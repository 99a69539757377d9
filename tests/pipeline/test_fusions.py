"""Training with each fusion, fewer modalities, and the text's end, from settings to figures."""

import pytest

from lmf_multitask.config import ExperimentConfig, ModelConfig, TrainingConfig, find_config
from lmf_multitask.data.schema import MODALITIES
from lmf_multitask.runs import Run, settings_from

CHOICES = [
    {"fusion": "tfn"},
    {"fusion": "concat", "text_pooling": "last_word"},
    {"fusion": "late"},
    {"fusion": "lmf", "modalities": ["audio", "text"]},
    {"fusion": "tfn", "modalities": ["video"], "fusion_dim": None},
]


@pytest.mark.parametrize("choice", CHOICES, ids=lambda choice: "-".join(map(str, choice.values())))
def test_trained_saved_and_evaluated(tmp_path, sample_path, choice):
    from lmf_multitask.training.experiment import evaluate_run, run_experiment

    model = ModelConfig(**{"text_lstm": 8, "text_hidden": 4, "audio_hidden": 4, "video_hidden": 4, **choice})
    training = TrainingConfig(epochs=1, factor_learning_rate=0.002)
    config = ExperimentConfig(str(sample_path), output_dir=str(tmp_path / "run"), model=model, training=training)
    metrics = run_experiment(config)
    run = Run(tmp_path / "run")
    assert run.load_config().model == run.load_model().config == model
    again, _ = evaluate_run(tmp_path / "run")  # the data have all three modalities
    assert again["emotions"] == metrics["emotions"]
    assert 0 < metrics["mean"]["weighted_f1"] < 1


def test_the_optimiser_has_every_parameter_once():
    from lmf_multitask.models.lmf import LMFModel
    from lmf_multitask.training.module import LMFModule

    for choice in CHOICES:
        module = LMFModule(LMFModel({"audio": 5, "video": 4, "text": 3}, ["one"], ModelConfig(**choice)))
        trained = [w.name for group in module.configure_optimizers()._param_groups for w in group["params"]]
        assert sorted(trained) == sorted(w.name for w in module.parameters() if not w.stop_gradient)


@pytest.mark.parametrize("recipe", ["lmf_paddle", "paper"])
@pytest.mark.parametrize("emotion", ["default", "happy", "sad", "angry", "neutral"])
def test_the_papers_models_are_left_as_they_are(recipe, emotion):
    model = settings_from(find_config(f"per_emotion/{recipe}/{emotion}")).model
    assert (model.fusion, model.modalities, model.text_pooling) == ("lmf", list(MODALITIES), "last_step")


@pytest.mark.parametrize(
    ("arguments", "wanted"),
    [
        (["--model.modalities", "text", "audio", "--seed", "3"], ["audio", "text"]),
        (["--model.modalities", "[text, video]"], ["video", "text"]),
        (["--model.modalities=[audio]"], ["audio"]),
        (["--seed", "3"], ["audio", "video", "text"]),
    ],
)
def test_modalities_on_the_command_line(arguments, wanted):
    from lmf_multitask.command_line import CommandParser, add_experiment_options, experiment_from

    parser = CommandParser(prog="x")
    add_experiment_options(parser)
    assert experiment_from(parser, parser.parse_args(arguments)).model.modalities == wanted


@pytest.mark.parametrize("given", [["sound"], []])
def test_wrong_modalities_on_the_command_line(capsys, given):
    from lmf_multitask.command_line import run
    from lmf_multitask.train import main

    assert run(main, ["--model.modalities", *given]) == 2
    assert capsys.readouterr().err == (
        f"error: model.modalities must be one or more of audio, video, text, each once, but got {given}.\n"
    )
