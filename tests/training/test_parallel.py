"""What the processes of one training tell each other: by two real ones, and by one alone."""

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import paddle
import pytest

from lmf_multitask.training import parallel

ROOT = Path(__file__).resolve().parents[2]

SCRIPT = """
import json, sys, time
import numpy as np
import paddle
from lmf_multitask.training import parallel

parallel.join()
parallel.join()  # twice is once
me = parallel.number()
found = {"count": parallel.count(), "number": me, "first": parallel.is_first()}

time.sleep(1.5 * me)  # the second comes late
parallel.wait()
found["met"] = time.time()
found["told"] = parallel.from_first({"epoch": 3, "from": me})
found["nothing"] = parallel.from_first(None if me == 0 else "something")

value = paddle.to_tensor([1.0 + me, 10.0 * me])
value.stop_gradient = False
total = parallel.summed(value * 1)
found["summed"] = total.tolist()
found["gradient"] = not total.stop_gradient
found["summand"] = value.tolist()

layer = paddle.nn.BatchNorm1D(2)
layer._mean.set_value(np.array([1.0 + 2 * me, -4.0 * me], "float32"))
layer.weight.set_value(np.array([5.0 + me, 6.0], "float32"))
parallel.average_running_statistics(layer)
found["mean"] = layer._mean.tolist()
found["weight"] = layer.weight.tolist()
with open(f"{sys.argv[1]}/{me}.json", "w") as file:
    json.dump(found, file)
"""


@pytest.fixture(scope="module")
def told(tmp_path_factory):
    """What each of two processes found."""
    folder = tmp_path_factory.mktemp("two")
    (folder / "talk.py").write_text(SCRIPT)
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    launcher = ["-m", "paddle.distributed.launch", "--nproc_per_node", "2", "--log_dir", str(folder / "log")]
    done = subprocess.run(
        [sys.executable, *launcher, str(folder / "talk.py"), str(folder)],
        env=environment,
        cwd=folder,
        capture_output=True,
        text=True,
        timeout=240,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return [json.loads((folder / f"{number}.json").read_text()) for number in (0, 1)]


def test_each_knows_its_number(told):
    assert [(found["count"], found["number"], found["first"]) for found in told] == [(2, 0, True), (2, 1, False)]


def test_they_wait_for_each_other(told):
    assert abs(told[0]["met"] - told[1]["met"]) < 0.75  # the second slept for 1.5 seconds before


def test_what_the_first_says_is_known_to_all(told):
    for found in told:
        assert found["told"] == {"epoch": 3, "from": 0}
        assert found["nothing"] is None


def test_sums_are_over_all_and_leave_the_summands_alone(told):
    for number, found in enumerate(told):
        assert found["summed"] == [3.0, 10.0]
        assert found["gradient"] is False
        assert found["summand"] == [1.0 + number, 10.0 * number]


def test_running_statistics_become_their_mean_and_weights_stay(told):
    for number, found in enumerate(told):
        assert found["mean"] == [2.0, -2.0]
        assert found["weight"] == [5.0 + number, 6.0]


def test_one_process_has_nobody_to_talk_to(monkeypatch):
    for name in ("init_parallel_env", "barrier", "broadcast_object_list", "all_reduce"):
        monkeypatch.setattr(paddle.distributed, name, lambda *a, **b: pytest.fail("asked for another process"))
    assert (parallel.count(), parallel.number(), parallel.is_first()) == (1, 0, True)
    parallel.join()
    parallel.wait()
    assert parallel.from_first("x") == "x"
    value = paddle.to_tensor([1.0])
    assert parallel.summed(value) is value
    layer = paddle.nn.BatchNorm1D(2)
    layer._mean.set_value(np.array([1.0, 3.0], "float32"))
    monkeypatch.setattr(parallel, "summed", lambda value: pytest.fail("asked for another process"))
    parallel.average_running_statistics(layer)
    assert layer._mean.tolist() == [1.0, 3.0]
