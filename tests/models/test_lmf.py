"""The whole network: heads, missing modalities, sequences, sizes, predictions and files."""

import json
import shutil
import subprocess
import sys

import numpy as np
import paddle
import pytest
from conftest import INPUTS, NO_DROPOUT, PAPERS, SMALL_MODEL, SMALL_PAPERS, model_config, random_clips
from safetensors.numpy import load_file, save_file

from lmf_multitask.config import to_dict
from lmf_multitask.data.modality import Input
from lmf_multitask.errors import ConfigError, DataError, RunError
from lmf_multitask.models.config import ModelConfig
from lmf_multitask.models.lmf import Heads, LMFModel, model_folders, weight_shapes
from lmf_multitask.tasks import TASKS, BinaryTask, Task

TASK_NAMES = ("happy", "sad", "angry")
WIDE = {"encoders.audio.hidden": 32, "encoders.video.hidden": 32}  # no clip closes all ReLUs
SEQUENCES = {"audio": (9, 5), "video": (8, 4), "text": (6, 3)}


def small_model(*settings, tasks=TASK_NAMES, seed=0, inputs=INPUTS):
    """In evaluation mode; its biases are positive, so that no ReLU of these few is closed for every clip."""
    paddle.seed(seed)
    model = LMFModel(inputs, list(tasks), model_config(SMALL_PAPERS, *settings))
    for name, weight in model.weights().items():
        if name.endswith("bias"):
            weight.set_value(np.linspace(0.1, 0.4, int(np.prod(weight.shape)), dtype="f4").reshape(weight.shape))
    model.eval()
    return model


def random_sequences(rows=6, seed=0):
    """Clips of `SEQUENCES`; padding at the end, a missing clip in audio and in video."""
    rng = np.random.default_rng(seed)
    data = {name: rng.normal(size=(rows, *shape)).astype("f4") for name, shape in SEQUENCES.items()}
    for values in data.values():
        for row, length in enumerate(rng.integers(1, values.shape[1] + 1, rows)):
            values[row, length:] = 0
    data["audio"][1] = 0
    data["video"][2] = 0
    return data


def outputs_of(model, arrays):
    with paddle.no_grad():
        return model(*(paddle.to_tensor(arrays[name]) for name in ("audio", "video", "text"))).numpy()


def trainable(model):
    return sum(int(np.prod(weight.shape)) for weight in model.weights().values() if not weight.stop_gradient)


def fused_inputs(model, data, training=False):
    """The hidden vectors that the fusion gets."""
    seen = []
    hook = model.fusion.register_forward_pre_hook(lambda layer, inputs: seen.append([x.numpy() for x in inputs[0]]))
    model.train() if training else model.eval()
    outputs_of(model, data)
    hook.remove()
    model.eval()
    return seen[0]


# -- heads


def test_heads_are_linear_layers_on_the_fused_vector():
    model, data = small_model(), random_clips()
    fused = model.fusion([paddle.to_tensor(vectors) for vectors in fused_inputs(model, data)]).numpy()
    assert fused.shape == (6, 6)
    rng = np.random.default_rng(1)
    weight, bias = rng.normal(size=(6, 6)).astype("float32"), rng.normal(size=6).astype("float32")
    model.heads.weight.set_value(weight)
    model.heads.bias.set_value(bias)
    np.testing.assert_allclose(outputs_of(model, data), fused @ weight + bias, rtol=1e-5, atol=1e-6)


def test_without_heads_the_fusion_gives_the_outputs():
    model, data = small_model({"fusion.dim": None}), random_clips()
    assert model.heads is None
    assert model.fusion.bias.shape == [1, 6]
    got = outputs_of(model, data)
    bias = model.fusion.bias.numpy()
    model.fusion.bias.set_value(bias + np.arange(6, dtype="float32"))
    np.testing.assert_allclose(outputs_of(model, data) - got, np.arange(6.0)[None].repeat(6, 0), rtol=1e-4, atol=1e-5)


def test_first_values_of_heads():
    """Xavier uniform over [K, 2] per head, whatever the number of heads: bounds +-sqrt(6 / (K + 2))."""
    paddle.seed(0)
    values = LMFModel(INPUTS, [f"e{n}" for n in range(30)]).heads.weight.numpy()
    bound = (6 / 66) ** 0.5
    assert np.abs(values).max() <= bound
    np.testing.assert_allclose(values.var(), bound**2 / 3, rtol=0.06)


