"""Shared by all tests: a quiet, private environment, and small data in the real file's layout."""

import os
import pickle
import tempfile

# before anything imports Paddle or datasets: the caches of the user stay untouched; once per process, since tests import this
# file a second time
if os.environ.get("LMF_TESTS_PROCESS") != str(os.getpid()):
    _CACHE = tempfile.TemporaryDirectory(prefix="lmf-tests-")
    os.environ["LMF_TESTS_PROCESS"] = str(os.getpid())
    os.environ["HF_HOME"] = _CACHE.name
    os.environ["HF_HUB_OFFLINE"] = "1"

from pathlib import Path

# processes that tests start in other folders run this checkout, whatever is installed
os.environ["PYTHONPATH"] = str(Path(__file__).resolve().parents[1])

import numpy as np
import pytest
from commands import logging_as_before

from lmf_multitask.runtime import cpu_settings

for _name, _value in cpu_settings().items():
    os.environ.setdefault(_name, _value)

os.fsync = lambda handle: None  # no test cuts the power, and a training flushes some hundred files

EMOTIONS = ("happy", "sad", "angry", "neutral")
SHARED = Path(__file__).resolve().parents[2] / "shared"


def shared_file(name: str) -> Path:
    """A file that only the project's founders have; the test is skipped where it is not."""
    path = SHARED / name
    if not path.exists():
        pytest.skip(f"needs ../shared/{name}")
    return path


def random_clips(rows=6, words=7, seed=0):
    """Features as in `INPUTS`, without padding."""
    rng = np.random.default_rng(seed)
    return {
        "audio": rng.normal(size=(rows, 5)).astype("f4"),
        "video": rng.normal(size=(rows, 4)).astype("f4"),
        "text": rng.normal(size=(rows, words, 3)).astype("f4"),
    }


def make_corpus(rows=(12, 8, 9), emotions=EMOTIONS, seed=0, audio=5, video=4, words=6, text=3):
    """data[emotion][split][feature] with str keys: exclusive emotions, end padding, one NaN in audio."""
    rng = np.random.default_rng(seed)
    data = {emotion: {} for emotion in emotions}
    for split, count in zip(("train", "valid", "test"), rows):
        emotion_of = np.arange(count) % len(emotions)
        glove = rng.normal(size=(count, words, text)).astype("float32")
        for row, length in enumerate(rng.integers(1, words + 1, count)):
            glove[row, length:] = 0
        features = {
            "covarep": rng.normal(size=(count, audio)),
            "facet": rng.normal(size=(count, video)),
            "glove": glove,
        }
        features["covarep"][0, 0] = np.nan
        for index, emotion in enumerate(emotions):
            label = np.eye(2, dtype="int64")[(emotion_of == index).astype(int)]
            data[emotion][split] = {**{k: v.copy() for k, v in features.items()}, "label": label}
    return data


def to_bytes_keys(tree):
    """The same tree with the bytes keys that a Python 2 pickle has."""
    if isinstance(tree, dict):
        return {key.encode(): to_bytes_keys(value) for key, value in tree.items()}
    return tree


@pytest.fixture(autouse=True)
def same_logging():
    with logging_as_before():
        yield


@pytest.fixture
def corpus():
    return make_corpus()


@pytest.fixture
def write_pickle(tmp_path):
    """Writes a tree as a pickle and returns its path."""

    def write(tree, name="data.pkl", protocol=2, bytes_keys=True):
        path = tmp_path / name
        path.write_bytes(pickle.dumps(to_bytes_keys(tree) if bytes_keys else tree, protocol=protocol))
        return path

    return write


@pytest.fixture
def read(tmp_path):
    """Reads bytes as a pickle file."""
    from lmf_multitask.data.safe_pickle import read_pickle

    def read_bytes(content):
        path = tmp_path / "data.pkl"
        path.write_bytes(content)
        return read_pickle(path)

    return read_bytes


@pytest.fixture(scope="session")
def sample_path(tmp_path_factory):
    from lmf_multitask.data.sample import write_sample

    return write_sample(tmp_path_factory.mktemp("sample") / "sample.pkl", "tiny")


# settings of the network as `ModelConfig` takes them; `model_config` lays several over each other

# the network of the papers: everything that was added to it is left off
PAPERS = {
    "encoders": {
        "audio": {"norm": "batch"},
        "video": {"norm": "batch"},
        "text": {"projection": None, "pooling": "last_step", "step_dropout": 0.0, "norm": "none"},
    },
    "fusion": {"skip": False},
    "modality_dropout": None,
    "linear": False,
}

# the papers' network in a size whose parameters can be counted by hand
SMALL_PAPERS = {
    "encoders": {
        "audio": {"norm": "batch", "hidden": 3},
        "video": {"norm": "batch", "hidden": 2},
        "text": {**PAPERS["encoders"]["text"], "state": 4, "hidden": 2},
    },
    "fusion": {"rank": 2, "dim": 6, "skip": False},
    "modality_dropout": None,
    "linear": False,
}
NO_DROPOUT = {"encoders": {name: {"dropout": 0.0} for name in ("audio", "video", "text")}, "head_dropout": 0.0}

SMALL_MODEL = {
    "encoders": {"audio": {"hidden": 4}, "video": {"hidden": 3}, "text": {"state": 5, "hidden": 4}},
    "fusion": {"rank": 2, "dim": 6},
}

# plain training: a cross entropy per emotion, the weights themselves
PLAIN = {"joint_loss": 0.0, "ema_epochs": None}

INPUTS = {"audio": (5,), "video": (4,), "text": (6, 3)}
"""Shapes of a clip in `make_corpus`."""


def model_config(*layers):
    """A `ModelConfig` from settings, nested or with dotted names, later ones over earlier ones."""
    from lmf_multitask.config import build, merged, nested
    from lmf_multitask.models.config import ModelConfig

    found = {}
    for layer in layers:
        found = merged(found, nested(layer))
    return build(ModelConfig, found)


def small_experiment(data_path, output_dir, seed=1, emotions=None, model=None, **training):
    """The settings of a training that takes a moment; dropout stays on."""
    from lmf_multitask.pipeline.settings import ExperimentConfig
    from lmf_multitask.training.config import TrainingConfig

    return ExperimentConfig(
        data_path=str(data_path),
        output_dir=str(output_dir),
        seed=seed,
        emotions=emotions,
        device="cpu",
        model=model_config(SMALL_MODEL, model or {}),
        training=TrainingConfig(**{"epochs": 4, "batch_size": 8, "learning_rate": 0.01, **training}),
    )


@pytest.fixture(scope="session")
def corpus_path(tmp_path_factory):
    """A pickle with 31 / 16 / 19 clips and four emotions; the last training batch of 8 would be a short one."""
    path = tmp_path_factory.mktemp("corpus") / "corpus.pkl"
    path.write_bytes(pickle.dumps(to_bytes_keys(make_corpus(rows=(31, 16, 19))), protocol=2))
    return path


@pytest.fixture(scope="session")
def trained(corpus_path, tmp_path_factory):
    """A finished run on `corpus_path`: its folder, and what `run_experiment` returned. Do not change it."""
    from lmf_multitask.pipeline.experiment import run_experiment

    folder = tmp_path_factory.mktemp("trained") / "run"
    return folder, run_experiment(small_experiment(corpus_path, folder), report=False, quiet=True)
