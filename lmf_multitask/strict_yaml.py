"""YAML from files that may be damaged or hostile: small, shallow, without aliases, plain types only."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import yaml

from lmf_multitask.errors import ConfigError
from lmf_multitask.files import read_text

_LARGEST = 100_000  # bytes; a config of every setting has 2,000
_DEEPEST = 20


class _Loader(yaml.SafeLoader):
    """Plain values; 1e-3 is a number (YAML 1.1 wants 1.0e-3); a name that is given twice is an error."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        """The mapping, if its keys differ."""
        keys = [key.value for key, _ in node.value]
        twice = next((key for number, key in enumerate(keys) if key in keys[:number]), None)
        if twice is not None:
            raise yaml.YAMLError(f"{twice!r} is given twice")
        return super().construct_mapping(node, deep)


_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:float", re.compile(r"[-+]?[0-9]+(\.[0-9]*)?[eE][-+]?[0-9]+"), list("-+0123456789")
)


def read_settings(path: Path) -> dict[str, Any]:
    """The mapping that a YAML file of settings holds.

    An alias can stand for a part that holds aliases itself: a few lines would unfold to billions of values as soon as
    they are shown or copied. And Python's reader calls itself for every level.

    Raises:
        ConfigError: it is no such file, or is larger than any config.
    """
    text = read_text(path, _LARGEST, ConfigError)
    try:
        content = _parsed(text)
    except (yaml.YAMLError, ValueError) as error:  # a number of 5,000 digits, the 99th of May
        raise ConfigError(f"{path}: must be YAML, but {' '.join(str(error).split()).rstrip('.')[:200]}.") from None
    if not isinstance(content, dict):
        raise ConfigError(f"{path}: must hold settings by name, but holds {repr(content)[:100]}. See a shipped config.")
    return content


def parse_value(text: str) -> Any:
    """The value that the text of an option stands for.

    Raises:
        ConfigError: it is no YAML.
    """
    try:
        return _parsed(text)
    except (yaml.YAMLError, ValueError):
        raise ConfigError(f"the value of an option must be YAML, but got {text!r}. Quote it.") from None


def _parsed(text: str) -> Any:
    depth = 0
    for event in yaml.parse(text, _Loader):
        if isinstance(event, yaml.AliasEvent):
            raise yaml.YAMLError(f"it has the alias *{event.anchor}; write the value out")
        depth += isinstance(event, yaml.CollectionStartEvent) - isinstance(event, yaml.CollectionEndEvent)
        if depth > _DEEPEST:
            raise yaml.YAMLError(f"it is nested more than {_DEEPEST} levels deep")
    return yaml.load(text, _Loader)
