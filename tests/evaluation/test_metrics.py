"""Figures against hand arithmetic, scikit-learn, and what LMF_Paddle published."""

import numpy as np
import pytest
import sklearn.metrics

from lmf_multitask.errors import DataError
from lmf_multitask.evaluation.metrics import (
    FIGURES,
    always_absent,
    binary_figures,
    multitask_figures,
    present_probability,
)


def from_counts(tp, fp, fn, tn):
    labels = np.array([1] * tp + [0] * fp + [1] * fn + [0] * tn)
    present = np.array([True] * (tp + fp) + [False] * (fn + tn))
    return labels, present


def test_by_hand():
    # 3 true and 1 false positive, 2 missed, 4 rightly absent
    figures = binary_figures(*from_counts(3, 1, 2, 4))
    f1_present, f1_absent = 2 * 3 / (2 * 3 + 1 + 2), 2 * 4 / (2 * 4 + 2 + 1)
    assert figures == pytest.approx(
        {
            "weighted_f1": (5 * f1_present + 5 * f1_absent) / 10,
            "accuracy": 0.7,
            "positive_f1": f1_present,
            "uar": (3 / 5 + 4 / 5) / 2,
            "support": 5,
            "annotated": 10,
        }
    )


PUBLISHED = {
    # LMF_Paddle's README: weighted F1, accuracy; the only counts TP FP FN TN on 938 clips that give both
    "happy": (0.8583335303191512, 0.8731343283582089, (47, 31, 88, 772)),
    "sad": (0.862597215789817, 0.8667377398720683, (116, 48, 77, 697)),
    "angry": (0.8912247645604259, 0.8923240938166311, (170, 44, 57, 667)),
    "neutral": (0.7183055564744968, 0.7217484008528785, (229, 107, 154, 448)),
}


@pytest.mark.parametrize("emotion", PUBLISHED)
def test_reproduces_what_lmf_paddle_published(emotion):
    weighted_f1, accuracy, counts = PUBLISHED[emotion]
    figures = binary_figures(*from_counts(*counts))
    assert figures["annotated"] == 938
    assert figures["weighted_f1"] == pytest.approx(weighted_f1, abs=1e-12)
    assert figures["accuracy"] == pytest.approx(accuracy, abs=1e-12)


def test_positive_f1_of_the_published_counts():
    found = [binary_figures(*from_counts(*counts))["positive_f1"] for _, _, counts in PUBLISHED.values()]
    assert [round(value, 3) for value in found] == [0.441, 0.650, 0.771, 0.637]


def test_always_absent_on_iemocaps_test_split():
    """135, 193, 227 and 383 of 938 clips: F1 of "absent" times its share, and its share."""
    emotion = np.repeat([0, 1, 2, 3], [135, 193, 227, 383])
    figures = always_absent((emotion[:, None] == np.arange(4)).astype(int), ["happy", "sad", "angry", "neutral"])
    rows = figures["emotions"].values()
    assert [round(row["weighted_f1"], 3) for row in rows] == [0.790, 0.703, 0.654, 0.440]
    assert [round(row["accuracy"], 3) for row in rows] == [0.856, 0.794, 0.758, 0.592]
    assert [row["positive_f1"] for row in rows] == [0, 0, 0, 0]
    assert [row["uar"] for row in rows] == [0.5] * 4


@pytest.mark.parametrize("seed", range(20))
def test_agrees_with_scikit_learn(seed):
    rng = np.random.default_rng(seed)
    labels = (rng.uniform(size=60) < rng.uniform(0.05, 0.95)).astype(int)
    labels[:2] = 0, 1
    present = rng.uniform(size=60) < rng.uniform(0.05, 0.95)
    figures = binary_figures(labels, present)
    zero = {"zero_division": 0.0}
    assert figures["weighted_f1"] == pytest.approx(
        sklearn.metrics.f1_score(labels, present, average="weighted", **zero)
    )
    assert figures["positive_f1"] == pytest.approx(sklearn.metrics.f1_score(labels, present, **zero))
    assert figures["accuracy"] == pytest.approx(sklearn.metrics.accuracy_score(labels, present))
    assert figures["uar"] == pytest.approx(sklearn.metrics.balanced_accuracy_score(labels, present))


def test_unannotated_rows_are_left_out():
    labels, present = from_counts(3, 1, 2, 4)
    mixed = np.concatenate([labels, [-100] * 7])
    assert binary_figures(mixed, np.concatenate([present, [True] * 7])) == binary_figures(labels, present)


def test_what_is_undefined_is_none():
    nothing = binary_figures([-100, -100], [True, False])
    assert {name: nothing[name] for name in FIGURES} == dict.fromkeys(FIGURES)
    assert (nothing["support"], nothing["annotated"]) == (0, 0)
    absent = binary_figures([0, 0, 0], [False, True, False])
    assert absent["uar"] is None
    assert absent["positive_f1"] is None
    assert absent["accuracy"] == pytest.approx(2 / 3)
    assert absent["weighted_f1"] == pytest.approx(4 / 5)
    present = binary_figures([1, 1], [True, False])
    assert present["uar"] is None
    assert present["positive_f1"] == present["weighted_f1"] == pytest.approx(2 / 3)


def test_several_emotions_and_their_means():
    labels = np.array([[1, 0, -100], [0, 0, -100], [1, 0, -100], [0, 0, -100]])
    probabilities = np.array([[0.9, 0.2, 0.5], [0.4, 0.5, 0.1], [0.51, 0.1, 0.9], [0.6, 0.3, 0.2]])
    figures = multitask_figures(labels, probabilities, ["a", "b", "c"])
    assert list(figures["emotions"]) == ["a", "b", "c"]
    assert figures["emotions"]["a"]["accuracy"] == 0.75
    assert figures["emotions"]["b"]["accuracy"] == 1.0  # one half is not above one half
    assert figures["emotions"]["c"]["accuracy"] is None
    assert figures["mean"]["accuracy"] == pytest.approx((0.75 + 1.0) / 2)
    assert figures["mean"]["uar"] == figures["emotions"]["a"]["uar"] == 0.75
    assert multitask_figures(np.full((2, 1), -100), np.zeros((2, 1)), ["a"])["mean"] == dict.fromkeys(FIGURES)


def test_wrong_shapes_and_numbers():
    with pytest.raises(DataError, match=r"must have one shape \[rows\], but got \[3\] and \[2\]"):
        binary_figures([1, 0, 1], [True, False])
    with pytest.raises(DataError, match=r"must have the shape \[rows, 2\], but got \[3, 1\] and \[3, 1\]"):
        multitask_figures(np.zeros((3, 1), int), np.zeros((3, 1)), ["a", "b"])
    with pytest.raises(DataError, match="probabilities must be finite, but some are NaN or infinite"):
        multitask_figures(np.zeros((2, 1), int), np.array([[0.5], [np.nan]]), ["a"])


def test_probability_is_the_softmax():
    logits = np.random.default_rng(0).normal(scale=5, size=(50, 3, 2))
    expected = np.exp(logits[..., 1]) / np.exp(logits).sum(axis=-1)
    got = present_probability(logits.astype("float32"))
    assert got.dtype == np.float32
    np.testing.assert_allclose(got, expected, rtol=1e-5, atol=1e-7)
    np.testing.assert_array_equal(present_probability(np.array([[1e4, -1e4], [-1e4, 1e4], [3.0, 3.0]])), [0, 1, 0.5])
