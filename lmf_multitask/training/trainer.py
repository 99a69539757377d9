"""PaddleNLP's Trainer driving a `TrainingModule`: the only file that knows paddlenlp."""

from __future__ import annotations

import logging
import os
import random
import shutil
import tempfile
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal

import numpy as np
import paddle

from lmf_multitask.config import TrainingConfig
from lmf_multitask.data.collator import BatchCollator, RowNumbers
from lmf_multitask.data.schema import column_arrays
from lmf_multitask.errors import TrainingError
from lmf_multitask.files import atomic_folder, write_manifest
from lmf_multitask.runtime import flush_denormals, ignore_noise, quiet_imports
from lmf_multitask.training import parallel
from lmf_multitask.training.batches import DirectLoader, RememberedRows
from lmf_multitask.training.checkpoints import Progress, best_checkpoint, last_whole
from lmf_multitask.training.module import TrainingModule
from lmf_multitask.training.sampler import EpochBatchSampler, LMFPaddleBatchSampler

with quiet_imports():
    from paddlenlp.trainer import PrinterCallback, ProgressCallback, Trainer, TrainerCallback, TrainingArguments
    from paddlenlp.trainer.integrations import VisualDLCallback
    from paddlenlp.trainer.trainer_utils import EvalLoopOutput
    from paddlenlp.utils.log import logger as paddlenlp_logger

logger = logging.getLogger(__name__)

_TRAINERS_OWN = ("interval_", "learning_rate", "global_step", "progress_or_epoch")  # of no use in the history


def training_arguments(
    output_dir: str | Path, config: TrainingConfig | None = None, **others: Any
) -> TrainingArguments:
    """PaddleNLP's arguments for one evaluation and one checkpoint per epoch, best weights at the end.

    Args:
        output_dir: folder of the checkpoints.
        config: sizes of the batches, number of epochs, the figure that picks the best epoch.
        others: any of PaddleNLP's own arguments; they win.
    """
    config = config or TrainingConfig()
    processes = parallel.count()
    if config.batch_size % processes or config.batch_size < 2 * processes:
        raise TrainingError(
            f"training.batch_size must be a multiple of the {processes} processes, two rows each at least, "
            f"but got {config.batch_size}. Choose another."
        )
    settings = {
        "per_device_train_batch_size": config.batch_size // processes,
        "per_device_eval_batch_size": config.eval_batch_size,
        "num_train_epochs": config.epochs,
        "metric_for_best_model": f"eval_{config.monitor}",
        "greater_is_better": config.monitor != "loss",
        "load_best_model_at_end": True,
        "evaluation_strategy": "epoch",
        "save_strategy": "epoch",
        "logging_strategy": "epoch",
        "save_total_limit": 2,  # the last and one to fall back on; and the best one, which rotation never deletes
        "remove_unused_columns": False,
        "disable_tqdm": True,
        "report_to": "none",
        "device": paddle.get_device().split(":")[0],
    }
    with _quiet_paddlenlp():
        return TrainingArguments(output_dir=str(output_dir), **{**settings, **others})


