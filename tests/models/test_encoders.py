"""Encoders against their arithmetic in numpy and float64: layers, poolings over padded sequences, statistics, FLOPs."""

import numpy as np
import paddle
import pytest

from lmf_multitask.data.columns import ChunkedColumn
from lmf_multitask.data.modality import Input
from lmf_multitask.errors import ConfigError
from lmf_multitask.models.encoders import LSTMEncoder, MLPEncoder, Standardisation

PLAIN_LSTM = {"projection": None, "pooling": "last_step", "step_dropout": 0.0, "norm": "none", "dropout": 0.0}


def mlp(shape, **settings):
    return MLPEncoder(Input(shape), MLPEncoder.Settings(**{"hidden": 5, "dropout": 0.0, **settings}))


def lstm(shape, **settings):
    return LSTMEncoder(Input(shape), LSTMEncoder.Settings(**{"hidden": 5, "state": 3, **PLAIN_LSTM, **settings}))


def random_weights(layer, seed=0):
    """Every weight and statistic gets a value of its own; variances and standard deviations are positive."""
    rng = np.random.default_rng(seed)
    values = {}
    for name, weight in layer.named_parameters():
        value = rng.normal(scale=0.5, size=weight.shape).astype("float32")
        positive = name.endswith(("_variance", ".std", "scale"))
        values[name] = np.abs(value) + 0.3 if positive else value
        weight.set_value(values[name])
    return {name: value.astype("float64") for name, value in values.items()}


def padded(rows=6, steps=7, features=4, seed=1):
    """Sequences with padding at the end, in front, on both sides and between steps; the last clip is missing."""
    x = np.random.default_rng(seed).normal(-0.5, size=(rows, steps, features)).astype("float32")
    x[1, 4:] = 0
    x[2, :3] = 0
    x[3, :2] = x[3, 5:] = 0
    x[4, 3] = 0
    x[-1] = 0
    return x


def run(encoder, features, *present):
    encoder.eval()
    return encoder(paddle.to_tensor(features), *map(paddle.to_tensor, present)).numpy()


# -- mlp


def three_layers(x, weights):
    for number in (1, 2, 3):
        x = np.maximum(x @ weights[f"linear_{number}.weight"] + weights[f"linear_{number}.bias"], 0)
    return x


def batch_normalised(x, mean, variance, weights):
    return (x - mean) / np.sqrt(variance + 1e-5) * weights["norm.weight"] + weights["norm.bias"]


@pytest.mark.parametrize("rows", [1, 6])
def test_mlp_in_evaluation(rows):
    encoder = mlp((7,), norm="batch", dropout=0.5)
    weights = random_weights(encoder)
    x = np.random.default_rng(1).normal(size=(rows, 7)).astype("float32")
    expected = three_layers(batch_normalised(x, weights["norm._mean"], weights["norm._variance"], weights), weights)
    np.testing.assert_allclose(run(encoder, x), expected, rtol=1e-5, atol=1e-6)
    assert (expected == 0).any()  # the last layer has a ReLU too
    assert (expected > 0).any()


def test_mlp_in_training_is_normalised_by_its_batch():
    encoder = mlp((7,), norm="batch")
    weights = random_weights(encoder)
    encoder.train()
    x = np.random.default_rng(1).normal(size=(9, 7)).astype("float32")
    got = encoder(paddle.to_tensor(x)).numpy()
    expected = three_layers(batch_normalised(x, x.mean(axis=0), x.var(axis=0), weights), weights)
    np.testing.assert_allclose(got, expected, rtol=1e-4, atol=1e-5)
    # running statistics move by a tenth, as in the paper's code
    moved = 0.9 * weights["norm._mean"] + 0.1 * x.mean(axis=0)
    np.testing.assert_allclose(encoder.norm._mean.numpy(), moved, rtol=1e-5, atol=1e-6)


def pooled(clip, pooling):
    """Present steps of one clip, [steps, D] -> one vector, in numpy."""
    known = clip[(clip != 0).any(axis=1)].astype("float64")
    if not len(known):
        return np.zeros(clip.shape[1] * (2 if pooling == "mean_std" else 1))
    return {
        "mean": lambda: known.mean(axis=0),
        "mean_std": lambda: np.concatenate([known.mean(axis=0), known.std(axis=0)]),
        "max": lambda: known.max(axis=0),
        "last": lambda: known[-1],
    }[pooling]()


