"""Several processes for one training are refused before anything is written."""

import os
import subprocess
import sys


def test_refused_under_a_launcher(tmp_path, sample_path):
    command = [
        sys.executable,
        "-m",
        "lmf_multitask.train",
        "--data_path",
        str(sample_path),
        "--output_dir",
        str(tmp_path / "run"),
    ]
    environment = {
        **os.environ,
        "PADDLE_TRAINERS_NUM": "2",
        "PADDLE_TRAINER_ID": "0",
    }  # as paddle.distributed.launch sets
    done = subprocess.run(command, capture_output=True, text=True, env=environment, timeout=120)
    assert done.returncode == 2
    assert (
        done.stderr == "error: training must run in one process, but was launched in 2. Start it without a launcher.\n"
    )
    assert not (tmp_path / "run").exists()
