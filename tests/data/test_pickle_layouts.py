"""The public layouts of pickles: rows, labels, ids, padding and groups equal those put in."""

import bz2
import gzip
import lzma
import pickle

import joblib
import numpy as np
import pickle_layouts as layouts
import pytest
from commands import run_all
from conftest import shared_file, small_experiment, to_bytes_keys

from lmf_multitask.data.loading import convert, inspect
from lmf_multitask.data.sources import open_source
from lmf_multitask.errors import DataError

MODALITIES = ("audio", "video", "text")


def write(path, tree, protocol=4):
    path.write_bytes(pickle.dumps(tree, protocol=protocol))
    return path


def rows_of(source, split):
    ids, found = [], {name: [] for name in source.shapes}
    for names, block in source.blocks(split, 3):
        ids += names
        for name, values in block.items():
            found[name].append(values)
    return ids, {name: np.concatenate(values) for name, values in found.items()}


def check(source, clips, columns, ids=True):
    """Every split holds the clips, with the label columns `columns(one) -> [N, T]`."""
    assert list(source.splits) == list(clips)
    for split, one in clips.items():
        names, features = rows_of(source, split)
        for modality in source.shapes:
            values = one[modality] if one[modality].ndim == len(features[modality].shape) else one[modality][:, None]
            np.testing.assert_array_equal(features[modality], values)
        if ids:
            assert names == one["id"]
            assert source.groups(split) == one["group"]
        np.testing.assert_allclose(source.labels(split), columns(one), rtol=1e-6)


def sentiment_of(one):
    return one["sentiment"][:, None]


# -- split first


@pytest.mark.parametrize("steps", [None, 7])
@pytest.mark.parametrize("bytes_keys", [False, True])
def test_mult_iemocap(tmp_path, steps, bytes_keys):
    clips = layouts.make_clips(steps=steps, classes=4)
    tree = layouts.mult_iemocap(clips)
    source = open_source(write(tmp_path / "x.pkl", to_bytes_keys(tree) if bytes_keys else tree, protocol=2))
    assert source.emotions == list(layouts.MULT)
    assert source.label_column == 1
    check(source, clips, lambda one: layouts.one_per_class(one, 4), ids=False)
    assert source.groups("test") is None
    assert any("neutral, happy, sad, angry, MulT's order" in note for note in source.notes)
    assert "padded in front" in inspect(tmp_path / "x.pkl")


def test_mult_says_that_its_clips_are_those_of_the_released_file(tmp_path):
    clips = layouts.make_clips(rows=(2717, 798, 938), words=1, classes=4)
    clips["test"]["emotion"] = np.repeat(np.arange(4), (383, 135, 193, 227))
    path = write(tmp_path / "iemocap_data.pkl", layouts.mult_iemocap(clips))
    assert any("the same 2717/798/938 clips as LMF's iemocap.pkl" in note for note in open_source(path).notes)


def test_mult_mosei(tmp_path):
    clips = layouts.make_clips()
    source = open_source(write(tmp_path / "x.pkl", layouts.mult_mosei(clips)))
    assert (source.emotions, source.kinds) == (["sentiment"], {"sentiment": "regression"})
    for one in clips.values():
        one["id"] = [f"{group}_{n}_{n + 1}" for n, group in enumerate(one["group"])]
        one["audio"][0] = -np.inf
    check(source, clips, sentiment_of)
    assert "25 infinite" not in inspect(tmp_path / "x.pkl")
    assert "15 infinite set to 0" in inspect(tmp_path / "x.pkl")


@pytest.mark.parametrize(("values", "name"), [((0, 1), "humor"), ((-1, 1), "sarcasm")])
def test_humor_and_sarcasm(tmp_path, values, name):
    clips = layouts.make_clips(classes=2)
    tree = layouts.mult_mosei(clips)
    for part, one in zip(tree.values(), clips.values()):
        part["labels"] = np.array(values)[one["emotion"]].reshape(-1, 1, 1)
    source = open_source(write(tmp_path / f"{name}.pkl", tree))
    assert (source.emotions, source.kinds) == ([name], {})
    np.testing.assert_array_equal(source.labels("test")[:, 0], clips["test"]["emotion"])
    other = open_source(write(tmp_path / "data.pkl", tree), emotions=["laughter"])
    assert other.emotions == ["laughter"]


