"""Checks of the installation: versions, processor and devices, settings in force, and a tiny training step.

Paddle is never imported into the calling process: a child does it, so that a Paddle that is missing, damaged or built for
another processor is reported like any other problem.
"""

from __future__ import annotations

import importlib.util
import json
import os
import platform
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, requires, version
from pathlib import Path

from lmf_multitask import __version__
from lmf_multitask.cache_folder import cache_folder
from lmf_multitask.runtime import cpu_settings, usable_cores

PACKAGES = (
    "paddlepaddle",
    "paddlepaddle-gpu",
    "paddlenlp",
    "datasets",
    "pyarrow",
    "numpy",
    "scikit-learn",
    "safetensors",
)
SETTINGS = ("OMP_NUM_THREADS", "MKL_DEBUG_CPU_TYPE", "MKL_NUM_THREADS", "CUDA_VISIBLE_DEVICES", "HF_HOME")
"""Environment variables that change speed, devices or where caches lie."""

_TINY_STEP = """
import json
from lmf_multitask.models.lmf import LMFModel
import numpy, paddle
from lmf_multitask.pipeline.tiny_step import loss_of_tiny_step
devices = paddle.device.cuda.device_count() if paddle.is_compiled_with_cuda() else 0
print(json.dumps({"cuda": paddle.is_compiled_with_cuda(), "gpus": devices, "loss": loss_of_tiny_step()}))
"""
_TRAINER = "import lmf_multitask.training.trainer, lmf_multitask.data.loading"
_SECONDS = 120  # for a child; an import from a cold disk takes up to half a minute


@dataclass(frozen=True)
class Check:
    """The result of one check.

    Attributes:
        what: what was checked.
        problem: what is wrong and what to do; None if nothing is.
        found: what was found.
    """

    what: str
    problem: str | None
    found: str = ""


def package_versions() -> dict[str, str]:
    """Name -> installed version, or ``not installed``."""
    found = {"lmf_multitask": __version__, "python": platform.python_version()}
    for name in PACKAGES:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            found[name] = "not installed"
    if found["paddlepaddle"] != "not installed" and found["paddlepaddle-gpu"] == "not installed":
        del found["paddlepaddle-gpu"]
    elif found["paddlepaddle"] == "not installed" and found["paddlepaddle-gpu"] != "not installed":
        del found["paddlepaddle"]
    return found


def processor_facts() -> dict[str, str]:
    """Processor, usable cores, memory, and the vector units that determine the speed of matrix products."""
    info = _read("/proc/cpuinfo")
    fields = dict(line.split(":", 1) for line in info.splitlines() if ":" in line)
    fields = {name.strip(): value.strip() for name, value in fields.items()}
    flags = fields.get("flags", "").split()
    units = [unit for unit in ("avx2", "avx512f", "avx512_bf16", "amx_tile") if unit in flags]
    return {
        "processor": fields.get("model name") or platform.processor() or platform.machine(),
        "cores": f"{usable_cores()} of {os.cpu_count()} for this process",
        "vector units": ", ".join(units) or "unknown",
        "memory": f"{memory_limit() / 1e9:.1f} GB",
        "system": platform.platform(),
    }


def memory_limit() -> int:
    """Bytes that this machine, or the container around this process, allows."""
    whole = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    limit = _read("/sys/fs/cgroup/memory.max").strip()
    return min(whole, int(limit)) if limit.isdigit() else whole


def settings_in_force(environment: Mapping[str, str], before: Mapping[str, str]) -> dict[str, str]:
    """Each variable of `SETTINGS` with its value and origin."""
    ours, shown = cpu_settings(), {}
    for name in SETTINGS:
        if name in before:
            better = name in ours and before[name] != ours[name]
            shown[name] = f"{before[name]} (set by you{f'; faster would be {ours[name]}' if better else ''})"
        elif name in environment:
            shown[name] = f"{environment[name]} (chosen for this processor)"
        else:
            shown[name] = "not set"
    return shown


