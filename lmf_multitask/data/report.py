"""What is in a data set, in one screen of text: sizes, prevalence, dirt, padding, and what was decided about the file.

Shape letters: N rows (clips), T emotions, L words, D feature dimensions.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Literal

import numpy as np

from lmf_multitask.data.columns import row_blocks
from lmf_multitask.data.corpus import PickledCorpus
from lmf_multitask.data.schema import MODALITIES, NOT_ANNOTATED
from lmf_multitask.errors import DataError

RELEASED_SIZE = 764_739_145
RELEASED_SHA256 = "7f20c9f5245c3bcb3a4638e8577f0c81ee2dbdede56d44f165ce9ae69a9c5ad9"
RELEASED_ROWS = (2717, 798, 938)

NonFinitePolicy = Literal["zero", "error"]


@dataclass
class ModalityFacts:
    """What was seen in one modality of one split; counts are of numbers, or of clips where it says so."""

    shape: tuple[int, ...]
    nan: int
    infinite: int
    empty_clips: int
    smallest: float
    largest: float
    constant_columns: list[int] = field(default_factory=list)
    lengths: tuple[int, int, int] | None = None
    padded_clips: tuple[int, int, int] | None = None


def clean(features: np.ndarray, modality: str, policy: NonFinitePolicy = "zero") -> ModalityFacts:
    """Replaces NaN and infinities by 0 in place, and says what was found.

    Args:
        features: float32 `[N, D]` or, for text, `[N, L, D]`; changed in place.
        modality: ``audio``, ``video`` or ``text``.
        policy: ``zero`` replaces what is not finite; ``error`` refuses it.

    Raises:
        DataError: the policy is ``error`` and something is not finite.
    """
    found = Cleaning(modality)
    for block in row_blocks(features):
        cleaned = found.take(block)
        if cleaned is not block:
            block[...] = cleaned
    return found.facts(policy)


class Cleaning:
    """One modality of one split, cleaned block by block, and what was found in it."""

    def __init__(self, modality: str) -> None:
        """Nothing has been seen yet."""
        self._modality = modality
        self._rows = self._nan = self._infinite = self._empty = 0
        self._smallest, self._largest = np.inf, -np.inf
        self._first: np.ndarray | None = None
        self._constant: np.ndarray | None = None
        self._lengths: list[np.ndarray] = []  # two bytes per clip: the median needs them all
        self._padded = np.zeros(3, np.int64)
        self._shape: tuple[int, ...] = ()

    @property
    def dirty(self) -> bool:
        """Whether anything was not finite so far."""
        return bool(self._nan or self._infinite)

    def take(self, features: np.ndarray) -> np.ndarray:
        """The next rows, float32 `[n, D]` or `[n, L, D]`: given back as they are, or as a copy with 0 for what is not finite."""
        odd = ~np.isfinite(features)
        if odd.any():
            nan = int(np.isnan(features).sum())
            self._nan, self._infinite = self._nan + nan, self._infinite + int(odd.sum()) - nan
            features = np.where(odd, np.float32(0), features)
        self._smallest = min(self._smallest, float(features.min()))
        self._largest = max(self._largest, float(features.max()))
        if features.ndim == 2:
            self._first = features[0].copy() if self._first is None else self._first
            same = (features == self._first).all(axis=0)
            self._constant = same if self._constant is None else self._constant & same
            there = (features != 0).any(axis=1)
        else:
            words = (features != 0).any(axis=2)
            there = words.any(axis=1)
            self._measure_padding(words[there])
        self._empty += int((~there).sum())
        self._rows, self._shape = self._rows + len(features), features.shape[1:]
        return features

    def _measure_padding(self, words: np.ndarray) -> None:
        """Words are non-zero steps; a clip is padded in front, at the end, or has zero steps between its words: bool `[n, L]`."""
        if not len(words):
            return
        first = words.argmax(axis=1)
        last = words.shape[1] - 1 - words[:, ::-1].argmax(axis=1)
        lengths = last - first + 1
        inside = lengths != words.sum(axis=1)
        self._lengths.append(lengths.astype(np.min_scalar_type(words.shape[1])))
        self._padded += [(first > 0).sum(), (last < words.shape[1] - 1).sum(), inside.sum()]

    def facts(self, policy: NonFinitePolicy = "zero") -> ModalityFacts:
        """What was found in all rows so far, one at least.

        Raises:
            DataError: the policy is ``error`` and something was not finite.
        """
        if policy == "error" and self.dirty:
            raise DataError(
                f"{self._modality} must be finite, but has {self._nan} NaN and {self._infinite} infinite values. "
                "Use --data.non_finite zero."
            )
        facts = ModalityFacts(
            (self._rows, *self._shape), self._nan, self._infinite, self._empty, self._smallest, self._largest
        )
        if self._constant is not None:
            facts.constant_columns = np.flatnonzero(self._constant).tolist()
        if self._lengths:
            lengths = np.concatenate(self._lengths)
            facts.lengths = (int(lengths.min()), int(np.median(lengths)), int(lengths.max()))
            facts.padded_clips = tuple(self._padded.tolist())
        return facts


def padding_side(facts: Sequence[ModalityFacts]) -> str:
    """Where the text is padded: ``end``, ``front``, ``both`` or ``none``; small exceptions are left to the report."""
    front, end, _ = np.sum([f.padded_clips for f in facts if f.padded_clips] or [(0, 0, 0)], axis=0)
    if front == end == 0:
        return "none"
    if min(front, end) > 0.05 * max(front, end):
        return "both"
    return "end" if end > front else "front"


def describe(
    emotions: Sequence[str],
    labels: dict[str, np.ndarray],
    facts: dict[str, dict[str, ModalityFacts]],
    corpus: PickledCorpus | None = None,
    sha256: str | None = None,
) -> str:
    """The report as text.

    Args:
        emotions: names of the T label columns.
        labels: int64 `[N, T]` per split.
        facts: what `clean` found, per split and modality.
        corpus: the pickle, if the data come from one.
        sha256: the file's hash, if the data come from a file.
    """
    lines = [] if corpus is None else _file_lines(corpus, sha256)
    lines += _label_lines(emotions, labels)
    for modality in MODALITIES:
        per_split = [facts[split][modality] for split in facts]
        lines += _modality_lines(modality, per_split, corpus.stored_dtypes.get(modality) if corpus else "float32")
    if corpus is not None:
        lines += [("attention", warning) for warning in warnings_about(corpus)]
    return "\n".join(f"{head:<10} {text}" for head, text in lines)


def warnings_about(corpus: PickledCorpus) -> list[str]:
    """What a user should know before believing a result on this file."""
    found = []
    rows = corpus.rows
    for split, joined in rows.items():
        if len(corpus.emotions) > 1 and joined.shared == 0:
            found.append(
                f"no clip of {split} is shared by all emotions: their features differ, or they annotate different clips"
            )
        for other in list(rows)[list(rows).index(split) + 1 :]:
            both = len(set(joined.digests) & set(rows[other].digests))
            if both:
                found.append(f"{both} clip(s) of {split} are also in {other}: results on {other} flatter the model")
    if corpus.label_reason.startswith("column 1 = present, by the convention"):
        found.append("the meaning of the label columns is assumed, not proven: see labels")
    if corpus.path.stat().st_size == RELEASED_SIZE and tuple(map(len, rows.values())) != RELEASED_ROWS:
        found.append(f"the file is as long as the released one, but its splits are not {RELEASED_ROWS}")
    return found


def _file_lines(corpus: PickledCorpus, sha256: str | None) -> list[tuple[str, str]]:
    size = corpus.path.stat().st_size
    known = "this is the released IEMOCAP file" if sha256 == RELEASED_SHA256 else "not the released IEMOCAP file"
    lines = [("file", f"{size:,} bytes, sha256 {sha256} ({known})")]
    rows = corpus.rows.values()
    total, shared = sum(map(len, rows)), sum(joined.shared for joined in rows)
    if len(corpus.emotions) == 1:
        text = f"{total} clips"
    elif all(joined.same_order for joined in rows):
        text = f"{total} clips, the same ones in the same order under every emotion (matched by content)"
    elif shared == total:
        text = f"{total} clips, the same ones under every emotion but in another order (matched by content)"
    else:
        text = f"{total} different clips, {shared} of them under every emotion (matched by content)"
    return [*lines, ("rows", text), ("labels", corpus.label_reason)]


def _label_lines(emotions: Sequence[str], labels: dict[str, np.ndarray]) -> list[tuple[str, str]]:
    every = np.concatenate(list(labels.values()))
    full = every[(every != NOT_ANNOTATED).all(axis=1)]
    present = (full == 1).sum(axis=1)
    if len(emotions) == 1:
        relation = "one emotion"
    elif len(full) and (present == 1).all():
        relation = "exclusive: exactly one is present in every clip"
    elif len(full) and (present <= 1).all():
        relation = "at most one is present in a clip"
    else:
        relation = "several can be present in one clip"
    lines = [("emotions", f"{', '.join(emotions)} ({relation})")]
    lines.append(("clips", " " * 14 + "".join(f"{split:>16}" for split in labels)))
    lines.append(("", f"{'all':<14}" + "".join(f"{len(rows):>16}" for rows in labels.values())))
    for index, emotion in enumerate(emotions):
        cells = []
        for rows in labels.values():
            column = rows[:, index]
            annotated = int((column != NOT_ANNOTATED).sum())
            count = int((column == 1).sum())
            share = f"{count / annotated:.1%}" if annotated else "none annotated"
            cells.append(f"{count} ({share})" if annotated in (0, len(rows)) else f"{count}/{annotated} ({share})")
        lines.append(("", f"{emotion:<14}" + "".join(f"{cell:>16}" for cell in cells)))
    return lines


def _modality_lines(modality: str, facts: list[ModalityFacts], dtype: str | None) -> list[tuple[str, str]]:
    rows = sum(f.shape[0] for f in facts)
    if all(f.empty_clips == f.shape[0] for f in facts):
        return [(modality, "missing in every clip" + (": the file has none" if dtype is None else " (all zero)"))]
    size = " x ".join(map(str, facts[0].shape[1:]))
    low, high = min(f.smallest for f in facts), max(f.largest for f in facts)
    parts = [f"{size} numbers per clip, stored as {dtype}, from {low:.4g} to {high:.4g}"]
    nan, infinite = sum(f.nan for f in facts), sum(f.infinite for f in facts)
    parts.append(f"{nan} NaN and {infinite} infinite set to 0" if nan or infinite else "all finite")
    empty = sum(f.empty_clips for f in facts)
    if empty:
        parts.append(f"all zero in {empty} of {rows} clips")
    if facts[0].constant_columns:
        parts.append(f"constant in train: columns {_ranges(facts[0].constant_columns)}")
    lines = [(modality, "; ".join(parts))]
    measured = [f for f in facts if f.lengths]
    if measured:
        side = {"end": "at the end", "front": "in front", "both": "on both sides", "none": "nowhere"}[
            padding_side(facts)
        ]
        shortest, longest = min(f.lengths[0] for f in measured), max(f.lengths[2] for f in measured)
        front, end, inside = np.sum([f.padded_clips for f in measured], axis=0)
        lines.append(
            (
                "",
                f"{shortest} to {longest} words, median {measured[0].lengths[1]} in train; padded {side} "
                f"(clips padded in front {front}, at the end {end}, with gaps {inside})",
            )
        )
    return lines


def _ranges(columns: list[int]) -> str:
    """[1, 2, 3, 7] -> "1-3, 7", at most eight pieces."""
    pieces: list[list[int]] = []
    for column in columns:
        if pieces and column == pieces[-1][1] + 1:
            pieces[-1][1] = column
        else:
            pieces.append([column, column])
    shown = ", ".join(f"{a}-{b}" if b > a else str(a) for a, b in pieces[:8])
    return shown + (" and more" if len(pieces) > 8 else "")
