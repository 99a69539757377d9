"""`LMFTrainer` with a module that has nothing to do with emotions: what users of the class rely on."""

import json
import os
import platform
import random
import signal
import subprocess
import sys
from contextlib import nullcontext
from pathlib import Path

import datasets
import numpy as np
import paddle
import pytest
from paddle.nn import functional as F
from paddlenlp.trainer import Trainer, TrainerCallback, TrainingArguments

from lmf_multitask.errors import TrainingError
from lmf_multitask.training import parallel
from lmf_multitask.training.arguments import training_arguments
from lmf_multitask.training.callbacks import OnEpoch
from lmf_multitask.training.config import TrainingConfig
from lmf_multitask.training.module import TrainingModule
from lmf_multitask.training.trainer import LMFTrainer

ROWS = 21


class Toy(TrainingModule):
    """Two classes from four numbers, with everything that resuming must restore: dropout, running statistics."""

    def __init__(self, scheduler=False):
        super().__init__()
        self.first, self.norm = paddle.nn.Linear(4, 8), paddle.nn.BatchNorm1D(8)
        self.dropout, self.last = paddle.nn.Dropout(0.5), paddle.nn.Linear(8, 2)
        self._with_scheduler = scheduler

    def logits(self, batch):
        return self.last(self.dropout(F.relu(self.norm(self.first(batch["x"])))))

    def training_step(self, batch):
        loss = F.cross_entropy(self.logits(batch), batch["labels"])
        self.log("train_loss", loss, rows=len(batch["labels"]))
        return loss

    def validation_step(self, batch):
        logits = self.logits(batch)
        return {"loss": F.cross_entropy(logits, batch["labels"]), "outputs": logits}

    def configure_optimizers(self):
        if not self._with_scheduler:
            return paddle.optimizer.Adam(0.01, parameters=self.parameters())
        self.scheduler = paddle.optimizer.lr.StepDecay(0.01, step_size=4, gamma=0.1)
        return paddle.optimizer.SGD(self.scheduler, parameters=self.parameters()), self.scheduler


def columns(rows=ROWS, seed=0):
    x = np.random.default_rng(seed).normal(size=(rows, 4)).astype("float32")
    return {"x": x, "labels": (x[:, 0] * x[:, 1] > 0).astype("int64")}


def hf_dataset(rows=ROWS, seed=0):
    types = datasets.Features(
        {"x": datasets.Sequence(datasets.Value("float32"), length=4), "labels": datasets.Value("int64")}
    )
    return datasets.Dataset.from_dict(columns(rows, seed), features=types)


class Pairs(paddle.io.Dataset):
    """A `paddle.io.Dataset` of pairs; a collator makes batches of them."""

    def __init__(self, rows=ROWS, seed=0):
        self.columns = columns(rows, seed)

    def __len__(self):
        return len(self.columns["x"])

    def __getitem__(self, number):
        return self.columns["x"][number], self.columns["labels"][number]


def collate(rows):
    return {"x": np.stack([x for x, _ in rows]), "labels": np.array([label for _, label in rows])}


def accuracy(logits, labels):
    return {"accuracy": float((logits.argmax(axis=-1) == labels).mean())}


def build(
    folder,
    module=None,
    epochs=4,
    monitor="accuracy",
    patience=None,
    row_order="seeded",
    arguments=None,
    seed=1,
    **settings,
):
    """A trainer on the toy data."""
    paddle.seed(seed)
    np.random.seed(seed)
    random.seed(seed)
    module = module or Toy()
    config = TrainingConfig(epochs=epochs, batch_size=5, patience=patience, row_order=row_order)
    arguments = {
        "metric_for_best_model": f"eval_{monitor}", "greater_is_better": monitor != "loss", "seed": seed, **(arguments or {}),
    }  # fmt: skip
    settings = {
        "train_dataset": hf_dataset(),
        "validation_dataset": hf_dataset(9, seed=1),
        "compute_metrics": accuracy,
        **settings,
    }
    return LMFTrainer(module, training_arguments(folder, config, **arguments), **settings)


@pytest.fixture(autouse=True)
def unique_names():
    """Paddle names parameters as in a new process."""
    with paddle.utils.unique_name.guard():
        yield


def bits(trainer):
    return {name: weight.numpy().tobytes() for name, weight in trainer.model.named_parameters()}


class Stop(Exception):
    """Raised instead of killing a process."""


