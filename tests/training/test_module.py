"""The loss by hand, and what the optimiser does to the weights."""

import numpy as np
import paddle
import pytest
from conftest import INPUTS, NO_DROPOUT, PLAIN, SMALL_PAPERS, model_config

from lmf_multitask.models.lmf import LMFModel
from lmf_multitask.training import parallel
from lmf_multitask.training.config import TrainingConfig
from lmf_multitask.training.module import LMFModule, TrainingModule

NAN = np.nan


def make_module(tasks=("happy", "sad", "angry"), **training):
    paddle.seed(0)
    config = model_config(SMALL_PAPERS, NO_DROPOUT, {"encoders.text.hidden": 3})
    return LMFModule(LMFModel(INPUTS, tasks, config), TrainingConfig(**{**PLAIN, **training}))


def make_batch(labels, seed=1):
    rng = np.random.default_rng(seed)
    batch = {
        name: paddle.to_tensor(rng.normal(size=(len(labels), *shape)).astype("float32"))
        for name, shape in INPUTS.items()
    }
    return {**batch, "labels": paddle.to_tensor(np.array(labels, "float32"))}


LABELS = [[1, 0, NAN], [0, 0, 1], [NAN, NAN, NAN], [0, 1, 0]]


def cross_entropies(outputs, labels):
    """-log softmax(logits)[label] of every annotated label, in float64."""
    labels = np.asarray(labels)
    logits = np.asarray(outputs, np.float64).reshape(*labels.shape, 2)
    logs = logits - np.log(np.exp(logits).sum(axis=-1, keepdims=True))
    return np.array([-logs[row, task, int(labels[row, task])] for row, task in np.argwhere(~np.isnan(labels))])


@pytest.mark.parametrize("reduction", ["mean", "sum"])
def test_loss_leaves_out_what_is_not_annotated(reduction):
    module = make_module(loss_reduction=reduction)
    batch = make_batch(LABELS)
    module.train()
    loss = module.training_step(batch)
    module.model.train()
    entropies = cross_entropies(module.model(batch["audio"], batch["video"], batch["text"]).numpy(), LABELS)
    assert len(entropies) == 8
    assert loss.shape == []
    np.testing.assert_allclose(float(loss), getattr(entropies, reduction)(), rtol=1e-5)


@pytest.mark.parametrize("reduction", ["mean", "sum"])
def test_validation_loss_is_a_mean_and_comes_with_outputs(reduction):
    module = make_module(loss_reduction=reduction)
    batch = make_batch(LABELS)
    module.eval()
    output = module.validation_step(batch)
    entropies = cross_entropies(output["outputs"].numpy(), LABELS)
    np.testing.assert_allclose(float(output["loss"]), entropies.mean(), rtol=1e-5)
    assert int(output["weight"]) == len(entropies) == 8
    del batch["labels"]
    np.testing.assert_array_equal(module.predict_step(batch).numpy(), output["outputs"].numpy())


@pytest.mark.parametrize("reduction", ["mean", "sum"])
def test_a_batch_without_any_annotation_teaches_nothing(reduction):
    module = make_module(loss_reduction=reduction)
    module.train()
    loss = module.training_step(make_batch([[NAN, NAN, NAN]] * 3))
    assert float(loss) == 0.0
    loss.backward()
    for name, weight in module.named_parameters():
        if weight.grad is not None:
            np.testing.assert_array_equal(weight.grad.numpy(), 0, err_msg=name)


@pytest.mark.parametrize("reduction", ["mean", "sum"])
def test_parts_of_a_batch_make_the_loss_of_the_whole(monkeypatch, reduction):
    """Paddle averages the gradients of processes, here their losses: parts with 2 and 9 labels."""
    module = make_module(loss_reduction=reduction)
    module.eval()  # batch normalisation would see the part only
    batch = make_batch(LABELS + [[1, 0, 1]])
    whole = float(module.training_step(batch))
    monkeypatch.setattr(parallel, "world_size", lambda: 2)
    monkeypatch.setattr(parallel, "summed", lambda value: paddle.to_tensor(11.0))
    parts = [{name: values[rows] for name, values in batch.items()} for rows in (slice(0, 1), slice(1, 5))]
    losses = [float(module.training_step(part)) for part in parts]
    assert np.mean(losses) == pytest.approx(whole, rel=1e-5)


def test_unannotated_labels_send_no_gradient():
    """With a second emotion that nothing annotates, the gradients are those of the first one alone."""
    both, alone = make_module(["a", "b"], loss_reduction="sum"), make_module(["a"], loss_reduction="sum")
    for name, weight in alone.named_parameters():
        value = dict(both.named_parameters())[name].numpy()
        weight.set_value(value[..., :2] if "heads" in name else value)
    for module, labels in ((both, [[1, NAN], [0, NAN], [1, NAN]]), (alone, [[1], [0], [1]])):
        module.train()
        module.training_step(make_batch(labels)).backward()
    for name, weight in trainable(alone).items():
        gradient = trainable(both)[name].grad.numpy()
        if "heads" in name:
            np.testing.assert_array_equal(gradient[..., 2:], 0)
            gradient = gradient[..., :2]
        np.testing.assert_allclose(gradient, weight.grad.numpy(), rtol=1e-4, atol=1e-6, err_msg=name)
        assert (gradient != 0).any(), name


# -- the optimiser


