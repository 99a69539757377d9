"""Trials in processes of their own: which settings they are given, which are pruned, and what becomes of those that die.

The processes are stand-ins that take milliseconds; `test_outcome` trains.
"""

import contextlib
import re
import signal
import sqlite3
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import optuna
import pytest
import sqlalchemy

from lmf_multitask.errors import RunError, TrainingError
from lmf_multitask.pipeline.launcher import Children
from lmf_multitask.pipeline.settings import ExperimentConfig
from lmf_multitask.searching import driver
from lmf_multitask.searching.space import PruningConfig, SearchConfig
from lmf_multitask.searching.study import Study, _one_line
from lmf_multitask.training.config import TrainingConfig

CHILD = """
import json, os, signal, sys, time
from pathlib import Path
lines = [line.split(": ") for line in Path(sys.argv[1]).read_text().splitlines() if ": " in line]
given = {line[0].strip(): line[1] for line in lines}
training = {"epochs": int(given["epochs"]), "learning_rate": float(given["learning_rate"])}
place = int(Path(sys.argv[2]).name.removeprefix("trial-"))
here = Path(__file__).parent
with (here / "begun").open("a") as file:
    file.write(f"{place}\\n")
todo = here / f"do-{place}"
what = todo.read_text() if todo.exists() else ""
if what.startswith("once "):
    todo.unlink()
sys.stderr.write("warning: the same of every trial\\n4 emotions, 3 parameters\\n")
for epoch in range(1, training["epochs"] + 1):
    if epoch == 2 and "kill" in what:
        os.kill(os.getpid(), signal.SIGKILL)
    if epoch == 2 and "error" in what:
        sys.stderr.write("error: the disk is full.\\n")
        sys.exit(2)
    if epoch == 2 and "diverge" in what:
        sys.stderr.write(json.dumps({"failed": "the training loss must stay finite"}) + "\\n")
        sys.exit(0)
    if "sleep" in what:
        time.sleep(60)
    value = 1 - training["learning_rate"] + epoch / 100  # better in every epoch, the better the smaller the rate
    row = {"epoch": epoch, "validation_weighted_f1": value, "validation_loss": 2 - value, "best": int(epoch < 5)}
    if "undefined" in what:
        row["validation_weighted_f1"] = None
    sys.stderr.write(json.dumps(row) + "\\n")
    sys.stderr.flush()
"""


@pytest.fixture
def child(tmp_path, monkeypatch):
    """The folder of the stand-in; a file `do-PLACE` in it tells what the trial of that place is to do."""
    folder = tmp_path / "child"
    folder.mkdir()
    (folder / "child.py").write_text(CHILD)

    def command(*arguments):
        return [sys.executable, "-S", str(folder / "child.py"), *map(str, arguments)]

    monkeypatch.setattr(driver, "child_command", command)
    return folder


def settings(**changes):
    known = {
        "experiment": ExperimentConfig(training=TrainingConfig(epochs=6)),
        "space": {
            "training.learning_rate": {"low": 0.001, "high": 1.0},
            "model.fusion.rank": {"choices": [1, 4, 8]},
            "model.encoders.text.state, model.encoders.text.hidden": {"choices": [[64, 32], [128, 64]]},
        },
        "pruning": PruningConfig(method="none"),
    }
    return SearchConfig(**{**known, **changes})


def run(folder, config, total, jobs=1):
    folder.mkdir(exist_ok=True)
    study = Study(folder / "study.db", config)
    driver.run_trials(study, config, total, jobs)
    return study.trials()


def begun(child):
    return [int(line) for line in (child / "begun").read_text().split()]


@pytest.mark.parametrize("sampler", ["tpe", pytest.param("random", marks=pytest.mark.slow)])
def test_a_continued_search_equals_an_uninterrupted_one(child, tmp_path, sampler):
    config = settings(sampler=sampler, pruning=PruningConfig(startup_trials=2, warmup_epochs=3))
    whole = run(tmp_path / "whole", config, 12)
    for total in (3, 3, 12):
        parts = run(tmp_path / "parts", config, total)
        assert len(parts) == total
    assert parts == whole
    assert [trial.number for trial in whole] == list(range(1, 13))
    other = run(tmp_path / "other", settings(sampler=sampler, seed=2), 3)
    assert [trial.settings for trial in other] != [trial.settings for trial in whole[:3]]


