"""From trained runs to metrics, comparison and page, through the commands."""

import csv
import json
import shutil

import numpy as np
import pytest
from conftest import SMALL_MODEL, make_corpus, model_config

from lmf_multitask import compare, evaluate, report
from lmf_multitask.command_line import run
from lmf_multitask.data.config import DataConfig
from lmf_multitask.errors import RunError
from lmf_multitask.evaluation.calibration import Calibration
from lmf_multitask.pipeline.assessing import assess_predictions
from lmf_multitask.pipeline.experiment import run_experiment
from lmf_multitask.pipeline.reporting import learning_curves, report_run, write_report_of
from lmf_multitask.pipeline.settings import ExperimentConfig
from lmf_multitask.pipeline.several import join_runs
from lmf_multitask.pipeline.stages import predict, restore
from lmf_multitask.training.config import TrainingConfig

ROWS = (48, 40, 40)


def settings(path, output_dir, cache_dir, **changes):
    return ExperimentConfig(
        data_path=str(path),
        output_dir=str(output_dir),
        device="cpu",
        data=DataConfig(cache_dir=str(cache_dir)),
        model=model_config(SMALL_MODEL),
        training=TrainingConfig(epochs=3, batch_size=16),
        **changes,
    )


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A multi-task run, a second seed of it, and a parent of two per-emotion runs, on one file."""
    import pickle

    folder = tmp_path_factory.mktemp("runs")
    (folder / "data.pkl").write_bytes(pickle.dumps(make_corpus(ROWS), protocol=2))
    for name, changes in {
        "multitask": {},
        "seed2": {"seed": 2},
        "separate/happy": {"emotions": ["happy"]},
        "separate/sad": {"emotions": ["sad"]},
    }.items():
        run_experiment(settings(folder / "data.pkl", folder / name, folder / "cache", **changes), report=False)
    join_runs(folder / "separate")
    return folder


def test_a_run_holds_its_metrics_and_calibration(trained):
    metrics = json.loads((trained / "multitask" / "metrics.json").read_text())
    assert metrics["calibration"]["fitted_on"] == "validation"
    assert set(metrics["baselines"]) == {"prevalence", "logistic_regression"}
    assert metrics["exclusive"]["rows"] == 40
    assert list(Calibration.load(trained / "multitask" / "model").tasks) == ["happy", "sad", "angry", "neutral"]


def test_test_labels_change_no_calibration(trained, write_pickle, tmp_path):
    corpus = make_corpus(ROWS)
    for splits in corpus.values():
        splits["test"]["label"] = np.roll(splits["test"]["label"], 1, axis=0)
    run_experiment(settings(write_pickle(corpus, bytes_keys=False), tmp_path / "run", tmp_path / "cache"), report=False)
    files = [folder / "model" / "calibration.json" for folder in (trained / "multitask", tmp_path / "run")]
    assert files[0].read_bytes() == files[1].read_bytes()
    means = [json.loads((f.parent.parent / "metrics.json").read_text())["mean"] for f in files]
    assert means[0] != means[1]


def test_evaluate_gives_the_metrics_of_training(trained, capsys):
    assert run(evaluate.main, [str(trained / "multitask"), "--threshold", "positive_f1"]) == 0
    text = capsys.readouterr().out
    assert "best present F1 on validation" in text
    before = json.loads((trained / "multitask" / "metrics.json").read_text())
    after = json.loads((trained / "multitask" / "metrics_test.json").read_text())
    assert after["emotions"] == before["emotions"]
    assert after["intervals"] == before["intervals"]


def test_evaluate_joins_per_emotion_runs(trained, capsys):
    assert run(evaluate.main, [str(trained / "separate"), "--split", "validation"]) == 0
    assert "validation, 40 clips" in capsys.readouterr().out
    joined = json.loads((trained / "separate" / "metrics_validation.json").read_text())
    for emotion in ("happy", "sad"):
        alone = restore(trained / "separate" / emotion)
        own = assess_predictions(alone, predict(alone, "validation")).metrics
        assert joined["emotions"][emotion] == own["emotions"][emotion]
    assert (joined["mode"], joined["exclusive"]) == ("per_emotion", None)


def test_evaluate_writes_elsewhere(trained, tmp_path, capsys):
    """For runs that may be read only."""
    before = sorted(path.name for path in (trained / "seed2").iterdir())
    assert run(evaluate.main, [str(trained / "seed2"), "--split", "train", "--output_dir", str(tmp_path / "out")]) == 0
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == [
        "metrics_train.json",
        "predictions_train.csv",
        "predictions_train_logistic_regression.csv",
    ]
    assert sorted(path.name for path in (trained / "seed2").iterdir()) == before
    assert f"written: {tmp_path / 'out/predictions_train.csv'}" in capsys.readouterr().out


def test_a_missing_calibration(trained, tmp_path, capsys):
    shutil.copytree(trained / "multitask", tmp_path / "run")
    (tmp_path / "run" / "model" / "calibration.json").unlink()
    assert run(evaluate.main, [str(tmp_path / "run"), "--threshold", "half", "--split", "train"]) == 2
    assert "calibration.json is missing" in capsys.readouterr().err  # which the manifest names
    (tmp_path / "run" / "model" / "manifest.json").unlink()
    assert run(evaluate.main, [str(tmp_path / "run"), "--threshold", "half", "--split", "train"]) == 2
    assert "must have a calibration for --threshold, but has none" in capsys.readouterr().err
    assert not (tmp_path / "run" / "metrics_train.json").exists()
    assert run(evaluate.main, [str(tmp_path / "run")]) == 0


def test_compare_between_modes_and_with_anybodys_file(trained, tmp_path, capsys):
    lines = (trained / "seed2" / "predictions.csv").read_text()
    (tmp_path / "theirs.csv").write_text(lines)
    paths = [trained / "multitask", trained / "separate", tmp_path / "theirs.csv"]
    assert run(compare.main, [str(path) for path in paths]) == 0
    text = capsys.readouterr().out
    assert "separate minus multitask" in text
    assert "theirs.csv minus multitask" in text
    assert "multitask: angry, neutral left out, because not all others have it" in text
    assert run(compare.main, [str(trained / "multitask"), str(trained / "nowhere")]) == 2
    assert "must be a run directory, but there is no such folder" in capsys.readouterr().err


@pytest.mark.parametrize(("name", "losses"), [("multitask", 1), ("separate", 2)])
def test_report_of_a_run(trained, tmp_path, capsys, name, losses):
    assert run(report.main, [str(trained / name), "--output_dir", str(tmp_path)]) == 0
    assert capsys.readouterr().out == f"written: {tmp_path / 'report.html'}\n"
    text = (tmp_path / "report.html").read_text()
    for part in (
        "Missing and noisy modalities",
        "Learning",
        "python -m lmf_multitask.train --config",
        "stored as",
        "rank: 2",
    ):
        assert part in text, part
    assert text.count("validation loss from") == losses
    assert (tmp_path / "plots" / "robustness.svg").exists()


def test_report_of_several_runs(trained, tmp_path, capsys):
    runs = [str(trained / "multitask"), str(trained / "separate")]
    assert run(report.main, [*runs, "--output_dir", str(tmp_path)]) == 0
    assert (tmp_path / "comparison.html").exists()
    assert run(report.main, [*runs, "--data_path", "x.pkl"]) == 2
    assert "--data_path must be used with one RUN_DIR, but there are several" in capsys.readouterr().err


def test_learning_curves_mark_the_kept_epoch(tmp_path):
    (tmp_path / "history.csv").write_text(
        "epoch,train_loss,validation_loss,validation_weighted_f1,validation_uar,validation_sad_weighted_f1,validation_v_mae,best\n"
        "1,0.7,0.6,0.5,0.1,0.4,3,1\n2,0.6,0.5,0.6,0.2,0.7,2,1\n3,0.5,0.6,0.5,0.3,0.6,1,0\n"
    )
    curves = learning_curves(tmp_path, "uar")
    assert (curves.epochs, curves.kept) == ([1, 2, 3], 2)
    per_task = {"weighted_f1": {"sad": [0.4, 0.7, 0.6]}, "mae": {"v": [3, 2, 1]}}
    assert curves.metrics == {"uar": {"mean": [0.1, 0.2, 0.3]}, **per_task}
    assert list(curves.metrics)[0] == "uar"
    assert learning_curves(tmp_path, "loss").metrics == learning_curves(tmp_path, "weighted_f1").metrics == per_task
    assert curves.losses == {"train": [0.7, 0.6, 0.5], "validation": [0.6, 0.5, 0.6]}
    assert learning_curves(tmp_path / "nowhere", "loss") is None


@pytest.mark.parametrize("name", ["multitask", "separate"])
def test_robustness_of_a_run_and_of_separate_models_together(trained, tmp_path, capsys, name):
    shutil.copytree(trained / name, tmp_path / name)
    assert run(evaluate.main, [str(tmp_path / name), "--robustness"]) == 0
    text = capsys.readouterr().out
    assert "test, 40 clips" in text
    assert "with modalities removed or disturbed, validation, 40 clips" in text  # test is not for choices
    found = json.loads((tmp_path / name / "robustness.json").read_text())
    assert len(found["subsets"]) == 7
    assert found["data"] == str(trained / "data.pkl")
    assert (tmp_path / name / "robustness.svg").read_text().startswith("<svg")
    assert f"written: {tmp_path / name / 'robustness.svg'}" in text
    emotions = ["happy", "sad"] if name == "separate" else ["happy", "sad", "angry", "neutral"]
    models = restore(tmp_path / name)
    whole = assess_predictions(models, predict(models, "validation")).metrics
    for emotion in emotions:
        for key in ("weighted_f1", "positive_f1", "auroc"):
            one = found["subsets"][0]["emotions"][emotion][key]
            assert one == pytest.approx(whole["emotions"][emotion][key], abs=1e-7)
    assert run(evaluate.main, [str(tmp_path / name), "--robustness", "--split", "train"]) == 0
    assert json.loads((tmp_path / name / "robustness.json").read_text())["split"] == "train"
    assert [path.name for path in (tmp_path / name).glob(".*")] == []


def test_robustness_of_seeds(trained, tmp_path, capsys):
    for seed in (1, 2):
        shutil.copytree(trained / "multitask", tmp_path / f"seed{seed}")
    assert run(evaluate.main, [str(tmp_path), "--robustness"]) == 0
    text = capsys.readouterr().out
    for seed in (1, 2):
        assert f"\nseed{seed}: with modalities removed" in text
        assert (tmp_path / f"seed{seed}" / "robustness.json").exists()


def test_the_page_of_a_training_has_the_subsets_only(trained, tmp_path):
    models = restore(trained / "multitask")
    page = write_report_of(models, assess_predictions(models, predict(models, "test")), tmp_path)
    text = page.read_text()
    assert "audio + video + text" in text
    assert "The command lmf report adds curves for noise and missing rows." in text
    assert json.loads((tmp_path / "robustness.json").read_text())["noise"] is None
    assert not (tmp_path / "robustness.svg").exists()


def test_runs_of_different_data_are_no_group(trained, tmp_path):
    shutil.copytree(trained / "separate", tmp_path / "group")
    config = tmp_path / "group" / "sad" / "config.yaml"
    config.write_text(config.read_text().replace("data.pkl", "other.pkl"))
    with pytest.raises(RunError, match="must be trained on the data of .* but is not. Give one of them"):
        restore(tmp_path / "group")


def test_changes_without_a_modality_are_those_of_a_clip_that_lacks_it(trained, tmp_path):
    """Against the model itself, on test clips whose features are zeroed by hand."""
    report_run(trained / "multitask", output_dir=tmp_path)
    with (tmp_path / "without.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    run = restore(trained / "multitask")
    columns = {name: np.array(values) for name, values in run.columns("test").items()}
    own = run.predict(columns)
    assert [row["id"] for row in rows] == list(run.data.dataset["test"]["id"])
    for modality in ("audio", "video", "text"):
        without = run.predict({**columns, modality: np.zeros_like(columns[modality])})
        found = [[float(row[f"{task}_without_{modality}"]) for task in run.models[0].task_names] for row in rows]
        np.testing.assert_allclose(found, without - own, atol=1e-5)
        assert np.abs(found).max() > 1e-4
