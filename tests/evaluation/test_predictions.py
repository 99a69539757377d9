import dataclasses

import numpy as np
import pytest

from lmf_multitask.errors import RunError
from lmf_multitask.evaluation.predictions import Predictions, join_predictions
from lmf_multitask.runs import Run


def predictions(ids, emotion, labels, probabilities):
    columns = np.array(labels, np.int64)[:, None], np.array(probabilities, np.float32)[:, None]
    return Predictions(list(ids), [emotion], *columns)


def test_columns_are_joined_by_clip():
    joined = join_predictions(
        [predictions("bca", "sad", [1, 0, 1], [0.9, 0.2, 0.6]), predictions("ad", "happy", [0, 1], [0.1, 0.3])]
    )
    assert joined.ids == ["a", "b", "c", "d"]
    assert joined.emotions == ["sad", "happy"]
    np.testing.assert_array_equal(joined.labels, [[1, 0], [1, -100], [0, -100], [-100, 1]])
    np.testing.assert_array_equal(joined.probabilities, np.float32([[0.6, 0.1], [0.9, 0.0], [0.2, 0.0], [0.0, 0.3]]))
    metrics = joined.metrics("test", None)
    assert (metrics["split"], metrics["samples"], metrics["seed"]) == ("test", 4, None)
    assert metrics["emotions"]["sad"]["accuracy"] == 1.0  # of the three that were predicted
    assert metrics["emotions"]["happy"]["accuracy"] == 0.5
    assert metrics["emotions"]["happy"]["annotated"] == 2


def test_the_file_gives_back_what_was_written(tmp_path):
    rng = np.random.default_rng(0)
    before = Predictions(
        [f"test-{n}" for n in range(50)],
        ["happy", "very_sad"],
        rng.choice([0, 1, -100], (50, 2)),
        rng.random((50, 2), np.float32),
    )
    Run(tmp_path).write_predictions(before)
    after = Run(tmp_path).load_predictions()
    assert (after.ids, after.emotions) == (before.ids, before.emotions)
    np.testing.assert_array_equal(after.labels, before.labels)
    np.testing.assert_array_equal(after.probabilities, before.probabilities)


@pytest.mark.parametrize("present", [0, 1])
def test_labels_of_one_class_decided_rightly(present):
    """By hand: every decision is right; what the other class would tell is undefined."""
    both = predictions("abc", "sad", [present] * 3, [float(present)] * 3).metrics("test", 1)
    sad = both["emotions"]["sad"]
    assert (sad["weighted_f1"], sad["accuracy"], sad["uar"]) == (1.0, 1.0, None)
    assert sad["positive_f1"] == (1.0 if present else None)
    assert (sad["support"], sad["annotated"]) == (3 * present, 3)


def test_the_baseline_stands_beside_the_figures():
    metrics = predictions("abcd", "sad", [1, 0, 0, 0], [0.9, 0.8, 0.2, 0.1]).metrics("validation", 7)
    assert (metrics["split"], metrics["seed"]) == ("validation", 7)
    assert metrics["emotions"]["sad"]["accuracy"] == 0.75
    baseline = metrics["always_absent"]["emotions"]["sad"]
    assert (baseline["accuracy"], baseline["positive_f1"], baseline["uar"]) == (0.75, 0.0, 0.5)
    assert baseline["weighted_f1"] == pytest.approx(0.75 * 2 * 0.75 / 1.75)  # F1 of absent: precision 3/4, recall 1


def test_predictions_cannot_be_changed():
    with pytest.raises(dataclasses.FrozenInstanceError):
        predictions("a", "sad", [1], [0.5]).ids = []


DAMAGED = {
    "empty": "",
    "no rows": "id,sad_label,sad_probability,sad_prediction\n",
    "an empty row": "id,sad_label,sad_probability,sad_prediction\n\na,1,0.5,1\n",
    "a row cut off": "id,sad_label,sad_probability,sad_prediction\na,1\n",
    "a word": "id,sad_label,sad_probability,sad_prediction\na,yes,0.5,1\n",
    "too many columns": "id,sad_label,sad_probability,sad_prediction\na,1,0.5,1,1,0.5,1\n",
    "a path for an emotion": "id,../../x_label,../../x_probability,../../x_prediction\na,1,0.5,1\n",
    "no text": b"\xff\xfe\x00",
    "a field of a megabyte": "id,sad_label\n" + "x" * 1_000_000 + ",1\n",
}


@pytest.mark.parametrize("name", DAMAGED)
def test_damaged_predictions_are_refused_in_one_line(tmp_path, name):
    content = DAMAGED[name]
    (tmp_path / "predictions.csv").write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(
        RunError, match=r"predictions.csv: must hold a row per clip, but .+\. Train or evaluate again\."
    ) as caught:
        Run(tmp_path).load_predictions()
    assert "\n" not in str(caught.value)


def test_missing_predictions(tmp_path):
    with pytest.raises(
        RunError, match="predictions.csv: must be there, but is missing. Let the training finish first."
    ):
        Run(tmp_path).load_predictions()