def test_what_a_trial_is(child, tmp_path, caplog):
    with caplog.at_level("INFO", "lmf_multitask"):
        first, *_ = trials = run(tmp_path / "search", settings(), 3)
    rate = first.settings["training.learning_rate"]
    assert 0.001 <= rate <= 1
    assert first.settings["model.fusion.rank"] in (1, 4, 8)
    assert first.settings["model.encoders.text.state, model.encoders.text.hidden"] in ([64, 32], [128, 64])
    assert first.values == pytest.approx([1 - rate + epoch / 100 for epoch in range(1, 7)])
    assert (first.state, first.kept, first.value) == (
        "finished",
        4,
        first.values[3],
    )  # the last that was called the best
    lines = [record.getMessage() for record in caplog.records]
    assert lines.count("the same of every trial") == 1
    assert [line for line in lines if line.startswith("trial 1/3  weighted F1 ")] == [
        f"trial 1/3  weighted F1 {first.value:.3f}  epoch 4 of 6  best"
    ]
    best = max(trials, key=lambda trial: trial.value)
    assert best.settings["training.learning_rate"] == min(t.settings["training.learning_rate"] for t in trials)


def test_pruning_is_by_the_median_of_the_finished_at_the_same_epoch(child, tmp_path):
    """Against the rule written out in numpy."""
    trials = run(
        tmp_path / "search", settings(sampler="random", pruning=PruningConfig(startup_trials=3, warmup_epochs=2)), 16
    )
    finished = []
    for trial in trials:
        curve = [1 - trial.settings["training.learning_rate"] + epoch / 100 for epoch in range(1, 7)]
        end = None
        for epoch in range(2, 7):
            others = [other.values[epoch - 1] for other in finished]
            if len(others) >= 3 and max(curve[:epoch]) < np.median(others):
                end = epoch
                break
        assert (trial.state, len(trial.values)) == (("finished", 6) if end is None else ("pruned", end)), trial.number
        assert trial.value == pytest.approx(curve[min(4, end or 6) - 1])
        if end is None:
            finished.append(trial)
    assert 3 < len(finished) < 16


def test_less_of_the_loss_is_better(child, tmp_path):
    config = settings(objective="loss", pruning=PruningConfig(startup_trials=2, warmup_epochs=1))
    trials = run(tmp_path / "search", config, 12)
    assert all(t.value == pytest.approx(1 + t.settings["training.learning_rate"] - t.kept / 100) for t in trials)
    best = min((t for t in trials if t.state == "finished"), key=lambda t: t.value)
    assert all(t.values[0] >= best.values[0] for t in trials)
    assert any(trial.state == "pruned" for trial in trials)


def test_a_trial_that_is_killed_is_marked_failed_and_redone_with_the_same_settings(child, tmp_path, caplog):
    whole = run(tmp_path / "whole", settings(), 5)
    (child / "begun").unlink()
    (child / "do-1").write_text("once kill")
    (child / "do-3").write_text("once error")
    assert run(tmp_path / "search", settings(), 5) == whole
    assert begun(child) == [0, 1, 1, 2, 3, 3, 4]
    assert "trial 2 is started again: its process was killed by SIGKILL" in caplog.text
    assert "trial 4 is started again: the disk is full." in caplog.text
    kept = optuna.load_study(study_name="search", storage=f"sqlite:///{tmp_path / 'search/study.db'}").trials
    assert [trial.state.name for trial in kept] == [
        "COMPLETE", "FAIL", "COMPLETE", "COMPLETE", "FAIL", "COMPLETE", "COMPLETE",
    ]  # fmt: skip
    assert kept[1].params == kept[2].params


@pytest.mark.parametrize(
    ("what", "reason"),
    [
        ("kill", "its process was killed by SIGKILL"),
        pytest.param("error", "the disk is full", marks=pytest.mark.slow),
    ],
)
def test_a_trial_that_dies_again_and_again_ends_the_search_and_keeps_the_others(child, tmp_path, what, reason):
    (child / "do-2").write_text(what)
    message = f"the process of trial 3 must end normally, but failed 3 times ({reason}). Correct that and give the same command again: the search continues."
    with pytest.raises(TrainingError, match=re.escape(message)):
        run(tmp_path / "search", settings(), 5)
    assert begun(child) == [0, 1, 2, 2, 2]
    (child / "do-2").unlink()
    assert run(tmp_path / "search", settings(), 5) == run(tmp_path / "whole", settings(), 5)


def test_settings_that_do_not_train_are_a_result(child, tmp_path, caplog):
    (child / "do-1").write_text("diverge")
    (child / "do-2").write_text("undefined")
    with caplog.at_level("INFO", "lmf_multitask"):
        trials = run(tmp_path / "search", settings(), 4)
    assert [trial.state for trial in trials] == ["finished", "failed", "failed", "finished"]
    assert trials[1].reason == "the training loss must stay finite"
    assert trials[2].reason == "the objective weighted_f1 must be a number, but is None on validation"
    assert begun(child) == [0, 1, 2, 3]
    assert "trial 2/4  failed: the training loss must stay finite" in caplog.text