@pytest.mark.parametrize("protocol", [2, 4])
def test_mmsa(tmp_path, protocol):
    clips = layouts.make_clips(steps=6)
    source = open_source(write(tmp_path / "unaligned_50.pkl", layouts.mmsa(clips), protocol))
    assert source.emotions == ["sentiment", "neutral", "negative", "positive"]
    assert source.kinds == {"sentiment": "regression"}

    def columns(one):
        sign = np.sign(np.round(one["sentiment"]))
        return np.stack([one["sentiment"], sign == 0, sign == -1, sign == 1], axis=1)

    check(source, clips, columns)
    (ignored,) = (note for note in source.notes if note.startswith("ignored keys"))
    assert "text_bert" in ignored
    assert "audio_lengths" in ignored


def test_sims(tmp_path):
    clips = layouts.make_clips(steps=6)
    path = write(tmp_path / "x.pkl", layouts.sims(clips))
    source = open_source(path)
    assert set(source.emotions) == {"sentiment", "neutral", "negative", "positive"}
    assert any("labels of single modalities" in note and "regression_labels_T" in note for note in source.notes)
    chosen = open_source(path, emotions=["sentiment", "regression_labels_T"])
    assert chosen.kinds["regression_labels_T"] == "regression"
    own = chosen.labels("test")[:, chosen.emotions.index("regression_labels_T")]
    np.testing.assert_array_equal(own, -clips["test"]["sentiment"])


def test_lmf_mosi_and_pom(tmp_path):
    clips = layouts.make_clips()
    check(
        open_source(write(tmp_path / "mosi.pkl", to_bytes_keys(layouts.lmf(clips)), 2)), clips, sentiment_of, ids=False
    )
    rng = np.random.default_rng(1)
    for one in clips.values():
        one["traits"] = rng.uniform(1, 7, (len(one["id"]), 16))
    source = open_source(write(tmp_path / "pom.pkl", to_bytes_keys(layouts.lmf(clips, "traits")), 2))
    assert source.emotions[:2] == ["confident", "passionate"]
    assert len(source.kinds) == 16
    check(source, clips, lambda one: one["traits"], ids=False)
    with pytest.raises(DataError, match="the 3 label columns must have names"):
        for part in (tree := layouts.lmf(clips, "traits")).values():
            part["label"] = part["label"][:, :3]
        open_source(write(tmp_path / "three.pkl", tree)).labels("test")


def test_class_numbers_need_names(tmp_path):
    clips = layouts.make_clips(classes=3)
    tree = layouts.lmf(clips)
    for part, one in zip(tree.values(), clips.values()):
        part["label"] = one["emotion"]
    path = write(tmp_path / "x.pkl", tree)
    assert "labels cannot be used: the 3 label columns must have names" in inspect(path)
    source = open_source(path, emotions=["calm", "tense", "bored"])
    check(source, clips, lambda one: layouts.one_per_class(one, 3), ids=False)


def test_without_labels_and_without_splits(tmp_path):
    clips = layouts.make_clips()
    tree = {"test": {name: clips["test"][name] for name in MODALITIES}}
    source = open_source(write(tmp_path / "x.pkl", tree), "test")
    np.testing.assert_array_equal(rows_of(source, "test")[1]["text"], clips["test"]["text"])
    with pytest.raises(DataError, match="must have labels"):
        source.labels("test")
    flat = open_source(write(tmp_path / "flat.pkl", tree["test"]))
    assert flat.splits == {"all": 10}


def test_classes_that_cannot_be_names_do_not_hide_the_sentiment(tmp_path):
    clips = layouts.make_clips()
    path = write(tmp_path / "x.pkl", layouts.mmsa(clips, ("very bad", "a/b", "good")))
    source = open_source(path)
    assert source.emotions == ["sentiment", "neutral", "negative", "positive"]  # the numbers are used
    assert any(note.startswith("annotations are not used") for note in source.notes)
    weak = open_source(write(tmp_path / "y.pkl", layouts.mmsa(clips, ("Weakly Negative", "Neutral", "good"))))
    assert weak.emotions == ["sentiment", "neutral", "Weakly_Negative", "good"]