def trainable(module):
    return {name: weight for name, weight in module.named_parameters() if not weight.stop_gradient}


@pytest.mark.parametrize("fusion_dim", [6, None])
def test_groups_cover_every_trainable_parameter_once(fusion_dim):
    paddle.seed(0)
    module = LMFModule(LMFModel(INPUTS, ["a", "b"], model_config({"fusion.dim": fusion_dim})))
    optimizer = module.configure_optimizers()
    buffers = [buffer for group in optimizer._param_groups for buffer in group["params"]]
    assert list(map(id, buffers)) == list(map(id, module.optimized_parameters().values()))
    for number, buffer in enumerate(buffers, start=1):
        buffer.set_value(np.full(buffer.shape, number, "float32"))
    homes = {name: np.unique(weight.numpy()).tolist() for name, weight in module.named_parameters()}
    assert {name for name, home in homes.items() if home in ([1], [2])} >= set(trainable(module))
    assert sum(weight.size for weight in trainable(module).values()) > 0.8 * sum(buffer.size for buffer in buffers)


@pytest.mark.parametrize(("factor_rate", "expected"), [(0.003, 0.003), (None, 0.0005)])
def test_first_step_shows_the_rates(factor_rate, expected):
    """Adam's first step moves every weight by its rate, whatever the gradient: m / sqrt(v) = +-1."""
    module = make_module(learning_rate=0.0005, factor_learning_rate=factor_rate, weight_decay=0.0)
    optimizer = module.configure_optimizers()
    before = {name: weight.numpy().copy() for name, weight in module.named_parameters()}
    module.train()
    module.training_step(make_batch([[1, 0, 0], [0, 1, 0], [0, 0, 1], [1, 0, 0]])).backward()
    gradients = {name: weight.grad.numpy() for name, weight in trainable(module).items()}
    optimizer.step()
    seen = {True: 0, False: 0}
    for name, weight in trainable(module).items():
        clear = np.abs(gradients[name]) > 1e-5  # where Adam's epsilon does not matter
        moved = (before[name] - weight.numpy())[clear]
        is_factor = name.startswith("model.fusion.factors.")
        rate = expected if is_factor else 0.0005
        np.testing.assert_allclose(moved, rate * np.sign(gradients[name][clear]), rtol=5e-3, err_msg=name)
        seen[is_factor] += clear.sum()
    assert seen[True] > 50
    assert seen[False] > 100


def test_weight_decay_is_coupled_as_in_the_reference():
    """Kingma and Ba's Adam with decay * weight added to the gradient, in numpy, for every weight and several steps."""
    decay = 0.05
    module = make_module(learning_rate=0.002, factor_learning_rate=0.01, weight_decay=decay, loss_reduction="sum")
    optimizer = module.configure_optimizers()
    own = {name: weight.numpy().astype("float64") for name, weight in trainable(module).items()}
    first = {name: np.zeros_like(value) for name, value in own.items()}
    second = {name: np.zeros_like(value) for name, value in own.items()}
    module.train()
    for step in range(1, 5):
        module.training_step(make_batch([[1, 0, 0], [0, 1, 0], [0, 0, 1], [1, 0, 0]], seed=step)).backward()
        for name, weight in trainable(module).items():
            gradient = weight.grad.numpy().astype("float64") + decay * own[name]
            first[name] = 0.9 * first[name] + 0.1 * gradient
            second[name] = 0.999 * second[name] + 0.001 * gradient**2
            mean, variance = first[name] / (1 - 0.9**step), second[name] / (1 - 0.999**step)
            rate = 0.01 if ".factors." in name else 0.002
            own[name] = own[name] - rate * mean / (np.sqrt(variance) + 1e-8)
        optimizer.step()
        optimizer.clear_grad()
    for name, weight in trainable(module).items():
        np.testing.assert_allclose(weight.numpy(), own[name], rtol=2e-3, atol=2e-5, err_msg=name)


def test_gradients_are_clipped_together():
    module = make_module(max_grad_norm=0.5, weight_decay=0.0, learning_rate=0.1, loss_reduction="sum")
    optimizer = module.configure_optimizers()
    clip = optimizer._grad_clip
    module.train()
    module.training_step(make_batch([[1, 0, 0], [0, 1, 0]] * 8)).backward()
    before = [weight.grad.numpy().astype("float64") for weight in trainable(module).values()]
    length = np.sqrt(sum((gradient**2).sum() for gradient in before))
    assert length > 0.5
    clipped = clip([(weight, weight.grad) for weight in trainable(module).values()])
    for gradient, (_, shorter) in zip(before, clipped):
        np.testing.assert_allclose(shorter.numpy(), gradient * 0.5 / length, rtol=1e-4, atol=1e-7)
    assert make_module().configure_optimizers()._grad_clip is None


# -- the base class


def test_the_base_class_has_no_steps():
    module = TrainingModule()
    for call in (
        lambda: module.training_step({}),
        lambda: module.validation_step({}),
        lambda: module.predict_step({}),
        module.configure_optimizers,
    ):
        with pytest.raises(NotImplementedError):
            call()


def test_log_without_a_trainer_does_nothing():
    make_module().log("x", 1.0)


def test_forward_is_the_step_of_the_mode():
    module = make_module()
    batch = make_batch(LABELS)
    module.eval()
    assert {"loss", "outputs"} <= set(module(batch))
    module.train()
    assert module(batch).shape == []
