"""A learnable file in the layout of the released ``iemocap.pkl``, for trials and tests. Results on it say nothing about IEMOCAP.

Layout: ``data[emotion][split][feature]`` with bytes keys, as a Python 2 program writes it with pickle protocol 2:
``covarep`` float64 `[N, 74]` with a few NaN, ``facet`` float64 `[N, 35]`, ``glove`` float32 `[N, 20, 300]` padded with
zeros at the end, ``label`` int64 `[N, 2]` one-hot, column 1 = present. The four emotions are exclusive and as frequent
as in IEMOCAP's test split.

Two hidden signs define the emotion: valence (happy and neutral +, sad and angry -) and arousal (happy and angry +, sad and
neutral -). Text depends on valence. Video depends slightly on arousal and strongly on a third sign, the speaker's style,
which is independent of the emotion. Audio depends on style times arousal, which alone is independent of the emotion, too. So no
modality alone separates the four emotions, and audio helps only a model that multiplies it with video.

With real-valued targets, the file is an ``.npz`` with one array per emotion and per target: ``valence`` and ``arousal`` are the
hidden signs times a strength from 0.5 to 1.5, with which the features depend on them.
"""

from __future__ import annotations

import struct
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import BinaryIO, Literal

import numpy as np

from lmf_multitask.cache_folder import cache_folder
from lmf_multitask.data.schema import IEMOCAP_EMOTIONS
from lmf_multitask.errors import ConfigError
from lmf_multitask.files import atomic_write

Scale = Literal["tiny", "small", "full"]

ROWS = {
    "tiny": {"train": 160, "valid": 60, "test": 80},
    "small": {"train": 640, "valid": 160, "test": 160},
    "full": {"train": 2717, "valid": 798, "test": 938},
}
PREVALENCE = np.array([135, 193, 227, 383]) / 938
VALENCE, AROUSAL = np.array([1, -1, -1, 1]), np.array([1, -1, 1, -1])
TARGETS = ("valence", "arousal")
"""Real-valued targets that a sample may have."""

_NAMES = ("covarep", "facet", "glove")
NAN_SHARE = 0.001
CONSTANT_AUDIO_COLUMNS = slice(36, 40)


def write_sample(path: str | Path, scale: Scale = "small", seed: int = 0, targets: Sequence[str] = ()) -> Path:
    """Writes the sample file; the same scale and seed give the same bytes everywhere.

    Args:
        path: the file to write; replaced as a whole or not at all.
        scale: ``small``: 640 / 160 / 160 clips, each array stored once and shared by the emotions (24 MB). ``tiny``: the same
            with 160 / 60 / 80 clips, for tests (8 MB); products of modalities are hardly learned from so few. ``full``:
            IEMOCAP's 2717 / 798 / 938 clips, stored once per emotion as in the released file (443 MB).
        seed: of all random numbers.
        targets: real-valued ones, of `TARGETS`; with any, an ``.npz`` is written instead of a pickle.

    Returns:
        The path.

    Raises:
        ConfigError: a target is unknown.
    """
    unknown = next((name for name in targets if name not in TARGETS), None)
    if unknown is not None:
        raise ConfigError(f"targets must be among {', '.join(TARGETS)}, but got {unknown!r}. Choose among these.")
    path = Path(path).expanduser()
    rng = np.random.RandomState(seed)  # numpy guarantees that RandomState's stream never changes
    splits = {name: _draw_split(rng, count, bool(targets)) for name, count in ROWS[scale].items()}
    with atomic_write(path) as file:
        if targets:
            np.savez(file, **_npz_arrays(splits, targets))
            return path
        _PickleWriter(file, share_arrays=scale != "full").write(splits)
    return path


def builtin_sample() -> Path:
    """Path of the small sample, written into the cache of `datasets` when it is first used."""
    path = cache_folder() / "sample-2.pkl"
    return path if path.exists() else write_sample(path)


def sample_clips(count: int, seed: int = 0) -> dict[str, np.ndarray]:
    """Some made-up clips of the same kind: ``audio`` `[N, 74]`, ``video``, ``text``, and ``emotion`` `[N]`, an index of the four."""
    drawn = _draw_split(np.random.RandomState(seed), count)
    features = {"audio": drawn["covarep"], "video": drawn["facet"], "text": drawn["glove"]}
    return {**features, "emotion": drawn["label"][:, :, 1].argmax(axis=0)}


def _npz_arrays(splits: Mapping[str, Mapping[str, np.ndarray]], targets: Sequence[str]) -> dict[str, np.ndarray]:
    """Audio, video, text, id, split, one 0/1 array per emotion and one array per target."""

    def joined(name: str) -> np.ndarray:
        return np.concatenate([features[name] for features in splits.values()])

    found = {modality: joined(name).astype(np.float32) for modality, name in zip(("audio", "video", "text"), _NAMES)}
    found["id"] = np.array(
        [f"{split}-{row:05d}" for split, one in splits.items() for row in range(len(one["covarep"]))]
    )
    found["split"] = np.repeat(list(splits), [len(one["covarep"]) for one in splits.values()])
    for index, emotion in enumerate(IEMOCAP_EMOTIONS):
        found[emotion] = np.concatenate([one["label"][index, :, 1] for one in splits.values()])
    return {**found, **{name: joined(name) for name in targets}}


