"""Arguments of PaddleNLP's Trainer, as `LMFTrainer` needs them."""

from __future__ import annotations

import dataclasses
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from lmf_multitask.errors import TrainingError
from lmf_multitask.evaluation.metrics import METRICS, TASK_METRIC
from lmf_multitask.runtime import ignore_noise, quiet_imports
from lmf_multitask.training import parallel
from lmf_multitask.training.config import TrainingConfig
from lmf_multitask.training.paddlenlp import TrainingArguments
from lmf_multitask.training.paddlenlp import logger as paddlenlp_logger

with quiet_imports():
    import paddle


@dataclasses.dataclass
class LMFTrainingArguments(TrainingArguments):
    """PaddleNLP's arguments, and two more.

    Attributes:
        row_order: ``seeded``: the order of the training rows depends on seed and epoch only; ``lmf_paddle``: see
            `LMFPaddleBatchSampler`.
        patience: epochs without a better metric before training stops; None never stops early.
    """

    row_order: str = "seeded"
    patience: int | None = None


def training_arguments(
    output_dir: str | Path, config: TrainingConfig | None = None, **others: Any
) -> LMFTrainingArguments:
    """Makes arguments for one evaluation and one checkpoint per epoch, and the best weights at the end.

    Args:
        output_dir: folder of the checkpoints.
        config: batch sizes, number of epochs, monitored metric, patience, order of the rows.
        others: any arguments of PaddleNLP; they take precedence.

    Raises:
        TrainingError: the batch size or the row order does not suit the number of processes.
    """
    config = config or TrainingConfig()
    processes = parallel.world_size()
    if config.batch_size % processes or config.batch_size < 2 * processes:
        raise TrainingError(
            f"training.batch_size must be a multiple of the number of processes, {processes}, with two rows or more for each, "
            f"but got {config.batch_size}. Choose another."
        )
    settings = {
        "per_device_train_batch_size": config.batch_size // processes,
        "per_device_eval_batch_size": config.eval_batch_size,
        "num_train_epochs": config.epochs,
        "metric_for_best_model": f"eval_{config.monitor}",
        "greater_is_better": config.monitor == TASK_METRIC
        or (config.monitor != "loss" and METRICS[config.monitor].greater_is_better),
        "load_best_model_at_end": True,
        "evaluation_strategy": "epoch",
        "save_strategy": "epoch",
        "logging_strategy": "epoch",
        "save_total_limit": 2,  # the best and the last; the one before the last if the best is the last
        "remove_unused_columns": False,
        "disable_tqdm": True,
        "report_to": "none",
        "device": paddle.get_device().split(":")[0],
        "row_order": config.row_order,
        "patience": config.patience,
    }
    with quiet_paddlenlp():
        return LMFTrainingArguments(output_dir=str(output_dir), **{**settings, **others})


@contextmanager
def quiet_paddlenlp() -> Iterator[None]:
    """Hides PaddleNLP's log below warnings (it dumps all arguments), and the known noise of third parties."""
    level = paddlenlp_logger.logger.level
    paddlenlp_logger.set_level("WARNING")
    try:
        with warnings.catch_warnings():
            ignore_noise()
            yield
    finally:
        paddlenlp_logger.logger.setLevel(level)
