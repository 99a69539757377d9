"""What may spoil results without an error: clips that occur twice, ids that are not unique, absurd numbers.

Shape letters: N rows (clips), T tasks, L steps, D features.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from lmf_multitask.data.modality import missing_clips

BEYOND = 1000.0
"""A number is an outlier where it is this many times further from the median than 95 of 100 numbers of its feature are."""

_FEWEST = 8  # fewer numbers say nothing about what is ordinary
_SAMPLE = 2048


def ordinary_range(sample: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Lowest and highest number of each feature that is no outlier, float64 `[D]` each; infinite where nothing can be said.

    Args:
        sample: clips that have the features, `[N, D]`. One in twenty may hold anything.
    """
    if len(sample) < _FEWEST:
        return np.full(sample.shape[1], -np.inf), np.full(sample.shape[1], np.inf)
    values = sample.astype(np.float64)
    centre = np.median(values, axis=0)
    distance = np.sort(np.abs(values - centre), axis=0)
    scale = distance[int(0.95 * (len(values) - 1))]
    for feature in np.flatnonzero(scale == 0):  # mostly one value: what is ordinary among the others
        others = distance[distance[:, feature] > 0, feature]
        scale[feature] = np.median(others) if len(others) >= _FEWEST else np.inf
    return centre - BEYOND * scale, centre + BEYOND * scale


def usable_std(mean: np.ndarray, std: np.ndarray) -> np.ndarray:
    """The standard deviations `[D]`, with 1 for that of a constant, which is the rounding error of its mean."""
    return np.where(std <= 1e-6 * np.maximum(np.abs(mean), 1e-30), 1.0, std)


@dataclass(frozen=True)
class Outlier:
    """The most absurd number of one feature.

    Attributes:
        feature: number of the feature, from 0.
        value: the number.
        clip: id of the clip.
    """

    feature: int
    value: float
    clip: str


class Extremes:
    """Finds outliers block by block: keeps the extremes of each feature, and a sample of clips."""

    def __init__(self) -> None:
        """Starts without rows."""
        self._sample: list[np.ndarray] = []
        self._seen, self._stride = 0, 1
        self._values: np.ndarray | None = None  # [2, D]: lowest and highest
        self._clips: np.ndarray | None = None  # [2, D]: ids

    def take(self, features: np.ndarray, ids: Sequence[str]) -> None:
        """The next clips, float `[n, D]` or `[n, L, D]`, and their ids. Of a sequence, the number furthest from 0 counts."""
        present = np.flatnonzero(~missing_clips(features))
        if not len(present):
            return
        if features.ndim == 3:
            low, high = features.min(axis=1), features.max(axis=1)
            features = np.where(high > -low, high, low)
        features = features[present]
        if self._values is None or self._clips is None:
            self._values = np.stack([features[0], features[0]])
            self._clips = np.full(self._values.shape, ids[present[0]], object)
        for side, rows in enumerate((features.argmin(axis=0), features.argmax(axis=0))):
            found = features[rows, np.arange(features.shape[1])]
            further = found < self._values[0] if side == 0 else found > self._values[1]
            for feature in np.flatnonzero(further):
                self._clips[side, feature] = ids[present[rows[feature]]]
            self._values[side, further] = found[further]
        chosen = features[(-self._seen) % self._stride :: self._stride]
        self._sample += list(chosen.copy())
        self._seen += len(features)
        while len(self._sample) > _SAMPLE:
            self._sample, self._stride = self._sample[::2], 2 * self._stride

    def outliers(self) -> list[Outlier]:
        """The outliers of all clips so far, one at most for each feature and side."""
        if self._values is None or self._clips is None:
            return []
        low, high = ordinary_range(np.stack(self._sample))
        beyond = np.stack([self._values[0] < low, self._values[1] > high])
        return [
            Outlier(int(feature), float(self._values[side, feature]), str(self._clips[side, feature]))
            for side, feature in zip(*np.nonzero(beyond))
        ]


def outlier_note(modality: str, split: str, found: Sequence[Outlier]) -> str:
    """The outliers of one modality as a sentence."""
    shown = ", ".join(f"feature {one.feature} is {one.value:.3g} in {one.clip}" for one in found[:5])
    more = f" and {len(found) - 5} more" if len(found) > 5 else ""
    return (
        f"{modality} of {split}: {shown}{more}: more than {BEYOND:,.0f} times beyond the other clips. Left out of the "
        "statistics of standardisation"
    )


