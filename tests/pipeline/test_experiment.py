"""From settings to a run directory whose files agree with each other."""

import csv
import io
import json
import logging
import pickle
import shutil
import signal
import sys
import threading

import numpy as np
import pytest
import sklearn.metrics
import yaml
from conftest import EMOTIONS, make_corpus, shared_file, small_experiment
from safetensors.numpy import load_file

from lmf_multitask.errors import ConfigError, DataError, RunError, TrainingError, UserError
from lmf_multitask.pipeline import experiment
from lmf_multitask.pipeline.progress import Progress, epoch_line
from lmf_multitask.pipeline.reporting import evaluate_run
from lmf_multitask.pipeline.runs import Run
from lmf_multitask.pipeline.stages import load

import datasets  # isort: skip - paddlenlp must be imported before datasets

FILES = {
    "checkpoints", "config.yaml", "history.csv", "manifest.json", "metrics.json", "model", "origin.json", "predictions.csv",
    "predictions_logistic_regression.csv", "train.log",
}  # fmt: skip


def read_rows(path):
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def contents(folder):
    """Every file below a folder with its bytes."""
    return {str(p.relative_to(folder)): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}


def weights(folder):
    return {name: value.tobytes() for name, value in load_file(folder / "model" / "model.safetensors").items()}


def run_experiment(config, **options):
    """Without the report, which takes longer than the training."""
    return experiment.run_experiment(config, **{"report": False, "quiet": True, **options})


def evaluate(folder, data_path=None, **options):
    """Metrics of a run, as `lmf evaluate` writes them, and the files."""
    found, paths = evaluate_run(folder, data_path, device="cpu", **options)
    return found.metrics, paths


def test_other_data_are_read_with_the_label_column_of_the_run(tmp_path, write_pickle):
    """Exclusive emotions prove that column 0 means present; a file of one emotion proves nothing."""
    corpus = make_corpus(emotions=("happy", "sad", "angry"))
    for splits in corpus.values():
        for features in splits.values():
            features["label"] = features["label"][:, ::-1].copy()
    run = small_experiment(write_pickle(corpus), tmp_path / "run", emotions=["happy"], epochs=1)
    trained = experiment.run_experiment(run, quiet=True, report=False)
    found, _ = evaluate(tmp_path / "run", str(write_pickle({"happy": corpus["happy"]}, "one.pkl")))
    assert found["emotions"] == trained["emotions"]
    assert "labels: column 0 = present, as set by label_column" in "\n".join(found["data"]["notes"])


def same_run(a, b):
    assert weights(a) == weights(b)
    for name in ("history.csv", "predictions.csv"):
        assert (a / name).read_bytes() == (b / name).read_bytes(), name
    metrics = [json.loads((run / "metrics.json").read_text()) for run in (a, b)]
    for one in metrics:
        del one["data"]["notes"]  # on the layout of the file
    assert json.dumps(metrics[0]) == json.dumps(metrics[1])


# -- what a run leaves


def test_run_directory_is_complete(trained):
    folder, metrics = trained
    assert {path.name for path in folder.iterdir()} >= FILES
    assert json.loads((folder / "metrics.json").read_text()) == metrics
    assert list(metrics)[:6] == ["split", "samples", "seed", "emotions", "mean", "always_absent"]
    assert (metrics["split"], metrics["samples"], metrics["seed"]) == ("test", 19, 1)
    assert list(metrics["emotions"]) == list(EMOTIONS)
    assert set(metrics["baselines"]) == {"prevalence", "logistic_regression"}
    history = read_rows(folder / "history.csv")
    assert [row["epoch"] for row in history] == ["1", "2", "3", "4"]
    assert list(history[0])[:4] == ["epoch", "train_loss", "validation_loss", "validation_weighted_f1"]
    log = (folder / "train.log").read_text()
    for text in (
        "4 emotions (happy, sad, angry, neutral), 31 train / 16 validation / 19 test clips",
        "epoch   4/4",
        "settings:",
    ):
        assert text in log


