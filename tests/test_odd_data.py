"""Unusual data from training to inference: missing modalities, sequences, labels of every kind.

Each file is small and made up, and the commands are called as a user calls them.
"""

import csv
import json
import pickle

import numpy as np
import pytest

from lmf_multitask import evaluate, export, infer, report, train
from lmf_multitask.command_line import run

NAMES = {"audio": "covarep", "video": "facet", "text": "glove"}
SIZES = (40, 24, 24)
MODEL = [
    word
    for name, value in {
        "encoders.audio.hidden": 4,
        "encoders.video.hidden": 3,
        "encoders.text.state": 5,
        "encoders.text.hidden": 4,
        "fusion.rank": 2,
        "fusion.dim": 6,
    }.items()
    for word in (f"--model.{name}", str(value))
]
QUICK = [
    *MODEL,
    "--training.epochs",
    "2",
    "--training.batch_size",
    "16",
    "--training.learning_rate",
    "0.01",
    "--device",
    "cpu",
]


def corpus(labels, sizes=SIZES, gone=(), seed=0):
    """data[emotion][split][feature]; `labels` is (emotion, split, rows) -> 0/1 `[rows]`, a missing emotion's clips left out as -1."""
    rng = np.random.default_rng(seed)
    tree = {}
    for split, rows in zip(("train", "valid", "test"), sizes):
        features = {
            "audio": rng.normal(size=(rows, 5)),
            "video": rng.normal(size=(rows, 4)),
            "text": rng.normal(size=(rows, 6, 3)),
        }
        for emotion, values in labels(split, rows).items():
            known = values >= 0
            content = {NAMES[name]: array[known] for name, array in features.items() if name not in gone}
            tree.setdefault(emotion, {})[split] = {**content, "label": np.eye(2, dtype=int)[values[known]]}
    return tree


def several_at_once(count):
    """`count` emotions, none or several of them in a clip."""

    def labels(split, rows):
        drawn = (np.random.default_rng(len(split)).uniform(size=(rows, count)) < 0.3).astype(int)
        drawn[0], drawn[1] = 1, 0  # all of them, and none
        return {f"emotion{number}": drawn[:, number] for number in range(count)}

    return labels


def rare(split, rows):
    """One clip in a hundred is calm; nobody is tense in validation, nobody is bored in test."""
    none = np.zeros(rows, int)
    calm, tense, bored = none.copy(), none.copy(), none.copy()
    calm[:1] = 1
    tense[:: 1 if split == "validation" else 4] = split != "valid"
    bored[::5] = split != "test"
    return {"calm": calm, "tense": tense, "bored": bored}


