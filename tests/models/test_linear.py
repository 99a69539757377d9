"""The linear model inside the network: its outputs, its file, and that training does not see it."""

import numpy as np
import paddle
import pytest
from conftest import INPUTS, SMALL_MODEL, model_config, random_clips

from lmf_multitask.evaluation.baselines import fit_linear_baseline
from lmf_multitask.evaluation.stacking import Weights
from lmf_multitask.models.lmf import LMFModel
from lmf_multitask.tasks import BinaryTask, RegressionTask, log_odds

TASKS = [BinaryTask("a"), RegressionTask("v", mean=2.0, std=3.0), BinaryTask("b")]
WEIGHTS = {"binary": Weights(network=0.4, linear=0.7), "regression": Weights(network=0.9, linear=0.2)}
SEQUENCES = {"audio": (5, 5), "video": (4,), "text": (6, 3)}


def corpus(rows, seed, inputs):
    data = random_clips(rows, seed) if inputs is INPUTS else {}
    rng = np.random.default_rng(seed)
    for name, shape in inputs.items():
        data[name] = rng.normal(size=(rows, *shape)).astype("f4") * 3 + 1
        if len(shape) == 2:
            data[name][::2, 3:] = 0
        data[name][::5] = 0  # missing
    data["audio"][1] = 1e6  # absurd
    labels = rng.integers(0, 2, (rows, 3)).astype(float)
    labels[:, 1] = rng.normal(size=rows) * 3 + 2
    return {**data, "labels": labels}


def fitted(*settings, inputs=INPUTS, weights=WEIGHTS):
    paddle.seed(0)
    model = LMFModel(inputs, TASKS, model_config(SMALL_MODEL, *settings))
    train, validation = corpus(60, 1, inputs), corpus(40, 2, inputs)
    model.fit_statistics(train)
    linear = fit_linear_baseline(train, validation, TASKS, model.config.modalities)
    alone = model.predict(validation)
    model.linear.fit(linear, weights)
    return model, linear, validation, alone


@pytest.mark.parametrize("inputs", [INPUTS, SEQUENCES], ids=["vectors", "sequences"])
@pytest.mark.parametrize("modalities", [["audio", "video", "text"], ["audio", "text"]], ids=len)
def test_scores_are_weighted_sums(inputs, modalities):
    model, linear, clips, alone = fitted({"modalities": modalities}, inputs=inputs)
    got, other = model.predict(clips), linear.predict(clips)
    for t in (0, 2):
        wanted = 0.4 * log_odds(alone[:, t]) + 0.7 * log_odds(other[:, t])
        np.testing.assert_allclose(log_odds(got[:, t]), wanted, rtol=1e-3, atol=1e-4)
    wanted = 0.9 * (alone[:, 1] - 2) + 0.2 * (other[:, 1] - 2) + 2
    np.testing.assert_allclose(got[:, 1], wanted, rtol=1e-4, atol=1e-4)


def test_until_it_is_fitted_and_in_training_the_network_is_alone():
    model, _, clips, alone = fitted({"modality_dropout": 0.0, "head_dropout": 0.0, "encoders": {
        name: {"dropout": 0.0} for name in ("audio", "video", "text")}, "encoders.text.step_dropout": 0.0})  # fmt: skip
    np.testing.assert_array_equal(model.predict_both(clips)[1], alone)
    batch = [paddle.to_tensor(clips[name]) for name in ("audio", "video", "text")]
    model.train()
    training = model(*batch).numpy()
    model.eval()
    assert not np.allclose(model(*batch).numpy(), training, atol=1e-3)
    np.testing.assert_allclose(model.network_alone(*batch).numpy(), training, rtol=1e-4, atol=1e-5)
    names = [name for name, weight in model.named_parameters() if name.startswith("linear.")]
    assert names and all(dict(model.named_parameters())[name].stop_gradient for name in names)


def test_it_is_saved_with_the_network(tmp_path):
    model, _, clips, _ = fitted()
    model.tasks[0] = BinaryTask("a", 0.3)
    model.save_pretrained(tmp_path / "model")
    again = LMFModel.from_pretrained(tmp_path / "model")
    np.testing.assert_array_equal(again.predict(clips), model.predict(clips))
    assert again.tasks == model.tasks


def test_a_kind_without_weights_is_left_to_the_network():
    model, _, clips, alone = fitted(weights={"binary": WEIGHTS["binary"]})
    got = model.predict(clips)
    np.testing.assert_allclose(got[:, 1], alone[:, 1], rtol=1e-5)
    assert not np.allclose(got[:, 0], alone[:, 0], atol=1e-3)
