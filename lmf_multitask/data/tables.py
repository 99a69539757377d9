"""Opens tables that are stored on disk: folders of ``save_to_disk``, and Parquet files."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING

import pyarrow as pa

from lmf_multitask.errors import DataError

if TYPE_CHECKING:
    import datasets
    from pyarrow.parquet import ParquetFile

DAMAGES = (OSError, ValueError, KeyError, TypeError, AttributeError, IndexError, RecursionError, pa.ArrowException)
"""What `datasets` and pyarrow raise on files that are not what they expect."""


def first_line(error: BaseException) -> str:
    """What an error says, short enough for a line of ours."""
    cause = error.__cause__ or error
    return (str(cause).strip().splitlines() or [type(cause).__name__])[0].rstrip(".")[:200]


def open_saved(folder: Path) -> tuple[datasets.Dataset, list[Path]]:
    """What save_to_disk wrote of one split, memory-mapped, and the files that it lies in.

    Raises:
        DataError: it is damaged, or refers to files outside of the folder.
    """
    import datasets  # takes a second to come

    try:
        state = json.loads((folder / "state.json").read_text(encoding="utf-8"))
        names = [part["filename"] for part in state["_data_files"]]
        if any(Path(name).name != name or (folder / name).is_symlink() for name in names):
            raise ValueError("it refers to files outside of it")
        part = datasets.Dataset.load_from_disk(str(folder))
        part.data.validate(full=True)  # or a damaged offset would make pyarrow read foreign memory
    except DAMAGES as error:
        raise DataError(f"{folder}: must be a saved data set, but {first_line(error)}. Save it again.") from None
    return part, [folder / name for name in names]


def open_parquet(path: Path) -> ParquetFile:
    """A Parquet file whose ``iter_batches`` holds a batch; pyarrow's default holds a row group, which may be the whole file."""
    from pyarrow.parquet import ParquetFile

    return ParquetFile(path, buffer_size=1 << 20, pre_buffer=False)