@pytest.fixture
def regression(monkeypatch):
    """A kind of task with one output, as another kind is registered."""

    class RegressionTask(Task):
        kind, outputs, monitor = "regression", 1, "mean_absolute_error"

        def loss(self, outputs, labels):
            return paddle.abs(outputs[:, 0] - labels)

        def predict(self, outputs):
            return outputs[:, 0].astype(np.float64)

    monkeypatch.setitem(TASKS, "regression", RegressionTask)
    return RegressionTask


def test_heads_of_several_kinds_keep_the_order_of_the_tasks(regression, tmp_path):
    tasks = [regression("valence"), BinaryTask("happy"), regression("arousal"), BinaryTask("sad")]
    heads = Heads(tasks, 4)
    assert [weight.shape for weight in heads.parameters()] == [[4, 6], [6]]
    assert heads.flops() == 2 * 4 * (1 + 2 + 1 + 2)

    model, data = small_model(tasks=tasks), random_clips()
    model.save_pretrained(tmp_path / "model")
    again = LMFModel.from_pretrained(tmp_path / "model")
    assert again.tasks == tasks
    raw, found = outputs_of(model, data), again.predict(data)
    np.testing.assert_array_equal(found[:, [0, 2]], raw[:, [0, 3]])
    odds = np.exp(raw[:, [1, 2, 4, 5]].astype("f8")).reshape(6, 2, 2)
    np.testing.assert_allclose(found[:, [1, 3]], odds[..., 1] / odds.sum(axis=-1), rtol=1e-5)
    with pytest.raises(ConfigError, match="model.fusion.kind must be one for tasks of every kind"):
        small_model({"fusion.kind": "late"}, tasks=tasks)


# -- inputs


@pytest.mark.parametrize("rows", [1, 2])
def test_single_rows_and_other_lengths_of_text(rows):
    model, data = small_model(tasks=["happy"]), random_clips(4, words=9)
    assert outputs_of(model, random_clips(rows, words=1)).shape == (rows, 2)
    part = {name: values[:rows] for name, values in data.items()}
    np.testing.assert_allclose(outputs_of(model, data)[:rows], outputs_of(model, part), rtol=1e-5, atol=1e-6)


SEQUENCE_SETTINGS = [
    {},
    {"encoders": {"audio": {"pooling": "mean_std", "norm": "standard"}, "video": {"pooling": "max"}}},
    {"encoders": {"audio": {"kind": "lstm", "state": 3, "hidden": 4}, "video": {"pooling": "last"}}},
    {"encoders": {"video": {"kind": "lstm", "pooling": "last_present"}, "text": {"kind": "mlp", "pooling": "mean_std"}}},
]  # fmt: skip


@pytest.mark.parametrize("settings", SEQUENCE_SETTINGS)
def test_sequences_of_every_modality(tmp_path, settings):
    """Padding at the end changes nothing, and a missing clip is one whose steps are all padding."""
    layers = {"encoders.text.pooling": "last_present", "modality_dropout": 0.1}, settings, WIDE
    model, data = small_model(*layers, inputs=SEQUENCES), random_sequences()
    model.fit_statistics(data)
    found = outputs_of(model, data)
    assert np.isfinite(found).all()
    longer = {name: np.pad(values, ((0, 0), (0, 3), (0, 0))) for name, values in data.items()}
    np.testing.assert_allclose(outputs_of(model, longer), found, rtol=1e-4, atol=1e-5)
    hidden = fused_inputs(model, data)
    assert [np.flatnonzero(~vectors.any(axis=1)).tolist() for vectors in hidden] == [[1], [2], []]
    model.save_pretrained(tmp_path / "model")
    np.testing.assert_array_equal(LMFModel.from_pretrained(tmp_path / "model").predict(data), model.predict(data))


def test_text_of_one_vector_per_clip_is_a_sequence_of_length_one():
    model = small_model(inputs={**INPUTS, "text": (1, 3)})
    data = random_clips(words=1)
    assert outputs_of(model, data).shape == (6, 6)
    np.testing.assert_array_equal(outputs_of(model, data), outputs_of(small_model(), data))


