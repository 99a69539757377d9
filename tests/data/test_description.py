"""Cleaning and the report on a data set: what is counted, by hand, and its text."""

import numpy as np
import pytest

from lmf_multitask.data.cleaning import Cleaning, ModalityFacts, padding_side
from lmf_multitask.data.description import describe, file_note
from lmf_multitask.errors import DataError

# of the file that LMF_Paddle distributes, by the pointer that Git LFS keeps of it
RELEASED_SIZE = 764_739_145
RELEASED_SHA256 = "7f20c9f5245c3bcb3a4638e8577f0c81ee2dbdede56d44f165ce9ae69a9c5ad9"

# -- what is counted


def clean(features, modality, policy="zero"):
    """The facts about all rows, taken in two blocks."""
    found = Cleaning(modality, policy)
    for block in (features[:1], features[1:]):
        if len(block):
            found.take(block)
    return found.facts()


def test_numbers_that_are_not_finite_are_counted_and_replaced():
    features = np.array([[np.nan, 1, 0], [np.inf, -np.inf, 0], [np.nan, 2, 0]], "f4")
    facts = clean(features, "audio")
    np.testing.assert_array_equal(Cleaning("audio").take(features), [[0, 1, 0], [0, 0, 0], [0, 2, 0]])
    assert (facts.shape, facts.nan, facts.infinite, facts.missing) == ((3, 3), 2, 2, 1)
    assert (facts.smallest, facts.largest) == (0, 2)
    assert facts.constant_columns == [0, 2]
    assert (facts.lengths, facts.padded_clips) == (None, None)


@pytest.mark.parametrize(("odd", "said"), [(np.nan, "1 NaN and 0"), (-np.inf, "0 NaN and 1")])
def test_numbers_that_are_not_finite_can_be_refused(odd, said):
    features = np.array([[odd, 1.0]], "f4")
    with pytest.raises(DataError, match=f"video must be finite, but has {said} infinite values. Use --data.non_finite"):
        clean(features, "video", "error")
    assert clean(np.array([[3.0, 1.0]], "f4"), "video", "error").largest == 3


def clip(pattern):
    """One clip's words of two numbers; "x" stands for a word, "." for a step of zeros."""
    return [[0.0, 0.0] if letter == "." else [0.0, -1.5] for letter in pattern]


def facts_of(*patterns):
    return clean(np.array([clip(pattern) for pattern in patterns], "f4"), "text")


@pytest.mark.parametrize(
    ("patterns", "lengths", "padded", "side"),
    [
        (["xxxx"], (4, 4, 4), (0, 0, 0), "none"),
        (["x..."], (1, 1, 1), (0, 1, 0), "end"),
        (["...x"], (1, 1, 1), (1, 0, 0), "front"),
        ([".xx."], (2, 2, 2), (1, 1, 0), "both"),
        (["x.xx"], (4, 4, 4), (0, 0, 1), "none"),
        (["x.x.", "xx..", "xxxx", "...."], (2, 3, 4), (0, 2, 1), "end"),
        ([".x..", "xxx.", ".xxx"], (1, 3, 3), (2, 2, 0), "both"),
    ],
)
def test_where_text_is_padded(patterns, lengths, padded, side):
    facts = facts_of(*patterns)
    assert (facts.lengths, facts.padded_clips) == (lengths, padded)
    assert facts.missing == patterns.count("....")
    assert facts.constant_columns == []
    assert padding_side([facts]) == side


def test_text_without_a_word_has_no_padding():
    facts = facts_of("...")
    assert (facts.lengths, facts.padded_clips, facts.missing) == (None, None, 1)
    assert padding_side([facts, facts]) == "none"
    assert padding_side([facts, facts_of("x.")]) == "end"


def padded(front, end):
    return ModalityFacts((1, 1, 1), 0, 0, 0, 0.0, 0.0, padded_clips=(front, end, 0))


@pytest.mark.parametrize(
    ("front", "end", "side"),
    [(5, 100, "end"), (6, 100, "both"), (100, 5, "front"), (100, 6, "both"), (7, 7, "both"), (0, 1, "end")],
)
def test_one_clip_in_twenty_on_the_other_side_is_an_exception(front, end, side):
    assert padding_side([padded(front, end)]) == side
    assert padding_side([padded(0, end), padded(front, 0)]) == side


# -- how it is told


def lines_of(text):
    """Heading -> its lines."""
    found, head = {}, None
    for line in text.splitlines():
        head = line[:10].strip() or head
        found.setdefault(head, []).append(line[11:])
    return found


def report_on(audio=None, text=None, labels=((1, 0), (0, 1)), emotions=("calm", "tense")):
    """The report on one or several splits of the same two modalities; video is a column of ones."""
    splits = ("train", "validation", "test")[: len(audio)]
    facts = {
        split: {
            "audio": clean(np.array(audio[n], "f4"), "audio"),
            "video": clean(np.ones((len(audio[n]), 1), "f4"), "video"),
            "text": clean(np.array([clip(p) for p in text[n]], "f4"), "text"),
        }
        for n, split in enumerate(splits)
    }
    labels = {split: np.array(labels, float) for split in splits}
    return lines_of(describe(emotions, labels, facts, dtypes=dict.fromkeys(("audio", "video", "text"), "float32")))


