"""Files and folders that are complete or absent: written aside, flushed, then renamed into place."""

from __future__ import annotations

import errno
import hashlib
import json
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO


@contextmanager
def atomic_write(path: Path) -> Iterator[BinaryIO]:
    """Opens a temporary file beside `path` for writing bytes; it takes the path's place when the block ends without error.

    A link is replaced, not followed; a device or a pipe is neither.
    """
    if path.exists() and not (path.is_file() or path.is_dir()):
        raise OSError(errno.EINVAL, "must be a file that may be replaced, but is a device or a pipe", str(path))
    if path.is_dir():
        raise IsADirectoryError(errno.EISDIR, "must be a file, but is a folder", str(path))
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.", suffix=".part")
    temporary = Path(name)
    try:
        with os.fdopen(handle, "wb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        temporary.chmod(0o666 & ~_umask())
        temporary.replace(path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise


def write_text(path: Path, text: str) -> None:
    """Writes a whole text file (UTF-8), or nothing."""
    with atomic_write(path) as file:
        file.write(text.encode())


@contextmanager
def atomic_folder(path: Path) -> Iterator[Path]:
    """Gives a temporary folder beside `path`; it takes the path's place when the block ends without error.

    A folder that is already there is replaced. Between the two renames a crash can leave the old one under
    ``.NAME.old``; it is never left half-written.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = Path(tempfile.mkdtemp(dir=path.parent, prefix=f".{path.name}.", suffix=".part"))
    try:
        temporary.chmod(0o777 & ~_umask())
        yield temporary
        for folder, _, names in os.walk(temporary):
            for name in names:
                (Path(folder) / name).chmod(0o666 & ~_umask())
                _flush(Path(folder) / name)
            _flush(Path(folder))
        old = path.with_name(f".{path.name}.old")
        _remove(old)
        if os.path.lexists(path):
            path.rename(old)
        try:
            temporary.rename(path)
        except BaseException:
            if old.exists():
                old.rename(path)
            raise
        _flush(path.parent)
        _remove(old)
    except BaseException:
        shutil.rmtree(temporary, ignore_errors=True)
        raise


def remove_leftovers(folder: Path) -> None:
    """Removes what a killed process was writing into a folder."""
    for pattern in (".*.part", ".*.old"):
        for path in folder.glob(pattern):
            _remove(path)


def _remove(path: Path) -> None:
    """Removes a file, a folder with all that is in it, or a link, but not what that leads to."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path, ignore_errors=True)
    else:
        path.unlink(missing_ok=True)


MANIFEST = "manifest.json"


def write_manifest(folder: Path) -> None:
    """Notes the SHA-256 of every file in a folder, in the folder."""
    (folder / MANIFEST).write_text(json.dumps(_digests(folder), indent=2) + "\n", encoding="utf-8")


def damage(folder: Path) -> str | None:
    """What differs from the folder's manifest, in words; None if it is whole."""
    try:
        noted = json.loads((folder / MANIFEST).read_text(encoding="utf-8"))
        found = _digests(folder)
    except (OSError, ValueError, RecursionError) as error:
        return f"{MANIFEST} cannot be read ({error})"
    if noted == found:
        return None
    if not isinstance(noted, dict):
        return f"{MANIFEST} is damaged"
    for what, names in (
        ("is missing", set(noted) - set(found)),
        ("is foreign", set(found) - set(noted)),
        ("differs", {name for name in set(noted) & set(found) if noted[name] != found[name]}),
    ):
        if names:
            return f"{min(names)} {what}"
    return None


def _digests(folder: Path) -> dict[str, str]:
    files = (path for path in folder.iterdir() if path.is_file() and path.name != MANIFEST)
    return {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in sorted(files)}


def _flush(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask
