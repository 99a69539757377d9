"""Names in data: splits, emotions, and the column types of a data set."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from difflib import get_close_matches
from typing import TYPE_CHECKING

from lmf_multitask.config import check_name
from lmf_multitask.data.modality import MODALITIES, find_modality, modality_of_extractor
from lmf_multitask.errors import ConfigError, DataError, suggestion

if TYPE_CHECKING:
    import datasets

SPLITS: dict[str, tuple[str, ...]] = {
    "train": ("train",),
    "validation": ("valid", "validation", "dev", "val"),
    "test": ("test",),
}
"""Name of each split, and the names that files give it, in lower case."""

IEMOCAP_EMOTIONS = ("happy", "sad", "angry", "neutral")
"""The four emotions of the LMF paper, in its order."""

LMF_SPLIT = {"happy": 135, "sad": 193, "angry": 227, "neutral": 383}
"""Clips of each emotion in the test split of the LMF paper, which sum to its 938 clips."""

KNOWN_EMOTIONS = frozenset(
    (
        *IEMOCAP_EMOTIONS,
        *("happiness", "sadness", "anger", "joy", "joyful", "fear", "fearful", "surprise", "surprised", "disgust"),
        *("disgusted", "excited", "excitement", "frustrated", "frustration", "contempt", "calm", "tense", "relaxed"),
        *("bored", "boredom", "anxious", "anxiety", "worried", "worry", "love", "positive", "negative", "sentiment"),
        *("humor", "sarcasm", "sarcastic"),
    )
)
"""A column of numbers under one of these names (in any case) is a label column without being asked for."""

POM_TRAITS = (
    *("confident", "passionate", "voice_pleasant", "dominant", "credible", "vivid", "expertise", "entertaining"),
    *("reserved", "trusting", "relaxed", "outgoing", "thorough", "nervous", "persuasive", "humorous"),
)
"""The 16 speaker traits of POM, in the order of the LMF paper."""

KNOWN_TARGETS: dict[str, tuple[float, float] | None] = {
    "sentiment": (-3.0, 3.0),
    **dict.fromkeys(("valence", "arousal", "dominance")),
    **dict.fromkeys(POM_TRAITS, (1.0, 7.0)),
}
"""Names of label columns that may hold real numbers without being asked for, and the range that MOSI, MOSEI and POM use."""


_OPTIONS = "--data.audio, --data.video and --data.text"


def find_split(name: object) -> str | None:
    """The split that a file calls `name`, in any case; None if it is no name of a split."""
    lower = name.lower() if isinstance(name, str) else None
    return next((split for split, names in SPLITS.items() if lower in names), None)


def rename_modalities(
    names: Sequence[str], where: str, chosen: Mapping[str, str] | None = None, choices: Sequence[str] = ()
) -> dict[str, str]:
    """Modality -> the name under which a file has it; the first known alias wins.

    Args:
        names: what may hold features.
        where: the file, for messages.
        chosen: modality -> the name that the user chose; None where there is no choice.
        choices: further names that may be chosen.

    Raises:
        DataError: there is none, one is misspelt, or a chosen one does not exist.
    """
    found = dict(chosen or {})
    for modality, name in found.items():
        if name not in (*names, *choices):
            shown = _shown(sorted({*names, *choices}))
            hint = suggestion(name, [*names, *choices]) or " Choose among these."
            raise DataError(f"{where} must have {name!r} of data.{modality}, but has {shown}.{hint}")
    names = [name for name in names if name not in found.values()]
    for name in names:
        meant = find_modality(name.lower())
        if meant is not None and meant not in (chosen or {}):
            aliases = MODALITIES[meant].aliases
            known = found.get(meant)
            if known is None or aliases.index(name.lower()) < aliases.index(known.lower()):
                found[meant] = name
    for modality, about in MODALITIES.items():
        others = [name for name in names if find_modality(name.lower()) is None]
        close = [near for alias in about.aliases for near in get_close_matches(alias, others, n=1, cutoff=0.75)]
        if modality not in found and close:
            raise DataError(
                f"{where} must name its features {', '.join(MODALITIES)}, but has {close[0][:40]!r}. Did you mean {modality!r}?"
            )
    if not found:
        shown = ", ".join(sorted(name[:40] for name in names)[:12]) or "nothing"
        hint = "Check the names." if chosen is None else f"Rename them, or choose them with {_OPTIONS}."
        raise DataError(f"{where} must have at least one of {', '.join(MODALITIES)}, but has {shown}. {hint}")
    return {modality: found[modality] for modality in MODALITIES if modality in found}


def guess_modalities(names: Sequence[str], where: str, chosen: Mapping[str, str]) -> dict[str, str]:
    """Modality -> the folder or file whose name tells that modality, or that the user chose.

    Raises:
        DataError: several could be meant, none is, or a chosen one does not exist.
    """
    found: dict[str, str] = {}
    for modality in MODALITIES:
        own = [name for name in names if modality_of_extractor(name) == modality and name not in chosen.values()]
        if modality in chosen:
            own = [chosen[modality]]
            if own[0] not in names:
                hint = suggestion(own[0], names) or " Choose among these."
                raise DataError(f"{where} must have {own[0]!r} of data.{modality}, but has {_shown(names)}.{hint}")
        elif len(own) > 1:
            raise DataError(
                f"{where} must have one set of {modality} features, but has {_shown(own)}. Choose one with --data.{modality}."
            )
        if own:
            found[modality] = own[0]
    if not found:
        raise DataError(
            f"{where} must have features of {', '.join(MODALITIES)}, but has {_shown(names)}. Choose them with {_OPTIONS}."
        )
    return found


def _shown(names: Iterable[str]) -> str:
    return ", ".join(ascii(name)[1:-1][:60] for name in list(names)[:12]) or "nothing"


def emotion_of(name: object) -> str:
    """The emotion that a file calls `name`: known emotions are written in lower case.

    Raises:
        DataError: it cannot name a column, a file and a folder, see `check_name`.
    """
    try:
        name = check_name(name)
    except ConfigError as error:
        raise DataError(str(error)) from None
    return name.lower() if is_known(name) else name


def is_known(name: str) -> bool:
    """Whether a column of this name holds labels without being asked for."""
    return name.lower() in KNOWN_EMOTIONS or name.lower() in KNOWN_TARGETS


def sort_emotions(emotions: Iterable[str]) -> list[str]:
    """The paper's four first and in its order, then the others alphabetically (a Python 2 pickle has no order)."""
    emotions = list(emotions)
    known = [emotion for emotion in IEMOCAP_EMOTIONS if emotion in emotions]
    return known + sorted(emotion for emotion in emotions if emotion not in IEMOCAP_EMOTIONS)


def labels_feature(emotions: Sequence[str]) -> dict[str, datasets.Value]:
    """Column type of labels: a struct with one float32 field per emotion, in their order; NaN = not annotated."""
    from datasets import Value

    return {emotion: Value("float32") for emotion in emotions}


LONGEST_ID = 1000
"""Characters of a clip's id."""

GROUPS = "groups"
"""Column of a data set with the group of each clip, where it is known."""

GROUP_COLUMNS = (GROUPS, "group")
"""A column or key of one of these names holds groups without being asked for."""


def dataset_features(shapes: Mapping[str, Sequence[int]], emotions: Sequence[str]) -> datasets.Features:
    """Column types of a data set: all sizes are fixed, so that a column can be one block of memory.

    Args:
        shapes: modality -> shape of one clip, `(D,)` or `(L, D)`.
        emotions: names of the label columns.
    """
    from datasets import Features, Sequence, Value

    types = {"id": Value("string")}
    for modality in MODALITIES:
        column = Value("float32")
        for size in reversed(shapes[modality]):
            column = Sequence(column, length=int(size))
        types[modality] = column
    return Features({**types, "labels": labels_feature(emotions)})
