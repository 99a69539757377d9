"""`lmf train --folds`: a run per fold, and the pooled result. Trainings run in this process, but for the slow test."""

import json
import shutil

import numpy as np
import pytest
from conftest import small_experiment
from sklearn.metrics import f1_score, roc_auc_score

from lmf_multitask import evaluate, report, train
from lmf_multitask.command_line import run as run_command
from lmf_multitask.config import replaced
from lmf_multitask.errors import ConfigError, RunError, TrainingError
from lmf_multitask.evaluation.predictions import read_predictions
from lmf_multitask.evaluation.tables import results_table
from lmf_multitask.pipeline import several
from lmf_multitask.pipeline.cross_validation import report_folds
from lmf_multitask.pipeline.experiment import run_experiment
from lmf_multitask.pipeline.layout import fold_folders
from lmf_multitask.pipeline.reporting import evaluate_run
from lmf_multitask.pipeline.runs import Run, runs_in
from lmf_multitask.pipeline.several import train_several

CLIPS = 48


def arrays_of(path):
    """Content of an .npz file, which is closed again."""
    with np.load(path) as file:
        return dict(file)


@pytest.fixture(scope="module")
def path(tmp_path_factory):
    """Two exclusive emotions, four speakers, no splits."""
    rng = np.random.default_rng(0)
    happy = np.arange(CLIPS) % 2
    audio = rng.normal(size=(CLIPS, 5))
    audio[:, 0] += happy
    found = tmp_path_factory.mktemp("data") / "data.npz"
    np.savez(
        found,
        id=np.array([f"clip{row:02d}" for row in range(CLIPS)]),
        audio=audio,
        video=rng.normal(size=(CLIPS, 4)),
        text=rng.normal(size=(CLIPS, 6, 3)),
        happy=happy,
        sad=1 - happy,
        speaker=np.array(list("bdca"))[np.arange(CLIPS) // 2 % 4],
    )
    return found


@pytest.fixture(scope="module", autouse=True)
def in_this_process():
    """Runs the trainings of `train_several` here; returns the folders of those that were trained."""
    trained = []

    def train_all(experiments, jobs=None, overwrite=False, report=False, quiet=False):
        failures = {}
        for name, config in experiments.items():
            run = Run(config.run_directory())
            if run.exists():
                run.check_same_settings(config)
            if run.is_complete():
                continue
            try:
                run_experiment(config, resume=True, report=report, quiet=True)
                trained.append(name)
            except TrainingError as error:
                failures[name] = str(error)
        return failures

    patch = pytest.MonkeyPatch()
    patch.setattr(several, "train_all", train_all)
    yield trained
    patch.undo()


def settings(path, folder, folds, **changes):
    config = small_experiment(path, folder, epochs=2)
    return replaced(config, {"folds": folds, **changes})


def cross_validate(path, folder, folds=3, mode="multitask", seeds=None, report=False, **changes):
    config = settings(path, folder, folds, **changes)
    return train_several(mode, config, lambda emotion: config, folder, seeds=seeds, report=report)


@pytest.fixture(scope="module")
def folder(path, tmp_path_factory):
    """Three folds of four speakers."""
    found = tmp_path_factory.mktemp("runs") / "folds"
    outcome = cross_validate(path, found, report=True, **{"data.group_column": "speaker"})
    assert outcome.failures == {}
    assert outcome.reports == [found / "report.html"]
    return found


def test_every_clip_is_predicted_once_by_the_fold_that_was_not_trained_on_it(folder, path):
    stored = arrays_of(path)
    speaker = dict(zip(*(stored[name].tolist() for name in ("id", "speaker"))))
    pooled = read_predictions(folder / "predictions.csv")
    assert sorted(pooled.ids) == sorted(speaker)
    for number, place in fold_folders(folder).items():
        config = Run(place).load_config()
        assert (config.folds, config.fold, config.stratify) == (3, number, ["happy", "sad"])
        own = read_predictions(place / "predictions.csv")
        np.testing.assert_array_equal(own.probabilities, pooled.select(own.ids, own.emotions).probabilities)
        about = json.loads((place / "metrics.json").read_text())["fold"]
        assert about == {"by": 3, "number": number, "of": 3, "groups": sorted({speaker[one] for one in own.ids})}
    assert [run.folder.name for place in fold_folders(folder).values() for run in runs_in(place)] == [
        "fold1",
        "fold2",
        "fold3",
    ]


def test_metrics_are_pooled_and_summarised_over_folds(folder):
    metrics = json.loads((folder / "metrics.json").read_text())
    pooled = read_predictions(folder / "predictions.csv")
    labels, values, decided = pooled.labels[:, 0], pooled.probabilities[:, 0], pooled.decisions.present[:, 0]
    assert (metrics["split"], metrics["samples"], metrics["seed"]) == ("test", CLIPS, 1)
    happy = metrics["emotions"]["happy"]
    assert happy["weighted_f1"] == pytest.approx(f1_score(labels, decided, average="weighted"))
    assert happy["auroc"] == pytest.approx(roc_auc_score(labels, values))
    low, high = metrics["intervals"]["emotions"]["happy"]["auroc"]
    assert low < happy["auroc"] < high
    each = [json.loads((place / "metrics.json").read_text()) for place in fold_folders(folder).values()]
    found = metrics["folds"]["emotions"]["happy"]["weighted_f1"]
    own = [one["emotions"]["happy"]["weighted_f1"] for one in each]
    assert found == {"mean": pytest.approx(np.mean(own)), "sd": pytest.approx(np.std(own, ddof=1)), "runs": 3}
    assert [one["samples"] for one in metrics["folds"]["runs"]] == [one["samples"] for one in each]
    assert sorted(sum((one["groups"] for one in metrics["folds"]["runs"]), [])) == list("abcd")
    linear = read_predictions(folder / "predictions_logistic_regression.csv")
    assert linear.ids == pooled.ids
    assert metrics["baselines"]["logistic_regression"]["emotions"]["happy"]["auroc"] == pytest.approx(
        roc_auc_score(linear.labels[:, 0], linear.probabilities[:, 0])
    )


def test_every_fold_decides_at_its_own_thresholds(folder):
    pooled = read_predictions(folder / "predictions.csv")
    metrics = json.loads((folder / "metrics.json").read_text())
    thresholds = set()
    for place in fold_folders(folder).values():
        own = read_predictions(place / "predictions.csv")
        limits = [one["threshold"] for one in json.loads((place / "model/config.json").read_text())["tasks"]]
        np.testing.assert_array_equal(own.decisions.present, own.probabilities > limits)
        chosen = pooled.select(own.ids, own.emotions).decisions
        np.testing.assert_array_equal(own.decisions.present, chosen.present)
        np.testing.assert_array_equal(own.decisions.chosen, chosen.chosen)
        thresholds.add(tuple(limits))
    assert len(thresholds) == 3
    linear = read_predictions(folder / "predictions_logistic_regression.csv")
    for t, name in enumerate(("happy", "sad")):
        expected = f1_score(linear.labels[:, t], linear.decisions.present[:, t], average="weighted")
        found = metrics["baselines"]["logistic_regression"]["emotions"][name]
        assert found["weighted_f1"] == pytest.approx(expected)
    assert (linear.decisions.present != (linear.probabilities > 0.5)).any()
    assert json.loads((folder / "metrics.json").read_text())["decided_above"] == {}  # each fold has its own


def test_the_table_and_the_page(folder, capsys):
    assert run_command(evaluate.main, [str(folder), "--device", "cpu"]) == 0
    out = capsys.readouterr().out
    assert "48 clips, each predicted by the fold that was not trained on it; 3 folds (stratified)" in out
    assert "data: 3 folds of 4 groups, none of which is in two splits" in out
    lines = [line.split() for line in out.splitlines() if line.startswith(("happy", "sad", "mean"))]
    assert [line[:2] for line in lines[:3]] == [["happy", "pooled"], ["sad", "pooled"], ["mean", "pooled"]]
    before, after = (json.loads((folder / name).read_text()) for name in ("metrics.json", "metrics_test.json"))
    assert after["emotions"] == before["emotions"]
    assert after["folds"] == before["folds"]
    assert (folder / "predictions_test.csv").read_bytes() == (folder / "predictions.csv").read_bytes()
    assert run_command(report.main, [str(folder), "--output_dir", str(folder / "again")]) == 0
    for page in (folder / "report.html", folder / "again/report.html"):
        text = page.read_text()
        assert "Cross-validation" in text
        assert "means over tasks of each fold" in text


@pytest.mark.parametrize(
    "options", [["--split", "validation"], ["--threshold", "uar"], ["--robustness"], ["--data_path", "x"]]
)
def test_what_needs_one_fold(folder, capsys, options):
    assert run_command(evaluate.main, [str(folder), *options]) == 2
    assert f"Give one fold, such as {folder / 'fold1'}" in capsys.readouterr().err
    with pytest.raises(
        RunError, match="must be one run or one per emotion, but holds several folds. Give one of fold1"
    ):
        runs_in(folder)


def test_one_fold_is_evaluated_on_other_data_with_their_own_splits(folder, corpus_path, tmp_path):
    found, _ = evaluate_run(folder / "fold2", str(corpus_path), device="cpu", output_dir=tmp_path)
    assert found.metrics["samples"] == 19
    assert "fold" not in found.metrics


def test_a_fold_alone_is_that_fold_of_all(folder, path, tmp_path):
    config = settings(path, tmp_path / "alone", 3, **{"fold": 2, "data.group_column": "speaker"})
    run_experiment(config, report=False, quiet=True)
    for name in ("model/model.safetensors", "predictions.csv"):
        assert (tmp_path / "alone" / name).read_bytes() == (folder / "fold2" / name).read_bytes()


def test_an_interrupted_cross_validation_is_resumed(folder, path, tmp_path, in_this_process):
    again = tmp_path / "folds"
    shutil.copytree(folder, again)
    shutil.rmtree(again / "fold3")
    with pytest.raises(RunError, match="must hold all folds of one cross-validation, but fold3 is missing"):
        report_folds(again)
    (again / "fold2/metrics.json").unlink()
    in_this_process.clear()
    outcome = cross_validate(path, again, **{"data.group_column": "speaker"})
    assert outcome.failures == {}
    assert in_this_process == ["fold2", "fold3"]
    for name in ("predictions.csv", "metrics.json", "fold3/model/model.safetensors"):
        assert (again / name).read_bytes() == (folder / name).read_bytes()


def test_one_speaker_is_left_out_and_a_failed_fold_leaves_no_pooled_result(path, tmp_path):
    """Happy is present in clips of one speaker only, without whom it cannot be learnt."""
    arrays = arrays_of(path)
    arrays["happy"] = (arrays["speaker"] == "a") * (np.arange(CLIPS) % 3 == 0)
    arrays["sad"] = np.arange(CLIPS) % 2
    np.savez(tmp_path / "data.npz", **arrays)
    folder = tmp_path / "folds"
    folder.mkdir()
    (folder / "metrics.json").write_text("{}")
    outcome = cross_validate(tmp_path / "data.npz", folder, "speaker")
    assert list(outcome.failures) == ["fold1"]
    assert "happy must be present in some clips of train and absent in others" in outcome.failures["fold1"]
    assert outcome.results == {}
    about = json.loads((folder / "fold3/metrics.json").read_text())["fold"]
    assert about == {"by": "speaker", "number": 3, "of": 4, "groups": ["c"]}
    assert Run(folder / "fold3").load_config().data.group_column == "speaker"
    assert not (folder / "metrics.json").exists()


def test_separate_models_and_seeds(path, tmp_path):
    outcome = cross_validate(path, tmp_path / "runs", 2, "per_emotion", [1, 2], **{"data.group_column": "speaker"})
    assert outcome.failures == {}
    assert outcome.summary["seeds"] == [1, 2]
    for seed in (1, 2):
        place = tmp_path / f"runs/seed{seed}"
        metrics = json.loads((place / "metrics.json").read_text())
        assert (metrics["mode"], metrics["seed"], metrics["samples"]) == ("per_emotion", seed, CLIPS)
        assert metrics["exclusive"]["rows"] == CLIPS
        for emotion in ("happy", "sad"):
            config = Run(place / "fold2" / emotion).load_config()
            assert (config.seed, config.emotions, config.fold) == (seed, [emotion], 2)
        ids = [read_predictions(place / f"fold2/{emotion}/predictions.csv").ids for emotion in ("happy", "sad")]
        assert ids[0] == ids[1]
    values = [outcome.results[seed]["mean"]["auroc"] for seed in (1, 2)]
    assert outcome.summary["mean"]["auroc"]["mean"] == pytest.approx(np.mean(values))


def test_real_values_are_pooled_too(path, tmp_path):
    arrays = arrays_of(path)
    arrays["valence"] = np.clip(arrays["audio"][:, 0], -3, 3)
    np.savez(tmp_path / "data.npz", **arrays)
    tasks = ["happy", "valence:regression:-3:3"]
    outcome = cross_validate(
        tmp_path / "data.npz", tmp_path / "runs", 2, tasks=tasks, **{"data.group_column": "speaker"}
    )
    assert outcome.failures == {}
    metrics = outcome.results[None]
    pooled = read_predictions(tmp_path / "runs/predictions.csv")
    labels, values = pooled.labels[:, 1], pooled.probabilities[:, 1]
    assert metrics["regression"]["valence"]["mae"] == pytest.approx(np.abs(labels - values).mean(), rel=1e-5)
    each = [Run(place).metrics()["regression"]["valence"]["mae"] for place in fold_folders(tmp_path / "runs").values()]
    assert metrics["folds"]["regression"]["valence"]["mae"]["mean"] == pytest.approx(np.mean(each))
    ridge = read_predictions(tmp_path / "runs/predictions_ridge_regression.csv")
    assert ridge.emotions == ["valence"]
    assert read_predictions(tmp_path / "runs/predictions_logistic_regression.csv").emotions == ["happy"]
    found = metrics["baselines"]["ridge_regression"]["regression"]["valence"]["mae"]
    assert found == pytest.approx(np.abs(ridge.labels - ridge.probabilities).mean())
    assert [line.split()[:2] for line in results_table(metrics).splitlines() if line.startswith("valence")] == [
        ["valence", "pooled"]
    ]


def test_folds_of_another_number_are_not_mixed(folder, path):
    with pytest.raises(RunError, match="must hold the folds of this cross-validation only, but holds fold3. Remove it"):
        cross_validate(path, folder, 2, **{"data.group_column": "speaker"})
    with pytest.raises(RunError, match="cannot resume: fold_seed changed from 0 to 1"):
        cross_validate(path, folder, fold_seed=1, **{"data.group_column": "speaker"})


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"folds": 1}, "folds must be a number from 2 to 100, or the name of groups such as session, but got 1."),
        ({"fold": 2}, "must have folds beside fold, but have fold 2 alone. Add --folds."),
        ({"folds": 3, "fold": 4}, "must have a fold from 1 to 3, but have 4. Choose another --fold."),
        (
            {"folds": "speaker", "data.group_column": "session"},
            "must have the same groups in folds and data.group_column, but have 'speaker' and 'session'. Remove one.",
        ),
    ],
)
def test_wrong_settings(path, tmp_path, changes, message):
    with pytest.raises(ConfigError) as caught:
        replaced(small_experiment(path, tmp_path), changes)
    assert message in str(caught.value)


