"""The loss under each setting against float64 arithmetic; the moving average of the weights; the schedule."""

import copy
import math
from dataclasses import dataclass

import numpy as np
import paddle
import pytest
from conftest import INPUTS, PLAIN, SMALL_PAPERS, model_config
from scipy.special import log_softmax

from lmf_multitask.errors import ConfigError, TrainingError
from lmf_multitask.models.lmf import LMFModel
from lmf_multitask.tasks import BinaryTask, Task, make_tasks
from lmf_multitask.training.config import TrainingConfig
from lmf_multitask.training.losses import MultitaskLoss
from lmf_multitask.training.module import LMFModule

NAN = np.nan
NAMES = ["a", "b", "c"]
LOGITS = np.random.default_rng(0).normal(size=(5, 3, 2)).astype("f4")
LABELS = np.array([[1, 0, 0], [0, 1, 0], [0, 0, 1], [0, 1, 0], [1, NAN, 0]], "f4")
TRAIN = np.array([[1, 0, 0]] * 3 + [[0, 1, 0]] * 2 + [[0, 0, 1]] * 5, "f4")


def loss_of(labels=LABELS, train=None, **settings):
    loss = MultitaskLoss(TrainingConfig(**{**PLAIN, **settings}), make_tasks(NAMES), train)
    return loss, loss(paddle.to_tensor(LOGITS.reshape(5, 6)), paddle.to_tensor(labels))


def entropies(labels=LABELS):
    """Cross entropy `[B, T]`, 0 where not annotated."""
    logs = log_softmax(LOGITS.astype("f8"), axis=2)
    known = ~np.isnan(labels)
    found = -np.take_along_axis(logs, np.where(known, labels, 0).astype(int)[:, :, None], axis=2)[:, :, 0]
    return np.where(known, found, 0)


def joint():
    """Of the first four clips: one emotion is present and all are annotated."""
    logs = log_softmax((LOGITS[:, :, 1] - LOGITS[:, :, 0]).astype("f8"), axis=1)
    return -np.array([logs[row, LABELS[row].argmax()] for row in range(4)])


def test_plain():
    _, (total, count) = loss_of()
    assert float(count) == 14
    assert float(total) == pytest.approx(entropies().sum(), rel=1e-5)


@pytest.mark.parametrize("annotated", [0, 1])
def test_the_number_of_labels_is_at_least_1(annotated):
    labels = np.full((5, 3), NAN, "f4")
    labels[0, :annotated] = 1
    _, (total, count) = loss_of(labels)
    assert float(count) == 1
    assert float(total) == pytest.approx(entropies(labels).sum(), rel=1e-5)


def test_joint_term_counts_where_one_emotion_is_present():
    _, (total, _) = loss_of(train=TRAIN, joint_loss=0.3)
    assert float(total) == pytest.approx(0.7 * entropies().sum() + 0.3 * joint().sum(), rel=1e-5)


@pytest.mark.parametrize("train", [None, [[1, 1, 0], [0, 0, 1]], [[0, 0, 0], [0, 0, 1]]])
def test_no_joint_term_unless_training_labels_are_exclusive(train):
    _, (total, _) = loss_of(train=train and np.array(train, "f4"), joint_loss=0.3)
    assert float(total) == pytest.approx(entropies().sum(), rel=1e-5)


def test_focal_loss():
    each = entropies()
    _, (total, _) = loss_of(focal_gamma=2.0)
    assert float(total) == pytest.approx((each * (1 - np.exp(-each)) ** 2).sum(), rel=1e-5)


def test_balanced_classes():
    """a: 3 of 10 present, b: 2, c: 5; a label counts 10 / (2 N_c) times."""
    present, absent = 10 / (2 * np.array([3, 2, 5])), 10 / (2 * np.array([7, 8, 5]))
    weights = np.where(LABELS == 1, present, absent)
    _, (total, _) = loss_of(train=TRAIN, class_weights="balanced")
    assert float(total) == pytest.approx((entropies() * weights).sum(), rel=1e-5)
    _, (total, _) = loss_of(train=TRAIN, class_weights="balanced", joint_loss=1.0)
    assert float(total) == pytest.approx((joint() * present[[0, 1, 2, 1]]).sum(), rel=1e-5)


