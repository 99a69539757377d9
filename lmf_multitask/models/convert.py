"""Checkpoints of other LMF codes -> `LMFModel`: LMF_Paddle's, and the authors' PyTorch code's.

Both name their parameters alike; the sizes are read off the tensors. No code is run from a file.
"""

from __future__ import annotations

import lzma
import os
import struct
import zipfile
import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from lmf_multitask.config import build, check_name, merged
from lmf_multitask.data.npy import read_header, read_whole
from lmf_multitask.data.safe_pickle import read_pickle
from lmf_multitask.data.stored_array import StoredArray
from lmf_multitask.data.torch_files import is_torch_file, read_torch
from lmf_multitask.errors import RunError, UserError
from lmf_multitask.files import open_regular
from lmf_multitask.models.config import ModelConfig
from lmf_multitask.models.lmf import LMFModel, check_shapes, weight_shapes

_LARGEST = 1 << 30  # bytes; the released checkpoints have 1.8 MB

_MOST_COMPRESSED = 200  # times; weights hardly compress, zeros do

_DAMAGES = (
    *(ValueError, OSError, EOFError, MemoryError, KeyError, TypeError, RuntimeError, OverflowError),
    *(struct.error, zipfile.BadZipFile, zlib.error, lzma.LZMAError),
)
"""What is raised on damaged archives; a NotImplementedError and a RecursionError are RuntimeErrors."""

_NAMES = {
    "audio_factor": "fusion.factors.0",
    "video_factor": "fusion.factors.1",
    "text_factor": "fusion.factors.2",
    "fusion_weights": "fusion.rank_weights",
    "fusion_bias": "fusion.bias",
    "text_subnet.linear_1.weight": "encoders.text.linear.weight",
    "text_subnet.linear_1.bias": "encoders.text.linear.bias",
    **{
        f"{modality}_subnet.{part}": f"encoders.{modality}.{part}"
        for modality in ("audio", "video")
        for part in (
            *(f"norm.{kind}" for kind in ("weight", "bias", "_mean", "_variance")),
            *(f"linear_{number}.{kind}" for number in (1, 2, 3) for kind in ("weight", "bias")),
        )
    },
    **{
        f"text_subnet.rnn.{kind}_{of}_l0": f"encoders.text.lstm.{kind}_{of}_l0"
        for kind in ("weight", "bias")
        for of in ("ih", "hh")
    },
}
"""Their names (the original's in Paddle's spelling) -> ours."""


def convert_checkpoint(path: str | Path, emotion: str, dropouts: Mapping[str, float] | None = None) -> LMFModel:
    """Turns a checkpoint of another LMF code into a model, in evaluation mode.

    Args:
        path: LMF_Paddle's ``.pkl`` (a state dict written by ``paddle.save``), or a state dict of the original PyTorch code,
            written by ``torch.save``, or as ``.npz`` (an array per parameter, under its name).
        emotion: which one it recognises.
        dropouts: modality -> dropout, which a checkpoint does not hold; it matters for further training only.

    Returns:
        The model of one emotion, without heads: its fusion gives the logits.

    Raises:
        RunError: the file is missing or damaged, or holds anything but the weights of one LMF network.
        DataError: it is a pickle that names anything but plain data.
    """
    path = Path(path).expanduser()
    check_name(emotion)
    weights = _named_as_ours(_read(path), path)
    try:
        config = build(ModelConfig, merged(_PAPERS_NETWORK, _sizes(weights, dropouts or {})))
        inputs = {
            "audio": weights["encoders.audio.linear_1.weight"].shape[:1],
            "video": weights["encoders.video.linear_1.weight"].shape[:1],
            "text": (STEPS, weights["encoders.text.lstm.weight_ih_l0"].shape[1]),
        }
        # before anything of these sizes is built
        check_shapes({name: value.shape for name, value in weights.items()}, weight_shapes(inputs, [emotion], config))
        model = LMFModel(inputs, [emotion], config)
        model.load_weights(weights)
    except (UserError, IndexError) as error:
        raise RunError(f"{path}: must hold the weights of one LMF network, but {error}") from None
    model.eval()
    return model


STEPS = 20
"""Words per clip in the data of these codes, which a checkpoint does not hold; the network takes any number."""

_PAPERS_NETWORK: dict[str, Any] = {
    "encoders": {
        "audio": {"kind": "mlp", "norm": "batch"},
        "video": {"kind": "mlp", "norm": "batch"},
        "text": {"kind": "lstm", "projection": None, "pooling": "last_step", "step_dropout": 0.0, "norm": "none"},
    },
    "fusion": {"kind": "lmf", "dim": None, "init": "xavier", "skip": False},
    "linear": False,
    "modality_dropout": None,
}


def _sizes(weights: Mapping[str, np.ndarray], dropouts: Mapping[str, float]) -> dict[str, Any]:
    sizes: dict[str, dict[str, Any]] = {
        "audio": {"hidden": weights["encoders.audio.linear_1.weight"].shape[1]},
        "video": {"hidden": weights["encoders.video.linear_1.weight"].shape[1]},
        "text": {
            "hidden": weights["encoders.text.linear.weight"].shape[1],
            "state": weights["encoders.text.lstm.weight_hh_l0"].shape[1],
        },
    }
    for modality, dropout in dropouts.items():
        sizes[modality]["dropout"] = dropout
    return {"encoders": sizes, "fusion": {"rank": weights["fusion.rank_weights"].shape[1]}}


