import math

import numpy as np
import pytest
from scipy import stats
from sklearn.metrics import f1_score

from lmf_multitask.errors import DataError
from lmf_multitask.evaluation import statistics
from lmf_multitask.evaluation.metrics import METRICS, exclusive_metrics, metrics_of
from lmf_multitask.evaluation.statistics import (
    bootstrap,
    bootstrap_weights,
    holm,
    interval,
    intervals_of,
    mcnemar_exact,
    paired_differences,
    seed_summary,
    t_interval,
)


def made_up(rows=300, tasks=3, seed=0, shares=0.3):
    rng = np.random.default_rng(seed)
    labels = (rng.uniform(size=(rows, tasks)) < shares).astype(float)
    scores = labels * 1.5 + rng.normal(size=labels.shape)
    return labels, np.round(1 / (1 + np.exp(-scores + 0.9)), 2)  # rounded: ties


def intervals(labels, probabilities, tasks, **settings):
    return intervals_of(bootstrap(labels, {"model": probabilities}, tasks, **settings)["model"], tasks)


def differences(labels, first, second, **settings):
    tasks = [f"task{t}" for t in range(labels.shape[1])]
    drawn = bootstrap(labels, {"first": first, "second": second}, tasks, **settings)
    return paired_differences(drawn["first"], drawn["second"])


# -- weights


def test_each_resample_has_as_many_rows():
    labels, _ = made_up()
    weights = bootstrap_weights(labels, 50, seed=3)
    assert weights.shape == (50, 300)
    np.testing.assert_array_equal(weights.sum(axis=1), 300)
    np.testing.assert_array_equal(weights, bootstrap_weights(labels, 50, seed=3))
    assert (weights != bootstrap_weights(labels, 50, seed=4)).any()


def test_plain_resampling_where_classes_are_large():
    labels, _ = made_up(tasks=1)
    present = (bootstrap_weights(labels, 2000) @ labels[:, 0]).astype(float)
    share = labels.mean()
    assert present.std() == pytest.approx(math.sqrt(300 * share * (1 - share)), rel=0.06)  # binomial


def test_a_rare_class_is_in_every_resample():
    labels = np.zeros((200, 2))
    labels[:2, 0] = 1
    labels[:90, 1] = 1
    weights = bootstrap_weights(labels, 500)
    rare = weights @ labels[:, 0]
    assert rare.min() == 1
    assert rare.max() > 4  # the number still varies
    np.testing.assert_array_equal(weights.sum(axis=1), 200)
    assert (weights @ labels[:, 1]).std() > 5


def test_many_rare_classes_are_kept_by_strata():
    labels = np.zeros((60, 12))
    labels[np.arange(12), np.arange(12)] = 1  # all twelve are drawn by chance once in 250 times
    weights = bootstrap_weights(labels, 300)
    assert (weights @ labels).min() == 1
    np.testing.assert_array_equal(weights.sum(axis=1), 60)


@pytest.mark.parametrize("rows", [1, 300])
def test_batches_of_resamples(monkeypatch, rows):
    labels, _ = made_up(rows=rows)
    (all_at_once,) = statistics.weight_batches(labels, 50, seed=3)
    np.testing.assert_array_equal(all_at_once, bootstrap_weights(labels, 50, seed=3))
    monkeypatch.setattr(statistics, "WEIGHTS_AT_A_TIME", 20 * rows)
    batches = list(statistics.weight_batches(labels, 50, seed=3))
    assert [len(batch) for batch in batches] == [20, 20, 10]
    np.testing.assert_array_equal(np.concatenate(batches).sum(axis=1), rows)
    if rows > 1:
        assert (batches[0][:10] != batches[2]).any()  # no batch repeats another
        assert (batches[0] != batches[1]).any()
    for batch, again in zip(batches, statistics.weight_batches(labels, 50, seed=3)):
        np.testing.assert_array_equal(batch, again)


def test_intervals_from_batches_are_as_wide(monkeypatch):
    labels, probabilities = made_up(tasks=1)
    at_once = differences(labels, np.full(labels.shape, 0.1), probabilities, resamples=4000)["accuracy"]
    monkeypatch.setattr(statistics, "WEIGHTS_AT_A_TIME", 700 * 300)
    in_batches = intervals(labels, probabilities, ["a"], resamples=4000)["mean"]["accuracy"]
    accuracy = float(((probabilities > 0.5) == labels).mean())
    spread = math.sqrt(accuracy * (1 - accuracy) / 300)  # binomial
    np.testing.assert_allclose(in_batches, [accuracy - 1.96 * spread, accuracy + 1.96 * spread], atol=0.005)
    others = differences(labels, np.full(labels.shape, 0.1), probabilities, resamples=4000)["accuracy"]
    assert others.shape == at_once.shape == (4000, 1)
    assert (others != at_once).any()
    assert others.mean() == pytest.approx(at_once.mean(), abs=0.004)
    assert others.std() == pytest.approx(at_once.std(), rel=0.06)