class StopAt(TrainerCallback):
    """Raises `Stop` at the nth call of an event."""

    def __init__(self, event, number):
        self.left = number
        setattr(self, event, self.count)

    def count(self, *_, **__):
        self.left -= 1
        if self.left == 0:
            raise Stop


# -- a user's own module on a user's own data


def test_trains_on_a_paddle_dataset_with_a_collator(tmp_path):
    trainer = build(
        tmp_path,
        epochs=30,
        train_dataset=Pairs(),
        validation_dataset=Pairs(9, seed=1),
        collator=collate,
        monitor="loss",
    )
    history = trainer.fit()
    assert [row["epoch"] for row in history] == list(range(1, 31))
    assert history[-1]["train_loss"] < history[0]["train_loss"] - 0.1


def test_both_kinds_of_data_give_the_same_bits(tmp_path):
    first = build(tmp_path / "a")
    history = first.fit()
    with paddle.utils.unique_name.guard():
        second = build(tmp_path / "b", train_dataset=Pairs(), validation_dataset=Pairs(9, seed=1), collator=collate)
        assert second.fit() == history
    assert bits(first) == bits(second)


def test_is_a_paddlenlp_trainer_and_calls_its_callbacks(tmp_path):
    class Recorder(TrainerCallback):
        def __init__(self):
            self.calls = []

        def on_train_begin(self, args, state, control, **kwargs):
            self.calls.append("begin")

        def on_step_end(self, args, state, control, **kwargs):
            self.calls.append(state.global_step)

        def on_evaluate(self, args, state, control, metrics=None, **kwargs):
            self.calls.append(sorted(name for name in metrics if name in ("eval_loss", "eval_accuracy")))

        def on_save(self, args, state, control, **kwargs):
            self.calls.append("save")

        def on_train_end(self, args, state, control, **kwargs):
            self.calls.append("end")

    recorder = Recorder()
    trainer = build(tmp_path, epochs=2, callbacks=[recorder])
    assert isinstance(trainer, Trainer)
    trainer.fit()
    epoch = [["eval_accuracy", "eval_loss"], "save"]
    # 21 rows in batches of 5: the last single row joins the fourth batch
    assert recorder.calls == ["begin", 1, 2, 3, 4, *epoch, 5, 6, 7, 8, *epoch, "end"]


def test_arguments_of_paddlenlp_take_precedence(tmp_path):
    args = training_arguments(tmp_path, TrainingConfig(epochs=3, batch_size=7), num_train_epochs=9, save_total_limit=4)
    assert (args.num_train_epochs, args.save_total_limit, args.per_device_train_batch_size) == (9, 4, 7)
    assert training_arguments(tmp_path, TrainingConfig(monitor="loss")).greater_is_better is False
    assert training_arguments(tmp_path, TrainingConfig(monitor="uar")).greater_is_better is True


@pytest.mark.parametrize(("size", "each"), [(4, 2), (6, 3), (2, None), (5, None)])
def test_processes_share_a_batch(tmp_path, monkeypatch, size, each):
    """At least two rows for each: batch normalisation of one row is meaningless."""
    monkeypatch.setattr(parallel, "world_size", lambda: 2)
    if each is not None:
        assert training_arguments(tmp_path, TrainingConfig(batch_size=size)).per_device_train_batch_size == each
        return
    with pytest.raises(
        TrainingError,
        match=f"training.batch_size must be a multiple of the number of processes, 2, .* but got {size}. Choose",
    ):
        training_arguments(tmp_path, TrainingConfig(batch_size=size))


def test_lmf_paddles_order_needs_one_process(tmp_path, monkeypatch):
    arguments = training_arguments(tmp_path, row_order="lmf_paddle")
    monkeypatch.setattr(parallel, "world_size", lambda: 2)
    with pytest.raises(TrainingError, match="row_order must be seeded in 2 processes, but got lmf_paddle"):
        LMFTrainer(Toy(), arguments, train_dataset=hf_dataset())


def test_max_steps_of_paddlenlp_ends_the_training(tmp_path):
    trainer = build(tmp_path, epochs=5, arguments={"max_steps": 6})
    trainer.fit()
    assert trainer.state.global_step == 6


