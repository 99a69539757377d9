"""The report on a data set as text: sizes, prevalence, padding, what is not finite, and what was decided about the file.

Shape letters: N rows (clips), T tasks.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from lmf_multitask.data.cleaning import ModalityFacts, padding_side
from lmf_multitask.data.modality import MODALITIES
from lmf_multitask.data.targets import REGRESSION

RELEASED_SIZE = 764_739_145
RELEASED_SHA256 = "7f20c9f5245c3bcb3a4638e8577f0c81ee2dbdede56d44f165ce9ae69a9c5ad9"
RELEASED_ROWS = (2717, 798, 938)

_SIDES = {"end": "at the end", "front": "in front", "both": "on both sides", "none": "nowhere"}


def describe(
    emotions: Sequence[str],
    labels: Mapping[str, np.ndarray],
    facts: Mapping[str, Mapping[str, ModalityFacts]],
    notes: Sequence[str] = (),
    dtypes: Mapping[str, str] | None = None,
    kinds: Mapping[str, str] | None = None,
) -> str:
    """The report as text.

    Args:
        emotions: names of the T label columns.
        labels: split -> `[N, T]`, NaN = not annotated.
        facts: split -> modality -> statistics.
        notes: what was decided, and warnings.
        dtypes: modality -> type in the file; without modalities that the file does not have.
        kinds: label column -> kind of task; binary where it is not named.
    """
    lines = [("note", note) for note in notes]
    real = {name for name, kind in (kinds or {}).items() if kind == REGRESSION}
    if labels and not emotions:
        lines.append(("clips", f"{_counts(labels)}; no labels"))
    elif len(real) < len(emotions):
        chosen = [name not in real for name in emotions]
        names = [name for name in emotions if name not in real]
        lines += _label_lines(names, {split: rows[:, chosen] for split, rows in labels.items()})
    if real:
        lines += _target_lines([(t, name) for t, name in enumerate(emotions) if name in real], labels)
    for modality in MODALITIES:
        per_split = [facts[split][modality] for split in facts]
        lines += _modality_lines(modality, per_split, (dtypes or {}).get(modality))
    return "\n".join(f"{head:<10} {text}" for head, text in lines)


def with_notes(report: str, notes: Sequence[str]) -> str:
    """A report with more notes at its beginning."""
    return "\n".join([*(f"{'note':<10} {line}" for line in notes), report])


def file_note(size: int, sha256: str, rows: Sequence[int]) -> list[str]:
    """Which file it is.

    Args:
        size: in bytes.
        sha256: of its content.
        rows: of train, validation and test.
    """
    known = "this is the released IEMOCAP file" if sha256 == RELEASED_SHA256 else "not the released IEMOCAP file"
    found = [f"{size:,} bytes, sha256 {sha256} ({known})"]
    if size == RELEASED_SIZE and tuple(rows) != RELEASED_ROWS:
        found.append(f"the file is as long as the released one, but its splits are not {RELEASED_ROWS}")
    return found


def _label_lines(emotions: Sequence[str], labels: Mapping[str, np.ndarray]) -> list[tuple[str, str]]:
    every = np.concatenate(list(labels.values()))
    present = np.nansum(every[~np.isnan(every).any(axis=1)], axis=1)
    if len(emotions) == 1:
        relation = "one emotion"
    elif len(present) and (present == 1).all():
        relation = "exclusive: exactly one is present in every clip"
    elif len(present) and (present <= 1).all():
        relation = "at most one is present in a clip"
    else:
        relation = "several can be present in one clip"
    lines = [("emotions", f"{', '.join(emotions)} ({relation})")]
    width = max(14, *(len(name) + 2 for name in emotions))
    lines.append(("clips", " " * width + "".join(f"{split:>16}" for split in labels)))
    lines.append(("", f"{'all':<{width}}" + "".join(f"{len(rows):>16}" for rows in labels.values())))
    for index, emotion in enumerate(emotions):
        cells = "".join(f"{_share(rows[:, index]):>16}" for rows in labels.values())
        lines.append(("", f"{emotion:<{width}}{cells}"))
    return lines


def _counts(labels: Mapping[str, np.ndarray]) -> str:
    return ", ".join(f"{split} {len(rows)}" for split, rows in labels.items())


def _target_lines(targets: Sequence[tuple[int, str]], labels: Mapping[str, np.ndarray]) -> list[tuple[str, str]]:
    lines = [("targets", f"{', '.join(name for _, name in targets)} (real numbers; mean ± std, lowest to highest)")]
    lines.append(("clips", _counts(labels)))
    width = max(14, *(len(name) + 2 for _, name in targets))
    for t, name in targets:
        for split, rows in labels.items():
            values = rows[~np.isnan(rows[:, t]), t]
            found = "none annotated"
            if len(values):
                found = f"{values.mean():.3f} ± {values.std():.3f}, {values.min():g} to {values.max():g}"
                found += "" if len(values) == len(rows) else f" ({len(values)} annotated)"
            lines.append(("", f"{name:<{width}}{split:<12}{found}"))
    return lines


def _share(labels: np.ndarray) -> str:
    annotated, count = int((~np.isnan(labels)).sum()), int((labels == 1).sum())
    if not annotated:
        return f"{count} (none annotated)"
    total = "" if annotated == len(labels) else f"/{annotated}"
    return f"{count}{total} ({count / annotated:.1%})"


def _modality_lines(modality: str, facts: Sequence[ModalityFacts], dtype: str | None) -> list[tuple[str, str]]:
    rows = sum(one.shape[0] for one in facts)
    missing = sum(one.missing for one in facts)
    if missing == rows:
        return [(modality, "missing in every clip" + (": the file has none" if dtype is None else " (all zero)"))]
    size = " x ".join(map(str, facts[0].shape[1:]))
    low, high = min(one.smallest for one in facts), max(one.largest for one in facts)
    parts = [f"{size} numbers per clip, stored as {dtype}, from {low:.4g} to {high:.4g}"]
    nan, infinite = sum(one.nan for one in facts), sum(one.infinite for one in facts)
    parts.append(f"{nan} NaN and {infinite} infinite set to 0" if nan or infinite else "all finite")
    if missing:
        parts.append(f"all zero in {missing} of {rows} clips")
    if facts[0].constant_columns:
        parts.append(f"constant in train: columns {_ranges(facts[0].constant_columns)}")
    lines = [(modality, "; ".join(parts))]
    lengths = [one.lengths for one in facts if one.lengths]
    if lengths:
        counts = np.sum([one.padded_clips for one in facts if one.padded_clips], axis=0)
        shortest, longest = min(length[0] for length in lengths), max(length[2] for length in lengths)
        lines.append(
            (
                "",
                f"{shortest} to {longest} steps, median {lengths[0][1]} in train; padded {_SIDES[padding_side(facts)]} "
                f"(clips padded in front {counts[0]}, at the end {counts[1]}, with gaps {counts[2]})",
            )
        )
    return lines


def _ranges(columns: Sequence[int]) -> str:
    """[1, 2, 3, 7] -> "1-3, 7", at most eight pieces."""
    pieces: list[list[int]] = []
    for column in columns:
        if pieces and column == pieces[-1][1] + 1:
            pieces[-1][1] = column
        else:
            pieces.append([column, column])
    shown = ", ".join(f"{a}-{b}" if b > a else str(a) for a, b in pieces[:8])
    return shown + (" and more" if len(pieces) > 8 else "")