def test_a_label_that_never_occurs_has_weight_1():
    """b is never present: its 10 absent clips count 1/2 each, and a present one would count once."""
    train = TRAIN.copy()
    train[:, 1] = 0
    only_b = np.where(np.arange(3) == 1, LABELS, NAN).astype("f4")
    _, (total, _) = loss_of(only_b, train=train, class_weights="balanced")
    wanted = (entropies(only_b) * np.where(only_b == 1, 1.0, 0.5)).sum()
    assert float(total) == pytest.approx(wanted, rel=1e-5)


def test_balanced_needs_labels():
    with pytest.raises(TrainingError, match="class_weights balanced must have the labels of the training split, but"):
        loss_of(class_weights="balanced")


def test_fixed_task_weights():
    _, (total, _) = loss_of(task_weighting="fixed", task_weights={"b": 3.0, "c": 0.0})
    assert float(total) == pytest.approx((entropies().sum(axis=0) * [1, 3, 0]).sum(), rel=1e-5)
    with pytest.raises(TrainingError, match=r"task_weights must name tasks of the data, a, b, c, but got d\."):
        loss_of(task_weighting="fixed", task_weights={"d": 1.0})


@pytest.mark.parametrize("settings", [{"task_weighting": "fixed"}, {"task_weights": {"a": 2.0}}])
def test_fixed_and_its_weights_come_together(settings):
    with pytest.raises(ConfigError, match="must have task_weights where task_weighting is fixed, and only there"):
        TrainingConfig(**settings)


def test_uncertainty_and_its_gradient():
    loss, (total, _) = loss_of(task_weighting="uncertainty")
    assert float(total) == pytest.approx(entropies().sum(), rel=1e-5)  # s = 0: all tasks count alike
    s = np.array([0.5, -0.3, 0.0])
    loss.log_variances.set_value(s.astype("f4"))
    total, _ = loss(paddle.to_tensor(LOGITS.reshape(5, 6)), paddle.to_tensor(LABELS))
    sums, counts = entropies().sum(axis=0), np.array([5, 4, 5])
    assert float(total) == pytest.approx((np.exp(-s) * sums + counts * s / 2).sum(), rel=1e-5)
    total.backward()
    np.testing.assert_allclose(loss.log_variances.grad.numpy(), -np.exp(-s) * sums + counts / 2, rtol=1e-4)


# -- tasks of several kinds


@dataclass(frozen=True)
class Level(Task):
    """A number; squared error in units of `scale`."""

    scale: float = 1.0
    kind, outputs = "level", 1

    def loss(self, outputs, labels):
        error = (outputs[:, 0] - paddle.nan_to_num(labels)) / self.scale
        return paddle.where(paddle.isnan(labels), paddle.zeros_like(labels), error**2)


MIXED = [Level("u", 2.0), BinaryTask("a"), BinaryTask("b"), Level("v", 2.0), Level("w", 3.0)]
MIXED_OUTPUTS = np.random.default_rng(1).normal(size=(4, 7)).astype("f4")
MIXED_LABELS = np.array(
    [[0.3, 1, 0, NAN, 2.0], [-1, 0, 1, 0.5, 0], [2, 1, 0, 1, -2], [NAN, NAN, 0, 0, 1]], "f4"
)  # fmt: skip