def test_constructor_touches_no_random_generator(tmp_path):
    build(tmp_path)  # what happens once per process
    random.seed(5)
    np.random.seed(5)
    paddle.seed(5)
    module = Toy()
    before = random.getstate(), np.random.get_state()[1].tolist(), paddle.get_rng_state()[0].current_seed()
    expected = paddle.rand([4]).numpy()
    paddle.seed(5)
    Toy()
    LMFTrainer(module, training_arguments(tmp_path, seed=77), train_dataset=hf_dataset())
    assert random.getstate() == before[0]
    assert np.random.get_state()[1].tolist() == before[1]
    assert paddle.get_rng_state()[0].current_seed() == before[2]
    np.testing.assert_array_equal(paddle.rand([4]).numpy(), expected)


def test_a_monitor_that_does_not_exist_is_one_error_at_the_first_validation(tmp_path):
    trainer = build(tmp_path, monitor="acuracy")
    with pytest.raises(
        TrainingError,
        match=r"^training\.monitor must be a validation metric, one of accuracy, loss, but got acuracy\. Choose another\.$",
    ):
        trainer.fit()
    assert trainer.history == []
    with paddle.utils.unique_name.guard(), pytest.raises(TrainingError, match="one of loss, but got accuracy"):
        build(tmp_path, compute_metrics=None).fit()


@pytest.mark.parametrize("name", ["fp16", "bf16", "unified_checkpoint"])
def test_unsupported_arguments_are_refused(tmp_path, name):
    args = training_arguments(tmp_path)
    setattr(args, name, True)
    with pytest.raises(TrainingError, match=f"^{name} must be off"):
        LMFTrainer(Toy(), args, train_dataset=hf_dataset())


def test_arguments_must_be_those_of_training_arguments(tmp_path):
    args = TrainingArguments(output_dir=str(tmp_path), device="cpu")
    with pytest.raises(TrainingError, match="must be made by training_arguments, but got TrainingArguments"):
        LMFTrainer(Toy(), args, train_dataset=hf_dataset())


def test_missing_rows_are_named(tmp_path):
    with pytest.raises(TrainingError, match="fit must have rows to train on, but train_dataset is None"):
        build(tmp_path, train_dataset=None).fit()
    with pytest.raises(TrainingError, match="validate must have rows, but validation_dataset is None"):
        build(
            tmp_path, validation_dataset=None, arguments={"evaluation_strategy": "no", "load_best_model_at_end": False}
        ).validate()
    for ask in (build(tmp_path).test, build(tmp_path).predict):
        with pytest.raises(
            TrainingError, match="test and predict must have rows, but got None. For the validation rows"
        ):
            ask(None)


def test_leaves_the_process_as_it_was(tmp_path):
    from paddlenlp.utils.log import logger

    level, environment = logger.logger.level, dict(os.environ)
    build(tmp_path, epochs=1).fit()
    assert logger.logger.level == level
    assert dict(os.environ) == environment


# -- history, best epoch, patience


def test_history_has_a_row_per_epoch(tmp_path):
    seen = []
    trainer = build(tmp_path, epochs=3, callbacks=[OnEpoch(lambda row: seen.append(dict(row)))])
    history = trainer.fit()
    assert history is trainer.history
    assert history == seen
    assert [list(row) for row in history] == [
        ["epoch", "train_loss", "validation_loss", "validation_accuracy", "best"]
    ] * 3
    assert [row["epoch"] for row in history] == [1, 2, 3]
    assert history[0]["best"] == 1
    assert all(type(value) in (int, float) for row in history for value in row.values())


def test_a_module_that_logs_nothing_has_its_loss_in_the_history(tmp_path):
    class Silent(Toy):
        def log(self, name, value, rows=1):
            pass

    history = build(tmp_path, Silent(), epochs=1).fit()
    assert list(history[0]) == ["epoch", "loss", "validation_loss", "validation_accuracy", "best"]


def test_logged_means_are_weighted_by_rows(tmp_path):
    class Sizes(Toy):
        def training_step(self, batch):
            rows = len(batch["labels"])
            self.log("weighted", float(rows), rows=rows)
            self.log("plain", paddle.to_tensor(float(rows)))
            self.log("first_only", 3.5) if not self.seen else None
            self.seen = True
            return super().training_step(batch)

        def validation_step(self, batch):
            self.log("weighted", 1000.0)  # the history's means are of training
            return super().validation_step(batch)

        seen = False

    history = build(tmp_path, Sizes(), epochs=2).fit()
    assert history[0]["weighted"] == history[1]["weighted"] == pytest.approx((3 * 25 + 36) / 21)
    assert history[0]["plain"] == pytest.approx(21 / 4)
    assert history[0]["first_only"] == 3.5
    assert "first_only" not in history[1]