def partly(split, rows):
    """Each emotion is annotated in some clips only; tense in no clip of validation and test that the others know."""
    values = np.arange(rows) % 2
    calm, tense = values.copy(), values[::-1].copy()
    calm[rows // 2 :] = -1
    tense[: rows // 4] = -1
    return {"calm": calm, "tense": tense}


def write(folder, tree):
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / "data.pkl"
    path.write_bytes(pickle.dumps(tree, protocol=2))
    return path


def whole_way(folder, path, capsys):
    """Trains, evaluates, reports, exports and infers; returns metrics.json and what was said."""
    steps = [
        (train.main, ["--data_path", path, "--output_dir", folder / "run", "--no_report", *QUICK]),
        (evaluate.main, [folder / "run", "--threshold", "uar", "--robustness"]),
        (report.main, [folder / "run"]),
        (export.main, [folder / "run", "--output_dir", folder / "model"]),
        (infer.main, [folder / "model", "--data_path", path, "--output_dir", folder / "prob", "--thresholds", "uar"]),
    ]
    for main, arguments in steps:
        status = run(main, [str(argument) for argument in arguments])
        said = capsys.readouterr()
        assert status == 0, said.err
        assert "Traceback" not in said.err
        yield said.out + said.err
    metrics = json.loads((folder / "run" / "metrics.json").read_text())
    again = json.loads((folder / "run" / "metrics_test.json").read_text())
    assert again["emotions"] == metrics["emotions"]


def metrics_of(folder):
    return json.loads((folder / "run" / "metrics.json").read_text())


def probabilities(folder, emotion):
    found = np.load(folder / "prob" / f"{emotion}_prob.npy")
    assert np.isfinite(found).all()
    return found


@pytest.mark.slow
@pytest.mark.parametrize("count", [1, 2, 3, 7, 12])
def test_any_number_of_emotions_several_in_a_clip(tmp_path, capsys, count):
    path = write(tmp_path, corpus(several_at_once(count)))
    list(whole_way(tmp_path, path, capsys))
    metrics = metrics_of(tmp_path)
    assert list(metrics["emotions"]) == sorted(f"emotion{number}" for number in range(count))
    assert metrics["exclusive"] is None
    for emotion in metrics["emotions"]:
        assert probabilities(tmp_path, emotion).shape == (24, 2)
    page = (tmp_path / "run" / "report.html").read_text()
    assert all(emotion in page for emotion in metrics["emotions"])


def test_rare_emotions_and_none_at_all_in_a_split(tmp_path, capsys):
    path = write(tmp_path, corpus(rare, (100, 24, 24)))
    said = list(whole_way(tmp_path, path, capsys))
    metrics = metrics_of(tmp_path)
    assert metrics["emotions"]["bored"]["positive_f1"] is None
    assert metrics["emotions"]["bored"]["undefined"]["auroc"] == "all annotated clips are absent"
    assert metrics["emotions"]["calm"]["support"] == 1
    assert metrics["calibration"]["emotions"]["tense"]["reason"] == "validation has only absent clips"
    assert "no clip of validation has tense: the best epoch is selected without" in said[0]
    assert "bored" in said[1] and "undefined" in said[1]
    found = json.loads((tmp_path / "run" / "robustness.json").read_text())
    assert found["subsets"][0]["emotions"]["tense"]["auroc"] is None
    assert probabilities(tmp_path, "calm").shape == (24, 2)


@pytest.mark.slow
def test_partly_annotated_clips(tmp_path, capsys):
    path = write(tmp_path, corpus(partly))
    list(whole_way(tmp_path, path, capsys))
    metrics = metrics_of(tmp_path)
    annotated = {name: values["annotated"] for name, values in metrics["emotions"].items()}
    assert annotated == {"calm": 12, "tense": 18}
    assert len(probabilities(tmp_path, "tense")) == 24
    with (tmp_path / "run" / "predictions.csv").open() as file:
        assert sum(row["calm_label"] == "" for row in csv.DictReader(file)) == 12


@pytest.mark.parametrize("gone", ["video", *(pytest.param(name, marks=pytest.mark.slow) for name in ("audio", "text"))])
def test_a_modality_that_no_clip_has(tmp_path, capsys, gone):
    path = write(tmp_path, corpus(several_at_once(2), gone=[gone]))
    said = list(whole_way(tmp_path, path, capsys))
    left = [name for name in NAMES if name != gone]
    assert said[0].count(f"{gone} is missing in every clip of train: the network is built without it") == 1
    config = (tmp_path / "run" / "config.yaml").read_text()
    assert "modalities:\n  - " + "\n  - ".join(left) in config
    found = json.loads((tmp_path / "run" / "robustness.json").read_text())
    assert [one["modalities"] for one in found["subsets"]] == [left, [left[0]], [left[1]]]
    assert gone not in said[4].replace(str(tmp_path), "")  # the model does not use it: nothing is missing
    # data that have it give the same metrics
    before = metrics_of(tmp_path)["emotions"]
    whole = write(tmp_path / "whole", corpus(several_at_once(2)))
    assert run(evaluate.main, [str(tmp_path / "run"), "--data_path", str(whole)]) == 0
    after = json.loads((tmp_path / "run" / "metrics_test.json").read_text())["emotions"]
    assert {e: f["weighted_f1"] for e, f in after.items()} == {e: f["weighted_f1"] for e, f in before.items()}


def test_a_model_of_all_modalities_does_without_one(tmp_path, capsys):
    path = write(tmp_path, corpus(several_at_once(2)))
    list(whole_way(tmp_path, path, capsys))
    tree = corpus(several_at_once(2))
    for splits in tree.values():
        for content in splits.values():
            content["facet"] = np.zeros_like(content["facet"])
    zeros, none = write(tmp_path / "zeros", tree), write(tmp_path / "none", corpus(several_at_once(2), gone=["video"]))
    values = []
    for data in (zeros, none):
        assert run(evaluate.main, [str(tmp_path / "run"), "--data_path", str(data)]) == 0
        assert "video is missing in every clip of test: the model predicts without it" in capsys.readouterr().err
        values.append(json.loads((tmp_path / "run" / "metrics_test.json").read_text())["emotions"])
        assert (
            run(infer.main, [str(tmp_path / "model"), "--data_path", str(data), "--output_dir", str(tmp_path / "prob")])
            == 0
        )
        said = capsys.readouterr().out
        assert "video is missing (absent, all zero or not finite) in 24 clips" in said
        assert "no clip has video: on validation the model's mean weighted F1 was" in said
        values.append(probabilities(tmp_path, "emotion0").tolist())
    assert values[:2] == values[2:]
    without_video = json.loads((tmp_path / "run" / "robustness.json").read_text())["subsets"][2]
    assert without_video["modalities"] == ["audio", "text"]


@pytest.mark.slow
def test_separate_models_without_a_modality(tmp_path, capfd):
    path = write(tmp_path, corpus(several_at_once(2), gone=["video"]))
    command = ["--mode", "per_emotion", "--data_path", str(path), "--output_dir", str(tmp_path / "runs"), *QUICK]
    for _ in range(2):  # the second time all is complete
        assert run(train.main, command) == 0
        said = capfd.readouterr().err
        assert said.count("video is missing in every clip of train") == 1
    assert "emotion0 is complete already" in said
    assert run(evaluate.main, [str(tmp_path / "runs"), "--robustness"]) == 0
    assert len(json.loads((tmp_path / "runs" / "robustness.json").read_text())["subsets"]) == 3


@pytest.mark.slow
def test_rows_without_a_modality_go_the_whole_way(tmp_path, capsys):
    tree = corpus(several_at_once(2))
    for splits in tree.values():
        for content in splits.values():
            content["covarep"][::3] = np.nan
            content["facet"][1::4] = 0
            content["glove"][2] = 0
    said = list(whole_way(tmp_path, write(tmp_path, tree), capsys))
    assert "audio is missing (all zero) in 14 of 40 clips of train" in said[0]
    assert "video is missing (all zero) in 10 of 40 clips of train" in said[0]
    assert "Clips that lack a modality in the data: audio 8, video 6, text 1." in said[1]
    assert "audio is missing (absent, all zero or not finite) in 8 clips" in said[4]


@pytest.mark.parametrize("monitor", ["positive_f1", "uar"])
def test_no_epoch_can_be_best_by_what_validation_leaves_undefined(tmp_path, capsys, monitor):
    path = write(tmp_path, corpus(rare))
    command = [
        "--data_path",
        str(path),
        "--output_dir",
        str(tmp_path / "run"),
        *QUICK,
        "--no_report",
        "--training.monitor",
        monitor,
    ]
    assert run(train.main, [*command, "--emotions", "tense"]) == 2
    assert (
        f"error: training.monitor must be a metric that the labels of validation define, but {monitor} is undefined for every"
        in capsys.readouterr().err
    )
    assert not (tmp_path / "run").exists()
    assert run(train.main, [*command, "--emotions", "tense", "bored"]) == 0  # bored defines it


def sequences(folder, rows=88):
    """An ``.npz`` file: audio as sequences of unequal length, video as sequences, text as one vector, split in capitals."""
    rng = np.random.default_rng(0)
    audio = rng.normal(size=(rows, 9, 5)).astype("f4")
    for row, length in enumerate(rng.integers(1, 10, rows)):
        audio[row, length:] = 0
    np.savez(
        folder / "x.npz",
        audio=audio,
        vision=rng.normal(size=(rows, 4, 4)),
        text=rng.normal(size=(rows, 3)),
        split=np.repeat(["Train", "Valid", "Test"], [40, 24, 24]),
        happy=np.where(np.arange(rows) % 7 == 0, np.nan, np.arange(rows) % 2),
    )
    return folder / "x.npz"


def test_sequences_of_every_modality(tmp_path, capsys):
    list(whole_way(tmp_path, sequences(tmp_path), capsys))
    assert len(probabilities(tmp_path, "happy")) == 24
    config = json.loads((tmp_path / "run/model/config.json").read_text())
    assert {name: one["shape"] for name, one in config["inputs"].items()} == {
        "audio": [9, 5],
        "video": [4, 4],
        "text": [1, 3],
    }
