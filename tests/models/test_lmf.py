"""The whole network against numpy, against LMF_Paddle's released models, and its files."""

import json
import shutil
import subprocess
import sys

import numpy as np
import paddle
import pytest
from conftest import PAPERS, shared_file
from safetensors.numpy import load_file, save_file

from lmf_multitask.config import ModelConfig
from lmf_multitask.data.safe_pickle import read_pickle
from lmf_multitask.errors import ConfigError, RunError
from lmf_multitask.models.lmf import LMFModel

SIZES = {"audio": 5, "video": 4, "text": 3}
SMALL = ModelConfig(**PAPERS, audio_hidden=3, video_hidden=2, text_lstm=4, text_hidden=3, fusion_rank=2, fusion_dim=6)


def small_model(emotions=("happy", "sad", "angry"), config=SMALL, seed=0):
    paddle.seed(seed)
    model = LMFModel(SIZES, emotions, config)
    model.eval()
    return model


def features(rows=5, words=6, seed=0):
    rng = np.random.default_rng(seed)
    shapes = {"audio": (rows, 5), "video": (rows, 4), "text": (rows, words, 3)}
    return {name: rng.normal(size=shape).astype("float32") for name, shape in shapes.items()}


def logits(model, arrays):
    with paddle.no_grad():
        return model(*(paddle.to_tensor(arrays[name]) for name in ("audio", "video", "text"))).numpy()


def test_heads_are_linear_layers_on_the_fused_vector():
    model = small_model()
    arrays = features()
    hidden = [
        encoder(paddle.to_tensor(arrays[name]))
        for name, encoder in (
            ("audio", model.audio_encoder),
            ("video", model.video_encoder),
            ("text", model.text_encoder),
        )
    ]
    fused = model.fusion(hidden).numpy()
    assert fused.shape == (5, 6)
    rng = np.random.default_rng(1)
    weight, bias = rng.normal(size=(3, 6, 2)).astype("float32"), rng.normal(size=(3, 1, 2)).astype("float32")
    model.heads.weight.set_value(weight)
    model.heads.bias.set_value(bias)
    got = logits(model, arrays)
    assert got.shape == (5, 3, 2)
    for task in range(3):
        np.testing.assert_allclose(got[:, task], fused @ weight[task] + bias[task, 0], rtol=1e-5, atol=1e-6)


def test_without_heads_the_fusion_gives_the_logits():
    config = ModelConfig(**{**vars(SMALL), "fusion_dim": None})
    model = small_model(config=config)
    assert model.heads is None
    assert model.fusion.bias.shape == [1, 6]
    arrays = features()
    got = logits(model, arrays)
    model.fusion.bias.set_value(np.arange(6, dtype="float32").reshape(1, 6))
    np.testing.assert_allclose(logits(model, arrays) - got, np.arange(6.0).reshape(1, 3, 2).repeat(5, 0), rtol=1e-4)


@pytest.mark.parametrize("rows", [1, 2])
def test_single_rows_and_other_lengths_of_text(rows):
    model = small_model(emotions=["happy"])
    assert logits(model, features(rows, words=1)).shape == (rows, 1, 2)
    whole = logits(model, features(4, words=9))
    np.testing.assert_allclose(
        whole[:rows], logits(model, {n: v[:rows] for n, v in features(4, words=9).items()}), rtol=1e-5, atol=1e-6
    )


def test_first_values_of_heads():
    """Xavier uniform over [K, 2] per head, whatever the number of heads: bounds +-sqrt(6 / (K + 2))."""
    paddle.seed(0)
    values = LMFModel(SIZES, [f"e{n}" for n in range(30)], ModelConfig(fusion_dim=64)).heads.weight.numpy()
    bound = (6 / 66) ** 0.5
    assert np.abs(values).max() <= bound
    np.testing.assert_allclose(values.var(), bound**2 / 3, rtol=0.06)


def test_weights_lists_everything_once():
    model = small_model()
    names = model.weights()
    assert len({id(value) for value in names.values()}) == len(names)
    assert sum("lstm" in name for name in names) == 4
    assert {"audio_encoder.norm._mean", "audio_encoder.norm._variance", "fusion.factors.0", "heads.weight"} <= set(
        names
    )
    state = model.state_dict()
    assert {id(value) for value in state.values()} == {id(value) for value in names.values()}


def test_wrong_arguments():
    with pytest.raises(ConfigError, match=r"feature_sizes must have audio, video and text, but got \['audio'\]"):
        LMFModel({"audio": 3}, ["happy"])
    with pytest.raises(ConfigError, match="emotions must name at least one task, but got none"):
        LMFModel(SIZES, [])


# -- probabilities


