"""``lmf doctor``: what it says of a good installation and of broken ones."""

import os
import subprocess
import sys
from importlib.metadata import version

import pytest

from lmf_multitask import installation
from lmf_multitask.installation import check_installation, settings_in_force
from lmf_multitask.runtime import cpu_settings


def python(code, *arguments, **settings):
    return subprocess.run(
        [sys.executable, "-c", code, *arguments], capture_output=True, text=True, timeout=120, **settings
    )


def test_a_good_installation(tmp_path):
    environment = {**os.environ, "OMP_NUM_THREADS": "7"}
    package = [sys.executable, "-m", "lmf_multitask", "doctor"]
    done = subprocess.run(package, capture_output=True, text=True, env=environment, timeout=240)
    assert (done.returncode, done.stderr) == (0, "")
    lines = [" ".join(line.split()) for line in done.stdout.splitlines()]
    assert f"numpy {version('numpy')}" in lines
    assert any(line.startswith("OMP_NUM_THREADS 7 (set by you") for line in lines)
    assert sum(line.startswith("ok ") for line in lines) == 6
    assert "FAIL" not in done.stdout


def test_without_paddle_it_says_what_to_install():
    code = "import sys; sys.modules['paddle'] = None\nimport lmf_multitask.__main__ as m\nsys.exit(m.main())"
    done = python(code, "doctor")
    assert done.returncode == 2
    assert "pip install 'paddlepaddle>=3.0,<3.4'" in done.stdout
    assert done.stderr.startswith("error: every check must pass, but 1 of 5 failed.")
    assert "Traceback" not in done.stdout + done.stderr


def test_other_commands_say_it_too(tmp_path):
    code = "import sys; sys.modules['paddle'] = None\nimport lmf_multitask.__main__ as m\nsys.exit(m.main())"
    done = python(code, "evaluate", str(tmp_path))
    assert done.returncode == 2
    assert done.stderr == f"error: {installation.MISSING_PADDLE}\n"


def test_who_has_set_what():
    ours = cpu_settings()
    told = settings_in_force({**ours, "HF_HOME": "/x"}, {"HF_HOME": "/x"})
    assert told["HF_HOME"] == "/x (set by you)"
    assert told["MKL_NUM_THREADS"] == "not set"
    for name, value in ours.items():
        assert told[name] == f"{value} (chosen for this processor)"


def test_a_setting_of_the_user_that_we_would_choose_otherwise(monkeypatch):
    monkeypatch.setattr(installation, "cpu_settings", lambda: {"OMP_NUM_THREADS": "2"})
    told = settings_in_force({"OMP_NUM_THREADS": "5"}, {"OMP_NUM_THREADS": "5"})
    assert told["OMP_NUM_THREADS"] == "5 (set by you; faster would be 2)"


@pytest.mark.parametrize(
    ("code", "problem"),
    [
        (
            "import os, signal; os.kill(os.getpid(), signal.SIGILL)",
            "was killed by SIGILL. Paddle may be built for a newer",
        ),
        ("raise RuntimeError('no luck')", "it must work, but: RuntimeError: no luck."),
    ],
)
def test_a_child_that_fails_is_reported(monkeypatch, tmp_path, code, problem):
    monkeypatch.setattr(installation, "_TINY_STEP", code)
    monkeypatch.setattr(installation, "_TRAINER", "pass")
    checks = {check.what: check.problem for check in check_installation(tmp_path)}
    assert problem in checks.pop("paddle computes: forward and backward")
    assert set(checks.values()) == {None}


def test_a_folder_that_cannot_be_written(tmp_path):
    (tmp_path / "file").write_text("")
    check = installation._check_writable("the current folder", tmp_path / "file" / "runs")
    assert check.what == "the current folder can be written"
    assert check.problem == f"{tmp_path / 'file' / 'runs'}: must be writable, but Not a directory. Use another one."


def test_a_version_out_of_bounds(monkeypatch):
    monkeypatch.setattr(
        installation, "requires", lambda name: ["numpy<1", 'nosuchthing>=2; extra == "cpu"', "absent-x>3"]
    )
    problem = installation._check_requirements().problem
    assert problem.startswith(f"numpy must be <1, but is {version('numpy')}; absent-x>3 is not installed. ")
