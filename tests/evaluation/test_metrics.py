"""Metrics against hand arithmetic, scikit-learn, and what LMF_Paddle published."""

import numpy as np
import pytest
import sklearn.metrics

from lmf_multitask.errors import ConfigError, DataError
from lmf_multitask.evaluation.decisions import Decisions, confidence_of, decide, exclusive_rows
from lmf_multitask.evaluation.metrics import (
    METRICS,
    Metric,
    always_absent,
    exclusive_metrics,
    find_metric,
    metrics_for,
    metrics_of,
    value_of,
    weighted_values,
)
from lmf_multitask.evaluation.weighted_rows import WeightedRows
from lmf_multitask.tasks import BinaryTask

NAN = np.nan


def one(labels, probabilities, threshold=None):
    """Metrics of one task."""
    labels, probabilities = np.array(labels, float)[:, None], np.array(probabilities, float)[:, None]
    task = BinaryTask("a") if threshold is None else BinaryTask("a", threshold)
    return metrics_of(labels, probabilities, [task])["emotions"]["a"]


def from_counts(tp, fp, fn, tn):
    return np.repeat([1, 0, 1, 0], [tp, fp, fn, tn]), np.repeat([0.9, 0.9, 0.1, 0.1], [tp, fp, fn, tn])


PUBLISHED = {
    # LMF_Paddle's README: weighted F1, accuracy; the only counts TP FP FN TN on 938 clips that give both; F1 of present
    "happy": (0.8583335303191512, 0.8731343283582089, (47, 31, 88, 772), 0.441),
    "sad": (0.862597215789817, 0.8667377398720683, (116, 48, 77, 697), 0.650),
    "angry": (0.8912247645604259, 0.8923240938166311, (170, 44, 57, 667), 0.771),
    "neutral": (0.7183055564744968, 0.7217484008528785, (229, 107, 154, 448), 0.637),
}


@pytest.mark.parametrize("emotion", PUBLISHED)
def test_reproduces_what_lmf_paddle_published(emotion):
    weighted_f1, accuracy, counts, positive_f1 = PUBLISHED[emotion]
    found = one(*from_counts(*counts))
    assert found["weighted_f1"] == pytest.approx(weighted_f1, abs=1e-14)
    assert found["accuracy"] == pytest.approx(accuracy, abs=1e-14)
    assert round(found["positive_f1"], 3) == positive_f1
    assert tuple(found["confusion"].values()) == counts
    assert (found["annotated"], found["support"]) == (938, counts[0] + counts[2])


def test_one_case_by_hand():
    found = one([1, 1, 0, 0, 0, NAN], [0.9, 0.4, 0.6, 0.2, 0.1, 0.99])
    assert list(found.pop("confusion").values()) == [1, 1, 1, 2]
    f1_present, f1_absent = 1 / 2, 4 / 6
    assert found == pytest.approx(
        {
            "weighted_f1": (2 * f1_present + 3 * f1_absent) / 5,
            "accuracy": 3 / 5,
            "positive_f1": f1_present,
            "uar": (1 / 2 + 2 / 3) / 2,
            "precision": 1 / 2,
            "recall": 1 / 2,
            "macro_f1": (f1_present + f1_absent) / 2,
            "auroc": 5 / 6,  # of 2 x 3 pairs, only (0.4, 0.6) is in the wrong order
            "average_precision": 1 / 2 * 1 + 1 / 2 * 2 / 3,
            "brier": (0.01 + 0.36 + 0.36 + 0.04 + 0.01) / 5,
            "log_loss": -np.log([0.9, 0.4, 0.4, 0.8, 0.9]).mean(),
            "ece": (0.1 + 0.6 + 0.6 + 0.2 + 0.1) / 5,  # every probability has a bin of its own
            "support": 2,
            "annotated": 5,
        }
    )


SKLEARN = {
    "weighted_f1": lambda y, p: sklearn.metrics.f1_score(y, p > 0.5, average="weighted", zero_division=0.0),
    "macro_f1": lambda y, p: sklearn.metrics.f1_score(y, p > 0.5, average="macro", zero_division=0.0),
    "positive_f1": lambda y, p: sklearn.metrics.f1_score(y, p > 0.5, zero_division=0.0),
    "uar": lambda y, p: sklearn.metrics.balanced_accuracy_score(y, p > 0.5),
    "precision": lambda y, p: sklearn.metrics.precision_score(y, p > 0.5, zero_division=0.0),
    "recall": lambda y, p: sklearn.metrics.recall_score(y, p > 0.5),
    "accuracy": lambda y, p: sklearn.metrics.accuracy_score(y, p > 0.5),
    "auroc": sklearn.metrics.roc_auc_score,
    "average_precision": sklearn.metrics.average_precision_score,
    "brier": sklearn.metrics.brier_score_loss,
    "log_loss": lambda y, p: sklearn.metrics.log_loss(y, np.clip(p, 1e-7, 1 - 1e-7)),
}