def test_probabilities_are_the_softmax_of_the_logits():
    model = small_model()
    arrays = features(rows=7)
    odds = logits(model, arrays).astype("float64")
    expected = np.exp(odds[..., 1]) / np.exp(odds).sum(axis=-1)
    for batch_size in (1, 3, 7, 100):
        got = model.predict_probabilities(arrays, batch_size)
        assert got.dtype == np.float32
        np.testing.assert_allclose(got, expected, rtol=1e-5, atol=1e-7)


def test_probabilities_are_of_evaluation_mode_and_leave_the_mode():
    model = small_model(config=ModelConfig(**{**vars(SMALL), "audio_dropout": 0.9, "text_dropout": 0.9}))
    expected = model.predict_probabilities(features())
    model.train()
    np.testing.assert_array_equal(model.predict_probabilities(features()), expected)
    assert model.training
    model.eval()
    model.predict_probabilities(features())
    assert not model.training


def test_probabilities_of_read_only_slices():
    arrays = {name: value[::2] for name, value in features(rows=8).items()}
    for value in arrays.values():
        value.flags.writeable = False
    assert small_model().predict_probabilities(arrays).shape == (4, 3)


# -- the paper's model: LMF_Paddle's released checkpoints

RELEASED = {
    # emotion: audio, video, LSTM, text hidden, rank, parameters (counted from the published sizes, see FACTS)
    "happy": (4, 16, 128, 64, 1, 230_271),
    "sad": (8, 4, 128, 64, 4, 230_200),
    "angry": (8, 4, 64, 32, 8, 97_684),
    "neutral": (32, 8, 64, 32, 16, 103_356),
}


def paper_model(emotion):
    audio, video, lstm, text, rank, _ = RELEASED[emotion]
    config = ModelConfig(
        audio_hidden=audio,
        video_hidden=video,
        text_lstm=lstm,
        text_hidden=text,
        fusion_rank=rank,
        fusion_dim=None,
        **PAPERS,
    )
    return LMFModel({"audio": 74, "video": 35, "text": 300}, [emotion], config)


@pytest.mark.parametrize("emotion", RELEASED)
def test_number_of_parameters_is_that_of_the_released_models(emotion):
    model = paper_model(emotion)
    count = sum(int(np.prod(w.shape)) for w in model.weights().values() if not w.stop_gradient)
    audio, video, lstm, text, rank, published = RELEASED[emotion]
    by_hand = sum(2 * d + (d + 1) * h + 2 * (h + 1) * h for d, h in ((74, audio), (35, video)))
    by_hand += 4 * lstm * (300 + lstm + 2) + (lstm + 1) * text
    by_hand += rank * (audio + video + text + 3) * 2 + rank + 2
    assert count == by_hand == published


def ours(name):
    """LMF_Paddle's name of a weight -> ours, or None for the LSTM's second mention."""
    fixed = {
        "audio_factor": "fusion.factors.0",
        "video_factor": "fusion.factors.1",
        "text_factor": "fusion.factors.2",
        "fusion_weights": "fusion.rank_weights",
        "fusion_bias": "fusion.bias",
        "text_subnet.linear_1.weight": "text_encoder.linear.weight",
        "text_subnet.linear_1.bias": "text_encoder.linear.bias",
    }
    if name in fixed:
        return fixed[name]
    if name.startswith("text_subnet.rnn.0.cell") or name == "StructuredToParameterName@@":
        return None
    return name.replace("text_subnet.rnn.", "text_encoder.lstm.").replace("_subnet", "_encoder")


@pytest.mark.parametrize("emotion", RELEASED)
def test_released_models_give_their_logits(emotion):
    recorded = np.load(shared_file("golden/released_outputs.npz"))
    stored = read_pickle(shared_file(f"golden/released/{emotion}.pkl"))
    model = paper_model(emotion)
    model.load_weights({ours(name): value.read() for name, value in stored.items() if ours(name)})
    model.eval()
    arrays = {"audio": recorded["audio"], "video": recorded["visual"], "text": recorded["text"]}
    got = logits(model, {name: value.astype("float32") for name, value in arrays.items()})
    assert got.shape == (24, 1, 2)
    expected = recorded[emotion]
    np.testing.assert_allclose(got[:, 0], expected, rtol=1e-4, atol=1e-4 * np.abs(expected).max() * 0.1)


# -- files


@pytest.fixture
def saved(tmp_path):
    model = small_model(seed=5)
    rng = np.random.default_rng(6)
    for name, value in model.weights().items():
        value.set_value(np.abs(rng.normal(size=value.shape)).astype("float32") + (0.1 if "variance" in name else 0))
    model.save_pretrained(tmp_path / "model")
    return tmp_path / "model", model


