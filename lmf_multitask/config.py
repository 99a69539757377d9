"""Settings: declared once as pydantic dataclasses, read from YAML and dotted options, and checked with one-line errors.

Type, range and help text of a setting stand in its declaration. A setting whose value is one of several kinds, each with
settings of its own (an encoder, a fusion), is declared with `kind_setting`; the table of kinds may grow by plug-ins.
"""

from __future__ import annotations

import dataclasses
import functools
import operator
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

from lmf_multitask.errors import ConfigError, suggestion

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
        help: what the kinds are for; each kind is described by the first line of its class.
    """
    extra: Any = {"table": table, "default": dict(default)}
    return Field(default_factory=lambda: build_kind(table(), default), description=help, json_schema_extra=extra)


class SettingsError(ConfigError):
    """Settings that are unknown or not allowed.

    Attributes:
        problems: a sentence for each; the text is all of them in one line.
    """

    def __init__(self, problems: list[str]) -> None:
        """Joins the sentences."""
        super().__init__(" ".join(problems))
        self.problems = problems


@dataclass_transform(kw_only_default=True, field_specifiers=(setting, kind_setting))
def settings(cls: type[T]) -> type[T]:
    """Makes a settings class: a strict pydantic dataclass whose errors are `ConfigError`s of one line.

    Nested settings may be given as mappings. A check of the class's own (a pydantic validator) raises a `ValueError` whose
    text goes on after the name of the setting: ``must be ..., but got ...``; a check of several settings names them itself.
    """
    made: Any = pydantic.dataclasses.dataclass(cls, kw_only=True, config=_CONFIG)
    made.__lmf_check__ = made.__init__

    @functools.wraps(made.__init__)
    def __init__(self: Any, /, **values: Any) -> None:
        _fill(self, values, "")

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
        raise SettingsError(
            [f"{where or 'the settings'} must be settings by name, but got {_short(values)}. See --help."]
        )
    made = cls.__new__(cls)
    _fill(made, values, where)
    return made


def build_kind(table: Mapping[str, Any], values: Mapping[str, Any], where: str = "") -> Any:
    """Settings of the kind that ``values["kind"]`` names.

    Raises:
        ConfigError: there is no such kind, or it has no such setting.
    """
    kind = values.get("kind")
    if not isinstance(kind, str) or kind not in table:
        hint = f"{suggestion(str(kind), list(table))} If a plug-in defines it, add --plugin FILE.py."
        name = f"{where}.kind" if where else "kind"
        raise SettingsError([f"{name} must be one of {', '.join(table)}, but got {_short(kind)}.{hint}"])
    made = object.__new__(table[kind].Settings)
    _fill(made, {name: value for name, value in values.items() if name != "kind"}, where, of=f" of the kind {kind}")
    return made


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
    """Dotted names -> nested mappings."""
    found: dict[str, Any] = {}
    # a kind first, since it drops the settings of another kind that are beside it
    for name, value in sorted(values.items(), key=lambda item: not str(item[0]).endswith(".kind")):
        for part in reversed(str(name).split(".")):
            value = {part: value}
        found = merged(found, value)
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
            kinds = [f"{one}: {_first_line(cls)}" for one, cls in table.items()]
            help = f"{field.description}. {'; '.join(kinds)}"
            yield Option(f"{dotted}.kind", Literal[tuple(table)], kind, help)
            yield from _kind_options(table, kind, default, dotted)
        elif is_settings(hints[name]):
            yield from options(hints[name], f"{dotted}.")
        else:
            yield Option(dotted, hints[name], default, field.description or "")


def _kind_options(table: Mapping[str, Any], kind: str, default: Any, dotted: str) -> Iterator[Option]:
    """One option for all settings of one name; its default is that of the default kind, where it has such a setting."""
    found: dict[str, dict[str, Option]] = {}  # name of a setting -> kind -> option
    for one in (kind, *(other for other in table if other != kind)):
        for option in options(table[one].Settings):
            found.setdefault(option.name, {})[one] = option
    for name, of_kinds in found.items():
        helps: dict[str, list[str]] = {}
        for one, option in of_kinds.items():
            helps.setdefault(option.help, []).append(one)
        help = "; ".join(f"{', '.join(kinds)}: {text}" for text, kinds in helps.items())
        hint = functools.reduce(operator.or_, (option.type for option in of_kinds.values()))
        value = operator.attrgetter(name)(default) if kind in of_kinds else next(iter(of_kinds.values())).default
        yield Option(f"{dotted}.{name}", hint, value, help)


def _first_line(cls: type) -> str:
    return (cls.__doc__ or "").strip().partition("\n")[0].rstrip(".")


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


def find_config(name: str) -> Path:
    """A config by path, or a shipped one by name: ``multitask``, ``multitask.yaml`` or ``configs/multitask.yaml``.

    Raises:
        ConfigError: there is neither.
    """
    path = Path(name).expanduser()
    if path.is_file():
        return path
    # shipped configs are inside an installed package, beside the package in a source checkout
    package = Path(__file__).parent
    shipped = next(folder for folder in (package / "configs", package.parent / "configs") if folder.is_dir())
    wanted = Path(*path.parts[1:]) if path.parts[:1] == ("configs",) else path
    for candidate in (shipped / wanted, shipped / f"{wanted}.yaml"):
        if not path.is_absolute() and ".." not in path.parts and candidate.is_file():
            return candidate
    names = sorted(str(file.relative_to(shipped).with_suffix("")) for file in shipped.rglob("*.yaml"))
    raise ConfigError(f"--config must be a YAML file, but {name} is none. Shipped configs are {', '.join(names)}.")


# -- inside


def _fields(cls: Any) -> dict[str, FieldInfo]:
    return cls.__pydantic_fields__


@functools.cache
def _hints(cls: Any) -> dict[str, Any]:
    return get_type_hints(cls)


def _table(field: FieldInfo) -> Mapping[str, Any] | None:
    extra: Any = field.json_schema_extra
    if not isinstance(extra, dict) or "table" not in extra:
        return None
    table: Mapping[str, Any] = extra["table"]()
    names: dict[Any, str] = {}
    for name, cls in table.items():
        if cls.Settings in names:  # a subclass of another kind; `kind_of` could not tell them apart
            raise ConfigError(
                f"the kinds {names[cls.Settings]} and {name} must have different Settings, but got the same. "
                f"Derive a settings class for {name}."
            )
        names[cls.Settings] = name
    return table


def _fill(made: Any, values: Mapping[str, Any], where: str, of: str = "") -> None:
    """Checks values and makes them those of a new settings object.

    Args:
        made: the object.
        values: name -> value.
        where: dotted name of the object, for messages.
        of: what kind it is of, for messages.
    """
    cls: Any = type(made)
    fields, hints, prefix = _fields(cls), _hints(cls), f"{where}." if where else ""
    problems, given = [], {}
    for name, value in values.items():
        name = str(name)
        path = f"{prefix}{name}"
        if name not in fields:
            below = [*fields, *(option.name for option in options(cls))]
            hint = suggestion(name, below, prefix) or f" Choose one of {', '.join(fields) or 'none'}."
            problems.append(f"unknown setting {_short(path)}{of}.{hint}")
            continue
        try:
            given[name] = _built(fields[name], hints[name], value, path)
        except SettingsError as error:
            problems += error.problems
    try:
        cls.__lmf_check__(made, **given)
    except ValidationError as error:
        problems += _sentences(error, hints, where)
    if problems:
        raise SettingsError(problems)


def _built(field: FieldInfo, hint: Any, value: Any, path: str) -> Any:
    """A mapping given for nested settings, or for one of several kinds, as an object of its class."""
    table = _table(field)
    if table is not None:
        if isinstance(value, Mapping):
            extra: Any = field.json_schema_extra
            return build_kind(table, merged({"": extra["default"]}, {"": value})[""], path)
        if not any(type(value) is cls.Settings for cls in table.values()):
            raise SettingsError([f"{path} must be {{kind: NAME, ...}}, but got {_short(value)}. See --help."])
    elif is_settings(hint) and not isinstance(value, hint):
        return build(hint, value, path)
    return value


_RULES = {
    "int_type": "a whole number",
    "int_from_float": "a whole number",
    "float_type": "a number",
    "bool_type": "true or false",
    "string_type": "text",
    "list_type": "a list",
    "dict_type": "a value for each name",
    "too_short": "a list of at least {min_length}",
    "string_too_short": "text of at least {min_length} letters",
}
"""Type of an error of pydantic's -> what a value must be; other errors say it themselves: Input should be ..."""


