"""The loss under each setting, by hand in float64; the running mean of the weights; the schedule."""

import math

import numpy as np
import paddle
import pytest
from conftest import PAPERS, PLAIN
from scipy.special import log_softmax

from lmf_multitask.config import ModelConfig, TrainingConfig
from lmf_multitask.errors import ConfigError, TrainingError
from lmf_multitask.models.lmf import LMFModel
from lmf_multitask.training.losses import EmotionLoss
from lmf_multitask.training.module import LMFModule

EMOTIONS = ["a", "b", "c"]
LOGITS = np.random.default_rng(0).normal(size=(5, 3, 2)).astype("f4")
LABELS = np.array([[1, 0, 0], [0, 1, 0], [0, 0, 1], [0, 1, 0], [1, -100, 0]])
TRAIN = np.array([[1, 0, 0]] * 3 + [[0, 1, 0]] * 2 + [[0, 0, 1]] * 5)


def loss_of(labels=LABELS, train=None, training=True, **settings):
    loss = EmotionLoss(TrainingConfig(**{**PLAIN, **settings}), EMOTIONS, train)
    loss.train() if training else loss.eval()
    return loss, loss(paddle.to_tensor(LOGITS), paddle.to_tensor(labels))


def entropies(labels=LABELS):
    """Cross entropy `[B, T]`, 0 where not annotated."""
    logs = log_softmax(LOGITS.astype("f8"), axis=2)
    found = -np.take_along_axis(logs, labels.clip(min=0)[:, :, None], axis=2)[:, :, 0]
    return np.where(labels == -100, 0, found)


def joint(labels=LABELS):
    """Of clips where one is present and all are annotated: the first four."""
    logs = log_softmax((LOGITS[:, :, 1] - LOGITS[:, :, 0]).astype("f8"), axis=1)
    return -np.array([logs[row, labels[row].argmax()] for row in range(4)])


def test_plain():
    _, (total, count) = loss_of()
    assert float(count) == 14
    assert float(total) == pytest.approx(entropies().sum(), rel=1e-5)


@pytest.mark.parametrize("annotated", [0, 1])
def test_hardly_any_label(annotated):
    """The number of labels, which sums are divided by, is that of the labels, but never 0."""
    labels = np.full((5, 3), -100)
    labels[0, :annotated] = 1
    _, (total, count) = loss_of(labels)
    assert float(count) == 1
    assert float(total) == pytest.approx(entropies(labels).sum(), rel=1e-5)


def test_joint_term_counts_where_one_emotion_is_present():
    _, (total, _) = loss_of(train=TRAIN, joint_loss=0.3)
    assert float(total) == pytest.approx(0.7 * entropies().sum() + 0.3 * joint().sum(), rel=1e-5)


@pytest.mark.parametrize("train", [None, np.array([[1, 1, 0], [0, 0, 1]]), np.array([[0, 0, 0], [0, 0, 1]])])
def test_no_joint_term_unless_train_is_exclusive(train):
    _, (total, _) = loss_of(train=train, joint_loss=0.3)
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


def test_a_label_that_never_occurs_weighs_1():
    train = TRAIN.copy()
    train[:, 1] = 0
    loss, _ = loss_of(train=train, class_weights="balanced")
    np.testing.assert_allclose(loss._class_weights.numpy()[1], [0.5, 1.0])


def test_balanced_needs_labels():
    with pytest.raises(TrainingError, match=r"class_weights balanced must be given train's labels, but got none\."):
        loss_of(class_weights="balanced")


def test_fixed_task_weights():
    _, (total, _) = loss_of(task_weighting="fixed", task_weights={"b": 3.0, "c": 0.0})
    assert float(total) == pytest.approx((entropies().sum(axis=0) * [1, 3, 0]).sum(), rel=1e-5)
    with pytest.raises(TrainingError, match=r"task_weights must name emotions of the data, a, b, c, but got d\."):
        loss_of(task_weighting="fixed", task_weights={"d": 1.0})


@pytest.mark.parametrize("settings", [{"task_weighting": "fixed"}, {"task_weights": {"a": 2.0}}])
def test_fixed_and_its_weights_come_together(settings):
    with pytest.raises(ConfigError, match="task_weights must be given with task_weighting fixed, and only then"):
        TrainingConfig(**settings)


