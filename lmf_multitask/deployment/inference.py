"""A file of clips -> probabilities on disk, in pieces, so that memory stays flat however long the file is.

Shape letters: N rows (clips), T tasks (emotions).
"""

from __future__ import annotations

import csv
import io
import time
from collections import deque
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from lmf_multitask.data.features import Block, FeatureRows
from lmf_multitask.data.schema import IEMOCAP_EMOTIONS, MODALITIES
from lmf_multitask.deployment.predictor import Predictor
from lmf_multitask.errors import DataError
from lmf_multitask.files import atomic_write
from lmf_multitask.runtime import usable_cores

PREDICTIONS_FILE = "predictions.csv"
BATCH_SIZE = 64
"""Clips per forward pass: the fastest of 1 to 1024 on the CPUs that were measured; more only takes more memory."""


@dataclass
class InferenceReport:
    """What was done.

    Attributes:
        rows: clips predicted.
        missing: modality that the model looks at -> clips whose features of it are all zero or not finite, or not there.
        non_finite: modality -> single numbers that were NaN or infinite and became 0.
        seconds: for reading, predicting and writing.
        files: what was written.
        notes: what is to be known of modalities that no clip has.
    """

    rows: int = 0
    missing: dict[str, int] = field(default_factory=lambda: dict.fromkeys(MODALITIES, 0))
    non_finite: dict[str, int] = field(default_factory=lambda: dict.fromkeys(MODALITIES, 0))
    seconds: float = 0.0
    files: list[Path] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    def lines(self) -> list[str]:
        """The report for a terminal."""
        found = [f"{self.rows:,} clips in {self.seconds:.2f} s"]
        for modality in MODALITIES:
            if self.missing[modality]:
                found.append(
                    f"{modality} is missing (not there, all zero or not finite) in {self.missing[modality]:,} clips"
                )
            if self.non_finite[modality]:
                found.append(f"{modality} has {self.non_finite[modality]:,} NaN or infinite numbers, set to 0")
        return [*found, *self.notes, f"written: {', '.join(map(str, self.files))}"]


def infer_file(
    predictor: Predictor,
    rows: FeatureRows,
    output_dir: str | Path,
    batch_size: int = BATCH_SIZE,
    thresholds: Sequence[float] | None = None,
    workers: int | None = None,
) -> InferenceReport:
    """Writes ``EMOTION_prob.npy``, float32 `[N, 2]` (absent, present), per emotion, and ``predictions.csv``.

    Args:
        predictor: the model.
        rows: the clips, see `lmf_multitask.data.features.open_features`.
        output_dir: folder of the results; all files appear at the end, or none.
        batch_size: clips per forward pass.
        thresholds: T probabilities above which an emotion counts as present; None takes one half.
        workers: batches that are predicted side by side, see `predict_blocks`. No effect on the results.

    Raises:
        DataError: the clips do not fit the model.
    """
    emotions = predictor.emotions
    thresholds = [0.5] * len(emotions) if thresholds is None else list(thresholds)
    check_sizes(predictor, rows.shapes)
    output_dir = Path(output_dir).expanduser()
    report, started = InferenceReport(), time.perf_counter()
    paths = [output_dir / f"{emotion}_prob.npy" for emotion in emotions]
    four_way = set(emotions) == set(IEMOCAP_EMOTIONS)
    with ExitStack() as stack:
        table = stack.enter_context(atomic_write(output_dir / PREDICTIONS_FILE))
        arrays = [stack.enter_context(atomic_write(path)) for path in paths]
        for file in arrays:
            header = {"descr": "<f4", "fortran_order": False, "shape": (rows.count, 2)}
            np.lib.format.write_array_header_1_0(file, header)
        columns = [f"{emotion}_{part}" for emotion in emotions for part in ("probability", "prediction")]
        table.write(_csv([["id", "missing", *columns, *(["four_way"] if four_way else [])]]))
        for (ids, block), both in predict_blocks(predictor, rows.blocks(batch_size), workers):
            missing = _note_gaps(block, len(ids), predictor.description.modalities, report)
            for t, file in enumerate(arrays):
                file.write(np.ascontiguousarray(both[:, t], "<f4").tobytes())
            table.write(_csv(_table(ids, missing, both[:, :, 1], emotions, thresholds, four_way)))
            report.rows += len(ids)
        if report.rows != rows.count:
            raise DataError(
                f"the file must have the {rows.count} clips that it announces, but has {report.rows}. Write it again."
            )
    report.notes = [
        _note_on_absent(predictor, modality) for modality, clips in report.missing.items() if clips == report.rows
    ]
    report.files = [*paths, output_dir / PREDICTIONS_FILE]
    report.seconds = time.perf_counter() - started
    return report


