"""Kinds of tasks: losses and their gradients against float64 arithmetic, predictions, descriptions."""

import numpy as np
import paddle
import pytest
from scipy.special import huber, logit

from lmf_multitask.errors import ConfigError
from lmf_multitask.tasks import CRITERIA, BinaryTask, RegressionTask, make_tasks, predictions, task_from

NAN = np.nan
OUTPUTS = np.random.default_rng(0).normal(size=(7, 1))
LABELS = np.array([2.0, NAN, -1.0, 0.5, 4.0, 3.0, NAN])
KNOWN = ~np.isnan(LABELS)


def task(criterion="l1", **changes):
    return RegressionTask("valence", **{"criterion": criterion, "mean": 1.5, "std": 2.0, **changes})


def by_hand(criterion, outputs):
    """The sum over annotated clips, in float64."""
    x, z = outputs[KNOWN, 0], (LABELS[KNOWN] - 1.5) / 2
    if criterion == "ccc":
        top = 2 * np.mean((x - x.mean()) * (z - z.mean()))
        return KNOWN.sum() * (1 - top / (x.var() + z.var() + (x.mean() - z.mean()) ** 2))
    return {"l1": np.abs(x - z), "mse": (x - z) ** 2, "huber": huber(1.0, x - z)}[criterion].sum()


@pytest.mark.parametrize("criterion", CRITERIA)
def test_losses_and_gradients(criterion):
    outputs = paddle.to_tensor(OUTPUTS.astype("f4"), stop_gradient=False)
    each = task(criterion).loss(outputs, paddle.to_tensor(LABELS.astype("f4")))
    np.testing.assert_array_equal(each.numpy()[~KNOWN], 0)
    assert float(each.sum()) == pytest.approx(by_hand(criterion, OUTPUTS), rel=1e-5)
    each.sum().backward()
    numerical = np.zeros(7)
    for row in range(7):
        shift = np.zeros((7, 1))
        shift[row] = 1e-6
        numerical[row] = (by_hand(criterion, OUTPUTS + shift) - by_hand(criterion, OUTPUTS - shift)) / 2e-6
    np.testing.assert_allclose(outputs.grad.numpy()[:, 0], numerical, atol=2e-5)


@pytest.mark.parametrize("criterion", CRITERIA)
def test_a_batch_that_says_nothing_has_no_loss_and_no_gradient(criterion):
    outputs = paddle.to_tensor(OUTPUTS.astype("f4"), stop_gradient=False)
    each = task(criterion).loss(outputs, paddle.full([7], NAN))
    each.sum().backward()
    assert float(each.sum()) == 0
    np.testing.assert_array_equal(outputs.grad.numpy(), 0)


def test_tasks_of_a_family_are_computed_together():
    others = [task(), RegressionTask("arousal", mean=-1.0, std=0.5), RegressionTask("dominance", range=(0, 1))]
    assert len({one.family for one in others}) == 1
    assert task("ccc").family != task().family
    for criterion in CRITERIA:
        tasks = [RegressionTask(one.name, criterion, one.mean, one.std) for one in others]
        outputs = paddle.to_tensor(np.random.default_rng(1).normal(size=(7, 3)).astype("f4"))
        labels = paddle.to_tensor(
            np.stack([LABELS, LABELS[::-1], np.where(KNOWN, LABELS + 1, NAN)], axis=1).astype("f4")
        )
        together = RegressionTask.losses(tasks, outputs, labels).numpy()
        for t, one in enumerate(tasks):
            alone = one.loss(outputs[:, t : t + 1], labels[:, t]).numpy()
            np.testing.assert_allclose(together[:, t], alone, rtol=1e-6)


@pytest.mark.parametrize("one", [BinaryTask("happy"), *(task(criterion) for criterion in CRITERIA)], ids=str)
def test_the_best_constant_loses_least(one):
    known = np.array([1, 1, 0, 1], "f4") if one.kind == "binary" else LABELS[KNOWN].astype("f4")

    def loss(outputs):
        rows = paddle.to_tensor(np.tile(np.asarray(outputs, "f4"), (len(known), 1)))
        return float(one.loss(rows, paddle.to_tensor(known)).mean())

    best = one.constant(known)
    for change in (-0.2, 0.2):
        moved = best.copy()
        moved[-1] += change
        assert loss(best) <= loss(moved) + 1e-6


def test_predictions_are_in_the_unit_of_the_labels():
    outputs = np.array([[0.0, 1.0, -1.0], [1.0, 0.0, 4.0]])
    tasks = [BinaryTask("happy"), task(range=(0.0, 5.0))]
    np.testing.assert_allclose(
        predictions(outputs, tasks), [[1 / (1 + np.e**-1), 0.0], [1 / (1 + np.e), 5.0]], rtol=1e-6
    )
    np.testing.assert_allclose(tasks[1].exported(paddle.to_tensor([[-1.0], [1.0], [4.0]])).numpy(), [[0], [3.5], [5]])
    np.testing.assert_allclose(task().predict(np.array([[4.0]])), [9.5])


def test_a_description_brings_the_same_task_back():
    for one in (BinaryTask("happy", 0.3), task("ccc", range=(1, 7))):
        assert task_from(one.to_dict()) == one
    assert BinaryTask("happy").to_dict() == {"name": "happy", "kind": "binary", "threshold": 0.5}


def test_a_threshold_is_a_probability():
    for value in (-0.1, 1.1, NAN):
        with pytest.raises(ConfigError, match="the threshold of happy must be from 0 to 1, but got"):
            BinaryTask("happy", value)
    assert BinaryTask("happy", 0.2).family == BinaryTask("sad", 0.7).family


def test_scores():
    """Log-odds of present; values in units of the std around the mean: what the direction of the outputs adds to them."""
    probabilities = np.array([0.1, 0.5, 0.8, 1.0])
    scores = BinaryTask("happy", 0.3).score(probabilities)
    np.testing.assert_allclose(scores[:3], logit(probabilities[:3]), atol=1e-12)
    assert 15 < scores[3] < 17  # certain, but finite
    for one, found in ((BinaryTask("happy"), scores[:3]), (task(), task().score(LABELS[KNOWN]))):
        outputs = found[:, None] * one.direction
        expected = probabilities[:3] if one.kind == "binary" else LABELS[KNOWN]
        np.testing.assert_allclose(one.predict(outputs), expected, rtol=1e-6)


def test_names_with_kinds():
    found = make_tasks(["happy", "valence:regression", "sentiment:regression:-3:3", "positive:above:sentiment:0.5"])
    assert found == [
        BinaryTask("happy"),
        RegressionTask("valence"),
        RegressionTask("sentiment", range=(-3.0, 3.0)),
        BinaryTask("positive"),
    ]


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"criterion": "l2"}, "the loss of valence must be one of l1, mse, huber, ccc, but got 'l2'"),
        ({"std": 0.0}, "mean and std of valence must be finite, and std above 0"),
        ({"mean": NAN}, "mean and std of valence must be finite"),
        ({"range": [3, 1]}, "the range of valence must be two numbers, the lower first"),
        ({"range": [3]}, "the task valence must have values of the right types"),
        ({"mean": "x"}, "the task valence must have values of the right types"),
        ({"colour": 1}, "the task valence must have criterion, mean, range, std, but has"),
        ({"kind": "real"}, "the kind of task valence must be one of binary, regression, but got 'real'"),
        ({"name": "../x"}, "the name of a task must consist of"),
    ],
)
def test_wrong_descriptions(values, message):
    with pytest.raises(ConfigError, match=message):
        task_from({**task().to_dict(), **values})
