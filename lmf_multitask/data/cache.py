"""The Arrow cache of `datasets`: what is written to it, under which key, and what comes back.

Shape letters: N rows (clips), T emotions.
"""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import BinaryIO

import datasets
import numpy as np
import pyarrow as pa
from datasets.exceptions import DatasetGenerationError

from lmf_multitask.errors import DataError


def built(builder: datasets.DatasetBuilder, path: Path) -> datasets.DatasetDict:
    """What a builder gives, from the cache if it is there.

    Raises:
        DataError: the data in `path` are at fault.
        OSError: the cache cannot be written.
    """
    try:
        builder.download_and_prepare()
    except DatasetGenerationError as error:
        cause = error.__cause__
        if isinstance(cause, DataError):
            raise DataError(str(cause) if str(path) in str(cause) else f"{path}: {cause}") from None
        if isinstance(cause, OSError):
            raise cause from None
        raise
    return builder.as_dataset()


def file_sha256(path: Path) -> str:
    """SHA-256 of a file's content, in hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest() if hasattr(hashlib, "file_digest") else _sha256(file)


def _sha256(file: BinaryIO) -> str:
    digest = hashlib.sha256()  # Python 3.10 has no hashlib.file_digest
    while block := file.read(1 << 20):
        digest.update(block)
    return digest.hexdigest()


def feature_table(
    ids: list[str], features: dict[str, np.ndarray], labels: np.ndarray, types: datasets.Features
) -> pa.Table:
    """N rows as an Arrow table of these types, over the same memory.

    Args:
        ids: their names.
        features: columns `[N, ...]`.
        labels: int64 `[N, T]`.
        types: the columns, in order.
    """
    arrays = {**features, "labels": labels}
    columns = [pa.array(ids) if name == "id" else fixed_lists(arrays[name]) for name in types]
    return pa.table(columns, names=list(types)).cast(types.arrow_schema)


def fixed_lists(values: np.ndarray) -> pa.Array:
    """`[N, ...]` as nested fixed-size lists over the same memory."""
    array = pa.array(np.ascontiguousarray(values).reshape(-1))
    for size in values.shape[:0:-1]:
        array = pa.FixedSizeListArray.from_arrays(array, size)
    return array
