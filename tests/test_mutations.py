"""Runs and exports whose files were flipped, cut, emptied or exchanged: every command is right or ends in one clear line."""

import random
import shutil

import pytest
from commands import run_all
from conftest import small_experiment


@pytest.fixture(scope="module")
def originals(trained, corpus_path, tmp_path_factory):
    """Two runs of different sizes, and their exports."""
    from lmf_multitask.deployment.exporter import export_run
    from lmf_multitask.pipeline.experiment import run_experiment

    folder = tmp_path_factory.mktemp("originals")
    shutil.copytree(trained[0], folder / "one")
    config = small_experiment(corpus_path, folder / "two", model={"fusion.dim": 7}, epochs=2)
    run_experiment(config, report=False, quiet=True)
    for name in ("one", "two"):
        export_run(folder / name, folder / f"{name}-export", check=False)
    return folder


def mutated(draw, folder, other):
    """Damages one file of a folder; returns what was done."""
    files = sorted(path for path in folder.rglob("*") if path.is_file() and path.suffix not in (".svg", ".log"))
    path = draw.choice(files)
    content = bytearray(path.read_bytes())
    way = draw.choice(["flip", "cut", "empty", "swap", "exchange", "repeat", "number"])
    place = draw.randrange(len(content)) if content else 0
    if way == "flip" and content:
        content[place] ^= 1 << draw.randrange(8)
    elif way == "cut":
        del content[place:]
    elif way == "empty":
        content.clear()
    elif way == "swap":
        content[:] = (
            (other / path.relative_to(folder)).read_bytes() if (other / path.relative_to(folder)).is_file() else b""
        )
    elif way == "exchange":
        content[:] = draw.choice(files).read_bytes()
    elif way == "repeat":
        content[place:place] = content[place : place + 50]
    elif content:
        content[place : place + 1] = draw.choice(
            [b"1e999", b"null", b"-1", b'"', b"[", b"\x1b[2J", "²".encode(), b"NaN"]
        )
    path.write_bytes(content)
    return f"{way} {path.relative_to(folder)} at {place}"


def without_manifests(folder):
    """As somebody leaves it who knows that they may be missing."""
    for path in folder.rglob("manifest.json"):
        if path.parent.name != "model" and "checkpoint-" not in path.parent.name:
            path.unlink()


def attack(originals, folder, corpus_path, cases, seed):
    draw, commands, told = random.Random(seed), [], []
    for number in range(cases):
        kind = draw.choice(["evaluate", "compare", "export a run", "resume", "infer", "infer"])
        kind = "report" if number % 50 == 49 else kind  # it takes as long as ten others: its plots
        name = "one-export" if kind == "infer" else "one"
        place, other = folder / f"{number}", originals / name.replace("one", "two")
        shutil.copytree(originals / name, place)
        if draw.random() < 0.3:
            without_manifests(place)
        if kind == "resume":
            (place / "metrics.json").unlink()
        told.append(f"case {number} of seed {seed}: {mutated(draw, place, other)}")
        output = ["--output_dir", folder / f"{number}-out"]
        module, arguments = {
            "infer": ("infer", [place, "--data_path", corpus_path, *output]),
            "resume": (
                "train",
                ["--config", originals / "one" / "config.yaml", "--output_dir", place, "--resume", "--no_report"],
            ),
            "evaluate": ("evaluate", [place, *output, "--device", "cpu"]),
            "compare": ("compare", [place, originals / "two"]),
            "export a run": ("export", [place, *output, "--format", "paddle"]),
            "report": ("report", [place, *output]),
        }[kind]
        commands.append((f"lmf_multitask.{module}", arguments))
    refused = 0
    for case, command, (status, output, problem) in zip(told, commands, run_all(commands, folder)):
        case = f"{case}: {command}: {problem}"
        assert status in (0, 2), case
        assert "Traceback" not in problem, case
        assert "error: unexpected" not in problem.replace("unexpected keyword", ""), case
        assert "\x1b" not in output + problem, case
        if status == 2:
            refused += 1
            last = problem.splitlines()[-1]
            assert last.startswith("error: "), case
            assert len(last) < 1500, case
    return refused


@pytest.mark.slow
@pytest.mark.parametrize("seed", [1, 2])
def test_five_hundred_damaged_folders(originals, tmp_path, corpus_path, seed):
    assert attack(originals, tmp_path, corpus_path, 250, seed) > 40  # many files are not read by the command
