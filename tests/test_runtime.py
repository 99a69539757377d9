"""What is settled before Paddle is imported, and after."""

import logging
import random
import subprocess
import sys
import warnings

import numpy as np
import paddle
import pytest

from lmf_multitask.errors import UserError
from lmf_multitask.runtime import cpu_settings, quiet_imports, seed_everything, select_device, tune_cpu


def test_settings_of_amd_processors():
    assert cpu_settings("AuthenticAMD", 2) == {"MKL_DEBUG_CPU_TYPE": "5", "OMP_NUM_THREADS": "2"}


def test_intels_get_one_thread_however_many_cores():
    assert cpu_settings("GenuineIntel", 8) == {"OMP_NUM_THREADS": "1"}


def test_processors_without_that_setting_do_not_get_it():
    for vendor in ("GenuineIntel", "ARM", "", "unknown"):
        assert "MKL_DEBUG_CPU_TYPE" not in cpu_settings(vendor, 8)


def test_what_the_user_has_set_stays(monkeypatch):
    monkeypatch.setattr(
        "lmf_multitask.runtime.cpu_settings", lambda: {"MKL_DEBUG_CPU_TYPE": "5", "OMP_NUM_THREADS": "2"}
    )
    environment = {"OMP_NUM_THREADS": "7"}
    monkeypatch.setattr("os.environ", environment)
    tune_cpu()
    assert environment == {"OMP_NUM_THREADS": "7", "MKL_DEBUG_CPU_TYPE": "5"}
    environment.clear()
    tune_cpu(threads=1)
    assert environment == {"OMP_NUM_THREADS": "1", "MKL_DEBUG_CPU_TYPE": "5"}


def test_seeds_reach_every_generator():
    def draw():
        return random.random(), np.random.rand(), paddle.rand([1]).item()

    seed_everything(5)
    first = draw()
    second = draw()
    assert all(a != b for a, b in zip(first, second))
    seed_everything(5)
    assert draw() == first
    seed_everything(6)
    assert all(a != b for a, b in zip(first, draw()))
    for seed in (0, 2**32, 2**63 - 1):
        seed_everything(seed)


def test_devices():
    select_device("cpu")
    select_device("auto")
    assert paddle.get_device() == "cpu" or paddle.is_compiled_with_cuda()
    for wrong in ("tpu", "", "cpux", "cpu:x"):
        with pytest.raises(UserError, match=f"device must be auto, cpu, gpu or gpu:NUMBER, but got '{wrong}'"):
            select_device(wrong)
    if not paddle.is_compiled_with_cuda():
        for wrong in ("gpu", "gpu:0"):
            with pytest.raises(UserError, match=f"but got '{wrong}' and it finds no GPU. Use --device cpu"):
                select_device(wrong)


def test_imports_are_quiet_about_known_noise_only(capsys):
    with quiet_imports():
        print("WARNING: OMP_NUM_THREADS set to 2, not 1.", file=sys.stderr)
        print("something that matters", file=sys.stderr)
        warnings.warn("No ccache found. Please be aware", stacklevel=1)
        warnings.warn("old thing", DeprecationWarning, stacklevel=1)
    assert capsys.readouterr().err == "something that matters\n"
    with pytest.raises(UserWarning, match="ours"), quiet_imports():  # warnings are errors in these tests
        warnings.warn("ours", stacklevel=1)
    with pytest.raises(DeprecationWarning):
        warnings.warn("old thing", DeprecationWarning, stacklevel=1)


def test_what_was_said_before_a_failed_import_is_shown(capsys):
    with pytest.raises(ImportError), quiet_imports():
        print("libcuda is missing", file=sys.stderr)
        raise ImportError
    assert capsys.readouterr().err == "libcuda is missing\n"


def run(code):
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)


def test_a_command_says_what_is_ours():
    done = run(
        "import logging, warnings\n"
        "from lmf_multitask.runtime import prepare_process\n"
        "prepare_process()\n"
        "prepare_process()\n"  # twice is once
        "log = logging.getLogger('lmf_multitask.x')\n"
        "log.debug('hidden'); log.info('plain'); log.warning('mind'); log.error('bad')\n"
        "logging.getLogger('other').info('hidden too')\n"
        "warnings.warn('No ccache found. hidden')\n"
        "warnings.warn('seen')\n"
    )
    lines = done.stderr.splitlines()
    assert lines[:3] == ["plain", "warning: mind", "error: bad"]
    assert len(lines) == 4
    assert lines[3].startswith("warning: ")
    assert lines[3].endswith("seen")
    assert done.stdout == ""


def test_a_command_that_is_ended_while_it_imports_or_loads_data_ends_quietly():
    """Paddle's import would have SIGTERM told as a fatal error, with a C++ stack."""
    code = (
        "import os, signal, sys\n"
        "from lmf_multitask.command_line import run\n"
        "def main(arguments):\n"
        "    import lmf_multitask.models\n"
        "    os.kill(os.getpid(), signal.SIGTERM)\n"
        "    print('went on')\n"
        "sys.exit(run(main, []))\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert (done.returncode, done.stdout, done.stderr) == (143, "", "")


def test_debug_says_more():
    done = run(
        "import logging\n"
        "from lmf_multitask.runtime import prepare_process\n"
        "prepare_process(debug=True)\n"
        "logging.getLogger('lmf_multitask.x').debug('shown')\n"
    )
    assert done.stderr == "shown\n"


def test_importing_the_library_changes_nothing_for_its_program():
    assert logging.getLogger("lmf_multitask").handlers == []
    found = run(
        "import gc\nbefore = gc.get_threshold()\nimport lmf_multitask.runtime\nprint(gc.get_threshold() == before)"
    )
    assert found.stdout == "True\n"


def test_commands_look_for_garbage_less_often():
    done = run(
        "import gc\nfrom lmf_multitask.runtime import prepare_process\nprepare_process()\nprint(*gc.get_threshold())"
    )
    assert done.stdout == "50000 20 100\n"


def test_denormals_are_zero_only_while_it_is_asked_for():
    import platform

    from lmf_multitask.runtime import flush_denormals

    if sys.platform != "linux" or platform.machine() != "x86_64":
        assert not flush_denormals(True)
        return
    tiny, third = np.array([1e-38], "f4"), np.array([0.3], "f4")
    assert (tiny * third > 0).all()
    try:
        assert flush_denormals(True)
        flushed = (tiny * third).tolist()
    finally:
        assert flush_denormals(False)
    assert flushed == [0.0]
    assert (tiny * third > 0).all()
