"""One HDF5 file per modality and split, as for the Memory Fusion Network: ``audio_train.h5``, ``text_valid_emb.h5``, ``y_test.h5``.

Shape letters: N rows (clips), T tasks.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from lmf_multitask.data.schema import find_split, guess_modalities
from lmf_multitask.data.sources import Candidate, Reading
from lmf_multitask.data.sources.hdf5 import Hdf5Source
from lmf_multitask.errors import DataError

_LABELS = re.compile("label|^y_|_y$", re.IGNORECASE)


class SplitArrays(Hdf5Source):
    """A folder with one array per modality and split: ``audio_train.h5``, ``text_valid_emb.h5``, ``y_test.h5``, ..."""

    layout = "a folder of .h5 files named after modality and split (audio_train.h5, y_train.h5)"
    suffixes = (".h5", ".hdf5")

    def __init__(self, candidate: Candidate, reading: Reading) -> None:
        """Opens the arrays."""
        super().__init__(candidate, reading)
        by_split: dict[str, list[str]] = {}
        for name in self._paths:
            split = next(filter(None, map(find_split, re.split(r"[_\W]+", name))), None)
            if split is None:
                self.notes.append(f"ignored files: {ascii(name)[1:-1]}")
            else:
                by_split.setdefault(split, []).append(name)
        self._set_split_names(by_split)
        self._arrays: dict[str, dict[str, Any]] = {}
        self._label_arrays: dict[str, Any] = {}
        for split in self.split_names:
            names = by_split[split]
            features = guess_modalities(
                [name for name in names if not _LABELS.search(name)], f"{self.path}: {split}", {}
            )
            self._arrays[split] = {modality: self._array(self._paths[name]) for modality, name in features.items()}
            own = [name for name in names if _LABELS.search(name)]
            if len(own) == 1:
                self._label_arrays[split] = self._array(self._paths[own[0]])
        first = next(iter(self._arrays.values()))
        for split, arrays in self._arrays.items():
            counts = {len(array) for array in [*arrays.values(), *filter(None, [self._label_arrays.get(split)])]}
            shapes = {modality: array.shape[1:] for modality, array in arrays.items()}
            if len(counts) > 1 or shapes != {modality: array.shape[1:] for modality, array in first.items()}:
                raise self.fail(
                    f"the arrays of {split} must have the same rows, and the shapes of the other splits. Check them."
                )
        if len(self._label_arrays) == len(self._arrays):
            array = next(iter(self._label_arrays.values()))
            self._name_tasks(math.prod(array.shape[1:]), ("label",) if math.prod(array.shape[1:]) == 1 else None)

    def _array(self, path: Path) -> Any:
        file = self._h5(path)
        with self._damages(path):
            names = list(file)
            if len(names) != 1:
                raise DataError(f"{path}: must hold one array, but holds {len(names)}. Store one array per file.")
            return self._numbers(file, names[0], path)

    def scan(self) -> None:
        """See `Source.scan`."""
        first = self._arrays[self.split_names[0]]
        self.dtypes = {modality: str(array.dtype) for modality, array in first.items()}
        self._set_splits({split: len(next(iter(arrays.values()))) for split, arrays in self._arrays.items()})
        self._set_shapes({modality: array.shape[1:] for modality, array in first.items()})

    def _read(self, split: str, rows: int) -> Iterator[tuple[list[str] | None, Mapping[str, np.ndarray]]]:
        for start in range(0, self.splits[split], rows):
            with self._damages(self.path):
                yield None, {name: array[start : start + rows] for name, array in self._arrays[split].items()}

    def _label_values(self, split: str) -> np.ndarray:
        with self._damages(self.path):
            return self._label_arrays[split][:].reshape(self.splits[split], -1)

    def labels(self, split: str) -> np.ndarray:
        """See `Source.labels`."""
        if len(self._label_arrays) != len(self._arrays):
            raise self.fail("must have labels for every split (y_train.h5 and so on), but lacks some. Add them.")
        return super().labels(split)