@pytest.mark.parametrize(
    ("ids", "groups"),
    [
        (["a$_$0", "a$_$1", "b$_$0"], ["a", "a", "b"]),
        (["a[0]", "a[12]", "b c[3]"], ["a", "a", "b c"]),
        (np.array([["a", "0"], ["a", "1"], ["b", "0"]]), ["a", "a", "b"]),
        (np.array([[b"a"], [b"b"], [b"c"]]), None),
        (["a$_$0", "a$_$1", "b"], None),
    ],
)
def test_groups_of_usual_ids(tmp_path, ids, groups):
    tree = {
        "test": {"audio": np.ones((3, 2)), "id": ids, "speaker": np.array(["x", None, 7], object), "who": [1, 2, 3]}
    }
    source = open_source(write(tmp_path / "x.pkl", tree))
    assert source.groups("test") == groups
    assert source.column_texts("test", "who") == ["1", "2", "3"]
    assert source.column_texts("test", "speaker") == ["x", "", "7"]
    assert source.column_texts("test", "nobody") is None


def test_token_ids_are_no_features(tmp_path):
    tree = layouts.mmsa(layouts.make_clips())
    for part in tree.values():
        part["text"] = part.pop("text_bert")
    with pytest.raises(DataError, match="text must be features, such as word vectors, but is BERT's token ids"):
        rows_of(open_source(write(tmp_path / "x.pkl", tree)), "test")


WRONG = {
    "text as features": (lambda part: part.update(text=np.array(["a"] * 10)), r"data\['test'\]\['text'\] must be an array of numbers, but holds text"),
    "objects as features": (lambda part: part.update(text=np.array(["a"] * 10, object)), r"data\['test'\]\['text'\] must be an array of numbers, but holds text"),
    "fewer rows": (lambda part: part.update(audio=part["audio"][:3]), r"data\['test'\] must have the same number of rows in every feature"),
    "another size": (lambda part: part.update(audio=part["audio"][:, :3]), r"audio must have one size everywhere, but has \[5\] in train and \[3\] in test"),
    "no rows": (lambda part: part.update({name: part[name][:0] for name in ("audio", "vision", "text")}), "must have at least one row"),
    "four dimensions": (lambda part: part.update(audio=np.zeros((10, 2, 2, 2))), r"must have the shape \[rows, features\]"),
}  # fmt: skip


@pytest.mark.parametrize("name", WRONG)
def test_wrong_parts_are_named(tmp_path, name):
    tree = layouts.mmsa(layouts.make_clips())
    WRONG[name][0](tree["test"])
    with pytest.raises(DataError, match=WRONG[name][1]):
        open_source(write(tmp_path / "x.pkl", tree))


def test_wrong_labels_are_no_error_before_they_are_asked_for(tmp_path):
    clips = layouts.make_clips(classes=4)
    tree = layouts.mult_iemocap(clips)
    tree["test"]["labels"] = np.zeros((3, 4, 2))
    source = open_source(write(tmp_path / "x.pkl", tree), "test")
    assert len(rows_of(source, "test")[0]) == 10
    with pytest.raises(
        DataError, match=r"data\['test'\]\['labels'\] must have one row per clip, 10, but has the shape \[3, 4, 2\]"
    ):
        source.labels("test")


# -- dialogues


@pytest.mark.parametrize("form", ["9", "9 of MELD", "10", "12", "13"])
def test_dialogue_tuples(tmp_path, form):
    meld = form in ("9 of MELD", "10", "13")
    clips = layouts.make_clips(rows=(60, 0, 12), words=1, classes=7 if meld else 6)
    del clips["validation"]
    clips = {split: {**one, "text": one["text"][:, 0]} for split, one in clips.items()}
    path = write(tmp_path / "x.pkl", layouts.dialogue_tuple(clips, form), protocol=2)
    source = open_source(path)
    assert source.emotions == list(layouts.MELD if meld else layouts.SIX_WAY)
    assert set(source.shapes) == ({"audio", "text"} if form == "9 of MELD" else set(MODALITIES))
    assert source.splits == {"train": 54, "validation": 6, "test": 12}
    (note,) = (note for note in source.notes if "were drawn for it" in note)
    assert note.startswith(
        "no validation split: 3 of the 30 training dialogues were drawn for it, whole (seed 0): video"
    )
    groups = {split: set(source.groups(split)) for split in source.splits}
    assert len(groups["validation"]) == 3
    assert not groups["validation"] & groups["train"]
    assert [sorted(open_source(path, split).groups(split)) for split in groups] == [
        sorted(source.groups(s)) for s in groups
    ]
    every = {name: np.concatenate([one[name] for one in clips.values()]) for name in (*source.shapes, "emotion")}
    number = {clip: n for n, clip in enumerate([clip for one in clips.values() for clip in one["id"]])}
    for split in source.splits:
        ids, features = rows_of(source, split)
        rows = [number[clip] for clip in ids]
        for modality, values in features.items():
            np.testing.assert_array_equal(values.reshape(len(ids), -1), every[modality][rows])
        np.testing.assert_array_equal(source.labels(split), np.eye(len(source.emotions))[every["emotion"][rows]])


