"""The settings of an experiment reach the reader of its data."""

import pytest
from conftest import make_corpus

from lmf_multitask.config import DataConfig, ExperimentConfig
from lmf_multitask.data.loading import load_data
from lmf_multitask.data.schema import column_array, emotion_names
from lmf_multitask.errors import DataError


def test_every_setting_of_the_data(write_pickle, tmp_path):
    path = write_pickle(make_corpus())
    plain = load_data(ExperimentConfig(data_path=str(path)))
    assert emotion_names(plain["train"]) == ["happy", "sad", "angry", "neutral"]
    data = DataConfig(label_column=0, cache_dir=str(tmp_path / "cache"))
    other = load_data(ExperimentConfig(data_path=str(path), emotions=["angry", "happy"], data=data))
    assert emotion_names(other["train"]) == ["angry", "happy"]
    assert (column_array(other["test"], "labels") == 1 - column_array(plain["test"], "labels")[:, [2, 0]]).all()
    assert list((tmp_path / "cache").rglob("*.arrow"))
    with pytest.raises(DataError, match="audio must be finite, but has 1 NaN"):
        load_data(ExperimentConfig(data_path=str(path), data=DataConfig(non_finite="error")))


def test_without_a_file_it_is_the_sample():
    assert [len(rows) for rows in load_data(ExperimentConfig()).values()] == [160, 60, 80]
