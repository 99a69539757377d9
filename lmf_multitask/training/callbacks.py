"""Callbacks of `LMFTrainer`, each with one job; and what Ctrl-C and SIGTERM do to a training."""

from __future__ import annotations

import logging
import signal
import sys
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from lmf_multitask.errors import TrainingError
from lmf_multitask.runtime import flush_denormals, quiet_imports
from lmf_multitask.training import parallel
from lmf_multitask.training.checkpoints import Progress
from lmf_multitask.training.paddlenlp import TrainerCallback, VisualDLCallback

with quiet_imports():
    import paddle

if TYPE_CHECKING:
    from lmf_multitask.training.trainer import LMFTrainer

logger = logging.getLogger(__name__)

Row = dict[str, "int | float"]
"""An epoch's entry in the history."""

_NOT_IN_HISTORY = ("interval_", "learning_rate", "global_step", "progress_or_epoch")  # logged by PaddleNLP's Trainer
_NOT_METRICS = ("runtime", "per_second", "progress_or_epoch")


class EarlyStopping(TrainerCallback):
    """Finds the best epoch, stops after `patience` epochs that were not better, and restores the best weights at the end.

    A tie is not better.

    Attributes:
        patience: None never stops.
        best_metric: value of the monitored metric in the best epoch.
        epochs_without_better: since the best epoch.
        improved: whether the last epoch is the best one; None where no metric is monitored.
    """

    def __init__(self, patience: int | None = None) -> None:
        self.patience = patience
        self.reset()

    def reset(self, epochs_without_better: int = 0) -> None:
        """Prepares a new or resumed training."""
        self.epochs_without_better = epochs_without_better
        self.best_metric: float | None = None
        self.improved: bool | None = None

    @property
    def exhausted(self) -> bool:
        """Whether patience has run out."""
        return self.patience is not None and self.epochs_without_better >= self.patience

    def on_train_begin(self, args: Any, state: Any, control: Any, **event: Any) -> None:
        """Takes the best metric of a resumed training."""
        self.best_metric = state.best_metric

    def on_evaluate(self, args: Any, state: Any, control: Any, **event: Any) -> None:
        """Compares the epoch with the best one."""
        metrics = event["metrics"]
        if args.metric_for_best_model is None or not event["model"].trainer.is_in_train:
            return
        name = args.metric_for_best_model.removeprefix("eval_")
        if f"eval_{name}" not in metrics:
            known = sorted(validation_metrics(metrics))
            raise TrainingError(
                f"training.monitor must be a validation metric, one of {', '.join(known)}, but got {name}. Choose another."
            )
        value, best = metrics[f"eval_{name}"], self.best_metric
        self.improved = best is None or (value > best if args.greater_is_better else value < best)
        self.best_metric = value if self.improved else best
        self.epochs_without_better = 0 if self.improved else self.epochs_without_better + 1
        control.should_training_stop = control.should_training_stop or self.exhausted

    def on_train_end(self, args: Any, state: Any, control: Any, **event: Any) -> None:
        """Restores the weights of the best epoch."""
        event["model"].trainer.load_best_weights()