def test_comes_back_with_the_same_bits(saved):
    folder, model = saved
    loaded = LMFModel.from_pretrained(folder)
    assert not loaded.training
    assert loaded.emotions == ["happy", "sad", "angry"]
    assert loaded.feature_sizes == SIZES
    assert loaded.config == SMALL
    assert set(loaded.weights()) == set(model.weights())
    for name, value in model.weights().items():
        np.testing.assert_array_equal(loaded.weights()[name].numpy(), value.numpy(), err_msg=name)
    np.testing.assert_array_equal(logits(loaded, features()), logits(model, features()))


def test_paper_model_comes_back(tmp_path):
    model = small_model(["happy"], ModelConfig(**{**vars(SMALL), "fusion_dim": None, "factor_init": "xavier"}))
    model.save_pretrained(tmp_path / "m")
    loaded = LMFModel.from_pretrained(tmp_path / "m")
    assert loaded.config == model.config
    np.testing.assert_array_equal(logits(loaded, features()), logits(model, features()))


def test_files_are_the_ecosystems(saved):
    folder, model = saved
    assert sorted(path.name for path in folder.iterdir()) == ["config.json", "model.safetensors"]
    assert sorted(path.name for path in folder.parent.iterdir()) == ["model"]
    about = json.loads((folder / "config.json").read_text())
    assert about["model_type"] == "lmf"
    assert about["emotions"] == ["happy", "sad", "angry"]
    stored = load_file(folder / "model.safetensors")
    np.testing.assert_array_equal(stored["heads.weight"], model.heads.weight.numpy())


def test_saving_again_replaces(saved):
    folder, _ = saved
    (folder / "stray").write_text("")
    other = small_model(["calm"], seed=9)
    other.save_pretrained(folder)
    assert sorted(path.name for path in folder.iterdir()) == ["config.json", "model.safetensors"]
    assert LMFModel.from_pretrained(folder).emotions == ["calm"]


def change_weights(folder, change):
    stored = load_file(folder / "model.safetensors")
    change(stored)
    save_file(stored, folder / "model.safetensors")


def drop(stored):
    del stored["heads.bias"]


def add(stored):
    stored["heads.extra"] = np.zeros(3, "float32")


def rename(stored):
    stored["head.bias"] = stored.pop("heads.bias")


def reshape(stored):
    stored["fusion.factors.1"] = stored["fusion.factors.1"].reshape(3, 2, 6)


def double(stored):
    stored["fusion.bias"] = stored["fusion.bias"].astype("float64")


def nan(stored):
    stored["text_encoder.linear.weight"][0, 0] = np.nan


def infinite(stored):
    stored["audio_encoder.norm._variance"][2] = np.inf


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (drop, r"weights must be those of the model, but \['heads.bias'\] are missing and none are foreign"),
        (add, r"but none are missing and \['heads.extra'\] are foreign"),
        (rename, r"but \['heads.bias'\] are missing and \['head.bias'\] are foreign"),
        (reshape, r"fusion.factors.1 must be float32 \[2, 3, 6\], but is float32 \[3, 2, 6\]"),
        (double, r"fusion.bias must be float32 \[1, 6\], but is float64 \[1, 6\]"),
        (nan, "text_encoder.linear.weight must be finite, but holds NaN or infinity"),
        (infinite, "audio_encoder.norm._variance must be finite, but holds NaN or infinity"),
    ],
)
def test_wrong_weights_are_refused(saved, change, message):
    folder, _ = saved
    change_weights(folder, change)
    with pytest.raises(RunError, match=message) as caught:
        LMFModel.from_pretrained(folder)
    assert str(caught.value).startswith(str(folder / "model.safetensors"))


def test_refused_weights_change_nothing():
    model = small_model()
    before = {name: value.numpy().copy() for name, value in model.weights().items()}
    wrong = {name: value + 1 for name, value in before.items()}
    wrong["heads.bias"][0] = np.nan
    with pytest.raises(RunError):
        model.load_weights(wrong)
    for name, value in model.weights().items():
        np.testing.assert_array_equal(value.numpy(), before[name])


