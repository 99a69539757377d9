"""The fusions against their equations in numpy, and parameters counted by hand."""

import numpy as np
import paddle
import pytest
from conftest import FEATURE_SIZES, NO_DROPOUT, SMALL_PAPERS, random_clips

from lmf_multitask.config import ModelConfig
from lmf_multitask.errors import ConfigError
from lmf_multitask.models.fusion import ConcatFusion, LateFusion, LowRankFusion, TensorFusion
from lmf_multitask.models.lmf import LMFModel


@pytest.fixture
def hidden():
    rng = np.random.default_rng(1)
    return [rng.normal(size=(7, size)).astype("f4") for size in (3, 2, 2)]


def run(fusion, hidden):
    return fusion([paddle.to_tensor(vectors) for vectors in hidden]).numpy()


def with_one(vectors):
    return np.concatenate([np.ones((len(vectors), 1)), vectors], axis=1)


def test_tensor_fusion_is_the_outer_product(hidden):
    paddle.seed(3)
    fusion = TensorFusion((3, 2, 2), 6)
    fusion.bias.set_value(np.arange(6, dtype="f4")[None])
    weight = fusion.weight.numpy().astype("f8").reshape(4, 3, 3, 6)
    wanted = np.einsum("ba,bv,bt,avtk->bk", *map(with_one, hidden), weight) + np.arange(6)
    np.testing.assert_allclose(run(fusion, hidden), wanted, rtol=1e-5, atol=1e-5)


def test_first_values_of_tensor_fusion_keep_the_variance():
    """Numbers of variance 1, weighed and added up over all products, have variance 1 again."""
    paddle.seed(0)
    fusion = TensorFusion((9, 9, 9), 64)
    values = fusion.weight.numpy()
    np.testing.assert_allclose(values.var() * 10**3, 1.0, rtol=0.03)
    np.testing.assert_allclose(values.mean() * 10**1.5, 0.0, atol=0.02)
    np.testing.assert_array_equal(fusion.bias.numpy(), 0)


