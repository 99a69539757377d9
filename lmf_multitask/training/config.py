"""Settings of a training."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import AfterValidator, Field, model_validator

from lmf_multitask.config import setting, settings
from lmf_multitask.errors import suggestion
from lmf_multitask.evaluation.metrics import METRICS, TASK_METRIC
from lmf_multitask.tasks import CRITERIA

_Weight = Annotated[float, Field(ge=0, le=1000)]


def _monitor(name: str) -> str:
    known = ["loss", TASK_METRIC, *METRICS]
    if name not in known:
        hint = f"{suggestion(name, known)} If a plug-in defines it, add --plugin FILE.py."
        raise ValueError(f"must be one of {', '.join(known)}, but got {name!r}.{hint}")
    return name


def _criterion(name: str) -> str:
    if name not in CRITERIA:
        raise ValueError(f"must be one of {', '.join(CRITERIA)}, but got {name!r}.{suggestion(name, list(CRITERIA))}")
    return name


@settings
class TrainingConfig:
    """How the network is trained."""

    epochs: int = setting(default=40, help="largest number of passes over the training data", ge=1)
    batch_size: int = setting(default=64, help="clips per step", ge=2)
    eval_batch_size: int = setting(
        default=256, help="clips per forward pass in evaluation; changes results by rounding only", ge=1
    )
    learning_rate: float = setting(default=0.001, help="learning rate of Adam", gt=0, le=10)
    factor_learning_rate: float | None = setting(
        default=None, help="learning rate of the fusion's factors; null: learning_rate", gt=0, le=10
    )
    schedule: Literal["constant", "cosine"] = setting(
        default="constant",
        help="of the learning rates: constant, or cosine down to zero over all epochs (Loshchilov and Hutter 2017)",
    )
    weight_decay: float = setting(
        default=0.00001,
        help="coupled L2 penalty: this times the weight is added to the gradient",
        ge=0,
        le=10,
    )
    row_order: Literal["seeded", "lmf_paddle"] = setting(
        default="seeded", help="order of the training rows: from seed and epoch alone, or as LMF_Paddle draws it"
    )
    loss_reduction: Literal["mean", "sum"] = setting(
        default="mean", help="how the losses of a batch's annotated labels are combined"
    )
    joint_loss: float = setting(
        default=0.5,
        help="share of one cross entropy over all binary heads together; used only if training labels are exclusive",
        ge=0,
        le=1,
    )
    class_weights: Literal["none", "balanced"] = setting(
        default="none", help="balanced: present and absent of a task weigh as if both were equally frequent"
    )
    focal_gamma: float = setting(
        default=0.0, help="exponent of the focal loss (Lin et al. 2017); 0 is plain cross entropy", ge=0, le=10
    )
    regression_loss: Annotated[str, AfterValidator(_criterion)] = setting(
        default="l1", help=f"loss of real-valued tasks, of standardised targets: {', '.join(CRITERIA)}"
    )
    standardize_targets: bool = setting(
        default=True, help="real-valued targets in units of the std of train around its mean; false: as they are"
    )
    balance_kinds: bool = setting(
        default=True,
        help="beside binary tasks, scale the losses of other kinds so that a constant prediction loses as much (after GradNorm, "
        "Chen et al. 2018)",
    )
    task_weighting: Literal["uniform", "fixed", "uncertainty"] = setting(
        default="uniform",
        help="weights of the tasks' losses: uniform, fixed (task_weights), or uncertainty (learned, Kendall et al. 2018)",
    )
    task_weights: dict[str, _Weight] | None = setting(
        default=None, help="task: weight from 0 to 1000, for task_weighting fixed; tasks that are not named have 1"
    )
    ema_epochs: float | None = setting(
        default=1.0,
        help="horizon of the moving average of the weights (EMA), in epochs; null: the weights themselves",
        gt=0,
        le=1000,
    )
    max_grad_norm: float | None = setting(
        default=None, help="gradients are scaled down to this norm; null: no limit", gt=0
    )
    monitor: Annotated[str, AfterValidator(_monitor)] = setting(
        default=TASK_METRIC,
        help="validation metric that chooses the best epoch: the mean over tasks, or loss; task_metric takes of each task the "
        "metric of its kind, average_precision or ccc",
    )
    patience: int | None = setting(
        default=10, help="epochs without improvement after which training stops; null: it never stops early", ge=1
    )
    visualdl: bool = setting(default=False, help="also write VisualDL logs into the run directory")

    @model_validator(mode="after")
    def _weights_with_fixed(self) -> TrainingConfig:
        if bool(self.task_weights) != (self.task_weighting == "fixed"):
            raise ValueError(
                "must have task_weights where task_weighting is fixed, and only there, "
                f"but got {self.task_weights} with {self.task_weighting}."
            )
        return self