class History(TrainerCallback):
    """Collects what the module logs, and makes a row of it and the validation metrics after every epoch.

    Attributes:
        rows: one dict per finished epoch.
        logged: of the current epoch: name -> (value, rows) of each step.
    """

    def __init__(self, early_stopping: EarlyStopping) -> None:
        self._early_stopping = early_stopping
        self.reset()

    def reset(self, progress: Progress | None = None) -> None:
        """Prepares a new or resumed training."""
        self.rows: list[Row] = [] if progress is None else [dict(row) for row in progress.history]
        self.logged: dict[str, list[tuple[Any, int]]] = {} if progress is None else dict(progress.logged)
        self._latest: Row = {}

    def record(self, name: str, value: float | paddle.Tensor, rows: int) -> None:
        """Notes a value of this step; tensors are read at the end of the epoch, so that no step waits for them."""
        self.logged.setdefault(name, []).append((value.detach() if isinstance(value, paddle.Tensor) else value, rows))

    def on_log(self, args: Any, state: Any, control: Any, **event: Any) -> None:
        """Adds the epoch's means to what Trainer logs."""
        logs = event["logs"]
        if "loss" not in logs:  # not about training
            return
        for name, entries in self.logged.items():
            values, rows = (np.array([float(entry[i]) for entry in entries]) for i in (0, 1))
            both = parallel.summed(paddle.to_tensor(np.array([(values * rows).sum(), rows.sum()]))).numpy()
            logs[name] = float(both[0] / both[1])
        self.logged = {}
        own = {name: value for name, value in logs.items() if not name.startswith(_NOT_IN_HISTORY)}
        self._latest = {name: value for name, value in own.items() if name != "loss" or len(own) == 1}

    def on_evaluate(self, args: Any, state: Any, control: Any, **event: Any) -> None:
        """Adds the epoch's row."""
        if not event["model"].trainer.is_in_train:
            return
        validation = {f"validation_{name}": value for name, value in validation_metrics(event["metrics"]).items()}
        row = {"epoch": round(state.epoch), **self._latest, **validation}
        if self._early_stopping.improved is not None:
            row["best"] = int(self._early_stopping.improved)
        self.rows.append(row)


def validation_metrics(metrics: Mapping[str, Any]) -> Row:
    """The numbers among PaddleNLP's ``eval_*`` metrics under their plain names, without those on speed."""
    return {
        name.removeprefix("eval_"): value.item() if isinstance(value, np.number) else value
        for name, value in metrics.items()
        if isinstance(value, (int, float, np.number)) and not name.endswith(_NOT_METRICS)
    }


class OnEpoch(TrainerCallback):
    """Calls a function with the epoch's row of the history, after its validation and before its checkpoint."""

    def __init__(self, function: Callable[[Row], None]) -> None:
        self._function = function

    def on_evaluate(self, args: Any, state: Any, control: Any, **event: Any) -> None:
        """Calls the function."""
        trainer = event["model"].trainer
        if trainer.is_in_train:
            self._function(trainer.history[-1])


class ModuleHooks(TrainerCallback):
    """Calls the module's own hooks."""

    def on_step_end(self, args: Any, state: Any, control: Any, **event: Any) -> None:
        """After an update."""
        event["model"].on_train_batch_end(state.global_step)

    def on_epoch_end(self, args: Any, state: Any, control: Any, **event: Any) -> None:
        """After an epoch's last update."""
        event["model"].on_train_epoch_end()


class FiniteCheck(TrainerCallback):
    """Stops a training whose loss, gradients or parameters are NaN or infinite.

    The loss alone is not enough: on a CPU Paddle's relu turns NaN into 0. A step is checked by one sum, of which a single number
    is read from the device; which parameter is to blame is looked for only if that is not finite.
    """

    def __init__(self) -> None:
        self._watched: list[tuple[str, paddle.Tensor]] = []
        self._summed: list[paddle.Tensor] = []

    def on_train_begin(self, args: Any, state: Any, control: Any, **event: Any) -> None:
        """Asks the module what to check in every step."""
        self._watched = event["model"].watched_parameters()
        fixed = [weight for _, weight in self._watched if weight.stop_gradient]
        optimized = event["model"].optimized_parameters().values()
        self._summed = [*fixed, *(weight for weight in optimized if not weight.stop_gradient)]

    def check_step(self, trainer: LMFTrainer, loss: paddle.Tensor) -> None:
        """Checks the gradients, the values of parameters that are not trained, and the loss; before the update.

        Raises:
            TrainingError: one is not finite; it names the step and the samples of its batch.
        """
        values = [value for value in map(_checked, self._summed) if value is not None]
        if np.isfinite(float(paddle.add_n([loss, *(value.sum() for value in values)]))):
            return
        wrong = [
            name if weight.stop_gradient else f"the gradient of {name}"
            for name, weight in self._watched
            if (value := _checked(weight)) is not None and not np.isfinite(value.numpy()).all()
        ]
        if not wrong and np.isfinite(float(loss)):  # only the sum is too large
            return
        first = wrong[0] if wrong else None
        what = first if first is not None and np.isfinite(float(loss)) else "the training loss"
        message = _not_finite(what, int(trainer.state.epoch or 0) + 1)
        raise TrainingError(f"{message} First seen in {first or what}{trainer.describe_batch()}.")

    def on_epoch_end(self, args: Any, state: Any, control: Any, **event: Any) -> None:
        """Checks the values of all parameters."""
        for name, weight in event["model"].named_parameters():
            if not bool(paddle.isfinite(weight).all()):
                raise TrainingError(_not_finite(f"the parameter {name}", round(state.epoch)))


