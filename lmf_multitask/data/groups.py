"""Groups of clips (speakers, sessions, dialogues, videos) that must not be torn apart between splits."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from lmf_multitask.data.sources import Source
from lmf_multitask.errors import DataError

LEVELS = ("session", "speaker", "dialogue")
"""Groups that an id of IEMOCAP names: Ses01F_impro01_M000 is of session Ses01, speaker Ses01M, dialogue Ses01F_impro01."""

_IEMOCAP_ID = re.compile(
    r"(?P<dialogue>(?P<session>Ses\d\d)[FM]_[a-z]+\d+(?:_\d+)?[a-z]?)_(?P<gender>[FM])[A-Z]{0,2}\d+"
)


@dataclass(frozen=True)
class Groups:
    """The groups of a data set.

    Attributes:
        of: split -> group of each clip, in their order.
        origin: where they were found.
    """

    of: Mapping[str, Sequence[str]]
    origin: str

    @property
    def note(self) -> str:
        """How many there are, and where they were found."""
        return f"groups: {len(set().union(*self.of.values())):,}, {self.origin}"


def overlap_notes(groups: Mapping[str, Sequence[str]]) -> list[str]:
    """Groups that are in several splits.

    Args:
        groups: split -> group of each clip.
    """
    found = []
    for number, (split, names) in enumerate(groups.items()):
        for other in list(groups)[number + 1 :]:
            both = sorted(set(names) & set(groups[other]))
            if both:
                found.append(
                    f"{len(both)} group(s) of {split} are also in {other}: results on {other} are too optimistic "
                    f"({shown_names(both)})"
                )
    return found


def shown_names(names: Sequence[str]) -> str:
    """At most six names for a message."""
    return ", ".join(ascii(name)[1:-1][:40] for name in names[:6]) + (", ..." if len(names) > 6 else "")


def find_groups(source: Source, ids: Mapping[str, Sequence[str]]) -> Groups | None:
    """The groups of a source that has been read.

    Args:
        source: the data.
        ids: split -> ids of its clips.

    Returns:
        The groups in ``data.group_column``; without that setting in a column of `GROUP_COLUMNS`, those that the layout states,
        or the sessions in ids of IEMOCAP. None if there are none.

    Raises:
        DataError: ``data.group_column`` names nothing, or a clip has no group.
    """
    wanted = source.reading.config.group_column
    for name in source.group_columns:
        columns = {split: source.column_texts(split, name) for split in source.splits}
        named = {split: values for split, values in columns.items() if values is not None}
        if len(named) == len(columns):
            for split, values in named.items():
                if "" in values:
                    raise DataError(
                        f"{name} must name a group in every row, but is empty in row {values.index('')} of {split}. Fill it."
                    )
            return Groups(named, f"column {name!r}")
    if wanted is None:
        stated = {split: source.groups(split) for split in source.splits}
        found = {split: names for split, names in stated.items() if names is not None}
        if len(found) == len(stated):
            return Groups(found, "stated by the file")
    if wanted is None or wanted in LEVELS:
        level = wanted or LEVELS[0]
        read = {split: [_of_id(one, level) for one in names] for split, names in ids.items()}
        clear = {split: [name for name in names if name is not None] for split, names in read.items()}
        if clear == read:
            return Groups(clear, f"{level} in the ids, which have IEMOCAP's form")
    if wanted is None:
        return None
    hint = f"Ids of IEMOCAP also give {', '.join(LEVELS)}." if wanted in LEVELS else "Check its name."
    raise DataError(f"data.group_column must name a column or key of every split, but {wanted!r} is none. {hint}")


def _of_id(text: str, level: str) -> str | None:
    match = _IEMOCAP_ID.fullmatch(text)
    if match is None:
        return None
    return match["session"] + match["gender"] if level == "speaker" else match[level]