@pytest.mark.parametrize("given", [True, False])
@pytest.mark.parametrize("pooling", ["mean", "mean_std", "max", "last"])
def test_mlp_pools_the_present_steps_of_a_sequence(pooling, given):
    encoder = mlp((7, 4), pooling=pooling)
    weights = random_weights(encoder)
    x = padded()
    x[0, 2] = -30_000.0  # lower than any padding
    x[1, :4, 1] = 0.0  # a feature that is zero in every present step
    vectors = np.stack([pooled(clip, pooling) for clip in x])
    expected = three_layers(np.clip((vectors - weights["norm.mean"]) / weights["norm.std"], -5, 5), weights)
    present = [(x != 0).any(axis=2)] if given else []
    np.testing.assert_allclose(run(encoder, x, *present), expected, rtol=1e-4, atol=1e-4)
    # more padding changes nothing
    longer = np.pad(x, ((0, 0), (2, 5), (0, 0)))
    np.testing.assert_allclose(run(encoder, longer), run(encoder, x), rtol=1e-4, atol=1e-4)


def test_a_maximum_of_large_negative_features():
    encoder = mlp((3, 1), pooling="max")
    x = np.array([[[-5e4], [-2e6], [0]]], "float32")
    np.testing.assert_array_equal(encoder._pooled(paddle.to_tensor(x), None).numpy(), [[-5e4]])


@pytest.mark.parametrize("pooling", ["mean", "mean_std", "max", "last"])
def test_a_vector_is_a_sequence_of_one_step(pooling):
    """The std of one step is 0."""
    sequence, vector = mlp((1, 4), pooling=pooling), mlp((4,), pooling=pooling)
    x = np.random.default_rng(3).normal(size=(5, 4)).astype("float32")
    for name, weight in vector.named_parameters():
        own = dict(sequence.named_parameters())[name]
        rest = paddle.full_like(weight, name == "norm.std")  # of the std, which is zero
        own.set_value(paddle.concat([weight, rest]) if own.shape != weight.shape else weight)
    np.testing.assert_allclose(run(sequence, x[:, None]), run(vector, x), rtol=1e-5, atol=1e-6)


# -- statistics


@pytest.mark.parametrize("rows", [3, 511, 1500])
def test_statistics_of_train_are_numpys_whatever_the_blocks(rows):
    rng = np.random.default_rng(rows)
    features = (3 + rng.normal(size=(rows, 7)) * 10.0 ** np.arange(-3, 4)).astype("float32")
    features[:, 2] = 0.1  # a constant
    features[1] = 0  # missing
    words = rng.normal(size=(rows, 4, 3)).astype("float32")
    words[rng.uniform(size=(rows, 4)) < 0.3] = 0
    known, real_words = features[(features != 0).any(axis=1)].astype(np.float64), words[(words != 0).any(axis=2)]
    std = known.std(axis=0)
    std[2] = 1
    for cut in (lambda column: column, lambda column: ChunkedColumn(np.array_split(column, 3))):
        encoder = mlp((7,))
        encoder.fit(cut(features))
        np.testing.assert_array_equal(encoder.norm.mean.numpy(), known.mean(axis=0).astype("float32"))
        np.testing.assert_array_equal(encoder.norm.std.numpy(), std.astype("float32"))
        text = lstm((4, 3), norm="standard")
        text.fit(cut(words))
        root_mean_square = np.sqrt(np.square(real_words, dtype=np.float64).mean())
        np.testing.assert_allclose(text.scale.numpy(), root_mean_square, rtol=1e-7)
        sequence = mlp((4, 3), pooling="mean_std")
        sequence.fit(cut(words))
        vectors = np.stack([pooled(clip, "mean_std") for clip in words if clip.any()])
        np.testing.assert_allclose(sequence.norm.mean.numpy(), vectors.mean(axis=0), rtol=1e-4, atol=1e-6)
        np.testing.assert_allclose(sequence.norm.std.numpy(), vectors.std(axis=0), rtol=1e-4, atol=1e-6)


def test_statistics_without_any_present_clip_stay_as_they_are():
    encoder, text = mlp((2,)), lstm((2, 3), norm="standard")
    encoder.fit(np.zeros((4, 2), "float32"))
    text.fit(np.zeros((4, 2, 3), "float32"))
    np.testing.assert_array_equal(encoder.norm.mean.numpy(), [0, 0])
    np.testing.assert_array_equal(encoder.norm.std.numpy(), [1, 1])
    np.testing.assert_array_equal(text.scale.numpy(), [1])


def test_batch_normalisation_and_plain_steps_take_no_statistics():
    for encoder, shape in ((mlp((3,), norm="batch"), (9, 3)), (lstm((2, 3)), (9, 2, 3))):
        before = [weight.numpy().copy() for weight in encoder.parameters()]
        encoder.fit(np.ones(shape, "float32"))
        for weight, value in zip(encoder.parameters(), before):
            np.testing.assert_array_equal(weight.numpy(), value)


