"""Conversion of any source to Arrow files that are mapped into memory, once per content.

Shape letters: N rows (clips), T tasks.
"""

from __future__ import annotations

import hashlib
import logging
import math
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import pyarrow as pa
from filelock import FileLock

from lmf_multitask.cache_folder import cache_folder
from lmf_multitask.data.arrow import feature_table, fixed_lists
from lmf_multitask.data.cleaning import Cleaning, ModalityFacts, NonFinitePolicy, padding_side
from lmf_multitask.data.columns import BLOCK_ROWS
from lmf_multitask.data.description import describe, file_note
from lmf_multitask.data.groups import Groups, find_groups
from lmf_multitask.data.modality import MODALITIES
from lmf_multitask.data.quality import Repetitions, outlier_note, repetition_notes
from lmf_multitask.data.schema import KNOWN_TARGETS
from lmf_multitask.data.sources import Source
from lmf_multitask.data.targets import BINARY, REGRESSION
from lmf_multitask.errors import DataError
from lmf_multitask.files import atomic_folder, damage, read_json, remove_leftovers, write_json, write_manifest

logger = logging.getLogger(__name__)

POSITIONS = "positions"
"""Column with the row number of each clip in each emotion's own order; only where the orders differ."""

_VERSION = "4"  # part of the key: raise it when the same files must be converted again
_FACTS = "facts.json"
_MOST_FACTS = 1 << 28  # bytes, most of them groups
_BLOCK_BYTES = 1 << 26
_ALWAYS, _MOST_TIMES = 1 << 30, 100  # bytes that any features may take; bytes per byte of the files
_LONG = 1 << 28  # bytes of a source whose conversion is logged


@dataclass
class Facts:
    """What is known about converted data beside the rows.

    Attributes:
        emotions: names of the T label columns.
        report: text of ``data inspect``.
        notes: what was decided about the file, and warnings.
        padding: modality -> where its sequences are padded; None for vectors.
        label_column: which column of one-hot labels means "present"; None for other kinds of labels.
        kinds: label column -> kind of task.
        ranges: label column -> lowest and highest possible value of a real-valued one, where known.
        groups: split -> group of each clip; None if they are not known.
        quality: what may spoil results, see `Repetitions.facts`, and ``outliers``: modality -> split -> features.
    """

    emotions: list[str]
    report: str
    notes: list[str]
    padding: dict[str, str | None]
    label_column: int | None
    kinds: dict[str, str] = field(default_factory=dict)
    ranges: dict[str, tuple[float, float]] = field(default_factory=dict)
    quality: dict[str, Any] = field(default_factory=dict)
    groups: dict[str, list[str]] | None = None


def cached(source: Source, policy: NonFinitePolicy, cache_dir: str | Path | None) -> tuple[datasets.DatasetDict, Facts]:
    """The source as Arrow files in the cache, mapped into memory; they are written if they are missing or damaged.

    Raises:
        DataError: the data are at fault.
        OSError: the cache cannot be written.
    """
    reading = source.reading
    depends_on = (
        _VERSION, type(source).__name__, source.hashes, source.emotions, sorted(reading.kinds.items()),
        replace(reading.config, cache_dir=None), policy,
    )  # fmt: skip
    key = hashlib.sha256(repr(depends_on).encode()).hexdigest()[:32]
    base = cache_folder(cache_dir)
    base.mkdir(parents=True, exist_ok=True)
    folder = base / key
    facts = _whole(folder)
    if facts is None:
        with FileLock(base / f"{key}.lock"):
            remove_leftovers(base)
            facts = _whole(folder) or _convert(source, policy, folder)
    splits = {split: datasets.Dataset.from_file(str(folder / f"{split}.arrow")) for split in facts["splits"]}
    return datasets.DatasetDict(splits), Facts(**facts["facts"])


def inspect(source: Source, policy: NonFinitePolicy) -> Facts:
    """Reads all of a source, whose labels and splits may be missing, without writing anything.

    Raises:
        DataError: the data are at fault.
    """
    source.scan()
    survey = _Survey(source, policy)
    with _progress(source.count, "checking") as advance:
        for split in source.splits:
            for ids, _ in survey.blocks(split):
                advance(len(ids))
    facts = survey.facts()
    source.check_unchanged()
    return facts


# -- conversion


