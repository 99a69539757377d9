import hashlib
import pickle

import numpy as np
import pytest

from lmf_multitask.data.sample import PREVALENCE, ROWS, builtin_sample, sample_clips, write_sample


@pytest.fixture(scope="module")
def tree(tmp_path_factory):
    path = write_sample(tmp_path_factory.mktemp("sample") / "s.pkl", "tiny")
    return pickle.loads(path.read_bytes(), encoding="bytes")


def test_layout_is_that_of_the_released_file(tree):
    assert set(tree) == {b"happy", b"sad", b"angry", b"neutral"}
    for splits in tree.values():
        assert set(splits) == {b"train", b"valid", b"test"}
        for name, features in splits.items():
            rows = ROWS["tiny"][name.decode()]
            assert features[b"covarep"].shape == (rows, 74)
            assert features[b"covarep"].dtype == np.float64
            assert features[b"facet"].shape == (rows, 35)
            assert features[b"facet"].dtype == np.float64
            assert features[b"glove"].shape == (rows, 20, 300)
            assert features[b"glove"].dtype == np.float32
            assert features[b"label"].shape == (rows, 2)
            assert features[b"label"].dtype == np.int64


def test_arrays_are_shared_between_emotions(tree):
    assert tree[b"happy"][b"train"][b"glove"] is tree[b"sad"][b"train"][b"glove"]
    assert tree[b"happy"][b"train"][b"label"] is not tree[b"sad"][b"train"][b"label"]


def test_emotions_are_exclusive_and_column_1_is_present(tree):
    for split in (b"train", b"valid", b"test"):
        labels = np.stack([tree[e][split][b"label"] for e in tree])
        assert (labels.sum(axis=2) == 1).all()
        assert (labels[:, :, 1].sum(axis=0) == 1).all()


def test_audio_has_nan_and_constant_columns(tree):
    audio = tree[b"happy"][b"train"][b"covarep"]
    assert 0 < np.isnan(audio).sum() < 0.01 * audio.size
    np.testing.assert_array_equal(np.nan_to_num(audio[:, 36:40]), 0)


def test_text_is_padded_at_the_end(tree):
    words = (tree[b"happy"][b"train"][b"glove"] != 0).any(axis=2)
    lengths = words.sum(axis=1)
    assert lengths.min() >= 2
    assert all(row[:n].all() and not row[n:].any() for row, n in zip(words, lengths))


def test_is_a_function_of_its_seed(tmp_path):
    first = write_sample(tmp_path / "a.pkl", "tiny", seed=3).read_bytes()
    assert write_sample(tmp_path / "b.pkl", "tiny", seed=3).read_bytes() == first
    assert write_sample(tmp_path / "c.pkl", "tiny", seed=4).read_bytes() != first


@pytest.mark.parametrize(
    ("scale", "digest"),  # recorded once; a change here changes every user's sample, and metrics in docs and configs
    [
        ("tiny", "af3d7388e4fb3cc66bf1726f3f2467af42ba628d0f9a731631fdcf17bdbc8be1"),
        ("small", "a9dac273cb659c6d3fdff6723338b5296fc54c12b63e3116b627382b5f2d91b0"),
    ],
)
def test_bytes_do_not_depend_on_the_machine(tmp_path, scale, digest):
    assert hashlib.sha256(write_sample(tmp_path / "s.pkl", scale).read_bytes()).hexdigest() == digest


def test_full_scale_has_the_corpus_rows_and_prevalence():
    assert ROWS["full"] == {"train": 2717, "valid": 798, "test": 938}
    np.testing.assert_allclose(PREVALENCE * 938, [135, 193, 227, 383])


def test_full_scale_stores_every_clip_once_per_emotion(tmp_path, monkeypatch):
    for scale in ("small", "full"):
        monkeypatch.setitem(ROWS, scale, {"train": 7, "valid": 3, "test": 4})
    small, full = (
        pickle.loads(write_sample(tmp_path / f"{scale}.pkl", scale, 5).read_bytes(), encoding="bytes")
        for scale in ("small", "full")
    )
    for emotion, splits in full.items():
        for split, features in splits.items():
            for name, values in features.items():
                np.testing.assert_array_equal(values, small[emotion][split][name])
                assert values is not full[b"sad"][split][name] or emotion == b"sad"


def test_some_clips_and_their_emotions():
    clips = sample_clips(500, seed=3)
    assert {name: values.shape for name, values in clips.items()} == {
        "audio": (500, 74), "video": (500, 35), "text": (500, 20, 300), "emotion": (500,),
    }  # fmt: skip
    shares = np.bincount(clips["emotion"], minlength=4) / 500
    np.testing.assert_allclose(shares, PREVALENCE, atol=0.06)
    # happy and neutral have one sign of text, sad and angry the other
    mean = clips["text"][:, :, :25].mean(axis=(1, 2))
    assert mean[np.isin(clips["emotion"], (0, 3))].mean() > 0 > mean[np.isin(clips["emotion"], (1, 2))].mean()
    np.testing.assert_array_equal(sample_clips(5)["video"], sample_clips(5, seed=0)["video"])
    assert not np.array_equal(sample_clips(5, seed=1)["video"], sample_clips(5, seed=0)["video"])


def test_signal_needs_more_than_one_modality():
    """A large draw: text alone or video alone stays far below what products of audio and video add."""
    from sklearn.linear_model import LogisticRegression
    from sklearn.metrics import recall_score

    from lmf_multitask.data.sample import _draw_split

    def features(split, names, products):
        words = split["glove"]
        parts = {
            "audio": np.nan_to_num(split["covarep"][:, :30]).mean(axis=1, keepdims=True),
            "arousal": split["facet"][:, :10].mean(axis=1, keepdims=True),
            "style": split["facet"][:, 10:25].mean(axis=1, keepdims=True),
            "text": words[:, :, :25].sum(axis=(1, 2))[:, None] / (words != 0).any(axis=2).sum(axis=1)[:, None],
        }
        columns = [parts[name] for name in names] + ([parts["audio"] * parts["style"]] if products else [])
        stacked = np.concatenate(columns, axis=1)
        return stacked / stacked.std(axis=0)

    train, test = (_draw_split(np.random.RandomState(seed), 1200) for seed in (1, 2))
    emotion = [np.argmax(split["label"][:, :, 1], axis=0) for split in (train, test)]

    def uar(names, products=False):
        # the best possible summaries of each modality: an upper bound for linear use of it
        model = LogisticRegression(C=100.0, max_iter=500, class_weight="balanced").fit(
            features(train, names, products), emotion[0]
        )
        return recall_score(emotion[1], model.predict(features(test, names, products)), average="macro")

    assert uar(["audio"]) < 0.35
    assert uar(["arousal", "style"]) < 0.60
    assert uar(["text"]) < 0.60
    everything = uar(["audio", "arousal", "style", "text"])
    assert everything < 0.90
    assert uar(["audio", "arousal", "style", "text"], products=True) > everything + 0.1


def test_nothing_is_left_of_a_failed_write(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(OSError):
        write_sample(tmp_path / "file" / "s.pkl")
    assert sorted(p.name for p in tmp_path.iterdir()) == ["file"]


def test_builtin_sample_is_written_once():
    path = builtin_sample()
    before = path.stat().st_mtime_ns
    assert builtin_sample().stat().st_mtime_ns == before