def _draw_split(rng: np.random.RandomState, rows: int, targets: bool = False) -> dict[str, np.ndarray]:
    emotion = rng.choice(4, size=rows, p=PREVALENCE)
    valence, arousal = VALENCE[emotion], AROUSAL[emotion]
    style = rng.choice([-1, 1], size=rows)

    audio = 0.06 * rng.standard_normal((rows, 74))
    audio[:, 0:30] += 0.05 * (style * arousal)[:, None]
    audio[:, CONSTANT_AUDIO_COLUMNS] = 0.0
    audio[rng.uniform(size=audio.shape) < NAN_SHARE] = np.nan

    video = 0.06 * rng.standard_normal((rows, 35))
    video[:, 0:10] += 0.012 * arousal[:, None]
    video[:, 10:25] += 0.06 * style[:, None]

    text = np.zeros((rows, 20, 300))
    for row, words in enumerate(rng.randint(2, 21, size=rows)):
        text[row, :words] = 0.3 * rng.standard_normal((words, 300))
        text[row, :words, 0:25] += 0.08 * valence[row]

    values: dict[str, np.ndarray] = {}
    if targets:  # drawn last, so that everything else is as without them
        strengths = 1 + 0.5 * rng.uniform(-1, 1, size=(2, rows))
        values = {
            name: (sign * by).astype(np.float32) for name, sign, by in zip(TARGETS, (valence, arousal), strengths)
        }
        text[:, :, 0:25] += (text != 0).any(axis=2, keepdims=True) * 0.08 * (values["valence"] - valence)[:, None, None]
        audio[:, 0:30] += 0.05 * (style * (values["arousal"] - arousal))[:, None]
        video[:, 0:10] += 0.012 * (values["arousal"] - arousal)[:, None]

    labels = np.zeros((4, rows, 2), np.int64)
    labels[np.arange(4)[:, None], np.arange(rows), (emotion == np.arange(4)[:, None]).astype(int)] = 1
    # rounded to multiples of 2^-16, so that rounding differences between machines have no effect
    return {
        "covarep": np.round(audio * 65536) / 65536,
        "facet": np.round(video * 65536) / 65536,
        "glove": (np.round(text * 65536) / 65536).astype(np.float32),
        "label": labels,
        **values,
    }


class _PickleWriter:
    """Writes the opcodes of Python 2's pickle, which the standard library no longer writes, without copies of the arrays."""

    def __init__(self, file: BinaryIO, share_arrays: bool) -> None:
        self._write = file.write
        self._share = share_arrays
        self._memo: dict[tuple[str, str], int] = {}

    def write(self, splits: dict[str, dict[str, np.ndarray]]) -> None:
        self._write(b"\x80\x02}(")
        for index, emotion in enumerate(IEMOCAP_EMOTIONS):
            self._text(emotion)
            self._write(b"}(")
            for split, features in splits.items():
                self._text(split)
                self._write(b"}(")
                for name, values in features.items():
                    self._text(name)
                    if name == "label":
                        self._array(values[index])
                    elif (split, name) in self._memo:
                        self._write(b"h" + bytes([self._memo[split, name]]))
                    else:
                        self._array(values, remember_as=(split, name) if self._share else None)
                self._write(b"u")
            self._write(b"u")
        self._write(b"u.")

    def _text(self, text: str) -> None:
        self._write(b"U" + bytes([len(text)]) + text.encode("ascii"))

    def _array(self, values: np.ndarray, remember_as: tuple[str, str] | None = None) -> None:
        self._write(b"cnumpy.core.multiarray\n_reconstruct\ncnumpy\nndarray\nK\x00\x85U\x01b\x87R")
        if remember_as:
            self._memo[remember_as] = len(self._memo)
            self._write(b"q" + bytes([self._memo[remember_as]]))
        self._write(b"(K\x01(" + b"".join(map(_integer, values.shape)) + b"t")
        self._dtype(values.dtype)
        self._write(b"\x89T" + struct.pack("<i", values.nbytes))
        self._write(np.ascontiguousarray(values).data)
        self._write(b"tb")

    def _dtype(self, dtype: np.dtype) -> None:
        self._write(b"cnumpy\ndtype\n")
        self._text(dtype.str[1:])
        minus_one = b"J" + struct.pack("<i", -1)
        self._write(b"K\x00K\x01\x87R(K\x03U\x01<NNN" + minus_one * 2 + b"K\x00tb")


def _integer(value: int) -> bytes:
    return b"J" + struct.pack("<i", value)
