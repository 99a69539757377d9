"""Saved data sets: what ``save_to_disk`` of `datasets` wrote, with all splits or one."""

from __future__ import annotations

import struct
from pathlib import Path

import pyarrow as pa

from lmf_multitask.data.schema import find_split
from lmf_multitask.data.sources import ALL, Candidate, Reading
from lmf_multitask.data.sources.arrow_files import check_announced
from lmf_multitask.data.sources.tables import DAMAGES, Table, TableSource
from lmf_multitask.errors import DataError, first_line
from lmf_multitask.files import read_json


class SavedDataset(TableSource):
    """What ``save_to_disk`` of `datasets` wrote: all splits, or one."""

    layout = "a folder of save_to_disk"

    def __init__(self, candidate: Candidate, reading: Reading) -> None:
        """Maps the files into memory; they are read from their own folders, whatever the JSON files of the data set say."""
        super().__init__(candidate, reading)
        if (self.path / "state.json").is_file():
            folders = {ALL: self.path}
        else:
            folders = {
                split: path
                for path in sorted(self.path.iterdir())
                if path.is_dir() and (split := find_split(path.name))
            }
        self._set_split_names(folders)
        self._set_tables({split: self._saved(split, folders[split]) for split in self.split_names})

    @classmethod
    def recognises(cls, candidate: Candidate) -> bool:
        """Whether the folder has the JSON files of ``save_to_disk``."""
        return any((candidate.path / name).is_file() for name in ("dataset_dict.json", "state.json"))

    def _saved(self, split: str, folder: Path) -> Table:
        import datasets  # takes a second to import

        try:
            state = read_json(folder / "state.json")
            names = [part["filename"] for part in state["_data_files"]]
            if not names or any(Path(name).name != name for name in names):
                raise ValueError("it refers to files outside of it")
            for name in names:
                content = self._open(folder / name)
                check_announced(pa.memory_map(f"/dev/fd/{content.fileno()}"), folder / name)
            parts = [datasets.Dataset.from_file(str(folder / name)) for name in names]
            part = datasets.concatenate_datasets(parts) if len(parts) > 1 else parts[0]
            part.data.validate(full=True)  # a damaged offset would make pyarrow read other memory
        except (*DAMAGES, struct.error) as error:
            if isinstance(error, DataError):
                raise
            raise DataError(f"{folder}: must be a saved data set, but {first_line(error)}. Save it again.") from None
        return Table.of(str(self.path) if split == ALL else f"{self.path}: {split}", part.data.table)