class _Survey:
    """Reads all blocks of a source once: cleans them, and collects what the report tells."""

    def __init__(self, source: Source, policy: NonFinitePolicy) -> None:
        self._source = source
        self.labels = {
            split: source.labels(split) if source.emotions else np.empty((rows, 0), np.float32)
            for split, rows in source.splits.items()
        }
        self.kinds, self.ranges, self._decided = _kinds(source, self.labels)
        self.shapes = {
            name: source.shapes.get(name, (1, 1) if about.sequence else (1,)) for name, about in MODALITIES.items()
        }
        padded = 4 * source.count * sum(math.prod(shape) for shape in self.shapes.values())
        if padded > max(_ALWAYS, _MOST_TIMES * source.size):
            raise source.fail(
                f"features must take at most {_MOST_TIMES} times the bytes of the file, but take {padded:,} when they are unpacked "
                "and padded to the longest sequence. Shorten sequences: --data.max_length."
            )
        self._cleaning = {split: {name: Cleaning(name, policy) for name in MODALITIES} for split in source.splits}
        self._repetitions = Repetitions()
        self.ids: dict[str, list[str]] = {split: [] for split in source.splits}

    def blocks(self, split: str) -> Iterator[tuple[list[str], dict[str, np.ndarray]]]:
        """The clips of a split: ids, and cleaned features of all modalities; zeros for one that the file does not have."""
        bytes_per_row = 4 * sum(int(np.prod(shape)) for shape in self.shapes.values())
        rows = int(np.clip(_BLOCK_BYTES // bytes_per_row, 1, BLOCK_ROWS))
        for ids, found in self._source.blocks(split, rows):
            features = {
                name: self._cleaning[split][name].take(found.get(name, np.zeros((len(ids), *shape), np.float32)), ids)
                for name, shape in self.shapes.items()
            }
            self._repetitions.take(split, ids, features)
            self.ids[split] += ids
            yield ids, features

    @cached_property
    def groups(self) -> Groups | None:
        """The groups of the clips, when every block has been read."""
        return find_groups(self._source, self.ids)

    def facts(self) -> Facts:
        """What is known when every block has been read.

        Raises:
            DataError: no clip has features, or numbers are not finite and the policy is ``error``.
        """
        source = self._source
        found = {split: {name: one.facts() for name, one in each.items()} for split, each in self._cleaning.items()}
        if all(one.missing == one.shape[0] for each in found.values() for one in each.values()):
            raise DataError(
                f"{', '.join(source.shapes)} must have numbers in some clip, but are zero or null everywhere. Check the features."
            )
        notes = [*source.notes, *self._decided]
        for name, shape in source.shapes.items():
            count = sum(cut[name] for cut in source.cut.values())
            if count:
                notes.append(f"{name} of {count} clip(s) was cut to {shape[0]} steps (max_length)")
        quality: dict[str, Any] = self._repetitions.facts(self.labels)
        notes += repetition_notes(quality)
        for split, each in self._cleaning.items():
            for name, one in each.items():
                outliers = one.extremes.outliers()
                if outliers:
                    notes.append(outlier_note(name, split, outliers))
                    quality.setdefault("outliers", {}).setdefault(name, {})[split] = list(map(asdict, outliers))
        notes += [self.groups.note] if self.groups else []
        files: list[str] = []
        if source.path.is_file():
            files = file_note(source.path.stat().st_size, source.hashes[""], list(source.splits.values()))
        return Facts(
            emotions=source.emotions,
            report=describe(source.emotions, self.labels, found, [*files, *notes], source.dtypes, self.kinds),
            notes=notes,
            padding={name: self._padding(name, found) for name in MODALITIES},
            label_column=source.label_column,
            kinds=self.kinds,
            ranges=self.ranges,
            quality=quality,
            groups=None if self.groups is None else {split: list(names) for split, names in self.groups.of.items()},
        )

    def _padding(self, name: str, found: Mapping[str, Mapping[str, ModalityFacts]]) -> str | None:
        return padding_side([each[name] for each in found.values()]) if len(self.shapes[name]) == 2 else None


def _kinds(
    source: Source, labels: Mapping[str, np.ndarray]
) -> tuple[dict[str, str], dict[str, tuple[float, float]], list[str]]:
    """Kind of every label column, ranges of real-valued ones, and notes on what was decided."""
    kinds: dict[str, str] = {}
    ranges: dict[str, tuple[float, float]] = {}
    real: list[str] = []
    assumed: dict[tuple[float, float], list[str]] = {}
    for t, name in enumerate(source.emotions):
        values = np.concatenate([rows[:, t] for rows in labels.values()])
        values = values[~np.isnan(values)]
        kind = source.kinds.get(name)
        if kind is None:
            kind = REGRESSION if name in KNOWN_TARGETS and not np.isin(values, (0, 1, -100)).all() else BINARY
            if kind == REGRESSION:
                real.append(name)
            for rows in labels.values() if kind == BINARY else ():
                rows[rows[:, t] == -100, t] = np.nan
        kinds[name] = kind
        if kind != REGRESSION or not len(values):
            continue
        usual = KNOWN_TARGETS.get(name)
        if name in source.ranges:
            ranges[name] = source.ranges[name]
        elif usual and usual[0] <= values.min() and values.max() <= usual[1] and np.ptp(values) > 2:
            ranges[name] = usual
            assumed.setdefault(usual, []).append(name)
    notes = [f"{', '.join(real)}: real-valued (regression), since not all values are 0 and 1"] if real else []
    notes += [
        f"{', '.join(names)}: range {low:g} to {high:g} assumed from name and values "
        f"(--tasks {names[0]}:{REGRESSION}:LOW:HIGH states another)"
        for (low, high), names in assumed.items()
    ]
    return kinds, ranges, notes


def _convert(source: Source, policy: NonFinitePolicy, folder: Path) -> dict[str, Any]:
    source.scan()
    if source.size > _LONG:
        logger.info(
            "%s: its %s clips are checked and copied to the cache of datasets, once", source.path, f"{source.count:,}"
        )
    survey = _Survey(source, policy)
    with atomic_folder(folder) as part, _progress(source.count, "writing") as advance:
        for split in source.splits:
            _write_split(source, survey, split, part, advance)
        content = {"facts": asdict(survey.facts()), "splits": list(source.splits)}
        source.check_unchanged()
        write_json(part / _FACTS, content)
        write_manifest(part)
    return content


def _write_split(source: Source, survey: _Survey, split: str, folder: Path, advance: Callable[[int], object]) -> None:
    """Writes a split as one record batch, so that a column is one block of memory; the blocks are collected in plain files."""
    raw = {name: folder / f"{name}.raw" for name in MODALITIES}
    ids: list[str] = []
    with ExitStack() as stack:
        files = {name: stack.enter_context(path.open("wb")) for name, path in raw.items()}
        for names, features in survey.blocks(split):
            for name, values in features.items():
                files[name].write(np.ascontiguousarray(values).data)
            ids += names
            advance(len(names))
    columns = {
        name: np.memmap(path, np.float32, "r", shape=(len(ids), *survey.shapes[name])) for name, path in raw.items()
    }
    table = feature_table(ids, columns, survey.labels[split], source.emotions)
    positions = source.positions(split)
    if positions is not None:
        table = table.append_column(POSITIONS, fixed_lists(positions))
        table = table.replace_schema_metadata(datasets.Features.from_arrow_schema(table.schema).arrow_schema.metadata)
    with pa.ipc.new_stream(str(folder / f"{split}.arrow"), table.schema) as writer:
        writer.write_table(table)
    del table, columns
    for path in raw.values():
        path.unlink()


# -- the cached files

_verified: dict[Path, list[tuple[str, int, int, int]]] = {}  # folders whose hashes this process has compared


def _whole(folder: Path) -> dict[str, Any] | None:
    """What `_convert` noted, if every file is as it was written; otherwise None."""
    if not (folder / _FACTS).is_file():
        return None
    files = [(path.name, path.stat()) for path in sorted(folder.iterdir())]
    state = [(name, about.st_ino, about.st_size, about.st_mtime_ns) for name, about in files]
    if _verified.get(folder) != state:
        problem = damage(folder)
        if problem is not None:
            logger.warning("%s: the cached data are damaged (%s) and are written again", folder, problem)
            return None
        _verified[folder] = state
    return read_json(folder / _FACTS, _MOST_FACTS)


@contextmanager
def _progress(clips: int, what: str) -> Iterator[Callable[[int], object]]:
    """Gives a function that counts finished clips; on a terminal it draws a bar if they take more than two seconds."""
    if not sys.stderr.isatty():
        yield lambda done: None
        return
    from tqdm import tqdm

    with tqdm(desc=what, total=clips, unit=" clips", delay=2, leave=False, dynamic_ncols=True) as bar:
        yield bar.update
