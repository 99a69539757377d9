"""Run directories without a training: random weights, statistics of batch normalisation that are not 0 and 1."""

import json

import numpy as np
import pytest
from conftest import EMOTIONS, make_corpus, to_bytes_keys

SIZES = {"audio": 5, "video": 4, "text": 3}
WORDS = 6


def make_run(folder, emotions=EMOTIONS, sizes=SIZES, seed=0, calibration=None, data_path=None, **model):
    from lmf_multitask.config import ExperimentConfig, ModelConfig
    from lmf_multitask.models.lmf import LMFModel
    from lmf_multitask.runs import Run

    model.setdefault("text_lstm", 8)
    model.setdefault("text_hidden", 6)
    model.setdefault("fusion_dim", 7)
    config = ModelConfig(audio_hidden=4, video_hidden=3, fusion_rank=2, **model)
    network = LMFModel(sizes, emotions, config)
    rng = np.random.default_rng(seed)
    weights = {name: rng.normal(0, 0.5, value.shape).astype("float32") for name, value in network.weights().items()}
    for name in weights:
        if name.endswith("_variance"):
            weights[name] = np.abs(weights[name]) + np.float32(0.5)
    network.load_weights(weights)
    run = Run(folder)
    run.start(ExperimentConfig(data_path=data_path, emotions=list(emotions), model=config))
    network.save_pretrained(folder / "model")
    if calibration is not None:
        (folder / "model" / "calibration.json").write_text(json.dumps(calibration))
    return run


def make_rows(count=7, words=WORDS, sizes=SIZES, seed=1):
    rng = np.random.default_rng(seed)
    shapes = {"audio": (count, sizes["audio"]), "video": (count, sizes["video"]), "text": (count, words, sizes["text"])}
    return {name: rng.normal(size=shape).astype("float32") for name, shape in shapes.items()}


def expected_probabilities(run, rows, temperature=None):
    """Logits of the trained network, and the softmax by its definition in float64: [N, T, 2]."""
    import paddle

    model = run.load_model()
    with paddle.no_grad():
        logits = model(*(paddle.to_tensor(rows[name]) for name in ("audio", "video", "text"))).numpy().astype("float64")
    if temperature is not None:
        logits /= np.array(temperature)[None, :, None]
    return np.exp(logits) / np.exp(logits).sum(axis=-1, keepdims=True)


@pytest.fixture(scope="session")
def corpus_path(tmp_path_factory):
    import pickle

    path = tmp_path_factory.mktemp("corpus") / "data.pkl"
    path.write_bytes(pickle.dumps(to_bytes_keys(make_corpus()), protocol=2))
    return path


@pytest.fixture(scope="session")
def multitask_run(tmp_path_factory, corpus_path):
    return make_run(tmp_path_factory.mktemp("runs") / "multitask", data_path=str(corpus_path))


@pytest.fixture(scope="session")
def separate_runs(tmp_path_factory, corpus_path):
    """The parent of per-emotion runs without heads, as `--mode per_emotion` leaves it."""
    parent = tmp_path_factory.mktemp("separate")
    for seed, emotion in enumerate(EMOTIONS):
        make_run(parent / emotion, [emotion], seed=seed, fusion_dim=None, data_path=str(corpus_path))
    return parent


@pytest.fixture(scope="session")
def exported(tmp_path_factory, multitask_run):
    """A multi-task export that knows the training data, for Paddle Inference."""
    from lmf_multitask.deployment.exporter import export_runs, known_data

    folder = tmp_path_factory.mktemp("exported") / "model"
    export_runs([multitask_run], folder, data=known_data([multitask_run]))
    return folder


@pytest.fixture(scope="session")
def exported_onnx(tmp_path_factory, multitask_run):
    """The same for ONNX Runtime only."""
    pytest.importorskip("paddle2onnx", reason="needs the extra onnx")
    pytest.importorskip("onnxruntime", reason="needs the extra onnx")
    from lmf_multitask.deployment.exporter import export_runs, known_data

    folder = tmp_path_factory.mktemp("exported") / "onnx"
    export_runs([multitask_run], folder, ["onnx"], known_data([multitask_run]))
    return folder