def test_side_by_side_every_place_is_run_once(child, tmp_path):
    for place in (2, 5):
        (child / f"do-{place}").write_text("once kill")
    trials = run(tmp_path / "search", settings(), 9, jobs=4)
    assert [trial.number for trial in trials] == list(range(1, 10))
    assert sorted(begun(child)) == sorted([*range(9), 2, 5])


def test_a_study_whose_process_died_continues_with_the_same_settings(child, tmp_path):
    whole = run(tmp_path / "whole", settings(), 4)
    run(tmp_path / "search", settings(), 2)
    lost = Study(tmp_path / "search/study.db", settings()).ask(2)
    study = Study(tmp_path / "search/study.db", settings())
    assert study.pending(4) == [2, 3]
    again = study.ask(2)
    assert again.values == lost.values
    study.abandon(again)
    assert run(tmp_path / "search", settings(), 4) == whole


@pytest.mark.parametrize("content", [b"x" * 5000, b"SQLite format 3\0" + b"x" * 5000])
def test_a_damaged_study(tmp_path, content):
    (tmp_path / "study.db").write_bytes(content)
    with pytest.raises(
        RunError, match=r"study.db: must be the study of a search, but .*\. Choose another --output_dir\."
    ):
        Study(tmp_path / "study.db", settings())


STOPPED = """
import signal, sys
signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell ignores it for what it starts in the background
from pathlib import Path
sys.path.insert(0, sys.argv[1])
from lmf_multitask.command_line import run
from lmf_multitask.searching import driver
from test_driver import settings, run as run_search
driver.child_command = lambda *arguments: [sys.executable, sys.argv[2] + "/child.py", *map(str, arguments)]
sys.exit(run(lambda arguments: run_search(Path(sys.argv[3]), settings(), 6, jobs=2), []))
"""


@pytest.mark.parametrize("number", [signal.SIGINT, pytest.param(signal.SIGTERM, marks=pytest.mark.slow)])
def test_ctrl_c_ends_all_and_keeps_what_has_ended(child, tmp_path, number):
    for place in (3, 4):
        (child / f"do-{place}").write_text("sleep")
    parent = subprocess.Popen(
        [sys.executable, "-c", STOPPED, str(Path(__file__).parent), str(child), str(tmp_path / "search")],
        stderr=subprocess.PIPE,
        text=True,
    )
    deadline = time.monotonic() + 60
    while not (child / "begun").exists() or len(begun(child)) < 5:
        assert time.monotonic() < deadline
        time.sleep(0.05)
    time.sleep(0.3)
    parent.send_signal(number)
    _, said = parent.communicate(timeout=30)
    assert parent.returncode == {signal.SIGINT: 130, signal.SIGTERM: 143}[number], said
    assert "Traceback" not in said
    assert str(child) not in subprocess.run(["ps", "-eo", "args"], capture_output=True, text=True).stdout
    assert Study(tmp_path / "search/study.db", settings()).pending(6) == [3, 4, 5]
    for place in (3, 4):
        (child / f"do-{place}").unlink()
    assert [trial.number for trial in run(tmp_path / "search", settings(), 6)] == [1, 2, 3, 4, 5, 6]


def test_a_child_can_be_ended_early():
    lines = []
    code = "import sys, time; [print(n, file=sys.stderr, flush=True) for n in range(3)]; time.sleep(60)"
    with Children() as children:
        assert children.run([sys.executable, "-c", code], lambda line: lines.append(line) or line == "1") is None
    assert lines == ["0", "1"]


def test_a_locked_study_is_waited_for_and_not_replaced(tmp_path):
    """SQLite's own words, from a connection that holds the lock."""
    path = tmp_path / "study.db"
    with contextlib.closing(sqlite3.connect(path)) as other:
        other.execute("create table x (y)")
        other.commit()
        other.execute("begin exclusive")
        engine = sqlalchemy.create_engine(
            f"sqlite:///{path}", connect_args={"timeout": 0}, poolclass=sqlalchemy.pool.NullPool
        )
        told = r"another process has locked it\. Wait until it ends\."
        with pytest.raises(RunError, match=told), _one_line(path), engine.connect() as one:
            one.execute(sqlalchemy.text("select * from x"))
        engine.dispose()
