"""A file of clips -> predictions on disk, block by block, so that memory stays flat however long the file is.

Shape letters: N rows (clips), T tasks (emotions).
"""

from __future__ import annotations

import csv
import time
from collections import deque
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from lmf_multitask.data.modality import MODALITIES
from lmf_multitask.data.padding import moved_blocks
from lmf_multitask.data.sources import Source
from lmf_multitask.deployment.predictor import Checked, Predictor
from lmf_multitask.errors import DataError, RunError
from lmf_multitask.evaluation.decisions import decide
from lmf_multitask.evaluation.predictions import PREDICTIONS_FILE, predictions_csv
from lmf_multitask.files import atomic_write, open_regular, remove_leftovers
from lmf_multitask.runtime import usable_cores

BATCH_SIZE = 64
"""Clips per forward pass: the fastest of 1 to 1024 on the CPUs that were measured; more only takes more memory."""

_SUFFIX, _VALUE_SUFFIX = "_prob.npy", "_value.npy"
_LONGEST_HEADER = 2**20


@dataclass
class InferenceReport:
    """What was done.

    Attributes:
        rows: clips predicted.
        missing: modality -> clips whose features of it are all zero or not finite, or that have none.
        non_finite: modality -> single numbers that were NaN or infinite and became 0.
        seconds: for reading, predicting and writing.
        files: what was written.
        notes: what was decided about the file, on padding that was moved, and on modalities that no clip has.
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
                    f"{modality} is missing (absent, all zero or not finite) in {self.missing[modality]:,} clips"
                )
            if self.non_finite[modality]:
                found.append(f"{modality} has {self.non_finite[modality]:,} NaN or infinite numbers, set to 0")
        return [*found, *self.notes, f"written: {', '.join(map(str, self.files))}"]


def infer_file(
    predictor: Predictor,
    source: Source,
    output_dir: str | Path,
    batch_size: int = BATCH_SIZE,
    thresholds: Sequence[float] | None = None,
    workers: int | None = None,
) -> InferenceReport:
    """Writes one array per task and ``predictions.csv``.

    The arrays: per emotion ``EMOTION_prob.npy``, float32 `[N, 2]` (absent, present); per real-valued task ``TASK_value.npy``,
    float32 `[N]`.

    Args:
        predictor: the model.
        source: the clips, see `lmf_multitask.data.sources.open_source`.
        output_dir: folder of the results; all files appear at the end, or none. Results of an earlier inference there are
            replaced, those of another model removed.
        batch_size: clips per forward pass.
        thresholds: T probabilities above which an emotion counts as present; None: those of the training.
        workers: batches that are predicted side by side, see `predict_blocks`. No effect on the results.

    Raises:
        DataError: the clips do not fit the model.
        RunError: the folder holds other files.
    """
    emotions, binary = predictor.emotions, predictor.description.binary
    limits = predictor.thresholds() if thresholds is None else thresholds
    check_shapes(predictor, source.shapes)
    output_dir = Path(output_dir).expanduser()
    report, started = InferenceReport(), time.perf_counter()
    paths = [output_dir / f"{name}{_SUFFIX if t in binary else _VALUE_SUFFIX}" for t, name in enumerate(emotions)]
    table_path = output_dir / PREDICTIONS_FILE
    stale = _earlier_files(output_dir) - {*paths, table_path}
    exclusive = predictor.description.exclusive
    with ExitStack() as stack:
        table = stack.enter_context(atomic_write(table_path))
        arrays = [stack.enter_context(atomic_write(path)) for path in paths]
        for t, file in enumerate(arrays):
            shape = (source.count, 2) if t in binary else (source.count,)
            header = {"descr": "<f4", "fortran_order": False, "shape": shape}
            np.lib.format.write_array_header_1_0(file, header)
        about = predictor.description
        blocks, report.notes = moved_blocks(source, about.inputs, about.modalities, batch_size)
        for ids, clips, present in predict_blocks(predictor, blocks, workers):
            missing = _count(clips, report)
            for t, file in enumerate(arrays):
                column = present[:, t]
                values = np.stack([1 - column, column], axis=1) if t in binary else column
                file.write(values.astype("<f4").tobytes())
            text = predictions_csv(
                ids, present, predictor.description.tasks,
                missing=missing, decisions=decide(present, limits, about.tasks), exclusive=exclusive, head=report.rows == len(ids),
            )  # fmt: skip
            table.write(text.encode())
        if report.rows != source.count:
            raise DataError(
                f"the file must have the {source.count} clips that it announces, but has {report.rows}. Write it again."
            )
        for file in (table, *arrays):  # a disk that is full says so now, before the first takes its name
            file.flush()
    for path in stale:
        path.unlink(missing_ok=True)
    report.notes += [_note_on_absent(predictor, name) for name, clips in report.missing.items() if clips == report.rows]
    report.files = [*paths, table_path]
    report.notes[:0] = source.notes
    report.seconds = time.perf_counter() - started
    return report


def predict_blocks(
    predictor: Predictor, blocks: Iterable[tuple[list[str], Mapping[str, np.ndarray]]], workers: int | None = None
) -> Iterator[tuple[list[str], Checked, np.ndarray]]:
    """Predicts blocks side by side and yields them in order; only a few are in memory at a time.

    Args:
        predictor: the model.
        blocks: ids and features.
        workers: blocks at a time; None takes one per core with ONNX Runtime on a CPU, and one otherwise: two clones of
            a Paddle predictor run one after the other.

    Yields:
        Ids, checked features, and predictions, float32 `[n, T]`.
    """
    if workers is None:
        workers = usable_cores() if (predictor.backend, predictor.device) == ("onnx", "cpu") else 1

    def predict(ids: list[str], features: Mapping[str, np.ndarray]) -> tuple[list[str], Checked, np.ndarray]:
        clips = predictor.check(**features)
        return ids, clips, predictor.predict_checked(clips)

    if workers == 1:
        yield from (predict(*block) for block in blocks)
        return
    with ThreadPoolExecutor(workers, thread_name_prefix="predict") as pool:
        waiting: deque[Future[tuple[list[str], Checked, np.ndarray]]] = deque()
        for block in blocks:
            waiting.append(pool.submit(predict, *block))
            if len(waiting) > 2 * workers:
                yield waiting.popleft().result()
        for answer in waiting:
            yield answer.result()


def check_shapes(predictor: Predictor, shapes: Mapping[str, tuple[int, ...]]) -> None:
    """Makes sure that clips of these shapes fit the model.

    Raises:
        DataError: they do not.
    """
    used = predictor.description.modalities
    given = [modality for modality in used if modality in shapes]
    if not given:
        raise DataError(
            f"the clips must have at least one of {', '.join(used)}, which the model uses, but have {', '.join(shapes)}."
        )
    for modality in given:
        wanted = predictor.description.shape(modality)[1:]
        found = (
            (1, *shapes[modality]) if MODALITIES[modality].sequence and len(shapes[modality]) == 1 else shapes[modality]
        )
        if len(found) != len(wanted) or any(size not in (one, "steps") for one, size in zip(found, wanted)):
            raise DataError(
                f"{modality} must have the shape [{', '.join(map(str, wanted))}] per clip, as in training, but has "
                f"{list(shapes[modality])}. Extract the features in the same way."
            )


def _earlier_files(folder: Path) -> set[Path]:
    """The files of an earlier inference in a folder.

    Raises:
        RunError: the folder holds anything else.
    """
    if not folder.exists():
        return set()
    if not folder.is_dir():
        raise RunError(f"{folder}: must be a folder, but is a file. Choose another --output_dir.")
    remove_leftovers(folder)
    own: set[Path] = set()
    table = folder / PREDICTIONS_FILE
    if table.is_file():
        with open_regular(table, RunError) as file:
            heads = next(csv.reader([file.readline(_LONGEST_HEADER).decode(errors="replace")]), [])
        suffixes = {"_probability": _SUFFIX, "_value": _VALUE_SUFFIX}
        names = [
            head.removesuffix(of) + suffix for head in heads for of, suffix in suffixes.items() if head.endswith(of)
        ]
        own = {table, *(folder / name for name in names)}
    foreign = sorted(path for path in folder.iterdir() if path not in own)
    if foreign:
        raise RunError(
            f"{folder}: must be empty or hold the results of an earlier inference, but holds {foreign[0].name!r}. "
            "Choose another --output_dir."
        )
    return own


def _note_on_absent(predictor: Predictor, modality: str) -> str:
    """The measured loss without a modality that no clip has."""
    known = predictor.description.without.get(modality)
    if known is None:
        return f"no clip has {modality}: the model was not measured without it (lmf evaluate RUN --robustness)"
    return (
        f"no clip has {modality}: on {known['split']} the model's mean weighted F1 was {known['weighted_f1']:.3f} without it, "
        f"{known['with_all']:.3f} with all"
    )


def _count(clips: Checked, report: InferenceReport) -> list[str]:
    """Counts what is missing; returns, for each clip, the names of its missing modalities joined by ``+``."""
    report.rows += len(clips)
    missing = clips.missing()
    for modality, rows in missing.items():
        report.missing[modality] += int(rows.sum())
        report.non_finite[modality] += clips.non_finite.get(modality, 0)
    if not any(rows.any() for rows in missing.values()):
        return [""] * len(clips)
    return ["+".join(name for name, gap in zip(missing, row) if gap) for row in zip(*missing.values())]
