"""Honest probabilities and better thresholds, fitted on validation and on nothing else.

Temperature scaling (Guo et al. 2017, arXiv 1706.04599): each head's logit difference is divided by one number, which
changes no decision at one half. Thresholds are those of the plain probability, so that they need no temperature.

Shape letters: N rows (clips), T tasks (emotions).
"""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from scipy.optimize import minimize_scalar

from lmf_multitask.data.schema import NOT_ANNOTATED
from lmf_multitask.errors import RunError
from lmf_multitask.evaluation.metrics import CLOSEST_TO_CERTAIN, checked_predictions, log_loss
from lmf_multitask.files import write_text

CALIBRATION_FILE = "calibration.json"
THRESHOLDS = ("positive_f1", "uar")
"""Figures that a threshold can be fitted for."""

LOWEST_TEMPERATURE, HIGHEST_TEMPERATURE = 0.05, 20.0


@dataclass(frozen=True)
class EmotionCalibration:
    """What one head's probabilities need.

    Attributes:
        temperature: above 1 makes probabilities less extreme.
        thresholds: figure -> the plain probability above which the emotion counts as present.
        rows: annotated validation clips behind these.
        reason: why the plain values were kept; None where they were fitted.
    """

    temperature: float = 1.0
    thresholds: dict[str, float] | None = None
    rows: int = 0
    reason: str | None = None

    def threshold(self, figure: str) -> float:
        """The threshold for a figure of `THRESHOLDS`."""
        return (self.thresholds or {}).get(figure, 0.5)


@dataclass(frozen=True)
class Calibration:
    """One `EmotionCalibration` per head.

    Attributes:
        emotions: name -> calibration, in the order of the heads.
    """

    emotions: dict[str, EmotionCalibration]

    def calibrate(self, probabilities: np.ndarray, emotions: Sequence[str]) -> np.ndarray:
        """Plain probabilities float `[N, T]` -> calibrated ones, float64 `[N, T]`.

        Raises:
            RunError: an emotion has no calibration.
        """
        temperatures = np.array([self._of(name).temperature for name in emotions])
        return scale(probabilities, temperatures)

    def thresholds(self, figure: str, emotions: Sequence[str]) -> np.ndarray:
        """Float64 `[T]`, the thresholds of the plain probabilities fitted for a figure of `THRESHOLDS`."""
        return np.array([self._of(name).threshold(figure) for name in emotions])

    def _of(self, emotion: str) -> EmotionCalibration:
        if emotion not in self.emotions:
            raise RunError(
                f"a calibration must know every emotion, but {emotion!r} is not among {', '.join(self.emotions)}. "
                "Use the calibration of the same model."
            )
        return self.emotions[emotion]

    def save(self, folder: str | Path) -> Path:
        """Writes ``calibration.json`` into a model's folder."""
        content = {
            "format": 1,
            "fitted_on": "validation",
            "emotions": {
                name: {
                    "temperature": one.temperature,
                    "thresholds": {figure: one.threshold(figure) for figure in THRESHOLDS},
                    "rows": one.rows,
                    "reason": one.reason,
                }
                for name, one in self.emotions.items()
            },
        }
        path = Path(folder) / CALIBRATION_FILE
        write_text(path, json.dumps(content, indent=2) + "\n")
        return path

    @classmethod
    def load(cls, folder: str | Path) -> Calibration:
        """Reads what `save` wrote.

        Raises:
            RunError: the file is missing or damaged.
        """
        path = Path(folder) / CALIBRATION_FILE
        try:
            content = json.loads(path.read_text(encoding="utf-8"))
        except FileNotFoundError:
            raise RunError(f"{path}: must be there, but is missing. Train again, or leave calibration out.") from None
        except (OSError, ValueError) as error:
            raise RunError(f"{path}: must be JSON, but {' '.join(str(error).split())}.") from None
        if not isinstance(content, dict) or content.get("format") != 1 or not isinstance(content.get("emotions"), dict):
            raise RunError(f"{path}: must hold a calibration of format 1, but does not. Train again.")
        return cls({name: _emotion_from(path, name, one) for name, one in content["emotions"].items()})