def mixed_terms():
    """Loss of each label, in float64."""
    binary = log_softmax(MIXED_OUTPUTS[:, 1:5].reshape(4, 2, 2).astype("f8"), axis=2)
    errors = (MIXED_OUTPUTS[:, [0, 5, 6]] - MIXED_LABELS[:, [0, 3, 4]].astype("f8")) ** 2 / [4, 4, 9]
    terms = np.zeros((4, 5))
    terms[:, [0, 3, 4]] = np.nan_to_num(errors)
    for row, task in np.argwhere(~np.isnan(MIXED_LABELS[:, 1:3])):
        terms[row, 1 + task] = -binary[row, task, int(MIXED_LABELS[row, 1 + task])]
    return terms


def mixed_loss(**settings):
    train = np.array([[0.1, 1, 0, 0.3, 0.2], [0.2, 0, 1, 0.1, 0.3], [0.2, 0, 1, 0.1, 0.3]], "f4")
    loss = MultitaskLoss(TrainingConfig(**{**PLAIN, "balance_kinds": False, **settings}), MIXED, train)
    return loss, float(loss(paddle.to_tensor(MIXED_OUTPUTS), paddle.to_tensor(MIXED_LABELS))[0])


def test_each_task_has_its_own_loss():
    loss, total = mixed_loss()
    found = loss.task_losses(paddle.to_tensor(MIXED_OUTPUTS), paddle.to_tensor(MIXED_LABELS))
    np.testing.assert_allclose(found.numpy(), mixed_terms(), rtol=1e-5, atol=1e-6)
    assert total == pytest.approx(mixed_terms().sum(), rel=1e-5)


def test_what_is_for_binary_tasks_leaves_the_others_alone():
    """The joint term counts in the first three clips; of the training clips a is present in 1 of 3, b in 2 of 3."""
    terms = mixed_terms()
    logits = MIXED_OUTPUTS[:3, 1:5].reshape(3, 2, 2).astype("f8")
    logs = log_softmax(logits[:, :, 1] - logits[:, :, 0], axis=1)
    joint_term = -(logs[0, 0] + logs[1, 1] + logs[2, 0])
    assert mixed_loss(joint_loss=0.4)[1] == pytest.approx(
        0.6 * terms[:, 1:3].sum() + terms[:, [0, 3, 4]].sum() + 0.4 * joint_term, rel=1e-5
    )

    focal = terms.copy()
    focal[:, 1:3] *= 1 - np.exp(-terms[:, 1:3])
    assert mixed_loss(focal_gamma=1.0)[1] == pytest.approx(focal.sum(), rel=1e-5)

    balanced, labels = terms.copy(), MIXED_LABELS[:, 1:3]
    balanced[:, 1:3] *= np.where(labels == 1, [3 / 2, 3 / 4], [3 / 4, 3 / 2])
    assert mixed_loss(class_weights="balanced")[1] == pytest.approx(balanced.sum(), rel=1e-5)


# -- the module


class Epochs:
    """The part of a trainer that the module needs."""

    steps_per_epoch = 4

    def log_value(self, *value):
        pass


def make_module(edit=lambda model: None, **training):
    paddle.seed(0)
    model = LMFModel(INPUTS, NAMES, model_config(SMALL_PAPERS))
    edit(model)
    module = LMFModule(model, TrainingConfig(**{**PLAIN, **training}))
    module.trainer = Epochs()
    return module


def test_moving_average_of_the_weights():
    module = make_module(ema_epochs=2.0)  # 8 steps: a decay of at most 7/8
    weight, statistic = module.model.heads.weight, module.model.encoders["audio"].norm._mean
    mean = weight.numpy().astype("f8")
    rng = np.random.default_rng(1)
    for step in range(1, 90):
        value = rng.normal(size=weight.shape).astype("f4")
        weight.set_value(value)
        statistic.set_value(np.full(statistic.shape, step, "f4"))
        module.on_train_batch_end(step)
        decay = min(7 / 8, (1 + step) / (10 + step))
        mean = decay * mean + (1 - decay) * value
        np.testing.assert_allclose(module.trained.heads.weight.numpy(), mean, atol=1e-6)
    module.on_train_epoch_end()
    np.testing.assert_array_equal(module.trained.encoders["audio"].norm._mean.numpy(), 89)
    assert module.trained is not module.model


