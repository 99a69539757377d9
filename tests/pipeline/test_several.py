import json
import os
import signal
import subprocess
import sys
import threading
import time

import numpy as np
import pytest
from commands import run_here, run_one
from conftest import make_corpus
from sklearn.metrics import accuracy_score, f1_score

from lmf_multitask import plugins
from lmf_multitask import train as train_command
from lmf_multitask.command_line import run
from lmf_multitask.errors import RunError
from lmf_multitask.evaluation.predictions import read_predictions
from lmf_multitask.pipeline.launcher import Children, child_environment, module_command, train_all
from lmf_multitask.pipeline.runs import Run, runs_in
from lmf_multitask.pipeline.settings import ExperimentConfig
from lmf_multitask.pipeline.several import join_runs

SMALL = [
    "--training.epochs",
    "2",
    "--training.batch_size",
    "8",
    *["--model.encoders.text.state", "4", "--model.encoders.text.hidden", "2"],
    *["--model.encoders.audio.hidden", "3", "--model.encoders.video.hidden", "3"],
]


def train(data, folder, *options):
    options = ["--mode", "per_emotion", "--data_path", data, "--output_dir", folder, *SMALL, *options]
    return run_here("train", *options)


def bits(folder):
    """Everything that must not depend on how a run was started."""
    names = ("model/model.safetensors", "predictions.csv", "history.csv", "metrics.json")
    return {f"{run.folder.name}/{name}": (run.folder / name).read_bytes() for run in runs_in(folder) for name in names}


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    import pickle

    path = tmp_path_factory.mktemp("data") / "data.pkl"
    path.write_bytes(pickle.dumps(make_corpus((24, 12, 16)), protocol=2))
    return path


@pytest.fixture(scope="module")
def trained(data, tmp_path_factory):
    """Two emotions, side by side."""
    folder = tmp_path_factory.mktemp("runs") / "two"
    done = train(data, folder, "--emotions", "sad", "happy", "--jobs", "2")
    assert done.returncode == 0, done.stderr
    return folder, done


def test_a_run_directory_per_emotion_and_one_result(trained):
    folder, done = trained
    assert sorted(path.name for path in folder.iterdir()) == [
        "happy", "manifest.json", "metrics.json", "plots", "predictions.csv", "predictions_logistic_regression.csv", "report.html",
        "robustness.json", "sad", "without.csv",
    ]  # fmt: skip
    seeds = {"happy": 2967694878, "sad": 2290532931}
    joined = json.loads((folder / "metrics.json").read_text())
    assert (joined["mode"], joined["split"], joined["samples"], joined["seed"]) == ("per_emotion", "test", 16, None)
    assert list(joined["emotions"]) == ["happy", "sad"]
    for emotion, seed in seeds.items():
        run = Run(folder / emotion)
        config = run.load_config()
        assert (config.emotions, config.seed, config.model.fusion.dim, config.training.epochs) == (
            [emotion],
            seed,
            None,
            2,
        )
        own = read_predictions(run.folder / "predictions.csv")
        decided = own.probabilities[:, 0] > 0.5
        found = joined["emotions"][emotion]
        assert found["weighted_f1"] == pytest.approx(
            f1_score(own.labels[:, 0], decided, average="weighted", zero_division=0)
        )
        assert found["accuracy"] == pytest.approx(accuracy_score(own.labels[:, 0], decided))
        assert found == json.loads((run.folder / "metrics.json").read_text())["emotions"][emotion]
        assert not (run.folder / "report.html").exists()  # one page shows them together
    mean = np.mean([found["weighted_f1"] for found in joined["emotions"].values()])
    assert joined["mean"]["weighted_f1"] == pytest.approx(mean)
    assert f"run directory: {folder}" in done.stdout
    lines = done.stderr.splitlines()
    assert sum(line.startswith("happy  epoch   ") for line in lines) == 1  # of two: the first and every tenth are shown
    assert all(line.startswith(("happy  ", "sad    ")) for line in lines), done.stderr


def test_evaluate_does_all_of_them(trained, data):
    folder, done = trained
    again = run_here("evaluate", folder)
    assert again.returncode == 0, again.stderr
    shown = [line for line in again.stdout.splitlines() if line and not line.startswith("data: ")]
    assert shown[:7] == [line for line in done.stdout.splitlines() if line][:7]  # the table and its notes
    joined, written = (json.loads((folder / name).read_text()) for name in ("metrics.json", "metrics_test.json"))
    assert joined == written
    assert (folder / "predictions_test.csv").read_bytes() == (folder / "predictions.csv").read_bytes()


