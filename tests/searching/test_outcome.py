"""A whole search with real trainings, in this process: validation only, resumed, retrained, written."""

import csv
import dataclasses
import json
import pickle
import re

import numpy as np
import pytest
import yaml
from conftest import make_corpus, small_experiment, to_bytes_keys

from lmf_multitask.errors import ConfigError, RunError, TrainingError
from lmf_multitask.evaluation.statistics import t_interval
from lmf_multitask.pipeline import experiment, stages
from lmf_multitask.pipeline.experiment import validate_experiment
from lmf_multitask.pipeline.runs import Run
from lmf_multitask.pipeline.settings import settings_from
from lmf_multitask.searching import child, driver, outcome
from lmf_multitask.searching.outcome import Plan, check_seeds, search
from lmf_multitask.searching.space import PruningConfig, SearchConfig


def run_experiment(config):
    return experiment.run_experiment(config, report=False, quiet=True)


class Enough(Exception):
    pass


class InThisProcess:
    """Stands for `Children`: what a child does, without the seconds that it takes to start."""

    stopped = False

    def __enter__(self):
        return self

    def __exit__(self, *error):
        pass

    def run(self, command, on_line):
        def tell(row):
            if on_line(json.dumps(row)):
                raise Enough

        before, child.report = child.report, tell
        try:
            child.main(command[-2:])
        except Enough:
            pass
        finally:
            child.report = before
        return None


def train_here(experiments, jobs=None, overwrite=False, report=False, quiet=False):
    for config in experiments.values():
        run = Run(config.run_directory())
        if not run.is_complete():
            run_experiment(config)
    return {}


@pytest.fixture
def here(monkeypatch):
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    monkeypatch.setattr(driver, "Children", InThisProcess)
    monkeypatch.setattr(outcome, "train_all", train_here)


def settings(path, **changes):
    known = {
        "experiment": dataclasses.replace(small_experiment(path, "x"), output_dir=None),
        "space": {
            "training.learning_rate": {"low": 0.001, "high": 0.1, "log": True},
            "model.encoders.text.state, model.encoders.text.hidden": {"choices": [[4, 2], [6, 3]]},
        },
        "pruning": PruningConfig(startup_trials=2, warmup_epochs=2),
    }
    return SearchConfig(**{**known, **changes})


PLAIN = Plan(trials=4, jobs=1, retrain=0, seeds=(2, 3), report=False)


def poisoned(rows=(31, 16, 19), **changes):
    """`corpus_path`'s data with other features and labels in test."""
    tree = make_corpus(rows, **changes)
    for part in tree.values():
        test = part["test"]
        for name in ("covarep", "facet", "glove"):
            test[name] = (1e6 * np.random.default_rng(9).normal(size=test[name].shape)).astype(test[name].dtype)
        order = np.random.default_rng(4).permutation(len(test["label"]))
        test["label"] = test["label"][order]  # exclusive still: the same for every emotion
    return tree


# -- validation only


def test_a_trial_is_a_training_up_to_its_test(trained, tmp_path):
    """Every figure of every epoch, to the bit, of a run that saves checkpoints, restores its best weights, and tests."""
    folder, _ = trained
    rows = []
    config = settings_from(folder / "config.yaml")
    history = validate_experiment(config, tmp_path / "nothing", rows.append)
    with (folder / "history.csv").open() as file:
        whole = [{name: float(value) for name, value in row.items()} for row in csv.DictReader(file)]
    assert rows == history == whole
    assert not list(tmp_path.rglob("*.pd*"))


def test_a_trial_lets_go_of_the_test_split_before_it_looks_at_the_data(corpus_path, tmp_path, monkeypatch):
    read = stages.read_data

    def read_without_test(config):
        data = read(config)
        dict.__setitem__(data.dataset, "test", object())  # has no rows, no columns, no features
        return data

    config = small_experiment(corpus_path, tmp_path, epochs=2)
    expected = validate_experiment(config, tmp_path / "a", lambda row: None)
    monkeypatch.setattr(stages, "read_data", read_without_test)
    assert validate_experiment(config, tmp_path / "b", lambda row: None) == expected
    with pytest.raises(AttributeError):  # a training needs it
        run_experiment(dataclasses.replace(config, output_dir=str(tmp_path / "run")))