class LMFTrainer(Trainer):
    """A `paddlenlp.trainer.Trainer` that trains a `TrainingModule`: ``fit``, ``validate``, ``test``, ``predict``.

    Trainer's own arguments, callbacks and integrations work as documented by PaddleNLP. On top of it: batches are
    gathered from whole columns, their order depends on seed and epoch alone (or is LMF_Paddle's, see `row_order`),
    checkpoints are complete or absent, random states are restored on resuming, and parameters that are no longer finite
    stop the training.

    Attributes:
        module: what is trained.
        history: one dict per finished epoch: ``epoch``, what the module logged, and the validation figures.
    """

    def __init__(
        self,
        module: TrainingModule,
        args: TrainingArguments,
        *,
        train_dataset: Any = None,
        validation_dataset: Any = None,
        collator: Callable[[Sequence[Any]], Mapping[str, np.ndarray]] | None = None,
        compute_metrics: Callable[[np.ndarray, np.ndarray], dict[str, float]] | None = None,
        patience: int | None = None,
        row_order: Literal["seeded", "lmf_paddle"] = "seeded",
        on_epoch: Callable[[dict[str, float]], None] | None = None,
        callbacks: Sequence[TrainerCallback] = (),
    ) -> None:
        """Prepares training; the random generators are left as they are.

        Args:
            module: what is trained.
            args: PaddleNLP's arguments, see `training_arguments`.
            train_dataset: rows to train on: a `datasets.Dataset` with numeric columns, or a `paddle.io.Dataset` together
                with a `collator`.
            validation_dataset: rows to validate on after every epoch.
            collator: a list of rows -> a batch (dict of arrays); not needed for a `datasets.Dataset`.
            compute_metrics: (logits `[N, ...]`, labels `[N, ...]`) -> figures; for data with a column ``labels``.
            patience: epochs without a better figure before training stops; None never stops early.
            row_order: ``seeded``: the order of the training rows depends on seed and epoch alone; ``lmf_paddle``: see
                `LMFPaddleBatchSampler`.
            on_epoch: called with the epoch's row of the history as soon as it is there.
            callbacks: further callbacks of PaddleNLP's kind.
        """
        if parallel.count() > 1 and row_order == "lmf_paddle":
            raise TrainingError(
                f"training.row_order lmf_paddle must be used in one process, but training was launched in {parallel.count()}. "
                "Start it without a launcher, or take seeded."
            )
        self.history: list[dict[str, float]] = []
        self._logged: dict[str, list[tuple[Any, int]]] = {}
        self._weighted_losses: list[tuple[paddle.Tensor, paddle.Tensor]] = []
        self._resumed_from: str | None = None
        self._batches: RememberedRows | None = None
        self._watched: list[tuple[str, paddle.Tensor]] = []
        self._alone = False
        self._stop_with: BaseException | None = None
        metrics = None
        if compute_metrics is not None:

            def metrics(prediction: Any) -> dict[str, float]:
                return compute_metrics(prediction.predictions, prediction.label_ids)

        self._wants_predictions = compute_metrics is not None
        with _quiet_paddlenlp(), _kept_random_states():
            super().__init__(
                model=module,
                args=args,
                data_collator=collator,
                train_dataset=train_dataset,
                eval_dataset=validation_dataset,
                compute_metrics=metrics,
                callbacks=[_EpochEnd(self, patience, on_epoch), *callbacks],
            )
            self.remove_callback(PrinterCallback)
            self.remove_callback(ProgressCallback)
        self._own_collator = collator
        self._row_order = row_order
        self.module = module  # which Trainer may wrap
        module.trainer = self

    # -- what users call

    def fit(self, resume: bool = False) -> list[dict[str, float]]:
        """Trains, and leaves the module with the weights of its best epoch.

        Args:
            resume: go on from the last complete checkpoint, if there is one; the result is the same as without a break.

        Returns:
            The history, one dict per epoch.

        Raises:
            TrainingError: the loss, a gradient or a parameter is not finite; the checkpoints of the epochs before are kept.
        """
        self._watched = self.module.watched_parameters()
        checkpoint = parallel.from_first(last_whole(self.args.output_dir) if resume and parallel.is_first() else None)
        self._resumed_from = None if checkpoint is None else str(checkpoint)
        self.history, self._logged, self._epoch_end.epochs_without_better = [], {}, 0
        self._stop_with = None
        epochs = self.args.num_train_epochs
        if checkpoint is not None:
            self._restore_progress()
            if self._epoch_end.out_of_patience():  # nothing is left but to take the best weights
                self.args.num_train_epochs = self.history[-1]["epoch"]
        with _quiet_paddlenlp():
            try:
                self.train(resume_from_checkpoint=self._resumed_from)
                if self._stop_with is not None:  # asked for after the last checkpoint
                    raise self._stop_with
            except ValueError as error:
                if "Loss contains inf or nan values" in str(error):
                    # the last finished step's epoch is a fraction, or the number of the epoch before
                    raise TrainingError(_not_finite("the training loss", int(self.state.epoch or 0) + 1)) from None
                raise
            finally:
                if self.flushes_denormals:
                    flush_denormals(False)
                self.args.num_train_epochs = epochs
                os.environ.pop("TRAINER_GLOBAL_STEP", None)  # Trainer's own message to its children
                self.model.eval()
        return self.history

    def stop(self, error: BaseException) -> None:
        """Lets `fit` raise `error` as soon as the step that it is in has been saved; a signal handler may call this.

        It is raised here and now when asked for a second time, and where steps within an epoch are not saved: without
        checkpoints, in several processes, and in LMF_Paddle's row order, which hangs on the random states at the epoch's begin.
        """
        can_save = self._row_order == "seeded" and parallel.count() == 1 and self.args.save_strategy != "no"
        if self._stop_with is not None or not (can_save and self.is_in_train):
            raise error
        self._stop_with = error

    @property
    def flushes_denormals(self) -> bool:
        """Whether steps take denormals for zero; not where LMF_Paddle is to be reproduced to the bit."""
        return self._row_order == "seeded"

    @property
    def steps_per_epoch(self) -> int:
        """Optimiser updates of one epoch."""
        batches = self._batches or self.get_train_dataloader().collate_fn
        return max(batches.steps // self.args.gradient_accumulation_steps, 1)

    def validate(self) -> dict[str, float]:
        """Figures on the validation rows."""
        return self._figures(self.get_eval_dataloader())

    def test(self, dataset: Any) -> dict[str, float]:
        """Mean loss and the figures of ``compute_metrics`` on any rows."""
        return self._figures(self.get_test_dataloader(dataset))

    def _figures(self, loader: paddle.io.DataLoader) -> dict[str, float]:
        with _quiet_paddlenlp():
            output = self.evaluation_loop(
                loader, "Test", prediction_loss_only=not self._wants_predictions, metric_key_prefix="eval"
            )
        self.model.eval()
        return {name.removeprefix("eval_"): value for name, value in output.metrics.items()}

    def predict(self, dataset: Any) -> np.ndarray:
        """What ``predict_step`` gives for every row, in order."""
        self.model.eval()
        with paddle.no_grad():
            found = [self.model.predict_step(batch).numpy() for batch in self.get_test_dataloader(dataset)]
        return np.concatenate(found)

    def log_value(self, name: str, value: float | paddle.Tensor, rows: int) -> None:
        """Called by `TrainingModule.log`; tensors are read at the end of the epoch, so that no step waits for them."""
        if self.model.training:
            self._logged.setdefault(name, []).append(
                (value.detach() if isinstance(value, paddle.Tensor) else value, rows)
            )

    # -- what PaddleNLP calls

    def get_train_dataloader(self) -> paddle.io.DataLoader:
        """Shuffled batches."""
        if self.train_dataset is None:
            raise TrainingError("fit must be given rows to train on, but train_dataset is None. Pass it to LMFTrainer.")
        return self._loader(self.train_dataset, self.args.per_device_train_batch_size, shuffle=True)

    def get_eval_dataloader(self, eval_dataset: Any = None) -> paddle.io.DataLoader:
        """Batches in the order of the rows (LMF_Paddle shuffles them in training)."""
        dataset = self.eval_dataset if eval_dataset is None else eval_dataset
        if dataset is None:
            raise TrainingError("validate must be given rows, but validation_dataset is None. Pass it to LMFTrainer.")
        return self._loader(dataset, self.args.per_device_eval_batch_size, shuffle=False)

    def get_test_dataloader(self, test_dataset: Any) -> paddle.io.DataLoader:
        """Batches in the order of the rows."""
        if test_dataset is None:
            raise TrainingError(
                "test and predict must be given rows, but got None. validate takes the validation rows."
            )
        return self.get_eval_dataloader(test_dataset)

    def _loader(self, dataset: Any, batch_size: int, shuffle: bool) -> paddle.io.DataLoader:
        collator, kind = self._own_collator, paddle.io.DataLoader
        if collator is None:
            kind = DirectLoader
            collator = BatchCollator(column_arrays(dataset))
            dataset = RowNumbers(len(dataset))
        if self._row_order == "lmf_paddle" and self.is_in_train:
            sampler = LMFPaddleBatchSampler(dataset, batch_size)
        elif shuffle:
            processes = parallel.count()
            sampler = EpochBatchSampler(
                dataset, batch_size * processes, self.args.seed, processes=processes, process=parallel.number()
            )
        else:
            sampler = EpochBatchSampler(dataset, batch_size)
        if shuffle:
            collator = self._batches = RememberedRows(collator, len(sampler))
        return kind(dataset, batch_sampler=sampler, collate_fn=collator, num_workers=0)

    def create_optimizer_and_scheduler(self, num_training_steps: int) -> None:
        """Takes both from the module."""
        configured = self.model.configure_optimizers()
        self.optimizer, scheduler = configured if isinstance(configured, tuple) else (configured, None)
        # Trainer advances and saves a scheduler in any case; one that the optimiser does not know changes nothing
        self.lr_scheduler = scheduler or paddle.optimizer.lr.LambdaDecay(self.optimizer.get_lr(), lambda step: 1.0)

    def compute_loss(self, model: Any, inputs: Mapping[str, paddle.Tensor], return_outputs: bool = False) -> Any:
        """The loss of `training_step`, or of `validation_step` in evaluation mode."""
        output = model(inputs)
        loss = output["loss"] if isinstance(output, Mapping) else output
        return (loss, output) if return_outputs else loss

    def training_step(self, model: Any, inputs: Mapping[str, paddle.Tensor], step_control: int = 0) -> paddle.Tensor:
        """Forward and backward, and a look whether all that came of it is finite.

        The loss alone does not tell: on a CPU Paddle's relu turns NaN into 0. The look costs 0.1 ms for a network of the
        default sizes.
        """
        loss = super().training_step(model, inputs)
        for name, weight in self._watched:
            value = weight if weight.stop_gradient else weight.grad
            if value is not None and not np.isfinite(value.numpy()).all():
                told = name if weight.stop_gradient else f"the gradient of {name}"
                what = told if np.isfinite(float(loss)) else "the training loss"
                raise TrainingError(
                    _not_finite(what, int(self.state.epoch or 0) + 1)
                    + f" First seen in {told}{self._batch_in_words()}."
                )
        return loss

    def _batch_in_words(self) -> str:
        """Where in the epoch the current step is, and of which clips its batch consists."""
        batches = self._batches
        if batches is None or not batches.rows:
            return ""
        number = self.state.global_step % batches.steps
        text = f" in step {number + 1} of {batches.steps}"
        rows = batches.rows[number] if number < len(batches.rows) else []
        if not all(isinstance(row, (int, np.integer)) for row in rows):  # of a data set that is not numbered
            return text
        named = "id" in getattr(self.train_dataset, "column_names", ())
        clips = [str(self.train_dataset[int(row)]["id"]) if named else str(row) for row in rows]
        logger.debug("the batch of that step: %s", ", ".join(clips))
        rest = f" and {len(clips) - 8} more (see train.log)" if len(clips) > 8 else ""
        return f"{text}, on the clips {', '.join(clips[:8])}{rest}"

    def prediction_step(
        self, model: Any, inputs: Mapping[str, paddle.Tensor], prediction_loss_only: bool, ignore_keys: Any = None
    ) -> tuple[paddle.Tensor, paddle.Tensor | None, paddle.Tensor | None]:
        """Loss, logits and labels of one validation batch."""
        with paddle.no_grad():
            output = model(inputs)
        loss = output["loss"].detach()
        if "weight" in output:
            self._weighted_losses.append((loss, output["weight"]))
        return (loss, None, None) if prediction_loss_only else (loss, output["logits"], inputs.get("labels"))

    def evaluation_loop(self, *positional: Any, **named: Any) -> Any:
        """As `_evaluate_all`; of several processes the first evaluates all rows, in order, and tells the others its figures."""
        if parallel.count() == 1:
            return self._evaluate_all(*positional, **named)
        if self.is_in_train:
            parallel.average_running_statistics(self.model)
        output = None
        if parallel.is_first():
            self._alone = True
            try:
                output = self._evaluate_all(*positional, **named)
            finally:
                self._alone = False
        told = parallel.from_first(None if output is None else (output.metrics, output.num_samples))
        return output or EvalLoopOutput(predictions=None, label_ids=None, metrics=told[0], num_samples=told[1])

    def _nested_gather(self, tensors: Any) -> Any:
        """From all processes, unless the first evaluates alone."""
        return tensors if self._alone else super()._nested_gather(tensors)

    def _evaluate_all(self, *positional: Any, metric_key_prefix: str = "eval", **others: Any) -> Any:
        """Trainer averages the losses of batches by their rows; here by what the module says that they are means over."""
        self._weighted_losses = []
        output = super().evaluation_loop(*positional, metric_key_prefix=metric_key_prefix, **others)
        losses, weights = (np.array([float(pair[i]) for pair in self._weighted_losses]) for i in (0, 1))
        if weights.sum() > 0:
            output.metrics[f"{metric_key_prefix}_loss"] = float((losses * weights).sum() / weights.sum())
        return output

    def log(self, logs: dict[str, float], **others: Any) -> None:
        """Adds the epoch's means of what the module logged."""
        if "loss" in logs:
            for name, entries in self._logged.items():
                rows = np.array([count for _, count in entries], np.float64)
                values = np.array([float(value) for value, _ in entries], np.float64)
                both = np.array([(values * rows).sum(), rows.sum()])
                if parallel.count() > 1:
                    both = parallel.summed(paddle.to_tensor(both)).numpy()
                logs[name] = float(both[0] / both[1])
            self._logged = {}
        super().log(logs, **others)

    # -- checkpoints

    def _save_checkpoint(self, model: Any, metrics: dict[str, float] | None = None) -> None:
        """Lets Trainer write aside, then renames: Trainer itself writes in place and takes half-written ones for whole."""
        if not parallel.is_first():
            self._take_part_in_saving(model, metrics)
            return
        args, name = self.args, f"checkpoint-{self.state.global_step}"
        root, signals, limit = Path(args.output_dir), args.output_signal_dir, args.save_total_limit
        with atomic_folder(root / name) as folder:
            stage = folder / ".stage"
            args.output_dir = args.output_signal_dir = str(stage)
            args.save_total_limit = None
            try:
                super()._save_checkpoint(model, metrics)
            finally:
                args.output_dir, args.output_signal_dir, args.save_total_limit = str(root), signals, limit
            if self.state.best_model_checkpoint == str(stage / name):
                self.state.best_model_checkpoint = str(root / name)
            self.state.save_to_json(str(stage / name / "trainer_state.json"))
            (stage / name / "training_args.bin").unlink(missing_ok=True)  # a pickle that nothing reads
            Progress(
                history=self.history,
                epochs_without_better=self._epoch_end.epochs_without_better,
                logged={name: [(float(v), rows) for v, rows in found] for name, found in self._logged.items()},
            ).write(stage / name)
            for file in (stage / name).iterdir():
                file.rename(folder / file.name)
            shutil.rmtree(stage)
            write_manifest(folder)
        # Trainer rotates only under a launcher
        self._rotate_checkpoints(use_mtime=True, output_dir=str(root))
        parallel.wait()

    def _take_part_in_saving(self, model: Any, metrics: dict[str, float] | None) -> None:
        """A process that is not the first gives its random states, and notes the best epoch; it keeps no file."""
        args, name = self.args, f"checkpoint-{self.state.global_step}"
        root, signals, limit = Path(args.output_dir), args.output_signal_dir, args.save_total_limit
        with tempfile.TemporaryDirectory(prefix="lmf-") as aside:
            args.output_dir = args.output_signal_dir = aside
            args.save_total_limit = None
            try:
                super()._save_checkpoint(model, metrics)
            finally:
                args.output_dir, args.output_signal_dir, args.save_total_limit = str(root), signals, limit
        if self.state.best_model_checkpoint == str(Path(aside) / name):
            self.state.best_model_checkpoint = str(root / name)
        parallel.wait()

    @property
    def _epoch_end(self) -> _EpochEnd:
        return next(c for c in self.callback_handler.callbacks if isinstance(c, _EpochEnd))

    def _restore_progress(self) -> None:
        """The history and the patience of the run that is gone on with."""
        progress = Progress.read(self._resumed_from)
        self.history, self._logged = progress.history, progress.logged
        self._epoch_end.epochs_without_better = progress.epochs_without_better

    def _restore_states(self) -> None:
        """After Trainer has loaded weights and optimiser: the random states, and where the best weights are."""
        best = best_checkpoint(Path(self._resumed_from))
        self.state.best_model_checkpoint = best and str(best)
        self._load_rng_state(self._resumed_from)  # Trainer skips this at the boundary of epochs


class _EpochEnd(TrainerCallback):
    """History, early stopping, finite parameters; stopping when asked to; and what Trainer forgets on resuming."""

    def __init__(
        self, trainer: LMFTrainer, patience: int | None, on_epoch: Callable[[dict[str, float]], None] | None
    ) -> None:
        self._trainer, self._patience, self._on_epoch = trainer, patience, on_epoch
        self.epochs_without_better = 0
        self._best: float | None = None
        self._latest: dict[str, float] = {}

    def on_train_begin(self, args: Any, state: Any, control: Any, **others: Any) -> None:
        if self._trainer._resumed_from is not None:
            self._trainer._restore_states()
        self._best, self._latest = state.best_metric, {}

    def on_step_begin(self, args: Any, state: Any, control: Any, **others: Any) -> None:
        if self._trainer.flushes_denormals:
            flush_denormals(True)

    def on_step_end(self, args: Any, state: Any, control: Any, **others: Any) -> None:
        if self._trainer.flushes_denormals:
            flush_denormals(False)
        self._trainer.module.on_train_batch_end(state.global_step)
        if self._trainer._stop_with is not None and state.global_step % self._trainer.steps_per_epoch:
            control.should_save = True  # at the end of an epoch it is saved in any case, after validation

    def on_save(self, args: Any, state: Any, control: Any, **others: Any) -> None:
        if self._trainer._stop_with is not None:
            steps = self._trainer.steps_per_epoch
            epoch, step = divmod(state.global_step - 1, steps)
            logger.info("saved after step %d of %d of epoch %d", step + 1, steps, epoch + 1)
            raise self._trainer._stop_with

    def on_epoch_end(self, args: Any, state: Any, control: Any, model: Any = None, **others: Any) -> None:
        for name, weight in model.named_parameters():
            if not bool(paddle.isfinite(weight).all()):
                raise TrainingError(_not_finite(f"the parameter {name}", round(state.epoch)))
        self._trainer.module.on_train_epoch_end()

    def on_log(self, args: Any, state: Any, control: Any, logs: dict[str, float] | None = None, **others: Any) -> None:
        if logs and "loss" in logs:
            self._latest = {name: value for name, value in logs.items() if not name.startswith(_TRAINERS_OWN)}

    def on_evaluate(
        self, args: Any, state: Any, control: Any, metrics: dict[str, float] | None = None, **others: Any
    ) -> None:
        if not self._trainer.is_in_train:
            return
        figures = {
            n.removeprefix("eval_"): v
            for n, v in metrics.items()
            if not n.endswith(("runtime", "per_second", "progress_or_epoch"))
        }
        figures = {f"validation_{name}": value for name, value in figures.items() if isinstance(value, (int, float))}
        row = {
            "epoch": round(state.epoch),
            **{n: v for n, v in self._latest.items() if n != "loss" or len(self._latest) == 1},
            **figures,
        }
        value = metrics.get(args.metric_for_best_model)
        if value is not None:
            better = self._best is None or (value > self._best if args.greater_is_better else value < self._best)
            self._best = value if better else self._best
            self.epochs_without_better = 0 if better else self.epochs_without_better + 1
            row["best"] = int(better)
        self._trainer.history.append(row)
        if self._on_epoch is not None:
            self._on_epoch(row)
        if self.out_of_patience():
            control.should_training_stop = True

    def out_of_patience(self) -> bool:
        """Whether too many epochs in a row were no better."""
        return self._patience is not None and self.epochs_without_better >= self._patience


class VisualDLLogs(VisualDLCallback):
    """PaddleNLP's VisualDL logs, without the hyper-parameter record that newer protobuf refuses."""

    def _init_summary_writer(self, args: Any, log_dir: str | None = None) -> None:
        super()._init_summary_writer(args, log_dir)
        if self.vdl_writer is not None:
            self.vdl_writer.add_hparams = lambda *positional, **named: None


def _not_finite(what: str, epoch: int) -> str:
    return (
        f"{what} must stay finite, but became NaN or infinite in epoch {epoch}. "
        "Usual causes: a learning rate that is too high, or features of a very large size (see `lmf data inspect`)."
    )


@contextmanager
def _kept_random_states() -> Iterator[None]:
    """Trainer's constructor seeds every generator, after the network has been built: undo that."""
    states = random.getstate(), np.random.get_state(), paddle.get_rng_state()
    yield
    random.setstate(states[0])
    np.random.set_state(states[1])
    paddle.set_rng_state(states[2])


@contextmanager
def _quiet_paddlenlp() -> Iterator[None]:
    """Silences PaddleNLP's log below warnings (150 lines of it are a dump of the arguments), and known warnings."""
    level = paddlenlp_logger.logger.level
    paddlenlp_logger.set_level("WARNING")
    try:
        with warnings.catch_warnings():
            ignore_noise()
            yield
    finally:
        paddlenlp_logger.logger.setLevel(level)
