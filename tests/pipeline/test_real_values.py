"""Runs with binary and real-valued tasks together: files, resuming, masks, separate models, deployment."""

import dataclasses
import json
import shutil

import numpy as np
import pytest
from conftest import model_config, small_experiment

from lmf_multitask.errors import ConfigError, TrainingError
from lmf_multitask.models.lmf import LMFModel
from lmf_multitask.pipeline.experiment import run_experiment
from lmf_multitask.pipeline.reporting import evaluate_run, report_run
from lmf_multitask.pipeline.settings import settings_from
from lmf_multitask.pipeline.several import train_several
from lmf_multitask.tasks import BinaryTask, RegressionTask

TASKS = ["valence:regression:train", "happy", "arousal:regression:-2:2", "sad"]


def data(folder, name="x.npz", change=None):
    """48 clips, 24 / 12 / 12: valence follows audio, arousal video; happy is valence above 0."""
    rng = np.random.default_rng(0)
    audio, video, text = (rng.normal(size=(48, size)).astype("f4") for size in (4, 3, 5))
    valence = (audio[:, 0] * 3 + 10).astype("f4")
    arrays = {"audio": audio, "video": video, "text": text, "valence": valence, "arousal": np.tanh(video[:, 0])}
    arrays |= {"happy": (valence > 10).astype(int), "sad": (text[:, 0] > 0).astype(int)}
    arrays["split"] = np.repeat(["train", "valid", "test"], [24, 12, 12])
    np.savez(folder / name, **(change(arrays) if change else arrays))
    return folder / name


def experiment(path, folder, tasks=TASKS, **training):
    config = small_experiment(path, folder, model={"fusion.dim": 8}, **{"epochs": 3, **training})
    return dataclasses.replace(config, tasks=tasks)


@pytest.fixture(scope="module")
def mixed(tmp_path_factory):
    folder = tmp_path_factory.mktemp("mixed")
    return folder, run_experiment(experiment(data(folder), folder / "run"), report=False, quiet=True)


def test_what_a_run_writes(mixed):
    folder, metrics = mixed
    assert list(metrics["emotions"]) == ["happy", "sad"]
    assert list(metrics["regression"]) == ["valence", "arousal"]
    assert list(metrics["baselines"]) == ["train_mean", "ridge_regression", "prevalence", "logistic_regression"]
    assert metrics["baselines"]["ridge_regression"]["regression"]["valence"]["pearson"] > 0.9
    assert {"mae", "pearson", "ccc", "annotated"} <= set(metrics["regression"]["valence"])
    config = settings_from(folder / "run/config.yaml")
    assert (config.emotions, config.tasks, config.training.monitor) == (None, TASKS, "task_metric")
    about = json.loads((folder / "run/model/config.json").read_text())["tasks"]
    assert about[1] == {"name": "happy", "kind": "binary", "threshold": about[1]["threshold"]}
    model = LMFModel.from_pretrained(folder / "run/model")
    with np.load(folder / "x.npz") as file:
        train = file["valence"][:24].astype("f8")
    valence, happy, arousal, _ = model.tasks
    assert valence == RegressionTask("valence", "l1", train.mean(), train.std(), (train.min(), train.max()))
    note = f"valence: predictions are clipped to {train.min():g} to {train.max():g}, the range of train"
    assert note in metrics["data"]["notes"]
    assert (happy, arousal.range) == (BinaryTask("happy", about[1]["threshold"]), (-2.0, 2.0))
    head = (folder / "run/history.csv").read_text().splitlines()[0].split(",")
    assert {"validation_task_metric", "validation_valence_pearson", "validation_happy_weighted_f1"} <= set(head)


def test_a_resumed_run_has_the_same_bits(mixed, tmp_path, monkeypatch):
    folder, metrics = mixed
    from lmf_multitask.pipeline import experiment as module

    original, seen = module.OnEpoch, []

    class Stops(original):
        def __init__(self, function):
            super().__init__(lambda row: (function(row), seen.append(row), stop(len(seen))))

    def stop(count):
        if count == 2:
            raise TrainingError("stopped")

    monkeypatch.setattr(module, "OnEpoch", Stops)
    config = experiment(folder / "x.npz", tmp_path / "run")
    with pytest.raises(TrainingError):
        run_experiment(config, quiet=True)
    monkeypatch.setattr(module, "OnEpoch", original)
    assert run_experiment(config, resume=True, report=False, quiet=True) == metrics
    for name in ("model/model.safetensors", "predictions.csv", "history.csv"):
        assert (tmp_path / "run" / name).read_bytes() == (folder / "run" / name).read_bytes(), name


def test_a_task_without_labels_in_a_batch_changes_nothing(tmp_path):
    """All labels of arousal but two are removed: finite training, metrics of the others defined."""

    def change(arrays):
        arrays["arousal"][np.r_[2:24, 26:36]] = np.nan
        return arrays

    metrics = run_experiment(experiment(data(tmp_path, change=change), tmp_path / "run"), report=False, quiet=True)
    assert metrics["regression"]["arousal"]["annotated"] == 12
    assert metrics["regression"]["valence"]["pearson"] is not None


@pytest.mark.parametrize("loss", ["mse", "ccc"])
def test_losses_learn(tmp_path, loss):
    config = experiment(
        data(tmp_path), tmp_path / "run", ["valence:regression"], regression_loss=loss, epochs=12, ema_epochs=None
    )
    metrics = run_experiment(config, report=False, quiet=True)
    assert metrics["emotions"] == {} and "exclusive" in metrics
    assert metrics["regression"]["valence"]["pearson"] > 0.6
    assert settings_from(tmp_path / "run/config.yaml").training.monitor == "ccc"