def test_complete_runs_are_kept(trained, data):
    folder, _ = trained
    before = bits(folder)
    written = (folder / "happy/metrics.json").stat().st_mtime_ns
    again = train(data, folder, "--emotions", "happy", "sad")
    assert again.returncode == 0, again.stderr
    assert again.stderr.splitlines() == [f"{e} is complete already: {folder / e}" for e in ("happy", "sad")]
    assert bits(folder) == before
    assert (folder / "happy/metrics.json").stat().st_mtime_ns == written


def test_other_settings_are_refused_before_anything_starts(trained, data, capsys):
    folder, _ = trained
    before = bits(folder)
    assert refused(capsys, folder, data, "--training.learning_rate", "0.5") == (
        f"error: {folder / 'happy'}: cannot resume: training.learning_rate changed from 0.001 to 0.5. "
        "Choose another --output_dir, or --overwrite the run."
    )
    assert bits(folder) == before
    assert not (folder / "angry").exists()


@pytest.mark.slow
def test_side_by_side_and_one_after_another_are_the_same_bits(trained, data, tmp_path):
    done = train(data, tmp_path / "one", "--emotions", "sad", "happy", "--jobs", "1")
    assert done.returncode == 0, done.stderr
    assert bits(tmp_path / "one") == bits(trained[0])


@pytest.mark.slow
def test_one_failure_does_not_stop_the_others(tmp_path):
    import pickle

    corpus = make_corpus((24, 12, 16), emotions=("happy", "excited"))
    for split in corpus["happy"].values():
        split["label"] = split["label"].copy()
    corpus["happy"]["train"]["label"][:] = [1, 0]
    (tmp_path / "data.pkl").write_bytes(pickle.dumps(corpus, protocol=2))
    done = train(tmp_path / "data.pkl", tmp_path / "runs")
    assert done.returncode == 2
    assert "skipped, since the data have no labels for them: sad, angry, neutral" in done.stderr
    assert done.stderr.splitlines()[-1] == (
        "error: every training must end normally, but 1 failed (happy: happy must be present in some clips of train and absent "
        "in others, but is present in 0 of 24. Choose others with --emotions). Correct that and give the same command again: "
        "it trains only what is missing, happy."
    )
    assert "Traceback" not in done.stderr
    assert list(json.loads((tmp_path / "runs/metrics.json").read_text())["emotions"]) == ["excited"]
    assert Run(tmp_path / "runs/excited").load_config().seed == 1  # the recipe's default


@pytest.fixture(scope="module")
def seeds(data, tmp_path_factory):
    folder = tmp_path_factory.mktemp("runs") / "seeds"
    options = ["--data_path", data, "--output_dir", folder, *SMALL, "--seeds", "3", "1", "--emotions", "sad", "happy"]
    done = run_here("train", *options)
    assert done.returncode == 0, done.stderr
    return folder, done, options


def test_a_run_directory_per_seed_and_a_summary(seeds, data):
    folder, done, options = seeds
    assert sorted(path.name for path in folder.iterdir()) == ["plots", "seed1", "seed3", "seeds.html", "seeds.json"]
    summary = json.loads((folder / "seeds.json").read_text())
    assert (summary["split"], summary["seeds"], list(summary["emotions"])) == ("test", [3, 1], ["sad", "happy"])
    values = [json.loads((folder / f"seed{n}/metrics.json").read_text())["emotions"]["sad"]["accuracy"] for n in (3, 1)]
    found = summary["emotions"]["sad"]["accuracy"]
    assert found["mean"] == pytest.approx(np.mean(values))
    assert found["sd"] == pytest.approx(np.std(values, ddof=1))
    assert Run(folder / "seed3").load_config().seed == 3
    assert "seed1  epoch   1/2" in done.stderr
    with pytest.raises(
        RunError, match="must be one run or one per emotion, but holds several seeds. Give one of seed1, seed3."
    ):
        runs_in(folder)
    assert f"run directory: {folder}" in done.stdout
    assert f"report: {folder / 'seed1/report.html'}" in done.stdout
    again = run_here("train", *options)
    assert "seed3 is complete already" in again.stderr
    assert again.stdout == done.stdout


