"""A data file or folder whose layout is not known yet, and what the user says about it."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, BinaryIO

from lmf_multitask.data.compressed import is_compressed, unpacked
from lmf_multitask.data.config import DataConfig
from lmf_multitask.data.safe_pickle import read_pickle
from lmf_multitask.errors import DataError
from lmf_multitask.files import open_regular


@dataclass(frozen=True)
class Reading:
    """What the user says about a file.

    Attributes:
        split: the only split to open; None opens all. A file without splits is opened as a whole in any case.
        emotions: names of the emotions, for files that do not name them, and for label columns that no known emotion names.
        kinds: label column -> kind of task, where the user states it.
        config: how to read the file.
    """

    split: str | None = None
    emotions: tuple[str, ...] | None = None
    kinds: Mapping[str, str] = field(default_factory=dict)
    config: DataConfig = field(default_factory=DataConfig)


class Candidate:
    """A path whose layout is not known yet.

    Attributes:
        path: a file or a folder.
        file: the file, open; None for a folder.
        start: its first bytes; none for a folder.
        on_disk: whether the path leads to it.
        problem: why the file cannot be read as a pickle, once that has been tried.
    """

    problem: DataError | None = None

    def __init__(self, path: str | Path, file: BinaryIO | None = None) -> None:
        """Opens a file.

        Args:
            path: the file or folder.
            file: content that is not on disk; `path` is then only its name in messages.

        Raises:
            DataError: it does not exist, or is a pipe or a device.
        """
        self.path = Path(path).expanduser()
        self.on_disk = file is None
        self.file, self.start = file, b""
        if file is None and not self.path.is_dir():
            self.file = open_regular(self.path)
            self.start = self.file.read(16)
            self.file.seek(0)

    @cached_property
    def tree(self) -> Any:
        """Content of a pickle, compressed or not, see `read_pickle`; None for anything else, with the reason in `problem`."""
        try:
            return None if self._content is None else read_pickle(self.path, self._content)
        except DataError as error:
            self.problem = error
            if self.file is not None:
                self.file.seek(0)
            return None

    @cached_property
    def size(self) -> int:
        """Bytes of the content of a pickle, unpacked; 0 for a folder."""
        return 0 if self._content is None else self._content.seek(0, os.SEEK_END)

    @cached_property
    def _content(self) -> BinaryIO | None:
        if self.file is None or not is_compressed(self.start):
            return self.file
        with naming(self.path):
            return unpacked(self.file)


@contextmanager
def naming(path: Path) -> Iterator[None]:
    """Puts the path before the messages of errors that do not name it."""
    try:
        yield
    except DataError as error:
        raise DataError(str(error) if str(path) in str(error) else f"{path}: {error}") from None
