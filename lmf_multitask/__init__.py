"""Low-rank Multimodal Fusion for multimodal emotion recognition: one model, several emotions.

The public names below are loaded on first use; importing the package loads neither Paddle nor `datasets`.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

_HOMES = {
    "load_iemocap": "lmf_multitask.data.iemocap",
    "write_sample": "lmf_multitask.data.sample",
    "LowRankFusion": "lmf_multitask.models.fusion",
    "LMFModel": "lmf_multitask.models.lmf",
    "ModelConfig": "lmf_multitask.config",
    "TrainingConfig": "lmf_multitask.config",
    "ExperimentConfig": "lmf_multitask.config",
    "TrainingModule": "lmf_multitask.training.module",
    "LMFModule": "lmf_multitask.training.module",
    "LMFTrainer": "lmf_multitask.training.trainer",
    "training_arguments": "lmf_multitask.training.trainer",
    "run_experiment": "lmf_multitask.training.experiment",
    "multitask_figures": "lmf_multitask.evaluation.metrics",
    "Predictor": "lmf_multitask.deployment.predictor",
    "evaluate_predictions": "lmf_multitask.evaluation.assessment",
    "UserError": "lmf_multitask.errors",
}

__all__ = [*_HOMES, "__version__"]

if TYPE_CHECKING:
    from lmf_multitask.config import ExperimentConfig, ModelConfig, TrainingConfig
    from lmf_multitask.data.iemocap import load_iemocap
    from lmf_multitask.data.sample import write_sample
    from lmf_multitask.deployment.predictor import Predictor
    from lmf_multitask.errors import UserError
    from lmf_multitask.evaluation.assessment import evaluate_predictions
    from lmf_multitask.evaluation.metrics import multitask_figures
    from lmf_multitask.models.fusion import LowRankFusion
    from lmf_multitask.models.lmf import LMFModel
    from lmf_multitask.training.experiment import run_experiment
    from lmf_multitask.training.module import LMFModule, TrainingModule
    from lmf_multitask.training.trainer import LMFTrainer, training_arguments


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(import_module(_HOMES[name]), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted(__all__)