def test_low_rank_fusion_is_tensor_fusion_with_a_factored_weight(hidden):
    paddle.seed(3)
    low, full = LowRankFusion((3, 2, 2), 5, 6), TensorFusion((3, 2, 2), 6)
    factors = [factor.numpy().astype("f8") for factor in low.factors]
    weight = np.einsum("r,rak,rvk,rtk->avtk", low.rank_weights.numpy()[0], *factors)
    full.weight.set_value(weight.reshape(36, 6).astype("f4"))
    np.testing.assert_allclose(run(low, hidden), run(full, hidden), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("relu", [True, False])
def test_concat_fusion(hidden, relu):
    paddle.seed(3)
    fusion = ConcatFusion((3, 2, 2), 6) if relu else ConcatFusion((3, 2, 2), 6, relu=False)
    wanted = np.concatenate(hidden, axis=1).astype("f8") @ fusion.linear.weight.numpy() + fusion.linear.bias.numpy()
    assert (wanted < 0).any()
    np.testing.assert_allclose(run(fusion, hidden), np.maximum(wanted, 0) if relu else wanted, atol=1e-6)


def test_late_fusion_is_the_mean_of_probabilities(hidden):
    paddle.seed(3)
    fusion = LateFusion((3, 2, 2), 2)
    each = []
    for vectors, linear in zip(hidden, fusion.linears):
        powers = np.exp((vectors.astype("f8") @ linear.weight.numpy() + linear.bias.numpy()).reshape(7, 2, 2))
        each.append(powers / powers.sum(axis=-1, keepdims=True))
    found = np.exp(run(fusion, hidden).astype("f8"))
    np.testing.assert_allclose(found, np.mean(each, axis=0), rtol=1e-5)


# audio 10 + 18 + 12 + 12 = 52, video 8 + 10 + 6 + 6 = 30, text 48 + 64 + 32 + 10 = 154; heads 2 x 6 x 2 + 4 = 28
COUNTS = [
    ({"fusion": "lmf"}, 236 + 2 * 6 * (4 + 3 + 3) + 2 + 6 + 28),
    ({"fusion": "tfn"}, 236 + 4 * 3 * 3 * 6 + 6 + 28),
    ({"fusion": "concat"}, 236 + (3 + 2 + 2) * 6 + 6 + 28),
    ({"fusion": "late"}, 236 + 4 * 4 + 3 * 4 + 3 * 4),
    ({"fusion": "lmf", "modalities": ["text", "audio"]}, 52 + 154 + 2 * 6 * (4 + 3) + 2 + 6 + 28),
    ({"fusion": "late", "modalities": ["text"]}, 154 + 3 * 4),
    ({"fusion": "tfn", "modalities": ["video", "text"], "fusion_dim": None}, 30 + 154 + 3 * 3 * 4 + 4),
]


@pytest.mark.parametrize(("settings", "count"), COUNTS)
def test_parameters_counted_by_hand(settings, count):
    model = LMFModel(FEATURE_SIZES, ["one", "two"], ModelConfig(**{**SMALL_PAPERS, **settings}))
    assert sum(int(np.prod(w.shape)) for w in model.weights().values() if not w.stop_gradient) == count


@pytest.mark.parametrize(("settings", "count"), COUNTS)
def test_saved_and_loaded(tmp_path, settings, count):
    model = LMFModel(FEATURE_SIZES, ["one", "two"], ModelConfig(**{**SMALL_PAPERS, **settings}))
    for name, weight in model.weights().items():
        if name.endswith(".bias"):  # no ReLU of these few is closed for every clip
            weight.set_value(np.ones(weight.shape, "f4"))
    model.save_pretrained(tmp_path / "model")
    again = LMFModel.from_pretrained(tmp_path / "model")
    assert again.config == model.config
    data = random_clips()
    found = again.predict_probabilities(data)
    np.testing.assert_array_equal(found, model.predict_probabilities(data))
    for name in data:  # what the network has no part for has no influence, everything else has
        other = {**data, name: data[name][::-1].copy()}
        same = np.array_equal(again.predict_probabilities(other), found)
        assert same == (name not in again.config.modalities)


def test_tensor_fusion_that_would_not_fit():
    config = ModelConfig(audio_hidden=1023, video_hidden=1023, text_hidden=1023, fusion="tfn")
    with pytest.raises(
        ConfigError, match=r"a network must have at most 268,435,456 weights, but these sizes make 68,7"
    ):
        LMFModel(FEATURE_SIZES, ["one"], config)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"modalities": []}, r"model.modalities must be one or more of audio, video, text, each once, but got \[\]\."),
        ({"modalities": ["text", "text"]}, r"each once, but got \['text', 'text'\]\."),
        ({"modalities": "text"}, r"each once, but got 'text'\."),
        ({"modalities": [["text"]]}, r"each once, but got \[\['text'\]\]\."),
        ({"fusion": "low"}, r"model.fusion must be lmf, tfn, concat or late, but got 'low'\."),
        ({"text_pooling": "end"}, r"model.text_pooling must be last_step, last_word or attention, but got 'end'\."),
    ],
)
def test_wrong_choices(settings, message):
    with pytest.raises(ConfigError, match=message):
        ModelConfig(**settings)


# -- the text's end