def scripted(values):
    """Metrics with given values, one per evaluation."""
    values = iter(values)
    return lambda logits, labels: {"accuracy": next(values)}


class Snapshots(TrainerCallback):
    def __init__(self):
        self.bits = []

    def on_evaluate(self, args, state, control, model=None, **kwargs):
        self.bits.append({name: weight.numpy().tobytes() for name, weight in model.named_parameters()})


def test_patience_and_best_weights(tmp_path):
    snapshots = Snapshots()
    values = [0.5, 0.7, 0.7, 0.6, 0.9, 0.9]  # a tie is no improvement
    trainer = build(tmp_path, epochs=6, compute_metrics=scripted(values), patience=2, callbacks=[snapshots])
    history = trainer.fit()
    assert [row["best"] for row in history] == [1, 1, 0, 0]
    assert len(set(map(str, snapshots.bits))) == 4
    assert bits(trainer) == snapshots.bits[1]
    assert not trainer.model.training
    assert trainer.state.best_model_checkpoint == str(tmp_path / "checkpoint-8")


def test_without_patience_all_epochs_run(tmp_path):
    snapshots = Snapshots()
    values = [0.9, 0.5, 0.4, 0.3, 0.2]
    trainer = build(tmp_path, epochs=5, compute_metrics=scripted(values), callbacks=[snapshots])
    assert len(trainer.fit()) == 5
    assert bits(trainer) == snapshots.bits[0]


def test_a_loss_is_better_when_it_is_lower(tmp_path):
    class Scripted(Toy):
        losses = iter([3.0, 1.0, 2.0])

        def validation_step(self, batch):
            return {**super().validation_step(batch), "loss": paddle.to_tensor(next(self.losses))}

    snapshots = Snapshots()
    trainer = build(tmp_path, Scripted(), epochs=3, monitor="loss", callbacks=[snapshots])
    assert [(row["validation_loss"], row["best"]) for row in trainer.fit()] == [(3.0, 1), (1.0, 1), (2.0, 0)]
    assert bits(trainer) == snapshots.bits[1]


def test_fitting_again_starts_a_new_history(tmp_path):
    trainer = build(tmp_path, epochs=2, patience=1, compute_metrics=scripted([0.9, 0.5, 0.3, 0.4]))
    assert [row["best"] for row in trainer.fit()] == [1, 0]
    assert [(row["epoch"], row["best"]) for row in trainer.fit()] == [(1, 1), (2, 1)]


def test_scheduler_is_advanced_after_every_step(tmp_path):
    module = Toy(scheduler=True)
    build(tmp_path, module, epochs=3).fit()  # 12 steps
    assert module.scheduler.last_epoch == 12
    assert module.scheduler.get_lr() == pytest.approx(1e-5)


# -- evaluation


def test_evaluation_equals_arithmetic(tmp_path):
    trainer = build(tmp_path, epochs=2, arguments={"per_device_eval_batch_size": 4})
    trainer.fit()
    for data, metrics in (
        (hf_dataset(9, seed=1), trainer.validate()),
        (hf_dataset(13, seed=2), trainer.test(hf_dataset(13, seed=2))),
    ):
        arrays = data.with_format("numpy")
        logits = trainer.predict(data)
        assert logits.shape == (len(data), 2)
        logs = logits.astype("float64") - np.log(np.exp(logits.astype("float64")).sum(axis=1, keepdims=True))
        labels = arrays["labels"][:]
        # over rows, not over batches: 9 rows are 4 + 4 + 1
        assert metrics["loss"] == pytest.approx(-logs[np.arange(len(data)), labels].mean(), rel=1e-5)
        assert metrics["accuracy"] == (logits.argmax(axis=1) == labels).mean()
    best = [row for row in trainer.history if row["best"]][-1]
    assert trainer.validate()["accuracy"] == best["validation_accuracy"]
    assert len(trainer.history) == 2


def test_validation_without_metrics_gives_the_loss(tmp_path):
    trainer = build(tmp_path, epochs=1, monitor="loss", compute_metrics=None)
    assert list(trainer.fit()[0]) == ["epoch", "train_loss", "validation_loss", "best"]
    assert trainer.validate()["loss"] == pytest.approx(trainer.history[0]["validation_loss"], rel=1e-6)


