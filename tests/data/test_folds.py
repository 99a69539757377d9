"""Which clips are test, validation and train of a fold."""

import numpy as np
import pytest
from conftest import make_corpus

from lmf_multitask.data.columns import column_arrays
from lmf_multitask.data.config import DataConfig
from lmf_multitask.data.folds import MOST_FOLDS, Fold, assign_folds, split_of_rows
from lmf_multitask.data.loading import load
from lmf_multitask.errors import DataError


def clips(rows=240, groups=24, seed=0):
    """Exclusive labels of three emotions, rare to frequent, and groups of unequal size."""
    rng = np.random.default_rng(seed)
    emotion = rng.choice(3, rows, p=(0.15, 0.25, 0.6))
    sizes = rng.dirichlet(np.full(groups, 4.0))
    names = np.array([f"g{number:02d}" for number in rng.choice(groups, rows, p=sizes)])
    names[:groups] = [f"g{number:02d}" for number in range(groups)]
    return np.eye(3)[emotion], names


@pytest.mark.parametrize("by", [2, 5, 10])
@pytest.mark.parametrize("seed", range(4))
def test_groups_are_never_torn_apart_and_every_clip_is_tested_once(by, seed):
    labels, groups = clips(seed=seed)
    tested = np.zeros(len(labels), int)
    for number in range(1, by + 1):
        split, folds = split_of_rows(labels, groups, Fold(by, number, seed))
        rows = {name: np.flatnonzero(split == name) for name in ("train", "validation", "test")}
        assert sum(map(len, rows.values())) == len(labels)
        assert min(map(len, rows.values())) > 0
        for first, second in (("train", "validation"), ("train", "test"), ("validation", "test")):
            assert not set(groups[rows[first]]) & set(groups[rows[second]])
        np.testing.assert_array_equal(rows["test"], np.flatnonzero(folds == number - 1))
        tested[rows["test"]] += 1
    assert (tested == 1).all()


def test_shares_of_labels_are_kept():
    labels, groups = clips(rows=600, groups=60)
    whole = labels.mean(axis=0)
    for given, tolerance in ((None, 0.01), (groups, 0.06)):
        folds = assign_folds(labels, given, 5, 0)
        for number in range(5):
            np.testing.assert_allclose(labels[folds == number].mean(axis=0), whole, atol=tolerance)
        assert np.ptp(np.bincount(folds)) <= (2 if given is None else 30)


def test_each_group_is_left_out_once_in_alphabetical_order():
    labels, groups = clips(groups=5)
    for number, name in enumerate(sorted(set(groups)), start=1):
        split, folds = split_of_rows(labels, groups, Fold("speaker", number))
        assert set(groups[split == "test"]) == {name}
        assert len(set(groups[split == "validation"])) == 1
        assert len(set(groups[split == "train"])) == 3
    assert folds.max() == 4


def test_the_same_fold_is_the_same_and_seeds_draw_others():
    labels, groups = clips()
    first, again, other = (split_of_rows(labels, groups, Fold(5, 2, seed))[0] for seed in (0, 0, 1))
    np.testing.assert_array_equal(first, again)
    assert (first != other).any()
    drawn = [set(groups[split_of_rows(labels, groups, Fold("x", 1, seed))[0] == "validation"]) for seed in range(8)]
    assert len({frozenset(one) for one in drawn}) > 1


def test_real_values_and_missing_labels_are_stratified(recwarn):
    rng = np.random.default_rng(0)
    values = np.concatenate([rng.normal(size=90), np.full(10, np.nan)])[:, None]
    folds = assign_folds(values, None, 5, 0)
    for number in range(5):
        own = values[folds == number, 0]
        assert np.isnan(own).sum() == 2
        assert abs(np.nanmedian(own) - np.nanmedian(values)) < 0.35
    assert not recwarn.list


def test_rare_combinations_need_no_fold_each(recwarn):
    labels = np.zeros((40, 2))
    labels[0] = [1, 1]
    labels[1:12, 0] = 1
    folds = assign_folds(labels, None, 5, 0)
    assert np.bincount(folds).tolist() == [8] * 5
    assert not recwarn.list