def test_standardised_features_are_clipped():
    rng = np.random.default_rng(1)
    train = rng.normal(3, 2, size=(50, 2)).astype("f4")
    norm = Standardisation(2)
    norm.fit(train)
    rows = np.array([[3, 3], [1e6, -1e6]], "f4")
    wanted = (rows[0] - train.astype("f8").mean(axis=0)) / train.astype("f8").std(axis=0)
    found = norm(paddle.to_tensor(rows)).numpy()
    np.testing.assert_allclose(found[0], wanted, atol=1e-5)
    np.testing.assert_array_equal(found[1], [5, -5])


# -- lstm


def lstm_states(steps, layer, end=""):
    """All states of one LSTM (Hochreiter and Schmidhuber's cell with a forget gate); gates in Paddle's order: i, f, g, o."""
    names = ("weight_ih", "weight_hh", "bias_ih", "bias_hh")
    own = {name: getattr(layer, f"{name}_l0{end}").numpy().astype("f8") for name in names}
    state = cell = np.zeros(own["weight_hh"].shape[1])
    found = []
    for step in steps:
        gates = own["weight_ih"] @ step + own["bias_ih"] + own["weight_hh"] @ state + own["bias_hh"]
        i, f, g, o = np.split(gates, 4)
        i, f, o = (1 / (1 + np.exp(-x)) for x in (i, f, o))
        cell = f * cell + i * np.tanh(g)
        state = o * np.tanh(cell)
        found.append(state)
    return np.array(found)


def lstm_oracle(encoder, clip):
    """One clip [L, D] -> [H]."""
    settings = encoder.pooling
    present = (clip != 0).any(axis=1)
    steps = clip.astype("f8") / (encoder.scale.item() if encoder.scaled else 1)
    if encoder.projection is not None:
        steps = steps @ encoder.projection.weight.numpy() + encoder.projection.bias.numpy()
    states = [lstm_states(steps, encoder.lstm)]
    if encoder.lstm.num_directions == 2:
        states.append(lstm_states(steps[::-1], encoder.lstm, "_reverse")[::-1])
    if settings == "last_step":  # of each direction, the last that it reads
        vector = np.concatenate([states[0][-1], *(back[0] for back in states[1:])])
    else:
        states = np.concatenate(states, axis=1)
        if settings == "last_present":
            vector = states[np.flatnonzero(present)[-1] if present.any() else 0]
        elif not present.any():  # no step is left out of the attention; the mean is of nothing
            scores = np.exp(states @ encoder.attention.weight.numpy()[:, 0])
            vector = np.concatenate([scores / scores.sum() @ states, np.zeros(states.shape[1])])
        else:
            scores = np.exp(states[present] @ encoder.attention.weight.numpy()[:, 0])
            vector = np.concatenate([scores / scores.sum() @ states[present], states[present].mean(axis=0)])
    return vector @ encoder.linear.weight.numpy() + encoder.linear.bias.numpy()


