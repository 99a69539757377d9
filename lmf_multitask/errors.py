"""Errors of the user: exceptions whose text is one line to be shown as it is.

Message form: ``<what> must <rule>, but got <value>. <what to do next>``; a file's path stands first when a file is to blame.
"""

import difflib
from collections.abc import Sequence

_LONGEST = 1500  # characters of a message


class UserError(ValueError):
    """Base of all errors that the user can correct; commands print its one line and end with status 2.

    What a message quotes from a file can neither control a terminal nor fill it.
    """

    def __init__(self, message: str = "") -> None:
        text = printable(" ".join(message.split()))
        super().__init__(text if len(text) <= _LONGEST else f"{text[: _LONGEST - 400]} ... {text[-390:]}")


class DataError(UserError):
    """A data file or data set does not hold what it must."""


class ConfigError(UserError):
    """A setting, in YAML or on the command line, is unknown or out of range."""


class RunError(UserError):
    """A run directory or a saved model is missing, damaged, or in the way."""


class TrainingError(UserError):
    """Training cannot go on or cannot give a meaningful result."""


class InstallationError(UserError):
    """The installation lacks something, or what is installed does not work."""


def printable(text: str, keep: str = "") -> str:
    r"""The text without characters that a terminal would obey: names in files may hold control characters.

    Args:
        text: any text.
        keep: control characters that stay, for example ``"\\n\\t"``.
    """
    return "".join(one if one.isprintable() or one in keep else ascii(one)[1:-1] for one in text)


def suggestion(name: str, known: Sequence[str], prefix: str = "") -> str:
    """`` Did you mean ...?`` for the known name that is nearest or ends in the same part; empty without one."""
    last = name.lstrip("-").rpartition(".")[2]
    same_end = [one for one in known if one.lstrip("-").rpartition(".")[2] == last]
    best = (same_end or difflib.get_close_matches(name, known, n=1))[:1]
    return f" Did you mean {prefix + best[0]!r}?" if best else ""


def first_line(error: BaseException) -> str:
    """The message of an error, short enough for one line of ours."""
    cause = error.__cause__ or error
    return (str(cause).strip().splitlines() or [type(cause).__name__])[0].rstrip(".")[:200]
