import json
import subprocess
import sys

import numpy as np
import pytest

from lmf_multitask import evaluate_predictions
from lmf_multitask.errors import DataError
from lmf_multitask.evaluation.assessment import assess
from lmf_multitask.evaluation.metrics import metrics_for

SMALL = {"resamples": 200}


def exclusive_predictions(rows=120, seed=0, skill=2.0):
    rng = np.random.default_rng(seed)
    labels = np.eye(4)[rng.integers(0, 4, rows)]
    return labels, 1 / (1 + np.exp(1 - skill * labels - rng.normal(size=labels.shape)))


def test_no_paddle_is_imported():
    code = """
import sys, numpy as np
from lmf_multitask import evaluate_predictions
evaluate_predictions(np.array([[1, 0], [0, 1], [0, 1]]), np.array([[.9, .2], [.4, .7], [.6, .6]]), resamples=50)
print(sorted(name for name in sys.modules if name.split('.')[0] in ('paddle', 'paddlenlp', 'datasets', 'torch')))
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "[]"


def test_metrics_keep_the_documented_keys():
    labels, probabilities = exclusive_predictions()
    found = evaluate_predictions(labels, probabilities, ["happy", "sad", "angry", "neutral"], **SMALL)
    metrics = json.loads(json.dumps(found.metrics))  # plain JSON
    assert (metrics["split"], metrics["samples"]) == ("test", 120)
    for key in ("weighted_f1", "accuracy", "positive_f1", "uar", "support"):
        assert key in metrics["emotions"]["happy"]
    assert metrics["mean"]["uar"] == pytest.approx(np.mean([one["uar"] for one in metrics["emotions"].values()]))
    assert "calibration" not in metrics
    low, high = metrics["intervals"]["emotions"]["sad"]["weighted_f1"]
    assert low < metrics["emotions"]["sad"]["weighted_f1"] < high


def test_validation_gives_calibration_and_thresholds():
    labels, probabilities = exclusive_predictions()
    held_out, their_probabilities = exclusive_predictions(200, 1)
    found = evaluate_predictions(
        labels, probabilities, validation_labels=held_out, validation_probabilities=their_probabilities, **SMALL
    )
    assert found.emotions == ["task1", "task2", "task3", "task4"]
    assert set(found.metrics["thresholds"]) == {"half", "weighted_f1", "positive_f1", "uar"}
    threshold = found.metrics["calibration"]["emotions"]["task2"]["thresholds"]["uar"]
    decided = probabilities[:, 1] > threshold
    expected = (decided[labels[:, 1] == 1].mean() + (~decided[labels[:, 1] == 0]).mean()) / 2
    assert found.metrics["thresholds"]["uar"]["emotions"]["task2"]["uar"] == pytest.approx(expected)


def test_test_labels_change_no_threshold():
    labels, probabilities = exclusive_predictions()
    held_out = dict(zip(("validation_labels", "validation_probabilities"), exclusive_predictions(200, 1)))
    one = evaluate_predictions(labels, probabilities, **held_out, **SMALL)
    other = evaluate_predictions(labels[::-1], probabilities, **held_out, **SMALL)
    assert one.calibration == other.calibration
    assert one.metrics["mean"]["accuracy"] != other.metrics["mean"]["accuracy"]


def test_unannotated_and_one_class_emotions():
    nan = np.nan
    labels = np.array([[1, 0, nan], [0, 0, nan], [1, nan, nan], [0, 0, nan]])
    found = evaluate_predictions(labels, np.full((4, 3), 0.3), ["a", "b", "c"], **SMALL)
    assert found.metrics["emotions"]["b"]["uar"] is None
    assert found.metrics["intervals"]["emotions"]["b"]["uar"] is None
    assert found.metrics["emotions"]["c"]["undefined"]["accuracy"] == "no clip is annotated"
    json.dumps(found.metrics, allow_nan=False)


def test_baselines_are_compared_on_every_metric():
    labels, probabilities = exclusive_predictions()
    _, others = exclusive_predictions(seed=1, skill=0.5)
    tasks = ["a", "b", "c", "d"]
    found = assess(labels, probabilities, tasks, split="test", baselines={"linear": others}, resamples=200)
    linear = found["baselines"]["linear"]
    for place in ("mean", "exclusive"):
        for key, one in linear["network_ahead"][place].items():
            assert one["difference"] == pytest.approx(found[place][key] - linear[place][key])
            assert one["interval"][0] < one["difference"] < one["interval"][1] or key == "ece"
    assert set(linear["network_ahead"]["emotions"]["b"]) == set(metrics_for("binary"))
    assert set(linear["network_ahead"]["exclusive"]) == set(metrics_for("exclusive"))
    assert linear["network_ahead"]["mean"]["auroc"]["interval"][0] > 0
    labels[0] = 1
    found = assess(labels, probabilities, tasks, split="test", baselines={"linear": others}, resamples=20)
    assert found["baselines"]["linear"]["network_ahead"]["exclusive"] is None


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (
            {"labels": np.zeros(3), "probabilities": np.zeros(3)},
            r"must have the shape \[rows, emotions\], but got \[3\]",
        ),
        ({"labels": np.zeros((0, 2)), "probabilities": np.zeros((0, 2))}, "must have at least one row"),
        (
            {"labels": np.zeros((2, 1)), "probabilities": np.zeros((2, 1)), "ids": ["a", "a"]},
            "ids must be 2 different names",
        ),
        (
            {"labels": np.zeros((2, 1)), "probabilities": np.zeros((2, 1)), "validation_labels": np.zeros((2, 1))},
            "must be given together",
        ),
    ],
)
def test_wrong_arguments(arguments, message):
    with pytest.raises(DataError, match=message):
        evaluate_predictions(**arguments)