def test_the_copy_starts_equal_draws_nothing_and_is_not_trained():
    module = make_module(ema_epochs=1.0)
    drawn_next = paddle.rand([3]).numpy()
    plain = make_module()
    np.testing.assert_array_equal(paddle.rand([3]).numpy(), drawn_next)
    assert plain.trained is plain.model
    for name, weight in module.trained.weights().items():
        np.testing.assert_array_equal(weight.numpy(), plain.model.weights()[name].numpy())
        assert weight.stop_gradient
    before = {name: weight.numpy() for name, weight in module.trained.weights().items()}
    for group in module.configure_optimizers()._param_groups:
        for weight in group["params"]:
            weight.set_value(weight + 1.0)
    for name, weight in module.model.weights().items():
        np.testing.assert_array_equal(weight.numpy(), before[name] + (0 if weight.stop_gradient else 1))
        np.testing.assert_array_equal(module.trained.weights()[name].numpy(), before[name])


def test_an_edited_network_is_averaged_unless_it_is_edited_too_late():
    def edit(model):
        model.heads = paddle.nn.Linear(6, 6)

    module = make_module(edit, ema_epochs=1.0)
    module.configure_optimizers()
    module.model.heads.weight.set_value(module.model.heads.weight + 1.0)
    before = module.trained.heads.weight.numpy()
    module.on_train_batch_end(1)
    np.testing.assert_allclose(module.trained.heads.weight.numpy(), before + 9 / 11, rtol=1e-5)
    assert copy.deepcopy(module.trained).heads.weight.shape == [6, 6]
    edit(module.model)
    with pytest.raises(TrainingError, match="must keep its parameters after LMFModule was built, since ema_epochs"):
        module.configure_optimizers()
    plain = make_module()
    edit(plain.model)
    plain.configure_optimizers()


def test_cosine_goes_to_zero_over_all_epochs():
    module = make_module(schedule="cosine", epochs=3)
    _, scheduler = module.configure_optimizers()
    rates = []
    for _ in range(12):
        rates.append(scheduler.get_lr())
        scheduler.step()
    np.testing.assert_allclose(rates, [(1 + math.cos(math.pi * step / 12)) / 2 for step in range(12)], atol=1e-9)


def test_what_needs_a_trainer_is_refused_without_one():
    module = make_module(schedule="cosine", ema_epochs=1.0)
    module.trainer = None
    for call in (module.configure_optimizers, lambda: module.on_train_batch_end(1)):
        with pytest.raises(TrainingError, match="must know the steps of an epoch, but the module has no trainer"):
            call()


def test_resumed_gives_the_same_bits(tmp_path, sample_path, monkeypatch):
    from conftest import small_experiment

    from lmf_multitask.pipeline.experiment import run_experiment
    from lmf_multitask.training.trainer import LMFTrainer

    settings = {
        "epochs": 4, "schedule": "cosine", "task_weighting": "uncertainty", "class_weights": "balanced", "joint_loss": 0.5,
        "ema_epochs": 0.5, "focal_gamma": 1.0,
    }  # fmt: skip
    whole = small_experiment(sample_path, tmp_path / "whole", **settings)
    run_experiment(whole, report=False)
    broken = small_experiment(sample_path, tmp_path / "broken", **settings)
    save = LMFTrainer._save_checkpoint

    def stop_after_two(self, *arguments, **named):
        save(self, *arguments, **named)
        if round(self.state.epoch) == 2:
            raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(LMFTrainer, "_save_checkpoint", stop_after_two)
        with pytest.raises(KeyboardInterrupt):
            run_experiment(broken, report=False)
    run_experiment(broken, resume=True, report=False)
    for name in ("model/model.safetensors", "history.csv", "predictions.csv"):
        assert (tmp_path / "broken" / name).read_bytes() == (tmp_path / "whole" / name).read_bytes()
