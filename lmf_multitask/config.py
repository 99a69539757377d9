"""Settings: declared once as pydantic dataclasses, read from YAML and dotted options, and checked with one-line errors.

Type, range and help text of a setting stand in its declaration. A setting whose value is one of several kinds, each with
settings of its own (an encoder, a fusion), is declared with `kind_setting`; the table of kinds may grow by plug-ins.
"""

from __future__ import annotations

import dataclasses
import difflib
import re
import types
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, Literal, TypeVar, Union, get_args, get_origin, get_type_hints

import pydantic
import pydantic.dataclasses
from pydantic import ConfigDict, Field, ValidationError
from pydantic.fields import FieldInfo
from typing_extensions import dataclass_transform

from lmf_multitask.errors import ConfigError
from lmf_multitask.strict_yaml import read_yaml

T = TypeVar("T")
Table = Callable[[], Mapping[str, Any]]

_NAME = re.compile(r"[^\W_][\w-]{0,63}")
_CONFIG = ConfigDict(extra="forbid", strict=True, allow_inf_nan=False)


def setting(default: Any, help: str, **rules: Any) -> Any:
    """A field of a settings class.

    Args:
        default: its value where nothing is given; a callable makes one (for lists and nested settings).
        help: what it means, with its unit; shown by ``--help``.
        rules: pydantic's: ``ge``, ``gt``, ``le``, ``lt``, ``min_length``, ...
    """
    given: dict[str, Any] = {"default_factory": default} if callable(default) else {"default": default}
    return Field(**given, description=help, **rules)


def kind_setting(table: Table, default: Mapping[str, Any], help: str) -> Any:
    """A field that holds the settings of one of several kinds: ``{kind: NAME, ...settings of that kind}``.

    Args:
        table: gives name -> class; a class has its settings class as ``Settings``.
        default: kind and settings where nothing is given.
        help: what the kinds are.
    """
    extra: Any = {"table": table, "default": dict(default)}
    return Field(default_factory=lambda: build_kind(table(), default), description=help, json_schema_extra=extra)


@dataclass_transform(kw_only_default=True, field_specifiers=(setting, kind_setting))
def settings(cls: type[T]) -> type[T]:
    """Makes a settings class: a strict pydantic dataclass whose errors are `ConfigError`s of one line."""
    made: Any = pydantic.dataclasses.dataclass(cls, kw_only=True, config=_CONFIG)
    checked = made.__init__

    def __init__(self: Any, **values: Any) -> None:
        fields = _fields(made)
        for name, value in values.items():
            if name in fields and isinstance(value, Mapping):
                values[name] = _built(fields[name], _hints(made).get(name), value, name)
        try:
            checked(self, **values)
        except ValidationError as error:
            raise ConfigError(_in_one_line(error, made, values)) from None

    made.__init__ = __init__
    return made


def build(cls: type[T], values: Mapping[str, Any], where: str = "") -> T:
    """Settings from a mapping, nested ones included.

    Args:
        cls: the settings class.
        values: name -> value.
        where: dotted name of these settings, for messages.

    Raises:
        ConfigError: a name is unknown, or a value is not allowed.
    """
    if not isinstance(values, Mapping):
        raise ConfigError(f"{where or 'the settings'} must be settings by name, but got {values!r}. See --help.")
    try:
        return cls(**{str(name): value for name, value in values.items()})
    except ConfigError as error:
        raise ConfigError("; ".join(_dotted(where, part) for part in str(error).split("; "))) from None


def build_kind(table: Mapping[str, Any], values: Mapping[str, Any], where: str = "") -> Any:
    """Settings of the kind that ``values["kind"]`` names.

    Raises:
        ConfigError: there is no such kind, or it has no such setting.
    """
    kind = values.get("kind", "")
    if kind not in table:
        close = difflib.get_close_matches(str(kind), table, n=1)
        hint = f"Did you mean {close[0]!r}?" if close else "If a plug-in defines it, add --plugin FILE.py."
        raise ConfigError(
            f"{where + '.' if where else ''}kind must be one of {', '.join(table)}, but got {kind!r}. {hint}"
        )
    return build(table[kind].Settings, {name: value for name, value in values.items() if name != "kind"}, where)


