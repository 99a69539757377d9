"""What was added to the papers' network, against its equations in numpy."""

import numpy as np
import paddle
import pytest
from conftest import FEATURE_SIZES, NO_DROPOUT, SMALL_PAPERS, random_clips

from lmf_multitask.benchmarking.cost import cost_of
from lmf_multitask.config import ModelConfig
from lmf_multitask.errors import ConfigError
from lmf_multitask.models.encoders import FeatureEncoder, Standardisation, TextEncoder
from lmf_multitask.models.lmf import EmotionHeads, LMFModel
from lmf_multitask.models.sizes import weight_shapes


def build(seed=3, tasks=("one", "two"), **settings):
    paddle.seed(seed)
    model = LMFModel(FEATURE_SIZES, list(tasks), ModelConfig(**{**SMALL_PAPERS, **settings}))
    for weight in model.parameters():  # no ReLU of these few is closed for every clip
        if not weight.stop_gradient and len(weight.shape) == 1:
            weight.set_value(np.linspace(0.1, 0.4, weight.shape[0]).astype("f4"))
    model.eval()
    return model


def logits(model, data):
    return model(*(paddle.to_tensor(data[name]) for name in ("audio", "video", "text"))).numpy()


# -- inputs


def test_standardisation_is_that_of_train_and_cut_off():
    rng = np.random.default_rng(1)
    train = rng.normal(3, 2, size=(50, 3)).astype("f4")
    train[:, 2] = 0.7  # constant
    train[:5] = 0  # nothing recorded
    norm = Standardisation(3)
    norm.fit(train)
    rows = np.array([[3, 3, 0.7], [1e6, -1e6, 0.8]], "f4")
    known = train[5:].astype("f8")
    wanted = (rows - known.mean(axis=0)) / np.array([*known.std(axis=0)[:2], 1])
    found = norm(paddle.to_tensor(rows)).numpy()
    np.testing.assert_allclose(found[0], wanted[0], atol=1e-5)
    np.testing.assert_allclose(found[1], [5, -5, wanted[1, 2]], atol=1e-5)


def test_standardisation_of_nothing_recorded_changes_nothing():
    encoder = FeatureEncoder(3, 2, 0.0, "standard")
    encoder.fit(np.zeros((4, 3), "f4"))
    np.testing.assert_array_equal(encoder.norm.deviation.numpy(), 1)
    np.testing.assert_array_equal(encoder.norm.mean.numpy(), 0)


def test_statistics_travel_with_the_weights_and_no_optimiser_sees_them(tmp_path):
    model = build(input_norm="standard")
    data = random_clips()
    model.fit_inputs(data)
    model.save_pretrained(tmp_path / "m")
    again = LMFModel.from_pretrained(tmp_path / "m")
    np.testing.assert_array_equal(logits(again, data), logits(model, data))
    np.testing.assert_allclose(again.audio_encoder.norm.mean.numpy(), data["audio"].mean(axis=0), atol=1e-6)
    fixed = {name for name, weight in again.weights().items() if weight.stop_gradient}
    norms = {f"{m}_encoder.norm.{part}" for m in ("audio", "video") for part in ("mean", "deviation")}
    assert fixed == norms | {"text_encoder.scale"}


def test_words_are_divided_by_their_root_mean_square():
    words = np.array([[[3.0, 4.0], [0, 0]], [[1.0, 2.0], [5.0, 1.0]]], "f4")
    encoder = TextEncoder(2, 3, 2, 0.0, scaled=True)
    encoder.fit(words)
    assert encoder.scale.item() == pytest.approx(np.sqrt((9 + 16 + 1 + 4 + 25 + 1) / 6))
    plain = TextEncoder(2, 3, 2, 0.0)
    for own, other in zip(plain.parameters(), [w for w in encoder.parameters() if w is not encoder.scale]):
        own.set_value(other)
    found = encoder(paddle.to_tensor(words)).numpy()
    np.testing.assert_allclose(found, plain(paddle.to_tensor(words / encoder.scale.item())).numpy(), rtol=1e-5)


# -- text


def lstm_states(words, lstm, end=""):
    """All states of one LSTM in float64, gates in Paddle's order: input, forget, cell, output."""
    own = {
        n: getattr(lstm, f"{n}_l0{end}").numpy().astype("f8") for n in ("weight_ih", "weight_hh", "bias_ih", "bias_hh")
    }
    size = own["weight_hh"].shape[1]
    state, cell, found = np.zeros(size), np.zeros(size), []
    for word in words:
        gates = own["weight_ih"] @ word + own["bias_ih"] + own["weight_hh"] @ state + own["bias_hh"]
        i, f, g, o = np.split(gates, 4)
        i, f, o = (1 / (1 + np.exp(-x)) for x in (i, f, o))
        cell = f * cell + i * np.tanh(g)
        state = o * np.tanh(cell)
        found.append(state)
    return np.array(found)