def test_dialogues_of_four_classes_and_numbered_ids(tmp_path):
    clips = layouts.make_clips(rows=(20, 0, 6), words=1, classes=4)
    del clips["validation"]
    for one in clips.values():
        one["id"] = [str(n % 2) for n in range(len(one["id"]))]
        one["group"] = [f"Ses0{group[5:]:0>2}_impro" for group in one["group"]]
    source = open_source(write(tmp_path / "x.pkl", layouts.dialogue_tuple(clips)))
    assert source.emotions == ["happy", "sad", "neutral", "angry"]
    assert len(set(rows_of(source, "test")[0])) == 6


def as_bytes(tree):
    """All texts as bytes, as a pickle of Python 2 gives them."""
    if isinstance(tree, dict):
        return {as_bytes(key): as_bytes(value) for key, value in tree.items()}
    if isinstance(tree, (list, tuple, set)):
        return type(tree)(map(as_bytes, tree))
    return tree.encode("latin-1") if isinstance(tree, str) else tree


def test_dialogues_of_python_2(tmp_path):
    clips = layouts.make_clips(rows=(20, 0, 6), words=1)
    clips = {split: {**clips[split], "text": clips[split]["text"][:, 0]} for split in ("train", "test")}
    sources = [
        open_source(write(tmp_path / f"{name}.pkl", tree, protocol=2))
        for name, tree in (("3", layouts.dialogue_tuple(clips)), ("2", as_bytes(layouts.dialogue_tuple(clips))))
    ]
    for split in ("train", "validation", "test"):
        found = [dict(zip(rows_of(source, split)[0], source.labels(split).tolist())) for source in sources]
        assert found[0] == found[1]
        assert sorted(sources[0].groups(split)) == sorted(sources[1].groups(split))


def test_dialogues_that_are_in_both_splits_or_in_none(tmp_path):
    clips = layouts.make_clips(rows=(20, 0, 6), words=1)
    del clips["validation"]
    *parts, train, test = layouts.dialogue_tuple(clips)
    train = sorted(train)
    path = write(tmp_path / "x.pkl", (*parts, train[1:], [*test, train[1]]))
    notes = open_source(path).notes
    assert any(note.startswith(f"1 dialogue(s) are in neither train nor test: {train[0]}") for note in notes)
    assert any(note.startswith("1 dialogue(s) of test are also in train: results on test are too") for note in notes)


def test_corect(tmp_path):
    clips = layouts.make_clips()
    source = open_source(write(tmp_path / "data_iemocap.pkl", layouts.corect(clips)))
    for one in clips.values():
        seen = {}
        one["id"] = [
            f"{name}_{seen.setdefault(name, -1) + 1:03d}"
            for name in one["group"]
            if not seen.update({name: seen.get(name, -1) + (name in seen)})
        ]
    assert source.emotions == list(layouts.SIX_WAY)
    check(source, clips, lambda one: layouts.one_per_class(one, 6))


def test_dialogues_without_labels(tmp_path):
    tree = layouts.corect(layouts.make_clips())
    for one in tree["test"]:
        del one["labels"]
    source = open_source(write(tmp_path / "x.pkl", {"test": tree["test"]}), "test")
    assert source.splits == {"test": 10}
    with pytest.raises(DataError, match="must have one label per utterance, but has none for some"):
        source.labels("test")


