"""Sequences that are padded on the other side than those a model was trained on.

Shape letters: n, N rows (clips), L steps, D features.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

import numpy as np

from lmf_multitask.data.cleaning import Cleaning, padding_side
from lmf_multitask.data.columns import ChunkedColumn, Column
from lmf_multitask.data.modality import Input, present_steps
from lmf_multitask.data.sources import Source

_PROBED_ROWS = 512
_PLACES = {"end": "at the end", "front": "in front", "both": "on both sides"}


def repad(values: np.ndarray, side: str) -> np.ndarray:
    """Moves the padding of sequences `[n, L, D]` to one side, ``end`` or ``front``; steps in between stay."""
    present = present_steps(values)
    shift = present.argmax(axis=1) if side == "end" else -present[:, ::-1].argmax(axis=1)
    if not shift.any():
        return values
    steps = (np.arange(values.shape[1]) + shift[:, None]) % values.shape[1]
    return values[np.arange(len(values))[:, None], steps]


class RepaddedColumn(ChunkedColumn):
    """A column of sequences `[N, L, D]` with the padding on one side; rows are moved when they are read."""

    def __init__(self, column: Column, side: str) -> None:
        """Takes the column and the side, ``end`` or ``front``."""
        self._column, self._side = column, side
        self.shape, self.dtype = column.shape, column.dtype

    def __getitem__(self, rows: slice | Sequence[int] | np.ndarray) -> np.ndarray:
        """Some rows, see `ChunkedColumn`."""
        return repad(self._column[rows], self._side)


def sides_to_move(
    model: Mapping[str, Input], data: Mapping[str, str | None], modalities: Sequence[str]
) -> dict[str, str]:
    """Modality -> the side to which its padding must be moved: that of the training data, where the data have it elsewhere.

    Args:
        model: the model's inputs.
        data: modality -> where the data are padded: ``end``, ``front``, ``both``, ``none`` or None.
        modalities: those that the model uses.
    """
    return {
        name: side
        for name in modalities
        if (side := model[name].padding) in ("end", "front") and data.get(name) in {*_PLACES} - {side}
    }


def moved_note(modality: str, data: str | None, side: str) -> str:
    """What was done, as a sentence."""
    return f"{modality} is padded {_PLACES[data or side]}, in the model's training data {_PLACES[side]}: the padding was moved there"


def moved_blocks(
    source: Source, model: Mapping[str, Input], modalities: Sequence[str], rows: int
) -> tuple[Iterator[tuple[list[str], dict[str, np.ndarray]]], list[str]]:
    """The clips of a source, padded as the model's training data; its first clips show where it is padded.

    Returns:
        Blocks as of `Source.all_blocks`, and a note for each modality that is moved.
    """
    sequences = [
        name for name in modalities if model[name].padding in ("end", "front") and len(source.shapes.get(name, ())) == 2
    ]
    paddings: dict[str, str | None] = {}
    if sequences:
        _, head = next(iter(source.all_blocks(_PROBED_ROWS)))
        for name in sequences:
            cleaning = Cleaning(name)
            cleaning.take(head[name])
            paddings[name] = padding_side([cleaning.facts()])
    sides = sides_to_move(model, paddings, sequences)

    def blocks() -> Iterator[tuple[list[str], dict[str, np.ndarray]]]:
        for ids, features in source.all_blocks(rows):
            yield ids, {name: repad(one, sides[name]) if name in sides else one for name, one in features.items()}

    return blocks(), [moved_note(name, paddings[name], side) for name, side in sides.items()]