@pytest.mark.slow
def test_no_trial_sees_the_test_split(here, corpus_path, tmp_path):
    """Other features and labels in test: the same trials, bit for bit, the same best settings."""
    path = tmp_path / "poisoned.pkl"
    path.write_bytes(pickle.dumps(to_bytes_keys(poisoned()), protocol=2))
    clean = search(settings(corpus_path), tmp_path / "clean", PLAIN)
    other = search(settings(path), tmp_path / "poisoned", PLAIN)
    assert other.trials == clean.trials
    assert (tmp_path / "poisoned/trials.csv").read_bytes() == (tmp_path / "clean/trials.csv").read_bytes()
    assert other.importances == clean.importances
    data = [
        stages.read_data(dataclasses.replace(small_experiment(one, tmp_path))).dataset for one in (corpus_path, path)
    ]
    assert data[0]["train"]["labels"] == data[1]["train"]["labels"]
    assert data[0]["test"]["labels"] != data[1]["test"]["labels"]
    assert not np.allclose(data[0]["test"]["text"], data[1]["test"]["text"])
    # the data of both searches agree in what trials see, so that one is continued on the data of the other
    again = dataclasses.replace(PLAIN, trials=5)
    moved = dataclasses.replace(settings(path).experiment, data_path=str(corpus_path))
    assert search(settings(corpus_path, experiment=moved), tmp_path / "clean", again).trials[:4] == clean.trials


# -- from beginning to end


@pytest.fixture(scope="module")
def finished(corpus_path, tmp_path_factory):
    """A search with everything, and what `search` returned. Do not change it."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(driver, "Children", InThisProcess)
        patch.setattr(outcome, "train_all", train_here)
        folder = tmp_path_factory.mktemp("search") / "finished"
        return folder, search(settings(corpus_path), folder, Plan(5, 1, 1, (2, 3)))


def test_what_a_search_leaves(finished):
    folder, result = finished
    names = sorted(path.name for path in folder.iterdir())
    best = [f"best-{n}.yaml" for n in range(1, len(result.best(3)) + 1)]
    assert names == sorted(
        [*best, "plots", "retrained", "search.html", "search.json", "search.yaml", "study.db", "trials.csv"]
    )
    with (folder / "trials.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [int(row["trial"]) for row in rows] == [1, 2, 3, 4, 5]
    for row, trial in zip(rows, result.trials):
        assert float(row["validation_weighted_f1"]) == trial.value
        assert json.loads(row["model.encoders.text.state, model.encoders.text.hidden"]) in ([4, 2], [6, 3])
        assert float(row["training.learning_rate"]) == trial.settings["training.learning_rate"]


def test_the_best_settings_train_to_the_searched_value(finished, tmp_path):
    """best-1.yaml is complete: its training has the trial's validation figure, to the bit."""
    folder, result = finished
    first = result.best(1)[0]
    assert first.value == max(trial.value for trial in result.trials if trial.state == "finished")
    text = (folder / "best-1.yaml").read_text()
    header = [line for line in text.splitlines() if line.startswith("#")]
    assert header[0] == f"# Number 1 of 5 trials of a search: trial {first.number} of {folder / 'study.db'}"
    assert header[1].startswith(
        f"# Command: python -m lmf_multitask.train --config {folder / 'best-1.yaml'} --output_dir"
    )
    again = next(one for one in result.retrained if one.trial.number == first.number)
    assert (
        f"weighted F1 {first.value:.3f} on validation, epoch {first.kept} of {len(first.values)}, seed 1" in header[2]
    )
    assert header[3].startswith(
        f"# Under the fresh seeds 2, 3: {np.mean(again.values):.3f} ± {np.std(again.values, ddof=1):.3f}"
    )
    config = dataclasses.replace(settings_from(folder / "best-1.yaml"), output_dir=str(tmp_path / "run"))
    assert (config.model.encoders.text.state, config.model.encoders.text.hidden) == tuple(
        first.settings["model.encoders.text.state, model.encoders.text.hidden"]
    )
    run_experiment(config)
    assert outcome.kept_value(Run(tmp_path / "run"), "validation_weighted_f1") == first.value


