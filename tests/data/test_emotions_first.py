"""Pickles ``data[emotion][split][feature]``: names, the meaning of labels, and the join of the emotions' rows."""

import pickle

import numpy as np
import pytest
from conftest import make_corpus

from lmf_multitask.data.config import DataConfig
from lmf_multitask.data.sources import emotions_first, open_source
from lmf_multitask.errors import DataError

NAMES = {
    "covarep": ("covarep", "audio", "acoustic"),
    "facet": ("facet", "video", "visual", "vision"),
    "glove": ("glove", "text", "words", "language"),
    "label": ("label", "labels", "y"),
    "valid": ("valid", "validation", "dev", "val"),
}


@pytest.fixture
def read(tmp_path):
    def read_tree(tree, **options):
        path = tmp_path / "data.pkl"
        path.write_bytes(pickle.dumps(tree, protocol=2))
        return open_source(path, config=DataConfig(**options))

    return read_tree


def features(source, split, modality, rows=5):
    return np.concatenate([found[modality] for _, found in source.blocks(split, rows)])


def label_note(source):
    """What is noted about labels when they have been read."""
    source.labels("train")
    (note,) = [note for note in source.notes if note.startswith("labels: ")]
    return note.removeprefix("labels: ")


def renamed(tree, old, new):
    if not isinstance(tree, dict):
        return tree
    return {new if key == old else key: renamed(value, old, new) for key, value in tree.items()}


@pytest.mark.parametrize(("old", "new"), [(old, new) for old, names in NAMES.items() for new in names])
def test_every_name_of_the_family_is_understood(read, old, new):
    got, wanted = read(renamed(make_corpus(), old, new)), read(make_corpus())
    for split in ("train", "validation", "test"):
        for modality in ("audio", "video", "text"):
            np.testing.assert_array_equal(features(got, split, modality), features(wanted, split, modality))
        np.testing.assert_array_equal(got.labels(split), wanted.labels(split))


@pytest.mark.parametrize("spelling", [str.upper, str.capitalize])
def test_splits_and_emotions_in_capitals(read, spelling):
    tree = {
        spelling(emotion): {spelling(split): rows for split, rows in splits.items()}
        for emotion, splits in make_corpus().items()
    }
    got = read(tree)
    assert got.emotions == ["happy", "sad", "angry", "neutral"]
    assert got.splits == {"train": 12, "validation": 8, "test": 9}


def test_other_keys_are_noted(read):
    got = read({**make_corpus(), "about": {"author": "me"}, "version": 3})
    assert got.emotions == ["happy", "sad", "angry", "neutral"]
    assert "ignored keys: about, version" in got.notes


@pytest.mark.parametrize("value", [[1, 2], {"early": {}}, 3])
def test_a_known_emotion_without_splits_does_not_vanish(read, value):
    with pytest.raises(
        DataError, match=r"data\['surprised'\] must be a dict of splits \(train, validation, test\), but is"
    ):
        read({**make_corpus(), "surprised": value})


@pytest.mark.parametrize("shape", [(-1,), (-1, 1)])
@pytest.mark.parametrize("kind", ["int64", "float32", "bool", "uint8"])
def test_labels_of_one_column_are_0_and_1(read, shape, kind):
    tree = make_corpus()
    wanted = {
        split: np.stack([tree[e][split]["label"][:, 1] for e in tree], axis=1) for split in ("train", "valid", "test")
    }
    for splits in tree.values():
        for rows in splits.values():
            rows["label"] = rows["label"][:, 1].reshape(shape).astype(kind)
    got = read(tree)
    assert label_note(got) == "stored as 0 and 1"
    assert got.label_column is None
    for split, key in (("train", "train"), ("validation", "valid"), ("test", "test")):
        np.testing.assert_array_equal(got.labels(split), wanted[key])


def test_lists_of_numbers_are_labels_too(read):
    tree = make_corpus()
    tree["sad"]["test"]["label"] = tree["sad"]["test"]["label"].tolist()
    np.testing.assert_array_equal(read(tree).labels("test"), read(make_corpus()).labels("test"))


def one_hot(present):
    return np.eye(2, dtype=int)[np.asarray(present, int)]


