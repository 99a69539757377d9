import json

import numpy as np
import pytest

from lmf_multitask.errors import RunError
from lmf_multitask.evaluation.calibration import (
    CRITERIA,
    Calibration,
    TaskCalibration,
    fit_temperature,
    fit_threshold,
    scale,
)
from lmf_multitask.evaluation.metrics import value_of
from lmf_multitask.evaluation.weighted_rows import WeightedRows


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
    assert fit_temperature(WeightedRows(labels, sigmoid(temperature * z))) == pytest.approx(temperature, rel=0.05)


def test_calibration_lowers_the_loss_on_validation_and_changes_no_plain_decision():
    rng = np.random.default_rng(1)
    labels, tasks = rng.integers(0, 2, (200, 3)).astype(float), ["a", "b", "c"]
    probabilities = sigmoid((labels - 0.5) * 3 + 4 * rng.normal(size=labels.shape))
    calibration = Calibration.fit(labels, probabilities, tasks)
    after = calibration.calibrate(probabilities, tasks)
    for t in range(3):
        losses = [value_of("log_loss", labels[:, [t]], one[:, [t]], ["a"]) for one in (probabilities, after)]
        assert losses[1] < losses[0]
    np.testing.assert_array_equal(after > 0.5, probabilities > 0.5)


def test_separable_validation_stays_within_bounds():
    assert fit_temperature(WeightedRows(np.array([0.0, 1.0]), np.array([0.4, 0.6]))) == pytest.approx(0.05, rel=1e-3)


def plain_metric(labels, present, criterion):
    tp, fp = (labels & present).sum(), (~labels & present).sum()
    fn, tn = (labels & ~present).sum(), (~labels & ~present).sum()
    return 2 * tp / (2 * tp + fp + fn) if criterion == "positive_f1" else (tp / (tp + fn) + tn / (tn + fp)) / 2


@pytest.mark.parametrize("criterion", CRITERIA)
def test_threshold_is_the_best_of_all(criterion):
    rng = np.random.default_rng(2)
    for trial in range(10):
        labels = np.arange(40) % 4 == 0
        probabilities = np.round(sigmoid(labels * 1.0 - 1 + rng.normal(size=40)), 1 + trial % 3)
        threshold = fit_threshold(WeightedRows(labels, probabilities), criterion)
        best = max(plain_metric(labels, probabilities > c, criterion) for c in np.linspace(0, 1, 2001))
        assert plain_metric(labels, probabilities > threshold, criterion) == pytest.approx(best)


def test_of_equal_thresholds_one_half_wins():
    rows = WeightedRows(np.array([0.0, 0, 1, 1]), np.array([0.1, 0.2, 0.8, 0.9]))
    assert fit_threshold(rows, "uar") == 0.5


@pytest.mark.parametrize(
    ("column", "reason"),
    [
        ([np.nan] * 3, "validation has no label"),
        ([0] * 3, "has only absent clips"),
        ([1, 1, np.nan], "has only present clips"),
    ],
)
def test_one_class_keeps_plain_values_with_a_reason(column, reason):
    calibration = Calibration.fit(np.array(column)[:, None], np.array([[0.1], [0.7], [0.4]]), ["a"])
    assert reason in calibration.tasks["a"].reason
    assert calibration.tasks["a"].temperature == 1.0
    assert calibration.thresholds("uar", ["a"]) == [0.5]


def test_tasks_of_another_kind_are_left_alone():
    class Regression:
        name, kind = "arousal", "regression"

    tasks = ["a", Regression()]
    labels, predictions = np.array([[1, 2.5], [0, 7], [1, 8]]), np.array([[0.9, 20], [0.6, 3], [0.4, 4]])
    calibration = Calibration.fit(labels, predictions, tasks)
    assert list(calibration.tasks) == ["a"]
    np.testing.assert_array_equal(calibration.calibrate(predictions, tasks)[:, 1], predictions[:, 1])
    assert calibration.thresholds("uar", tasks)[1] == 0.5


def test_the_identity_changes_nothing():
    calibration, probabilities = Calibration.identity(["a", "b"]), np.array([[0.2, 0.7]])
    np.testing.assert_allclose(calibration.calibrate(probabilities, ["a", "b"]), probabilities)
    for criterion in ("half", *CRITERIA):
        np.testing.assert_array_equal(calibration.thresholds(criterion, ["a", "b"]), [0.5, 0.5])
    with pytest.raises(RunError, match="thresholds must be one of half, positive_f1, uar, but got 'f2'"):
        calibration.thresholds("f2", ["a"])


# -- the file


@pytest.fixture
def saved(tmp_path):
    happy = TaskCalibration(temperature=1.25, thresholds={"positive_f1": 0.3, "uar": 0.2}, rows=60)
    sad = Calibration.identity(["sad"], "validation has no label")
    Calibration.joined([Calibration({"happy": happy}), sad]).save(tmp_path)
    return tmp_path


def test_save_and_load(saved):
    calibration = Calibration.load(saved)
    assert list(calibration.tasks) == ["happy", "sad"]
    assert Calibration.from_json(calibration.to_json(), "here") == calibration
    np.testing.assert_array_equal(calibration.thresholds("positive_f1", ["sad", "happy"]), [0.5, 0.3])
    np.testing.assert_allclose(calibration.calibrate(np.array([[0.9, 0.9]]), ["sad", "happy"])[0, 0], 0.9)
    assert json.loads((saved / "calibration.json").read_text())["fitted_on"] == "validation"


def test_an_unknown_emotion_is_refused(saved):
    with pytest.raises(RunError, match="must have every task, but 'angry' is not among happy, sad"):
        Calibration.load(saved).thresholds("uar", ["angry"])


def damage(change):
    def apply(content):
        change(content["emotions"]["happy"])
        return content

    return apply


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda content: [], "must hold a calibration"),
        (lambda content: {"emotions": []}, "must hold a calibration"),
        (lambda content: {"emotions": {"happy": 1.5}}, "happy must be settings by name, but got 1.5"),
        (damage(lambda one: one.update(words=3)), "unknown setting 'happy.words'"),
        (damage(lambda one: one.update(temperature=0)), "happy.temperature must be .* 0.05, but got 0"),
        (damage(lambda one: one.update(temperature=21)), "happy.temperature must be .* 20, but got 21"),
        (damage(lambda one: one.update(temperature="1")), "happy.temperature must be a number, but got '1'"),
        (damage(lambda one: one.update(temperature=True)), "happy.temperature must be a number, but got True"),
        (damage(lambda one: one.update(temperature=float("nan"))), "happy.temperature must be .* but got nan"),
        (damage(lambda one: one["thresholds"].update(uar=1.5)), "happy.thresholds.uar must be .* 1, but got 1.5"),
        (damage(lambda one: one.update(thresholds=[0.5])), "happy.thresholds must be"),
        (damage(lambda one: one.update(rows=1.5)), "happy.rows must be a whole number"),
        (damage(lambda one: one.update(reason=3)), "happy.reason must be text or null"),
    ],
)
def test_damaged_files(saved, change, message):
    path = saved / "calibration.json"
    path.write_text(json.dumps(change(json.loads(path.read_text()))))
    with pytest.raises(RunError, match=message) as caught:
        Calibration.load(saved)
    assert str(caught.value).startswith(str(path))


def test_missing_and_broken_files(saved):
    with pytest.raises(RunError, match="must be a readable file, but No such file"):
        Calibration.load(saved / "nowhere")
    (saved / "calibration.json").write_text("{")
    with pytest.raises(RunError, match="must be JSON"):
        Calibration.load(saved)
