"""Real-valued label columns, and binary tasks derived from them, from file to data set."""

import numpy as np
import pytest

from lmf_multitask.data.columns import column_arrays
from lmf_multitask.data.config import DataConfig
from lmf_multitask.data.loading import inspect, load
from lmf_multitask.data.sample import sample_clips, write_sample
from lmf_multitask.data.targets import Target, parse_target
from lmf_multitask.errors import ConfigError, DataError

NAN = np.nan
SENTIMENT = np.array([2.0, 0.0, -1.5, NAN, 3.0, -3.0, 0.0, 0.5, -0.2, 1.0, 0.0, NAN])


@pytest.fixture
def npz(tmp_path):
    """Writes 12 clips, 6 / 3 / 3, with label arrays."""

    def write(**labels):
        rng = np.random.default_rng(0)
        features = {name: rng.normal(size=(12, 3)).astype("f4") for name in ("audio", "video", "text")}
        split = np.repeat(["train", "valid", "test"], [6, 3, 3])
        np.savez(tmp_path / "x.npz", split=split, **features, **labels)
        return tmp_path / "x.npz"

    return write


def labels_of(loaded):
    return np.concatenate([column_arrays(rows)["labels"] for rows in loaded.dataset.values()])


@pytest.mark.parametrize(
    ("text", "target"),
    [
        ("happy", Target("happy")),
        ("happy:binary", Target("happy", "binary")),
        ("valence:regression", Target("valence", "regression")),
        ("s:regression:-3:3", Target("s", "regression", (-3.0, 3.0))),
        ("s:regression:train", Target("s", "regression", range_of_train=True)),
        ("p:above:s", Target("p", "binary", source="s")),
        ("p:above:s:-0.5", Target("p", "binary", source="s", threshold=-0.5)),
        ("p:above:s:1234.5678", Target("p", "binary", source="s", threshold=1234.5678)),
    ],
)
def test_targets_as_text(text, target):
    assert parse_target(text) == target
    if target.kind != "binary" or target.source:
        assert parse_target(str(target)) == target


@pytest.mark.parametrize(
    "text",
    [
        "s:regression:3",
        "s:regression:test",
        "s:regression:3:-3",
        "s:regression:0:nan",
        "p:above",
        "p:above:s:x",
        "s:binary:1",
    ],
)
def test_wrong_targets(text):
    with pytest.raises(ConfigError, match="a task must be NAME, NAME:binary, NAME:regression, .* but got"):
        parse_target(text)


def test_the_values_of_a_known_target_decide(npz):
    loaded = load(npz(sentiment=SENTIMENT, positive=(SENTIMENT > 0).astype(int)))
    assert loaded.targets == [Target("sentiment", "regression", (-3.0, 3.0)), Target("positive", "binary")]
    np.testing.assert_array_equal(labels_of(loaded)[:, 0], SENTIMENT.astype("f4"))
    assert "sentiment: real-valued (regression), since not all values are 0 and 1" in loaded.notes
    assert any(note.startswith("sentiment: range -3 to 3 assumed") for note in loaded.notes)
    binary = load(npz(sentiment=np.array([0, 1, -100] * 4)))
    assert binary.targets == [Target("sentiment", "binary")]
    np.testing.assert_array_equal(labels_of(binary)[:, 0], [0, 1, NAN] * 4)


def test_a_range_is_assumed_only_where_it_fits(npz):
    assert load(npz(sentiment=SENTIMENT / 3)).targets[0].range is None  # from -1 to 1, as in CH-SIMS
    assert load(npz(sentiment=SENTIMENT * 2)).targets[0].range is None
    assert load(npz(valence=SENTIMENT)).targets[0].range is None
    assert load(npz(sentiment=SENTIMENT), ["sentiment:regression:-4:4"]).targets[0].range == (-4, 4)


def test_any_column_can_be_asked_for(npz):
    path = npz(pace=SENTIMENT * 10, Valence=SENTIMENT, happy=(SENTIMENT > 0).astype(int))
    assert load(path).emotions == ["valence", "happy"]
    loaded = load(path, ["happy", "pace:regression"])
    assert loaded.emotions == ["happy", "pace"]
    np.testing.assert_array_equal(labels_of(loaded)[:, 1], (SENTIMENT * 10).astype("f4"))
    assert load(path, ["happy:regression"]).targets == [Target("happy", "regression")]


