"""How one pickle becomes joined rows: the names that files use, what labels mean, and where each clip came from."""

import pickle

import numpy as np
import pytest
from conftest import make_corpus

from lmf_multitask.data import corpus as corpus_module
from lmf_multitask.data.corpus import FEATURE_KEYS, SPLIT_KEYS, PickledCorpus
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
        return PickledCorpus(path, **options)

    return read_tree


def renamed(tree, old, new):
    if not isinstance(tree, dict):
        return tree
    return {new if key == old else key: renamed(value, old, new) for key, value in tree.items()}


@pytest.mark.parametrize(("old", "new"), [(old, new) for old, names in NAMES.items() for new in names])
def test_every_name_of_the_family_is_understood(read, old, new):
    got, wanted = read(renamed(make_corpus(), old, new)), read(make_corpus())
    for split in ("train", "validation", "test"):
        for modality in ("audio", "video", "text"):
            np.testing.assert_array_equal(got.features(split, modality), wanted.features(split, modality))
        np.testing.assert_array_equal(got.rows[split].labels, wanted.rows[split].labels)
    assert {*sum(FEATURE_KEYS.values(), ()), *sum(SPLIT_KEYS.values(), ())} == {
        *sum(NAMES.values(), ()),
        "train",
        "test",
    }


def test_splits_may_lie_beside_other_things(read):
    tree = {**make_corpus(), "about": {"author": "me"}, "version": 3}
    assert read(tree).emotions == ["happy", "sad", "angry", "neutral"]


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
    assert (got.label_column, got.label_reason) == (None, "labels are stored as 0 and 1")
    for split, key in (("train", "train"), ("validation", "valid"), ("test", "test")):
        np.testing.assert_array_equal(got.rows[split].labels, wanted[key])


def test_lists_of_numbers_are_labels_too(read):
    tree = make_corpus()
    tree["sad"]["test"]["label"] = tree["sad"]["test"]["label"].tolist()
    np.testing.assert_array_equal(read(tree).rows["test"].labels, read(make_corpus()).rows["test"].labels)


@pytest.mark.parametrize("flip", [False, True])
def test_emotions_that_go_together_are_told_by_the_rarer_side(read, flip):
    """Three emotions, several of them present in some clips: neither column proves itself."""
    tree = make_corpus((20, 8, 8), emotions=("happy", "sad", "angry"))
    for index, splits in enumerate(tree.values()):
        for rows in splits.values():
            present = np.arange(len(rows["label"])) % 4 <= (
                index == 0
            )  # happy in two of four, the others in one of four
            rows["label"] = np.eye(2, dtype=int)[present.astype(int)][:, :: -1 if flip else 1]
    got = read(tree)
    assert got.label_column == (0 if flip else 1)
    assert got.label_reason == f"column {got.label_column} = present: the rarer side (33% of the labels)"
    assert got.rows["train"].labels.mean(axis=0).tolist() == [0.5, 0.25, 0.25]


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
    assert got.label_column == column
    assert got.label_reason == f"column {column} = present: in every clip it is set for exactly one of the 3 emotions"
    assert got.rows["test"].labels.tolist() == np.eye(3, dtype=int)[emotion_of][:, [1, 0, 2]].tolist()  # sad first
    assert (got.rows["train"].labels == -100).sum() == 1


