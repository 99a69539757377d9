"""The oracle is the arithmetic of the layers, in numpy and float64."""

import numpy as np
import paddle
import pytest

from lmf_multitask.data.columns import ChunkedColumn
from lmf_multitask.models.encoders import FeatureEncoder, TextEncoder


def random_weights(layer, seed=0):
    """Every weight and running statistic gets a value of its own; variances are positive."""
    rng = np.random.default_rng(seed)
    values = {}
    for name, weight in layer.named_parameters():
        value = rng.normal(scale=0.5, size=weight.shape).astype("float32")
        values[name] = np.abs(value) + 0.1 if name.endswith("_variance") else value
        weight.set_value(values[name])
    return {name: value.astype("float64") for name, value in values.items()}


def three_layers(x, weights):
    for number in (1, 2, 3):
        x = np.maximum(x @ weights[f"linear_{number}.weight"] + weights[f"linear_{number}.bias"], 0)
    return x


def normalised(x, mean, variance, weights):
    return (x - mean) / np.sqrt(variance + 1e-5) * weights["norm.weight"] + weights["norm.bias"]


@pytest.mark.parametrize("rows", [1, 6])
def test_features_in_evaluation(rows):
    encoder = FeatureEncoder(7, 5, dropout=0.5)
    weights = random_weights(encoder)
    encoder.eval()
    x = np.random.default_rng(1).normal(size=(rows, 7)).astype("float32")
    got = encoder(paddle.to_tensor(x)).numpy()
    expected = three_layers(normalised(x, weights["norm._mean"], weights["norm._variance"], weights), weights)
    np.testing.assert_allclose(got, expected, rtol=1e-5, atol=1e-6)
    assert (expected == 0).any()  # the last layer has a ReLU too
    assert (expected > 0).any()


def test_features_in_training_are_normalised_by_their_batch():
    encoder = FeatureEncoder(7, 5, dropout=0.0)
    weights = random_weights(encoder)
    encoder.train()
    x = np.random.default_rng(1).normal(size=(9, 7)).astype("float32")
    got = encoder(paddle.to_tensor(x)).numpy()
    expected = three_layers(normalised(x, x.mean(axis=0), x.var(axis=0), weights), weights)
    np.testing.assert_allclose(got, expected, rtol=1e-4, atol=1e-5)
    # running statistics move by a tenth, as in the paper's code
    moved = 0.9 * weights["norm._mean"] + 0.1 * x.mean(axis=0)
    np.testing.assert_allclose(encoder.norm._mean.numpy(), moved, rtol=1e-5, atol=1e-6)


def lstm(words, weights):
    """Hochreiter and Schmidhuber's cell with a forget gate; the gates' order is Paddle's: input, forget, cell, output."""

    def sigmoid(value):
        return 1 / (1 + np.exp(-value))

    size = weights["lstm.weight_hh_l0"].shape[1]
    hidden, cell = np.zeros((len(words), size)), np.zeros((len(words), size))
    for step in range(words.shape[1]):
        gates = words[:, step] @ weights["lstm.weight_ih_l0"].T + weights["lstm.bias_ih_l0"]
        gates += hidden @ weights["lstm.weight_hh_l0"].T + weights["lstm.bias_hh_l0"]
        i, f, g, o = np.split(gates, 4, axis=1)
        cell = sigmoid(f) * cell + sigmoid(i) * np.tanh(g)
        hidden = sigmoid(o) * np.tanh(cell)
    return hidden


@pytest.mark.parametrize("rows", [1, 6])
def test_text_in_evaluation(rows):
    encoder = TextEncoder(4, 3, 5, dropout=0.5)
    weights = random_weights(encoder)
    encoder.eval()
    words = np.random.default_rng(2).normal(size=(rows, 8, 4)).astype("float32")
    words[0, 5:] = 0  # padding is read like any word
    got = encoder(paddle.to_tensor(words)).numpy()
    expected = lstm(words.astype("float64"), weights) @ weights["linear.weight"] + weights["linear.bias"]
    assert got.shape == (rows, 5)
    np.testing.assert_allclose(got, expected, rtol=1e-5, atol=1e-6)
    assert (expected < 0).any()  # no ReLU after the last layer


def test_dropout_acts_in_training_only():
    paddle.seed(0)
    words, features = paddle.randn([32, 4, 3]), paddle.randn([32, 6])
    for encoder, x in ((TextEncoder(3, 8, 5, dropout=0.5), words), (FeatureEncoder(6, 5, dropout=0.5), features)):
        encoder.train()
        assert not np.array_equal(encoder(x).numpy(), encoder(x).numpy())
        encoder.eval()
        np.testing.assert_array_equal(encoder(x).numpy(), encoder(x).numpy())


@pytest.mark.parametrize("rows", [3, 511, 1500])
def test_statistics_of_train_are_numpys_whatever_the_blocks(rows):
    rng = np.random.default_rng(rows)
    features = (3 + rng.normal(size=(rows, 7)) * 10.0 ** np.arange(-3, 4)).astype("float32")
    features[:, 2] = 0.1  # a constant
    features[1] = 0  # nothing recorded
    words = rng.normal(size=(rows, 4, 3)).astype("float32")
    words[rng.uniform(size=(rows, 4)) < 0.3] = 0
    known, real_words = features[(features != 0).any(axis=1)].astype(np.float64), words[(words != 0).any(axis=2)]
    deviation = known.std(axis=0)
    deviation[2] = 1
    for cut in (lambda column: column, lambda column: ChunkedColumn(np.array_split(column, 3))):
        encoder = FeatureEncoder(7, 5, dropout=0.0, input_norm="standard")
        encoder.fit(cut(features))
        np.testing.assert_array_equal(encoder.norm.mean.numpy(), known.mean(axis=0).astype("float32"))
        np.testing.assert_array_equal(encoder.norm.deviation.numpy(), deviation.astype("float32"))
        text = TextEncoder(3, 4, 5, dropout=0.0, scaled=True)
        text.fit(cut(words))
        np.testing.assert_allclose(
            text.scale.numpy(), np.sqrt(np.square(real_words, dtype=np.float64).mean()), rtol=1e-7
        )


def test_statistics_of_nothing_are_left_as_they_are():
    encoder, text = FeatureEncoder(2, 5, 0.0, "standard"), TextEncoder(3, 4, 5, 0.0, scaled=True)
    encoder.fit(np.zeros((4, 2), "float32"))
    text.fit(np.zeros((4, 2, 3), "float32"))
    np.testing.assert_array_equal(encoder.norm.mean.numpy(), [0, 0])
    np.testing.assert_array_equal(encoder.norm.deviation.numpy(), [1, 1])
    np.testing.assert_array_equal(text.scale.numpy(), [1])