def check_installation(folder: Path) -> list[Check]:
    """Checks requirements, imports, a tiny training step, and write access; in the order in which to correct problems."""
    checks = [_check_requirements()]
    lacking = [name for name in ("paddle", "paddlenlp") if importlib.util.find_spec(name) is None]
    if "paddle" in lacking:
        checks.append(Check("paddle", MISSING_PADDLE))
    else:
        checks.append(_check_tiny_step())
        if "paddlenlp" not in lacking:
            checks.append(_in_child("paddlenlp and datasets can be imported", _TRAINER))
    if "paddlenlp" in lacking:
        problem = "paddlenlp must be installed to train, but is not. Install this package again: pip install ."
        checks.append(Check("paddlenlp", problem))
    places = {
        "the current folder": folder,
        "temporary files": Path(tempfile.gettempdir()),
        "the cache of converted data": cache_folder(),
    }
    checks += [_check_writable(what, place) for what, place in places.items()]
    return checks


MISSING_PADDLE = (
    "paddle must be installed, but is not. On a CPU: pip install 'paddlepaddle>=3.0,<3.4'; with an NVIDIA GPU use the "
    "wheel of Paddle's own index, see README."
)


def _check_requirements() -> Check:
    """Compares versions with the requirements in the metadata of this package, if it is installed."""
    what = "packages have the required versions"
    try:
        wanted = requires("lmf_multitask") or []
    except PackageNotFoundError:
        return Check(what, None, "not checked: running from a checkout that is not installed")
    from packaging.requirements import Requirement

    wrong = []
    for requirement in map(Requirement, wanted):
        needed = requirement.marker is None or requirement.marker.evaluate({"extra": ""})
        if not needed and not requirement.name.startswith("paddlepaddle"):  # an extra; Paddle's bound always holds
            continue
        try:
            installed = version(requirement.name)
        except PackageNotFoundError:
            if needed:
                wrong.append(f"{requirement} is not installed")
            continue
        if not requirement.specifier.contains(installed, prereleases=True):
            wrong.append(f"{requirement.name} must be {requirement.specifier}, but is {installed}")
    if wrong:
        return Check(what, "; ".join(wrong) + ". Install this package again, with -c scripts/requirements.lock.")
    return Check(what, None, f"{len(wanted)} requirements")


def _check_tiny_step() -> Check:
    check = _in_child("paddle computes: forward and backward", _TINY_STEP)
    if check.problem is not None:
        return check
    facts = json.loads(check.found.splitlines()[-1])
    build = f"built with CUDA, {facts['gpus']} GPUs found" if facts["cuda"] else "built for the CPU only"
    return Check(check.what, None, f"{build}; loss {facts['loss']:.3f}")


def _in_child(what: str, code: str) -> Check:
    """Runs Python code in a process of its own; its output is the finding."""
    package_parent = str(Path(__file__).resolve().parents[1])
    path = os.pathsep.join(filter(None, [package_parent, os.environ.get("PYTHONPATH")]))
    try:
        done = subprocess.run(
            [sys.executable, "-c", code],
            capture_output=True,
            text=True,
            errors="replace",
            timeout=_SECONDS,
            env={**os.environ, "PYTHONPATH": path},
        )
    except subprocess.TimeoutExpired:
        return Check(what, f"it must end, but ran for {_SECONDS} seconds. Is the machine very busy?")
    if done.returncode == 0:
        return Check(what, None, done.stdout.strip())
    if done.returncode < 0:
        name = signal.Signals(-done.returncode).name
        hint = " Paddle may be built for a newer processor." if name == "SIGILL" else ""
        return Check(what, f"the process must end normally, but was killed by {name}.{hint} Install Paddle again.")
    last = (done.stderr.strip().splitlines() or ["no message"])[-1]
    return Check(
        what, f"it must work, but: {last[:300]}. Install this package again, with -c scripts/requirements.lock."
    )


def _check_writable(what: str, place: Path) -> Check:
    existing = next(path for path in (place, *place.parents) if path.exists())
    try:
        with tempfile.TemporaryFile(dir=existing) as file:
            file.write(b"x")
    except OSError as error:
        return Check(f"{what} can be written", f"{place}: must be writable, but {error.strerror}. Use another one.")
    return Check(f"{what} can be written", None, f"{place}; {shutil.disk_usage(existing).free / 1e9:,.1f} GB free")


def _read(path: str) -> str:
    try:
        return Path(path).read_text(errors="replace")
    except OSError:
        return ""
