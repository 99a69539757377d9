"""``lmf benchmark`` in little; no time is asserted."""

import json

import pytest

from lmf_multitask.benchmark import main
from lmf_multitask.command_line import run
from lmf_multitask.models.config import ModelConfig


def test_quick(tmp_path, capsys):
    assert run(main, ["--quick", "--output_dir", str(tmp_path / "out")]) == 0
    text = capsys.readouterr().out
    assert "--quick: not to be quoted" in text
    assert (tmp_path / "out/benchmark.txt").read_text() in text
    found = json.loads((tmp_path / "out/benchmark.json").read_text())["results"]
    assert list(found)[:2] == ["multitask, fusion lmf", "per emotion (4 networks)"]
    assert {f"multitask, fusion {kind}" for kind in ("tfn", "concat", "late")} < set(found)
    # audio 75 x 32 + 2 (33 x 32); words 301 x 64, LSTM 256 (64 + 64 + 2), attention 64, 129 x 64
    model = ModelConfig()
    video = model.encoders.video.hidden
    encoders = 4512 + 36 * video + 2 * (video + 1) * video + 19264 + 33280 + 64 + 8256
    fusion = 8 * 64 * (33 + video + 1 + 65) + 8 + 64 + 64 * (32 + video + 64 + 1) + 4 * 65 * 2
    assert found["multitask, fusion lmf"]["parameters"] == encoders + fusion
    for one in found.values():
        assert all(
            0 < low <= median <= high for median, low, high in (one["training"], one["inference"], one["latency"])
        )


def test_everything_in_turn():
    from lmf_multitask.pipeline.speed import in_turn

    done = []

    def task(name):
        done.append(name)
        return 2

    found = in_turn({"a": lambda: task("a"), "b": lambda: task("b")}, 3, shortest=0.0)
    assert "".join(done) == "ab" + "ab" * 3
    assert {name: len(values) for name, values in found.items()} == {"a": 3, "b": 3}


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--rounds", "0"], "--rounds must be a whole number of at least 1, but got 0."),
        (["--output_dir", "FILE"], "FILE: must be a folder, but is a file. Choose another --output_dir."),
    ],
)  # fmt: skip
def test_wrong_use(tmp_path, monkeypatch, capsys, arguments, message):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "FILE").write_text("")
    assert run(main, arguments) == 2
    assert capsys.readouterr().err == f"error: {message}\n"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["FILE"]