@pytest.mark.parametrize("bidirectional", [False, True])
@pytest.mark.parametrize("projection", [None, 2])
def test_attention_pooling(projection, bidirectional):
    paddle.seed(5)
    encoder = TextEncoder(3, 4, 2, 0.0, "attention", projection=projection, bidirectional=bidirectional)
    words = random_clips(rows=4)["text"]
    words[1, 3:] = 0  # behind
    words[2, :2] = 0  # in front
    found = encoder(paddle.to_tensor(words)).numpy()
    for row, clip in enumerate(words.astype("f8")):
        is_word = (clip != 0).any(axis=1)
        if projection:
            clip = clip @ encoder.projection.weight.numpy() + encoder.projection.bias.numpy()
        states = lstm_states(clip, encoder.lstm)
        if bidirectional:
            back = lstm_states(clip[::-1], encoder.lstm, "_reverse")[::-1]
            states = np.concatenate([states, back], axis=1)
        scores = np.exp(states[is_word] @ encoder.attention.weight.numpy()[:, 0])
        attended = (scores / scores.sum()) @ states[is_word]
        taken = np.concatenate([attended, states[is_word].mean(axis=0)])
        wanted = taken @ encoder.linear.weight.numpy() + encoder.linear.bias.numpy()
        np.testing.assert_allclose(found[row], wanted, rtol=1e-4, atol=1e-5)


def test_last_step_of_both_directions():
    encoder = TextEncoder(3, 4, 2, 0.0, "last_step", bidirectional=True)
    words = random_clips(rows=1)["text"]
    states = [lstm_states(words[0], encoder.lstm)[-1], lstm_states(words[0, ::-1], encoder.lstm, "_reverse")[-1]]
    wanted = np.concatenate(states) @ encoder.linear.weight.numpy() + encoder.linear.bias.numpy()
    np.testing.assert_allclose(encoder(paddle.to_tensor(words)).numpy()[0], wanted, rtol=1e-4, atol=1e-5)


def test_a_clip_without_words_is_finite():
    encoder = TextEncoder(3, 4, 2, 0.0, "attention", scaled=True)
    words = random_clips(rows=2)["text"]
    words[0] = 0
    found = encoder(paddle.to_tensor(words))
    found.sum().backward()
    assert np.isfinite(found.numpy()).all()
    assert all(np.isfinite(w.grad.numpy()).all() for w in encoder.parameters() if not w.stop_gradient)


def test_word_dropout_drops_whole_words_in_training_only():
    paddle.seed(1)
    encoder = TextEncoder(3, 4, 2, 0.0, "attention", word_dropout=0.5)
    seen = []
    encoder.lstm.register_forward_pre_hook(lambda layer, inputs: seen.append(inputs[0].numpy()))
    words = np.ones((40, 10, 3), "f4")
    encoder(paddle.to_tensor(words))
    encoder.eval()
    encoder(paddle.to_tensor(words))
    assert set(np.unique(seen[0])) == {0.0, 2.0}
    assert (seen[0] == seen[0][:, :, :1]).all()
    assert 0.4 < (seen[0] == 0).mean() < 0.6
    np.testing.assert_array_equal(seen[1], words)


# -- missing modalities


def fused_inputs(model, data, training=False):
    seen = []
    hook = model.fusion.register_forward_pre_hook(lambda layer, inputs: seen.append([x.numpy() for x in inputs[0]]))
    model.train() if training else model.eval()
    logits(model, data)
    hook.remove()
    model.eval()
    return seen[0]


def test_zeros_are_a_missing_modality():
    model, data = build(modality_dropout=0.0), random_clips()
    data["video"][2] = 0
    data["text"][4] = 0
    hidden = fused_inputs(model, data)
    for m, missing in ((0, []), (1, [2]), (2, [4])):
        assert [row for row in range(6) if not hidden[m][row].any()] == missing
    off = build(modality_dropout=None)
    assert all(vector.any(axis=1).all() for vector in fused_inputs(off, data))


def test_modality_dropout_takes_away_some_but_never_all():
    paddle.seed(2)
    model, data = build(modality_dropout=0.6, audio_hidden=32, video_hidden=32, **NO_DROPOUT), random_clips(rows=400)
    there = np.stack([vector.any(axis=1) for vector in fused_inputs(model, data, training=True)], axis=1)
    whole = np.stack([vector.any(axis=1) for vector in fused_inputs(model, data)], axis=1)
    assert whole.all()
    assert there.any(axis=1).all()
    # a share .6 is taken, but where all three would go (.216) all stay: present with .4 + .216
    assert there.mean(axis=0) == pytest.approx(np.full(3, 0.616), abs=0.08)


# -- heads


