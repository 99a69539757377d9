"""What the user asks a label column to be: binary, real-valued, or binary and derived from a real-valued one.

happy                              as the data say
valence:regression                 a real number; valence:regression:1:5 also states its range,
                                   valence:regression:train takes that of the labels of train
positive:above:sentiment           present where sentiment is above 0; positive:above:sentiment:0.5 above 0.5
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from lmf_multitask.config import check_name
from lmf_multitask.errors import ConfigError

BINARY, REGRESSION, ABOVE, TRAIN = "binary", "regression", "above", "train"


@dataclass(frozen=True)
class Target:
    """One task as the user asks for it.

    Attributes:
        name: of the task.
        kind: kind of the task; None leaves it to the data.
        range: lowest and highest possible value of a real-valued one; None: not stated.
        range_of_train: whether the lowest and highest label of train are the range.
        source: the real-valued column that a derived binary task is made from; None: the column of the same name.
        threshold: a derived task is present above it.
    """

    name: str
    kind: str | None = None
    range: tuple[float, float] | None = None
    range_of_train: bool = False
    source: str | None = None
    threshold: float = 0.0

    @property
    def column(self) -> str:
        """The label column that it is read from."""
        return self.source or self.name

    def __str__(self) -> str:
        """As `parse_target` reads it."""
        if self.source is not None:
            return f"{self.name}:{ABOVE}:{self.source}:{self.threshold:.9g}"
        if self.kind in (None, BINARY):
            return self.name
        bounds = [TRAIN] if self.range_of_train else [f"{bound:.9g}" for bound in self.range or ()]
        return ":".join([self.name, str(self.kind), *bounds])


def parse_target(text: str | Target) -> Target:
    """``NAME``, ``NAME:KIND``, ``NAME:regression:LOW:HIGH`` or ``:train``, ``NAME:above:COLUMN`` with an optional threshold.

    Raises:
        ConfigError: it is none of these.
    """
    if isinstance(text, Target):
        return text
    name, *rest = str(text).split(":") if isinstance(text, str) else [text]
    check_name(name)
    if not rest:
        return Target(name)
    kind, *rest = rest
    try:
        if kind == ABOVE and len(rest) in (1, 2):
            return Target(name, BINARY, source=check_name(rest[0]), threshold=_finite(rest[1]) if rest[1:] else 0.0)
        if kind == REGRESSION and rest == [TRAIN]:
            return Target(name, kind, range_of_train=True)
        if kind == REGRESSION and len(rest) == 2:
            low, high = map(_finite, rest)
            if low < high:
                return Target(name, kind, (low, high))
        elif kind not in ("", ABOVE) and not rest:
            return Target(name, kind)
    except ValueError:
        pass
    raise ConfigError(
        f"a task must be NAME, NAME:{BINARY}, NAME:{REGRESSION}, NAME:{REGRESSION}:LOW:HIGH with LOW below HIGH, "
        f"NAME:{REGRESSION}:{TRAIN}, or NAME:{ABOVE}:COLUMN[:NUMBER], but got {str(text)[:80]!r}. Correct it."
    )


def _finite(text: str) -> float:
    value = float(text)
    if not math.isfinite(value):
        raise ValueError(text)
    return value
