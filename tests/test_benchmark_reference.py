"""Timing of another checkout, which is a fake one here: ours is the only code of LMF_Paddle's kind in this repository."""

import importlib.util
import os
import sys
from pathlib import Path

import pytest

from lmf_multitask.errors import ConfigError, RunError

SCRIPT = Path(__file__).parents[1] / "scripts/benchmark_reference.py"
spec = importlib.util.spec_from_file_location("benchmark_reference", SCRIPT)
reference = sys.modules["benchmark_reference"] = importlib.util.module_from_spec(spec)  # dataclasses look it up there
spec.loader.exec_module(reference)

TRAIN_SH = """#!/bin/sh
python ../tools/train.py --emotion happy --rank 1 --batch_size 128
python ../tools/train.py --emotion sad --rank 4 --batch_size 64
"""
TRAIN_PY = """
import sys, time
epochs = int(sys.argv[sys.argv.index("--epochs") + 1])
if "--fail" in sys.argv:
    sys.exit("no luck")
for epoch in range(epochs):
    time.sleep(0.05)
    print(f"Epoch {epoch} complete! Average Training loss: 0.5")
"""


@pytest.fixture
def checkout(tmp_path):
    folder = tmp_path / "LMF"
    for name, text in (("scripts/train.sh", TRAIN_SH), ("tools/train.py", TRAIN_PY)):
        (folder / name).parent.mkdir(parents=True)
        (folder / name).write_text(text)
    return folder


def test_the_options_of_its_own_script(checkout):
    options = reference.published_options(checkout)
    assert list(options) == ["happy", "sad"]
    assert options["sad"] == ["--emotion", "sad", "--rank", "4", "--batch_size", "64"]


def test_a_folder_that_is_no_checkout(tmp_path, checkout):
    with pytest.raises(
        ConfigError, match=r"must be a checkout of LMF_Paddle, but has no scripts/train.sh and tools/train.py"
    ):
        reference.published_options(tmp_path)
    (checkout / "scripts/train.sh").write_text("echo\n")
    with pytest.raises(ConfigError, match=r"train.sh: must call train.py --emotion NAME, but does not\."):
        reference.published_options(checkout)


def run(checkout, *options):
    command = [sys.executable, "-u", "train.py", *options]
    return reference._time("theirs", True, command, checkout / "tools", dict(os.environ), 4)


def test_times_between_epochs(checkout):
    timing = run(checkout, "--epochs", "4")
    assert 0.05 <= timing.epoch < timing.whole
    assert timing.whole >= 0.2
    assert timing.whole_at(10) == pytest.approx(timing.whole + 6 * timing.epoch)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--epochs", "4", "--fail"), r"theirs must train 4 epochs, but ended with status 1 after 0: no luck\. Run"),
        (("--epochs", "2"), r"theirs must train 4 epochs, but ended with status 0 after 2: Epoch 1 complete!"),
    ],
)
def test_a_training_that_fails(checkout, options, message):
    with pytest.raises(RunError, match=message):
        run(checkout, *options)


def test_table_with_the_ratios():
    timings = [
        reference.Timing("LMF_Paddle: happy", True, 5, 3.0, 20.0),
        reference.Timing("ours, per emotion: happy", False, 5, 0.5, 5.0),
        reference.Timing("LMF_Paddle: sad", True, 5, 4.0, 25.0),
        reference.Timing("ours, per emotion: sad", False, 5, 1.0, 5.0),
        reference.Timing("ours, multitask", False, 5, 0.6, 6.0),
    ]
    text = " ".join(reference.reference_table(timings, 5).note.split())
    assert "same network and settings: happy 6.0, sad 4.0." in text
    # theirs 20 + 35 x 3 + 25 + 35 x 4 = 290; ours 5 + 17.5 + 5 + 35 = 62.5, and 6 + 35 x 0.6 = 27
    assert "40 epochs each: 4.6 times the time of ours, per emotion" in text
    assert "and 10.7 times that of our multitask model." in text


@pytest.mark.slow
def test_ours_beside_it(checkout, sample_path):
    told = []
    timings = reference.time_reference(checkout, sample_path, 3, dict(os.environ), told.append)
    names = [
        "LMF_Paddle: happy",
        "ours, per emotion: happy",
        "LMF_Paddle: sad",
        "ours, per emotion: sad",
        "ours, multitask",
    ]
    assert told == [timing.name for timing in timings] == names
    assert [timing.theirs for timing in timings] == [True, False, True, False, False]
    assert all(0 < timing.epoch < timing.whole for timing in timings)