def _checked(weight: paddle.Tensor) -> paddle.Tensor | None:
    """What must be finite: the value of a parameter that is not trained, the gradient of another."""
    return weight if weight.stop_gradient else weight.grad


def _not_finite(what: str, epoch: int) -> str:
    return (
        f"{what} must stay finite, but became NaN or infinite in epoch {epoch}. "
        "Usual causes: a learning rate that is too high, or features with very large values (see `lmf data inspect`)."
    )


class FlushDenormals(TrainerCallback):
    """Makes the processor treat denormal numbers as zero in every step; see `runtime.flush_denormals`."""

    def on_step_begin(self, args: Any, state: Any, control: Any, **event: Any) -> None:
        """Before forward and backward."""
        flush_denormals(True)

    def on_step_end(self, args: Any, state: Any, control: Any, **event: Any) -> None:
        """After the update."""
        flush_denormals(False)


class StopRequests(TrainerCallback):
    """Saves a checkpoint after the current step when a stop was requested, then raises the error of the request.

    Attributes:
        error: of the request.
    """

    error: BaseException | None = None

    def on_step_end(self, args: Any, state: Any, control: Any, **event: Any) -> None:
        """Asks for a checkpoint."""
        # at the end of an epoch there is a checkpoint anyway, after validation
        if self.error is not None and state.global_step % event["model"].trainer.steps_per_epoch:
            control.should_save = True

    def on_save(self, args: Any, state: Any, control: Any, **event: Any) -> None:
        """Raises the error."""
        if self.error is not None:
            steps = event["model"].trainer.steps_per_epoch
            epoch, step = divmod(state.global_step - 1, steps)
            logger.info("saved after step %d of %d of epoch %d", step + 1, steps, epoch + 1)
            raise self.error


class VisualDLLogs(VisualDLCallback):
    """PaddleNLP's VisualDL logs, without the record of hyper-parameters, which newer protobuf refuses."""

    def _init_summary_writer(self, args: Any, log_dir: str | None = None) -> None:
        super()._init_summary_writer(args, log_dir)
        if self.vdl_writer is not None:
            self.vdl_writer.add_hparams = lambda *positional, **named: None


# -- signals


@contextmanager
def resume_hint(folder: Path) -> Iterator[None]:
    """Says how to resume when Ctrl-C or SIGTERM ends the block; SIGTERM ends the process with status 143."""
    # Paddle's own handler ends the process at once
    with _handlers({signal.SIGTERM: lambda number, _: sys.exit(128 + number)}):
        try:
            yield
        except (KeyboardInterrupt, SystemExit):
            logger.warning("stopped; finished work is saved. To resume, repeat the command with --resume: %s", folder)
            raise


@contextmanager
def save_when_stopped(trainer: LMFTrainer) -> Iterator[None]:
    """Ctrl-C and SIGTERM wait for the current step and its checkpoint; a second one does not wait."""

    def interrupt(number: int, frame: Any) -> None:
        trainer.stop(KeyboardInterrupt())

    def terminate(number: int, frame: Any) -> None:
        trainer.stop(SystemExit(128 + number))

    handlers = {signal.SIGTERM: terminate}
    if signal.getsignal(signal.SIGINT) is not signal.SIG_IGN:  # as of processes that a shell starts in the background
        handlers[signal.SIGINT] = interrupt
    with _handlers(handlers):
        yield


@contextmanager
def _handlers(handlers: Mapping[signal.Signals, Callable[[int, Any], None]]) -> Iterator[None]:
    """Sets signal handlers for the block, in the main thread (others may not)."""
    before = {}
    if threading.current_thread() is threading.main_thread():
        before = {number: signal.signal(number, handler) for number, handler in handlers.items()}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
