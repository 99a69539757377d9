"""Computational sequences of the CMU-MultimodalSDK (``.csd``).

A file holds one sequence per video: ``ROOT/data/VIDEO/features`` `[F, D]` and ``intervals`` `[F, 2]` in seconds. One file is
one modality; another holds the labels. A clip is a labelled interval, and its features are those of the frames or words that
overlap it, in order. The files name no splits: a table ``splits.csv`` beside them does, with the columns id (of the clip,
``VIDEO[0]``, or of the video) and split.

Shape letters: N rows (clips), T tasks, F frames of a video, L steps, D features.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from lmf_multitask.data.modality import as_float32
from lmf_multitask.data.schema import find_split, guess_modalities
from lmf_multitask.data.sources import ALL, Candidate, Reading
from lmf_multitask.data.sources.hdf5 import Hdf5Source
from lmf_multitask.data.targets import REGRESSION
from lmf_multitask.data.text_table import parse_table
from lmf_multitask.errors import DataError

_MOST_VIDEOS, _MOST_CLIPS = 1_000_000, 5_000_000
_LONGEST_NAME = 200
_LABELS = re.compile("label", re.IGNORECASE)
_ALL_LABELS = ("sentiment", "happy", "sad", "anger", "surprise", "disgust", "fear")
"""Columns of CMU-MOSEI's ``All Labels``."""