def test_metrics_follow_from_the_predictions(trained):
    """scikit-learn on predictions.csv gives metrics.json."""
    folder, metrics = trained
    rows = read_rows(folder / "predictions.csv")
    assert [row["id"] for row in rows] == [f"test-{number:05d}" for number in range(19)]
    tasks = json.loads((folder / "model" / "config.json").read_text())["tasks"]
    means = []
    for number, emotion in enumerate(EMOTIONS):
        labels = [int(row[f"{emotion}_label"]) for row in rows]
        assert labels == [int(index % 4 == number) for index in range(19)]  # make_corpus deals emotions out in turn
        predicted = [int(row[f"{emotion}_prediction"]) for row in rows]
        threshold = tasks[number]["threshold"]
        assert predicted == [int(float(row[f"{emotion}_probability"]) > threshold) for row in rows]
        assert threshold == metrics["calibration"]["emotions"][emotion]["thresholds"]["weighted_f1"]
        found = metrics["emotions"][emotion]
        expected = {
            "weighted_f1": sklearn.metrics.f1_score(labels, predicted, average="weighted", zero_division=0.0),
            "accuracy": sklearn.metrics.accuracy_score(labels, predicted),
            "positive_f1": sklearn.metrics.f1_score(labels, predicted, zero_division=0.0),
            "uar": sklearn.metrics.balanced_accuracy_score(labels, predicted),
        }
        means.append(dict(expected))
        expected |= {"support": sum(labels), "annotated": 19}
        assert {name: found[name] for name in expected} == pytest.approx(expected, abs=1e-12)
        f1 = sklearn.metrics.f1_score(labels, [0] * 19, average="weighted", zero_division=0.0)
        assert metrics["always_absent"]["emotions"][emotion]["weighted_f1"] == pytest.approx(f1, abs=1e-12)
    expected = {name: np.mean([m[name] for m in means]) for name in means[0]}
    assert {name: metrics["mean"][name] for name in expected} == pytest.approx(expected, abs=1e-12)


def test_the_saved_model_is_that_of_the_best_epoch(trained):
    folder, _ = trained
    history = read_rows(folder / "history.csv")
    best = [row for row in history if row["best"] == "1"][-1]
    monitored = "validation_average_precision"
    assert float(best[monitored]) == max(float(row[monitored]) for row in history)
    copy = folder.parent / "copy-best"
    shutil.copytree(folder, copy)
    found, _ = evaluate(copy, split="validation")
    shutil.rmtree(copy)
    alone = found["network_alone"]["mean"]  # the linear model is fitted after the training
    for key in ("average_precision", "weighted_f1"):
        assert alone[key] == pytest.approx(float(best[f"validation_{key}"]), abs=1e-12)


def test_settings_run_again_to_the_same_bits(trained, tmp_path):
    folder, _ = trained
    config = Run(folder).load_config()
    assert config.emotions == list(EMOTIONS)
    config.output_dir = str(tmp_path / "again")
    run_experiment(config)
    same_run(folder, tmp_path / "again")


def test_another_seed_differs(trained, corpus_path, tmp_path):
    folder, _ = trained
    run_experiment(small_experiment(corpus_path, tmp_path / "run", seed=2))
    first, second = weights(folder), weights(tmp_path / "run")
    places = ("encoders.audio.norm", "encoders.video.norm", *(f"linear.norms.{m}" for m in ("audio", "video", "text")))
    of_the_data = {f"{place}.{part}" for place in places for part in ("mean", "std")}
    assert {name for name in first if first[name] == second[name]} == of_the_data | {"encoders.text.scale"}


def test_the_seed_gives_the_first_weights(corpus_path, tmp_path):
    """Hardly trained at all, runs of two seeds differ by what they began with, and not by the order of the clips only."""
    found = []
    for seed in (1, 2):
        folder = tmp_path / str(seed)
        run_experiment(small_experiment(corpus_path, folder, seed=seed, epochs=1, learning_rate=1e-9))
        found.append(load_file(folder / "model" / "model.safetensors"))
    for name in ("encoders.text.linear.weight", "fusion.factors.0", "heads.weight"):
        assert np.abs(found[0][name] - found[1][name]).mean() > 0.01, name


def numbers_in(content, name=""):
    """Every number of a metrics.json, by its path."""
    if isinstance(content, dict):
        return {k: v for key, value in content.items() for k, v in numbers_in(value, f"{name}/{key}").items()}
    if isinstance(content, list):
        return {k: v for key, value in enumerate(content) for k, v in numbers_in(value, f"{name}/{key}").items()}
    return {name: content} if isinstance(content, (int, float)) else {}