# -- intervals


def test_interval_agrees_with_scipy():
    labels, probabilities = made_up(tasks=1)
    ours = intervals(labels, probabilities, ["a"], resamples=4000)["emotions"]["a"]

    def weighted(rows):
        return f1_score(labels[rows, 0], probabilities[rows, 0] > 0.5, average="weighted")

    def right(rows):
        return float(((probabilities[rows, 0] > 0.5) == (labels[rows, 0] == 1)).mean())

    for key, statistic, resamples in (("accuracy", right, 4000), ("weighted_f1", weighted, 700)):
        theirs = stats.bootstrap(
            (np.arange(300),),
            statistic,
            n_resamples=resamples,
            vectorized=False,
            method="percentile",
            rng=np.random.default_rng(1),
        ).confidence_interval
        assert ours[key] == pytest.approx([theirs.low, theirs.high], abs=0.008)


def test_intervals_hold_the_values():
    rng = np.random.default_rng(0)
    labels, tasks = np.eye(4)[rng.integers(0, 4, 200)], list("abcd")
    probabilities = np.clip(labels * 0.3 + rng.uniform(size=labels.shape) * 0.7, 0, 1)
    found = intervals(labels, probabilities, tasks, resamples=500)
    metrics = metrics_of(labels, probabilities, tasks)
    for key, (low, high) in found["mean"].items():
        if key != "ece":  # resampling adds noise to its bins, so that it is larger in resamples
            assert low < metrics["mean"][key] < high, key
    exclusive = exclusive_metrics(labels, probabilities, tasks)
    assert set(found["exclusive"]) == {"weighted_accuracy", "unweighted_accuracy", "macro_f1"}
    for key, (low, high) in found["exclusive"].items():
        assert low < exclusive[key] < high
        assert high - low < 0.2


def test_labels_that_are_not_exclusive_have_no_interval_of_the_decision():
    labels, probabilities = made_up()
    drawn = bootstrap(labels, {"model": probabilities}, ["a", "b", "c"], resamples=10)["model"]
    assert set(drawn) == {name for name, metric in METRICS.items() if metric.kind == "binary"}
    assert "exclusive" not in intervals_of(drawn, ["a", "b", "c"])


def test_undefined_metrics_have_no_interval():
    labels, probabilities = made_up(tasks=2)
    labels[:, 1] = 0
    found = intervals(labels, probabilities, ["a", "b"], resamples=100)
    assert found["emotions"]["b"]["auroc"] is None
    assert found["emotions"]["b"]["accuracy"] is not None
    assert found["mean"]["auroc"] == found["emotions"]["a"]["auroc"]
    assert interval(np.array([0.1, np.nan])) is None