def test_padding_behind_the_last_word_has_no_influence(tmp_path):
    """Against the numpy network on each clip's own words."""
    from reference_network import logits, random_parameters

    from lmf_multitask.models.convert import convert_checkpoint

    weights = random_parameters(seed=2)
    np.savez(tmp_path / "weights.npz", **weights)
    model = convert_checkpoint(tmp_path / "weights.npz", "happy")
    model.text_encoder.pooling = "last_word"
    data = random_clips(rows=7)
    ends = [7, 4, 1, 5, 7, 1, 3]
    for row, end in enumerate(ends):
        data["text"][row, end:] = 0
    data["text"][3, :2] = 0  # in front
    data["text"][4, 3:5] = 0  # between words
    data["text"][5] = 0  # no word at all: the state after the first step
    data["text"][6, 2, :2] = 0  # a word that is zero in part
    found = model(*(paddle.to_tensor(data[name]) for name in ("audio", "video", "text"))).numpy()[:, 0]
    for row, end in enumerate(ends):
        own = slice(row, row + 1)
        wanted = logits(weights, data["audio"][own], data["video"][own], data["text"][own, :end])
        np.testing.assert_allclose(found[own], wanted, rtol=1e-5, atol=1e-6)
    longer = {**data, "text": np.pad(data["text"], ((0, 0), (0, 4), (0, 0)))}
    again = model(*(paddle.to_tensor(longer[name]) for name in ("audio", "video", "text"))).numpy()[:, 0]
    np.testing.assert_allclose(again, found, rtol=1e-6, atol=1e-7)


def test_the_gradient_with_the_last_word(tmp_path):
    """As that of every clip computed alone, without its padding."""
    paddle.seed(4)
    model = LMFModel(
        FEATURE_SIZES,
        ["one"],
        ModelConfig(**{**SMALL_PAPERS, **NO_DROPOUT, "modalities": ["text"], "text_pooling": "last_word"}),
    )
    data = random_clips(rows=4)
    ends = [7, 2, 5, 1]
    for row, end in enumerate(ends):
        data["text"][row, end:] = 0

    def gradients(parts):
        model.clear_gradients()
        for part in parts:
            tensors = {name: paddle.to_tensor(values) for name, values in part.items()}
            (model(**tensors)[:, 0, 1] ** 2).sum().backward()
        return {n: w.grad.numpy().copy() for n, w in model.named_parameters() if not w.stop_gradient}

    alone = [
        {"audio": data["audio"][r : r + 1], "video": data["video"][r : r + 1], "text": data["text"][r : r + 1, :end]}
        for r, end in enumerate(ends)
    ]
    together = gradients([data])
    for name, wanted in gradients(alone).items():
        np.testing.assert_allclose(together[name], wanted, rtol=1e-4, atol=1e-6, err_msg=name)


# -- static


@pytest.mark.parametrize(
    "settings",
    [
        {"text_pooling": "last_word"},
        {"fusion": "tfn"},
        {"fusion": "concat", "modalities": ["audio", "video"]},
        {"fusion": "late", "modalities": ["audio", "text"], "text_pooling": "last_word"},
    ],
)
def test_static_export(tmp_path, settings):
    """Any number of clips, and of words, from a network that was exported once."""
    paddle.seed(5)
    model = LMFModel(FEATURE_SIZES, ["one", "two"], ModelConfig(**{**SMALL_PAPERS, **settings}))
    model.eval()
    shapes = {"audio": [None, 5], "video": [None, 4], "text": [None, None, 3]}
    spec = [
        paddle.static.InputSpec(shape, "float32", name) if name in model.config.modalities else None
        for name, shape in shapes.items()
    ]
    cases = []
    for rows, words in ((6, 7), (1, 7), (3, 2)):
        data = random_clips(rows, words)
        data["text"][0, words - 1 :] = 0
        cases.append((data, model(*(paddle.to_tensor(data[name]) for name in shapes)).numpy()))
    paddle.jit.save(paddle.jit.to_static(model, input_spec=spec, full_graph=True), str(tmp_path / "net"))
    predictor = paddle.inference.create_predictor(
        paddle.inference.Config(str(tmp_path / "net.json"), str(tmp_path / "net.pdiparams"))
    )
    assert sorted(predictor.get_input_names()) == sorted(model.config.modalities)
    for data, wanted in cases:
        for name in model.config.modalities:
            predictor.get_input_handle(name).copy_from_cpu(data[name])
        predictor.run()
        found = predictor.get_output_handle(predictor.get_output_names()[0]).copy_to_cpu()
        np.testing.assert_allclose(found, wanted, rtol=1e-5, atol=1e-6)
