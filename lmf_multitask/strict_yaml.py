"""YAML from files that may be damaged or hostile: small, shallow, without aliases, plain types only."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import yaml

_LARGEST = 100_000  # bytes; a config of every setting has 1,500
_DEEPEST = 20


def read_yaml(path: Path, loader: type[yaml.SafeLoader] = yaml.SafeLoader) -> Any:
    """Reads a file of settings.

    An alias can stand for a part that holds aliases itself: a few lines would unfold to billions of values as soon as
    they are shown or copied. And Python's reader calls itself for every level.

    Args:
        path: the file.
        loader: makes the values; a `yaml.SafeLoader`, so that tags name no Python objects.

    Raises:
        yaml.YAMLError: it is no such YAML; the text says why, as the end of "must be YAML, but ...".
        OSError: it cannot be read.
    """
    size = path.stat().st_size
    if size > _LARGEST:
        raise yaml.YAMLError(f"it has {size:,} bytes, more than any config needs")
    try:
        text = path.read_text(encoding="utf-8")
        depth = 0
        for event in yaml.parse(text, loader):
            if isinstance(event, yaml.AliasEvent):
                raise yaml.YAMLError(f"it has the alias *{event.anchor}; write the value out")
            depth += isinstance(event, yaml.CollectionStartEvent) - isinstance(event, yaml.CollectionEndEvent)
            if depth > _DEEPEST:
                raise yaml.YAMLError(f"it is nested more than {_DEEPEST} levels deep")
        return yaml.load(text, loader)
    except ValueError as error:  # a number of 5,000 digits, the 99th of May, bytes that are no text
        raise yaml.YAMLError(" ".join(str(error).split())) from None
