"""What predictions are worth: numpy, scipy, scikit-learn, matplotlib; no Paddle.

`evaluate_predictions` takes labels and probabilities of anybody's model.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from lmf_multitask.evaluation.assessment import Assessment, evaluate_predictions

__all__ = ["Assessment", "evaluate_predictions"]


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from lmf_multitask.evaluation import assessment

    return getattr(assessment, name)