def test_user_classes_are_refused_with_what_to_do(tmp_path):
    content = b"\x80\x03}X\x05\x00\x00\x00train]ccogmen.Sample\nSample\n)\x81}baas."
    (tmp_path / "x.pkl").write_bytes(content)
    with pytest.raises(
        DataError, match="names cogmen.Sample.Sample .* load it with the code that defines Sample, and save"
    ):
        open_source(tmp_path / "x.pkl")


@pytest.mark.parametrize("classes", [2, 6])
def test_bc_lstm(tmp_path, classes):
    clips = layouts.make_clips(rows=(40, 0, 10), words=1, classes=classes)
    del clips["validation"]
    clips = {split: {**one, "text": one["text"][:, 0]} for split, one in clips.items()}
    for modality in MODALITIES:
        write(tmp_path / f"{modality}_{classes}way.pickle", layouts.bc_lstm(clips, modality, classes), protocol=2)
    source = open_source(tmp_path)
    assert source.emotions == (["label"] if classes == 2 else list(layouts.SIX_WAY))
    assert source.splits == {"train": 36, "validation": 4, "test": 10}
    ids, features = rows_of(source, "test")
    np.testing.assert_array_equal(features["text"][:, 0], clips["test"]["text"])
    expected = layouts.one_per_class(clips["test"], classes)
    np.testing.assert_array_equal(source.labels("test"), expected[:, 1:] if classes == 2 else expected)
    assert len(set(source.groups("test"))) == 5
    one = open_source(tmp_path / f"audio_{classes}way.pickle", "test")
    np.testing.assert_array_equal(rows_of(one, "test")[1]["audio"], clips["test"]["audio"])
    assert list(one.shapes) == ["audio"]


# -- compressed, and joblib


@pytest.mark.parametrize("protocol", [2, 4, 5])
def test_joblib(tmp_path, protocol):
    clips = layouts.make_clips(rows=(400, 8, 10))  # arrays in memory, and left in the file
    for name, options in (("x.joblib", {}), ("x.z", {"compress": 3}), ("x.gz", {"compress": "gzip"})):
        joblib.dump(layouts.mmsa(clips), tmp_path / name, protocol=protocol, **options)
        source = open_source(tmp_path / name)
        assert rows_of(source, "test")[0] == clips["test"]["id"]
        np.testing.assert_array_equal(rows_of(source, "train")[1]["text"], clips["train"]["text"])


@pytest.mark.parametrize(
    "compress",
    [gzip.compress, bz2.compress, lzma.compress, lambda raw: lzma.compress(raw, lzma.FORMAT_ALONE)],
)
def test_compressed_pickles(tmp_path, compress):
    clips = layouts.make_clips(rows=(400, 8, 10))
    raw = pickle.dumps(layouts.mmsa(clips))
    path = tmp_path / "x.pkl.any"
    path.write_bytes(compress(raw))
    source = open_source(path)
    np.testing.assert_array_equal(rows_of(source, "train")[1]["text"], clips["train"]["text"])
    path.write_bytes(compress(raw)[:-200])
    with pytest.raises(DataError, match="must be a whole compressed file, but is damaged"):
        open_source(path)


# -- real features, in every layout


def test_mosi_in_every_layout(tmp_path):
    """The same rows and labels from all of them; 573 clips of test, which no layout reorders."""
    with np.load(shared_file("data/mosi/mosi.npz")) as file:
        arrays = {name: file[name] for name in file.files}
    clips = {}
    for split in layouts.SPLITS:
        rows = np.flatnonzero(arrays["split"] == split)
        rows = rows[np.argsort(arrays["group"][rows], kind="stable")]
        one = {name: arrays[name][rows] for name in (*MODALITIES, "sentiment")}
        clips[split] = {**one, "id": arrays["id"][rows].tolist(), "group": arrays["group"][rows].tolist()}
    trees = {
        "mult": layouts.mult_mosei({s: {**one, "audio": np.concatenate([one["audio"]])} for s, one in clips.items()}),
        "mmsa": layouts.mmsa({s: {**one, "text": one["text"][:, None]} for s, one in clips.items()}),
        "mosi": layouts.lmf(clips),
        "dialogues": layouts.dialogue_tuple(clips, labels="sentiment"),
    }
    for name, tree in trees.items():
        source = open_source(write(tmp_path / f"{name}.pkl", tree), "test")
        ids, features = rows_of(source, "test")
        assert len(ids) == 573
        for modality in MODALITIES:
            start = 1 if (name, modality) == ("mult", "audio") else 0  # row 0 is -inf there
            found = features[modality].reshape(573, -1)[start:]
            np.testing.assert_array_equal(found, clips["test"][modality][start:])
        assert "sentiment" in source.emotions
        column = source.labels("test")[:, source.emotions.index("sentiment")]
        np.testing.assert_allclose(column, clips["test"]["sentiment"], rtol=1e-6)
        assert source.kinds["sentiment"] == "regression"