def predict_blocks(
    predictor: Predictor, blocks: Iterable[Block], workers: int | None = None
) -> Iterator[tuple[Block, np.ndarray]]:
    """Predicts blocks side by side and gives them in order; only a few are in memory at a time.

    Args:
        predictor: the model.
        blocks: ids and features, see `FeatureRows.blocks`.
        workers: blocks at a time; None takes one per core with ONNX Runtime on a CPU, and one otherwise: two clones of
            a Paddle predictor hinder each other (126 instead of 90 ms of CPU time for the same clips).

    Yields:
        The block, and its probabilities float32 `[n, T, 2]`.
    """
    if workers is None:
        workers = usable_cores() if (predictor.backend, predictor.device) == ("onnx", "cpu") else 1
    if workers == 1:
        for block in blocks:
            yield block, predictor.predict_both(**block[1])
        return
    with ThreadPoolExecutor(workers, thread_name_prefix="predict") as pool:
        waiting: deque[tuple[Block, Future[np.ndarray]]] = deque()
        for block in blocks:
            waiting.append((block, pool.submit(predictor.predict_both, **block[1])))
            if len(waiting) > 2 * workers:
                oldest, answer = waiting.popleft()
                yield oldest, answer.result()
        for block, answer in waiting:
            yield block, answer.result()


def check_sizes(predictor: Predictor, shapes: Mapping[str, tuple[int, ...]]) -> None:
    """Makes sure that clips of these sizes fit the model.

    Raises:
        DataError: they do not.
    """
    sizes, looked_at = predictor.description.feature_sizes, predictor.description.modalities
    found = {modality: shapes[modality][-1] for modality in MODALITIES if modality in shapes}
    there = [modality for modality in looked_at if modality in found]
    if not there:
        raise DataError(
            f"the clips must have at least one of {', '.join(looked_at)}, which the model looks at, but have {', '.join(found)}."
        )
    if any(found[modality] != sizes[modality] for modality in there):
        raise DataError(
            f"the clips must have the feature sizes of the model, {dict(sizes)}, but have {found}. Extract the features alike."
        )
    words = predictor.description.words
    if words is not None and "text" in there and shapes["text"][0] != words:
        raise DataError(
            f"the clips must have {words} words as the training data, but have {shapes['text'][0]}. "
            "Pad or cut every text to that length."
        )


def _note_on_absent(predictor: Predictor, modality: str) -> str:
    """What it costs that no clip has a modality, where that was measured."""
    known = predictor.description.without.get(modality)
    if known is None:
        return (
            f"no clip has {modality}: how good the model is without it was not measured (lmf evaluate RUN --robustness)"
        )
    return (
        f"no clip has {modality}: on {known['split']} the model's mean weighted F1 was {known['weighted_f1']:.3f} without it, "
        f"{known['with_all']:.3f} with all"
    )


def _note_gaps(
    block: Mapping[str, np.ndarray], clips: int, looked_at: Sequence[str], report: InferenceReport
) -> list[str]:
    """Counts what is missing; returns, for each clip, the names of its missing modalities joined by ``+``."""
    gaps = []
    for modality in looked_at:
        if modality not in block:
            report.missing[modality] += clips
            gaps.append(np.ones(clips, bool))
            continue
        values = block[modality].reshape(len(block[modality]), -1)
        with np.errstate(over="ignore", invalid="ignore"):
            clean = np.isfinite(values.sum())
        if not clean:
            report.non_finite[modality] += int((~np.isfinite(values)).sum())
        # most clips show a number among their first 64, and are settled by them
        gap = ~_says_something(values[:, :64])
        gap[gap] = ~_says_something(values[gap])
        report.missing[modality] += int(gap.sum())
        gaps.append(gap)
    if not any(gap.any() for gap in gaps):
        return [""] * len(gaps[0])
    return ["+".join(name for name, gap in zip(looked_at, row) if gap) for row in zip(*gaps)]


def _says_something(values: np.ndarray) -> np.ndarray:
    return ((values != 0) & np.isfinite(values)).any(axis=1)


def _table(
    ids: Sequence[str],
    missing: Sequence[str],
    present: np.ndarray,
    emotions: Sequence[str],
    thresholds: Sequence[float],
    four_way: bool,
) -> list[list[str]]:
    decisions = present > np.asarray(thresholds, np.float32)
    best = present.argmax(axis=1)
    rows = []
    for number, clip in enumerate(ids):
        row = [clip, missing[number]]
        for probability, decision in zip(present[number].tolist(), decisions[number].tolist()):
            row += [f"{probability:.9g}", str(int(decision))]
        rows.append([*row, emotions[best[number]]] if four_way else row)
    return rows


def _csv(rows: Sequence[Sequence[str]]) -> bytes:
    buffer = io.StringIO()
    csv.writer(buffer, lineterminator="\n").writerows(rows)
    return buffer.getvalue().encode()