def test_predictions_need_no_labels(tmp_path):
    class Unlabelled(Toy):
        def predict_step(self, batch):
            return self.logits(batch)

    trainer = build(tmp_path, Unlabelled(), epochs=1)
    trainer.fit()
    np.testing.assert_array_equal(trainer.predict(hf_dataset().remove_columns("labels")), trainer.predict(hf_dataset()))


def test_losses_are_averaged_by_the_given_weights(tmp_path):
    """9 rows in batches of 4, 4 and 1, with weights 1, 2 and 3."""

    class Weighted(Toy):
        def validation_step(self, batch):
            output = super().validation_step(batch)
            self.given.append((float(output["loss"]), 1 + len(self.given)))
            return {**output, "weight": paddle.to_tensor(self.given[-1][1])}

    module = Weighted()
    trainer = build(tmp_path, module, arguments={"per_device_eval_batch_size": 4})
    for _ in range(2):  # a second evaluation forgets the first
        module.given = []
        found = trainer.validate()["loss"]
        losses, weights = map(np.array, zip(*module.given))
        assert weights.tolist() == [1, 2, 3]
        assert found == pytest.approx((losses * weights).sum() / 6, rel=1e-6)


def test_validation_rows_without_weight_have_a_plain_mean(tmp_path):
    class Weightless(Toy):
        def validation_step(self, batch):
            return {**super().validation_step(batch), "weight": paddle.to_tensor(0)}

    assert np.isfinite(build(tmp_path, Weightless()).validate()["loss"])


def test_metrics_and_predictions_leave_the_module_in_evaluation_mode(tmp_path):
    trainer = build(tmp_path)
    trainer.model.train()
    trainer.validate()
    assert not trainer.model.training
    trainer.model.train()
    statistics = trainer.model.norm._mean.numpy()
    np.testing.assert_array_equal(trainer.predict(hf_dataset()), trainer.predict(hf_dataset()))  # no dropout
    np.testing.assert_array_equal(trainer.model.norm._mean.numpy(), statistics)


@pytest.mark.parametrize(("accumulated", "updates"), [(1, 4), (2, 2), (3, 1), (9, 1)])
def test_updates_of_an_epoch(tmp_path, accumulated, updates):
    """21 rows make four batches of 5; so many of them make one update."""
    trainer = build(tmp_path, epochs=1, arguments={"gradient_accumulation_steps": accumulated})
    assert trainer.steps_per_epoch == updates
    if accumulated < 4:
        trainer.fit()
        assert trainer.steps_per_epoch == updates
        assert trainer.state.global_step == updates


def denormal():
    return float(np.float32(1e-39) * np.float32(1.0)) != 0.0


@pytest.mark.skipif(sys.platform != "linux" or platform.machine() != "x86_64", reason="a property of x86 processors")
@pytest.mark.parametrize("order", ["seeded", "lmf_paddle"])
@pytest.mark.parametrize("breaks", [False, True])
def test_denormals_are_zero_in_steps_only(tmp_path, order, breaks):
    """Not where LMF_Paddle is reproduced to the bit; not after a step that failed."""

    class Looks(Toy):
        def training_step(self, batch):
            seen.append(("step", denormal()))
            if breaks:
                raise Stop
            return super().training_step(batch)

        def on_train_batch_end(self, step):
            seen.append(("after", denormal()))

        def validation_step(self, batch):
            seen.append(("validation", denormal()))
            return super().validation_step(batch)

    seen = []
    trainer = build(tmp_path, Looks(), epochs=1, row_order=order)
    with pytest.raises(Stop) if breaks else nullcontext():
        trainer.fit()
    assert denormal()
    steps = 1 if breaks else 5 if order == "lmf_paddle" else 4  # LMF_Paddle's last batch may be a single row
    whole = set() if breaks else {("after", True), ("validation", True)}
    assert set(seen) == {("step", order == "lmf_paddle")} | whole
    assert sum(name == "step" for name, _ in seen) == steps


def test_hooks_are_called_with_the_number_of_the_update(tmp_path):
    class Hooks(Toy):
        def on_train_batch_end(self, step):
            calls.append(step)

        def on_train_epoch_end(self):
            calls.append("epoch")

        def validation_step(self, batch):
            calls.append("validation")
            return super().validation_step(batch)

    calls = []
    build(tmp_path, Hooks(), epochs=2).fit()
    assert calls == [1, 2, 3, 4, "epoch", "validation", 5, 6, 7, 8, "epoch", "validation"]


