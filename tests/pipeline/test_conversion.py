import json
import pickle

import numpy as np
import pytest
from commands import run_here
from conftest import make_corpus
from reference_network import logits, random_parameters

from lmf_multitask.pipeline.runs import Run


@pytest.fixture
def checkpoint(tmp_path):
    np.savez(tmp_path / "happy.npz", **random_parameters())
    return tmp_path / "happy.npz"


def test_a_checkpoint_becomes_a_run_that_can_be_evaluated(tmp_path, checkpoint):
    corpus = make_corpus((8, 8, 40))
    weights = random_parameters()
    test = corpus["happy"]["test"]
    features = np.nan_to_num(test["covarep"]), test["facet"], test["glove"]
    scores = logits(weights, *features)
    weights["fusion_bias"] += np.float32([np.median(scores[:, 1] - scores[:, 0]), 0])  # so that both are decided
    np.savez(checkpoint, **weights)
    (tmp_path / "data.pkl").write_bytes(pickle.dumps(corpus, protocol=2))
    done = run_here("convert", checkpoint, "--emotion", "happy", "--output_dir", tmp_path / "run")
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines() == [
        "happy: audio 5 features, hidden 3; video 4 features, hidden 2; text 3 features, hidden 2",
        f"run directory: {tmp_path / 'run'}",
    ]
    assert sorted(path.name for path in (tmp_path / "run").iterdir()) == ["config.yaml", "model"]
    config = Run(tmp_path / "run").load_config()
    assert (config.emotions, config.model.fusion.rank, config.model.encoders.text.dropout) == (["happy"], 2, 0.5)

    done = run_here("evaluate", tmp_path / "run", "--data_path", tmp_path / "data.pkl")
    assert done.returncode == 0, done.stderr
    scores = logits(weights, *features)
    decided = scores[:, 1] > scores[:, 0]
    found = json.loads((tmp_path / "run/metrics_test.json").read_text())["emotions"]["happy"]
    assert found["accuracy"] == pytest.approx((decided == (test["label"][:, 1] == 1)).mean())
    assert decided.sum() == 20


def test_a_run_that_exists_is_not_replaced(tmp_path, checkpoint):
    arguments = ("convert", checkpoint, "--emotion", "happy", "--output_dir", tmp_path / "run")
    assert run_here(*arguments).returncode == 0
    again = run_here(*arguments)
    assert again.returncode == 2
    assert "must be empty, but holds an unfinished run" in again.stderr
    assert run_here(*arguments, "--overwrite", "--data_path", "some.pkl").returncode == 0
    assert Run(tmp_path / "run").load_config().data_path.endswith("some.pkl")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (
            ["none.pkl", "--emotion", "happy"],
            "none.pkl: must be a readable file, but No such file or directory. Check the path.",
        ),
        (["happy.npz", "--emotion", "../happy"], "name"),
        (["happy.npz"], "--emotion"),
        (["broken.pkl", "--emotion", "happy"], "broken.pkl: "),
    ],
)
def test_wrong_input(tmp_path, checkpoint, arguments, message):
    (tmp_path / "broken.pkl").write_bytes(b"\x80\x02}q\x00(")
    done = run_here("convert", tmp_path / arguments[0], *arguments[1:], "--output_dir", tmp_path / "run")
    assert done.returncode == 2
    (line,) = done.stderr.splitlines()
    assert line.startswith("error: ")
    assert message in line
    assert not (tmp_path / "run").exists()
