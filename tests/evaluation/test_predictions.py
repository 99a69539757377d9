import numpy as np

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
