"""Arrow files (``.arrow``, ``.feather``): one file, or a folder with one or more files per split."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

import pyarrow as pa

from lmf_multitask.data.sources import Candidate
from lmf_multitask.data.sources.table_files import TableFiles
from lmf_multitask.data.sources.tables import DAMAGES, Table
from lmf_multitask.errors import DataError, first_line

_FILE, _STREAM = b"ARROW1", b"\xff\xff\xff\xff"


class ArrowFiles(TableFiles):
    """``train.arrow`` and so on in a folder, or one Arrow file, in the format of files or of streams."""

    layout = "an Arrow file, or a folder with train.arrow, validation.arrow and test.arrow"
    suffixes = (".arrow", ".feather")

    @classmethod
    def recognises(cls, candidate: Candidate) -> bool:
        """Whether it is an Arrow file, or a folder with some and no saved data set."""
        if candidate.file is not None and candidate.start.startswith(_STREAM):
            return candidate.path.suffix.lower() in cls.suffixes
        return candidate.start.startswith(_FILE) or cls.in_folder(candidate)

    def _table(self, path: Path) -> Table:
        file = self._open(path)
        try:
            file.seek(0)
            is_file = file.read(len(_FILE)) == _FILE
            source = pa.memory_map(
                f"/dev/fd/{file.fileno()}"
            )  # the file that was opened, whatever its path leads to now
            with pa.ipc.open_file(source) if is_file else pa.ipc.open_stream(source) as reader:
                table = reader.read_all()
            table.validate(full=True)  # a damaged offset would make pyarrow read other memory
        except DAMAGES as error:
            raise DataError(f"{path}: must be an Arrow file, but {first_line(error)}. Write it again.") from None
        if table.nbytes > max(1 << 24, 100 * path.stat().st_size):  # compressed buffers are unpacked at once
            raise DataError(
                f"{path}: must hold at most 100 bytes per byte, but holds {table.nbytes:,}. Check the file."
            )

        def read(columns: Sequence[str], rows: int) -> Iterator[pa.Table]:
            chosen = table.select(list(columns))
            return (chosen.slice(start, rows) for start in range(0, len(chosen), rows))

        return Table(str(path), len(table), table.schema, read)