@pytest.mark.parametrize("flip", [False, True])
def test_three_exclusive_emotions_prove_the_column_even_if_they_are_frequent(read, flip):
    """calm is present in three clips of five, which by itself would say the opposite; some clips are not sad's."""
    tree = make_corpus((10, 10, 10), emotions=("calm", "sad", "zest"))
    emotion_of = np.array([0, 0, 0, 1, 2] * 2)
    for index, splits in enumerate(tree.values()):
        for split, rows in splits.items():
            rows["label"] = one_hot(emotion_of == index)[:, :: -1 if flip else 1]
            if index == 1 and split == "train":
                splits[split] = {name: values[1:] for name, values in rows.items()}
    got = read(tree)
    column = 0 if flip else 1
    assert label_note(got) == f"column {column} = present: in every clip it is set for exactly one of the 3 emotions"
    assert got.label_column == column
    assert got.labels("test").tolist() == np.eye(3)[emotion_of][:, [1, 0, 2]].tolist()  # sad first
    assert np.isnan(got.labels("train")).sum() == 1


@pytest.mark.parametrize("share", [0.1, 0.55, 0.9])
@pytest.mark.parametrize("emotions", [("neutral",), ("happy", "sad"), ("happy", "sad", "angry")])
def test_how_frequent_an_emotion_is_proves_nothing(read, share, emotions):
    """Emotions that go together, rare or frequent: column 1 is present, and that is said to be a convention."""
    tree = make_corpus((20, 10, 10), emotions=emotions)
    for splits in tree.values():
        for rows in splits.values():
            rows["label"] = one_hot(np.arange(len(rows["label"])) < share * len(rows["label"]))
    got = read(tree)
    assert label_note(got).startswith(
        "column 1 = present, by convention: nothing in the file proves it. Set --data.label"
    )
    assert got.label_column == 1
    np.testing.assert_allclose(got.labels("train").mean(axis=0), share)


@pytest.mark.parametrize("column", [0, 1])
def test_a_forced_column_wins_over_the_evidence(read, column):
    got = read(make_corpus(), label_column=column)
    assert label_note(got) == f"column {column} = present, as set by label_column"
    assert got.label_column == column
    wanted = make_corpus()["sad"]["train"]["label"][:, column]
    np.testing.assert_array_equal(got.labels("train")[:, 1], wanted)


def test_where_every_clip_came_from(read):
    """happy lacks its first clip; sad has its rows backwards: by hand."""
    tree = make_corpus((4, 4, 4), emotions=("happy", "sad"))
    tree["happy"]["train"] = {name: values[1:] for name, values in tree["happy"]["train"].items()}
    tree["sad"]["train"] = {name: values[::-1] for name, values in tree["sad"]["train"].items()}
    got = read(tree)
    # happy's own three come first (clips 1, 2, 3), then clip 0, which is the last of sad's
    assert got.positions("train").tolist() == [[0, 2], [1, 1], [2, 0], [-1, 3]]
    assert got.splits["train"] == 4
    assert np.isnan(got.labels("train")).tolist() == [[False, False]] * 3 + [[True, False]]
    assert "12 different clips, 11 of them under every emotion (matched by content)" in got.notes
    assert read(make_corpus((4, 4, 4))).positions("train") is None


@pytest.mark.parametrize("count", [1, 2, 3, 4, 9])
@pytest.mark.parametrize("order", [[0, 1, 2, 3, 4], [2, 0, 3, 1, 4], [4, 3, 2, 1, 0]])
def test_pieces_are_the_whole_wherever_the_clips_lie(read, order, count):
    """happy has clips 0 and 1; the others are read from sad's arrays: behind the first two, between them, backwards."""
    tree = make_corpus((5, 4, 4), emotions=("happy", "sad"))
    whole = {name: values.astype("f4") for name, values in tree["happy"]["train"].items()}
    tree["happy"]["train"] = {name: values[:2] for name, values in tree["happy"]["train"].items()}
    tree["sad"]["train"] = {name: values[order] for name, values in tree["sad"]["train"].items()}
    corpus = read(tree)
    order_of_rows = [0, 1, *(clip for clip in order if clip > 1)]
    blocks = [found for _, found in corpus.blocks("train", count)]
    assert [len(block["audio"]) for block in blocks] == [min(count, 5 - start) for start in range(0, 5, count)]
    for modality, name in (("audio", "covarep"), ("video", "facet"), ("text", "glove")):
        pieces = np.concatenate([block[modality] for block in blocks])
        np.testing.assert_array_equal(pieces, whole[name][order_of_rows])