@pytest.mark.parametrize("seed", range(20))
def test_agrees_with_scikit_learn(seed):
    rng = np.random.default_rng(seed)
    labels = (rng.uniform(size=60) < rng.uniform(0.05, 0.95)).astype(int)
    labels[:2] = 0, 1
    probabilities = np.round(rng.uniform(size=60) ** rng.uniform(0.2, 5), 1)  # ties
    found = one(labels, probabilities)
    for name, expected in SKLEARN.items():
        assert found[name] == pytest.approx(expected(labels, probabilities), abs=1e-12), name


def test_every_metric_has_a_reference_value():
    assert set(SKLEARN) | {"ece"} == set(metrics_for("binary"))


def test_row_weights_count_as_repeated_rows():
    rng = np.random.default_rng(3)
    labels, probabilities = rng.integers(0, 2, 80).astype(float), np.round(rng.uniform(size=80), 2)
    labels[70:] = NAN
    weights = rng.integers(0, 4, (5, 80)).astype(np.float32)
    values = weighted_values(labels[:, None], probabilities[:, None], ["a"], weights=weights)
    for number, row in enumerate(weights[:, :70]):
        repeated = np.repeat(np.arange(70), row.astype(int))
        for name, expected in SKLEARN.items():
            theirs = expected(labels[repeated], probabilities[repeated])
            assert values[name][number, 0] == pytest.approx(theirs, abs=1e-6), name
        assert values["ece"][number, 0] == pytest.approx(
            one(labels[repeated], probabilities[repeated])["ece"], abs=1e-6
        )


def test_always_absent_on_iemocaps_test_split():
    """135, 193, 227 and 383 of 938 clips: F1 of "absent" times its share, and its share."""
    emotion = np.repeat([0, 1, 2, 3], [135, 193, 227, 383])
    found = always_absent((emotion[:, None] == np.arange(4)).astype(float), ["happy", "sad", "angry", "neutral"])
    rows = found["emotions"].values()
    assert [round(row["weighted_f1"], 3) for row in rows] == [0.790, 0.703, 0.654, 0.440]
    assert [round(row["accuracy"], 3) for row in rows] == [0.856, 0.794, 0.758, 0.592]
    assert [row["positive_f1"] for row in rows] == [0, 0, 0, 0]
    assert [row["uar"] for row in rows] == [0.5] * 4


def test_calibration_error_by_hand():
    # bins [0, 0.1) and [0.7, 0.8): gaps |0.05 - 0.5| for 2 clips and |0.75 - 1| for 2
    labels, probabilities = np.array([1.0, 0, 1, 1]), np.array([0.05, 0.05, 0.7, 0.8 - 1e-9])
    assert one(labels, probabilities)["ece"] == pytest.approx((2 * 0.45 + 2 * 0.25) / 4)


def test_calibration_error_agrees_with_scikit_learn():
    rng = np.random.default_rng(0)
    probabilities = rng.uniform(size=200)
    labels = (rng.uniform(size=200) < probabilities).astype(float)
    from sklearn.calibration import calibration_curve

    share, mean = calibration_curve(labels, probabilities, n_bins=10)
    count = np.histogram(probabilities, 10, (0, 1))[0]
    assert one(labels, probabilities)["ece"] == pytest.approx(np.abs(share - mean) @ count / 200)


def test_log_loss_of_a_certain_error_is_finite():
    assert one([1, 0], [0.0, 0.0])["log_loss"] == pytest.approx(-np.log(1e-7) / 2, rel=1e-6)


@pytest.mark.parametrize(
    ("labels", "reason", "undefined"),
    [
        ([0, 0, NAN], "all annotated clips are absent",
         {"uar", "positive_f1", "macro_f1", "precision", "recall", "auroc", "average_precision"}),
        ([1, 1, NAN], "all annotated clips are present", {"uar", "macro_f1", "auroc", "average_precision"}),
        ([NAN] * 3, "no clip is annotated", set(SKLEARN) | {"ece"}),
    ],
)  # fmt: skip
def test_undefined_metrics_are_none_with_a_reason(labels, reason, undefined):
    found = one(labels, [0.2, 0.7, 0.5])
    assert found["undefined"] == dict.fromkeys(undefined, reason)
    assert {key for key in metrics_for("binary") if found[key] is None} == undefined
    if undefined != set(SKLEARN) | {"ece"}:
        assert found["accuracy"] == 0.5