def test_a_network_of_fewer_modalities_ignores_the_others():
    model, data = small_model({"modalities": ["text", "audio"]}), random_clips()
    assert list(model.encoders) == ["audio", "text"]
    found = outputs_of(model, data)
    for name in data:
        changed = {**data, name: data[name][::-1].copy()}
        assert np.array_equal(outputs_of(model, changed), found) == (name == "video")
    with paddle.no_grad():
        alone = model(audio=paddle.to_tensor(data["audio"]), text=paddle.to_tensor(data["text"])).numpy()
    np.testing.assert_array_equal(alone, found)


@pytest.mark.parametrize(
    ("inputs", "error", "message"),
    [
        ({"audio": (3,)}, DataError, r"inputs must have audio, video, text, but got \['audio'\]"),
        ({**INPUTS, "smell": (3,)}, DataError, "inputs must have audio, video, text, but got"),
        ([5, 4, 3], DataError, r"inputs must have audio, video, text, but got \[5, 4, 3\]"),
        ({**INPUTS, "text": (3,)}, DataError, r"the input text must have a shape \[steps, features\]"),
        ({**INPUTS, "audio": (2, 3, 4)}, DataError, r"the input audio must have a shape \[features\] or \[steps,"),
        ({**INPUTS, "audio": (0,)}, DataError, "with sizes from 1 to 65536"),
        ({**INPUTS, "audio": (True,)}, DataError, "with sizes from 1 to 65536"),
        ({**INPUTS, "text": Input((6, 3), "left")}, DataError, "padding of text must be end, front, both or none"),
    ],
)
def test_wrong_inputs(inputs, error, message):
    with pytest.raises(error, match=message):
        LMFModel(inputs, ["happy"])


@pytest.mark.parametrize(
    ("tasks", "message"),
    [
        ([], "tasks must be one or more different names, but got"),
        (["a", "a"], "tasks must be one or more different names, but got"),
        ("happy", "tasks must be a list of names, but got 'happy'"),
        (["../x"], "the name of a task must consist of at most 64 letters"),
        (["a" * 65], "the name of a task must consist of at most 64 letters"),
        ([3], "the name of a task must consist of at most 64 letters"),
        (["happy:magic"], "the kind of task happy must be one of binary, regression, but got 'magic'"),
    ],
)
def test_wrong_tasks(tasks, message):
    with pytest.raises(ConfigError, match=message):
        LMFModel(INPUTS, tasks)


def test_an_lstm_for_vectors_is_refused_with_the_name_of_the_setting():
    with pytest.raises(ConfigError, match=r"model.encoders.audio: the encoder lstm must be given sequences \[L, D\]"):
        small_model({"encoders.audio.kind": "lstm"})


# -- missing modalities


def test_all_zeros_are_a_missing_modality():
    model, data = small_model({"modality_dropout": 0.0}, WIDE), random_clips()
    data["video"][2] = 0
    data["text"][4] = 0
    hidden = fused_inputs(model, data)
    for m, missing in ((0, []), (1, [2]), (2, [4])):
        assert [row for row in range(6) if not hidden[m][row].any()] == missing
    assert all(vectors.any(axis=1).all() for vectors in fused_inputs(small_model(WIDE), data))


def test_modality_dropout_removes_some_modalities_but_never_all():
    paddle.seed(2)
    model, data = small_model({"modality_dropout": 0.6}, WIDE, NO_DROPOUT), random_clips(rows=400)
    present = np.stack([vectors.any(axis=1) for vectors in fused_inputs(model, data, training=True)], axis=1)
    assert np.stack([vectors.any(axis=1) for vectors in fused_inputs(model, data)]).all()
    assert present.any(axis=1).all()
    # a share .6 is removed, but where all three would be (.216) all stay: present with .4 + .216
    assert present.mean(axis=0) == pytest.approx(np.full(3, 0.616), abs=0.08)


# -- sizes