@pytest.mark.parametrize(
    ("emotions", "present", "column", "reason"),
    [
        # of sad's 30 labels 9 are present; calm is none of IEMOCAP's, so that its share says nothing
        (("sad", "calm"), ([3, 9], [3, 9], [3, 9]), 1, "column 1 = present: the rarer side (30% of the labels)"),
        (("sad", "calm"), ([7, 1], [7, 1], [7, 1]), 0, "column 0 = present: the rarer side (30% of the labels)"),
        (("excited", "fearful"), ([1, 2], [0, 0], [0, 0]), 1, "column 1 = present: the rarer side (5% of the labels)"),
        (("sad", "calm"), ([5, 1], [4, 1], [6, 1]), 1, "column 1 = present, by the convention of these files: nothing"),
        (
            ("zest", "calm"),
            ([1, 1], [1, 1], [1, 1]),
            1,
            "column 1 = present, by the convention of these files: nothing",
        ),
    ],
)
def test_two_emotions_are_told_by_the_rarer_side_of_those_that_iemocap_has(read, emotions, present, column, reason):
    tree = make_corpus((10, 10, 10), emotions=emotions)
    for emotion, counts in zip(emotions, np.array(present).T):
        for split, count in zip(("train", "valid", "test"), counts):
            tree[emotion][split]["label"] = one_hot(np.arange(10) < count)
    got = read(tree)
    assert got.label_column == column
    assert got.label_reason.startswith(reason)
    sad = got.rows["train"].labels[:, got.emotions.index(emotions[0])]
    assert sad.sum() == (present[0][0] if column == 1 else 10 - present[0][0])


IEMOCAPS = (
    "happy", "sad", "angry", "neutral", "excited", "frustrated", "surprised", "fearful", "disgusted", "disgust",
)  # fmt: skip


@pytest.mark.parametrize("emotion", IEMOCAPS)
def test_each_of_iemocaps_emotions_is_rare(read, emotion):
    tree = make_corpus((10, 5, 5), emotions=(emotion,))
    for rows in tree[emotion].values():
        rows["label"] = one_hot(np.arange(len(rows["label"])) % 5 > 0)  # by its second column, present in four of five
    assert read(tree).label_reason == "column 0 = present: the rarer side (20% of the labels)"


def test_clips_that_an_emotion_lacks_say_nothing_of_the_rarer_side(read):
    """sad annotates 4 of 10 clips, 1 of which is present: a quarter, not a tenth."""
    tree = make_corpus((10, 4, 4), emotions=("sad", "calm"))
    for splits in tree.values():
        for rows in splits.values():
            rows["label"] = one_hot(np.arange(len(rows["label"])) < 1)
    tree["sad"]["train"] = {name: values[:4] for name, values in tree["sad"]["train"].items()}
    assert read(tree).label_reason == "column 1 = present: the rarer side (25% of the labels)"


@pytest.mark.parametrize("column", [0, 1])
def test_a_forced_column_wins_over_the_evidence(read, column):
    got = read(make_corpus(), label_column=column)
    assert (got.label_column, got.label_reason) == (column, f"column {column} = present, as you said")
    wanted = make_corpus()["sad"]["train"]["label"][:, column]
    np.testing.assert_array_equal(got.rows["train"].labels[:, 1], wanted)


def test_where_every_clip_came_from(read):
    """happy lacks its first clip; sad has its rows backwards: by hand."""
    tree = make_corpus((4, 4, 4), emotions=("happy", "sad"))
    tree["happy"]["train"] = {name: values[1:] for name, values in tree["happy"]["train"].items()}
    tree["sad"]["train"] = {name: values[::-1] for name, values in tree["sad"]["train"].items()}
    rows = read(tree).rows["train"]
    # happy's own three come first (clips 1, 2, 3), then clip 0, which is the last of sad's
    assert rows.positions.tolist() == [[0, 2], [1, 1], [2, 0], [-1, 3]]
    assert rows.emotion.tolist() == [0, 0, 0, 1]
    assert rows.position.tolist() == [0, 1, 2, 3]
    assert (len(rows), rows.shared, rows.same_order) == (4, 3, False)
    assert len(set(rows.digests)) == 4
    assert rows.labels[3, 0] == -100
    assert read(make_corpus((4, 4, 4))).rows["train"].same_order


