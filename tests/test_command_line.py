"""Help, the table of commands, and how errors become one line."""

import errno
import subprocess
import sys

import pytest
from commands import run_all, run_one

from lmf_multitask import __version__
from lmf_multitask.__main__ import COMMANDS
from lmf_multitask.command_line import describe_error, with_found_configs
from lmf_multitask.errors import ConfigError, DataError

HELP = """
import sys
module, *arguments = sys.argv[1:]
sys.argv[1:] = [*arguments, "--help"]
import runpy
try:
    runpy.run_module(module, run_name="__main__", alter_sys=True)
except SystemExit as stop:
    sys.stderr.write(f"{stop.code} ")
heavy = ("paddle", "paddlenlp", "datasets", "pyarrow", "pandas", "sklearn", "scipy", "matplotlib", "torch", "optuna")
sys.stderr.write(" ".join(name for name in heavy if name in sys.modules))
"""


@pytest.mark.parametrize("command", [*COMMANDS, "data inspect", "data sample"])
def test_help_needs_nothing_heavy(command):
    name, *arguments = command.split()
    module = COMMANDS[name][0].removesuffix(".__main__")
    done = subprocess.run([sys.executable, "-c", HELP, module, *arguments], capture_output=True, text=True)
    assert done.stderr == "0 "
    assert done.stdout.startswith("usage: ")
    assert "function <" not in done.stdout


def test_table_of_commands(tmp_path):
    bare, asked, version, data, train = run_all(
        [
            ("lmf_multitask.__main__", arguments)
            for arguments in ([], ["--help"], ["--version"], ["data", "--help"], ["train", "--help"])
        ],
        cwd=tmp_path,
    )
    assert (bare[0], asked[0]) == (2, 0)
    assert asked[1] == bare[1]
    for name, (_, text) in COMMANDS.items():
        assert f"  {name:<10} {text}" in asked[1]
    assert version[:2] == [0, f"lmf_multitask {__version__}\n"]
    assert (data[0], train[0]) == (0, 0)
    assert "inspect" in data[1]
    assert "--model.fusion_rank" in train[1]
    assert {"train", "evaluate", "data"} <= set(COMMANDS)


def test_console_script_and_module_are_one(tmp_path):
    done = run_one("lmf_multitask", "trian", cwd=tmp_path)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr == "error: unknown command 'trian'. Did you mean 'train'?\n"


def test_interruption_has_its_own_status(tmp_path):
    code = (
        "from lmf_multitask.command_line import run\n"
        "def main(arguments): raise KeyboardInterrupt\n"
        "raise SystemExit(run(main, []))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (130, "interrupted\n")


def test_faults_of_ours_keep_their_traceback():
    code = "from lmf_multitask.command_line import run\ndef main(arguments): raise ZeroDivisionError\nrun(main, [])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 1
    assert "Traceback" in done.stderr


def test_errors_in_one_line():
    assert describe_error(DataError("x must be y,\n  but got z.")) == "x must be y, but got z."
    assert describe_error(OSError(errno.ENOSPC, "No space left on device", "/a/b")) == "/a/b: No space left on device."
    assert describe_error(OSError(errno.ENOSPC, "No space left on device")) == "No space left on device."
    assert describe_error(OSError("odd\nthing")) == "odd thing"


def test_shipped_configs_are_put_in_the_place_of_their_names(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for arguments in (["--config", "sample", "--seed", "1"], ["--config=sample", "--seed", "1"]):
        found = with_found_configs(arguments)
        assert found[-2:] == ["--seed", "1"]
        assert found[-3].endswith("sample.yaml")
    assert with_found_configs(["--config"]) == ["--config"]
    (tmp_path / "binary.yaml").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(ConfigError, match="binary.yaml: must be YAML, but"):
        with_found_configs(["--config", "binary.yaml"])
