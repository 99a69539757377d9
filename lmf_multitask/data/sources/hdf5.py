"""What the layouts of HDF5 files have in common. They are read with h5py, an optional dependency.

Links, external and virtual data sets are refused: everything that is read lies in the file.
"""

from __future__ import annotations

import math
from abc import abstractmethod
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cached_property
from pathlib import Path
from typing import Any, ClassVar

import numpy as np

from lmf_multitask.data.schema import emotion_of
from lmf_multitask.data.sources import Candidate, Source
from lmf_multitask.errors import DataError, InstallationError

_MOST_VALUES_PER_BYTE = 100


class Hdf5Source(Source):
    """A folder of HDF5 files."""

    suffixes: ClassVar[tuple[str, ...]]

    @classmethod
    def recognises(cls, candidate: Candidate) -> bool:
        """Whether it is a folder with such files, or one of them."""
        if candidate.file is None:
            return any(path.suffix.lower() in cls.suffixes for path in candidate.path.iterdir())
        return candidate.path.suffix.lower() in cls.suffixes and candidate.start.startswith(b"\x89HDF\r\n\x1a\n")

    @cached_property
    def _paths(self) -> dict[str, Path]:
        """Name without its end -> file, of the folder."""
        if not self.path.is_dir():
            raise self.fail("must be the folder with the files of all modalities, but is one file. Give its folder.")
        return {path.stem: path for path in sorted(self.path.iterdir()) if path.suffix.lower() in self.suffixes}

    def _h5(self, path: Path) -> Any:
        """An open file."""
        try:
            import h5py
        except ModuleNotFoundError:
            raise InstallationError(
                f"{path}: must be read with h5py, but it is not installed. Run: pip install 'lmf_multitask[hdf5]'"
            ) from None
        with self._damages(path):
            return h5py.File(self._open(path), "r")

    @contextmanager
    def _damages(self, path: Path) -> Iterator[None]:
        try:
            yield
        except DataError:
            raise
        except (OSError, KeyError, ValueError, TypeError, RuntimeError, AttributeError, RecursionError) as error:
            reason = (str(error).strip().splitlines() or [type(error).__name__])[0].rstrip(".")[:160]
            raise DataError(f"{path}: must be a whole HDF5 file, but {reason}. Get it again.") from None

    def _child(self, group: Any, name: str, path: Path) -> Any:
        """A member of a group; links to other places are refused."""
        import h5py

        if not isinstance(group.get(name, getlink=True), h5py.HardLink):
            raise DataError(f"{path}: {ascii(name)[:60]} must be stored in the file, but is a link. Store it there.")
        return group[name]

    def _numbers(self, group: Any, name: str, path: Path) -> Any:
        """A data set of numbers, not yet read."""
        import h5py

        found = self._child(group, name, path)
        where = f"{path}: {ascii(found.name)[1:-1][:120]}"
        if not isinstance(found, h5py.Dataset) or found.dtype.kind not in "fiub" or found.shape is None:
            raise DataError(f"{where} must be an array of numbers, but is not. Check the file.")
        if found.is_virtual or found.external:
            raise DataError(f"{where} must be stored in the file, but refers to others. Store it there.")
        size = path.stat().st_size
        if len(found.shape) not in (1, 2, 3) or math.prod(found.shape) > max(1 << 24, _MOST_VALUES_PER_BYTE * size):
            raise DataError(f"{where} must have a plausible shape, but has {str(found.shape)[:60]}. Check the file.")
        return found

    @abstractmethod
    def _label_values(self, split: str) -> np.ndarray:
        """Labels as they are stored, `[N, T]`."""

    def _name_tasks(self, columns: int, default: tuple[str, ...] | None) -> None:
        names = self.reading.config.labels or self.reading.emotions or default or ()
        if len(names) == columns:
            self.emotions = [emotion_of(name) for name in names]
        self._columns = columns

    def labels(self, split: str) -> np.ndarray:
        """See `Source.labels`."""
        if not self.emotions:
            raise self.fail(
                f"labels must have a name for each of their {self._columns} columns, but have none. Give the names in their "
                "order with --data.labels."
            )
        return self._checked_labels(self._label_values(split), f"{self.path}: labels of")