# -- names


def _named_as_ours(stored: dict[str, np.ndarray], path: Path) -> dict[str, np.ndarray]:
    """Every parameter once, in Paddle's orientation, under our name."""
    if stored and all(name.startswith("module.") for name in stored):  # PyTorch's DataParallel
        stored = {name.removeprefix("module."): values for name, values in stored.items()}
    stored = _without_lstm_copies(stored, path)
    if any(name.endswith(".running_mean") for name in stored):
        stored = _from_pytorch(stored)
    foreign, missing = sorted(set(stored) - set(_NAMES)), sorted(set(_NAMES) - set(stored))
    if foreign or missing:
        wrong = [
            f"{what} {', '.join(name[:60] for name in names[:3])}"
            for what, names in (("has", foreign), ("lacks", missing))
            if names
        ]
        raise RunError(
            f"{path}: must hold the {len(_NAMES)} parameters of one LMF network, but {' and '.join(wrong)}. "
            "Give a state dict of LMF_Paddle's or of the original code."
        )
    return {_NAMES[name]: np.ascontiguousarray(values, np.float32) for name, values in stored.items()}


def _without_lstm_copies(stored: dict[str, np.ndarray], path: Path) -> dict[str, np.ndarray]:
    """Paddle's state dict lists an LSTM's weights a second time, as those of its cell."""
    kept = {name: values for name, values in stored.items() if ".rnn.0.cell." not in name}
    for name, values in stored.items():
        if name in kept:
            continue
        first = name.replace(".rnn.0.cell.", ".rnn.") + "_l0"
        if not np.array_equal(kept.setdefault(first, values), values):
            raise RunError(
                f"{path}: {name[:60]} must equal {first[:60]}, but differs. The checkpoint is damaged: get it again."
            )
    return kept


def _from_pytorch(stored: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """PyTorch stores a linear layer's weight transposed, and calls the running statistics otherwise."""
    renamed = {}
    for name, values in stored.items():
        if name.endswith(".num_batches_tracked"):
            continue
        name = name.replace(".running_mean", "._mean").replace(".running_var", "._variance")
        renamed[name] = values.T if ".linear_" in name and name.endswith(".weight") else values
    return renamed


# -- files


def _read(path: Path) -> dict[str, np.ndarray]:
    file = open_regular(path, RunError)
    size = file.seek(0, os.SEEK_END)
    if size > _LARGEST:
        raise RunError(f"{path}: must be a checkpoint of at most 1 GiB, but is larger. Is it a data file?")
    file.seek(0)
    content = _read_archive(path, file, size) if file.read(2) == b"PK" else read_pickle(path, file)
    return _arrays(content, path)


def _read_archive(path: Path, file: BinaryIO, size: int) -> Any:
    try:
        with zipfile.ZipFile(file) as archive:
            if is_torch_file(archive):
                return read_torch(path, archive, size)
            claimed = sum(member.file_size for member in archive.infolist())
            if claimed > min(_LARGEST, _MOST_COMPRESSED * size):
                raise RunError(
                    f"{path}: must unpack to at most 1 GiB and {_MOST_COMPRESSED} times its size, but claims {claimed:,} bytes. "
                    "Is it a checkpoint?"
                )
            return {
                member.filename.removesuffix(".npy"): _read_member(archive, member) for member in archive.infolist()
            }
    except UserError:
        raise
    except _DAMAGES as error:
        reason = " ".join(str(error).split())
        raise RunError(f"{path}: must be an .npz file of arrays or a state dict of PyTorch, but {reason}.") from None


def _read_member(archive: zipfile.ZipFile, member: zipfile.ZipInfo) -> np.ndarray:
    with archive.open(member) as file:
        try:
            header = read_header(file)
        except ValueError as error:
            raise ValueError(f"{member.filename[:60]}: {error}") from None
        if header.bytes > member.file_size:  # before the memory is taken
            raise ValueError(f"{member.filename[:60]} claims {header.bytes:,} bytes and has {member.file_size:,}")
        return read_whole(file, header)


def _arrays(content: Any, path: Path) -> dict[str, np.ndarray]:
    if not isinstance(content, Mapping):
        raise RunError(
            f"{path}: must hold parameters by name, but holds a {type(content).__name__}. Save a state dict."
        )
    arrays: dict[str, np.ndarray] = {}
    read: dict[int, np.ndarray] = {}  # a pickle can name one array again and again
    for name, value in content.items():
        if name == "StructuredToParameterName@@":  # Paddle's own note of its internal names
            continue
        if not isinstance(name, str) or not isinstance(value, (StoredArray, np.ndarray)):
            raise RunError(
                f"{path}: must hold an array for every parameter, but {str(name)[:60]!r} is none. Save a state dict."
            )
        if value.dtype.kind not in "fiu":
            raise RunError(
                f"{path}: parameter {name[:60]!r} must hold numbers, but holds {value.dtype}. Save a state dict."
            )
        if isinstance(value, StoredArray):
            if id(value) not in read:
                read[id(value)] = value.read()
            value = read[id(value)]
        arrays[name] = value
    return arrays
