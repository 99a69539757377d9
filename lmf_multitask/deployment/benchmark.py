"""Speed of a predictor on this machine: clips per second and latencies per batch size, after a warm-up."""

from __future__ import annotations

import resource
import sys
import time
from collections.abc import Mapping, Sequence

import numpy as np

from lmf_multitask.deployment.predictor import Predictor

BATCH_SIZES = (1, 8, 32, 64, 128, 256, 1024)
_PERCENTILES = (50, 95, 99)


def timing_table(
    predictor: Predictor,
    clips: Mapping[str, np.ndarray],
    batch_sizes: Sequence[int] = BATCH_SIZES,
    seconds: float = 1.0,
) -> str:
    """Times `Predictor.predict`, checks of the input included.

    Args:
        predictor: the model.
        clips: modality -> float32 `[N, ...]`; used over and over.
        batch_sizes: clips per call.
        seconds: per batch size; at least 5 calls.

    Returns:
        A table, with the settings and the peak memory of this process.
    """
    settings = ", ".join(f"{name} {value}" for name, value in predictor.settings().items())
    heads = "".join(f"{f'p{percentile} ms':>10}" for percentile in _PERCENTILES)
    lines = [f"settings: {settings}", f"{'batch':>6}{'rows/s':>12}{heads}{'calls':>8}"]
    for size in batch_sizes:
        taken = _call_seconds(predictor, clips, size, seconds)
        latencies = "".join(f"{value * 1000:>10.3f}" for value in np.percentile(taken, _PERCENTILES))
        lines.append(f"{size:>6}{size / np.mean(taken):>12,.0f}{latencies}{len(taken):>8}")
    largest = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)
    lines.append(f"peak memory of the process: {largest / 2**20:,.0f} MiB")
    return "\n".join(lines)


def _call_seconds(predictor: Predictor, clips: Mapping[str, np.ndarray], size: int, seconds: float) -> list[float]:
    count = len(next(iter(clips.values())))
    index = [np.arange(start, start + size) % count for start in range(0, max(count - size, 0) + 1, size)]
    batches = [{name: np.ascontiguousarray(values[rows]) for name, values in clips.items()} for rows in index]
    predictor.predict(**batches[0])
    taken: list[float] = []
    while sum(taken) < seconds or len(taken) < 5:
        for batch in batches:
            start = time.perf_counter()
            predictor.predict(**batch)
            taken.append(time.perf_counter() - start)
    return taken
