"""The paper's network in plain numpy, float64: an implementation to compare with, written from the equations.

Parameters go by the names of LMF_Paddle's checkpoints; linear weights are [in, out], the LSTM's gates are in the order
input, forget, cell, output. Shape letters: B batch, L words, H hidden size, R fusion rank.
"""

import numpy as np


def random_parameters(seed=0, features=(5, 4, 3), hidden=(3, 2), lstm=4, text_hidden=2, rank=2, outputs=2):
    """A state dict as LMF_Paddle saves it, without the LSTM's second copy."""
    rng = np.random.default_rng(seed)

    def draw(*shape):
        return rng.normal(0, 0.6, shape).astype(np.float32)

    weights = {}
    for modality, size, width in zip(("audio", "video"), features, hidden):
        at = f"{modality}_subnet."
        weights |= {at + "norm.weight": draw(size), at + "norm.bias": draw(size), at + "norm._mean": draw(size)}
        weights[at + "norm._variance"] = draw(size) ** 2 + 0.5
        for number, inputs in zip((1, 2, 3), (size, width, width)):
            weights |= {f"{at}linear_{number}.weight": draw(inputs, width), f"{at}linear_{number}.bias": draw(width)}
    weights |= {
        "text_subnet.rnn.weight_ih_l0": draw(4 * lstm, features[2]),
        "text_subnet.rnn.weight_hh_l0": draw(4 * lstm, lstm),
        "text_subnet.rnn.bias_ih_l0": draw(4 * lstm),
        "text_subnet.rnn.bias_hh_l0": draw(4 * lstm),
        "text_subnet.linear_1.weight": draw(lstm, text_hidden),
        "text_subnet.linear_1.bias": draw(text_hidden),
        "fusion_weights": draw(1, rank),
        "fusion_bias": draw(1, outputs),
    }
    for modality, width in zip(("audio", "video", "text"), (*hidden, text_hidden)):
        weights[f"{modality}_factor"] = draw(rank, width + 1, outputs)
    return weights


def logits(weights, audio, video, text, training=False):
    """[B, .], [B, .], [B, L, .] -> logits [B, 2]; dropout 0; in training, batch statistics normalise."""
    w = {name: np.asarray(values, np.float64) for name, values in weights.items()}
    z = [_features(w, "audio_subnet.", audio, training), _features(w, "video_subnet.", video, training), _text(w, text)]
    product = 1.0
    for modality, hidden in zip(("audio", "video", "text"), z):
        with_one = np.concatenate([np.ones((len(hidden), 1)), hidden], axis=1)
        product = product * np.einsum("bh,rhk->rbk", with_one, w[f"{modality}_factor"])
    return np.einsum("r,rbk->bk", w["fusion_weights"][0], product) + w["fusion_bias"]


def _features(w, at, x, training):
    x = np.asarray(x, np.float64)
    mean = x.mean(axis=0) if training else w[at + "norm._mean"]
    variance = x.var(axis=0) if training else w[at + "norm._variance"]
    x = (x - mean) / np.sqrt(variance + 1e-5) * w[at + "norm.weight"] + w[at + "norm.bias"]
    for number in (1, 2, 3):
        x = np.maximum(x @ w[f"{at}linear_{number}.weight"] + w[f"{at}linear_{number}.bias"], 0.0)
    return x


def _text(w, words):
    at = "text_subnet.rnn."
    state = cell = np.zeros((len(words), w[at + "weight_hh_l0"].shape[1]))
    for step in np.asarray(words, np.float64).swapaxes(0, 1):
        gates = step @ w[at + "weight_ih_l0"].T + w[at + "bias_ih_l0"]
        gates = gates + state @ w[at + "weight_hh_l0"].T + w[at + "bias_hh_l0"]
        i, f, g, o = np.split(gates, 4, axis=1)
        cell = _sigmoid(f) * cell + _sigmoid(i) * np.tanh(g)
        state = _sigmoid(o) * np.tanh(cell)
    return state @ w["text_subnet.linear_1.weight"] + w["text_subnet.linear_1.bias"]


def _sigmoid(x):
    return 1.0 / (1.0 + np.exp(-x))


def sum_cross_entropy(weights, batch, labels):
    """Sum over rows, with batch statistics, as LMF_Paddle trains."""
    scores = logits(weights, *batch, training=True)
    shifted = scores - scores.max(axis=1, keepdims=True)
    log_probabilities = shifted - np.log(np.exp(shifted).sum(axis=1, keepdims=True))
    return -log_probabilities[np.arange(len(labels)), labels].sum()


def sum_absolute_error(weights, batch, targets):
    """Sum over rows and outputs, with batch statistics, as the original trains on MOSI and POM: targets [B, O]."""
    return np.abs(logits(weights, *batch, training=True) - targets).sum()


def adam_training(
    weights, batches, rate_of, decay, betas=(0.9, 0.999), epsilon=1e-8, step=1e-6, loss=sum_cross_entropy
):
    """Trains by Adam with coupled L2 on numerical gradients; returns the losses and the final weights.

    Args:
        weights: as from `random_parameters`.
        batches: list of ((audio, video, text), labels).
        rate_of: a parameter's name -> its learning rate.
        decay: strength of L2.
        betas, epsilon: Adam's.
        step: of the central differences.
        loss: of weights, batch and labels.
    """
    w = {name: np.array(values, np.float64) for name, values in weights.items()}
    trained = [name for name in w if not name.endswith(("._mean", "._variance"))]
    first = {name: np.zeros_like(w[name]) for name in trained}
    second = {name: np.zeros_like(w[name]) for name in trained}
    losses = []
    for number, (batch, labels) in enumerate(batches, start=1):
        losses.append(loss(w, batch, labels))
        gradients = {name: np.zeros_like(w[name]) for name in trained}
        for name in trained:
            flat, gradient = w[name].reshape(-1), gradients[name].reshape(-1)
            for index in range(flat.size):
                kept = flat[index]
                flat[index] = kept + step
                above = loss(w, batch, labels)
                flat[index] = kept - step
                gradient[index] = (above - loss(w, batch, labels)) / (2 * step)
                flat[index] = kept
        for name in trained:
            gradient = gradients[name] + decay * w[name]
            first[name] = betas[0] * first[name] + (1 - betas[0]) * gradient
            second[name] = betas[1] * second[name] + (1 - betas[1]) * gradient**2
            mean = first[name] / (1 - betas[0] ** number)
            spread = np.sqrt(second[name] / (1 - betas[1] ** number))
            w[name] -= rate_of(name) * mean / (spread + epsilon)
    return losses, w