def test_heads_with_a_hidden_layer():
    heads = EmotionHeads(3, 4, hidden=5)
    fused = np.random.default_rng(0).normal(size=(7, 4)).astype("f4")
    inner = np.maximum(np.einsum("bk,tkh->tbh", fused, heads.hidden_weight.numpy()) + heads.hidden_bias.numpy(), 0)
    wanted = np.einsum("tbh,tho->bto", inner, heads.weight.numpy()) + heads.bias.numpy()[:, 0]
    np.testing.assert_allclose(heads(paddle.to_tensor(fused)).numpy(), wanted, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("fusion", ["lmf", "tfn", "concat"])
def test_gates_weigh_the_modalities_of_each_emotion(fusion):
    """A gate of 1 is no gate; and each emotion's logits are those of a network whose modalities are scaled by its gates."""
    plain, gated, data = build(fusion=fusion), build(fusion=fusion, sharing="gates"), random_clips()
    for name, weight in gated.weights().items():
        if name != "gates":
            weight.set_value(plain.weights()[name])
    np.testing.assert_allclose(logits(gated, data), logits(plain, data), rtol=1e-5, atol=1e-6)
    values = np.random.default_rng(1).normal(size=(2, 3)).astype("f4")
    gated.gates.set_value(values)
    found = logits(gated, data)
    hidden = fused_inputs(plain, data)
    for t, gates in enumerate(2 / (1 + np.exp(-values))):
        fused = plain.fusion([paddle.to_tensor(vector * gate) for vector, gate in zip(hidden, gates)])
        np.testing.assert_allclose(found[:, t], plain.heads(fused).numpy()[:, t], rtol=1e-4, atol=1e-5)


def test_sharing_only_the_encoders_is_a_fusion_per_emotion():
    model, data = build(sharing="encoders"), random_clips()
    hidden = fused_inputs(model, data)
    fused = model.fusion([paddle.to_tensor(vector) for vector in hidden]).numpy()
    assert fused.shape == (6, 12)
    wanted = [
        fused[:, 6 * t : 6 * t + 6] @ model.heads.weight.numpy()[t] + model.heads.bias.numpy()[t] for t in range(2)
    ]
    np.testing.assert_allclose(logits(model, data), np.stack(wanted, axis=1), rtol=1e-4, atol=1e-5)


CHOICES = [
    {"sharing": "gates", "modalities": ["audio", "text"]},
    {"sharing": "encoders", "fusion": "concat"},
    {"head_hidden": 5, "text_bidirectional": True},
    {"text_projection": 2, "text_pooling": "attention", "input_norm": "standard", "modality_dropout": 0.2},
    {"text_projection": 2, "text_pooling": "last_word", "text_bidirectional": True, "word_dropout": 0.1},
]


@pytest.mark.parametrize("choice", CHOICES)
def test_shapes_and_counts_are_those_of_the_network(choice):
    model = build(tasks=["one", "two", "three"], **choice)
    shapes = {name: tuple(value.shape) for name, value in model.weights().items()}
    assert weight_shapes(FEATURE_SIZES, 3, model.config) == shapes
    trainable = sum(int(np.prod(w.shape)) for w in model.weights().values() if not w.stop_gradient)
    assert cost_of(FEATURE_SIZES, 5, 3, model.config).parameters == trainable


@pytest.mark.parametrize("choice", CHOICES)
def test_static_export_and_saving(tmp_path, choice):
    model, shapes = build(**choice), {"audio": [None, 5], "video": [None, 4], "text": [None, None, 3]}
    model.fit_inputs(random_clips(seed=4))
    model.save_pretrained(tmp_path / "m")
    cases = []
    for rows, words in ((6, 5), (1, 5), (3, 2)):
        data = random_clips(rows, words)
        data["text"][0, 1:] = 0
        cases.append((data, logits(model, data)))
        np.testing.assert_array_equal(logits(LMFModel.from_pretrained(tmp_path / "m"), data), cases[-1][1])
    spec = [
        paddle.static.InputSpec(shape, "float32", name) if name in model.config.modalities else None
        for name, shape in shapes.items()
    ]
    paddle.jit.save(paddle.jit.to_static(model, input_spec=spec, full_graph=True), str(tmp_path / "net"))
    predictor = paddle.inference.create_predictor(
        paddle.inference.Config(str(tmp_path / "net.json"), str(tmp_path / "net.pdiparams"))
    )
    for data, wanted in cases:
        for name in predictor.get_input_names():
            predictor.get_input_handle(name).copy_from_cpu(data[name])
        predictor.run()
        found = predictor.get_output_handle(predictor.get_output_names()[0]).copy_to_cpu()
        np.testing.assert_allclose(found, wanted, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"sharing": "gates", "fusion_dim": None}, "model.sharing must be fusion with fusion_dim null"),
        ({"sharing": "encoders", "fusion": "late"}, "model.sharing must be fusion with fusion late"),
        ({"head_hidden": 3, "fusion": "late"}, "model.head_hidden must be null with fusion late"),
    ],
)
def test_what_needs_heads(settings, message):
    with pytest.raises(ConfigError, match=message):
        ModelConfig(**settings)
