import io
import pickle

import numpy as np
import paddle
import pytest
from conftest import shared_file
from reference_network import logits, random_parameters
from torch_parts import torch_tensors, write_torch

from lmf_multitask.errors import UserError
from lmf_multitask.models.convert import convert_checkpoint
from lmf_multitask.models.lmf import LMFModel


def inputs(rows=6, words=4, seed=1):
    rng = np.random.default_rng(seed)
    shapes = ((rows, 5), (rows, 4), (rows, words, 3))
    return [rng.normal(size=shape).astype(np.float32) for shape in shapes]


def predict(model, batch):
    with paddle.no_grad():
        return model(*(paddle.to_tensor(values) for values in batch)).numpy()


def as_paddle(weights):
    """As paddle.save writes it: the LSTM twice, and a note of Paddle's internal names."""
    copies = {}
    for name, values in weights.items():
        if ".rnn." in name:
            copies[name.replace(".rnn.", ".rnn.0.cell.").removesuffix("_l0")] = values
    return {**weights, **copies, "StructuredToParameterName@@": dict.fromkeys(weights, "internal.w_0")}


def as_pytorch(weights):
    """As the original's state dict: linear weights [out, in], PyTorch's names of the running statistics."""
    renamed = {
        "audio_subnet.norm.num_batches_tracked": np.array(7),
        "video_subnet.norm.num_batches_tracked": np.array(7),
    }
    for name, values in weights.items():
        if ".linear_" in name and name.endswith(".weight"):
            values = np.ascontiguousarray(values.T)
        renamed[name.replace("._mean", ".running_mean").replace("._variance", ".running_var")] = values
    return renamed


def save(path, weights):
    if path.suffix == ".npz":
        np.savez(path, **weights)
    elif path.suffix == ".pt":
        write_torch(path, *torch_tensors(weights))
    else:
        path.write_bytes(pickle.dumps(weights, protocol=2))
    return path


@pytest.mark.parametrize(
    ("name", "form"),
    [
        ("happy.pkl", as_paddle),
        ("plain.pkl", dict),
        ("original.npz", as_pytorch),
        ("original.pt", as_pytorch),
        ("ours.npz", dict),
        ("original.pkl", as_pytorch),
    ],
)
def test_logits_are_those_of_the_equations(tmp_path, name, form):
    weights = random_parameters()
    model = convert_checkpoint(save(tmp_path / name, form(weights)), "happy")
    np.testing.assert_allclose(predict(model, inputs()), logits(weights, *inputs()), rtol=1e-5, atol=1e-5)
    assert model.task_names == ["happy"]
    assert model.heads is None
    assert {name: one.shape for name, one in model.inputs.items()} == {"audio": (5,), "video": (4,), "text": (20, 3)}
    encoders, fusion = model.config.encoders, model.config.fusion
    assert (encoders.audio.hidden, encoders.video.hidden, encoders.text.state, encoders.text.hidden) == (3, 2, 4, 2)
    assert (fusion.rank, fusion.dim) == (2, None)
    assert not model.training


def test_dropouts_are_those_that_are_given(tmp_path):
    path = save(tmp_path / "a.npz", random_parameters())
    encoders = convert_checkpoint(path, "happy", {"audio": 0.3, "text": 0.5}).config.encoders
    assert (encoders.audio.dropout, encoders.video.dropout, encoders.text.dropout) == (0.3, 0.2, 0.5)


def test_data_parallel_names(tmp_path):
    weights = random_parameters()
    path = save(tmp_path / "a.npz", {f"module.{name}": values for name, values in as_pytorch(weights).items()})
    np.testing.assert_allclose(
        predict(convert_checkpoint(path, "sad"), inputs()), logits(weights, *inputs()), rtol=1e-5, atol=1e-5
    )


def test_saved_and_loaded_again_are_the_same_bits(tmp_path):
    model = convert_checkpoint(save(tmp_path / "a.pkl", as_paddle(random_parameters())), "happy")
    model.save_pretrained(tmp_path / "model")
    again = LMFModel.from_pretrained(tmp_path / "model")
    np.testing.assert_array_equal(predict(model, inputs()), predict(again, inputs()))
    for name, value in model.weights().items():
        np.testing.assert_array_equal(value.numpy(), again.weights()[name].numpy())


