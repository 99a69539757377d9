"""Run directories: which folders are such, and what comes back from them."""

import json
import logging
import warnings

import pytest
from conftest import small_experiment

from lmf_multitask.data.config import DataConfig
from lmf_multitask.errors import ConfigError, RunError
from lmf_multitask.pipeline.layout import check_run_names, fold_folders, seed_folders
from lmf_multitask.pipeline.predictions import predictions_of
from lmf_multitask.pipeline.progress import logging_to_file
from lmf_multitask.pipeline.runs import Run, runs_in
from lmf_multitask.pipeline.settings import ExperimentConfig, first_difference
from lmf_multitask.training.config import TrainingConfig


def make_run(folder, **settings):
    run = Run(folder)
    run.start(ExperimentConfig(**settings))
    return run


# -- finding runs


def test_a_run_is_itself(tmp_path):
    make_run(tmp_path / "run")
    assert [run.folder for run in runs_in(tmp_path / "run")] == [tmp_path / "run"]
    assert [run.folder for run in runs_in(str(tmp_path / "run"))] == [tmp_path / "run"]


def test_the_parent_of_runs_stands_for_all_of_them(tmp_path):
    for name in ("neutral", "calm", "happy"):
        make_run(tmp_path / name)
    (tmp_path / "notes").mkdir()
    assert [run.folder.name for run in runs_in(tmp_path)] == ["happy", "neutral", "calm"]


def test_other_folders_are_refused(tmp_path):
    with pytest.raises(RunError, match="nowhere: must be a run directory, but there is no such folder. Check the path"):
        runs_in(tmp_path / "nowhere")
    with pytest.raises(
        RunError, match="must be a run directory, but neither it nor a folder in it has a config.yaml. Give"
    ):
        runs_in(tmp_path)


# -- settings


def test_settings_come_back(tmp_path):
    config = small_experiment("a b.pkl", tmp_path, seed=2**62, emotions=["ärger", "sad"], patience=None, epochs=7)
    config.data = DataConfig(label_column=1, non_finite="error", cache_dir="x")
    Run(tmp_path).start(config)
    assert Run(tmp_path).load_config() == config


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("", "config.yaml: must hold the settings of a run, but must hold settings by name"),
        ("[1, 2]", "config.yaml: must hold the settings of a run, but"),
        ("a: [", "config.yaml: must hold the settings of a run, but must be YAML"),
        ("data: 3", "config.yaml: must hold the settings of a run, but data"),
        ("model: {colour: red}", "must hold the settings of a run, but .*colour"),
        ("training: {epochs: 0}", "must hold the settings of a run, but training.epochs must be .* 1, but got 0"),
        ("sped: 1", "must hold the settings of a run, but .*sped"),
    ],
)
def test_damaged_settings(tmp_path, content, message):
    (tmp_path / "config.yaml").write_text(content)
    with pytest.raises(RunError, match=message) as caught:
        Run(tmp_path).load_config()
    assert "\n" not in str(caught.value)
    assert ".." not in str(caught.value)


def test_missing_settings_and_model(tmp_path):
    with pytest.raises(RunError, match="must be a run directory, but has no config.yaml. Give the --output_dir"):
        Run(tmp_path).load_config()
    with pytest.raises(RunError, match="must hold a trained model, but has no folder 'model'. Let its training finish"):
        make_run(tmp_path / "run").load_model()


# -- making runs (which folders may be taken: see training/test_experiment.py)


def test_start_removes_what_an_earlier_run_left_and_nothing_else(tmp_path):
    run = make_run(tmp_path, seed=1)
    for name in (
        "metrics.json",
        "metrics_validation.json",
        "predictions_train.csv",
        "history.csv",
        "predictions.csv",
        "train.log",
        "my.txt",
    ):
        (tmp_path / name).write_text("old")
    for name in ("model", "checkpoints", "visualdl", "mine"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "file").write_text("old")
    run.start(ExperimentConfig(seed=2), resume=True)
    assert (tmp_path / "checkpoints" / "file").exists()
    run.start(ExperimentConfig(seed=3))
    assert sorted(path.name for path in tmp_path.iterdir()) == ["config.yaml", "mine", "my.txt"]
    assert run.load_config().seed == 3


def test_a_link_is_removed_and_not_followed(tmp_path):
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "elsewhere" / "precious").write_text("")
    run = make_run(tmp_path / "run")
    (tmp_path / "run" / "model").symlink_to(tmp_path / "elsewhere")
    run.start(ExperimentConfig())
    assert (tmp_path / "elsewhere" / "precious").exists()
    assert not (tmp_path / "run" / "model").exists()


def test_history_has_all_columns(tmp_path):
    run = make_run(tmp_path)
    run.write_history([{"epoch": 1, "a": 0.1}, {"epoch": 2, "a": 1 / 3, "b": 2.0}])
    assert (tmp_path / "history.csv").read_text() == f"epoch,a,b\n1,0.1,\n2,{1 / 3!r},2.0\n"