def test_batch_size_of_evaluation_does_not_matter(trained, corpus_path, tmp_path):
    folder, metrics = trained
    again = run_experiment(small_experiment(corpus_path, tmp_path / "run", eval_batch_size=3))
    first, second = weights(folder), weights(tmp_path / "run")
    # fitted on predictions of validation, which are rounded differently in batches of another size
    fitted = {f"linear.{name}" for name in ("weight", "bias", "scale")}
    assert {name for name in first if first[name] != second[name]} <= fitted
    for name in fitted:
        both = [np.frombuffer(found[name], "<f4") for found in (first, second)]
        np.testing.assert_allclose(*both, rtol=1e-4, atol=1e-5)
    found, same = numbers_in(again), numbers_in(metrics)
    assert found.keys() == same.keys()
    assert list(found.values()) == pytest.approx(list(same.values()), rel=1e-4, abs=1e-5)
    for one, other in zip(read_rows(folder / "history.csv"), read_rows(tmp_path / "run" / "history.csv")):
        assert list(map(float, one.values())) == pytest.approx(list(map(float, other.values())), rel=1e-5)


def test_evaluation_gives_the_same_metrics(trained, tmp_path):
    folder, metrics = trained
    shutil.copytree(folder, tmp_path / "run")
    again, paths = evaluate(tmp_path / "run")
    assert again == metrics
    names = ["metrics_test.json", "predictions_test.csv", "predictions_test_logistic_regression.csv"]
    assert paths == [tmp_path / "run" / name for name in names]
    assert json.loads(paths[0].read_text()) == metrics
    assert paths[1].read_bytes() == (folder / "predictions.csv").read_bytes()
    for split, samples in (("train", 31), ("validation", 16)):
        found, paths = evaluate(tmp_path / "run", split=split)
        assert (found["split"], found["samples"], len(read_rows(paths[1]))) == (split, samples, samples)
        assert [path.name for path in paths] == [
            f"metrics_{split}.json",
            f"predictions_{split}.csv",
            f"predictions_{split}_logistic_regression.csv",
        ]
    assert (tmp_path / "run" / "metrics.json").read_bytes() == (folder / "metrics.json").read_bytes()


def test_other_data_can_be_evaluated(trained, tmp_path, write_pickle):
    folder, _ = trained
    shutil.copytree(folder, tmp_path / "run")
    other = write_pickle(make_corpus(rows=(8, 8, 12), emotions=("neutral", "happy", "calm", "angry", "sad"), seed=3))
    found, _ = evaluate(tmp_path / "run", str(other))
    assert found["samples"] == 12
    assert [found["emotions"][e]["support"] for e in EMOTIONS] == [3, 2, 2, 3]  # of five emotions in turn


def test_a_file_without_splits_is_evaluated_as_a_whole(trained, tmp_path):
    parts = [make_corpus(rows=(8, 8, 12), seed=3)[emotion]["test"] for emotion in ("neutral", "happy", "sad", "angry")]
    tree = {**parts[0], "label": np.stack([part["label"] for part in parts], axis=1)}
    path = tmp_path / "whole.pkl"
    path.write_bytes(pickle.dumps(tree))
    for split in ("test", "train"):
        found, _ = evaluate(trained[0], str(path), split=split, output_dir=tmp_path)
        assert (found["split"], found["samples"]) == (split, 12)
        assert [found["emotions"][e]["support"] for e in EMOTIONS] == [3, 3, 3, 3]
        assert f"the file has no splits: all of its clips are taken as {split}" in found["data"]["notes"]
    path.write_bytes(pickle.dumps({"test": tree}))
    assert evaluate(trained[0], str(path), output_dir=tmp_path)[0]["samples"] == 12
    with pytest.raises(
        DataError, match="must have the split validation, but has test. Choose one of these with --split"
    ):
        evaluate(trained[0], str(path), split="validation", output_dir=tmp_path)


def test_wrong_data_for_a_model(trained, tmp_path, write_pickle):
    folder, _ = trained
    before = contents(folder)
    with pytest.raises(DataError, match="audio must be 5 numbers per clip, as in the model, but is 6 numbers per clip"):
        evaluate(folder, str(write_pickle(make_corpus(audio=6))))
    with pytest.raises(DataError, match="emotions must be among happy, sad, but got 'angry'"):
        evaluate(folder, str(write_pickle(make_corpus(emotions=("happy", "sad")))))
    with pytest.raises(DataError, match="nowhere.pkl: must be a readable file"):
        evaluate(folder, str(tmp_path / "nowhere.pkl"))
    with pytest.raises(RunError, match="must be a run directory"):
        evaluate(tmp_path / "nowhere")
    with pytest.raises(UserError, match="device must be one that Paddle can use"):
        evaluate_run(folder, device="gpu")
    assert contents(folder) == before


