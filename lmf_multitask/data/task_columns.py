"""The label columns of a data set as the tasks that the user wants.

Shape letters: N rows (clips), T tasks.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import datasets
import numpy as np
import pyarrow as pa

from lmf_multitask.data.arrow import label_struct
from lmf_multitask.data.cache import Facts
from lmf_multitask.data.columns import column_arrays, emotion_names
from lmf_multitask.data.schema import labels_feature
from lmf_multitask.data.targets import ABOVE, BINARY, REGRESSION, Target
from lmf_multitask.errors import DataError, suggestion


def known_targets(facts: Facts, wanted: Sequence[Target]) -> list[Target]:
    """The tasks that the user wants, with the kinds and ranges that the data give them.

    Raises:
        DataError: there is no such column, or a task is not of the kind that it should be.
    """
    found = []
    for one in wanted:
        if one.column not in facts.emotions:
            hint = suggestion(one.column, facts.emotions) or " Choose among these."
            raise DataError(f"emotions must be among {', '.join(facts.emotions)}, but got {one.column!r}.{hint}")
        kind = facts.kinds[one.column]
        if one.source is None:
            if one.kind == BINARY and kind != BINARY:
                raise DataError(
                    f"{one.name} must be 0 or 1 to be a binary task, but is real-valued. "
                    f"Derive one: --tasks NAME:{ABOVE}:{one.name}:0."
                )
            known = None if one.range_of_train else one.range or facts.ranges.get(one.name)
            found.append(replace(one, kind=one.kind or kind, range=known))
        else:
            found.append(one)
    names = [one.name for one in found]
    if not names or len(set(names)) != len(names):
        raise DataError(f"emotions must be one or more different names, but got {names}.")
    return found


def select_targets(
    dataset: datasets.DatasetDict, targets: Sequence[Target], at_threshold: str
) -> tuple[datasets.DatasetDict, list[str]]:
    """Makes the label columns those of the tasks, in their order, and keeps the rows that at least one of them annotates.

    Returns:
        The data set, and notes on tasks that were derived from others.

    Raises:
        DataError: a split has no clip for them, or a value outside the range of a task.
    """
    known, names = emotion_names(next(iter(dataset.values()))), [one.name for one in targets]
    as_stored = [one.column for one in targets] == known == names
    result, equal = datasets.DatasetDict(), np.zeros(len(targets), int)
    for split, part in dataset.items():
        labels = np.asarray(column_arrays(part)["labels"])[:, [known.index(one.column) for one in targets]]
        for t, one in enumerate(targets):
            if one.source is not None:
                values = labels[:, t]
                equal[t] += (values == np.float32(one.threshold)).sum()
                labels[:, t] = above(values, one.threshold, at_threshold)
            elif one.range is not None:
                _check_range(labels[:, t], one, split)
        if as_stored:
            result[split] = part
            continue
        annotated = ~np.isnan(labels).all(axis=1)
        if not annotated.any():
            raise DataError(f"{split} must have clips annotated for {', '.join(names)}, but has none.")
        types = datasets.Features(labels=labels_feature(names)).arrow_schema
        column = pa.table({"labels": label_struct(labels, names)}).cast(types)
        chosen = datasets.Dataset(datasets.table.InMemoryTable(column))
        joined = datasets.concatenate_datasets([part.remove_columns("labels"), chosen], axis=1)
        result[split] = joined if annotated.all() else joined.select(np.flatnonzero(annotated))
    notes = [
        f"{one.name}: present where {one.source} is above {one.threshold:g}; {equal[t]} clip(s) with exactly that are "
        f"{at_threshold.replace('_', ' ')} (data.at_threshold)"
        for t, one in enumerate(targets)
        if one.source is not None
    ]
    return result, notes


def above(values: np.ndarray, threshold: float, at_threshold: str) -> np.ndarray:
    """Real labels `[N]` -> binary ones float32 `[N]`, NaN where not annotated."""
    found = (values > np.float32(threshold)).astype(np.float32)
    undecided = np.isnan(values)
    if at_threshold == "not_annotated":
        undecided |= values == np.float32(threshold)
    found[undecided] = np.nan
    return found


def _check_range(values: np.ndarray, target: Target, split: str) -> None:
    low, high = target.range or (-np.inf, np.inf)
    odd = values[(values < low) | (values > high)]
    if len(odd):
        raise DataError(
            f"{target.name} must be from {low:g} to {high:g}, but is {odd[0]:g} in a clip of {split}. "
            f"Correct the labels, or train with another range: --tasks {target.name}:{REGRESSION}:LOW:HIGH."
        )