@pytest.mark.slow
def test_a_seed_of_several_is_the_run_of_that_seed(seeds, data, tmp_path):
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    options = ["--data_path", data, "--output_dir", tmp_path / "alone", *SMALL, "--seed", "1", "--emotions", "sad", "happy"]  # fmt: skip
    done = run_one("lmf_multitask.train", *options, cwd=tmp_path, env=environment)
    assert done.returncode == 0, done.stderr
    for name in ("model/model.safetensors", "history.csv", "predictions.csv"):
        assert (tmp_path / "alone" / name).read_bytes() == (seeds[0] / "seed1" / name).read_bytes()


def test_evaluate_summarises_the_seeds(seeds):
    folder, done, _ = seeds
    again = run_here("evaluate", folder)
    assert again.returncode == 0, again.stderr
    shown = [line for line in again.stdout.splitlines() if line and not line.startswith("data: ")]
    assert shown[0] == done.stdout.splitlines()[0]
    before, after = (json.loads((folder / name).read_text()) for name in ("seeds.json", "seeds_test.json"))
    assert {**after, "seeds": None, "emotions": None, "mean": None}.keys() == before.keys()
    assert sorted(after["seeds"]) == sorted(before["seeds"])
    for name in ("mean", "sd"):
        found = [summary["emotions"]["sad"]["accuracy"][name] for summary in (before, after)]
        assert found[0] == pytest.approx(found[1])
    (folder / "seeds_test.json").unlink()


@pytest.mark.slow
def test_seeds_of_separate_models(data, tmp_path):
    done = train(data, tmp_path / "runs", "--emotions", "sad", "happy", "--seeds", "1", "2")
    assert done.returncode == 0, done.stderr
    for seed in (1, 2):
        for emotion in ("sad", "happy"):
            config = Run(tmp_path / f"runs/seed{seed}/{emotion}").load_config()
            assert (config.seed, config.emotions) == (seed, [emotion])
        joined = json.loads((tmp_path / f"runs/seed{seed}/metrics.json").read_text())
        assert (joined["mode"], joined["seed"], list(joined["emotions"])) == ("per_emotion", seed, ["happy", "sad"])
    assert json.loads((tmp_path / "runs/seeds.json").read_text())["seeds"] == [1, 2]
    again = run_here("evaluate", tmp_path / "runs", "--split", "validation")
    assert again.returncode == 0, again.stderr
    assert json.loads((tmp_path / "runs/seeds_validation.json").read_text())["split"] == "validation"


@pytest.mark.slow
def test_a_stopped_command_leaves_no_process_and_resumes_to_the_same_bits(trained, data, tmp_path):
    folder = tmp_path / "stopped"
    process = subprocess.Popen(
        [sys.executable, "-m", "lmf_multitask.train", "--mode", "per_emotion", "--data_path", data, "--output_dir", folder]
        + [*SMALL, "--emotions", "sad", "happy", "--jobs", "2"],
        stderr=subprocess.PIPE, text=True, start_new_session=True,
    )  # fmt: skip
    for line in process.stderr:
        if "epoch   1" in line:
            break
    process.send_signal(signal.SIGTERM)
    process.communicate(timeout=60)
    assert process.returncode == 128 + signal.SIGTERM
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
        try:
            os.killpg(process.pid, 0)
        except ProcessLookupError:
            break
        time.sleep(0.1)
    else:
        os.killpg(process.pid, signal.SIGKILL)
        pytest.fail("a training outlived its parent")
    done = train(data, folder, "--emotions", "sad", "happy")
    assert done.returncode == 0, done.stderr
    assert bits(folder) == bits(trained[0])


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--jobs", "0", "--mode", "per_emotion"], "--jobs must be a whole number of at least 1, but got 0."),
        (["--jobs", "2"], "--jobs must be used with --mode per_emotion, --seeds or --folds, but is not. Remove it."),
        (["--recipe", "paper"], "--recipe must be used with --mode per_emotion, but is not. Remove it."),
        (
            ["--recipe", "paper", "--seeds", "1"],
            "--recipe must be used with --mode per_emotion, but the mode is multitask.",
        ),
        (["--seeds", "1", "1"], "--seeds must be different whole numbers of at least 0, but got 1, 1."),
        (["--seeds", "-1"], "--seeds"),
        (
            ["--recipe", "papers", "--mode", "per_emotion"],
            "--recipe: must be one of lmf_paddle, paper, paper/mosi, paper/pom, but got 'papers'. Did you mean 'paper'?",
        ),
        (["--mode", "per_emotion", "--emotions", "hapy"], "but got 'hapy'. Did you mean 'happy'?"),
    ],
)
def test_wrong_options(data, tmp_path, capsys, options, message):
    arguments = ["--data_path", str(data), "--output_dir", str(tmp_path / "runs"), *options]
    assert run(train_command.main, arguments) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("error: ")
    assert message in line
    assert not (tmp_path / "runs").exists()