@pytest.mark.parametrize("count", [1, 2, 3, 4, 9])
@pytest.mark.parametrize("order", [[0, 1, 2, 3, 4], [2, 0, 3, 1, 4], [4, 3, 2, 1, 0]])
def test_pieces_are_the_whole_wherever_the_clips_lie(read, order, count):
    """happy has clips 0 and 1; the others are read from sad's arrays: behind the first two, between them, backwards."""
    tree = make_corpus((5, 4, 4), emotions=("happy", "sad"))
    whole = {name: values.astype("f4") for name, values in tree["happy"]["train"].items()}
    tree["happy"]["train"] = {name: values[:2] for name, values in tree["happy"]["train"].items()}
    tree["sad"]["train"] = {name: values[order] for name, values in tree["sad"]["train"].items()}
    corpus = read(tree)
    found = [0, 1, *(clip for clip in order if clip > 1)]
    blocks = list(corpus.blocks("train", count))
    assert [len(block["audio"]) for block in blocks] == [min(count, 5 - start) for start in range(0, 5, count)]
    for modality, name in (("audio", "covarep"), ("video", "facet"), ("text", "glove")):
        pieces = np.concatenate([block[modality] for block in blocks])
        np.testing.assert_array_equal(pieces, whole[name][found])
        np.testing.assert_array_equal(corpus.features("train", modality), pieces)


def test_clips_that_occur_twice_pair_up_in_their_order(read):
    """Clip 1 equals clip 0, and only the second of the two is sad."""
    tree = make_corpus((4, 4, 4), emotions=("happy", "sad"))
    for splits in tree.values():
        for name in ("covarep", "facet", "glove"):
            splits["train"][name][1] = splits["train"][name][0]
    tree["sad"]["train"]["label"] = np.eye(2, dtype=int)[[0, 1, 0, 0]]
    rows = read(tree, label_column=1).rows["train"]
    assert rows.labels[:, 1].tolist() == [0, 1, 0, 0]
    assert rows.positions.tolist() == [[0, 0], [1, 1], [2, 2], [3, 3]]
    assert rows.same_order


def test_numbers_that_are_the_same_but_not_their_bytes(read):
    """-0 and 0, and NaN of different bits, are one and the same clip."""
    tree = make_corpus((4, 4, 4), emotions=("happy", "sad"))
    for emotion, zero, nan in (("happy", 0.0, 0x7FC00000), ("sad", -0.0, 0xFFC12345)):
        audio = tree[emotion]["train"]["covarep"].astype("f4")
        audio[1, 1], audio[2, 2] = zero, np.array([nan], "u4").view("f4")[0]
        tree[emotion]["train"]["covarep"] = audio
    rows = read(tree).rows["train"]
    assert (len(rows), rows.shared) == (4, 4)


@pytest.mark.parametrize("kind", ["complex64", "S3"])
def test_what_is_no_number_is_called_by_its_name(read, kind):
    tree = make_corpus()
    tree["sad"]["train"]["facet"] = np.zeros((12, 4), kind)
    name = {"complex64": "complex numbers", "S3": "bytes"}[kind]
    with pytest.raises(
        DataError, match=rf"data\['sad'\]\['train'\]\['video'\] must be an array of numbers, but holds {name} \("
    ):
        read(tree)


def test_exactly_as_many_labels_as_allowed(read, monkeypatch):
    monkeypatch.setattr(corpus_module, "MOST_LABELS", 12 * 4)
    assert len(read(make_corpus()).rows["train"]) == 12
    monkeypatch.setattr(corpus_module, "MOST_LABELS", 12 * 4 - 1)
    with monkeypatch.context() as patch:
        patch.setattr(PickledCorpus, "_array", lambda *which: pytest.fail("nothing is read before it is counted"))
        with pytest.raises(DataError, match="must hold at most 47 labels in train, but holds 48"):
            read(make_corpus())
    monkeypatch.setattr(corpus_module, "MOST_EMOTIONS", 4)
    monkeypatch.setattr(corpus_module, "MOST_LABELS", 99)
    assert len(read(make_corpus()).emotions) == 4


def test_a_single_number_is_no_column_of_labels(read):
    tree = make_corpus()
    tree["sad"]["train"]["label"] = np.array(1)
    with pytest.raises(DataError, match="must have the same number of rows in every feature, but has .*'labels': 0"):
        read(tree)
