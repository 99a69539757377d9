"""Arrow files (``.arrow``, ``.feather``): one file, or a folder with one or more files per split."""

from __future__ import annotations

import struct
from pathlib import Path

import pyarrow as pa

from lmf_multitask.data.sources import Candidate
from lmf_multitask.data.sources.table_files import TableFiles
from lmf_multitask.data.sources.tables import DAMAGES, Table
from lmf_multitask.errors import DataError, first_line

_FILE, _STREAM = b"ARROW1", b"\xff\xff\xff\xff"
_MOST_PER_BYTE = 100


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
            start = 8 if file.read(len(_FILE)) == _FILE else 0  # behind its magic bytes, a file is a stream
            source = pa.memory_map(
                f"/dev/fd/{file.fileno()}"
            )  # the file that was opened, whatever its path leads to now
            source.seek(start)
            check_announced(source, path)
            source.seek(start)
            with pa.ipc.open_stream(source) as reader:
                table = reader.read_all()
            table.validate(full=True)  # a damaged offset would make pyarrow read other memory
        except (*DAMAGES, struct.error) as error:
            if isinstance(error, DataError):
                raise
            raise DataError(f"{path}: must be an Arrow file, but {first_line(error)}. Write it again.") from None

        return Table.of(str(path), table)


def check_announced(source: pa.MemoryMappedFile, path: Path) -> None:
    """Checks what an Arrow stream announces: the size of compressed buffers, before any is unpacked, and rows without buffers.

    Raises:
        DataError: it is out of proportion to the file.
    """
    total = rows = 0
    while True:
        try:
            message = pa.ipc.read_message(source)
        except EOFError:
            break
        size, count = _unpacked(message)
        total, rows = total + size, rows + count
    if max(total, rows) > max(1 << 24, _MOST_PER_BYTE * path.stat().st_size):
        raise DataError(
            f"{path}: must hold at most {_MOST_PER_BYTE} bytes or rows per byte, but announces {total:,} bytes and {rows:,} rows. "
            "Check the file."
        )


def _unpacked(message: pa.ipc.Message) -> tuple[int, int]:
    """Size of the buffers of a record batch, and its rows; each compressed one begins with it (Arrow's Message.fbs, a flatbuffer)."""
    if message.type not in ("record batch", "dictionary"):
        return 0, 0
    head, body = memoryview(message.metadata), memoryview(message.body)

    def number(form: str, place: int, content: memoryview = head) -> int:
        return int(struct.unpack_from(f"<{form}", content, place)[0])

    def field(table: int, index: int) -> int | None:
        """Place of a field of a table; None where it is left out."""
        names = table - number("i", table)
        offset = number("H", names + 4 + 2 * index) if 4 + 2 * index < number("H", names) else 0
        return table + offset if offset else None

    def follow(place: int | None) -> int:
        if place is None:
            raise ValueError("a part of a record batch is missing")
        return place + number("I", place)

    batch = follow(field(follow(0), 2))
    if message.type == "dictionary":
        batch = follow(field(batch, 1))
    buffers, compressed = follow(field(batch, 2)), field(batch, 3) is not None
    total = 0
    for index in range(number("I", buffers)):
        start, length = number("q", buffers + 4 + 16 * index), number("q", buffers + 12 + 16 * index)
        size = number("q", start, body) if compressed and length >= 8 else -1
        total += length if size < 0 else size
    length_place = field(batch, 0)
    return total, 0 if length_place is None else number("q", length_place)