def test_fresh_seeds_are_beside_the_searched_value(finished):
    folder, result = finished
    told = json.loads((folder / "search.json").read_text())
    for one, written, trial in zip(result.retrained, told["retrained"], result.best(1)):
        assert one.trial == trial
        assert written["searched"] == trial.value
        assert (one.seeds, written["validation"]) == ([2, 3], one.values)
        for seed, value in zip(one.seeds, one.values):
            run = folder / f"retrained/trial-{trial.number}/seed{seed}"
            assert settings_from(run / "config.yaml").seed == seed
            with (run / "history.csv").open() as file:
                kept = [float(row["validation_weighted_f1"]) for row in csv.DictReader(file) if row["best"] == "1"]
            assert value == kept[-1]
        figures = [
            json.loads((folder / f"retrained/trial-{trial.number}/seed{s}/metrics.json").read_text())["mean"]["uar"]
            for s in (2, 3)
        ]
        assert one.test["mean"]["uar"]["mean"] == pytest.approx(np.mean(figures))
    text = result.retrained_table().as_text()
    first = result.retrained[0]
    assert f"{np.mean(first.values) - first.trial.value:+.3f}" in text
    assert "The best value of 5 trials is too optimistic" in text
    assert f"{t_interval(first.values)['mean']:.3f} ± " in result.verdict()


def test_the_page(finished):
    folder, result = finished
    text = (folder / "search.html").read_text(encoding="utf-8")
    for heading in ("Best settings", "New seeds", "Test", "Trials", "Importance", "Every trial"):
        assert re.search(rf"<h2 id=\"part\d\">{heading}</h2>", text), heading
    assert not re.findall(r'(?:src|href)="(?!data:|#)', text)
    assert "optimistic" in text
    assert {path.stem for path in (folder / "plots").glob("*.pdf")} >= {"history", "epochs", "slices"}


def test_the_same_command_again_changes_nothing_and_more_trials_continue(finished, here, corpus_path, tmp_path):
    import shutil

    folder, result = finished
    shutil.copytree(folder, tmp_path / "copy")
    again = search(settings(corpus_path), tmp_path / "copy", Plan(5, 1, 1, (2, 3), report=False))
    assert again.trials == result.trials
    assert again.retrained == result.retrained
    more = search(settings(corpus_path), tmp_path / "copy", Plan(6, 1, 0, (2, 3), report=False))
    assert more.trials[:5] == result.trials
    assert len(more.trials) == 6