def test_clips_that_occur_twice_pair_up_in_their_order(read):
    """Clip 1 equals clip 0, and only the second of the two is sad."""
    tree = make_corpus((4, 4, 4), emotions=("happy", "sad"))
    for splits in tree.values():
        for name in ("covarep", "facet", "glove"):
            splits["train"][name][1] = splits["train"][name][0]
    tree["sad"]["train"]["label"] = np.eye(2, dtype=int)[[0, 1, 0, 0]]
    got = read(tree, label_column=1)
    assert got.labels("train")[:, 1].tolist() == [0, 1, 0, 0]
    assert got.positions("train") is None


def test_numbers_that_are_the_same_but_not_their_bytes(read):
    """-0 and 0, and NaN of different bits, are one and the same clip."""
    tree = make_corpus((4, 4, 4), emotions=("happy", "sad"))
    for emotion, zero, nan in (("happy", 0.0, 0x7FC00000), ("sad", -0.0, 0xFFC12345)):
        audio = tree[emotion]["train"]["covarep"].astype("f4")
        audio[1, 1], audio[2, 2] = zero, np.array([nan], "u4").view("f4")[0]
        tree[emotion]["train"]["covarep"] = audio
    got = read(tree)
    assert got.splits["train"] == 4
    assert "12 clips, the same ones in the same order under every emotion (matched by content)" in got.notes


@pytest.mark.parametrize("kind", ["complex64", "S3"])
def test_what_is_no_number_is_called_by_its_name(read, kind):
    tree = make_corpus()
    tree["sad"]["train"]["facet"] = np.zeros((12, 4), kind)
    name = {"complex64": "complex numbers", "S3": "bytes"}[kind]
    with pytest.raises(
        DataError, match=rf"data\['sad'\]\['train'\]\['facet'\] must be an array of numbers, but holds {name} \("
    ):
        read(tree)


def test_exactly_as_many_labels_as_allowed(read, monkeypatch):
    monkeypatch.setattr(emotions_first, "MOST_LABELS", 12 * 4)
    assert read(make_corpus()).splits["train"] == 12
    monkeypatch.setattr(emotions_first, "MOST_LABELS", 12 * 4 - 1)
    with monkeypatch.context() as patch:
        patch.setattr(emotions_first, "row_reader", lambda *which: pytest.fail("nothing is read before it is counted"))
        with pytest.raises(DataError, match="must hold at most 47 labels in train, but holds 48"):
            read(make_corpus())
    monkeypatch.setattr(emotions_first, "MOST_EMOTIONS", 4)
    monkeypatch.setattr(emotions_first, "MOST_LABELS", 99)
    assert len(read(make_corpus()).emotions) == 4


def test_a_single_number_is_no_column_of_labels(read):
    tree = make_corpus()
    tree["sad"]["train"]["label"] = np.array(1)
    with pytest.raises(DataError, match="must have the shape \\[12, 2\\] or \\[12\\], but has \\[\\]"):
        read(tree).labels("train")


def test_sequences_of_audio_and_vectors_of_text(read):
    """Audio and video may be sequences; a text vector is a sequence of length one."""
    rng = np.random.default_rng(0)
    tree = make_corpus()
    audio = {split: rng.normal(size=(count, 7, 5)) for split, count in (("train", 12), ("valid", 8), ("test", 9))}
    for splits in tree.values():
        for split, rows in splits.items():
            rows["covarep"], rows["glove"] = audio[split], rows["glove"][:, 0]
    got = read(tree, max_length=4)
    assert got.shapes == {"audio": (4, 5), "video": (4,), "text": (1, 3)}
    np.testing.assert_array_equal(features(got, "test", "audio"), audio["test"][:, :4].astype("f4"))
    np.testing.assert_array_equal(features(got, "test", "text")[:, 0], tree["sad"]["test"]["glove"])
    assert got.cut["test"]["audio"] == 9


def test_missing_annotations(read):
    """NaN or -100 in place of 0 and 1."""
    tree = make_corpus()
    for splits in tree.values():
        for rows in splits.values():
            rows["label"] = rows["label"][:, 1].astype(float)
    tree["sad"]["train"]["label"][:2] = [np.nan, -100]
    assert np.isnan(read(tree).labels("train")).sum(axis=0).tolist() == [0, 2, 0, 0]
