import json
import subprocess
import sys

import numpy as np
import pytest

from lmf_multitask.errors import DataError
from lmf_multitask.evaluation import evaluate_predictions

SMALL = {"resamples": 200}


def exclusive_predictions(rows=120, seed=0, skill=2.0):
    rng = np.random.default_rng(seed)
    labels = np.eye(4, dtype=int)[rng.integers(0, 4, rows)]
    return labels, 1 / (1 + np.exp(1 - skill * labels - rng.normal(size=labels.shape)))


def test_no_paddle_is_imported(tmp_path):
    code = f"""
import sys, numpy as np
from lmf_multitask.evaluation import evaluate_predictions
found = evaluate_predictions(np.array([[1, 0], [0, 1], [0, 1]]), np.array([[.9, .2], [.4, .7], [.6, .6]]), resamples=50)
found.write_report({str(tmp_path)!r})
found.table()
print(sorted(name for name in sys.modules if name.split('.')[0] in ('paddle', 'paddlenlp', 'datasets', 'torch')))
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "[]"
    assert (tmp_path / "report.html").is_file()


def test_metrics_keep_the_documented_keys():
    labels, probabilities = exclusive_predictions()
    found = evaluate_predictions(labels, probabilities, ["happy", "sad", "angry", "neutral"], **SMALL)
    metrics = json.loads(json.dumps(found.metrics))  # plain JSON
    assert (metrics["split"], metrics["samples"]) == ("test", 120)
    for key in ("weighted_f1", "accuracy", "positive_f1", "uar", "support"):
        assert key in metrics["emotions"]["happy"]
    assert metrics["mean"]["uar"] == pytest.approx(np.mean([one["uar"] for one in metrics["emotions"].values()]))
    assert metrics["exclusive"]["probabilities"] == "plain"
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
    assert found.metrics["exclusive"]["probabilities"] == "calibrated"
    assert set(found.metrics["thresholds"]) == {"positive_f1", "uar"}
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


def test_the_table_shows_what_is_asked_for():
    labels, probabilities = exclusive_predictions()
    held_out = dict(zip(("validation_labels", "validation_probabilities"), exclusive_predictions(200, 1)))
    found = evaluate_predictions(labels, probabilities, ["happy", "sad", "angry", "neutral"], **held_out, **SMALL)
    plain = found.table()
    assert "with 95% intervals over test rows" in plain
    assert "one of 4 (highest calibrated probability): WA " in plain
    assert "MulT (second-hand)" in plain
    assert "after calibration" not in plain
    assert "best UAR on validation" not in plain
    more = found.table(calibrated=True, threshold="uar")
    assert "after calibration" in more
    assert "best UAR on validation" in more
    assert plain.splitlines()[1] in more  # the plain figures are still there
    assert max(map(len, more.splitlines())) <= 130


def test_foreign_emotions_are_not_set_beside_iemocaps():
    labels, probabilities = exclusive_predictions()
    assert "published" not in evaluate_predictions(labels, probabilities, **SMALL).table()


def test_unannotated_and_one_class_emotions():
    labels = np.array([[1, 0, -100], [0, 0, -100], [1, -100, -100], [0, 0, -100]])
    found = evaluate_predictions(labels, np.full((4, 3), 0.3), ["a", "b", "c"], **SMALL)
    assert found.metrics["emotions"]["b"]["uar"] is None
    text = found.table()
    assert "b: undefined are" in text
    assert "AUROC" in text
    assert "all annotated clips are absent" in text
    assert "c: undefined are" in text
    assert "no clip is annotated" in text


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
