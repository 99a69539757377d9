"""The whole of ``lmf benchmark``, in little; no time is asserted."""

import json

import pytest

from lmf_multitask.benchmark import main
from lmf_multitask.command_line import run

PNG = b"\x89PNG\r\n\x1a\n"


def test_quick(tmp_path, capsys, monkeypatch):
    from lmf_multitask.benchmarking import run as whole
    from lmf_multitask.benchmarking.measure import Effort

    monkeypatch.setattr(whole, "QUICK", Effort(rounds=1, steps=1, clips=64, growth=2, shortest=0.0))
    assert run(main, ["--quick", "--output_dir", str(tmp_path / "out")]) == 0
    text = capsys.readouterr().out
    assert "--quick: not to be quoted" in text
    assert (tmp_path / "out/benchmark.txt").read_text() in text
    assert (tmp_path / "out/benchmark.png").read_bytes().startswith(PNG)
    found = json.loads((tmp_path / "out/benchmark.json").read_text())
    results = found["comparison"]["results"]
    # audio 75 x 32 + 2 (33 x 32), video 36 x 16 + 2 (17 x 16); words 301 x 64, LSTM 256 (64 + 64 + 2), attention 64, 129 x 64
    encoders = 4512 + 1120 + 19264 + 33280 + 64 + 8256
    assert results["LMF multitask"]["cost"]["parameters"] == encoders + 8 * 64 * (33 + 17 + 65) + 8 + 64 + 4 * 65 * 2
    assert 0 < results["text alone"]["memory"] < results["full tensor fusion"]["memory"]
    assert {len(curve["x"]) for curves in found["growth"].values() for curve in curves} == {2}
    (low, full) = found["growth"]["hidden size of each of 3 modalities"]
    assert (low["order"], full["order"]) == ([64 * 8 * 15, 64 * 8 * 27], [64 * 5**3, 64 * 9**3])


def test_everything_in_turn():
    from lmf_multitask.benchmarking.measure import Effort, in_turn

    done = []

    def task(name):
        done.append(name)
        return 2

    found = in_turn({"a": lambda: task("a"), "b": lambda: task("b")}, Effort(rounds=3, shortest=0.0))
    assert "".join(done) == "ab" + "ab" * 3
    assert {name: len(values) for name, values in found.items()} == {"a": 3, "b": 3}


def test_memory_of_tensors():
    import paddle

    from lmf_multitask.benchmarking.measure import tensor_memory

    kept = []
    assert 8_000_000 <= tensor_memory(lambda: kept.append(paddle.ones([1000, 1000]) + 1)) < 8_100_000


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--rounds", "0"], "error: --rounds must be a whole number of at least 1, but got 0.\n"),
        (["--data_path", "x.pkl"], "error: --data_path must come with --reference: without it, made-up numbers are measured on.\n"),
        (["--reference", "REF"], "error: REF: must be a checkout of LMF_Paddle, but has no scripts/train.sh and tools/train.py. Check --reference.\n"),
        (["--output_dir", "FILE"], "error: FILE: must be a folder, but is a file. Choose another --output_dir.\n"),
    ],
)  # fmt: skip
def test_wrong_use(tmp_path, monkeypatch, capsys, arguments, message):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "FILE").write_text("")
    assert run(main, arguments) == 2
    assert capsys.readouterr().err == message
    assert sorted(path.name for path in tmp_path.iterdir()) == ["FILE"]


def test_reference_needs_data(tmp_path, capsys):
    for name in ("scripts/train.sh", "tools/train.py"):
        (tmp_path / name).parent.mkdir()
        (tmp_path / name).write_text("python ../tools/train.py --emotion happy\n")
    assert run(main, ["--reference", str(tmp_path)]) == 2
    assert "--data_path must be the pickle to train on with --reference, but got None." in capsys.readouterr().err