@pytest.mark.parametrize(
    ("emotion", "parameters"), [("happy", 230_271), ("sad", 230_200), ("angry", 97_684), ("neutral", 103_356)]
)
def test_released_models_give_the_recorded_logits(tmp_path, emotion, parameters):
    with np.load(shared_file("golden/released_outputs.npz")) as file:
        recorded = dict(file)
    model = convert_checkpoint(shared_file(f"golden/released/{emotion}.pkl"), emotion)
    trainable = [value for value in model.weights().values() if not value.stop_gradient]
    assert sum(int(np.prod(value.shape)) for value in trainable) == parameters
    batch = [recorded[name].astype(np.float32) for name in ("audio", "visual", "text")]
    found, wanted = predict(model, batch), recorded[emotion]
    assert np.abs(found - wanted).max() < 1e-5 * np.abs(wanted).max()
    np.testing.assert_allclose(found, wanted, rtol=1e-4, atol=1e-5 * np.abs(wanted).max())
    model.save_pretrained(tmp_path / "model")
    np.testing.assert_array_equal(predict(LMFModel.from_pretrained(tmp_path / "model"), batch), found)


# -- what is refused


def without(name):
    weights = random_parameters()
    del weights[name]
    return weights


def changed(**others):
    return random_parameters() | others


def damaged_copy():
    weights = as_paddle(random_parameters())
    weights["text_subnet.rnn.0.cell.bias_ih"] = weights["text_subnet.rnn.0.cell.bias_ih"] + 1
    return weights


WRONG = {
    "missing": (without("fusion_bias"), r"lacks fusion_bias\. Give a state dict"),
    "foreign": (changed(conv=np.ones(3, "f4")), r"has conv\. Give"),
    "another network": ({"conv": np.ones(3, "f4")}, r"has conv and lacks audio_factor, .*\. Give"),
    "three outputs": (
        changed(fusion_bias=np.zeros((1, 3), "f4")),
        r"fusion.bias must have the shape \[1, 2\], but has \[1, 3\]",
    ),
    "another rank": (
        changed(audio_factor=np.zeros((5, 4, 2), "f4")),
        r"fusion.factors.0 must have the shape \[2, 4, 2\], but has",
    ),
    "not finite": (changed(fusion_bias=np.full((1, 2), np.nan, "f4")), "fusion.bias must be finite"),
    "flat": (changed(fusion_weights=np.zeros(2, "f4")), "must hold the weights of one LMF network"),
    "text": (changed(fusion_bias="none"), "must hold an array for every parameter, but 'fusion_bias' is none"),
    "text array": (changed(fusion_bias=np.array(["a"])), "'fusion_bias' must hold numbers"),
    "a list": ([1, 2], "must hold parameters by name, but holds a list"),
    "damaged copy": (damaged_copy(), r"rnn.0.cell.bias_ih must equal text_subnet.rnn.bias_ih_l0, but differs"),
}


@pytest.mark.parametrize("name", WRONG)
def test_anything_else_is_refused_in_one_line(tmp_path, name):
    content, message = WRONG[name]
    path = save(tmp_path / "a.pkl", content)
    with pytest.raises(UserError, match=message) as caught:
        convert_checkpoint(path, "happy")
    assert str(caught.value).startswith(f"{path}: ")
    assert "\n" not in str(caught.value)


def test_hostile_and_damaged_files(tmp_path):
    class Run:
        def __reduce__(self):
            return print, ("run",)

    (tmp_path / "run.pkl").write_bytes(pickle.dumps({"fusion_bias": Run()}))
    with pytest.raises(UserError, match="print"):
        convert_checkpoint(tmp_path / "run.pkl", "happy")

    np.savez(tmp_path / "objects.npz", fusion_bias=np.array([{}, 1], dtype=object))
    with pytest.raises(UserError, match="must be an .npz file of arrays"):
        convert_checkpoint(tmp_path / "objects.npz", "happy")

    whole = io.BytesIO()
    np.savez(whole, **random_parameters())
    (tmp_path / "cut.npz").write_bytes(whole.getvalue()[:-200])
    with pytest.raises(UserError, match=r"cut.npz: must be"):
        convert_checkpoint(tmp_path / "cut.npz", "happy")

    with pytest.raises(UserError, match="none.pkl: must be a readable file, but No such file"):
        convert_checkpoint(tmp_path / "none.pkl", "happy")
    with pytest.raises(UserError, match="the name of a task must consist"):
        convert_checkpoint(tmp_path / "none.pkl", "../../happy")
