"""Communication between the processes of one training: two real ones, and one alone."""

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
from types import SimpleNamespace
import numpy as np
import paddle
from lmf_multitask.training import parallel

parallel.initialize()
parallel.initialize()  # a second time does nothing
me = parallel.rank()
found = {"world_size": parallel.world_size(), "rank": me, "gathered": parallel.gather({"of": me})}

time.sleep(0.5 * me)  # rank 1 is late
found["arrived"] = time.time()
parallel.barrier()
found["met"] = time.time()
found["broadcast"] = parallel.broadcast({"epoch": 3, "from": me})
found["nothing"] = parallel.broadcast(None if me == 0 else "something")

value = paddle.to_tensor([1.0 + me, 10.0 * me])
value.stop_gradient = False
total = parallel.summed(value * 1)
found["summed"] = total.tolist()
found["gradient"] = not total.stop_gradient
found["summand"] = value.tolist()

for name, size in (("one buffer", 1), ("two weights", 2)):
    weights = [paddle.create_parameter([2], "float32") for _ in range(size)]
    (weights[0].sum() * (2.0 + me)).backward()  # the second has no gradient
    every = dict(enumerate([*weights, paddle.ones([1])]))  # the last is not trained
    parallel.average_gradients(SimpleNamespace(optimized_parameters=lambda: every))
    found[name] = [weight.grad.tolist() for weight in weights]
linear = paddle.nn.Linear(1, 1)
linear.weight.set_value(np.array([[7.0 + me]], "float32"))
parallel.share_weights(linear)
found["shared"] = linear.weight.tolist()

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
def results(tmp_path_factory):
    """Results of two processes, by rank."""
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


def test_ranks(results):
    assert [(found["world_size"], found["rank"]) for found in results] == [(2, 0), (2, 1)]


def test_gathered_values_are_in_the_order_of_ranks(results):
    assert [found["gathered"] for found in results] == [[{"of": 0}, {"of": 1}]] * 2


def test_barrier(results):
    assert min(found["met"] for found in results) >= max(found["arrived"] for found in results)


def test_broadcast_gives_the_value_of_rank_0(results):
    for found in results:
        assert found["broadcast"] == {"epoch": 3, "from": 0}
        assert found["nothing"] is None


def test_sums_are_over_all_processes_and_leave_the_summands_alone(results):
    for number, found in enumerate(results):
        assert found["summed"] == [3.0, 10.0]
        assert found["gradient"] is False
        assert found["summand"] == [1.0 + number, 10.0 * number]


def test_gradients_are_averaged_and_weights_are_those_of_rank_0(results):
    for found in results:
        assert found["one buffer"] == [[2.5, 2.5]]
        assert found["two weights"] == [[2.5, 2.5], [0.0, 0.0]]
        assert found["shared"] == [[7.0]]


def test_running_statistics_are_averaged_and_weights_are_not(results):
    for number, found in enumerate(results):
        assert found["mean"] == [2.0, -2.0]
        assert found["weight"] == [5.0 + number, 6.0]


def test_one_process_does_not_communicate(monkeypatch):
    for name in ("init_parallel_env", "barrier", "broadcast_object_list", "all_gather_object", "all_reduce"):
        monkeypatch.setattr(paddle.distributed, name, lambda *a, **b: pytest.fail("communicated"))
    assert (parallel.world_size(), parallel.rank()) == (1, 0)
    parallel.initialize()
    parallel.barrier()
    assert parallel.broadcast("x") == "x"
    assert parallel.gather("x") == ["x"]
    value = paddle.to_tensor([1.0])
    assert parallel.summed(value) is value
    layer = paddle.nn.BatchNorm1D(2)
    layer._mean.set_value(np.array([1.0, 3.0], "float32"))
    monkeypatch.setattr(parallel, "summed", lambda value: pytest.fail("communicated"))
    parallel.average_running_statistics(layer)
    assert layer._mean.tolist() == [1.0, 3.0]