def test_results_that_change_are_noticed(tmp_path):
    run = make_run(tmp_path)
    (tmp_path / "predictions.csv").write_text("id,x_label,x_probability\na,1,0.5\n")
    run.write_history([{"epoch": 1}])
    run.write_metrics({"mean": {"uar": None}})
    assert run.metrics() == {"mean": {"uar": None}}
    assert json.loads((tmp_path / "metrics.json").read_text()) == {"mean": {"uar": None}}
    assert predictions_of([str(tmp_path)])[0][0].probabilities.tolist() == [[0.5]]
    (tmp_path / "predictions.csv").write_text("id,x_label,x_probability\na,1,0.6\n")
    (tmp_path / "metrics.json").write_text('{"mean": {"uar": 1}}')
    for name, read in (("predictions.csv", lambda: predictions_of([str(tmp_path)])), ("metrics.json", run.metrics)):
        with pytest.raises(RunError, match=f"{name}: must be as the training wrote it, but has changed or is damaged"):
            read()


@pytest.mark.parametrize("name", ["plots", "model", "checkpoints", "visualdl", "seed3", "fold12"])
def test_names_that_the_layout_uses(name):
    with pytest.raises(ConfigError, match=f"must not be called '{name}', since the output directory uses that name"):
        check_run_names(["happy", name])
    check_run_names(["happy", "seed", "plot"])


@pytest.mark.parametrize("name", ["seed1", "seed²", "seed", "seed-1", "seedling"])
def test_seed_folders(tmp_path, name):
    (tmp_path / name).mkdir()
    assert seed_folders(tmp_path) == ({1: tmp_path / "seed1"} if name == "seed1" else {})


def test_fold_folders(tmp_path):
    for name in ("fold10", "fold2", "folder", "fold", "seed1"):
        (tmp_path / name).mkdir()
    assert fold_folders(tmp_path) == {2: tmp_path / "fold2", 10: tmp_path / "fold10"}
    with pytest.raises(RunError, match="must be one run or one per emotion, but holds several seeds"):
        runs_in(tmp_path)
    (tmp_path / "seed1").rmdir()
    with pytest.raises(
        RunError, match="must be one run or one per emotion, but holds several folds. Give one of fold2"
    ):
        runs_in(tmp_path)


def test_predictions_of_several_seeds(tmp_path):
    for seed in (1, 2):
        (tmp_path / f"many/seed{seed}").mkdir(parents=True)
        (tmp_path / f"many/seed{seed}/predictions.csv").write_text(f"id,x_probability\na,0.{seed}\n")
    (tmp_path / "other.csv").write_text("id,x_probability\na,0.5\n")
    many, one = predictions_of([str(tmp_path / "many"), str(tmp_path / "other.csv")])
    assert [(part.name, part.probabilities.tolist()) for part in many] == [("many", [[0.1]]), ("many", [[0.2]])]
    assert [part.name for part in one] == ["other.csv"]


def test_linked_seeds_are_refused(tmp_path):
    (tmp_path / "precious").mkdir()
    (tmp_path / "seed1").symlink_to(tmp_path / "precious")
    with pytest.raises(RunError, match="seed1: must not be a symbolic link, but is one"):
        seed_folders(tmp_path)


def test_first_difference():
    old = {"a": {"b": 1, "c": {"d": 2}}, "e": [1], "space": {"x": {"low": 1}}}
    assert first_difference(old, old) is None
    assert first_difference(old, {**old, "e": [2]}) == ("e", [1], [2])
    assert first_difference(old, {**old, "a": {"b": 1, "c": {"d": 3}}}) == ("a.c.d", 2, 3)
    assert first_difference(old, {**old, "a": {"b": 1}}) == ("a.c.d", 2, "nothing")
    assert first_difference(old, {**old, "e": [2]}, ignored=("e",)) is None
    changed = {**old, "space": {"x": {"low": 2}}}
    assert first_difference(old, changed, leaves=("space",)) == ("space.x", {"low": 1}, {"low": 2})


def test_the_log_holds_what_was_logged_inside_the_block(tmp_path):
    run = make_run(tmp_path)
    logger = logging.getLogger("lmf_multitask.anything")
    package = logging.getLogger("lmf_multitask")
    before = package.level, list(package.handlers)
    with pytest.raises(ZeroDivisionError), logging_to_file(run.folder / "train.log"):
        logger.debug("for the file: ä")
        raise ZeroDivisionError
    logger.warning("too late")
    assert (package.level, package.handlers) == before
    text = (tmp_path / "train.log").read_text(encoding="utf-8")
    assert "DEBUG for the file: ä" in text
    assert "too late" not in text
    with logging_to_file(run.folder / "train.log"):
        logger.info("going on")
    assert "for the file" in (tmp_path / "train.log").read_text(encoding="utf-8")


def test_captured_warnings_go_to_the_log(tmp_path):
    run = make_run(tmp_path)
    with warnings.catch_warnings(), logging_to_file(run.folder / "train.log"):
        warnings.simplefilter("always")
        logging.captureWarnings(True)
        try:
            warnings.warn("mind this", stacklevel=1)
        finally:
            logging.captureWarnings(False)
    assert "mind this" in (tmp_path / "train.log").read_text()


def test_training_config_is_what_load_config_gives(tmp_path):
    make_run(tmp_path, training=TrainingConfig(epochs=3))
    assert Run(tmp_path).load_config().training == TrainingConfig(epochs=3)
