"""How fast a predictor is on this machine: rows per second and latencies per batch size, warm.

Shape letters: N rows (clips).
"""

from __future__ import annotations

import resource
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from lmf_multitask.data.features import FeatureRows
from lmf_multitask.data.schema import MODALITIES
from lmf_multitask.deployment.predictor import Predictor

BATCH_SIZES = (1, 8, 32, 64, 128, 256, 1024)


@dataclass(frozen=True)
class Timing:
    """One batch size.

    Attributes:
        batch_size: clips per call.
        calls: how many calls were timed.
        rows_per_second: clips per second of calling, all calls together.
        milliseconds: percentile (50, 95, 99) -> milliseconds per call.
    """

    batch_size: int
    calls: int
    rows_per_second: float
    milliseconds: Mapping[int, float]


def time_predictor(
    predictor: Predictor,
    rows: Mapping[str, np.ndarray],
    batch_sizes: Sequence[int] = BATCH_SIZES,
    seconds: float = 1.0,
) -> list[Timing]:
    """Times `Predictor.predict`, checks of the input included.

    Args:
        predictor: the model.
        rows: modality -> float32 `[N, ...]`; used over and over.
        batch_sizes: clips per call.
        seconds: per batch size, after a warm-up of a tenth of that; at least 5 calls.
    """
    return [_time(predictor, rows, size, seconds) for size in batch_sizes]


def _time(predictor: Predictor, rows: Mapping[str, np.ndarray], size: int, seconds: float) -> Timing:
    count = len(next(iter(rows.values())))
    starts = range(0, max(count - size, 0) + 1, size)
    index = [np.arange(start, start + size) % count for start in starts]
    batches = [{name: np.ascontiguousarray(values[chosen]) for name, values in rows.items()} for chosen in index]
    taken: list[float] = []
    begin = time.perf_counter()
    while True:
        for batch in batches:
            start = time.perf_counter()
            predictor.predict(**batch)
            end = time.perf_counter()
            if start - begin > 0.1 * seconds:
                taken.append(end - start)
            if end - begin > 1.1 * seconds and len(taken) >= 5:
                percentiles = {p: float(np.percentile(taken, p)) * 1000 for p in (50, 95, 99)}
                return Timing(size, len(taken), size * len(taken) / sum(taken), percentiles)


def benchmark_rows(predictor: Predictor, rows: FeatureRows | None, most: int = 1024) -> dict[str, np.ndarray]:
    """Clips to time with: the first of a file, or generated ones."""
    if rows is not None:
        _, block = next(rows.blocks(most))
        return block
    sizes, words = predictor.description.feature_sizes, predictor.description.words or 20
    random = np.random.default_rng(0)
    shapes = {name: (words, sizes[name]) if name == "text" else (sizes[name],) for name in MODALITIES}
    return {name: random.normal(0, 0.1, (most, *shapes[name])).astype(np.float32) for name in MODALITIES}


def timing_table(predictor: Predictor, timings: Sequence[Timing]) -> str:
    """The figures as text, with the settings and the peak memory of this process."""
    settings = ", ".join(f"{name} {value}" for name, value in predictor.settings().items())
    lines = [
        f"settings: {settings}",
        f"{'batch':>6}{'rows/s':>12}{'p50 ms':>10}{'p95 ms':>10}{'p99 ms':>10}{'calls':>8}",
    ]
    for timing in timings:
        latencies = "".join(f"{timing.milliseconds[p]:>10.3f}" for p in (50, 95, 99))
        lines.append(f"{timing.batch_size:>6}{timing.rows_per_second:>12,.0f}{latencies}{timing.calls:>8}")
    lines.append(f"peak memory of the process: {peak_memory() / 2**20:,.0f} MiB")
    return "\n".join(lines)


def peak_memory() -> int:
    """Largest resident size of this process so far, in bytes."""
    size = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return size if sys.platform == "darwin" else size * 1024