# -- what stops a training


def nan_after(steps):
    """A module whose loss is finite in that step, while its gradients are not."""

    class Breaks(Toy):
        seen = 0

        def training_step(self, batch):
            self.seen += 1
            odd = paddle.sqrt(self.last.bias - self.last.bias).sum()  # 0, with a gradient of 0 times infinity
            return super().training_step(batch) + (odd if self.seen == steps else 0.0)

    return Breaks()


@pytest.mark.parametrize(
    ("rows", "text"),
    [
        (8, r"in step 1 of 1, on the clips (r\d, ){7}r\d\."),
        (9, r"in step 1 of 1, on the clips (r\d, ){7}r\d and 1 more \(see train\.log\)\."),
    ],
)
def test_the_first_eight_clips_of_a_bad_step_are_named(tmp_path, rows, text):
    data = hf_dataset(rows)
    data = data.add_column("id", [f"r{number}" for number in range(rows)])
    trainer = build(tmp_path, nan_after(1), train_dataset=data, arguments={"per_device_train_batch_size": rows})
    with pytest.raises(TrainingError, match=f"First seen in the gradient of last.bias {text}$"):
        trainer.fit()


def test_rows_without_ids_are_numbered_and_other_rows_are_not_listed(tmp_path):
    epoch = r"the gradient of last.bias must stay finite, but became NaN or infinite in epoch 2\. .*"
    with pytest.raises(TrainingError, match=epoch + r"First seen in .* in step 3 of 4, on the clips (\d+, ){4}\d+\.$"):
        build(tmp_path / "a", nan_after(7)).fit()
    pairs = {"train_dataset": Pairs(), "validation_dataset": Pairs(9, seed=1), "collator": collate}
    with (
        paddle.utils.unique_name.guard(),
        pytest.raises(TrainingError, match=epoch + r"First seen in .* in step 3 of 4\.$"),
    ):
        build(tmp_path / "b", nan_after(7), **pairs).fit()


@pytest.mark.parametrize("step", [1, 4, 5, 7, 8])
def test_a_loss_that_is_not_finite_stops(tmp_path, step):
    class Breaks(Toy):
        steps = 0

        def training_step(self, batch):
            self.steps += 1
            return super().training_step(batch) * (np.inf if self.steps == step else 1.0)

    trainer = build(tmp_path, Breaks(), epochs=3)
    epoch = 1 if step <= 4 else 2  # four steps each
    with pytest.raises(
        TrainingError,
        match=rf"the training loss must stay finite, but became NaN or infinite in epoch {epoch}\. Usual causes: .*lmf data inspect",
    ):
        trainer.fit()
    assert [path.name for path in tmp_path.glob("checkpoint-*")] == (["checkpoint-4"] if epoch == 2 else [])


@pytest.mark.parametrize("step", [1, 4, 5, 8])
def test_parameters_that_are_not_finite_stop(tmp_path, step):
    class Breaks(Toy):
        steps = 0

        def __init__(self):
            super().__init__()
            self.unused = paddle.nn.Linear(2, 2)

        def training_step(self, batch):
            self.steps += 1
            if self.steps == step:  # as after relu has turned NaN into 0: the loss stays finite
                self.unused.weight.set_value(np.full([2, 2], np.nan, "float32"))
            return super().training_step(batch)

    trainer = build(tmp_path, Breaks(), epochs=3)
    epoch = 1 if step <= 4 else 2
    with pytest.raises(
        TrainingError,
        match=rf"the parameter unused.weight must stay finite, but became NaN or infinite in epoch {epoch}\. Usual",
    ):
        trainer.fit()
    assert [path.name for path in tmp_path.glob("checkpoint-*")] == (["checkpoint-4"] if epoch == 2 else [])


def test_other_errors_pass(tmp_path):
    class Breaks(Toy):
        def training_step(self, batch):
            raise ValueError("something else")

    with pytest.raises(ValueError, match="^something else$"):
        build(tmp_path, Breaks()).fit()


# -- checkpoints and resuming


def names(folder):
    return sorted(path.name for path in Path(folder).iterdir())


def test_rotation_keeps_the_best_and_the_last(tmp_path):
    class Folders(TrainerCallback):
        seen = []

        def on_save(self, args, state, control, **kwargs):
            self.seen.append(names(args.output_dir))

    folders = Folders()
    values = [0.5, 0.9, 0.1, 0.2, 0.3]
    build(tmp_path, epochs=5, compute_metrics=scripted(values), callbacks=[folders]).fit()
    expected = [{4}, {4, 8}, {8, 12}, {8, 16}, {8, 20}]
    assert [{int(name.removeprefix("checkpoint-")) for name in seen} for seen in folders.seen] == expected