@pytest.mark.parametrize("norm", ["none", "standard"])
@pytest.mark.parametrize("bidirectional", [False, True])
@pytest.mark.parametrize("projection", [None, 2])
@pytest.mark.parametrize("pooling", ["attention", "last_step", "last_present"])
def test_lstm_in_evaluation(pooling, projection, bidirectional, norm):
    paddle.seed(5)
    encoder = lstm((7, 4), pooling=pooling, projection=projection, bidirectional=bidirectional, norm=norm)
    random_weights(encoder)
    x = padded()
    expected = np.stack([lstm_oracle(encoder, clip) for clip in x])
    np.testing.assert_allclose(run(encoder, x), expected, rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(run(encoder, x, (x != 0).any(axis=2)), expected, rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(run(encoder, x[:1]), expected[:1], rtol=1e-4, atol=1e-5)
    assert (expected < 0).any()  # no ReLU after the last layer


def test_padding_at_the_end_has_no_influence_on_the_last_present_step():
    encoder = lstm((7, 4), pooling="last_present")
    x = padded()
    longer = np.pad(x, ((0, 0), (0, 4), (0, 0)))
    np.testing.assert_allclose(run(encoder, longer), run(encoder, x), rtol=1e-6, atol=1e-7)


def test_the_gradient_with_the_last_present_step():
    """As that of every clip computed alone, without its padding."""
    encoder = lstm((7, 4), pooling="last_present")
    x, ends = padded()[:4], [7, 2, 5, 1]
    for row, end in enumerate(ends):
        x[row, end:] = 0
    x[:, :1] = 1.0

    def gradients(parts):
        encoder.clear_gradients()
        for part in parts:
            (encoder(paddle.to_tensor(part)) ** 2).sum().backward()
        return {name: weight.grad.numpy().copy() for name, weight in encoder.named_parameters()}

    together = gradients([x])
    for name, wanted in gradients([x[row : row + 1, :end] for row, end in enumerate(ends)]).items():
        np.testing.assert_allclose(together[name], wanted, rtol=1e-4, atol=1e-6, err_msg=name)


@pytest.mark.parametrize("pooling", ["attention", "last_present"])
def test_a_clip_without_steps_has_a_finite_gradient(pooling):
    encoder = lstm((7, 4), pooling=pooling, norm="standard")
    found = encoder(paddle.to_tensor(padded()))
    found.sum().backward()
    assert np.isfinite(found.numpy()).all()
    assert all(np.isfinite(weight.grad.numpy()).all() for weight in encoder.parameters() if not weight.stop_gradient)


def test_step_dropout_drops_whole_steps_in_training_only():
    paddle.seed(1)
    encoder = lstm((10, 3), step_dropout=0.5)
    seen = []
    encoder.lstm.register_forward_pre_hook(lambda layer, inputs: seen.append(inputs[0].numpy()))
    steps = np.ones((40, 10, 3), "f4")
    encoder(paddle.to_tensor(steps))
    encoder.eval()
    encoder(paddle.to_tensor(steps))
    assert set(np.unique(seen[0])) == {0.0, 2.0}
    assert (seen[0] == seen[0][:, :, :1]).all()
    assert 0.4 < (seen[0] == 0).mean() < 0.6
    np.testing.assert_array_equal(seen[1], steps)


def test_dropout_acts_in_training_only():
    paddle.seed(0)
    steps, features = paddle.randn([32, 4, 3]), paddle.randn([32, 6])
    for encoder, x in ((lstm((4, 3), dropout=0.5), steps), (mlp((6,), dropout=0.5), features)):
        encoder.train()
        assert not np.array_equal(encoder(x).numpy(), encoder(x).numpy())
        encoder.eval()
        np.testing.assert_array_equal(encoder(x).numpy(), encoder(x).numpy())


def test_an_lstm_needs_sequences():
    with pytest.raises(ConfigError, match=r"the encoder lstm must be given sequences \[L, D\], but .* shape \[4\]"):
        lstm((4,))


# -- FLOPs, counted by hand: a product of [1, a] and [a, b] has 2 a b


@pytest.mark.parametrize(
    ("encoder", "length", "flops"),
    [
        (lambda: mlp((7,)), 1, 2 * 7 * 5 + 2 * 2 * 5 * 5),
        (lambda: mlp((9, 7), norm="batch"), 9, 2 * 7 * 5 + 2 * 2 * 5 * 5),
        (lambda: mlp((9, 7), pooling="mean_std"), 9, 2 * 14 * 5 + 2 * 2 * 5 * 5),
        # four gates of 3 numbers from 4 features and 3 states, and the linear layer
        (lambda: lstm((6, 4)), 6, 6 * 2 * (4 + 3) * 12 + 2 * 3 * 5),
        (lambda: lstm((6, 4)), 10, 10 * 2 * (4 + 3) * 12 + 2 * 3 * 5),
        (lambda: lstm((6, 4), projection=2), 6, 6 * (2 * 4 * 2 + 2 * (2 + 3) * 12) + 2 * 3 * 5),
        (lambda: lstm((6, 4), bidirectional=True), 6, 2 * 6 * 2 * (4 + 3) * 12 + 2 * 6 * 5),
        # scores, weighted mean and mean: three products of 3 numbers per step
        (lambda: lstm((6, 4), pooling="attention"), 6, 6 * (2 * (4 + 3) * 12 + 3 * 2 * 3) + 2 * 6 * 5),
    ],
)
def test_flops(encoder, length, flops):
    assert encoder().flops(length) == flops


@pytest.mark.parametrize("value", [1e12, -1e30])
def test_one_absurd_number_does_not_change_the_statistics(value):
    rng = np.random.default_rng(0)
    clean = rng.normal(3, 2, size=(200, 4)).astype("float32")
    spoilt = clean.copy()
    spoilt[17, 2] = value
    norm = Standardisation(4)
    norm.fit(spoilt)
    others = np.delete(clean[:, 2].astype("float64"), 17)
    mean, std = clean.astype("float64").mean(axis=0), clean.astype("float64").std(axis=0)
    mean[2], std[2] = others.mean(), others.std()
    np.testing.assert_allclose(norm.mean.numpy(), mean, rtol=1e-6)
    np.testing.assert_allclose(norm.std.numpy(), std, rtol=1e-6)
    steps = rng.normal(size=(50, 6, 4)).astype("float32")
    steps[3, 4:] = 0
    root = np.sqrt(np.square(steps.astype("float64")[(steps != 0).any(axis=2)]).mean())
    steps[5, 2, 1] = value
    encoder = lstm((6, 4), norm="standard")
    encoder.fit(steps)
    assert abs(encoder.scale.item() / root - 1) < 0.01
    encoder.eval()
    assert np.isfinite(encoder(paddle.to_tensor(steps)).numpy()).all()