# audio 10 + 18 + 12 + 12 = 52, video 8 + 10 + 6 + 6 = 30, text 48 + 64 + 32 + 10 = 154; heads 2 x 6 x 2 + 4 = 28
COUNTS = [
    ({}, 236 + 2 * 6 * (4 + 3 + 3) + 2 + 6 + 28),
    ({"fusion": {"kind": "tfn", "dim": 6}}, 236 + 4 * 3 * 3 * 6 + 6 + 28),
    ({"fusion": {"kind": "concat", "dim": 6}}, 236 + (3 + 2 + 2) * 6 + 6 + 28),
    ({"fusion.kind": "late"}, 236 + 4 * 4 + 3 * 4 + 3 * 4),
    ({"modalities": ["text", "audio"]}, 52 + 154 + 2 * 6 * (4 + 3) + 2 + 6 + 28),
    ({"fusion.kind": "late", "modalities": ["text"]}, 154 + 3 * 4),
    ({"fusion": {"kind": "tfn", "dim": None}, "modalities": ["video", "text"]}, 30 + 154 + 3 * 3 * 4 + 4),
]


@pytest.mark.parametrize(("settings", "count"), COUNTS)
def test_parameters_counted_by_hand(tmp_path, settings, count):
    model = small_model(settings, tasks=["one", "two"])
    assert trainable(model) == count
    model.save_pretrained(tmp_path / "model")
    again, data = LMFModel.from_pretrained(tmp_path / "model"), random_clips()
    assert again.config == model.config
    np.testing.assert_array_equal(again.predict(data), model.predict(data))


