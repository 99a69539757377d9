"""Opens files that come from outside; writes files and folders that are complete or absent (temporary name, flush, rename)."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import hashlib
import io
import json
import os
import re
import shutil
import stat
import tempfile
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO

from lmf_multitask.errors import DataError, UserError

# -- reading


class _Closing:
    """Closes itself without a ResourceWarning when the last reference to it is gone."""

    def __del__(self) -> None:
        self.close()  # type: ignore[attr-defined]


class _ClosingFile(_Closing, io.FileIO):
    pass


class _ClosingReader(_Closing, io.BufferedReader):
    pass


def open_regular(path: str | Path, error: type[UserError] = DataError) -> BinaryIO:
    """Opens a file from outside for reading; the file closes itself when nothing refers to it any more.

    Only regular files are opened: reading a pipe or a device may never end.

    Raises:
        UserError: (as `error`) it does not exist, cannot be read, or is a folder, a pipe or a device.
    """
    try:
        handle = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    except (OSError, ValueError) as problem:
        reason = getattr(problem, "strerror", None) or str(problem)
        raise error(f"{path}: must be a readable file, but {reason}. Check the path.") from None
    mode = os.fstat(handle).st_mode
    if stat.S_ISREG(mode):
        return _ClosingReader(_ClosingFile(handle, "rb"))
    os.close(handle)
    if stat.S_ISDIR(mode):
        raise error(f"{path}: must be a file, but is a folder. Check the path.")
    raise error(f"{path}: must be a regular file, but is a pipe or a device. Write its content to a file first.")


def unnamed_file(pieces: Iterable[bytes]) -> BinaryIO:
    """Writes bytes into a temporary file without a name, and gives it for reading; it vanishes when it is closed.

    Raises:
        OSError: there is no space for it.
    """
    handle, name = tempfile.mkstemp(prefix="lmf-")
    try:
        os.unlink(name)
        with open(handle, "wb", closefd=False) as file:
            for piece in pieces:
                file.write(piece)
        os.lseek(handle, 0, os.SEEK_SET)
    except BaseException:
        os.close(handle)
        raise
    return _ClosingReader(_ClosingFile(handle, "rb"))


def read_bytes(path: str | Path, most_bytes: int, error: type[UserError] = DataError) -> bytes:
    """Reads a file of bounded size.

    Raises:
        UserError: (as `error`) it cannot be opened (see `open_regular`), or is larger.
    """
    parts: list[bytes] = []
    left = most_bytes + 1
    try:
        with open_regular(path, error) as file:
            while block := file.read(min(left, 1 << 22)):  # Python reserves as much memory as it is asked to read
                parts.append(block)
                left -= len(block)
    except OSError as problem:
        raise error(f"{path}: must be a readable file, but {problem.strerror}. Check the path.") from None
    if left == 0:
        raise error(f"{path}: must have at most {most_bytes:,} bytes, but has more. Check the file.")
    return parts[0] if len(parts) == 1 else b"".join(parts)


def read_text(path: str | Path, most_bytes: int = 1 << 24, error: type[UserError] = DataError) -> str:
    """Reads a UTF-8 text file of bounded size.

    Raises:
        UserError: (as `error`) see `read_bytes`; or it is not UTF-8.
    """
    try:
        return read_bytes(path, most_bytes, error).decode("utf-8")
    except UnicodeDecodeError as problem:
        raise error(f"{path}: must be UTF-8 text, but is not at byte {problem.start:,}. Check the file.") from None


def read_json(path: str | Path, most_bytes: int = 1 << 24, error: type[UserError] = DataError) -> Any:
    """Reads a JSON file of bounded size.

    Raises:
        UserError: (as `error`) see `read_text`; or it is not JSON.
    """
    text = read_text(path, most_bytes, error)
    try:
        return json.loads(text)
    except (ValueError, RecursionError) as problem:
        reason = str(problem).splitlines()[0][:120]
        raise error(f"{path}: must be JSON, but {reason}. Check the file.") from None


def sha256_of(source: str | Path | BinaryIO) -> str:
    """SHA-256, in hexadecimal, of a file's content, or of what an open file still holds.

    Raises:
        DataError: it cannot be opened, see `open_regular`.
    """
    if isinstance(source, (str, Path)):
        with open_regular(source) as file:
            return sha256_of(file)
    digest = hashlib.sha256()  # hashlib.file_digest is not in Python 3.10
    while block := source.read(1 << 20):
        digest.update(block)
    return digest.hexdigest()


# -- writing


@contextmanager
def naming(path: Path) -> Iterator[None]:
    """Adds the path to errors of a full disk inside the block: a failed write does not know its file."""
    try:
        yield
    except OSError as error:
        if error.filename is None and error.errno is not None and is_full(error):
            raise OSError(error.errno, os.strerror(error.errno), str(path)) from error
        raise


def is_full(error: BaseException) -> bool:
    """Whether the system has refused to write because the disk, or the user's part of it, is full."""
    return isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


