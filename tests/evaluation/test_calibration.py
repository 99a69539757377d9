import json

import numpy as np
import pytest
from sklearn.metrics import balanced_accuracy_score, f1_score

from lmf_multitask.errors import RunError
from lmf_multitask.evaluation.calibration import CRITERIA, Calibration, TaskCalibration, fit_threshold
from lmf_multitask.evaluation.stacking import Weights
from lmf_multitask.tasks import BinaryTask, RegressionTask


def sigmoid(x):
    return 1 / (1 + np.exp(-x))


def metric_of(labels, present, criterion):
    if criterion == "uar":
        return balanced_accuracy_score(labels, present)
    return f1_score(labels, present, average="weighted" if criterion == "weighted_f1" else "binary", zero_division=0)


@pytest.mark.parametrize("criterion", CRITERIA)
def test_threshold_is_the_best_of_all(criterion):
    rng = np.random.default_rng(2)
    for trial in range(10):
        labels = np.arange(40) % 4 == 0
        probabilities = np.round(sigmoid(labels * 1.0 - 1 + rng.normal(size=40)), 1 + trial % 3)
        threshold = fit_threshold(labels, probabilities, criterion)
        every = [0.0, *np.unique(probabilities)]  # others decide as one of these
        best = max(metric_of(labels, probabilities > c, criterion) for c in every)
        assert metric_of(labels, probabilities > threshold, criterion) == pytest.approx(best)


def test_of_equal_thresholds_one_half_wins():
    assert fit_threshold(np.array([0.0, 0, 1, 1]), np.array([0.1, 0.2, 0.8, 0.9]), "uar") == 0.5


@pytest.mark.parametrize("criterion", CRITERIA)
def test_the_expected_threshold_is_that_of_many_labels(criterion):
    """Drawn again and again with these probabilities, labels give the same threshold; UAR's is the share of present."""
    rng = np.random.default_rng(3)
    probabilities = np.round(sigmoid(1.5 * rng.normal(size=60) - 1), 3)
    many = np.tile(probabilities, 2000)
    drawn = (rng.uniform(size=many.shape) < many).astype(float)
    expected = fit_threshold(probabilities, probabilities, criterion)
    scores = [metric_of(drawn, many > limit, criterion) for limit in (expected, fit_threshold(drawn, many, criterion))]
    assert scores[0] == pytest.approx(scores[1], abs=2e-3)
    if criterion == "uar":
        below, above = probabilities[probabilities <= expected].max(), probabilities[probabilities > expected].min()
        assert below <= probabilities.mean() <= above


def test_expected_thresholds_do_not_look_at_labels():
    rng = np.random.default_rng(4)
    probabilities = sigmoid(rng.normal(size=(50, 1)) - 1)
    labels = [(rng.uniform(size=(50, 1)) < share).astype(float) for share in (0.2, 0.6)]
    fits = [Calibration.fit(one, probabilities, ["a"], expected=True).tasks["a"].thresholds for one in labels]
    assert fits[0] == fits[1] != Calibration.fit(labels[0], probabilities, ["a"]).tasks["a"].thresholds
    (task,) = Calibration.fit(labels[0], probabilities, ["a"], expected=True).decided([BinaryTask("a")])
    assert task.threshold == fits[0]["weighted_f1"]


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
    assert calibration.thresholds("uar", ["a"]) == [0.5]


def test_tasks_of_another_kind_are_left_alone():
    tasks = [BinaryTask("a"), RegressionTask("arousal")]
    labels, predictions = np.array([[1, 2.5], [0, 7], [1, 8]]), np.array([[0.9, 20], [0.6, 3], [0.4, 4]])
    calibration = Calibration.fit(labels, predictions, tasks)
    assert list(calibration.tasks) == ["a"]
    assert calibration.thresholds("uar", tasks)[1] == 0.5
    assert calibration.decided(tasks)[1] is tasks[1]


def test_criteria():
    calibration, tasks = Calibration.identity(["a", "b"]), [BinaryTask("a", 0.3), BinaryTask("b")]
    for criterion in ("half", *CRITERIA):
        np.testing.assert_array_equal(calibration.thresholds(criterion, tasks), [0.5, 0.5])
    np.testing.assert_array_equal(calibration.thresholds("own", tasks), [0.3, 0.5])
    with pytest.raises(
        RunError, match="thresholds must be one of own, half, weighted_f1, positive_f1, uar, but got 'f2'"
    ):
        calibration.thresholds("f2", tasks)


# -- the file


@pytest.fixture
def saved(tmp_path):
    happy = TaskCalibration(thresholds={"positive_f1": 0.3, "uar": 0.2}, rows=60)
    sad = Calibration.identity(["sad"], "validation has no label")
    weights = {"happy": Weights(network=0.4, linear=0.6, labels=60)}
    Calibration.joined([Calibration({"happy": happy}, weights=weights), sad]).save(tmp_path)
    return tmp_path


def test_save_and_load(saved):
    calibration = Calibration.load(saved)
    assert list(calibration.tasks) == ["happy", "sad"]
    assert Calibration.from_json(calibration.to_json(), "here") == calibration
    np.testing.assert_array_equal(calibration.thresholds("positive_f1", ["sad", "happy"]), [0.5, 0.3])
    assert calibration.weights["happy"].linear == 0.6
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
        (damage(lambda one: one["thresholds"].update(uar="1")), "happy.thresholds.uar must be a number, but got '1'"),
        (damage(lambda one: one["thresholds"].update(uar=True)), "happy.thresholds.uar must be a number, but got True"),
        (damage(lambda one: one["thresholds"].update(uar=float("nan"))), "happy.thresholds.uar must be .* but got nan"),
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