def test_several_tasks_and_their_means():
    labels = np.array([[1, 0, NAN], [0, 0, NAN], [1, 0, NAN], [0, 0, NAN]])
    probabilities = np.array([[0.9, 0.2, 0.5], [0.4, 0.5, 0.1], [0.51, 0.1, 0.9], [0.6, 0.3, 0.2]])
    found = metrics_of(labels, probabilities, ["a", "b", "c"])
    assert list(found["emotions"]) == ["a", "b", "c"]
    assert found["emotions"]["a"]["accuracy"] == 0.75
    assert found["emotions"]["b"]["accuracy"] == 1.0  # one half is not above one half
    assert found["emotions"]["c"]["accuracy"] is None
    assert found["mean"]["accuracy"] == pytest.approx((0.75 + 1.0) / 2)
    assert found["mean"]["uar"] == found["emotions"]["a"]["uar"] == 0.75
    assert set(metrics_of(np.full((2, 1), NAN), np.zeros((2, 1)), ["a"])["mean"].values()) == {None}


def test_thresholds_change_decisions_only():
    plain, moved = one([1, 0, 1], [0.3, 0.1, 0.4]), one([1, 0, 1], [0.3, 0.1, 0.4], 0.2)
    assert (plain["accuracy"], moved["accuracy"]) == (1 / 3, 1.0)
    for key in metrics_for("binary", "probability"):
        assert plain[key] == moved[key]


# -- the table


def test_every_metric_can_be_monitored():
    rng = np.random.default_rng(1)
    labels = np.eye(3)[rng.integers(0, 3, 50)]
    probabilities, tasks = rng.uniform(size=(50, 3)), ["a", "b", "c"]
    found, exclusive = metrics_of(labels, probabilities, tasks), exclusive_metrics(labels, probabilities, tasks)
    for name, metric in METRICS.items():
        if metric.kind == "regression":
            assert value_of(name, labels, probabilities, tasks) is None
            continue
        place = exclusive if metric.kind == "exclusive" else found["mean"]
        assert value_of(name, labels, probabilities, tasks) == pytest.approx(place[metric.key], abs=1e-12), name
    labels[0] = 1
    assert value_of("weighted_accuracy", labels, probabilities, tasks) is None
    with pytest.raises(ConfigError, match="got 'weighted_f2'. Did you mean 'weighted_f1'?"):
        find_metric("weighted_f2")


def test_a_metric_is_one_entry(monkeypatch):
    def mean_of_present(rows: WeightedRows):
        return rows.sum(rows.predictions * rows.labels) / rows.sum(rows.labels)

    monkeypatch.setitem(METRICS, "mine", Metric("mine", "my metric", mean_of_present, needs="probability"))
    labels, probabilities = np.array([[1.0], [0], [1], [NAN]]), np.array([[0.3], [0.1], [0.4], [0.9]])
    assert metrics_of(labels, probabilities, ["a"])["mean"]["mine"] == pytest.approx(0.35)
    assert value_of("mine", labels, probabilities, ["a"]) == pytest.approx(0.35)
    monkeypatch.setitem(METRICS, "mine", Metric("mine", "my metric", lambda rows: 0.5))
    with pytest.raises(
        ConfigError, match=r"metric 'mine' must return one number per set of row weights, \[1\], but got"
    ):
        metrics_of(labels, probabilities, ["a"])


def test_another_kind_of_task_has_metrics_of_its_own(monkeypatch):
    class Regression:
        name, kind = "arousal", "level"

    error = Metric("mae", "MAE", lambda rows: rows.mean(np.abs(rows.predictions - rows.labels)), "level", "value")
    labels, predictions = np.array([[1, 2.5], [0, NAN], [0, -1]]), np.array([[0.9, 2], [0.2, 0], [0.1, 1]])
    alone = metrics_of(labels[:, :1], predictions[:, :1], ["happy"])
    without = metrics_of(labels, predictions, ["happy", Regression()])
    assert without["emotions"]["arousal"] == {"annotated": 2}
    assert without["mean"] == alone["mean"]
    monkeypatch.setitem(METRICS, "mae", error)
    found = metrics_of(labels, predictions, ["happy", Regression()])
    assert found["emotions"] == {**alone["emotions"], "arousal": {"annotated": 2, "mae": pytest.approx(1.25)}}
    assert found["mean"] == {**alone["mean"], "mae": pytest.approx(1.25)}
    assert value_of("mae", labels, predictions, ["happy", Regression()]) == pytest.approx(1.25)


# -- the decision among exclusive tasks