@pytest.mark.parametrize(
    ("emotion", "audio", "video", "state", "rank", "published"),
    [
        ("happy", 4, 16, 128, 1, 230_271),
        ("sad", 8, 4, 128, 4, 230_200),
        ("angry", 8, 4, 64, 8, 97_684),
        ("neutral", 32, 8, 64, 16, 103_356),
    ],
)
def test_number_of_parameters_is_that_of_the_released_models(emotion, audio, video, state, rank, published):
    """Counted from the published sizes, see FACTS."""
    sizes = {
        "encoders": {"audio": {"hidden": audio}, "video": {"hidden": video}, "text": {"state": state, "hidden": state // 2}},
        "fusion": {"rank": rank, "dim": None},
    }  # fmt: skip
    model = LMFModel({"audio": (74,), "video": (35,), "text": (20, 300)}, [emotion], model_config(PAPERS, sizes))
    assert trainable(model) == published


def test_flops_counted_by_hand():
    model = small_model(tasks=["one", "two"])
    text = 2 * 6 * (3 + 4) * 16 + 2 * 4 * 2
    assert model.flops() == {
        "audio": 2 * 5 * 3 + 2 * 2 * 9,
        "video": 2 * 4 * 2 + 2 * 2 * 4,
        "text": text,
        "fusion": 2 * 6 * (2 * (4 + 3 + 3) + 2 + 2),
        "heads": 2 * 2 * 6 * 2,
    }
    assert model.flops({"text": 12})["text"] == 2 * (text - 16) + 16
    assert set(small_model({"modalities": ["text"], "fusion.kind": "late"}).flops()) == {"text", "fusion"}


def random_network(seed):
    """Inputs, tasks and settings of some network."""
    rng = np.random.default_rng(seed)

    def one(*choices):
        return choices[rng.integers(len(choices))]

    inputs = {
        "audio": one((5,), (7, 5)),
        "video": one((4,), (3, 4)),
        "text": (6, 3),
    }

    def encoder(shape):
        if len(shape) == 1 or one(True, False):
            return {
                "kind": "mlp",
                "hidden": int(rng.integers(1, 6)),
                "norm": one("standard", "batch"),
                "pooling": one("mean", "mean_std", "max", "last"),
            }
        return {
            "kind": "lstm",
            "hidden": int(rng.integers(1, 6)),
            "state": int(rng.integers(1, 6)),
            "projection": one(None, 2),
            "bidirectional": one(True, False),
            "pooling": one("attention", "last_step", "last_present"),
            "norm": one("standard", "none"),
        }

    fusion = {"kind": one("lmf", "tfn", "concat", "late")}
    if fusion["kind"] != "late":
        fusion["dim"] = one(None, 4)
    modalities = [name for name in inputs if rng.random() < 0.7] or ["text"]
    settings = {
        "encoders": {name: encoder(shape) for name, shape in inputs.items()},
        "fusion": fusion,
        "modalities": modalities,
        "modality_dropout": one(None, 0.1),
    }
    return inputs, [f"e{n}" for n in range(rng.integers(1, 4))], model_config(settings)


@pytest.mark.parametrize("seed", range(64))
def test_shapes_without_memory_are_those_of_the_network(seed):
    inputs, tasks, config = random_network(seed)
    paddle.seed(seed)
    model = LMFModel(inputs, tasks, config)
    assert weight_shapes(inputs, tasks, config) == {n: tuple(w.shape) for n, w in model.weights().items()}
    paddle.seed(seed)
    weight_shapes(inputs, tasks, config)  # draws no random numbers
    again = LMFModel(inputs, tasks, config)
    for name, weight in model.weights().items():
        np.testing.assert_array_equal(again.weights()[name].numpy(), weight.numpy())


# -- weights


def test_weights_lists_everything_once():
    model = small_model()
    names = model.weights()
    assert len({id(value) for value in names.values()}) == len(names)
    assert sum("lstm" in name for name in names) == 4
    assert {"encoders.audio.norm._mean", "fusion.factors.0", "heads.weight"} <= set(names)
    state = model.state_dict()
    assert {id(value) for value in state.values()} == {id(value) for value in names.values()}


def test_statistics_are_saved_with_the_weights_and_no_optimiser_sees_them(tmp_path):
    standard = {"encoders": {name: {"norm": "standard"} for name in INPUTS}}
    model, data = small_model(standard), random_clips()
    model.fit_statistics(data)
    model.save_pretrained(tmp_path / "m")
    again = LMFModel.from_pretrained(tmp_path / "m")
    np.testing.assert_array_equal(outputs_of(again, data), outputs_of(model, data))
    np.testing.assert_allclose(again.encoders["audio"].norm.mean.numpy(), data["audio"].mean(axis=0), atol=1e-6)
    fixed = {name for name, weight in again.weights().items() if weight.stop_gradient}
    norms = {f"encoders.{name}.norm.{part}" for name in ("audio", "video") for part in ("mean", "std")}
    assert fixed == norms | {"encoders.text.scale"}


# -- predictions


def test_predictions_are_the_softmax_of_the_logits():
    model, data = small_model(), random_clips(rows=7)
    odds = np.exp(outputs_of(model, data).astype("float64")).reshape(7, 3, 2)
    for batch_size in (1, 3, 7, 100):
        got = model.predict(data, batch_size)
        assert got.dtype == np.float32
        np.testing.assert_allclose(got, odds[..., 1] / odds.sum(axis=-1), rtol=1e-5, atol=1e-7)


def test_predictions_are_of_evaluation_mode_and_leave_the_mode():
    model, data = small_model({"encoders.audio.dropout": 0.9, "encoders.text.dropout": 0.9}), random_clips()
    expected = model.predict(data)
    model.train()
    np.testing.assert_array_equal(model.predict(data), expected)
    assert model.training
    model.eval()
    model.predict(data)
    assert not model.training


def test_predictions_of_read_only_slices():
    data = {name: values[::2] for name, values in random_clips(rows=8).items()}
    for values in data.values():
        values.flags.writeable = False
    assert small_model().predict(data).shape == (4, 3)


# -- static networks


@pytest.mark.parametrize(
    ("inputs", "settings"),
    [
        (INPUTS, SMALL_MODEL),
        (INPUTS, {"encoders.text.pooling": "last_present", "encoders.text.bidirectional": True}),
        (INPUTS, {"fusion.kind": "tfn", "modality_dropout": 0.1}),
        (INPUTS, {"fusion": {"kind": "concat", "dim": 5}, "modalities": ["audio", "video"]}),
        (INPUTS, {"fusion.kind": "late", "modalities": ["audio", "text"], "encoders.text.projection": 2}),
        *((SEQUENCES, {**settings, "modality_dropout": 0.1}) for settings in SEQUENCE_SETTINGS[1:]),
    ],
)
def test_static_networks(tmp_path, inputs, settings):
    """A network is exported once, for any number of clips and of steps."""
    model = small_model(settings, tasks=["one", "two"], inputs=inputs)
    spec = [
        paddle.static.InputSpec([None] * len(shape) + [shape[-1]], "float32", name)
        if name in model.config.modalities
        else None
        for name, shape in inputs.items()
    ]
    cases = []
    for rows, steps in ((6, 7), (1, 7), (3, 2)):
        data = random_sequences(rows) if inputs is SEQUENCES and rows > 3 else random_clips(rows, steps)
        if inputs is SEQUENCES and rows <= 3:
            rng = np.random.default_rng(rows)
            data = {name: rng.normal(size=(rows, steps, shape[-1])).astype("f4") for name, shape in inputs.items()}
        data["text"][0, 1:] = 0
        cases.append((data, outputs_of(model, data)))
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
        np.testing.assert_allclose(found, wanted, rtol=1e-4, atol=1e-5)


# -- files


@pytest.fixture
def saved(tmp_path):
    model = small_model(seed=5, inputs={**INPUTS, "text": Input((6, 3), "end")})
    rng = np.random.default_rng(6)
    for name, value in model.weights().items():
        value.set_value(np.abs(rng.normal(size=value.shape)).astype("float32") + (0.1 if "variance" in name else 0))
    model.exclusive, model.non_finite = True, "error"
    model.save_pretrained(tmp_path / "model")
    return tmp_path / "model", model


def test_a_saved_model_is_loaded_with_the_same_bits(saved):
    folder, model = saved
    loaded = LMFModel.from_pretrained(folder)
    assert not loaded.training
    assert loaded.tasks == [BinaryTask(name) for name in TASK_NAMES]
    assert loaded.inputs == {"audio": Input((5,)), "video": Input((4,)), "text": Input((6, 3), "end")}
    assert loaded.config == model.config
    assert (loaded.exclusive, loaded.non_finite) == (True, "error")
    assert set(loaded.weights()) == set(model.weights())
    for name, value in model.weights().items():
        np.testing.assert_array_equal(loaded.weights()[name].numpy(), value.numpy(), err_msg=name)
    np.testing.assert_array_equal(outputs_of(loaded, random_clips()), outputs_of(model, random_clips()))


def test_files_are_the_ecosystems(saved):
    folder, model = saved
    assert sorted(path.name for path in folder.iterdir()) == ["config.json", "model.safetensors"]
    assert sorted(path.name for path in folder.parent.iterdir()) == ["model"]
    about = json.loads((folder / "config.json").read_text())
    assert about["model_type"] == "lmf"
    assert about["tasks"] == [{"name": name, "kind": "binary", "threshold": 0.5} for name in TASK_NAMES]
    assert about["model"] == to_dict(model.config)
    stored = load_file(folder / "model.safetensors")
    np.testing.assert_array_equal(stored["heads.weight"], model.heads.weight.numpy())


def test_saving_again_replaces(saved):
    folder, _ = saved
    (folder / "stray").write_text("")
    small_model(tasks=["calm"], seed=9).save_pretrained(folder)
    assert sorted(path.name for path in folder.iterdir()) == ["config.json", "model.safetensors"]
    assert LMFModel.from_pretrained(folder).task_names == ["calm"]


def test_model_folders(tmp_path):
    assert model_folders(tmp_path) == []
    model = small_model()
    for name in ("sad", "happy"):
        model.save_pretrained(tmp_path / name / "model")
    assert model_folders(tmp_path) == [tmp_path / "happy" / "model", tmp_path / "sad" / "model"]
    model.save_pretrained(tmp_path / "model")
    assert model_folders(tmp_path) == [tmp_path / "model"]


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
    stored["encoders.text.linear.weight"][0, 0] = np.nan


def infinite(stored):
    stored["encoders.audio.norm._variance"][2] = np.inf


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (drop, "weights must be those of the model, but missing are heads.bias and foreign are none"),
        (add, "but missing are none and foreign are heads.extra"),
        (rename, "but missing are heads.bias and foreign are head.bias"),
        (reshape, r"fusion.factors.1 must have the shape \[2, 3, 6\], but has \[3, 2, 6\]"),
        (double, "fusion.bias must be float32, but is float64"),
        (nan, "encoders.text.linear.weight must be finite, but holds NaN or infinity"),
        (infinite, "encoders.audio.norm._variance must be finite, but holds NaN or infinity"),
    ],
)
def test_wrong_weights_are_refused(saved, change, message):
    folder, _ = saved
    stored = load_file(folder / "model.safetensors")
    change(stored)
    save_file(stored, folder / "model.safetensors")
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


