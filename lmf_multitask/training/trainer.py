"""PaddleNLP's Trainer for a `TrainingModule`."""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from lmf_multitask.errors import RunError, TrainingError
from lmf_multitask.runtime import flush_denormals, quiet_imports
from lmf_multitask.training import checkpoints, parallel
from lmf_multitask.training.arguments import LMFTrainingArguments, quiet_paddlenlp
from lmf_multitask.training.batches import RecordingCollator, make_loader
from lmf_multitask.training.callbacks import (
    EarlyStopping,
    FiniteCheck,
    FlushDenormals,
    History,
    ModuleHooks,
    Row,
    StopRequests,
)
from lmf_multitask.training.module import TrainingModule
from lmf_multitask.training.paddlenlp import (
    EvalLoopOutput,
    PrinterCallback,
    ProgressCallback,
    Trainer,
    TrainerCallback,
)

with quiet_imports():
    import paddle

logger = logging.getLogger(__name__)

_UNSUPPORTED = ("fp16", "bf16", "unified_checkpoint", "use_hybrid_parallel")


class LMFTrainer(Trainer):
    """A `paddlenlp.trainer.Trainer` that trains a `TrainingModule`: ``fit``, ``validate``, ``test``, ``predict``.

    Arguments, callbacks and integrations work as documented by PaddleNLP. In addition: batches are gathered from whole
    columns, in an order that depends on seed and epoch only (or is that of LMF_Paddle); checkpoints are safetensors and
    JSON files, complete or absent; a resumed training gives the same bits; NaN or infinite parameters stop the training.
    Mixed precision and model parallelism are not supported.

    Attributes:
        module: the module.
        history: one dict per finished epoch: ``epoch``, means of what the module logged, validation metrics, ``best``.
    """

    def __init__(
        self,
        module: TrainingModule,
        args: LMFTrainingArguments,
        *,
        train_dataset: Any = None,
        validation_dataset: Any = None,
        collator: Callable[[Sequence[Any]], Mapping[str, np.ndarray]] | None = None,
        compute_metrics: Callable[[np.ndarray, np.ndarray], dict[str, float]] | None = None,
        callbacks: Sequence[TrainerCallback] = (),
    ) -> None:
        """Prepares training; random generators keep their states.

        Args:
            module: the module.
            args: see `training_arguments`.
            train_dataset: rows to train on: a `datasets.Dataset` with numeric columns, or a `paddle.io.Dataset` together
                with a `collator`.
            validation_dataset: rows to validate on after every epoch.
            collator: list of rows -> batch (dict of arrays); not needed for a `datasets.Dataset`.
            compute_metrics: (outputs `[N, ...]`, labels `[N, ...]`) -> metrics; for data with a column ``labels``.
            callbacks: further callbacks of PaddleNLP's kind.

        Raises:
            TrainingError: an argument is not supported.
        """
        if not isinstance(args, LMFTrainingArguments):
            raise TrainingError(f"args must be made by training_arguments, but got {type(args).__name__}. Call it.")
        for name in _UNSUPPORTED:
            if getattr(args, name):
                raise TrainingError(f"{name} must be off, since LMFTrainer does not support it. Leave it out.")
        if parallel.world_size() > 1 and args.row_order == "lmf_paddle":
            raise TrainingError(
                f"training.row_order must be seeded in {parallel.world_size()} processes, but got lmf_paddle. "
                "Start the training without a launcher, or choose seeded."
            )
        self._early_stopping = EarlyStopping(args.patience)
        self._history = History(self._early_stopping)
        self._finite_check, self._stops = FiniteCheck(), StopRequests()
        denormals = [FlushDenormals()] if args.row_order == "seeded" else []  # LMF_Paddle's bits need them
        first = [self._early_stopping, self._history, self._finite_check, *denormals, ModuleHooks(), self._stops]
        self._best: Path | None = None
        self._batches: RecordingCollator | None = None
        random_states = checkpoints.RandomStates.current()  # Trainer seeds all generators, after the network was built
        with quiet_paddlenlp():
            super().__init__(
                model=module,
                args=args,
                data_collator=collator,
                train_dataset=train_dataset,
                eval_dataset=validation_dataset,
                compute_metrics=compute_metrics,
                callbacks=[*first, *callbacks],
            )
            self.remove_callback(PrinterCallback)
            self.remove_callback(ProgressCallback)
        random_states.restore()
        self._own_collator = collator
        self.module = module  # Trainer may wrap it elsewhere
        module.trainer = self

    # -- for users

    @property
    def history(self) -> list[Row]:
        """One dict per finished epoch."""
        return self._history.rows

    @property
    def steps_per_epoch(self) -> int:
        """Optimiser updates of one epoch."""
        batches: Any = self._batches or self.get_train_dataloader().collate_fn
        return max(batches.steps // self.args.gradient_accumulation_steps, 1)

    def fit(self, resume: bool = False) -> list[Row]:
        """Trains, and leaves the module with the weights of its best epoch, in evaluation mode.

        Args:
            resume: continue from the last complete checkpoint, if there is one; the result has the same bits as that of an
                uninterrupted training. Otherwise checkpoints of an earlier training in the folder are removed.

        Returns:
            The history.

        Raises:
            TrainingError: the loss, a gradient or a parameter is not finite (earlier checkpoints are kept), or the
                monitored metric does not exist.
            RunError: the checkpoint is not of this training.
        """
        checkpoint = parallel.broadcast(self._first_checkpoint(resume) if parallel.rank() == 0 else None)
        epochs = self.args.num_train_epochs
        self._restore_progress(checkpoint)
        if self._early_stopping.exhausted:  # only the best weights are left to restore
            self.args.num_train_epochs = len(self.history)
        with quiet_paddlenlp():
            try:
                self.train(resume_from_checkpoint=None if checkpoint is None else str(checkpoint))
                if self._stops.error is not None:  # requested after the last checkpoint
                    raise self._stops.error
            finally:
                self.is_in_train = False
                flush_denormals(False)
                self.args.num_train_epochs = epochs
                os.environ.pop("TRAINER_GLOBAL_STEP", None)  # set by Trainer for its child processes
                self.model.eval()
        return self.history

    def stop(self, error: BaseException) -> None:
        """Makes `fit` raise `error` after the current step and its checkpoint; signal handlers may call this.

        The error is raised at once on the second request, and where checkpoints within an epoch are not possible: with
        save_strategy ``no``, in several processes, and in LMF_Paddle's row order, which depends on the random states at the
        beginning of the epoch.
        """
        can_save = (
            self.args.row_order == "seeded" and parallel.world_size() == 1 and self.args.save_strategy.value != "no"
        )
        if self._stops.error is not None or not (can_save and self.is_in_train):
            raise error
        self._stops.error = error

    def validate(self) -> dict[str, float]:
        """Mean loss and the metrics of ``compute_metrics`` on the validation rows."""
        return self._metrics(self.get_eval_dataloader())

    def test(self, dataset: Any) -> dict[str, float]:
        """Mean loss and the metrics of ``compute_metrics`` on any rows."""
        return self._metrics(self.get_test_dataloader(dataset))

    def _metrics(self, loader: paddle.io.DataLoader) -> dict[str, float]:
        metrics = self.evaluation_loop(loader, "Test").metrics
        return {name.removeprefix("eval_"): value for name, value in metrics.items()}

    def predict(self, dataset: Any) -> np.ndarray:
        """Results of ``predict_step`` for every row, in order."""
        self.model.eval()
        with paddle.no_grad():
            found = [self.model.predict_step(batch).numpy() for batch in self.get_test_dataloader(dataset)]
        return np.concatenate(found)

    # -- for the module and the callbacks

    def log_value(self, name: str, value: float | paddle.Tensor, rows: int) -> None:
        """Called by `TrainingModule.log`; ignores what is logged in evaluation mode."""
        if self.model.training:
            self._history.record(name, value, rows)

    def load_best_weights(self) -> None:
        """Gives the module the weights of the best epoch that has a checkpoint."""
        if self.args.load_best_model_at_end and self._best is not None:
            checkpoints.read_module(self._best, self.model)
            self.state.best_model_checkpoint = str(self._best)

    def describe_batch(self) -> str:
        """Names the current step of the epoch and the samples of its batch, as the end of a sentence."""
        accumulated, steps = self.args.gradient_accumulation_steps, self.steps_per_epoch
        number = self.state.global_step % steps
        batches = slice(number * accumulated, (number + 1) * accumulated)
        rows = "" if self._batches is None else self._batches.describe(batches, self.train_dataset)
        return f" in step {number + 1} of {steps}{rows}"

    # -- what Trainer asks for: data, optimiser, loss

    # (Trainer's own print_config and _wrap_model need the rest of paddlenlp.)

    def print_config(self, args: Any = None, key: str = "") -> None:
        """Prints nothing."""

    # (These two are asked in every step.)

    def _enable_delay_scale_loss(self) -> bool:
        return False

    def _print_timer(self) -> None:
        """There is none."""

    def _wrap_model(self, model: Any, training: bool = True) -> Any:
        parallel.share_weights(model)
        return model

    def get_train_dataloader(self) -> paddle.io.DataLoader:
        """Batches in the order of training."""
        if self.train_dataset is None:
            raise TrainingError("fit must have rows to train on, but train_dataset is None. Pass it to LMFTrainer.")
        return self._loader(self.train_dataset, self.args.per_device_train_batch_size, train=True)

    def get_eval_dataloader(self, eval_dataset: Any = None) -> paddle.io.DataLoader:
        """Batches in the order of the rows (while training in LMF_Paddle's order: shuffled)."""
        dataset = self.eval_dataset if eval_dataset is None else eval_dataset
        if dataset is None:
            raise TrainingError("validate must have rows, but validation_dataset is None. Pass it to LMFTrainer.")
        return self._loader(dataset, self.args.per_device_eval_batch_size, train=False)

    def get_test_dataloader(self, test_dataset: Any) -> paddle.io.DataLoader:
        """Batches in the order of the rows."""
        if test_dataset is None:
            raise TrainingError("test and predict must have rows, but got None. For the validation rows use validate.")
        return self.get_eval_dataloader(test_dataset)

    def _loader(self, dataset: Any, batch_size: int, train: bool) -> paddle.io.DataLoader:
        shuffled = self.args.row_order == "lmf_paddle" and self.is_in_train
        order = "lmf_paddle" if shuffled else "seeded" if train else None
        loader = make_loader(dataset, self._own_collator, batch_size, order=order, seed=self.args.seed)
        if train:
            collator: Any = loader.collate_fn
            self._batches = RecordingCollator(collator, len(loader))
            loader.collate_fn = self._batches  # type: ignore[assignment]
        return loader

    def create_optimizer_and_scheduler(self, num_training_steps: int) -> None:
        """Takes both from the module."""
        configured = self.model.configure_optimizers()
        self.optimizer, scheduler = configured if isinstance(configured, tuple) else (configured, None)
        # Trainer always steps a scheduler; this one does not belong to the optimizer
        self.lr_scheduler = scheduler or paddle.optimizer.lr.LambdaDecay(self.optimizer.get_lr(), lambda step: 1.0)

    def training_step(self, model: Any, inputs: Mapping[str, paddle.Tensor], step_control: int = 0) -> paddle.Tensor:
        """Forward and backward of one batch; Trainer's own sets the mode of every layer in every step."""
        if not self.model.training:
            model.train()
        loss = self.compute_loss(model, inputs)
        if self.args.gradient_accumulation_steps > 1:
            loss = loss / self.args.gradient_accumulation_steps
        loss.backward()
        parallel.average_gradients(self.model)
        return loss.detach()

    def compute_loss(self, model: Any, inputs: Mapping[str, paddle.Tensor], return_outputs: bool = False) -> Any:
        """The loss of the module's `training_step`."""
        return model(inputs)

    def _check_loss_valid(self, loss: paddle.Tensor) -> None:
        self._finite_check.check_step(self, loss)

    # -- evaluation

    def evaluation_loop(
        self,
        dataloader: paddle.io.DataLoader,
        description: str,
        prediction_loss_only: bool | None = None,
        ignore_keys: Any = None,
        metric_key_prefix: str = "eval",
        max_eval_iters: int | None = -1,
    ) -> EvalLoopOutput:
        """Evaluates all rows in rank 0, in order, and gives the metrics to the other processes.

        Trainer's own loop averages the losses of batches by rows, and shares the rows between processes.
        """
        if self.is_in_train:
            parallel.average_running_statistics(self.model)
        found = self._evaluate(dataloader) if parallel.rank() == 0 else None
        outputs, labels, metrics = parallel.broadcast(found)
        metrics = {f"{metric_key_prefix}_{name}": value for name, value in metrics.items()}
        return EvalLoopOutput(outputs, labels, metrics, len(dataloader.dataset))

    def _evaluate(self, loader: paddle.io.DataLoader) -> tuple[Any, Any, dict[str, float]]:
        """Outputs `[N, ...]` and labels `[N, ...]`, where metrics are computed from them, and metrics."""
        self.model.eval()
        losses, weights, outputs, labels = [], [], [], []
        with paddle.no_grad():
            for batch in loader:
                output = self.model(batch)
                losses.append(float(output["loss"]))
                weights.append(float(output.get("weight", len(next(iter(batch.values()))))))
                if self.compute_metrics is not None and "labels" in batch:
                    outputs.append(output["outputs"].numpy())
                    labels.append(batch["labels"].numpy())
        loss = {"loss": float(np.average(losses, weights=weights if sum(weights) else None))}
        if not outputs:
            return None, None, loss
        both = np.concatenate(outputs), np.concatenate(labels)
        return *both, {**loss, **self.compute_metrics(*both)}

    # -- checkpoints; Trainer's own are pickles, written in place

    def _first_checkpoint(self, resume: bool) -> Path | None:
        """The checkpoint to begin with; later ones are removed."""
        folder = Path(self.args.output_dir)
        checkpoint = checkpoints.last_complete(folder) if resume else None
        if self.args.save_strategy.value != "no":
            checkpoints.remove_after(folder, -1 if checkpoint is None else checkpoints.step_of(checkpoint))
        return checkpoint

    def _restore_progress(self, checkpoint: Path | None) -> None:
        self._stops.error = self._best = progress = None
        if checkpoint is not None:
            progress = checkpoints.read_progress(checkpoint)
            if len(progress.random_states) != parallel.world_size():
                raise RunError(
                    f"{checkpoint}: must be resumed with the number of processes that wrote it, {len(progress.random_states)}, "
                    f"but there are {parallel.world_size()}."
                )
            self._best = checkpoints.best_checkpoint(checkpoint)
        self._history.reset(progress)
        self._early_stopping.reset(0 if progress is None else progress.epochs_without_better)

    def _save_checkpoint(self, model: Any, metrics: Mapping[str, float] | None = None) -> None:
        path = Path(self.args.output_dir, f"checkpoint-{self.state.global_step}")
        if metrics is not None and self._early_stopping.improved:
            self.state.best_metric, self._best = self._early_stopping.best_metric, path
        random_states = parallel.gather(checkpoints.RandomStates.current())
        if parallel.rank() == 0:
            progress = {
                "history": self.history,
                "epochs_without_better": self._early_stopping.epochs_without_better,
                "best_checkpoint": None if self._best is None else self._best.name,
                "logged": {k: [(float(v), n) for v, n in log] for k, log in self._history.logged.items()},
                "random_states": random_states,
            }
            state = checkpoints.State(self.state.epoch, self.state.global_step, self.state.best_metric)
            checkpoints.write_checkpoint(path, self.model, self.optimizer, self._schedulers(), state, progress)
            checkpoints.rotate(path.parent, self.args.save_total_limit, self._best)
        parallel.barrier()

    def _load_from_checkpoint(self, resume_from_checkpoint: Any = None) -> None:
        if resume_from_checkpoint is not None:
            checkpoints.read_progress(Path(resume_from_checkpoint))  # checks the file that Trainer reads next
            checkpoints.read_module(Path(resume_from_checkpoint), self.model)

    def _load_optimizer_and_scheduler(self, checkpoint: Any) -> None:
        if checkpoint is not None:
            checkpoints.read_optimizer(Path(checkpoint), self.optimizer, self.model)
            checkpoints.restore_schedulers(Path(checkpoint), self._schedulers())
            self._load_rng_state(checkpoint)  # which Trainer does within epochs only

    def _schedulers(self) -> list[Any]:
        """Trainer's scheduler, and that of the optimiser if it is another one."""
        rate = self.optimizer._learning_rate
        others = [rate] if isinstance(rate, paddle.optimizer.lr.LRScheduler) and rate is not self.lr_scheduler else []
        return [self.lr_scheduler, *others]

    def _load_rng_state(self, checkpoint: Any) -> None:
        """Called by Trainer, too, when the finished batches of an epoch have been skipped."""
        checkpoints.read_progress(Path(checkpoint)).random_states[parallel.rank()].restore()