# -- end to end


FAMILIES = {
    "mult": (layouts.mult_iemocap, ["happy", "sad"]),
    "mmsa": (layouts.mmsa, ["negative", "positive"]),
    "dialogues": (layouts.dialogue_tuple, ["fun"]),
    "videos": (None, ["fun"]),
}


def write_family(folder, name):
    """The file or folder of a family, small enough to be trained on in a moment; dialogues have two classes."""
    clips = layouts.make_clips(rows=(40, 16, 20), words=1, classes=4 if name == "mult" else 2)
    clips = {split: {**one, "text": one["text"][:, 0]} for split, one in clips.items()}
    if name != "videos":
        return write(folder / f"{name}.pkl", FAMILIES[name][0](clips))
    for modality in MODALITIES:
        write(folder / f"{modality}_2way.pickle", layouts.bc_lstm(clips, modality))
    return folder


@pytest.mark.parametrize("name", FAMILIES)
def test_every_family_is_trained_and_evaluated(tmp_path, name):
    from lmf_multitask.pipeline.experiment import run_experiment
    from lmf_multitask.pipeline.reporting import evaluate_run

    path, run = write_family(tmp_path, name), tmp_path / "run"
    config = small_experiment(path, run, emotions=FAMILIES[name][1], epochs=1)
    assert run_experiment(config, report=False, quiet=True)["samples"] == 20
    found, _ = evaluate_run(run, str(path), "validation", "cpu", output_dir=tmp_path)
    assert list(found.metrics["emotions"]) == FAMILIES[name][1]


@pytest.mark.parametrize("name", ["mult", "dialogues", "videos"])  # MMSA has real labels, which tables cannot hold yet
def test_families_are_converted_to_the_same_rows(tmp_path, name):
    path = write_family(tmp_path, name)
    convert(path, tmp_path / "parquet", FAMILIES[name][1])
    source, copy = open_source(path, emotions=FAMILIES[name][1]), open_source(tmp_path / "parquet")
    order = [source.emotions.index(emotion) for emotion in copy.emotions]
    for split in source.splits:
        ids, features = rows_of(source, split)
        same_ids, same = rows_of(copy, split)
        assert ids == same_ids
        for modality in MODALITIES:
            np.testing.assert_array_equal(features[modality], same[modality])
        np.testing.assert_array_equal(source.labels(split)[:, order], copy.labels(split))


@pytest.mark.slow
def test_commands_on_every_family(tmp_path):
    for name, (_, tasks) in FAMILIES.items():
        (tmp_path / name).mkdir()
        path = write_family(tmp_path / name, name)
        settings = ["--emotions", *tasks, "--training.epochs", "1", "--training.batch_size", "16", "--device", "cpu"]
        commands = [
            ("lmf_multitask.data.__main__", ["inspect", path]),
            ("lmf_multitask.data.__main__", ["convert", path, f"parquet-{name}", "--emotions", *tasks]),
            ("lmf_multitask.train", ["--data_path", path, "--output_dir", f"run-{name}", *settings]),
            ("lmf_multitask.evaluate", [f"run-{name}", "--data_path", path]),
            ("lmf_multitask.export", [f"run-{name}", "--output_dir", f"model-{name}", "--format", "onnx"]),
            ("lmf_multitask.infer", [f"model-{name}", "--data_path", path, "--output_dir", f"out-{name}", "--all"]),
        ]
        for (module, arguments), (status, _out, errors) in zip(commands, run_all(commands, tmp_path)):
            assert status == 0, (module, arguments, errors)
        assert len((tmp_path / f"out-{name}" / "predictions.csv").read_text().splitlines()) == 1 + 76
