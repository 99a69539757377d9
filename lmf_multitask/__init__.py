"""Low-rank Multimodal Fusion for multimodal emotion recognition: one model, several emotions.

The public names below are loaded on first use; importing the package loads neither Paddle nor `datasets`.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

_HOMES = {
    "load_iemocap": "lmf_multitask.data.loading",
    "write_sample": "lmf_multitask.data.sample",
    "LowRankFusion": "lmf_multitask.models.fusion",
    "LMFModel": "lmf_multitask.models.lmf",
    "ModelConfig": "lmf_multitask.models.config",
    "TrainingConfig": "lmf_multitask.training.config",
    "ExperimentConfig": "lmf_multitask.pipeline.settings",
    "TrainingModule": "lmf_multitask.training.module",
    "LMFModule": "lmf_multitask.training.module",
    "LMFTrainer": "lmf_multitask.training.trainer",
    "training_arguments": "lmf_multitask.training.arguments",
    "run_experiment": "lmf_multitask.pipeline.experiment",
    "metrics_of": "lmf_multitask.evaluation.metrics",
    "Predictor": "lmf_multitask.deployment.predictor",
    "evaluate_predictions": "lmf_multitask.evaluation.assessment",
    "full_tables": "lmf_multitask.evaluation.tables",
    "write_report": "lmf_multitask.evaluation.report",
    "UserError": "lmf_multitask.errors",
}

__all__ = [*_HOMES, "__version__"]

if TYPE_CHECKING:
    from lmf_multitask.data.loading import load_iemocap
    from lmf_multitask.data.sample import write_sample
    from lmf_multitask.deployment.predictor import Predictor
    from lmf_multitask.errors import UserError
    from lmf_multitask.evaluation.assessment import evaluate_predictions
    from lmf_multitask.evaluation.metrics import metrics_of
    from lmf_multitask.evaluation.report import write_report
    from lmf_multitask.evaluation.tables import full_tables
    from lmf_multitask.models.config import ModelConfig
    from lmf_multitask.models.fusion import LowRankFusion
    from lmf_multitask.models.lmf import LMFModel
    from lmf_multitask.pipeline.experiment import run_experiment
    from lmf_multitask.pipeline.settings import ExperimentConfig
    from lmf_multitask.training.arguments import training_arguments
    from lmf_multitask.training.config import TrainingConfig
    from lmf_multitask.training.module import LMFModule, TrainingModule
    from lmf_multitask.training.trainer import LMFTrainer


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(import_module(_HOMES[name]), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted(__all__)