def test_another_search_in_the_same_folder_is_refused(finished, corpus_path, tmp_path):
    folder, _ = finished
    before = {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    other = settings(corpus_path, seed=2)
    with pytest.raises(
        RunError,
        match=r"finished: cannot continue the search: seed changed from 1 to 2\. Choose another --output_dir\.",
    ):
        search(other, folder, PLAIN)
    space = {**settings(corpus_path).space, "model.fusion.rank": {"choices": [1, 2]}}
    message = "space.model.fusion.rank changed from 'nothing' to {'choices': [1, 2]}."
    with pytest.raises(RunError, match=re.escape(message)):
        search(settings(corpus_path, space=space), folder, PLAIN)
    assert {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()} == before


def test_other_data_under_the_same_name_are_refused(here, tmp_path):
    path = tmp_path / "data.pkl"
    path.write_bytes(pickle.dumps(make_corpus((31, 16, 19)), protocol=2))
    search(settings(path), tmp_path / "search", dataclasses.replace(PLAIN, trials=1))
    path.write_bytes(pickle.dumps(make_corpus((31, 16, 19), seed=1), protocol=2))
    with pytest.raises(RunError, match="search: cannot continue the search: the fingerprint of the data changed from"):
        search(settings(path), tmp_path / "search", PLAIN)


def test_a_search_of_which_nothing_trains(here, corpus_path, tmp_path):
    config = settings(
        corpus_path, space={"training.learning_rate": {"choices": [9.0, 10.0]}}, pruning=PruningConfig(method="none")
    )
    broken = dataclasses.replace(config.experiment.training, loss_reduction="sum", weight_decay=10.0)
    config = dataclasses.replace(config, experiment=dataclasses.replace(config.experiment, training=broken))

    def diverge(*arguments, **named):
        raise TrainingError("the training loss must stay finite, but became NaN or infinite in epoch 1.")

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(experiment, "validate_experiment", diverge)
        message = (
            "a search must have a trial that ends with a metric, but all 2 failed (the training loss must stay finite"
        )
        with pytest.raises(TrainingError, match=re.escape(message)):
            search(config, tmp_path / "search", dataclasses.replace(PLAIN, trials=2))
    assert sorted(path.name for path in (tmp_path / "search").iterdir()) == ["search.yaml", "study.db"]


@pytest.mark.parametrize(
    ("seeds", "message"),
    [
        ([], "--retrain_seeds must be different whole numbers of at least 0, but got ."),
        ([2, 2], "--retrain_seeds must be different whole numbers of at least 0, but got 2, 2."),
        ([-1], "--retrain_seeds must be different whole numbers of at least 0, but got -1."),
        ([2, 1], "--retrain_seeds must not contain the seed of the trials, but 1 is it. Choose fresh ones."),
    ],
)
def test_wrong_seeds(corpus_path, seeds, message):
    with pytest.raises(ConfigError, match=re.escape(message)):
        check_seeds(settings(corpus_path), seeds)


def test_a_network_that_is_too_large_is_refused_before_anything_runs(corpus_path, tmp_path):
    config = settings(corpus_path, space={"model.encoders.text.state": {"choices": [4, 65536]}})
    with pytest.raises(ConfigError, match="a network must have at most 268,435,456 parameters"):
        search(config, tmp_path / "search", PLAIN)
    assert not (tmp_path / "search").exists()


def test_tasks_of_several_kinds(here, tmp_path):
    """Binary and real-valued tasks are compared by the mean of the metrics of their kinds."""
    rng = np.random.default_rng(0)
    arrays = {name: rng.normal(size=(48, 3)).astype("f4") for name in ("audio", "video", "text")}
    arrays |= {"valence": arrays["audio"][:, 0], "happy": (arrays["video"][:, 0] > 0).astype(int)}
    np.savez(tmp_path / "x.npz", split=np.repeat(["train", "valid", "test"], [24, 12, 12]), **arrays)
    base = dataclasses.replace(small_experiment(tmp_path / "x.npz", "x", epochs=2), output_dir=None)
    space = {"training.regression_loss": {"choices": ["l1", "ccc"]}}
    both = dataclasses.replace(base, tasks=["happy", "valence:regression"])
    plan = dataclasses.replace(PLAIN, trials=2, report=True)
    found = search(SearchConfig(experiment=both, space=space, objective="task_metric"), tmp_path / "both", plan)
    assert [trial.state for trial in found.trials] == ["finished", "finished"]
    assert found.facts["Tasks"] == "happy, valence:regression"
    alone = dataclasses.replace(base, tasks=["valence:regression"])
    assert (
        search(
            SearchConfig(experiment=alone, space=space, objective="task_metric"), tmp_path / "alone", PLAIN
        ).objective
        == "ccc"
    )
    with pytest.raises(ConfigError, match="objective must be .* but weighted_f1 is for binary tasks. Choose ccc."):
        search(SearchConfig(experiment=alone, space=space), tmp_path / "refused", PLAIN)
    assert not (tmp_path / "refused").exists()


def test_the_file_of_the_search_is_complete(finished, corpus_path):
    folder, _ = finished
    content = yaml.safe_load((folder / "search.yaml").read_text())
    assert content["experiment"]["emotions"] == ["happy", "sad", "angry", "neutral"]
    assert content["experiment"]["data_path"] == str(corpus_path)
    assert content["pruning"] == {"method": "median", "startup_trials": 2, "warmup_epochs": 2}