def refused(capsys, folder, data, *options):
    """The last line of a command that is refused, in this process."""
    arguments = ["--mode", "per_emotion", "--data_path", data, "--output_dir", folder, *SMALL, *options]
    assert run(train_command.main, list(map(str, arguments))) == 2
    return capsys.readouterr().err.splitlines()[-1]


def test_the_folder_must_be_a_parent(trained, data, tmp_path, capsys):
    message = "must be a folder for several runs, but is a run itself"
    assert message in refused(capsys, trained[0] / "happy", data)
    (tmp_path / "file").touch()
    assert "must be a folder, but is a file. Choose another" in refused(capsys, tmp_path / "file", data)


def test_nothing_to_join(tmp_path):
    assert join_runs(tmp_path / "none") is None
    assert join_runs(tmp_path) is None
    Run(tmp_path / "happy").start(ExperimentConfig())
    assert join_runs(tmp_path) is None


def test_children_report_why_they_failed():
    with Children() as children:
        lines = []
        code = "import sys; print('one', file=sys.stderr); print('error: no luck', file=sys.stderr); sys.exit(2)"
        assert children.run([sys.executable, "-c", code], lines.append) == "no luck"
        assert lines == ["one"]
        assert (
            children.run([sys.executable, "-c", "raise SystemExit(7)"], lines.append)
            == "its process ended with status 7"
        )
        code = "import os, signal; os.kill(os.getpid(), signal.SIGKILL)"
        assert children.run([sys.executable, "-c", code], lines.append) == "its process was killed by SIGKILL"
        assert children.run([sys.executable, "-c", ""], lines.append) is None
    assert children.run([sys.executable, "-c", ""], lines.append) == "it was not started"


def test_a_foreign_folder_is_refused(tmp_path):
    (tmp_path / "happy").mkdir()
    (tmp_path / "happy/thesis.txt").touch()
    config = ExperimentConfig(output_dir=str(tmp_path / "happy"))
    with pytest.raises(RunError, match=r"must be empty or a run directory, but holds 'thesis.txt'"):
        train_all({"happy": config})


def test_children_are_ended_with_the_block():
    children = Children()
    with children:
        reason = []
        code = "import time; print('ready', file=__import__('sys').stderr, flush=True); time.sleep(60)"
        started = threading.Event()
        thread = threading.Thread(
            target=lambda: reason.append(children.run([sys.executable, "-c", code], lambda line: started.set()))
        )
        thread.start()
        assert started.wait(30)
    thread.join(30)
    assert reason == ["its process was killed by SIGTERM"]


def test_a_child_has_one_thread_unless_the_user_says_otherwise(monkeypatch):
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    assert child_environment()["OMP_NUM_THREADS"] == "1"
    monkeypatch.setenv("OMP_NUM_THREADS", "3")
    assert child_environment()["OMP_NUM_THREADS"] == "3"


def test_children_are_given_the_plugins(tmp_path, monkeypatch):
    (tmp_path / "mine.py").touch()
    monkeypatch.setattr(plugins, "_LOADED", {})
    plugins.load_plugin(tmp_path / "mine.py")
    assert module_command("x", "y")[1:] == ["-m", "x", "--plugin", str(tmp_path / "mine.py"), "y"]


def test_names_of_the_layout_and_links_are_refused_before_anything_starts(tmp_path, capsys):
    import pickle

    (tmp_path / "data.pkl").write_bytes(pickle.dumps(make_corpus((24, 12, 16), emotions=("plots", "sad")), protocol=2))
    assert "must not be called 'plots'" in refused(capsys, tmp_path / "runs", tmp_path / "data.pkl")
    assert not (tmp_path / "runs").exists()
    (tmp_path / "precious").mkdir()
    (tmp_path / "runs").mkdir()
    (tmp_path / "runs/sad").symlink_to(tmp_path / "precious")
    line = refused(capsys, tmp_path / "runs", tmp_path / "data.pkl", "--emotions", "sad", "--overwrite")
    assert "sad: must not be a symbolic link, but is one" in line
    assert list((tmp_path / "precious").iterdir()) == []