class Repetitions:
    """Finds clips and ids that occur more than once."""

    def __init__(self) -> None:
        """Starts without splits."""
        self._clips: dict[str, list[np.ndarray]] = {}
        self._ids: dict[str, list[np.ndarray]] = {}

    def take(self, split: str, ids: Sequence[str], features: Mapping[str, np.ndarray]) -> None:
        """The next clips of a split."""
        self._clips.setdefault(split, []).append(_clip_digests(features))
        digests = [int.from_bytes(hashlib.sha256(one.encode("utf-8", "replace")).digest()[:8], "little") for one in ids]
        self._ids.setdefault(split, []).append(np.array(digests, np.uint64))

    def facts(self, labels: Mapping[str, np.ndarray]) -> dict[str, dict[str, int]]:
        """What was found; empty if everything is unique.

        Args:
            labels: split -> `[N, T]`, NaN = not annotated.

        Returns:
            ``repeated``, ``contradictory`` (repeated with other labels) and ``repeated_ids`` by split, ``shared`` and
            ``shared_ids`` by ``SPLIT+SPLIT`` -> number of clips.
        """
        clips = {split: np.concatenate(parts) for split, parts in self._clips.items()}
        ids = {split: np.concatenate(parts) for split, parts in self._ids.items()}
        found: dict[str, dict[str, int]] = {}
        for split, own in clips.items():
            known = own[own != 0]
            _count(found, "repeated", split, len(known) - len(np.unique(known)))
            _count(found, "contradictory", split, _contradictory(own, labels[split]))
            _count(found, "repeated_ids", split, len(ids[split]) - len(np.unique(ids[split])))
            for other in list(clips)[list(clips).index(split) + 1 :]:
                pair = f"{split}+{other}"
                _count(found, "shared", pair, len(np.setdiff1d(np.intersect1d(own, clips[other]), [np.uint64(0)])))
                _count(found, "shared_ids", pair, len(np.intersect1d(ids[split], ids[other])))
        return found


def repetition_notes(facts: Mapping[str, Mapping[str, int]]) -> list[str]:
    """What `Repetitions.facts` found, as sentences."""
    notes = []
    for split, count in facts.get("repeated", {}).items():
        wrong = facts.get("contradictory", {}).get(split)
        more = f", and {wrong} clip(s) have other labels than their copies" if wrong else ""
        notes.append(f"{count} clip(s) of {split} repeat another clip of {split}{more}")
    for pair, count in facts.get("shared", {}).items():
        split, other = pair.split("+")
        notes.append(f"{count} clip(s) of {split} are also in {other}: results on {other} are too optimistic")
    for split, count in facts.get("repeated_ids", {}).items():
        notes.append(f"{count} id(s) of {split} repeat another id of {split}")
    for pair, count in facts.get("shared_ids", {}).items():
        split, other = pair.split("+")
        notes.append(f"{count} id(s) of {split} are also in {other}")
    return notes


def _count(found: dict[str, dict[str, int]], what: str, where: str, number: int) -> None:
    if number:
        found.setdefault(what, {})[where] = int(number)


def _contradictory(digests: np.ndarray, labels: np.ndarray) -> int:
    """Number of clips that have another label than an equal clip."""
    order = np.argsort(digests, kind="stable")
    values, starts, counts = np.unique(digests[order], return_index=True, return_counts=True)
    total = 0
    for start, count in zip(starts[(counts > 1) & (values != 0)], counts[(counts > 1) & (values != 0)]):
        own = labels[order[start : start + count]]
        known = own[:, ~np.isnan(own).all(axis=0)]
        if known.size and (np.nanmin(known, axis=0) != np.nanmax(known, axis=0)).any():
            total += int(count)
    return total


def _clip_digests(features: Mapping[str, np.ndarray]) -> np.ndarray:
    """A hash of each clip, uint64; 0 for a clip without any features."""
    missing: Any = np.logical_and.reduce([missing_clips(values) for values in features.values()])
    rows = [np.ascontiguousarray(values).reshape(len(values), -1).view(np.uint8) for values in features.values()]
    found = np.zeros(len(missing), np.uint64)
    for row in np.flatnonzero(~missing):
        digest = hashlib.sha256()
        for values in rows:
            digest.update(values[row].data)
        found[row] = int.from_bytes(digest.digest()[:8], "little")
    return found