@pytest.mark.parametrize("damage", ["truncated", "empty", "no safetensors", "huge header", "unknown type", "a folder"])
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
                "unknown type": content.replace(b'"F32"', b'"XYZ"', 1),
            }[damage]
        )
    rule = "a file, but is a folder" if damage == "a folder" else "a complete safetensors file, but .*Save the model"
    with pytest.raises(RunError, match=f"model.safetensors: must be {rule}"):
        LMFModel.from_pretrained(folder)


def test_weights_of_half_precision_are_refused(saved):
    folder, _ = saved
    header = {"heads.bias": {"dtype": "BF16", "shape": [6], "data_offsets": [0, 12]}}
    text = json.dumps(header).encode()
    (folder / "model.safetensors").write_bytes(len(text).to_bytes(8, "little") + text + bytes(12))
    with pytest.raises(RunError, match="model.safetensors: "):
        LMFModel.from_pretrained(folder)


def test_missing_files(saved, tmp_path):
    folder, _ = saved
    with pytest.raises(RunError, match="config.json: must be a readable file, but No such file or directory."):
        LMFModel.from_pretrained(tmp_path / "nowhere")
    (folder / "model.safetensors").unlink()
    with pytest.raises(RunError, match="model.safetensors: must be a readable file, but No such file or directory."):
        LMFModel.from_pretrained(folder)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"model_type": "bert"}, "must describe a model of the type lmf, but does not"),
        ({"tasks": None}, "must describe an LMF model, but TypeError"),
        (
            {"tasks": [{"name": "happy", "kind": "magic"}]},
            "but the kind of task happy must be one of binary, regression, but got",
        ),
        ({"tasks": [{"name": "happy"}]}, "must describe an LMF model, but KeyError: 'kind'"),
        ({"model": None}, "but model must be settings by name, but got None"),
        ({"model": {"fusion": {"rank": 0}}}, "but model.fusion.rank must be greater than or equal to 1, but got 0"),
        ({"model": {"colour": "red"}}, "but unknown setting 'model.colour'"),
        (
            {"model": {"fusion": {"kind": "gated"}}},
            "but model.fusion.kind must be one of lmf, tfn, concat, late, but got 'gated'.*add --plugin FILE.py",
        ),
        ({"exclusive": 1}, "must describe an LMF model, but ValueError: exclusive is 1"),
    ],
)
def test_wrong_descriptions(saved, changes, message):
    folder, _ = saved
    path = folder / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))
    with pytest.raises(RunError, match=message) as caught:
        LMFModel.from_pretrained(folder)
    assert str(caught.value).startswith(str(path))
    assert "\n" not in str(caught.value)


def test_nothing_is_left_of_a_failed_save(saved, monkeypatch):
    folder, model = saved
    before = {path.name: path.read_bytes() for path in folder.iterdir()}

    def full(*_, **__):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("lmf_multitask.models.lmf.save", full)
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
    assert LMFModel.from_pretrained(tmp_path / "elsewhere").task_names == list(TASK_NAMES)


def test_a_model_can_be_copied():
    """Layers made without Paddle at import time are ordinary layers."""
    import copy

    model, data = small_model(), random_clips()
    copied = copy.deepcopy(model)
    np.testing.assert_array_equal(copied.predict(data), model.predict(data))
    assert type(copied.fusion) is type(model.fusion)
    assert isinstance(model.encoders["audio"], paddle.nn.Layer)
    assert ModelConfig() == LMFModel(INPUTS, ["a"]).config


def test_models_need_neither_paddlenlp_nor_datasets():
    code = (
        "import sys, lmf_multitask.models.lmf\n"
        "assert 'paddle' in sys.modules\n"
        "print([name for name in ('paddlenlp', 'datasets', 'pyarrow', 'sklearn') if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"
    assert done.stderr == ""