class Csd(Hdf5Source):
    """A folder of ``.csd`` files."""

    layout = "a folder of .csd files of the CMU-MultimodalSDK"
    suffixes = (".csd",)

    def __init__(self, candidate: Candidate, reading: Reading) -> None:
        """Reads the labelled intervals."""
        super().__init__(candidate, reading)
        names = [name for name in self._paths if not _LABELS.search(name)]
        self._names = guess_modalities(names, str(self.path), reading.config.chosen)
        self.notes.append("features from " + ", ".join(f"{one} {name!r}" for one, name in self._names.items()))
        self._data = {one: self._videos(self._paths[name]) for one, name in self._names.items()}
        labels = [name for name in self._paths if _LABELS.search(name)]
        if len(labels) != 1:
            raise self.fail(
                f"must have one file with labels, which name the clips, but has {', '.join(labels) or 'none'}. Add or remove some."
            )
        self._label_path = self._paths[labels[0]]
        self._clips = self._read_clips()
        self._divide()

    def _videos(self, path: Path) -> Any:
        """The group of videos of one file."""
        file = self._h5(path)
        with self._damages(path):
            roots = [name for name in file if "data" in self._child(file, name, path)]
            if len(roots) != 1:
                raise DataError(f"{path}: must hold one computational sequence, but holds {len(roots)}. Get it again.")
            videos = self._child(file[roots[0]], "data", path)
            if len(videos) > _MOST_VIDEOS:
                raise DataError(f"{path}: must hold at most {_MOST_VIDEOS:,} videos, but holds {len(videos):,}.")
            return videos

    def _read_clips(self) -> list[tuple[str, str, float, float, np.ndarray]]:
        """(id, video, start, end, labels) of each labelled interval."""
        path = self._label_path
        found: list[tuple[str, str, float, float, np.ndarray]] = []
        videos = self._videos(path)
        with self._damages(path):
            for video in videos:
                if len(video) > _LONGEST_NAME:
                    raise DataError(
                        f"{path}: names of videos must have at most {_LONGEST_NAME} characters, but one has more."
                    )
                group = self._child(videos, video, path)
                intervals, labels = self._numbers(group, "intervals", path), self._numbers(group, "features", path)
                if intervals.shape != (len(labels), 2) or len(found) + len(labels) > _MOST_CLIPS:
                    raise DataError(
                        f"{path}: {ascii(video)} must have one interval per label, but has {intervals.shape}."
                    )
                rows = labels[:].reshape(len(labels), -1).astype(np.float64)
                for number, ((start, end), row) in enumerate(zip(intervals[:].astype(np.float64), rows)):
                    found.append((f"{video}[{number}]", video, float(start), float(end), row))
        widths = {len(clip[4]) for clip in found}
        if len(widths) != 1:
            raise DataError(f"{path}: labels must have one size, but have {sorted(widths)[:5]}. Check the file.")
        width = widths.pop()
        self._name_tasks(width, {1: ("sentiment",), len(_ALL_LABELS): _ALL_LABELS}.get(width))
        if tuple(self.emotions) == _ALL_LABELS:  # intensities from 0 to 3
            for name in _ALL_LABELS[1:]:
                self.kinds.setdefault(name, REGRESSION)
                self.ranges.setdefault(name, (0.0, 3.0))
        if self.emotions:
            self.notes.append(f"labels: columns taken as {', '.join(self.emotions)}")
        return found

    def _divide(self) -> None:
        """Sets the rows of each split, by the table of splits if there is one."""
        table = self.path / "splits.csv"
        if not table.exists():
            self._set_split_names([ALL])
            self._rows = {ALL: np.arange(len(self._clips))}
            return
        rows = parse_table(self._open(table), table).to_pydict()
        if not {"id", "split"} <= set(rows):
            raise DataError(
                f"{table}: must have the columns id and split, but has {', '.join(rows)[:120]}. Rename them."
            )
        split_of = {str(one): find_split(split) for one, split in zip(rows["id"], rows["split"])}
        found = [split_of.get(clip[0], split_of.get(clip[1])) for clip in self._clips]
        without = found.count(None)
        if without:
            self.notes.append(f"{without} clip(s) are in no split of splits.csv: left out")
        names = {split for split in found if split is not None}
        self._set_split_names(names)
        self._rows = {split: np.array([row for row, own in enumerate(found) if own == split]) for split in names}

    def scan(self) -> None:
        """See `Source.scan`."""
        self._set_splits({split: len(rows) for split, rows in self._rows.items()})
        shapes = {}
        for modality, name in self._names.items():
            path, width, longest = self._paths[name], 0, 0
            with self._damages(path):
                for split in self.splits:
                    for row in self._rows[split]:
                        frames = self._frames(modality, int(row))
                        if frames is None:
                            continue
                        features, start, stop = frames
                        if width not in (0, features.shape[1]):
                            raise DataError(
                                f"{path}: must have {width} features in every video, but has {features.shape[1]}."
                            )
                        width, longest = features.shape[1], max(longest, stop - start)
                        self.dtypes[modality] = str(features.dtype)
            if longest:
                shapes[modality] = (longest, width)
        self._set_shapes(shapes)

    @cached_property
    def _intervals(self) -> dict[tuple[str, str], tuple[Any, np.ndarray]]:
        return {}

    def _frames(self, modality: str, row: int) -> tuple[Any, int, int] | None:
        """The features of the clip's video, and the frames that overlap the clip: from the first to the last; None without."""
        _, video, start, end, _ = self._clips[row]
        videos, path = self._data[modality], self._paths[self._names[modality]]
        if video not in videos:
            return None
        if (modality, video) not in self._intervals:
            self._intervals.pop(next((key for key in self._intervals if key[0] == modality), ("", "")), None)
            group = self._child(videos, video, path)
            features, intervals = self._numbers(group, "features", path), self._numbers(group, "intervals", path)
            if len(features.shape) != 2 or intervals.shape != (len(features), 2):
                raise DataError(f"{path}: {ascii(video)} must have one interval per frame, but has {intervals.shape}.")
            self._intervals[modality, video] = features, intervals[:].astype(np.float64)
        features, intervals = self._intervals[modality, video]
        inside = np.flatnonzero((intervals[:, 0] < end) & (intervals[:, 1] > start))
        return (features, int(inside[0]), int(inside[-1]) + 1) if len(inside) else None

    def _read(self, split: str, rows: int) -> Iterator[tuple[list[str] | None, Mapping[str, np.ndarray]]]:
        own = self._rows[split]
        for first in range(0, len(own), rows):
            chosen = own[first : first + rows]
            found = {name: np.zeros((len(chosen), *shape), np.float32) for name, shape in self.shapes.items()}
            for name, values in found.items():
                with self._damages(self._paths[self._names[name]]):
                    for place, row in enumerate(chosen):
                        frames = self._frames(name, int(row))
                        if frames is not None:
                            features, start, stop = frames
                            self.cut[split][name] += stop - start > values.shape[1]
                            stop = min(stop, start + values.shape[1])
                            values[place, : stop - start] = as_float32(features[start:stop])
            yield [self._clips[row][0] for row in chosen], found

    def _label_values(self, split: str) -> np.ndarray:
        return np.stack([self._clips[row][4] for row in self._rows[split]])