def _emotion_from(path: Path, name: str, content: Any) -> EmotionCalibration:
    keys = {"temperature", "thresholds", "rows", "reason"}
    if not isinstance(content, dict) or set(content) != keys:
        got = sorted(content) if isinstance(content, dict) else type(content).__name__
        raise RunError(f"{path}: {name} must have exactly {sorted(keys)}, but has {got}. Train again.")
    thresholds = content["thresholds"]
    if not isinstance(thresholds, dict) or set(thresholds) != set(THRESHOLDS):
        raise RunError(f"{path}: thresholds of {name} must be for {', '.join(THRESHOLDS)}, but are {thresholds!r}.")
    numbers = {"temperature": content["temperature"], **{f"{f} threshold": v for f, v in thresholds.items()}}
    for what, value in numbers.items():
        low, high = (LOWEST_TEMPERATURE, HIGHEST_TEMPERATURE) if what == "temperature" else (0, 1)
        fits = isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)
        if not fits or not low <= value <= high:
            raise RunError(f"{path}: {what} of {name} must be a number from {low:g} to {high:g}, but is {value!r}.")
    if type(content["rows"]) is not int or not isinstance(content["reason"], (str, type(None))):
        raise RunError(f"{path}: rows of {name} must be a whole number and its reason text or null. Train again.")
    return EmotionCalibration(**content)


def scale(probabilities: np.ndarray, temperature: float | np.ndarray) -> np.ndarray:
    """Probabilities whose logits are divided by `temperature`; float64, of the same shape."""
    kept = np.clip(np.asarray(probabilities, np.float64), CLOSEST_TO_CERTAIN, 1 - CLOSEST_TO_CERTAIN)
    return 0.5 * (1 + np.tanh(0.5 * (np.log(kept) - np.log1p(-kept)) / temperature))


def fit_calibration(labels: np.ndarray, probabilities: np.ndarray, emotions: Sequence[str]) -> Calibration:
    """Temperature and thresholds per head.

    Args:
        labels: int `[N, T]` of validation, 1 present, 0 absent, -100 not annotated.
        probabilities: float `[N, T]`, the model's on validation.
        emotions: names of the T columns.

    Returns:
        The calibration. A head keeps 1 and one half, with a reason, where validation has clips of one class only.
    """
    labels, probabilities = checked_predictions(labels, probabilities, emotions)
    fitted = {}
    for t, name in enumerate(emotions):
        known = labels[:, t] != NOT_ANNOTATED
        truth, plain = labels[known, t] == 1, probabilities[known, t].astype(np.float64)
        if not 0 < truth.sum() < len(truth):
            seen = "has no label" if not len(truth) else f"has only {'present' if truth.any() else 'absent'} clips"
            fitted[name] = EmotionCalibration(rows=len(truth), reason=f"validation {seen}")
            continue
        thresholds = {figure: fit_threshold(truth, plain, figure) for figure in THRESHOLDS}
        fitted[name] = EmotionCalibration(fit_temperature(truth, plain), thresholds, len(truth))
    return Calibration(fitted)


def fit_temperature(labels: np.ndarray, probabilities: np.ndarray) -> float:
    """The temperature from 0.05 to 20 under which labels 0/1 `[N]` are likeliest (one maximum: convex in its inverse)."""

    def loss(logarithm: float) -> float:
        return log_loss(labels, scale(probabilities, math.exp(logarithm)))

    bounds = (math.log(LOWEST_TEMPERATURE), math.log(HIGHEST_TEMPERATURE))
    best = math.exp(minimize_scalar(loss, bounds=bounds, method="bounded", options={"xatol": 1e-5}).x)
    best = min(max(best, LOWEST_TEMPERATURE), HIGHEST_TEMPERATURE)
    return best if loss(math.log(best)) < loss(0.0) else 1.0


def fit_threshold(labels: np.ndarray, probabilities: np.ndarray, figure: str) -> float:
    """The threshold that gives the highest `figure` (of `THRESHOLDS`) on labels 0/1 `[N]`; of equals the nearest to one half."""
    truth, values = np.asarray(labels, bool), np.asarray(probabilities, np.float64)
    distinct = np.unique(values)
    candidates = np.concatenate([[0.5], (distinct[1:] + distinct[:-1]) / 2])
    # of rows sorted by probability, those from `start` on are called present
    order = np.argsort(values, kind="stable")
    start = np.searchsorted(values[order], candidates, side="right")
    true_above = np.concatenate([np.cumsum(truth[order][::-1])[::-1], [0]])[start]
    above = len(values) - start
    positives = truth.sum()
    if figure == "positive_f1":
        score = 2 * true_above / (above + positives)
    else:
        false_above = above - true_above
        score = (true_above / positives + 1 - false_above / (len(truth) - positives)) / 2
    best = np.flatnonzero(score >= score.max() - 1e-12)
    return float(candidates[best[np.argmin(np.abs(candidates[best] - 0.5))]])