@pytest.mark.parametrize("damage", ["truncated", "empty", "no safetensors", "huge header", "bfloat16", "a folder"])
def test_damaged_weight_files_are_refused(saved, damage):
    folder, _ = saved
    path = folder / "model.safetensors"
    content = path.read_bytes()
    if damage == "a folder":
        path.unlink()
        path.mkdir()
    else:
        path.write_bytes(
            {
                "truncated": content[: len(content) // 2],
                "empty": b"",
                "no safetensors": b"hello, world" * 20,
                "huge header": b"\xff" * 8 + content[8:],
                "bfloat16": content.replace(b'"F32"', b'"BF1"', 1).replace(b'"BF1"', b'"XYZ"', 1),
            }[damage]
        )
    with pytest.raises(RunError, match="model.safetensors: must be a complete safetensors file, but .*Save the model"):
        LMFModel.from_pretrained(folder)


def test_weights_of_half_precision_are_refused(saved):
    folder, _ = saved
    header = {"heads.bias": {"dtype": "BF16", "shape": [3, 1, 2], "data_offsets": [0, 12]}}
    text = json.dumps(header).encode()
    (folder / "model.safetensors").write_bytes(len(text).to_bytes(8, "little") + text + bytes(12))
    with pytest.raises(RunError, match="model.safetensors: "):
        LMFModel.from_pretrained(folder)


def test_missing_files(saved, tmp_path):
    folder, _ = saved
    with pytest.raises(RunError, match="config.json: must be there, but is missing. Is this the folder of a saved"):
        LMFModel.from_pretrained(tmp_path / "nowhere")
    (folder / "model.safetensors").unlink()
    with pytest.raises(RunError, match="model.safetensors: must be there, but is missing. Save the model again"):
        LMFModel.from_pretrained(folder)


def with_config(**changes):
    def change(about):
        about.update(changes)

    return change


def with_size(**changes):
    def change(about):
        about["model"].update(changes)

    return change


def without(name):
    def change(about):
        del about[name]

    return change


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (with_config(model_type="bert"), "must describe a model of the type lmf, but does not"),
        (without("model_type"), "must describe a model of the type lmf, but does not"),
        (without("emotions"), "must describe an LMF model, but KeyError: 'emotions'"),
        (with_config(emotions=[]), "must describe an LMF model, but ConfigError: emotions must name at least one"),
        (with_config(emotions="happy"), "must describe an LMF model, but .*emotions"),
        (with_config(emotions=[1, 2, 3]), "must describe an LMF model, but .*an emotion's name must"),
        (
            with_config(emotions=["../x", "b", "c"]),
            "must describe an LMF model, but .*an emotion's name must consist of",
        ),
        (with_config(emotions=["a", "a", "b"]), "must describe an LMF model, but .*emotions"),
        (with_config(feature_sizes={"audio": 5}), "must describe an LMF model, but ConfigError: feature_sizes must"),
        (with_config(feature_sizes={**SIZES, "audio": "many"}), "must describe an LMF model, but"),
        (with_config(feature_sizes={**SIZES, "audio": -5}), "must describe an LMF model, but .*feature_sizes"),
        (with_config(feature_sizes={**SIZES, "audio": 10**15}), "must describe an LMF model, but .*feature_sizes"),
        (with_config(model=None), "must describe an LMF model, but TypeError"),
        (with_size(fusion_rank=0), "ConfigError: model.fusion_rank must be a whole number from 1 to 65536, but got 0"),
        (with_size(colour="red"), "must describe an LMF model, but TypeError: .*colour"),
    ],
)
def test_wrong_config(saved, change, message):
    folder, _ = saved
    path = folder / "config.json"
    about = json.loads(path.read_text())
    change(about)
    path.write_text(json.dumps(about))
    with pytest.raises(RunError, match=message) as caught:
        LMFModel.from_pretrained(folder)
    assert str(caught.value).startswith(str(path))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("content", [b"{", b"", b"\xff\xfe", b"[" * 100_000])
def test_config_that_is_no_json(saved, content):
    folder, _ = saved
    (folder / "config.json").write_bytes(content)
    with pytest.raises(RunError, match="config.json: must be JSON, but "):
        LMFModel.from_pretrained(folder)


def test_nothing_is_left_of_a_failed_save(saved, monkeypatch):
    folder, model = saved
    before = {path.name: path.read_bytes() for path in folder.iterdir()}

    def full(*_, **__):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("lmf_multitask.models.lmf.save_file", full)
    with pytest.raises(OSError, match="No space left"):
        model.save_pretrained(folder)
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == before
    assert [path.name for path in folder.parent.iterdir()] == ["model"]
    with pytest.raises(OSError, match="No space left"):
        model.save_pretrained(folder.with_name("new"))
    assert [path.name for path in folder.parent.iterdir()] == ["model"]


def test_a_moved_model_loads(saved, tmp_path):
    folder, _ = saved
    shutil.move(folder, tmp_path / "elsewhere")
    assert LMFModel.from_pretrained(tmp_path / "elsewhere").emotions == ["happy", "sad", "angry"]


def test_models_need_neither_paddlenlp_nor_datasets():
    code = (
        "import sys, lmf_multitask.models.lmf\n"
        "assert 'paddle' in sys.modules\n"
        "print([name for name in ('paddlenlp', 'datasets', 'pyarrow', 'sklearn') if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"
    assert done.stderr == ""