def _sentences(error: ValidationError, hints: Mapping[str, Any], where: str) -> list[str]:
    """Pydantic's errors, one sentence per setting."""
    found: dict[str, list[str]] = {}
    values: dict[str, Any] = {}
    for one in error.errors(include_url=False):
        place, parts = one["loc"], []
        if place:
            parts = [part for part in type_parts(hints[str(place[0])]) if part is not type(None)]
            place = place[:1] if len(parts) > 1 else place  # of a union, the rest names the member
        path = where + "".join(f"[{step}]" if isinstance(step, int) else f".{step}" for step in place)
        path = path.removeprefix(".")
        if one["type"] == "value_error":  # a check of ours
            found[path] = [str(one["ctx"]["error"])]
            continue
        rule = _RULES.get(one["type"], one["msg"].removeprefix("Input should be ")).format(**one.get("ctx", {}))
        found.setdefault(path, []).append(rule)
        values[path] = one["input"]
        if place and type(None) in type_parts(hints[str(place[0])]) and len(place) == 1:
            found[path].append("null")
    return [
        f"{path} must be {' or '.join(dict.fromkeys(rules))}, but got {_short(values[path])}."
        if path in values
        else f"{path} {rules[0]}".lstrip()  # a check of several settings together names them itself
        for path, rules in found.items()
    ]


def _short(value: Any) -> str:
    """A value in a message."""
    text = repr(value)
    return text if len(text) <= 100 else f"{text[:97]}..."