def test_intervals_cover_the_truth():
    """400 trials of 400 clips: presence 0.3, scores normal with means 0 and 1.5, present above 0.9."""
    trials, truth_share, distance, threshold = 400, 0.3, 1.5, 0.9
    found = stats.norm.sf(threshold - distance)
    alarms = stats.norm.sf(threshold)
    tp, fn = truth_share * found, truth_share * (1 - found)
    fp, tn = (1 - truth_share) * alarms, (1 - truth_share) * (1 - alarms)
    f1, f1_absent = 2 * tp / (2 * tp + fp + fn), 2 * tn / (2 * tn + fp + fn)
    truth = {
        "accuracy": tp + tn,
        "positive_f1": f1,
        "weighted_f1": truth_share * f1 + (1 - truth_share) * f1_absent,
        "uar": (found + 1 - alarms) / 2,
        "auroc": stats.norm.cdf(distance / math.sqrt(2)),
    }
    rng = np.random.default_rng(7)
    covered = dict.fromkeys(truth, 0)
    for trial in range(trials // 4):  # four independent emotions at a time
        labels = (rng.uniform(size=(400, 4)) < truth_share).astype(float)
        scores = rng.normal(size=labels.shape) + distance * labels
        probabilities = 1 / (1 + np.exp(threshold - scores))
        got = intervals(labels, probabilities, list("abcd"), resamples=600, seed=trial)["emotions"]
        for name, value in truth.items():
            covered[name] += sum(got[e][name][0] <= value <= got[e][name][1] for e in "abcd")
    for name, count in covered.items():
        assert 0.92 <= count / trials <= 0.98, (name, count / trials)


# -- pairs


def test_a_model_does_not_differ_from_itself():
    labels, probabilities = made_up()
    found = differences(labels, probabilities, probabilities, resamples=50)
    assert {"weighted_f1", "auroc"} <= set(found)
    for values in found.values():
        np.testing.assert_array_equal(values, 0)


def test_pairing_narrows_the_interval():
    labels, probabilities = made_up(tasks=1)
    other = probabilities.copy()
    other[:10] = 1 - other[:10]
    paired = differences(labels, probabilities, other, resamples=1000)["accuracy"][:, 0]
    changed = ((other > 0.5) == (labels == 1)).mean() - ((probabilities > 0.5) == (labels == 1)).mean()
    assert paired.mean() == pytest.approx(changed, abs=0.003)
    # only 10 of 300 rows differ, each by one error
    assert paired.std() == pytest.approx(math.sqrt((10 / 300 - changed**2) / 300), rel=0.15)


@pytest.mark.parametrize(("b", "c"), [(3, 12), (0, 5), (7, 7), (1, 0), (20, 35)])
def test_mcnemar_by_hand(b, c):
    first = np.array([True] * b + [False] * c + [True] * 9 + [False] * 4)
    second = np.array([False] * b + [True] * c + [True] * 9 + [False] * 4)
    n, smaller = b + c, min(b, c)
    tail = sum(math.comb(n, k) for k in range(smaller + 1)) / 2**n
    assert mcnemar_exact(first, second) == (b, c, pytest.approx(min(1.0, 2 * tail)))


def test_mcnemar_without_disagreement():
    assert mcnemar_exact([True, False], [True, False]) == (0, 0, 1.0)


def test_holm_by_hand():
    # sorted: 0.005 x 4, 0.01 x 3, 0.03 x 2, then 0.04 x 1, not below the one before
    assert holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert holm([0.6, 0.9]) == [1.0, 1.0]
    assert holm([]) == []


# -- seeds


def test_t_interval_by_hand():
    found = t_interval([1, 2, 3, 4, 5])
    assert found["mean"] == 3
    assert found["sd"] == pytest.approx(1.5811388)
    assert found["interval"] == pytest.approx([3 - 1.9632432, 3 + 1.9632432])  # 2.7764451 sd / sqrt(5)
    assert t_interval([2.5]) == {"mean": 2.5, "sd": None, "interval": None, "runs": 1}


def run_metrics(seed, f1, auroc):
    metrics = {"weighted_f1": f1, "auroc": auroc, "support": 7, "annotated": 20, "confusion": {"true_positive": 1}}
    return {"split": "test", "samples": 20, "seed": seed, "emotions": {"a": metrics}, "mean": {"weighted_f1": f1}}


def test_seed_summary():
    summary = seed_summary([run_metrics(1, 0.7, 0.8), run_metrics(2, 0.8, None), run_metrics(3, 0.9, None)])
    assert summary["seeds"] == [1, 2, 3]
    assert summary["emotions"]["a"]["weighted_f1"]["mean"] == pytest.approx(0.8)
    assert summary["emotions"]["a"]["weighted_f1"]["sd"] == pytest.approx(0.1)
    low, high = summary["mean"]["weighted_f1"]["interval"]
    assert (high - low) / 2 == pytest.approx(4.3026527 * 0.1 / math.sqrt(3))
    assert summary["emotions"]["a"]["auroc"]["runs"] == 1
    assert set(summary["emotions"]["a"]) == {"weighted_f1", "auroc"}
    assert "exclusive" not in summary


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"samples": 21}, "must have the same samples, but got 20 and 21"),
        ({"split": "validation"}, "must have the same split, but got test and validation"),
        ({"emotions": {"b": {}}}, r"must have the same emotions, but got \['a'\] and \['b'\]"),
    ],
)
def test_seeds_of_different_things_are_refused(change, message):
    with pytest.raises(DataError, match=message):
        seed_summary([run_metrics(1, 0.7, 0.8), {**run_metrics(2, 0.8, 0.8), **change}])
    with pytest.raises(DataError, match="must have at least one run"):
        seed_summary([])