def kind_of(table: Mapping[str, Any], value: Any) -> str:
    """The name of the kind that these settings are of."""
    return next(name for name, cls in table.items() if cls.Settings is type(value))


def to_dict(value: Any) -> Any:
    """Settings as plain dicts, lists and numbers; `build` takes them back."""
    if not dataclasses.is_dataclass(value) or isinstance(value, type):
        return dict(value) if isinstance(value, Mapping) else list(value) if isinstance(value, (list, tuple)) else value
    found = {}
    for name, field in _fields(type(value)).items():
        part = getattr(value, name)
        table = _table(field)
        found[name] = {"kind": kind_of(table, part), **to_dict(part)} if table else to_dict(part)
    return found


def merged(base: Mapping[str, Any], changes: Mapping[str, Any]) -> dict[str, Any]:
    """`base` with `changes` laid over it; where a kind changes, the settings of the former kind do not stay."""
    found = dict(base)
    for name, value in changes.items():
        old = found.get(name)
        if isinstance(value, Mapping) and isinstance(old, Mapping):
            other_kind = "kind" in value and value["kind"] != old.get("kind")
            found[name] = dict(value) if other_kind else merged(old, value)
        else:
            found[name] = value
    return found


def replaced(config: T, changes: Mapping[str, Any]) -> T:
    """The same settings with some replaced, given by their dotted names (``model.fusion.rank``) or nested.

    Raises:
        ConfigError: a name is unknown, or a value is not allowed.
    """
    return build(type(config), merged(to_dict(config), nested(changes)))


def nested(values: Mapping[str, Any]) -> dict[str, Any]:
    """Dotted names -> nested mappings; a ``kind`` comes before the other settings beside it."""
    found: dict[str, Any] = {}
    for name, value in sorted(values.items(), key=lambda item: not str(item[0]).endswith(".kind")):
        *path, last = str(name).split(".")
        place = found
        for part in path:
            place = place.setdefault(part, {})
            if not isinstance(place, dict):
                raise ConfigError(f"{name} must be a setting, but {part} has no settings. See --help.")
        place[last] = value
    return found


@dataclasses.dataclass(frozen=True)
class Option:
    """One setting as the command line shows it.

    Attributes:
        name: dotted.
        type: of its value, a type hint.
        default: None where the class makes it.
        help: one sentence.
    """

    name: str
    type: Any
    default: Any
    help: str


def options(cls: type, prefix: str = "") -> Iterator[Option]:
    """Every setting below a settings class; of a setting with kinds, the settings of all kinds."""
    hints = _hints(cls)
    for name, field in _fields(cls).items():
        dotted, default = f"{prefix}{name}", field.get_default(call_default_factory=True)
        table = _table(field)
        if table:
            kind = kind_of(table, default)
            yield Option(f"{dotted}.kind", Literal[tuple(table)], kind, field.description or "")  # type: ignore[valid-type]
            yield from _kind_options(table, kind, default, dotted)
        elif is_settings(hints[name]):
            yield from options(hints[name], f"{dotted}.")
        else:
            yield Option(dotted, hints[name], default, field.description or "")


def _kind_options(table: Mapping[str, Any], kind: str, default: Any, dotted: str) -> Iterator[Option]:
    found: dict[str, Option] = {}
    for name, cls in table.items():
        for option in options(cls.Settings):
            value = getattr(default, option.name) if name == kind else option.default
            both = found.get(option.name)
            help = f"{both.help}; {name}: {option.help}" if both else f"{name}: {option.help}"
            found[option.name] = Option(
                f"{dotted}.{option.name}", both.type if both else option.type, both.default if both else value, help
            )
    yield from found.values()


def is_settings(hint: Any) -> bool:
    """Whether a type is a settings class."""
    return isinstance(hint, type) and dataclasses.is_dataclass(hint) and hasattr(hint, "__pydantic_fields__")


def type_parts(hint: Any) -> tuple[Any, ...]:
    """The members of a union, or the type alone."""
    return get_args(hint) if get_origin(hint) in (Union, types.UnionType) else (hint,)


