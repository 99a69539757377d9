import json

import numpy as np
import pytest

from lmf_multitask.errors import RunError
from lmf_multitask.evaluation.calibration import (
    Calibration,
    EmotionCalibration,
    fit_calibration,
    fit_temperature,
    fit_threshold,
    scale,
)
from lmf_multitask.evaluation.metrics import log_loss


def sigmoid(x):
    return 1 / (1 + np.exp(-x))


def test_scaling_by_hand():
    # odds 9 : 1, square root 3 : 1
    np.testing.assert_allclose(scale(np.array([0.9, 0.5, 0.1]), 2.0), [0.75, 0.5, 0.25])
    assert np.isfinite(scale(np.array([0.0, 1.0]), 0.5)).all()


@pytest.mark.parametrize("temperature", [0.5, 1.0, 3.0])
def test_a_known_temperature_is_found(temperature):
    rng = np.random.default_rng(0)
    z = rng.normal(size=20000) * 1.5
    labels = rng.uniform(size=z.shape) < sigmoid(z)
    assert fit_temperature(labels, sigmoid(temperature * z)) == pytest.approx(temperature, rel=0.05)


def test_calibration_lowers_the_loss_on_validation_and_changes_no_plain_decision():
    rng = np.random.default_rng(1)
    labels = rng.integers(0, 2, (200, 3))
    probabilities = sigmoid((labels - 0.5) * 3 + 4 * rng.normal(size=labels.shape))
    calibration = fit_calibration(labels, probabilities, ["a", "b", "c"])
    after = calibration.calibrate(probabilities, ["a", "b", "c"])
    for t in range(3):
        assert log_loss(labels[:, t], after[:, t]) < log_loss(labels[:, t], probabilities[:, t])
    np.testing.assert_array_equal(after > 0.5, probabilities > 0.5)


def test_separable_validation_stays_within_bounds():
    assert fit_temperature(np.array([0, 1]), np.array([0.4, 0.6])) == pytest.approx(0.05, rel=1e-3)


def plain_figure(labels, present, figure):
    tp, fp = (labels & present).sum(), (~labels & present).sum()
    fn, tn = (labels & ~present).sum(), (~labels & ~present).sum()
    return 2 * tp / (2 * tp + fp + fn) if figure == "positive_f1" else (tp / (tp + fn) + tn / (tn + fp)) / 2


@pytest.mark.parametrize("figure", ["positive_f1", "uar"])
def test_threshold_is_the_best_of_all(figure):
    rng = np.random.default_rng(2)
    for trial in range(10):
        labels = np.arange(40) % 4 == 0
        probabilities = np.round(sigmoid(labels * 1.0 - 1 + rng.normal(size=40)), 1 + trial % 3)
        threshold = fit_threshold(labels, probabilities, figure)
        best = max(plain_figure(labels, probabilities > c, figure) for c in np.linspace(0, 1, 2001))
        assert plain_figure(labels, probabilities > threshold, figure) == pytest.approx(best)


def test_of_equal_thresholds_one_half_wins():
    assert fit_threshold(np.array([0, 0, 1, 1]), np.array([0.1, 0.2, 0.8, 0.9]), "uar") == 0.5


@pytest.mark.parametrize(
    ("column", "reason"),
    [
        ([-100] * 3, "validation has no label"),
        ([0] * 3, "has only absent clips"),
        ([1, 1, -100], "has only present clips"),
    ],
)
def test_one_class_keeps_plain_values_with_a_reason(column, reason):
    calibration = fit_calibration(np.array(column)[:, None], np.array([[0.1], [0.7], [0.4]]), ["a"])
    assert reason in calibration.emotions["a"].reason
    assert calibration.emotions["a"].temperature == 1.0
    assert calibration.thresholds("uar", ["a"]) == [0.5]


# -- the file


@pytest.fixture
def saved(tmp_path):
    one = EmotionCalibration(1.25, {"positive_f1": 0.3, "uar": 0.2}, 60)
    Calibration({"happy": one, "sad": EmotionCalibration(rows=0, reason="validation has no label")}).save(tmp_path)
    return tmp_path


def test_the_file_comes_back(saved):
    calibration = Calibration.load(saved)
    assert list(calibration.emotions) == ["happy", "sad"]
    np.testing.assert_array_equal(calibration.thresholds("positive_f1", ["sad", "happy"]), [0.5, 0.3])
    np.testing.assert_allclose(calibration.calibrate(np.array([[0.9, 0.9]]), ["sad", "happy"])[0, 0], 0.9)
    assert json.loads((saved / "calibration.json").read_text())["fitted_on"] == "validation"


def test_a_foreign_emotion_is_refused(saved):
    with pytest.raises(RunError, match="must know every emotion, but 'angry' is not among happy, sad"):
        Calibration.load(saved).thresholds("uar", ["angry"])


def damage(change):
    def apply(content):
        change(content["emotions"]["happy"])
        return content

    return apply


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda content: [], "must hold a calibration of format 1"),
        (lambda content: {**content, "format": 2}, "must hold a calibration of format 1"),
        (
            damage(lambda one: one.pop("rows")),
            r"happy must have exactly \['reason', 'rows', 'temperature', 'thresholds'\]",
        ),
        (
            damage(lambda one: one.update(temperature=0)),
            "temperature of happy must be a number from 0.05 to 20, but is 0",
        ),
        (damage(lambda one: one.update(temperature="1")), "temperature of happy must be a number .* but is '1'"),
        (damage(lambda one: one.update(temperature=True)), "temperature of happy must be a number .* but is True"),
        (damage(lambda one: one["thresholds"].update(uar=1.5)), "uar threshold of happy must be a number from 0 to 1"),
        (damage(lambda one: one["thresholds"].pop("uar")), "thresholds of happy must be for positive_f1, uar"),
        (damage(lambda one: one.update(rows=1.5)), "rows of happy must be a whole number"),
    ],
)
def test_damaged_files(saved, change, message):
    path = saved / "calibration.json"
    path.write_text(json.dumps(change(json.loads(path.read_text()))))
    with pytest.raises(RunError, match=message) as caught:
        Calibration.load(saved)
    assert str(caught.value).startswith(str(path))


def test_missing_and_broken_files(saved):
    with pytest.raises(RunError, match="must be there, but is missing. Train again, or leave calibration out"):
        Calibration.load(saved / "nowhere")
    (saved / "calibration.json").write_text("{")
    with pytest.raises(RunError, match="must be JSON"):
        Calibration.load(saved)