def test_one_training_is_of_one_fold(path, tmp_path):
    with pytest.raises(
        ConfigError, match="fold must be a number where folds are set, since one training is of one fold"
    ):
        run_experiment(settings(path, tmp_path / "run", 3), quiet=True)
    assert not (tmp_path / "run").exists()


def test_folds_on_the_command_line(path, tmp_path, capsys):
    arguments = ["--data_path", str(path), "--output_dir", str(tmp_path / "runs"), "--folds"]
    for value, message in (
        ("100", "folds must be at most the number of clips, 48, but got 100"),
        ("sesion", "data.group_column must name a column or key of every split, but 'sesion' is none"),
    ):
        assert run_command(train.main, [*arguments, value]) == 2
        assert message in capsys.readouterr().err
    assert not (tmp_path / "runs").exists()


@pytest.mark.slow
def test_children_train_the_folds(folder, path, tmp_path):
    import subprocess
    import sys

    from lmf_multitask.pipeline.launcher import child_environment

    config = settings(path, tmp_path / "runs", 3, **{"data.group_column": "speaker"})
    (tmp_path / "config.yaml").write_text(config.to_yaml())
    done = subprocess.run(
        [sys.executable, "-m", "lmf_multitask.train", "--config", tmp_path / "config.yaml"],
        capture_output=True, text=True, env=child_environment(),
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert "3 folds (stratified)" in done.stdout
    assert done.stderr.count("data: 3 folds of 4 groups") == 1
    assert (tmp_path / "runs/report.html").is_file()
    assert sorted(read_predictions(tmp_path / "runs/predictions.csv").ids) == sorted(arrays_of(path)["id"].tolist())
