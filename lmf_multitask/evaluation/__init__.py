"""Evaluation of predictions: numpy, scipy, scikit-learn, matplotlib; no Paddle.

`evaluate_predictions` takes labels and probabilities of any model; `full_tables` and `write_report` show the result.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from lmf_multitask.evaluation.assessment import Assessment, evaluate_predictions
    from lmf_multitask.evaluation.report import write_report
    from lmf_multitask.evaluation.tables import full_tables

_MODULES = {
    "Assessment": "assessment",
    "evaluate_predictions": "assessment",
    "full_tables": "tables",
    "write_report": "report",
}
__all__ = ["Assessment", "evaluate_predictions", "full_tables", "write_report"]


def __getattr__(name: str) -> Any:
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"{__name__}.{_MODULES[name]}"), name)
