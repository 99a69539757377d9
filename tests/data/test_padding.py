"""Clips that are padded on the other side than the training data are moved there."""

import numpy as np
import pytest

from lmf_multitask.data.modality import Input
from lmf_multitask.data.padding import RepaddedColumn, moved_blocks, repad, sides_to_move
from lmf_multitask.data.sources import open_source


def sequences(*rows):
    return np.array(rows, "f4")[:, :, None]


def test_steps_in_between_and_empty_clips_stay():
    values = sequences([0, 0, 1, 2], [3, 0, 4, 0], [0, 0, 0, 0], [5, 6, 7, 8], [0, 9, 0, 0])
    at_end = sequences([1, 2, 0, 0], [3, 0, 4, 0], [0, 0, 0, 0], [5, 6, 7, 8], [9, 0, 0, 0])
    in_front = sequences([0, 0, 1, 2], [0, 3, 0, 4], [0, 0, 0, 0], [5, 6, 7, 8], [0, 0, 0, 9])
    np.testing.assert_array_equal(repad(values, "end"), at_end)
    np.testing.assert_array_equal(repad(values, "front"), in_front)
    column = RepaddedColumn(values, "end")
    np.testing.assert_array_equal(np.asarray(column), at_end)
    np.testing.assert_array_equal(column[[4, 0]], at_end[[4, 0]])
    assert (column.shape, column.ndim, len(column)) == ((5, 4, 1), 3, 5)


@pytest.mark.parametrize(
    ("model", "data", "side"),
    [
        ("end", "front", "end"),
        ("front", "end", "front"),
        ("end", "both", "end"),
        ("end", "end", None),
        ("end", "none", None),
        ("both", "end", None),
        (None, "front", None),
        ("none", "end", None),
    ],
)
def test_only_a_known_side_of_training_is_restored(model, data, side):
    inputs = {"text": Input((4, 1), model), "audio": Input((3,))}
    found = sides_to_move(inputs, {"text": data, "audio": None}, ["audio", "text"])
    assert found == ({} if side is None else {"text": side})


def test_blocks_of_a_file_are_moved(tmp_path):
    rng = np.random.default_rng(0)
    values = rng.normal(size=(40, 6, 2)).astype("f4")
    lengths = rng.integers(1, 6, 40)
    front, end = np.zeros_like(values), np.zeros_like(values)
    for row, length in enumerate(lengths):
        end[row, :length] = front[row, 6 - length :] = values[row, :length]
    np.savez(tmp_path / "front.npz", text=front, audio=np.ones((40, 3)))
    inputs = {"audio": Input((3,)), "video": Input((1,)), "text": Input((6, 2), "end")}
    blocks, notes = moved_blocks(open_source(tmp_path / "front.npz"), inputs, ["audio", "text"], 7)
    np.testing.assert_array_equal(np.concatenate([found["text"] for _, found in blocks]), end)
    assert notes == ["text is padded in front, in the model's training data at the end: the padding was moved there"]
    inputs["text"] = Input((6, 2), "front")
    blocks, notes = moved_blocks(open_source(tmp_path / "front.npz"), inputs, ["audio", "text"], 7)
    np.testing.assert_array_equal(np.concatenate([found["text"] for _, found in blocks]), front)
    assert notes == []