@pytest.mark.parametrize(("choice", "at_zero"), [("absent", 0.0), ("not_annotated", NAN)])
def test_derived_tasks(npz, choice, at_zero):
    loaded = load(
        npz(sentiment=SENTIMENT), ["positive:above:sentiment", "sentiment", "strong:above:sentiment:1"], DataConfig(at_threshold=choice)
    )  # fmt: skip
    assert loaded.emotions == ["positive", "sentiment", "strong"]
    known = SENTIMENT[~np.isnan(SENTIMENT)]  # clips without any label are left out
    found = labels_of(loaded)
    np.testing.assert_array_equal(found[:, 0], np.where(known == 0, at_zero, known > 0))
    np.testing.assert_array_equal(found[:, 2], np.where(known == 1, at_zero, known > 1))
    assert any(
        note
        == f"positive: present where sentiment is above 0; 3 clip(s) with exactly that are {choice.replace('_', ' ')} "
        "(data.at_threshold)"
        for note in loaded.notes
    )


def test_clips_without_any_wanted_label_are_left_out(npz):
    loaded = load(npz(sentiment=SENTIMENT, happy=np.ones(12, int)), ["sentiment"])
    np.testing.assert_array_equal(labels_of(loaded)[:, 0], SENTIMENT[~np.isnan(SENTIMENT)].astype("f4"))


def test_inspect_shows_mean_and_std(npz):
    text = inspect(npz(sentiment=SENTIMENT, happy=(SENTIMENT > 0).astype(int)))
    known = SENTIMENT[:6][~np.isnan(SENTIMENT[:6])]
    assert f"train       {known.mean():.3f} ± {known.std():.3f}, -3 to 3 (5 annotated)" in text
    assert "emotions   happy (one emotion)" in text
    assert "targets    sentiment (real numbers" in text


@pytest.mark.parametrize(
    ("labels", "tasks", "message"),
    [
        (
            {"happy": SENTIMENT},
            None,
            "labels of 'happy' must be 0 or 1, .* For real numbers, name the task NAME:regression in --tasks",
        ),
        ({"sentiment": SENTIMENT}, ["sentiment:binary"], "labels of 'sentiment' must be 0 or 1"),
        (
            {"sentiment": SENTIMENT},
            ["sentiment:regression:-1:1"],
            "sentiment must be from -1 to 1, but is 2 in a clip of train",
        ),
        ({"sentiment": SENTIMENT}, ["p:above:valence"], "emotions must be among sentiment, but got 'valence'"),
        ({"sentiment": SENTIMENT}, ["sentiment", "sentiment:above:sentiment"], "must be one or more different names"),
        ({"valence": np.append(SENTIMENT[:11], np.inf)}, None, "labels of 'valence' must be finite, or NaN"),
    ],
)
def test_what_is_refused(npz, labels, tasks, message):
    with pytest.raises(DataError, match=message):
        load(npz(**labels), tasks)


def test_the_sample_with_targets(tmp_path):
    path = write_sample(tmp_path / "s.npz", "tiny", targets=["valence", "arousal"])
    assert write_sample(tmp_path / "t.npz", "tiny", targets=["valence", "arousal"]).read_bytes() == path.read_bytes()
    loaded = load(path)
    assert [str(one) for one in loaded.targets] == [
        "happy",
        "sad",
        "angry",
        "neutral",
        "valence:regression",
        "arousal:regression",
    ]
    labels = labels_of(loaded)
    emotion = labels[:, :4].argmax(axis=1)
    np.testing.assert_array_equal(np.sign(labels[:, 4]), np.array([1, -1, -1, 1])[emotion])
    np.testing.assert_array_equal(np.sign(labels[:, 5]), np.array([1, -1, 1, -1])[emotion])
    assert np.abs(labels[:, 4:]).min() >= 0.5 and np.abs(labels[:, 4:]).max() <= 1.5
    train = column_arrays(loaded.dataset["train"])
    words = np.asarray(train["text"])[:, :, :25].sum(axis=(1, 2)) / (np.asarray(train["text"]) != 0).any(axis=2).sum(
        axis=1
    )
    assert np.corrcoef(words, train["labels"][:, 4])[0, 1] > 0.9
    assert set(sample_clips(2)) == {"audio", "video", "text", "emotion"}
    with pytest.raises(ConfigError, match="targets must be among valence, arousal, but got 'joy'"):
        write_sample(tmp_path / "u.npz", targets=["joy"])
