"""Audio, video and text: names, what a missing modality is, and the shape of a clip's features.

Shape letters: N clips, L steps of a sequence, D feature dimensions.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from lmf_multitask.errors import DataError


@dataclass(frozen=True)
class Modality:
    """One of the three kinds of features.

    Attributes:
        name: ``audio``, ``video`` or ``text``.
        aliases: names in files; the first is that of the released IEMOCAP file.
        extractors: parts of the names of feature extractors, in lower case: of folders and files that are named after one.
        sequence: always a sequence; a vector is a sequence of length one.
    """

    name: str
    aliases: tuple[str, ...]
    extractors: tuple[str, ...]
    sequence: bool = False


MODALITIES = {
    modality.name: modality
    for modality in (
        Modality(
            "audio",
            ("covarep", "audio", "acoustic"),
            ("hubert", "wav2vec", "wavlm", "whisper", "opensmile", "gemaps", "vggish", "data2vec-audio", "librosa"),
        ),
        Modality(
            "video",
            ("facet", "video", "visual", "vision"),
            ("clip", "openface", "resnet", "dino", "videomae", "manet", "senet", "emonet", "eva02", "face"),
        ),
        Modality(
            "text",
            ("glove", "text", "words", "language"),
            (
                "bert",
                "bloom",
                "llama",
                "gpt",
                "baichuan",
                "electra",
                "xlnet",
                "qwen",
                "word2vec",
                "wordvectors",
                "sentence",
            ),
            sequence=True,
        ),
    )
}


def find_modality(name: str) -> str | None:
    """The modality that a name in a file stands for; None for another name."""
    return next((one.name for one in MODALITIES.values() if name in one.aliases), None)


def modality_of_extractor(name: str) -> str | None:
    """The modality of the features in a folder or file of this name (``chinese-hubert-large-UTT``); None if it tells none."""
    lower = name.lower()
    for about in MODALITIES.values():  # audio before text: hubert is no bert
        if any(part in lower for part in (*about.aliases, *about.extractors)):
            return about.name
    return None


@dataclass(frozen=True)
class Input:
    """The features of one modality in one clip.

    Attributes:
        shape: ``(D,)`` of a vector, ``(L, D)`` of a sequence, L being that of the training data.
        padding: where sequences are padded: ``end``, ``front``, ``both`` or ``none``; None where unknown, or of a vector.
    """

    shape: tuple[int, ...]
    padding: str | None = None

    @property
    def features(self) -> int:
        """D."""
        return self.shape[-1]

    @property
    def is_sequence(self) -> bool:
        """Whether a clip has several steps."""
        return len(self.shape) == 2

    @property
    def length(self) -> int | None:
        """L; None of a vector."""
        return self.shape[0] if self.is_sequence else None


def checked_inputs(inputs: Mapping[str, Any]) -> dict[str, Input]:
    """`Input`s of all three modalities in their order, from `Input`s or shapes.

    Raises:
        DataError: a modality is missing or foreign, or a shape is not possible.
    """
    if not isinstance(inputs, Mapping) or set(inputs) != set(MODALITIES):
        got = sorted(map(str, inputs)) if isinstance(inputs, Mapping) else inputs
        raise DataError(f"inputs must have {', '.join(MODALITIES)}, but got {got}. Give the shape of each.")
    found = {}
    for name, modality in MODALITIES.items():
        value = inputs[name]
        one = (
            value if isinstance(value, Input) else Input(tuple(value) if isinstance(value, (list, tuple)) else (value,))
        )
        sizes = all(isinstance(size, (int, np.integer)) and not isinstance(size, bool) for size in one.shape)
        allowed = (2,) if modality.sequence else (1, 2)
        if not sizes or len(one.shape) not in allowed or not all(1 <= size <= 65536 for size in one.shape):
            rule = "[steps, features]" if modality.sequence else "[features] or [steps, features]"
            raise DataError(
                f"the input {name} must have a shape {rule} with sizes from 1 to 65536, but has {str(one.shape)[:60]}."
            )
        if one.padding not in (None, "end", "front", "both", "none"):
            raise DataError(
                f"the padding of {name} must be end, front, both or none, but got {str(one.padding)[:60]!r}."
            )
        found[name] = Input(tuple(int(size) for size in one.shape), one.padding)
    return found


def present_steps(values: np.ndarray) -> np.ndarray:
    """Which steps of sequences are present, bool `[N, L]`: in `[N, L, D]`, a step is padding where all D numbers are zero."""
    return (values != 0).any(axis=2)


def missing_clips(values: np.ndarray) -> np.ndarray:
    """In which clips the modality is missing, bool `[N]`: all numbers of `[N, D]` or `[N, L, D]` are zero there."""
    return ~(values.reshape(len(values), -1) != 0).any(axis=1)


def as_float32(values: np.ndarray) -> np.ndarray:
    """The same numbers as float32, where they are not: those beyond its range become infinite, and are treated as such."""
    with np.errstate(over="ignore", invalid="ignore"):  # invalid: a signalling NaN
        return values.astype(np.float32, copy=False)