def test_every_line_of_a_report():
    found = report_on(
        audio=[[[1.5, 0, np.nan, 4, 7, 7, 7], [-2, 0, 0, 5, 7, 7, 7]], [[0, 0, 0, 0, 0, 0, 0], [8, 0, np.inf, 1, 1, 1, 1]]],
        text=[["x...", "x.x."], ["xxx.", ".xxx"]],
    )  # fmt: skip
    assert found == {
        "emotions": ["calm, tense (exclusive: exactly one is present in every clip)"],
        "clips": [
            " " * 14 + "           train      validation",
            "all           " + "               2               2",
            "calm          " + "       1 (50.0%)       1 (50.0%)",
            "tense         " + "       1 (50.0%)       1 (50.0%)",
        ],
        "audio": [
            "7 numbers per clip, stored as float32, from -2 to 8; 1 NaN and 1 infinite set to 0; all zero in 1 of 4 clips; "
            "constant in train: columns 1-2, 4-6"
        ],
        "video": ["1 numbers per clip, stored as float32, from 1 to 1; all finite; constant in train: columns 0"],
        "text": [
            "4 x 2 numbers per clip, stored as float32, from -1.5 to 0; all finite",
            "1 to 3 steps, median 2 in train; padded on both sides (clips padded in front 1, at the end 3, with gaps 1)",
        ],
    }


@pytest.mark.parametrize(
    ("labels", "relation"),
    [
        ([[1, 0], [0, 1], [np.nan, 1]], "exclusive: exactly one is present in every clip"),
        ([[1, 0], [0, 0]], "at most one is present in a clip"),
        ([[1, 1], [0, 1]], "several can be present in one clip"),
        ([[1, np.nan], [np.nan, 1]], "several can be present in one clip"),
    ],
)
def test_relations_between_emotions(labels, relation):
    found = report_on(audio=[[[1.0]] * 2], text=[["x"] * 2], labels=labels)
    assert found["emotions"] == [f"calm, tense ({relation})"]


def test_shares_are_of_the_annotated_clips():
    labels = [[1, np.nan], [0, np.nan], [1, np.nan], [np.nan, np.nan]]
    found = report_on(audio=[[[1.0]] * 4], text=[["x"] * 4], labels=labels)
    assert [line.split(maxsplit=1) for line in found["clips"][2:]] == [
        ["calm", "2/3 (66.7%)"],
        ["tense", "0 (none annotated)"],
    ]
    alone = report_on(audio=[[[1.0]] * 4], text=[["x"] * 4], labels=[[1], [0], [1], [1]], emotions=["calm"])
    assert alone["emotions"] == ["calm (one emotion)"]
    assert alone["clips"][2].split(maxsplit=1) == ["calm", "3 (75.0%)"]


def test_a_modality_that_is_missing_everywhere():
    found = report_on(audio=[[[0.0]] * 2] * 2, text=[["."] * 2, ["x", "."]])
    assert found["audio"] == ["missing in every clip (all zero)"]
    assert found["text"][0].endswith("all finite; all zero in 3 of 4 clips")
    assert found["text"][1].startswith("1 to 1 steps, median 1 in train; padded nowhere")


@pytest.mark.parametrize(
    ("columns", "told"),
    [
        ([4], "4"),
        ([0, 1, 3], "0-1, 3"),
        ([0, 2, 4, 6, 8, 10, 12, 13], "0, 2, 4, 6, 8, 10, 12-13"),
        ([0, 2, 4, 6, 8, 10, 12, 14], "0, 2, 4, 6, 8, 10, 12, 14"),
        ([0, 2, 4, 6, 8, 10, 12, 14, 16], "0, 2, 4, 6, 8, 10, 12, 14 and more"),
    ],
)
def test_runs_of_columns(columns, told):
    features = np.arange(40, dtype="f4").reshape(2, 20)
    features[:, columns] = 1
    found = report_on(audio=[features], text=[["x"] * 2])
    assert found["audio"][0].endswith(f"; constant in train: columns {told}")


# -- notes


def test_which_file_it_is():
    assert file_note(1234, "00", [3, 1, 1]) == ["1,234 bytes, sha256 00 (not the released IEMOCAP file)"]
    (told,) = file_note(RELEASED_SIZE, RELEASED_SHA256, [2717, 798, 938])
    assert told.endswith("(this is the released IEMOCAP file)")
    assert file_note(RELEASED_SIZE, "00", [1, 1, 1])[1:] == [
        "the file is as long as the released one, but its splits are not (2717, 798, 938)"
    ]


def test_notes_come_first_and_files_may_lack_labels():
    facts = {"all": {name: clean(np.ones((2, 1), "f4"), name) for name in ("audio", "video", "text")}}
    found = describe([], {"all": np.empty((2, 0))}, facts, ["a note"], {"audio": "float64"})
    assert found.splitlines()[:2] == ["note       a note", "clips      all 2; no labels"]
