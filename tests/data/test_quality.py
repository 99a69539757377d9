"""What may spoil results is found and said: repeated clips and ids, contradictory labels, absurd numbers."""

import numpy as np
import pytest
from layouts import clips, npz

from lmf_multitask.data.loading import load
from lmf_multitask.data.modality import as_float32
from lmf_multitask.data.quality import Extremes, Repetitions, ordinary_range, repetition_notes

NAN = np.nan


def found_in(splits, labels):
    """Facts of splits given as lists of (id, value of the only feature)."""
    repetitions = Repetitions()
    for split, rows in splits.items():
        for start in range(0, len(rows), 2):  # block by block
            part = rows[start : start + 2]
            values = np.array([[value] for _, value in part], "f4")
            repetitions.take(
                split, [name for name, _ in part], {"audio": values, "video": np.zeros((len(part), 1), "f4")}
            )
    return repetitions.facts({split: np.array(own, "f4") for split, own in labels.items()})


def test_repetitions():
    facts = found_in(
        {
            "train": [("a", 1), ("b", 2), ("c", 1), ("d", 3), ("d", 2), ("e", 0), ("f", 0)],  # 0: no features at all
            "test": [("a", 3), ("x", 9)],
        },
        {"train": [[1, 0], [1, NAN], [1, 1], [0, 0], [NAN, 1], [0, 0], [1, 1]], "test": [[0, 0], [1, 1]]},
    )
    assert facts == {
        "repeated": {"train": 2},  # of 1 and of 2
        "contradictory": {"train": 2},  # a and c differ in the second task; b and d share no annotation
        "repeated_ids": {"train": 1},
        "shared": {"train+test": 1},
        "shared_ids": {"train+test": 1},
    }
    assert repetition_notes(facts) == [
        "2 clip(s) of train repeat another clip of train, and 2 clip(s) have other labels than their copies",
        "1 clip(s) of train are also in test: results on test are too optimistic",
        "1 id(s) of train repeat another id of train",
        "1 id(s) of train are also in test",
    ]


def test_nothing_is_said_of_clean_data():
    facts = found_in({"train": [("a", 1), ("b", 2)], "test": [("c", 3)]}, {"train": [[1], [0]], "test": [[1]]})
    assert facts == {} and repetition_notes(facts) == []


@pytest.mark.parametrize(
    "values",
    [
        np.random.default_rng(0).normal(size=3000),
        np.random.default_rng(0).standard_t(2, 3000),  # heavy tails
        np.random.default_rng(0).lognormal(0, 2, 3000),
        (np.arange(3000) % 300 == 0).astype(float),  # rarely one
        np.full(3000, 7.0),
        np.where(np.arange(3000) % 200 == 0, 255.0, np.random.default_rng(0).normal(size=3000)),  # a sentinel
    ],
)
def test_ordinary_features_have_no_outliers(values):
    low, high = ordinary_range(values[:, None])
    assert low[0] <= values.min() and values.max() <= high[0]


@pytest.mark.parametrize("rows", [8, 30, 5000])
@pytest.mark.parametrize("steps", [None, 3])
def test_one_absurd_number_is_named(rows, steps):
    shape = (rows, 4) if steps is None else (rows, steps, 4)
    values = np.random.default_rng(0).normal(size=shape).astype("f4")
    values[rows // 2, ..., 2] = -1e12
    extremes = Extremes()
    for start in range(0, rows, 7):
        extremes.take(values[start : start + 7], [f"c{row}" for row in range(start, min(start + 7, rows))])
    (one,) = extremes.outliers()
    assert (one.feature, one.clip) == (2, f"c{rows // 2}")
    assert one.value == np.float32(-1e12)


def test_outliers_and_repetitions_are_noted_for_the_console(tmp_path):
    data = clips(rows=(30, 5, 6))
    data["audio"][3, 1] = 1e12
    for name in ("audio", "video", "text"):
        data[name][38] = data[name][2]  # a clip of test is one of train
    loaded = load(npz(tmp_path, data))
    assert loaded.quality["outliers"] == {
        "audio": {"train": [{"feature": 1, "value": float(np.float32(1e12)), "clip": "clip003"}]}
    }
    assert loaded.quality["shared"] == {"train+test": 1}
    assert any("audio of train: feature 1 is 1e+12 in clip003" in note for note in loaded.notes)
    assert any("1 clip(s) of train are also in test" in note for note in loaded.notes)


def test_numbers_that_float32_does_not_have():
    signalling = np.array([0x7FF0000000000001], np.uint64).view(np.float64)
    found = as_float32(np.concatenate([signalling, [1e300, -1e300, 1.5]]))
    assert found.dtype == np.float32
    np.testing.assert_array_equal(found, [np.nan, np.inf, -np.inf, 1.5])
