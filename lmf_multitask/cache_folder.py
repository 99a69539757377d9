"""The folder of converted data: where it is, its size, and how it is emptied. Needs none of the heavy packages."""

from __future__ import annotations

import os
import re
import shutil
from pathlib import Path

_OURS = re.compile(r"[0-9a-f]{32}(\.lock)?|sample-\d+\.pkl|\..*\.(part|old)")


def cache_folder(cache_dir: str | Path | None = None) -> Path:
    """Where converted data are kept.

    Args:
        cache_dir: the setting ``data.cache_dir``; None takes the cache of `datasets`.
    """
    if cache_dir is None:
        home = os.environ.get("HF_HOME", os.path.join(os.environ.get("XDG_CACHE_HOME", "~/.cache"), "huggingface"))
        cache_dir = os.environ.get("HF_DATASETS_CACHE", os.path.join(home, "datasets"))
    return Path(cache_dir).expanduser() / "lmf_multitask"


def describe_cache(folder: Path) -> str:
    """Number and size of the converted data sets, and the free space of the disk."""
    existing = next(path for path in (folder, *folder.parents) if path.exists())
    count = sum(path.is_dir() for path in _ours(folder))
    sets = "1 data set" if count == 1 else f"{count} data sets"
    return f"{sets}, {_bytes_in(folder) / 1e6:,.1f} MB; {shutil.disk_usage(existing).free / 1e9:,.1f} GB free"


def clear_cache(folder: Path) -> int:
    """Removes what this package has written, except data that another process is just converting; returns the bytes."""
    from filelock import FileLock, Timeout

    before = _bytes_in(folder)
    for path in _ours(folder):
        if path.suffix == ".lock":
            continue
        lock = folder / f"{path.name}.lock"
        try:
            with FileLock(lock, timeout=0):
                if path.is_dir() and not path.is_symlink():
                    shutil.rmtree(path)
                else:
                    path.unlink(missing_ok=True)
                lock.unlink(missing_ok=True)
        except Timeout:
            continue
    return before - _bytes_in(folder)


def _ours(folder: Path) -> list[Path]:
    return sorted(path for path in folder.glob("*") if _OURS.fullmatch(path.name))


def _bytes_in(folder: Path) -> int:
    """Of our files; a link counts as nothing."""
    found = 0
    for place in _ours(folder):
        for path in (place, *place.rglob("*")):
            if path.is_file() and not path.is_symlink():
                found += path.stat().st_size
    return found
