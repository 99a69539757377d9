"""Row numbers -> one batch: a single gather per column, no Python per row."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from lmf_multitask.data.columns import Columns


class RowNumbers:
    """A map-style dataset whose rows are just their numbers; `BatchCollator` fetches a whole batch at once."""

    def __init__(self, rows: int) -> None:
        """Takes the number of rows."""
        self._rows = rows

    def __len__(self) -> int:
        return self._rows

    def __getitem__(self, number: int) -> int:
        return number


class BatchCollator:
    """Gathers the rows of a batch from whole columns.

    The columns may be views into memory-mapped Arrow files (`data.schema.column_arrays`): only the rows of the batch
    are read.
    """

    def __init__(self, columns: Columns) -> None:
        """Takes the columns, `[N, ...]` each, all with the same N."""
        self.columns = dict(columns)

    def __call__(self, rows: Sequence[int]) -> dict[str, np.ndarray]:
        """B row numbers -> one array `[B, ...]` per column."""
        chosen = np.asarray(rows)
        return {name: values[chosen] for name, values in self.columns.items()}
