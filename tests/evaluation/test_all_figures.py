import numpy as np
import pytest
from sklearn import metrics as sklearn_metrics

from lmf_multitask.errors import DataError
from lmf_multitask.evaluation.metrics import (
    all_figures,
    binary_figures,
    emotion_figures,
    exclusive_figures,
    expected_calibration_error,
    log_loss,
    reliability_bins,
)

# ../shared/FACTS.md: the only counts that give both of LMF_Paddle's published figures
LMF_PADDLE = {
    "happy": ((47, 31, 88, 772), 0.8583335303191512, 0.8731343283582089, 0.441),
    "sad": ((116, 48, 77, 697), 0.862597215789817, 0.8667377398720683, 0.650),
    "angry": ((170, 44, 57, 667), 0.8912247645604259, 0.8923240938166311, 0.771),
    "neutral": ((229, 107, 154, 448), 0.7183055564744968, 0.7217484008528785, 0.637),
}


def from_counts(tp, fp, fn, tn):
    labels = np.repeat([1, 0, 1, 0], [tp, fp, fn, tn])
    return labels, np.repeat([True, True, False, False], [tp, fp, fn, tn])


@pytest.mark.parametrize("emotion", LMF_PADDLE)
def test_recovered_counts_reproduce_the_published_pair(emotion):
    counts, weighted_f1, accuracy, positive_f1 = LMF_PADDLE[emotion]
    labels, present = from_counts(*counts)
    figures = emotion_figures(labels, present * 0.8 + 0.1)
    assert figures["weighted_f1"] == pytest.approx(weighted_f1, abs=1e-14)
    assert figures["accuracy"] == pytest.approx(accuracy, abs=1e-14)
    assert figures["positive_f1"] == pytest.approx(positive_f1, abs=5e-4)
    assert tuple(figures["confusion"].values()) == counts
    assert figures["support"] == counts[0] + counts[2]


def test_one_case_by_hand():
    labels = np.array([1, 1, 0, 0, 0, -100])
    probabilities = np.array([0.9, 0.4, 0.6, 0.2, 0.1, 0.99])
    figures = emotion_figures(labels, probabilities)
    assert figures["confusion"] == {
        "true_positive": 1,
        "false_positive": 1,
        "false_negative": 1,
        "true_negative": 2,
    }
    assert figures["precision"] == 0.5
    assert figures["recall"] == 0.5
    assert figures["uar"] == pytest.approx((1 / 2 + 2 / 3) / 2)
    assert figures["macro_f1"] == pytest.approx((1 / 2 + 4 / 6) / 2)
    assert figures["auroc"] == pytest.approx(5 / 6)  # of 2 x 3 pairs, only (0.4, 0.6) is in the wrong order
    assert figures["average_precision"] == pytest.approx(1 / 2 * 1 + 1 / 2 * 2 / 3)
    assert figures["brier"] == pytest.approx((0.01 + 0.36 + 0.36 + 0.04 + 0.01) / 5)
    assert figures["log_loss"] == pytest.approx(-np.log([0.9, 0.4, 0.4, 0.8, 0.9]).mean())
    # every probability has a bin of its own
    assert figures["ece"] == pytest.approx((0.1 + 0.6 + 0.6 + 0.2 + 0.1) / 5)
    assert "undefined" not in figures


def test_agreement_with_scikit_learn_on_random_cases():
    rng = np.random.default_rng(0)
    for _ in range(20):
        labels = rng.integers(0, 2, 60)
        probabilities = np.round(rng.uniform(size=60), 1)  # ties
        present = probabilities > 0.5
        figures = emotion_figures(labels, probabilities)
        expected = {
            "weighted_f1": sklearn_metrics.f1_score(labels, present, average="weighted"),
            "macro_f1": sklearn_metrics.f1_score(labels, present, average="macro"),
            "positive_f1": sklearn_metrics.f1_score(labels, present),
            "uar": sklearn_metrics.balanced_accuracy_score(labels, present),
            "precision": sklearn_metrics.precision_score(labels, present),
            "recall": sklearn_metrics.recall_score(labels, present),
            "accuracy": sklearn_metrics.accuracy_score(labels, present),
            "auroc": sklearn_metrics.roc_auc_score(labels, probabilities),
            "average_precision": sklearn_metrics.average_precision_score(labels, probabilities),
            "brier": sklearn_metrics.brier_score_loss(labels, probabilities),
        }
        for name, value in expected.items():
            assert figures[name] == pytest.approx(value, abs=1e-12), name


def test_calibration_error_by_hand():
    # bins [0, 0.1) and [0.7, 0.8): gaps |0.05 - 0.5| for 2 clips and |0.75 - 1| for 2
    labels, probabilities = [1, 0, 1, 1], [0.05, 0.05, 0.7, 0.8 - 1e-9]
    assert expected_calibration_error(labels, probabilities) == pytest.approx((2 * 0.45 + 2 * 0.25) / 4)
    count, mean, share = reliability_bins([1, 0], [1.0, 0.0])
    assert count.tolist() == [1, 0, 0, 0, 0, 0, 0, 0, 0, 1]
    assert mean[9] == share[9] == 1
    assert np.isnan(mean[1:9]).all()