def check_space(folder: Path, size: int) -> None:
    """Checks that a file of this size can be written, for libraries that do not notice a full disk.

    Raises:
        OSError: the disk is full.
    """
    with naming(folder), tempfile.TemporaryFile(dir=folder) as file:
        os.posix_fallocate(file.fileno(), 0, size)


@contextmanager
def atomic_write(path: Path) -> Iterator[BinaryIO]:
    """Opens a temporary file beside `path` for writing bytes; it replaces `path` when the block ends without error.

    A link is replaced, not followed; a device or a pipe is refused.
    """
    if path.exists() and not (path.is_file() or path.is_dir()):
        raise OSError(errno.EINVAL, "must be a file that may be replaced, but is a device or a pipe", str(path))
    if path.is_dir():
        raise IsADirectoryError(errno.EISDIR, "must be a file, but is a folder", str(path))
    path.parent.mkdir(parents=True, exist_ok=True)
    _remove_leftovers_of(path)
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.", suffix=".part")
    temporary = Path(name)
    _lock(handle)
    try:
        with naming(path), os.fdopen(handle, "wb") as file:
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


def write_json(path: Path, content: Any) -> None:
    """Writes a whole JSON file, indented, or nothing; NaN and infinities are refused."""
    write_text(path, json.dumps(content, indent=2, allow_nan=False) + "\n")


@contextmanager
def atomic_folder(path: Path) -> Iterator[Path]:
    """Gives a temporary folder beside `path`; it replaces `path` when the block ends without error.

    An existing folder is replaced. A crash between the two renames can leave the old one as ``.NAME.old``; it is never
    left half-written.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    _remove_leftovers_of(path)
    temporary = Path(tempfile.mkdtemp(dir=path.parent, prefix=f".{path.name}.", suffix=".part"))
    handle = os.open(temporary, os.O_RDONLY)
    _lock(handle)
    try:
        temporary.chmod(0o777 & ~_umask())
        with naming(path):
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
    finally:
        os.close(handle)


def remove_leftovers(folder: Path) -> None:
    """Removes the temporary files and folders that a killed process left in a folder."""
    for path in folder.glob(".*.old"):
        _remove(path)
    for path in folder.glob(".*.part"):
        _remove_if_left(path)


def _remove_leftovers_of(path: Path) -> None:
    """Removes what a killed process left that was writing the same file or folder."""
    pattern = re.compile(rf"\.{re.escape(path.name)}\.[a-z0-9_]{{8}}\.part")  # as mkstemp names it
    for place in path.parent.glob(".*.part"):
        if pattern.fullmatch(place.name):
            _remove_if_left(place)


def _remove_if_left(temporary: Path) -> None:
    """Removes a temporary file or folder, unless another process is writing it."""
    if temporary.is_symlink():  # nobody writes through one
        temporary.unlink(missing_ok=True)
        return
    with contextlib.suppress(OSError):
        handle = os.open(temporary, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
        try:
            if _lock(handle):
                _remove(temporary)
        finally:
            os.close(handle)


def _lock(handle: int) -> bool:
    """Locks an open file or folder until it is closed; False if another process has, or the file system cannot."""
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        return False
    return True


def _remove(path: Path) -> None:
    """Removes a file, a folder with its content, or a link (not its target)."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path, ignore_errors=True)
    else:
        path.unlink(missing_ok=True)


MANIFEST = "manifest.json"


def write_manifest(folder: Path) -> None:
    """Writes the SHA-256 of every file in a folder into the folder's manifest."""
    write_json(folder / MANIFEST, _digests(folder))


def damage(folder: Path) -> str | None:
    """Describes how a folder differs from its manifest; None if every file is as it was written."""
    try:
        noted, found = read_json(folder / MANIFEST), _digests(folder)
    except (OSError, UserError) as error:
        return f"{MANIFEST} cannot be read ({error})"
    if noted == found:
        return None
    if not isinstance(noted, dict):
        return f"{MANIFEST} is damaged"
    for what, names in (
        ("is missing", set(noted) - set(found)),
        ("is not in the manifest", set(found) - set(noted)),
        ("differs", {name for name in set(noted) & set(found) if noted[name] != found[name]}),
    ):
        if names:
            return f"{min(names)} {what}"
    return None


def _digests(folder: Path) -> dict[str, str]:
    files = (path for path in folder.iterdir() if path.is_file() and path.name != MANIFEST)
    return {path.name: sha256_of(path) for path in sorted(files)}


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
