"""Models without a training: random weights, statistics of normalisation that are not 0 and 1."""

import hashlib
import json

import numpy as np
import pytest
from conftest import EMOTIONS, INPUTS, model_config

SEQUENCES = {"audio": (9, 5), "video": (8, 4), "text": (6, 3)}
SMALL = {
    "encoders": {"audio": {"hidden": 4}, "video": {"hidden": 3}, "text": {"state": 8, "hidden": 6, "projection": 5}},
    "fusion": {"rank": 2, "dim": 7},
}


def random_weights(model, seed=0):
    rng = np.random.default_rng(seed)
    weights = {name: rng.normal(0, 0.5, value.shape).astype("float32") for name, value in model.weights().items()}
    for name in weights:
        if name.rpartition(".")[2] in ("std", "scale", "_variance"):
            weights[name] = np.abs(weights[name]) + np.float32(0.5)
    return weights


def make_model(emotions=EMOTIONS, inputs=INPUTS, config=None, seed=0, exclusive=None, non_finite="zero"):
    from lmf_multitask.models.lmf import LMFModel

    model = LMFModel(inputs, emotions, model_config(SMALL, config or {}))
    model.load_weights(random_weights(model, seed))
    model.exclusive = len(emotions) > 1 if exclusive is None else exclusive
    model.non_finite = non_finite
    model.eval()
    return model


def make_run(folder, *args, calibration=None, **options):
    """A folder with what export needs of a run directory."""
    make_model(*args, **options).save_pretrained(folder / "model")
    if calibration is not None:
        calibration.save(folder / "model")
    return folder


def make_rows(count=7, inputs=INPUTS, steps=None, seed=1):
    """Random features; `steps` is another length of the sequences."""
    rng = np.random.default_rng(seed)
    shapes = {name: (steps or shape[0], shape[1]) if len(shape) == 2 else shape for name, shape in inputs.items()}
    return {name: rng.normal(size=(count, *shape)).astype("float32") for name, shape in shapes.items()}


def expected_probabilities(run, rows, temperature=1.0):
    """Softmax of the trained network's logits by its definition in float64: [N, T, 2]."""
    import paddle

    from lmf_multitask.models.lmf import LMFModel

    model = LMFModel.from_pretrained(run / "model")
    with paddle.no_grad():
        logits = model(*(paddle.to_tensor(rows[name]) for name in ("audio", "video", "text"))).numpy()
    logits = logits.astype("float64").reshape(len(logits), -1, 2) / np.reshape(temperature, (1, -1, 1))
    return np.exp(logits) / np.exp(logits).sum(axis=-1, keepdims=True)


def expected_present(run, rows):
    return expected_probabilities(run, rows)[:, :, 1]


def replace_file(folder, name, content):
    """Replaces a file of an export, with its hash: what somebody with bad intentions would do."""
    (folder / name).write_bytes(content)
    about = json.loads((folder / "lmf_model.json").read_text())
    about["sha256"][name] = hashlib.sha256(content).hexdigest()
    (folder / "lmf_model.json").write_text(json.dumps(about))


@pytest.fixture(scope="session")
def multitask_run(tmp_path_factory):
    return make_run(tmp_path_factory.mktemp("runs") / "multitask")


@pytest.fixture(scope="session")
def separate_runs(tmp_path_factory):
    """The parent of per-emotion runs without heads, as `--mode per_emotion` leaves it."""
    parent = tmp_path_factory.mktemp("separate")
    for seed, emotion in enumerate(EMOTIONS):
        make_run(parent / emotion, [emotion], seed=seed, config={"fusion.dim": None})
    return parent


@pytest.fixture(scope="session")
def exported(tmp_path_factory, multitask_run):
    """A multi-task export for Paddle Inference."""
    from lmf_multitask.deployment.exporter import export_run

    folder = tmp_path_factory.mktemp("exported") / "model"
    export_run(multitask_run, folder, ["paddle"])
    return folder


@pytest.fixture(scope="session")
def exported_separate(tmp_path_factory, separate_runs):
    """An export with a model per emotion."""
    from lmf_multitask.deployment.exporter import export_run

    folder = tmp_path_factory.mktemp("exported") / "separate"
    export_run(separate_runs, folder, ["paddle"])
    return folder


@pytest.fixture(scope="session")
def exported_onnx(tmp_path_factory, multitask_run):
    """The same for ONNX Runtime only."""
    pytest.importorskip("paddle2onnx", reason="needs the extra onnx")
    pytest.importorskip("onnxruntime", reason="needs the extra onnx")
    from lmf_multitask.deployment.exporter import export_run

    folder = tmp_path_factory.mktemp("exported") / "onnx"
    export_run(multitask_run, folder, ["onnx"])
    return folder