def test_uncertainty_and_its_gradient():
    loss, (total, _) = loss_of(task_weighting="uncertainty")
    assert float(total) == pytest.approx(entropies().sum(), rel=1e-5)  # s = 0: as sure of each emotion as of the others
    s = np.array([0.5, -0.3, 0.0])
    loss.log_variances.set_value(s.astype("f4"))
    total, _ = loss(paddle.to_tensor(LOGITS), paddle.to_tensor(LABELS))
    sums, counts = entropies().sum(axis=0), np.array([5, 4, 5])
    assert float(total) == pytest.approx((np.exp(-s) * sums + counts * s / 2).sum(), rel=1e-5)
    total.backward()
    np.testing.assert_allclose(loss.log_variances.grad.numpy(), -np.exp(-s) * sums + counts / 2, rtol=1e-4)


def test_dynamic_weights_follow_the_last_two_epochs():
    loss, (total, _) = loss_of(task_weighting="dynamic")
    assert float(total) == pytest.approx(entropies().sum(), rel=1e-5)
    loss.end_epoch()
    means = entropies().sum(axis=0) / [5, 4, 5]
    np.testing.assert_allclose(loss.progress.numpy(), [[0] * 3, [0] * 3, means, [0] * 3], rtol=1e-5)
    state = loss.progress.numpy()
    total, _ = loss(paddle.to_tensor(LOGITS), paddle.to_tensor(LABELS))
    assert float(total) == pytest.approx(entropies().sum(), rel=1e-5)  # the second epoch too has nothing to go by
    earlier = np.array([2.0, 0.5, 1.0], "f4")
    state[3] = earlier
    loss.progress.set_value(state)
    powers = np.exp(means / earlier / 2)
    total, _ = loss(paddle.to_tensor(LOGITS), paddle.to_tensor(LABELS))
    wanted = (entropies().sum(axis=0) * 3 * powers / powers.sum()).sum()
    assert float(total) == pytest.approx(wanted, rel=1e-5)
    loss.eval()
    before = loss.progress.numpy()
    loss(paddle.to_tensor(LOGITS), paddle.to_tensor(LABELS))
    np.testing.assert_array_equal(loss.progress.numpy(), before)


def test_dynamic_weights_go_by_means_over_whole_epochs():
    """Two batches, the first of them twice; then, in the next epoch, another one."""
    loss, _ = loss_of(task_weighting="dynamic")
    other = np.array([[0, 1, 0], [0, 0, 0], [1, -100, -100], [1, 0, 0], [0, 0, 1]])
    for labels in (LABELS, other):
        loss(paddle.to_tensor(LOGITS), paddle.to_tensor(labels))
    loss.end_epoch()
    first = (2 * entropies().sum(axis=0) + entropies(other).sum(axis=0)) / [15, 12, 14]
    np.testing.assert_allclose(loss.progress.numpy(), [[0] * 3, [0] * 3, first, [0] * 3], rtol=1e-5)
    loss(paddle.to_tensor(LOGITS), paddle.to_tensor(other))
    loss.end_epoch()
    second = entropies(other).sum(axis=0) / [5, 4, 4]
    np.testing.assert_allclose(loss.progress.numpy(), [[0] * 3, [0] * 3, second, first], rtol=1e-5)


def test_dynamic_weights_with_hardly_any_label():
    """An epoch with five labels of a, one of b and none of c."""
    labels = np.array([[1, -100, -100]] * 4 + [[0, 1, -100]])
    loss, _ = loss_of(labels, task_weighting="dynamic")
    loss.end_epoch()
    sums = entropies(labels).sum(axis=0)
    np.testing.assert_allclose(loss.progress.numpy()[2], [sums[0] / 5, sums[1], 0], rtol=1e-5)


# -- the module


class Epochs:
    """As much of a trainer as the module asks for."""

    steps_per_epoch = 4

    def log_value(self, *figure):
        pass


def make_module(**training):
    paddle.seed(0)
    config = ModelConfig(
        **PAPERS, audio_hidden=3, video_hidden=2, text_lstm=4, text_hidden=3, fusion_rank=2, fusion_dim=6
    )
    module = LMFModule(
        LMFModel({"audio": 5, "video": 4, "text": 3}, EMOTIONS, config), TrainingConfig(**{**PLAIN, **training})
    )
    module.trainer = Epochs()
    return module