@pytest.mark.parametrize(
    ("groups", "fold", "message"),
    [
        (None, Fold("session", 1), "folds must be a number, or name groups that the data have, but is 'session'"),
        (["a", "b"] * 20, Fold(2, 1), "must have at least 3 groups, for train, validation and test, but has a, b"),
        (["a", "b", "c", "d"] * 10, Fold(5, 1), "folds must be at most the number of groups, 4, but got 5"),
        (["a", "b", "c", "d"] * 10, Fold("x", 5), "fold must be from 1 to 4, but got 5"),
        (None, Fold(41, 1), "folds must be at most the number of clips, 40, but got 41"),
        ([str(one) for one in range(40)], None, ""),
    ],
)
def test_impossible_folds(groups, fold, message):
    labels = np.eye(2)[np.arange(40) % 2]
    groups = None if groups is None else np.array(groups)
    if fold is None:
        groups = np.array([str(one) for one in range(MOST_FOLDS + 1)])
        with pytest.raises(DataError, match="'id' has 101 groups. Take a number: --folds 5 --data.group_column id"):
            assign_folds(np.ones((len(groups), 1)), groups, "id", 0)
        return
    with pytest.raises(DataError, match=message):
        split_of_rows(labels, groups, fold)


# -- of a data set


@pytest.mark.parametrize("splits", [True, False])
def test_folds_are_of_all_clips_of_a_file(tmp_path, splits):
    rng = np.random.default_rng(0)
    arrays = {
        "id": np.array([f"clip{row}" for row in range(60)]),
        "audio": rng.normal(size=(60, 3)).astype("f4"),
        "happy": np.arange(60) % 3 == 0,
        "group": np.arange(60) // 4,
    }
    if splits:
        arrays["split"] = np.repeat(["train", "validation", "test"], 20)
    np.savez(tmp_path / "data.npz", **arrays)
    tested = []
    for number in range(1, 4):
        data = load(tmp_path / "data.npz", fold=Fold(3, number))
        ids = {split: data.dataset[split]["id"] for split in data.dataset}
        tested += ids["test"]
        for split, names in ids.items():
            rows = [int(name.removeprefix("clip")) for name in names]
            columns = column_arrays(data.dataset[split])
            np.testing.assert_array_equal(columns["audio"][:], arrays["audio"][rows])
            np.testing.assert_array_equal(columns["labels"][:, 0], arrays["happy"][rows])
            assert data.dataset[split]["groups"] == [str(row // 4) for row in rows]
        assert len(data.folds) == 3
        assert set(data.folds[number - 1]) == set(data.dataset["test"]["groups"])
        assert "3 folds of 15 groups, none of which is in two splits" in data.notes
    assert sorted(tested) == sorted(arrays["id"])
    if not splits:
        with pytest.raises(DataError, match="but has none. Name the column .*; or cross-validate: --folds 5."):
            load(tmp_path / "data.npz")


def test_the_folds_do_not_depend_on_the_emotions_that_a_model_learns(write_pickle):
    corpus = make_corpus((30, 12, 12))
    order = np.random.default_rng(1).permutation(30)
    corpus["sad"]["train"] = {name: values[order] for name, values in corpus["sad"]["train"].items()}
    path = write_pickle(corpus)
    fold = Fold(3, 2, stratify=("happy", "sad"))
    found = [load(path, emotions, fold=fold).dataset for emotions in (["happy", "sad"], ["happy"], ["sad"])]
    for split in ("train", "validation", "test"):
        assert found[0][split]["id"][:] == found[1][split]["id"][:] == found[2][split]["id"][:]
    assert "fold_split" not in found[0]["train"].column_names
    note = "3 folds without groups, so that clips of one speaker may be in train and test"
    assert note in load(path, fold=fold).report


def test_copies_of_clips_in_two_splits_of_the_file_are_noted(write_pickle):
    corpus = make_corpus((12, 12, 12))
    for splits in corpus.values():
        splits["test"] = splits["train"]
    data = load(write_pickle(corpus), fold=Fold(3, 1))
    assert not any("also in test" in note for note in data.notes)
    note = "12 clip(s) are in two splits of the file: copies may be in train and test of a fold"
    assert any(note in one for one in data.notes)
    assert data.quality["shared"] == {"all": 12}
    assert "also in test" not in data.report


def test_a_fold_without_annotated_clips(tmp_path):
    happy = np.full(30, np.nan)
    happy[:4] = [0, 1, 0, 1]
    np.savez(
        tmp_path / "data.npz",
        audio=np.random.default_rng(0).normal(size=(30, 3)),
        happy=happy,
        sad=np.arange(30) % 2,
        group=np.repeat(["a", "b", "c"], 10),
    )
    with pytest.raises(DataError, match="test of the fold must have annotated clips, but have none"):
        load(tmp_path / "data.npz", ["happy"], DataConfig(), fold=Fold("group", 2))