def test_files_of_a_checkpoint(tmp_path):
    build(tmp_path, epochs=3, compute_metrics=scripted([0.5, 0.9, 0.1])).fit()
    for name, best in (("checkpoint-8", "checkpoint-8"), ("checkpoint-12", "checkpoint-8")):
        assert json.loads((tmp_path / name / "progress.json").read_text())["best_checkpoint"] == best
        assert names(tmp_path / name) == [
            "manifest.json", "model.safetensors", "optimizer.safetensors", "progress.json", "trainer_state.json",
        ]  # fmt: skip


def uninterrupted(folder, **settings):
    with paddle.utils.unique_name.guard():
        trainer = build(folder, **settings)
        history = trainer.fit()
    return bits(trainer), history


def resumed(folder, stop, **settings):
    """Runs until `stop`, then resumes as a new process would: everything is built again, other random states."""
    with paddle.utils.unique_name.guard(), pytest.raises(Stop):
        build(folder, callbacks=[stop], **settings).fit()
    with paddle.utils.unique_name.guard():
        trainer = build(folder, **settings)
        if any(Path(folder).glob("checkpoint-*")):
            np.random.seed(99)
            paddle.seed(99)
            random.seed(99)
        history = trainer.fit(resume=True)
    return bits(trainer), history


@pytest.mark.parametrize(
    ("event", "number"),
    [
        ("on_step_end", 2),  # before the first checkpoint
        ("on_save", 1),
        ("on_epoch_begin", 2),
        ("on_step_end", 7),  # within an epoch
        ("on_evaluate", 3),  # before the third checkpoint
        ("on_save", 4),  # all epochs done, best weights not yet restored
        ("on_train_end", 1),
    ],
)
def test_a_stopped_training_is_resumed_to_the_same_bits(tmp_path, event, number):
    weights, history = uninterrupted(tmp_path / "whole")
    again = resumed(tmp_path / "broken", StopAt(event, number))
    assert again[1] == history
    assert again[0] == weights


@pytest.mark.parametrize("number", [1, 2, 3, 4])
def test_a_resumed_training_stops_as_early(tmp_path, number):
    """Patience counts across the interruption; a training that had already stopped is not continued."""

    def fit(folder, stop=None, resume=False):
        by_epoch = {4: 0.5, 8: 0.7, 12: 0.6, 16: 0.65, 20: 0.9, 24: 0.9}
        callbacks = [] if stop is None else [stop]
        trainer = build(
            folder,
            epochs=6,
            patience=2,
            callbacks=callbacks,
            compute_metrics=lambda logits, labels: {"accuracy": by_epoch[trainer.state.global_step]},
        )
        trainer.fit(resume=resume)
        return bits(trainer), trainer.history

    whole = fit(tmp_path / "whole")
    assert [row["best"] for row in whole[1]] == [1, 1, 0, 0]
    with paddle.utils.unique_name.guard(), pytest.raises(Stop):
        fit(tmp_path / "broken", StopAt("on_save", number))
    with paddle.utils.unique_name.guard():
        again = fit(tmp_path / "broken", resume=True)
    assert again[1] == whole[1]
    assert again[0] == whole[0]


def test_a_moved_training_is_resumed(tmp_path):
    weights, history = uninterrupted(tmp_path / "whole")
    with paddle.utils.unique_name.guard(), pytest.raises(Stop):
        build(tmp_path / "broken", callbacks=[StopAt("on_save", 3)]).fit()
    (tmp_path / "broken").rename(tmp_path / "moved")
    with paddle.utils.unique_name.guard():
        trainer = build(tmp_path / "moved")
        assert trainer.fit(resume=True) == history
    assert bits(trainer) == weights


def test_an_unfinished_checkpoint_does_not_count(tmp_path, monkeypatch):
    weights, history = uninterrupted(tmp_path / "whole")

    def full_disk(self, content):
        if "checkpoint-12" in str(self) and "optimizer" in str(self):
            with self.open("wb") as file:
                file.write(b"half")
            raise OSError(28, "No space left on device")
        with self.open("wb") as file:
            file.write(content)

    with monkeypatch.context() as patch, paddle.utils.unique_name.guard():
        patch.setattr(Path, "write_bytes", full_disk)
        with pytest.raises(OSError, match="No space left"):
            build(tmp_path / "broken").fit()
    assert all(name in ("checkpoint-4", "checkpoint-8") for name in names(tmp_path / "broken"))
    with paddle.utils.unique_name.guard():
        trainer = build(tmp_path / "broken")
        assert trainer.fit(resume=True) == history
    assert bits(trainer) == weights


