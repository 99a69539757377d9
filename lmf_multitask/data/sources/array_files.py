"""Features in one ``.npy`` file per clip, `[D]` or `[L, D]`: what tables refer to, by path or by the name of the clip.

Shape letters: n rows (clips), L steps, D features.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np

from lmf_multitask.data.modality import as_float32
from lmf_multitask.data.npy import read_features
from lmf_multitask.errors import DataError
from lmf_multitask.files import sha256_of

Shape = tuple[int, ...]


class ArrayFiles:
    """The ``.npy`` files below a folder that have been read."""

    def __init__(self, root: Path) -> None:
        """Takes the folder."""
        self.root = root
        self._base = root.resolve()
        self._seen: dict[Path, tuple[int, ...]] = {}

    @property
    def size(self) -> int:
        """Bytes of the files that have been read."""
        return sum(identity[2] for identity in self._seen.values())

    def path(self, name: str) -> Path:
        """The file that a table calls `name`.

        Raises:
            DataError: it is outside of the folder.
        """
        try:
            path = (self._base / Path(name).expanduser()).resolve()
        except (OSError, ValueError, RuntimeError):
            path = Path("/")
        if not path.is_relative_to(self._base):
            raise DataError(
                f"feature files must lie in {self.root}, but got {ascii(name)[:120]}. Name the folder of the features with "
                "--data.feature_root."
            )
        return path

    def read(self, path: Path) -> np.ndarray:
        """The numbers of one clip.

        Raises:
            DataError: the file is missing, damaged, or has changed since it was read before.
        """
        values, about = read_features(path)
        if self._seen.setdefault(path, _identity(about)) != _identity(about):
            raise DataError(f"{path}: must not change while it is read, but did. Start again when it is complete.")
        return values

    def shape(self, paths: Iterable[Path | None], found: Shape | None = None) -> Shape | None:
        """Shape of a clip: vectors of one length, or sequences of at most so many steps; None if no clip has a file.

        Args:
            paths: of the clips; None for clips without.
            found: shape of the clips before.

        Raises:
            DataError: the clips differ in D.
        """
        for path in paths:
            if path is None:
                continue
            shape = self.read(path).shape
            if found is not None and shape[-1] != found[-1]:
                raise DataError(
                    f"{path}: must have {found[-1]} features, as the files before, but has {shape[-1]}. Extract them alike."
                )
            if found is not None and len(shape) + len(found) > 2:
                shape = (max(_steps(shape), _steps(found)), shape[-1])
            found = shape
        return found

    def rows(self, paths: Sequence[Path | None], shape: Shape) -> tuple[np.ndarray, int]:
        """The clips as float32 `[n, *shape]`, padded with zeros at the end; and how many were cut to the steps of `shape`."""
        found, cut = np.zeros((len(paths), *shape), np.float32), 0
        for row, path in enumerate(paths):
            if path is None:
                continue
            values = self.read(path)
            if len(shape) == 1:
                if values.shape != shape:
                    raise DataError(f"{path}: must have the shape {list(shape)}, but has {list(values.shape)}.")
            else:
                values = values.reshape(-1, values.shape[-1])
                cut += len(values) > shape[0]
                values = values[: shape[0]]
            found[(row,) + tuple(map(slice, values.shape))] = as_float32(values)
        return found, cut

    def digest(self, paths: Iterable[Path]) -> str:
        """SHA-256 of names and contents of files."""
        digest = hashlib.sha256()
        for path in sorted(set(paths)):
            digest.update(repr((path.relative_to(self._base).as_posix(), sha256_of(path))).encode())
        return digest.hexdigest()

    def changed(self) -> Path | None:
        """A file that is not as it was when it was read."""
        for path, identity in self._seen.items():
            if not path.exists() or _identity(path.stat()) != identity:
                return path
        return None


def _steps(shape: Shape) -> int:
    return shape[0] if len(shape) == 2 else 1


def _identity(about: os.stat_result) -> tuple[int, ...]:
    return about.st_dev, about.st_ino, about.st_size, about.st_mtime_ns
