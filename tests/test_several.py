"""Several seeds of one model: a run for each, kept apart, and refused where a single one is meant."""

import pickle

import pytest
from conftest import make_corpus

from lmf_multitask.config import ExperimentConfig, ModelConfig, TrainingConfig
from lmf_multitask.errors import RunError
from lmf_multitask.launcher import _Children, _environment
from lmf_multitask.runs import Run, runs_in, seed_folders
from lmf_multitask.several import train_several


def test_a_run_for_each_seed(tmp_path):
    (tmp_path / "data.pkl").write_bytes(pickle.dumps(make_corpus((24, 12, 16)), protocol=2))
    base = ExperimentConfig(
        data_path=str(tmp_path / "data.pkl"),
        emotions=["sad", "happy"],
        model=ModelConfig(text_lstm=4, text_hidden=2, audio_hidden=3, video_hidden=3),
        training=TrainingConfig(epochs=1, batch_size=8),
    )
    folder = tmp_path / "runs"
    outcome = train_several("multitask", base, lambda emotion: base, folder, seeds=[3, 5], jobs=2)
    assert outcome.failures == {}
    assert {seed: metrics["seed"] for seed, metrics in outcome.results.items()} == {3: 3, 5: 5}
    assert {seed: path.name for seed, path in seed_folders(folder).items()} == {3: "seed3", 5: "seed5"}
    for seed in (3, 5):
        config = Run(folder / f"seed{seed}").load_config()
        assert (config.seed, config.emotions) == (seed, ["sad", "happy"])
    with pytest.raises(
        RunError, match="must be one run or one per emotion, but holds several seeds. Give one of seed3, seed5."
    ):
        runs_in(folder)


def test_children_are_ended_with_the_block():
    children = _Children()
    with children:
        import sys
        import threading

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
    assert _environment()["OMP_NUM_THREADS"] == "1"
    monkeypatch.setenv("OMP_NUM_THREADS", "3")
    assert _environment()["OMP_NUM_THREADS"] == "3"
