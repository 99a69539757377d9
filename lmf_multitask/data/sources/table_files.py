"""What the layouts of table files have in common: which file of a folder belongs to which split."""

from __future__ import annotations

import re
from abc import abstractmethod
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import ClassVar

import pyarrow as pa

from lmf_multitask.data.schema import find_split
from lmf_multitask.data.sources import ALL, Candidate, Reading
from lmf_multitask.data.sources.tables import Table, TableSource
from lmf_multitask.errors import DataError

_SHARD = re.compile(r"(.+?)-\d{5}-of-\d{5}")


class TableFiles(TableSource):
    """One file, or a folder (or the folder ``data`` in it) with one or more files per split.

    A subclass implements `_table`, and sets `suffixes`.
    """

    suffixes: ClassVar[tuple[str, ...]]
    """Ends of the names of such files."""

    def __init__(self, candidate: Candidate, reading: Reading) -> None:
        """Opens the files of the wanted splits."""
        super().__init__(candidate, reading)
        if candidate.file is not None:
            self._set_tables({ALL: self._table(self.path)})
            return
        found: dict[str, list[Path]] = {}
        files = self._files_in(self.path)
        for path in files:
            split = _split_of(path)
            if split is None and len(files) > 1:
                self.notes.append(f"ignored files: {ascii(path.name)[1:-1]}")
                continue
            found.setdefault(split or ALL, []).append(path)
        for split, paths in found.items():
            if len(paths) > 1 and not all(_SHARD.fullmatch(path.stem) for path in paths):
                raise self.fail(
                    f"must have one file for {split}, but has {paths[0].name} and {paths[1].name}. Remove one."
                )
        self._set_split_names(found)
        self._set_tables({split: _joined(list(map(self._table, found[split]))) for split in self.split_names})

    @classmethod
    def in_folder(cls, candidate: Candidate) -> bool:
        """Whether it is a folder with such files, and no saved data set."""
        saved = any((candidate.path / name).exists() for name in ("dataset_dict.json", "state.json"))
        return candidate.file is None and not saved and bool(cls._files_in(candidate.path))

    @classmethod
    def _files_in(cls, folder: Path) -> list[Path]:
        """The files of the splits in a folder or in its folder ``data``; where none has the name of a split, all files."""
        places = [place for place in (folder, folder / "data") if place.is_dir()]
        every = [
            [path for path in sorted(place.iterdir()) if path.suffix.lower() in cls.suffixes and path.name[0] != "."]
            for place in places
        ]
        named = [files for files in every if any(map(_split_of, files))]
        return next(iter(named), every[0])

    @abstractmethod
    def _table(self, path: Path) -> Table:
        """Opens one file."""


def _split_of(path: Path) -> str | None:
    shard = _SHARD.fullmatch(path.stem)
    return find_split(shard[1] if shard else path.stem)


def _joined(tables: Sequence[Table]) -> Table:
    """The files of one split, one after the other."""
    first = tables[0]
    for table in tables:
        if not table.schema.equals(first.schema):
            raise DataError(f"{table.where} must have the columns of {first.where}, but has others. Write them alike.")

    def read(columns: Sequence[str], rows: int) -> Iterator[pa.Table]:
        for table in tables:
            yield from table.read(columns, rows)

    return Table(first.where, sum(table.count for table in tables), first.schema, read)