def test_running_mean_of_the_weights():
    module = make_module(weight_averaging=2.0)  # 8 steps: a decay of at most 7/8
    weight, statistic = module.model.heads.weight, module.model.audio_encoder.norm._mean
    mean = weight.numpy().astype("f8")
    rng = np.random.default_rng(1)
    for step in range(1, 90):
        value = rng.normal(size=weight.shape).astype("f4")
        weight.set_value(value)
        statistic.set_value(np.full(statistic.shape, step, "f4"))
        module.on_train_batch_end(step)
        decay = min(7 / 8, (1 + step) / (10 + step))
        mean = decay * mean + (1 - decay) * value
        np.testing.assert_allclose(module.averaged.heads.weight.numpy(), mean, atol=1e-6)
    np.testing.assert_array_equal(module.averaged.audio_encoder.norm._mean.numpy(), 89)
    assert module.trained is module.averaged


def test_the_copy_starts_equal_draws_nothing_and_is_not_trained():
    module = make_module(weight_averaging=1.0)
    drawn_next = paddle.rand([3]).numpy()
    plain = make_module()
    np.testing.assert_array_equal(paddle.rand([3]).numpy(), drawn_next)
    assert plain.trained is plain.model
    for name, weight in module.averaged.weights().items():
        np.testing.assert_array_equal(weight.numpy(), plain.model.weights()[name].numpy())
        assert weight.stop_gradient
    groups = module.configure_optimizers()._param_groups
    trained = {weight.name for group in groups for weight in group["params"]}
    assert trained == {w.name for w in module.model.parameters() if not w.stop_gradient}


def test_the_end_of_an_epoch_reaches_the_loss():
    module = make_module(task_weighting="dynamic")
    module.loss.progress.set_value(np.array([[1, 2, 3], [2, 2, 2], [4, 4, 4], [5, 5, 5]], "f4"))
    module.on_train_epoch_end()
    np.testing.assert_allclose(module.loss.progress.numpy(), [[0] * 3, [0] * 3, [0.5, 1, 1.5], [4] * 3])


def test_cosine_goes_to_zero_over_all_epochs():
    module = make_module(schedule="cosine", epochs=3)
    _, scheduler = module.configure_optimizers()
    rates = []
    for _ in range(12):
        rates.append(scheduler.get_lr())
        scheduler.step()
    np.testing.assert_allclose(rates, [(1 + math.cos(math.pi * step / 12)) / 2 for step in range(12)], atol=1e-9)


def test_what_needs_a_trainer_says_so():
    module = make_module(schedule="cosine", weight_averaging=1.0)
    module.trainer = None
    for call in (module.configure_optimizers, lambda: module.on_train_batch_end(1)):
        with pytest.raises(TrainingError, match="must know the steps of an epoch, but there is no trainer"):
            call()


@pytest.mark.parametrize(
    "training",
    [
        {"task_weighting": "dynamic", "schedule": "cosine"},
        {"task_weighting": "uncertainty", "class_weights": "balanced", "joint_loss": 0.5},
        {"weight_averaging": 0.5, "focal_gamma": 1.0},
    ],
)
def test_resumed_gives_the_same_bits(tmp_path, sample_path, training, monkeypatch):
    from conftest import small_experiment

    from lmf_multitask.runs import Run
    from lmf_multitask.training.experiment import run_experiment
    from lmf_multitask.training.trainer import LMFTrainer

    settings = {"epochs": 4, "joint_loss": 0.0, **training}
    whole = small_experiment(sample_path, tmp_path / "whole", **settings)
    run_experiment(whole)
    broken = small_experiment(sample_path, tmp_path / "broken", **settings)
    save = LMFTrainer._save_checkpoint

    def stop_after_two(self, *arguments, **named):
        save(self, *arguments, **named)
        if round(self.state.epoch) == 2:
            raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(LMFTrainer, "_save_checkpoint", stop_after_two)
        with pytest.raises(KeyboardInterrupt):
            run_experiment(broken)
    run_experiment(broken, resume=True)
    for name in ("model/model.safetensors", "history.csv", "predictions.csv"):
        assert (Run(tmp_path / "broken").folder / name).read_bytes() == (tmp_path / "whole" / name).read_bytes()
