"""Each layout of tables gives back what was put in: values, labels, padding, ids."""

import numpy as np
import pytest
from layouts import LAYOUTS, SPLITS, clips, labels_of

from lmf_multitask.data.columns import column_arrays
from lmf_multitask.data.loading import inspect, load
from lmf_multitask.data.sources import open_source


@pytest.fixture(params=LAYOUTS)
def written(request, tmp_path):
    data = clips()
    return LAYOUTS[request.param](tmp_path, data), data


def test_training_data(written):
    path, data = written
    loaded = load(path)
    assert loaded.emotions == ["happy", "sad", "angry"]
    for split in SPLITS:
        rows = np.array(data["split"]) == split
        found = column_arrays(loaded.dataset[split])
        assert loaded.dataset[split]["id"] == [name for name, own in zip(data["id"], rows) if own]
        for name in ("audio", "video", "text"):
            np.testing.assert_array_equal(np.asarray(found[name]), data[name][rows], name)
        np.testing.assert_array_equal(found["labels"], labels_of(data)[rows])
    assert loaded.inputs["text"].padding == "end"
    assert any("one task for each of happy, sad, angry" in note for note in loaded.notes)
    assert "exclusive: exactly one is present in every clip" in inspect(path)


def test_prediction_data(written):
    path, data = written
    source = open_source(path, "test")
    ids, audio = [], []
    for names, features in source.all_blocks(2):
        ids += names
        audio.append(features["audio"])
    rows = np.array(data["split"]) == "test"
    assert ids == [name for name, own in zip(data["id"], rows) if own]
    np.testing.assert_array_equal(np.concatenate(audio), data["audio"][rows])