def test_log_loss_of_a_certain_error_is_finite():
    assert log_loss([1, 0], [0.0, 0.0]) == pytest.approx(-np.log(1e-7) / 2, rel=1e-6)


@pytest.mark.parametrize(
    ("labels", "reason", "undefined"),
    [
        ([0, 0, -100], "all annotated clips are absent", {"uar", "positive_f1", "recall", "auroc"}),
        ([1, 1, -100], "all annotated clips are present", {"uar", "auroc", "average_precision", "macro_f1"}),
        ([-100, -100, -100], "no clip is annotated", {"weighted_f1", "accuracy", "brier", "ece", "log_loss"}),
    ],
)
def test_undefined_figures_are_null_with_a_reason(labels, reason, undefined):
    figures = emotion_figures(np.array(labels), np.array([0.2, 0.7, 0.5]))
    assert undefined <= set(figures["undefined"])
    assert set(figures["undefined"].values()) == {reason}
    for name in figures["undefined"]:
        assert figures[name] is None


def test_means_leave_undefined_emotions_out():
    labels = np.array([[1, 0], [0, 0], [1, 0]])
    probabilities = np.array([[0.9, 0.1], [0.2, 0.1], [0.3, 0.6]])
    figures = all_figures(labels, probabilities, ["a", "b"])
    assert figures["mean"]["auroc"] == figures["emotions"]["a"]["auroc"] == 1.0
    assert figures["mean"]["accuracy"] == pytest.approx(2 / 3)


def test_the_plain_figures_are_those_of_training():
    rng = np.random.default_rng(1)
    labels, probabilities = rng.integers(0, 2, (40, 3)), rng.uniform(size=(40, 3))
    figures = all_figures(labels, probabilities, ["a", "b", "c"])
    for t, name in enumerate("abc"):
        for figure, value in binary_figures(labels[:, t], probabilities[:, t] > 0.5).items():
            assert figures["emotions"][name][figure] == value


def test_thresholds_change_decisions_only():
    labels, probabilities = np.array([[1], [0], [1]]), np.array([[0.3], [0.1], [0.4]])
    plain = all_figures(labels, probabilities, ["a"])["emotions"]["a"]
    moved = all_figures(labels, probabilities, ["a"], [0.2])["emotions"]["a"]
    assert (plain["accuracy"], moved["accuracy"]) == (1 / 3, 1.0)
    assert plain["brier"] == moved["brier"]


# -- one of many


def test_exclusive_decision_by_hand():
    labels = np.eye(3, dtype=int)[[0, 0, 1, 2]]
    probabilities = np.array([[0.9, 0.1, 0.1], [0.4, 0.45, 0.2], [0.3, 0.6, 0.55], [0.1, 0.2, 0.3]])
    figures = exclusive_figures(labels, probabilities, ["a", "b", "c"])
    assert figures["confusion"] == [[1, 1, 0], [0, 1, 0], [0, 0, 1]]
    assert figures["weighted_accuracy"] == 0.75
    assert figures["unweighted_accuracy"] == pytest.approx((0.5 + 1 + 1) / 3)
    assert figures["macro_f1"] == pytest.approx((2 / 3 + 2 / 3 + 1) / 3)
    assert figures["heads"] == {"none_present": 0.5, "one_present": 0.25, "several_present": 0.25}
    assert figures["rows"] == 4


def test_exclusive_decision_goes_by_calibrated_probabilities():
    labels = np.eye(2, dtype=int)[[0, 1]]
    probabilities = np.array([[0.6, 0.7], [0.2, 0.9]])
    ranked = np.array([[0.7, 0.6], [0.2, 0.9]])
    assert exclusive_figures(labels, probabilities, ["a", "b"])["weighted_accuracy"] == 0.5
    assert exclusive_figures(labels, probabilities, ["a", "b"], ranked)["weighted_accuracy"] == 1.0


@pytest.mark.parametrize(
    "labels", [[[1, 1], [0, 1]], [[0, 0], [0, 1]], [[-100, 1], [1, -100]]], ids=["two", "none", "not annotated"]
)
def test_labels_that_are_not_exclusive_give_none(labels):
    assert exclusive_figures(np.array(labels), np.full((2, 2), 0.5), ["a", "b"]) is None


def test_an_emotion_that_never_occurs_leaves_ua_undefined():
    figures = exclusive_figures(np.array([[1, 0, 0], [0, 1, 0]]), np.array([[0.9, 0, 0], [0, 0.9, 0]]), list("abc"))
    assert figures["weighted_accuracy"] == 1.0
    assert figures["unweighted_accuracy"] is None
    assert figures["macro_f1"] is None


# -- errors


@pytest.mark.parametrize(
    ("labels", "probabilities", "message"),
    [
        ([[2]], [[0.5]], r"labels must be 1, 0 or -100 \(not annotated\), but got 2"),
        ([[1]], [[1.5]], r"probabilities must be from 0 to 1, but got 1.5. Give probabilities, not logits"),
        ([[1]], [[np.nan]], "probabilities must be finite"),
        ([[1, 0]], [[0.5]], r"must have the shape \[rows, 1\], but got \[1, 2\] and \[1, 1\]"),
    ],
)
def test_wrong_arrays(labels, probabilities, message):
    with pytest.raises(DataError, match=message):
        all_figures(np.array(labels), np.array(probabilities), ["a"])