# -- labels


def with_gaps(rows=(31, 16, 19)):
    """Half of the clips are not annotated for sad: its arrays lack them."""
    tree = make_corpus(rows=rows)
    for split, content in tree["sad"].items():
        keep = np.arange(len(content["label"])) % 2 == 1
        tree["sad"][split] = {name: values[keep] for name, values in content.items()}
    return tree


def test_labels_that_are_missing_are_left_out(tmp_path, write_pickle):
    path = write_pickle(with_gaps())
    metrics = run_experiment(small_experiment(path, tmp_path / "run", epochs=2))
    annotated = {emotion: found["annotated"] for emotion, found in metrics["emotions"].items()}
    assert annotated == {"happy": 19, "sad": 9, "angry": 19, "neutral": 19}
    rows = read_rows(tmp_path / "run" / "predictions.csv")
    assert sum(row["sad_label"] == "" for row in rows) == 10
    assert all(0 < float(row["sad_probability"]) < 1 for row in rows)
    assert all(np.isfinite(float(row["train_loss"])) for row in read_rows(tmp_path / "run" / "history.csv"))
    again, _ = evaluate(tmp_path / "run")
    assert again == metrics


def test_missing_labels_do_not_tie_the_loss_to_the_batch_size(tmp_path, write_pickle):
    """The validation loss is the mean over annotated labels, however the clips fall into batches."""
    path = write_pickle(with_gaps())
    losses = []
    for size in (16, 3):
        folder = tmp_path / str(size)
        run_experiment(small_experiment(path, folder, epochs=2, eval_batch_size=size, monitor="loss"))
        losses.append([float(row["validation_loss"]) for row in read_rows(folder / "history.csv")])
    assert losses[0] == pytest.approx(losses[1], rel=1e-5)


@pytest.mark.parametrize("value", [0, 1])
def test_labels_of_one_class_are_refused(tmp_path, write_pickle, value):
    tree = make_corpus()
    tree["angry"]["train"]["label"] = np.eye(2, dtype=int)[[value] * 12]
    config = small_experiment(write_pickle(tree), tmp_path / "run")
    config.data.label_column = 1
    with pytest.raises(
        TrainingError,
        match=f"angry must be present in some clips of train and absent in others, but is present in {12 * value} of 12. Choose",
    ):
        run_experiment(config)
    assert not (tmp_path / "run").exists()
    config.emotions = ["happy", "sad"]
    run_experiment(config)