def test_the_fusion_gives_the_values_itself(tmp_path):
    config = experiment(
        data(tmp_path), tmp_path / "run", ["valence:regression", "arousal:regression"], standardize_targets=False
    )
    config.model = model_config({"fusion.dim": None, "fusion.rank": 2})
    assert set(run_experiment(config, report=False, quiet=True)["regression"]) == {"valence", "arousal"}
    task = LMFModel.from_pretrained(tmp_path / "run/model").tasks[0]
    assert (task.mean, task.std) == (0.0, 1.0)


@pytest.mark.slow  # starts a process per task
def test_separate_models_are_joined(tmp_path):
    path = data(tmp_path)
    base = experiment(path, tmp_path / "runs", ["happy", "valence:regression"], epochs=1)
    outcome = train_several("per_emotion", base, lambda name: base, tmp_path / "runs", jobs=1, report=False)
    assert outcome.failures == {}
    (metrics,) = outcome.results.values()
    assert (list(metrics["emotions"]), list(metrics["regression"])) == (["happy"], ["valence"])
    found, files = evaluate_run(tmp_path / "runs", split="validation")
    assert found.metrics["regression"]["valence"]["annotated"] == 12
    assert files[1].read_text().startswith("id,happy_label")


@pytest.mark.slow  # draws all plots
def test_report(mixed, tmp_path):
    shutil.copytree(mixed[0] / "run", tmp_path / "run")
    page = report_run(tmp_path / "run").read_text(encoding="utf-8")
    assert "Real-valued tasks" in page and "prediction intervals" in page
    assert {"predicted.svg", "residuals.svg"} <= {path.name for path in (tmp_path / "run/plots").iterdir()}


def test_deployment(mixed, tmp_path):
    from lmf_multitask.data.sources import open_source
    from lmf_multitask.deployment.exporter import export_run
    from lmf_multitask.deployment.inference import infer_file
    from lmf_multitask.deployment.predictor import Predictor
    from lmf_multitask.evaluation.predictions import read_predictions

    folder, _ = mixed
    export_run(folder / "run", tmp_path / "exported", ("paddle", "onnx"))
    wanted = read_predictions(folder / "run/predictions.csv")
    for backend in ("paddle", "onnx"):
        predictor = Predictor(tmp_path / "exported", backend)
        assert predictor.emotions == ["valence", "happy", "arousal", "sad"]
        infer_file(predictor, open_source(folder / "x.npz", "test"), tmp_path / backend)
        for t, name in enumerate(predictor.emotions):
            kind = "value" if name in ("valence", "arousal") else "prob"
            found = np.load(tmp_path / backend / f"{name}_{kind}.npy")
            assert (found.dtype, found.shape) == (np.float32, (12,) if kind == "value" else (12, 2))
            last = found if kind == "value" else found[:, 1]
            np.testing.assert_allclose(last, wanted.probabilities[:, t], rtol=1e-5, atol=1e-5)
        table = read_predictions(tmp_path / backend / "predictions.csv")
        np.testing.assert_allclose(table.probabilities, wanted.probabilities, rtol=1e-5, atol=1e-5)
        infer_file(predictor, open_source(folder / "x.npz", "test"), tmp_path / backend)  # replaces its own files


def test_the_service_answers_with_values(mixed):
    from lmf_multitask.deployment.predictor import Predictor
    from lmf_multitask.deployment.service import create_app

    folder, _ = mixed
    predictor = Predictor(folder / "run")
    app = create_app(predictor)
    with np.load(folder / "x.npz") as file:
        wanted = predictor.predict(*(file[name][:2] for name in ("audio", "video", "text")))
    answer = app.state.service._answer(wanted)
    assert (answer["emotions"], list(answer["values"])) == (["happy", "sad"], ["valence", "arousal"])
    np.testing.assert_allclose(answer["probabilities"], wanted[:, [1, 3]], rtol=1e-6)
    np.testing.assert_allclose(answer["values"]["valence"], wanted[:, 0], rtol=1e-6)
    content = app.openapi()["paths"]["/predict"]["post"]["responses"]["200"]["content"]["application/json"]["schema"]
    assert set(content["properties"]["values"]["properties"]) == {"valence", "arousal"}


@pytest.mark.parametrize(
    ("tasks", "training", "message"),
    [
        (["valence:regression"], {"monitor": "auroc"}, "auroc is undefined for every task: it is for binary tasks"),
        (["happy"], {"monitor": "mae"}, "mae is undefined for every task: it is for regression tasks"),
        (["flat:regression"], {}, "flat must vary in train, but has one value. Leave it out of --tasks."),
    ],
)
def test_what_cannot_be_learnt(tmp_path, tasks, training, message):
    path = data(tmp_path, change=lambda arrays: {**arrays, "flat": np.full(48, 2.5)})
    with pytest.raises(TrainingError, match=message):
        run_experiment(experiment(path, tmp_path / "run", tasks, **training), quiet=True)
    assert not (tmp_path / "run").exists()


def test_tasks_and_emotions_are_not_given_together(tmp_path):
    config = experiment(tmp_path / "x.npz", tmp_path / "run")
    with pytest.raises(ConfigError, match="must have tasks or emotions, but have both"):
        dataclasses.replace(config, emotions=["happy"])