def check_name(name: object) -> str:
    """Returns the name of a task when it can safely name a column, a file and a folder.

    Raises:
        ConfigError: it holds anything but letters, digits, ``_`` and ``-``, or is longer than 64 characters.
    """
    if not isinstance(name, str) or not _NAME.fullmatch(name):
        shown = repr(name)[:80] if isinstance(name, str) else type(name).__name__
        raise ConfigError(
            f"the name of a task must consist of at most 64 letters, digits, '_' and '-', but got {shown}. Rename it."
        )
    return name


def read_settings(path: Path) -> dict[str, Any]:
    """The mapping that a YAML file of settings holds.

    Raises:
        ConfigError: it is no such file.
    """
    import yaml

    try:
        content = read_yaml(path)
    except yaml.YAMLError as error:
        raise ConfigError(f"{path}: must be YAML, but {' '.join(str(error).split()).rstrip('.')[:200]}.") from None
    if not isinstance(content, dict):
        raise ConfigError(f"{path}: must hold settings by name, but holds {str(content)[:40]!r}. See a shipped config.")
    return content


# -- inside


def _fields(cls: Any) -> dict[str, FieldInfo]:
    return cls.__pydantic_fields__


def _hints(cls: Any) -> dict[str, Any]:
    return get_type_hints(cls)


def _table(field: FieldInfo) -> Mapping[str, Any] | None:
    extra: Any = field.json_schema_extra
    return extra["table"]() if isinstance(extra, dict) and "table" in extra else None


def _built(field: FieldInfo, hint: Any, value: Mapping[str, Any], name: str) -> Any:
    """A mapping given for nested settings, or for one of several kinds, as an object of its class."""
    table = _table(field)
    if table:
        extra: Any = field.json_schema_extra
        return build_kind(table, merged({"": extra["default"]}, {"": value})[""], name)
    if is_settings(hint):
        default = field.get_default(call_default_factory=True)
        return build(hint, merged(to_dict(default), value), name)
    return value


def _dotted(where: str, message: str) -> str:
    return f"{where}.{message}" if where else message


def _in_one_line(error: ValidationError, cls: Any, values: Mapping[str, Any]) -> str:
    """Pydantic's errors as ``name must ..., but got value``, joined by semicolons."""
    told: dict[str, str] = {}
    for one in error.errors(include_url=False):
        name = str(one["loc"][0]) if one["loc"] else ""
        if name in told:
            continue
        if one["type"] == "unexpected_keyword_argument":
            known = list(_fields(cls))
            close = difflib.get_close_matches(name, known, n=1)
            hint = f"Did you mean {close[0]!r}?" if close else f"Choose one of {', '.join(known)}."
            told[name] = f"{name} must be a known setting, but is none. {hint}"
        elif one["type"] == "value_error":  # raised by a check of ours: a whole sentence
            told[name] = str(one["ctx"]["error"]).rstrip(".")
        else:
            rules = [e["msg"] for e in error.errors(include_url=False) if e["loc"][:1] == one["loc"][:1]]
            rule = " or ".join(dict.fromkeys(_rule(text) for text in rules))
            if type(None) in type_parts(_hints(cls).get(name)):
                rule += " or null"
            told[name] = f"{name} must be {rule}, but got {values.get(name)!r}"
    return "; ".join(told.values()).removesuffix(".") + ("" if list(told.values())[-1].endswith("?") else ".")


_WORDS = {
    "valid integer": "whole number",
    "valid number": "number",
    "valid boolean": "true or false",
    "valid string": "text",
}


def _rule(message: str) -> str:
    rule = message.removeprefix("Input should be ").removeprefix("a ")
    if rule in _WORDS:
        return _WORDS[rule] if " or " in _WORDS[rule] or rule == "valid string" else f"a {_WORDS[rule]}"
    return rule[0].lower() + rule[1:]


# -- data


@settings
class DataConfig:
    """How the data file is read."""

    label_column: Literal[0, 1] | None = setting(
        default=None, help="which column of one-hot labels means present; null decides by evidence"
    )
    non_finite: Literal["zero", "error"] = setting(
        default="zero", help="NaN and infinities in features: set to zero, or an error"
    )
    max_length: int | None = setting(
        default=None, help="longest sequence, in steps; the rest of longer ones is cut", ge=1, le=65536
    )
    cache_dir: str | None = setting(
        default=None, help="folder of the Arrow cache; null takes that of datasets", min_length=1
    )