def test_one_process_can_resume_several_times(tmp_path):
    """Paddle numbers the names of parameters and optimisers, so that they differ from those of the checkpoint."""
    weights, history = uninterrupted(tmp_path / "whole")
    with pytest.raises(Stop):
        build(tmp_path / "run", callbacks=[StopAt("on_step_end", 6)]).fit()
    with pytest.raises(Stop):
        build(tmp_path / "run", callbacks=[StopAt("on_step_end", 6)]).fit(resume=True)
    trainer = build(tmp_path / "run")
    for _ in range(2):
        assert trainer.fit(resume=True) == history
        assert bits(trainer) == weights


@pytest.mark.filterwarnings("ignore:There are some unused values in state_dict")  # Paddle, about its own LinearWarmup
@pytest.mark.parametrize("kind", ["own", "momentum", "of the optimizer", "warmup", "no state"])
def test_other_optimizers_are_resumed_to_the_same_bits(tmp_path, kind):
    class Other(Toy):
        def configure_optimizers(self):
            lr = paddle.optimizer.lr
            rate = {
                "own": lambda: lr.ExponentialDecay(0.05, 0.9),
                "of the optimizer": lambda: lr.ExponentialDecay(0.05, 0.9),
                "warmup": lambda: lr.LinearWarmup(lr.ExponentialDecay(0.05, 0.9), 3, 0.0, 0.05),
            }.get(kind, lambda: 0.05)()
            if kind == "no state":
                return paddle.optimizer.SGD(rate, parameters=self.parameters())
            optimizer = paddle.optimizer.Momentum(rate, parameters=self.parameters())
            return optimizer if kind in ("momentum", "of the optimizer") else (optimizer, rate)

    def new(folder, **settings):
        paddle.seed(1)
        return build(folder, Other(), **settings)

    whole = new(tmp_path / "whole")
    history = whole.fit()
    with pytest.raises(Stop):
        new(tmp_path / "run", callbacks=[StopAt("on_step_end", 10)]).fit()
    trainer = new(tmp_path / "run")
    assert trainer.fit(resume=True) == history
    assert bits(trainer) == bits(whole)


def test_parameters_outside_the_module_cannot_be_saved(tmp_path):
    class Outside(Toy):
        def configure_optimizers(self):
            return paddle.optimizer.Adam(0.01, parameters=[*self.parameters(), *other[0].parameters()])

        def training_step(self, batch):
            return super().training_step(batch) + other[0](batch["x"]).mean()

    other = [paddle.nn.Linear(4, 1)]
    with pytest.raises(TrainingError, match="the optimizer must update parameters of the module only, but got linear_"):
        build(tmp_path, Outside()).fit()


def test_resuming_without_a_checkpoint_starts(tmp_path):
    weights, history = uninterrupted(tmp_path / "a")
    trainer = build(tmp_path / "b")
    assert trainer.fit(resume=True) == history
    assert bits(trainer) == weights


PROCESS = """
import os, signal, sys
sys.path.insert(0, {tests!r})
sys.path.insert(0, {here!r})
import test_trainer
from paddlenlp.trainer import TrainerCallback

class Kill(TrainerCallback):
    def on_step_end(self, args, state, control, **kwargs):
        if state.global_step == 10:
            os.kill(os.getpid(), signal.SIGKILL)

test_trainer.build({folder!r}, callbacks=[Kill()]).fit()
"""


def test_a_killed_process_is_resumed_to_the_same_bits(tmp_path):
    weights, history = uninterrupted(tmp_path / "whole")
    here = Path(__file__).resolve().parent
    code = PROCESS.format(here=str(here), tests=str(here.parent), folder=str(tmp_path / "killed"))
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == -signal.SIGKILL, done.stderr
    assert "checkpoint-8" in names(tmp_path / "killed")
    with paddle.utils.unique_name.guard():
        trainer = build(tmp_path / "killed")
        assert trainer.fit(resume=True) == history
    assert bits(trainer) == weights
