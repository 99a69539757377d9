"""Weights of network and linear model against scikit-learn and a grid."""

import numpy as np
import pytest
from sklearn.linear_model import LogisticRegression

from lmf_multitask.evaluation.stacking import PRIOR, STRENGTH, fit_weights
from lmf_multitask.tasks import BinaryTask, RegressionTask, Task


def sigmoid(x):
    return 1 / (1 + np.exp(-x))


def drawn(rows, tasks, a, b, seed=0):
    """Labels that follow the log-odds a * network + b * linear."""
    rng = np.random.default_rng(seed)
    scores = rng.normal(size=(2, rows, tasks))
    labels = (rng.uniform(size=(rows, tasks)) < sigmoid(a * scores[0] + b * scores[1])).astype(float)
    return labels, sigmoid(scores[0]), sigmoid(scores[1])


TASKS = [BinaryTask("a"), BinaryTask("b"), BinaryTask("c")]


def test_the_weights_that_the_labels_were_drawn_with_are_found():
    found = fit_weights(*drawn(100_000, 3, 0.4, 0.9), TASKS)["binary"]
    assert (found.network, found.linear) == (pytest.approx(0.4, abs=0.02), pytest.approx(0.9, abs=0.02))
    assert found.labels == 300_000


def test_one_weight_for_all_tasks_as_scikit_learn_has_it():
    """Of many clips the pull to one half does not count; C is that of no penalty."""
    labels, network, linear = drawn(100_000, 3, 1.5, 0.2)
    scores = np.stack([np.log(p / (1 - p)).ravel() for p in (network, linear)], axis=1)
    theirs = LogisticRegression(C=1e9, fit_intercept=False, tol=1e-8).fit(scores, labels.ravel()).coef_[0]
    found = fit_weights(labels, network, linear, TASKS)["binary"]
    np.testing.assert_allclose([found.network, found.linear], theirs, atol=0.03)


@pytest.mark.parametrize("kind", ["binary", "regression"])
def test_few_labels_stay_near_one_half(kind):
    """The minimum of loss plus penalty, found on a grid."""
    rng = np.random.default_rng(5)
    network, linear = rng.uniform(0.1, 0.9, (2, 8, 1))
    labels = (rng.uniform(size=(8, 1)) < 0.5).astype(float)
    task = BinaryTask("a") if kind == "binary" else RegressionTask("a", mean=0.5, std=0.25)
    x, y, target = ((v - 0.5) / 0.25 for v in (network, linear, labels))
    if kind == "binary":
        x, y = (np.log(p / (1 - p)) for p in (network, linear))
    found = fit_weights(labels, network, linear, [task])[kind]

    def cost(a, b):
        score = a * x + b * y
        each = np.logaddexp(0, score) - labels * score if kind == "binary" else (score - target) ** 2 / 2
        return each.sum() + STRENGTH * ((a - PRIOR) ** 2 + (b - PRIOR) ** 2)

    grid = np.linspace(0, 1.5, 301)
    a, b = min(((a, b) for a in grid for b in grid), key=lambda pair: cost(*pair))
    assert (found.network, found.linear) == (pytest.approx(a, abs=0.006), pytest.approx(b, abs=0.006))


def test_a_model_that_predicts_the_opposite_gets_no_weight():
    labels, network, linear = drawn(2000, 3, 2.0, -1.0)
    found = fit_weights(labels, network, linear, TASKS)["binary"]
    assert found.linear == 0 and found.network > 1


def test_labels_that_are_missing_do_not_count():
    labels, network, linear = drawn(300, 3, 0.4, 0.9)
    labels[:, 1], network[:, 1] = np.nan, 0.99
    kept = fit_weights(labels[:, [0, 2]], network[:, [0, 2]], linear[:, [0, 2]], TASKS[:2])["binary"]
    found = fit_weights(labels, network, linear, TASKS)["binary"]
    assert found.labels == kept.labels == 600
    np.testing.assert_allclose([found.network, found.linear], [kept.network, kept.linear], atol=0.02)
    none = fit_weights(np.full((4, 1), np.nan), network[:4, :1], linear[:4, :1], TASKS[:1])["binary"]
    assert (none.network, none.linear, none.labels) == (PRIOR, PRIOR, 0)


def test_kinds_have_weights_of_their_own_and_kinds_without_a_score_none():
    class Count(Task):
        kind, outputs = "count", 1

    rng = np.random.default_rng(6)
    values = rng.normal(size=(400, 1)) * 2 + 3
    labels, network, linear = drawn(400, 2, 1.0, 0.0)
    tasks = [BinaryTask("a"), RegressionTask("v", mean=3.0, std=2.0), Count("c")]
    stack = [np.concatenate([one[:, :1], value, one[:, 1:]], axis=1) for one, value in
             zip((labels, network, linear), (values, values + 0.1 * rng.normal(size=values.shape), values[::-1]))]  # fmt: skip
    found = fit_weights(*stack, tasks)
    assert list(found) == ["binary", "regression"]
    assert found["regression"].network == pytest.approx(1, abs=0.05) and found["regression"].linear < 0.05