def test_validation_without_labels_of_an_emotion_is_said(tmp_path, caplog):
    rng = np.random.default_rng(0)
    (tmp_path / "data").mkdir()
    for split, rows in (("train", 12), ("validation", 6), ("test", 6)):
        columns = {
            "audio": rng.normal(size=(rows, 3)).tolist(),
            "video": rng.normal(size=(rows, 2)).tolist(),
            "text": rng.normal(size=(rows, 4, 3)).tolist(),
            "happy": [number % 2 for number in range(rows)],
            "sad": [-100 if split == "validation" else number % 3 // 2 for number in range(rows)],
        }
        datasets.Dataset.from_dict(columns).to_parquet(str(tmp_path / "data" / f"{split}.parquet"))
    with caplog.at_level(logging.WARNING, "lmf_multitask"):
        run_experiment(small_experiment(tmp_path / "data", tmp_path / "run", epochs=1))
    assert "validation has no label for sad: the best epoch is selected without" in caplog.text
    row = read_rows(tmp_path / "run" / "history.csv")[0]
    assert row["validation_weighted_f1"] == row["validation_happy_weighted_f1"]
    assert "validation_sad_weighted_f1" not in row


UNSEEN = "no clip of validation has %s: the best epoch is selected without, and no threshold is fitted"


@pytest.mark.parametrize(
    ("sad", "calm", "told"),
    [
        ([1, 0, 1, 0], [0, 0, 0, 1], []),
        ([1, 1, 1, 1], [0, 1, 0, 0], []),  # present in all is not unseen
        ([0, 0, 0, 0], [0, 1, 0, 0], [UNSEEN % "sad"]),
        ([0, -100, 0, 0], [-100, 0, 0, 0], [UNSEEN % "sad, calm"]),
        ([-100] * 4, [1, 0, 0, 0], ["validation has no label for sad: the best epoch is selected without"]),
    ],
)
def test_what_validation_lacks_is_said(tmp_path, caplog, sad, calm, told):
    for split, rows in (("train", 4), ("validation", 4), ("test", 4)):
        columns = {
            "audio": np.random.default_rng(rows).normal(size=(rows, 3)).tolist(),
            "happy": [0, 1, 0, 1],
            "sad": sad if split == "validation" else [0, 1, 1, 0],
            "calm": calm if split == "validation" else [1, 0, 1, 0],
        }
        datasets.Dataset.from_dict(columns).to_parquet(str(tmp_path / f"{split}.parquet"))
    config = small_experiment(tmp_path, tmp_path / "run")
    with caplog.at_level(logging.WARNING, "lmf_multitask"):
        load(config)
    about_validation = [message for message in caplog.messages if "missing in every clip" not in message]
    assert sorted(about_validation) == sorted(told)


def test_validation_without_any_label_is_refused(tmp_path):
    rng = np.random.default_rng(0)
    for split, rows in (("train", 4), ("validation", 3), ("test", 2)):
        columns = {
            "audio": rng.normal(size=(rows, 3)).tolist(),
            "happy": [-100] * rows if split == "validation" else [row % 2 for row in range(rows)],
        }
        datasets.Dataset.from_dict(columns).to_parquet(str(tmp_path / f"{split}.parquet"))
    with pytest.raises(
        TrainingError,
        match="validation must have annotated clips to select the best epoch, but has none. Annotate some",
    ):
        run_experiment(small_experiment(tmp_path, tmp_path / "run"))
    assert not (tmp_path / "run").exists()


def test_the_papers_model(tmp_path, corpus_path):
    model = {"fusion.dim": None, "fusion.skip": False, "linear": False}
    config = small_experiment(corpus_path, tmp_path / "run", emotions=["sad"], model=model, epochs=2)
    metrics = run_experiment(config)
    assert list(metrics["emotions"]) == ["sad"]
    assert "1 emotion (sad), 31 train / 16 validation / 19 test clips" in (tmp_path / "run" / "train.log").read_text()
    about = json.loads((tmp_path / "run" / "model" / "config.json").read_text())
    assert about["tasks"] == [{"name": "sad", "kind": "binary", "threshold": 0.5}]
    assert about["model"]["fusion"] == {"kind": "lmf", "rank": 2, "dim": None, "init": "variance", "skip": False}
    assert "network_alone" not in metrics
    assert "weights" not in metrics["calibration"]
    assert list(read_rows(tmp_path / "run" / "predictions.csv")[0]) == [
        "id",
        "sad_label",
        "sad_probability",
        "sad_prediction",
    ]


# -- the folder


def refused(error, match, folder, call):
    """The call is refused in one line and changes nothing."""
    before = contents(folder) if folder.is_dir() else None
    with pytest.raises(error, match=match) as caught:
        call()
    assert "\n" not in str(caught.value)
    if before is None:
        assert not folder.is_dir()
    else:
        assert contents(folder) == before


def test_a_run_is_not_overwritten_unasked(trained, corpus_path, tmp_path):
    folder = tmp_path / "run"
    shutil.copytree(trained[0], folder)
    config = small_experiment(corpus_path, folder, epochs=1)
    complete = "must be empty, but holds a complete run. Choose another --output_dir, or --overwrite to replace it"
    refused(RunError, complete, folder, lambda: run_experiment(config))
    (folder / "metrics.json").unlink()
    unfinished = "but holds an unfinished run. Choose another --output_dir, --resume to continue it, or --overwrite"
    refused(RunError, unfinished, folder, lambda: run_experiment(config))
    (folder / "notes.txt").write_text("mine")
    (folder / "metrics_test.json").write_text("{}")
    run_experiment(config, overwrite=True)
    assert {path.name for path in folder.iterdir()} >= {*FILES, "notes.txt"}
    assert not (folder / "metrics_test.json").exists()
    assert len(read_rows(folder / "history.csv")) == 1
    assert len(list((folder / "checkpoints").iterdir())) == 1


@pytest.mark.parametrize("overwrite", [False, True])
@pytest.mark.parametrize("resume", [False, True])
def test_a_folder_of_something_else_is_left_alone(corpus_path, tmp_path, overwrite, resume):
    folder = tmp_path / "thesis"
    (folder / "model").mkdir(parents=True)
    (folder / "model" / "chapter.tex").write_text("years of work")
    config = small_experiment(corpus_path, folder, epochs=1)
    refused(
        RunError,
        "thesis: must be empty or a run directory, but holds 'model'. Choose another --output_dir",
        folder,
        lambda: run_experiment(config, overwrite=overwrite, resume=resume),
    )


@pytest.mark.parametrize("resume", [False, True])
def test_a_file_in_the_place_of_the_folder(corpus_path, tmp_path, resume):
    (tmp_path / "run").write_text("a file")
    config = small_experiment(corpus_path, tmp_path / "run")
    with pytest.raises(RunError, match="run: must be a folder, but is a file. Choose another --output_dir"):
        run_experiment(config, resume=resume)
    assert (tmp_path / "run").read_text() == "a file"


def test_another_programs_config_is_no_leave_to_empty_its_folder(corpus_path, tmp_path):
    folder = tmp_path / "project"
    (folder / "model").mkdir(parents=True)
    (folder / "model" / "weights.bin").write_text("years of work")
    (folder / "config.yaml").write_text("model: resnet\n")
    config = small_experiment(corpus_path, folder, epochs=1)
    refused(
        RunError,
        "project: must be a run directory to be overwritten, but its config.yaml is not that of a run. Choose another",
        folder,
        lambda: run_experiment(config, overwrite=True),
    )
    refused(
        RunError,
        "config.yaml: must hold the settings of a run, but",
        folder,
        lambda: run_experiment(config, resume=True),
    )


def test_an_empty_folder_is_used(corpus_path, tmp_path):
    (tmp_path / "run").mkdir()
    run_experiment(small_experiment(corpus_path, tmp_path / "run", epochs=1))
    assert {path.name for path in (tmp_path / "run").iterdir()} >= FILES


def test_wrong_data_leave_an_earlier_run_as_it_was(trained, tmp_path, write_pickle):
    folder = tmp_path / "run"
    shutil.copytree(trained[0], folder)
    tree = make_corpus()
    tree["sad"]["test"]["facet"] = np.zeros((9, 7))
    config = small_experiment(write_pickle(tree), folder)
    refused(DataError, "video must have one size everywhere", folder, lambda: run_experiment(config, overwrite=True))
    config.device = "gpu"
    refused(UserError, "device must be one that Paddle can use", folder, lambda: run_experiment(config, overwrite=True))


# -- resuming


class Broken(Exception):
    pass


def break_in(monkeypatch, name, after):
    """The nth call of a function of the experiment breaks the run."""
    original, left = getattr(experiment, name), [after]

    def breaks(*positional, **named):
        left[0] -= 1
        if left[0] == 0:
            raise Broken
        return original(*positional, **named)

    monkeypatch.setattr(experiment, name, breaks)


@pytest.mark.parametrize(
    ("name", "after"),
    [("validation_metrics", 1), ("validation_metrics", 3), ("calibrate", 1)],
)
def test_a_resumed_run_has_the_same_bits(trained, corpus_path, tmp_path, monkeypatch, name, after):
    """Broken before the first checkpoint, between epochs, and before the test."""
    config = small_experiment(corpus_path, tmp_path / "run")
    with monkeypatch.context() as patch:
        break_in(patch, name, after)
        with pytest.raises(Broken):
            run_experiment(config)
    assert (tmp_path / "run" / "config.yaml").exists()
    assert not (tmp_path / "run" / "metrics.json").exists()
    assert run_experiment(config, resume=True) == trained[1]
    same_run(trained[0], tmp_path / "run")


@pytest.fixture
def unfinished(corpus_path, tmp_path, monkeypatch):
    """Settings of two epochs, and their run after one."""
    config = small_experiment(corpus_path, tmp_path / "run", epochs=2)
    with monkeypatch.context() as patch:
        break_in(patch, "validation_metrics", 2)
        with pytest.raises(Broken):
            run_experiment(config)
    return config, tmp_path / "run"


@pytest.mark.parametrize(
    ("name", "other"),
    [
        ("training.epochs", {"epochs": 1}),
        ("training.epochs", {"epochs": 3, "schedule": "cosine"}),
        ("seed", {"seed": 5}),
        ("emotions", {"emotions": ["sad"]}),
        ("model.fusion.rank", {"model": {"fusion.rank": 3}}),
        ("training.learning_rate", {"learning_rate": 0.5}),
    ],
)
def test_resuming_needs_the_same_settings(unfinished, corpus_path, name, other):
    _, folder = unfinished
    config = small_experiment(corpus_path, folder, **{"epochs": 2, **other})
    message = f"run: cannot resume: {name} changed from .* to .*. Choose another --output_dir, or --overwrite the run."
    refused(RunError, message, folder, lambda: run_experiment(config, resume=True))


def test_resuming_is_idempotent(unfinished, corpus_path, caplog):
    """An unfinished run is continued, a complete one kept, its missing report written."""
    config, folder = unfinished
    metrics = run_experiment(config, resume=True)
    before = contents(folder)
    with caplog.at_level(logging.INFO, "lmf_multitask"):
        assert run_experiment(config, resume=True) == metrics
    assert contents(folder) == before
    assert f"{folder} is complete already: nothing is left to do" in caplog.messages
    assert run_experiment(config, resume=True, report=True) == metrics
    assert (folder / "report.html").is_file()
    assert {name: contents(folder)[name] for name in before} == before


def test_a_finished_run_can_be_prolonged(trained, corpus_path, tmp_path):
    """With the bits of a run that had all epochs from the beginning."""
    config = small_experiment(corpus_path, tmp_path / "run", epochs=2)
    run_experiment(config)
    assert run_experiment(small_experiment(corpus_path, tmp_path / "run"), resume=True) == trained[1]
    same_run(trained[0], tmp_path / "run")


def test_data_that_moved_are_recognised_by_their_fingerprint(unfinished, corpus_path, tmp_path, write_pickle):
    config, folder = unfinished
    shutil.copy(corpus_path, tmp_path / "moved.pkl")
    other = write_pickle(make_corpus(rows=(31, 16, 19), seed=1))
    config.data_path = str(other)
    message = "run: cannot resume: data changed from [0-9a-f]+ to [0-9a-f]+. Add --force to resume anyway."
    refused(RunError, message, folder, lambda: run_experiment(config, resume=True))
    config.data_path = str(tmp_path / "moved.pkl")
    run_experiment(config, resume=True)
    assert Run(folder).load_config().data_path == str(tmp_path / "moved.pkl")


def test_resuming_starts_a_run_that_does_not_exist(corpus_path, tmp_path):
    run_experiment(small_experiment(corpus_path, tmp_path / "run", epochs=1), resume=True)
    assert {path.name for path in (tmp_path / "run").iterdir()} >= FILES


# -- what is said


class Terminal(io.StringIO):
    def isatty(self):
        return True


ROW = {"train_loss": 0.5, "validation_loss": 1.0, "validation_weighted_f1": 0.25, "validation_uar": 0.75}


def test_one_line_per_epoch():
    """The losses, the metric of the papers, and the monitored one."""
    assert epoch_line({"epoch": 2, **ROW, "best": 1}, 20, "uar") == (
        "epoch   2/20  train loss 0.5000  validation loss 1.0000  weighted F1 0.2500  uar 0.7500  best"
    )
    assert epoch_line({"epoch": 13, **ROW, "best": 0}, 20, "weighted_f1") == (
        "epoch  13/20  train loss 0.5000  validation loss 1.0000  weighted F1 0.2500"
    )
    assert epoch_line({"epoch": 20, "validation_loss": 2.0}, 20, "loss") == "epoch  20/20  validation loss 2.0000"


def test_a_bar_on_a_terminal_only(monkeypatch, caplog):
    caplog.set_level(logging.INFO, "lmf_multitask")
    for terminal in (Terminal(), io.StringIO()):
        monkeypatch.setattr(sys, "stderr", terminal)
        with Progress(4, "epoch") as progress:
            for epoch in (1, 2, 3):
                progress.say(f"epoch {epoch}")
                progress.move_to(epoch)
                assert (f"{epoch}/4" in terminal.getvalue().rpartition("\r")[2]) == terminal.isatty()
        assert terminal.getvalue().rpartition("\r")[2] == ""  # cleared at the end
    assert caplog.messages == ["epoch 1", "epoch 2", "epoch 3"] * 2


def test_a_program_sees_the_progress_unless_it_is_quiet(corpus_path, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(logging.getLogger(), "handlers", [])  # pytest's: a program with handlers of its own sees those
    for quiet in (True, False):
        run_experiment(small_experiment(corpus_path, tmp_path / f"run-{quiet}", epochs=1), quiet=quiet)
        out, said = capsys.readouterr()
        assert out == ""
        lines = [line[:11] for line in said.splitlines() if not line.startswith("data: ")]
        assert lines == ([] if quiet else ["4 emotions ", "epoch   1/1"])


@pytest.mark.parametrize("stop", [KeyboardInterrupt, SystemExit, Broken])
def test_stopping_says_how_to_resume(corpus_path, tmp_path, monkeypatch, caplog, stop):
    config = small_experiment(corpus_path, tmp_path / "run", epochs=1)
    before = signal.signal(signal.SIGTERM, signal.default_int_handler)

    def breaks(*_):
        with pytest.raises(SystemExit) as ended:  # what SIGTERM does meanwhile
            signal.getsignal(signal.SIGTERM)(signal.SIGTERM, None)
        assert ended.value.code == 143
        raise stop

    try:
        monkeypatch.setattr(experiment, "calibrate", breaks)
        with pytest.raises(stop):
            run_experiment(config)
        assert signal.getsignal(signal.SIGTERM) is signal.default_int_handler
    finally:
        signal.signal(signal.SIGTERM, before)
    hint = f"stopped; finished work is saved. To resume, repeat the command with --resume: {tmp_path / 'run'}"
    assert (hint in caplog.messages) == (stop is not Broken)


def test_a_folder_that_is_removed_while_the_test_split_is_computed(corpus_path, tmp_path, monkeypatch):
    config = small_experiment(corpus_path, tmp_path / "run", epochs=1)
    calibrate = experiment.calibrate

    def remove(*arguments):
        shutil.rmtree(tmp_path / "run")
        return calibrate(*arguments)

    monkeypatch.setattr(experiment, "calibrate", remove)
    with pytest.raises(RunError, match="run: must not be removed during training, but is gone"):
        run_experiment(config)
    assert not (tmp_path / "run").exists()


def test_in_a_thread_signals_are_left_alone(trained, corpus_path, tmp_path):
    """Python lets only the main thread have handlers."""
    found = []
    thread = threading.Thread(
        target=lambda: found.append(run_experiment(small_experiment(corpus_path, tmp_path / "run")))
    )
    thread.start()
    thread.join()
    assert found == [trained[1]]


# -- data of other kinds


@pytest.mark.parametrize("form", ["saved", "shards", "parquet"])
def test_a_folder_gives_the_same_run(trained, corpus_path, tmp_path, form):
    from lmf_multitask.data.loading import load_iemocap

    data, folder = load_iemocap(corpus_path), tmp_path / "data"
    if form == "parquet":
        folder.mkdir()
        for split, rows in data.items():
            rows.to_parquet(str(folder / f"{split}.parquet"), batch_size=7)
    else:
        data.save_to_disk(str(folder), num_shards=dict.fromkeys(data, 5 if form == "shards" else 1))
    run_experiment(small_experiment(folder, tmp_path / "run"))
    same_run(trained[0], tmp_path / "run")
    origins = [json.loads((run / "origin.json").read_text()) for run in (trained[0], tmp_path / "run")]
    assert {**origins[0], "label_column": "None"} == origins[1]  # the copies have plain labels


def test_the_built_in_sample(tmp_path):
    config = small_experiment("x", tmp_path / "run", epochs=1)
    config.data_path = None
    metrics = run_experiment(config)
    assert metrics["samples"] == 160
    assert yaml.safe_load((tmp_path / "run" / "config.yaml").read_text())["data_path"] is None
    again, _ = evaluate(tmp_path / "run")
    assert again == metrics


@pytest.mark.parametrize(("name", "rows"), [("youtube", 36), ("mmmo", 40)])
def test_real_features(tmp_path, name, rows):
    """Features of other corpora, with whole modalities missing, sentinels and constant columns."""
    path = shared_file(f"data/{name}.pkl")
    metrics = run_experiment(small_experiment(path, tmp_path / "run", epochs=3, batch_size=16))
    assert metrics["samples"] == rows
    losses = [float(row["train_loss"]) for row in read_rows(tmp_path / "run" / "history.csv")]
    assert np.isfinite(losses).all()
    again, _ = evaluate(tmp_path / "run")
    assert again == metrics


def test_visualdl_logs(corpus_path, tmp_path):
    run_experiment(small_experiment(corpus_path, tmp_path / "run", epochs=1, visualdl=True))
    assert [path.suffix for path in (tmp_path / "run" / "visualdl").iterdir()] == [".log"]


def test_wrong_settings_in_python():
    with pytest.raises(ConfigError, match="monitor must be .*, but got 'f1'"):
        small_experiment("x", "y", monitor="f1")