def test_exclusive_decision_by_hand():
    labels = np.eye(3)[[0, 0, 1, 2]]
    probabilities = np.array([[0.9, 0.1, 0.1], [0.4, 0.45, 0.2], [0.3, 0.6, 0.55], [0.1, 0.2, 0.3]])
    found = exclusive_metrics(labels, probabilities, ["a", "b", "c"])
    assert found["confusion"] == [[1, 1, 0], [0, 1, 0], [0, 0, 1]]
    assert found["weighted_accuracy"] == 0.75
    assert found["unweighted_accuracy"] == pytest.approx((0.5 + 1 + 1) / 3)
    assert found["macro_f1"] == pytest.approx((2 / 3 + 2 / 3 + 1) / 3)
    assert found["heads"] == {"none_present": 0.5, "one_present": 0.25, "several_present": 0.25}
    assert found["rows"] == 4


def test_exclusive_decision_compares_probabilities_with_their_thresholds():
    """The first row: 0.6 is 1.2 and 1.5 times its threshold, 0.7 is 1.4 and 1.4 times."""
    labels, probabilities = np.eye(2), np.array([[0.6, 0.7], [0.2, 0.9]])
    assert exclusive_metrics(labels, probabilities, ["a", "b"])["weighted_accuracy"] == 0.5
    tasks = [BinaryTask("a", 0.4), BinaryTask("b", 0.5)]
    assert exclusive_metrics(labels, probabilities, tasks)["weighted_accuracy"] == 1.0
    given = Decisions(probabilities > 1, np.array([1, 0]))
    assert exclusive_metrics(labels, probabilities, tasks, given)["weighted_accuracy"] == 0.0
    swapped = given.select([1, 0])
    np.testing.assert_array_equal(swapped.chosen, [0, 1])
    assert (given.select([0]).chosen == [-1, 0]).all()
    assert (given.select([0]).select([0]).chosen == [-1, 0]).all()


def test_where_one_head_decides_present_it_is_the_chosen_one():
    rng = np.random.default_rng(0)
    probabilities, limits = rng.uniform(size=(200, 4)), [0.2, 0.3, 0.5, 0.9]
    found = decide(probabilities, limits, list("abcd"))
    single = found.present.sum(axis=1) == 1
    assert single.sum() > 20
    np.testing.assert_array_equal(found.present[single].argmax(axis=1), found.chosen[single])
    assert np.isfinite(decide(probabilities, [0.0, 0.3, 0.5, 0.9], list("abcd")).chosen).all()


@pytest.mark.parametrize(
    "labels", [[[1, 1], [0, 1]], [[0, 0], [0, 1]], [[NAN, 1], [1, NAN]]], ids=["two", "none", "not annotated"]
)
def test_labels_that_are_not_exclusive(labels):
    assert exclusive_rows(np.array(labels)) is None
    assert exclusive_metrics(np.array(labels), np.full((2, 2), 0.5), ["a", "b"]) is None


def test_rows_without_a_label_are_left_out_of_the_decision():
    labels = np.array([[1, 0], [NAN, 1], [0, 1]])
    np.testing.assert_array_equal(exclusive_rows(labels), [True, False, True])
    found = exclusive_metrics(labels, np.array([[0.9, 0.1], [0.9, 0.1], [0.9, 0.1]]), ["a", "b"])
    assert (found["rows"], found["weighted_accuracy"]) == (2, 0.5)


def test_a_task_that_never_occurs_leaves_ua_undefined():
    found = exclusive_metrics(np.array([[1.0, 0, 0], [0, 1, 0]]), np.array([[0.9, 0, 0], [0, 0.9, 0]]), list("abc"))
    assert found["weighted_accuracy"] == 1.0
    assert found["unweighted_accuracy"] is found["macro_f1"] is None


def test_the_decision_has_the_probability_of_a_softmax_over_heads():
    logits = np.random.default_rng(0).normal(scale=3, size=(20, 4))
    number = logits.argmax(axis=1)
    probability = confidence_of(1 / (1 + np.exp(-logits)), number)
    softmax = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    np.testing.assert_allclose(probability, softmax.max(axis=1))
    assert np.isfinite(confidence_of(np.array([[0.0, 0.0], [1.0, 1.0]]), np.array([0, 1]))).all()


# -- errors


@pytest.mark.parametrize(
    ("labels", "probabilities", "message"),
    [
        ([[2]], [[0.5]], r"labels must be 1, 0 or NaN \(not annotated\), but got 2"),
        ([[-100]], [[0.5]], r"labels must be 1, 0 or NaN \(not annotated\), but got -100"),
        ([[1]], [[1.5]], r"probabilities must be from 0 to 1, but got 1.5. Give probabilities, not logits"),
        ([[1]], [[NAN]], "predictions must be finite, but some are NaN or infinite"),
        ([[1, 0]], [[0.5]], r"must have the shape \[rows, 1\], but got \[1, 2\] and \[1, 1\]"),
    ],
)
def test_wrong_arrays(labels, probabilities, message):
    with pytest.raises(DataError, match=message):
        metrics_of(np.array(labels), np.array(probabilities), ["a"])
