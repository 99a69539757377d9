"""What every command has in common: strict options with suggestions, one-line errors, exit status 2, no traceback."""

from __future__ import annotations

import difflib
import json
import os
import re
import signal
import sys
from collections.abc import Callable, Sequence
from typing import Any, NoReturn

import jsonargparse
import yaml

from lmf_multitask.config import ExperimentConfig, find_config
from lmf_multitask.errors import ConfigError, UserError
from lmf_multitask.strict_yaml import read_yaml

LIST_OPTIONS = ("--model.modalities",)


class CommandParser(jsonargparse.ArgumentParser):
    """A jsonargparse parser whose errors are one line and name the nearest right spelling."""

    def __init__(self, **settings: Any) -> None:
        """Takes argparse's settings; option names must be written out."""
        super().__init__(allow_abbrev=False, **settings)

    def parse_args(self, args: Sequence[str] | None = None, **settings: Any) -> Any:
        """As argparse; settings that are lists take their values side by side, too: ``--model.modalities audio text``."""
        given = list(sys.argv[1:] if args is None else args)
        for option in LIST_OPTIONS:
            given = _joined_values(given, option)
        return super().parse_args(given, **settings)

    def error(self, message: str, ex: Exception | None = None) -> NoReturn:
        """Ends the process with status 2 and one line on stderr."""
        if "--debug" in sys.argv and ex is not None:
            raise ex
        sys.stderr.write(f"error: {_printable(self._one_line(message))}\n")
        sys.exit(2)

    def _known_options(self) -> list[str]:
        return [option for action in self._actions for option in action.option_strings if option.startswith("--")]

    def _one_line(self, message: str) -> str:
        unknown = re.search(r"unrecognized arguments: (\S+)", message, re.IGNORECASE)
        if unknown:
            return self._suggest(f"unknown option {unknown[1]!r}", unknown[1].split("=")[0])
        required = re.search(r"the following arguments are required: (.*)", message)
        if required:
            names = [
                f"--{name}" if f"--{name}" in self._known_options() else name.rpartition(".")[2].upper()
                for name in required[1].split(", ")
            ]
            return f"{' and '.join(names)} must be given. See --help."
        group = re.search(r"Group '(.+?)' does not accept option '(.+?)'", message)
        if group:
            return self._suggest(f"unknown setting '{group[1]}.{group[2]}'", f"--{group[1]}.{group[2]}")
        option = re.search(r"Option '(.+?)' is not accepted", message)
        if option:
            return self._suggest(f"unknown setting {option[1]!r}", f"--{option[1].split('.')[0]}")
        key = re.search(r'Parser key "(.+?)":\s*(.*)', message, re.DOTALL)
        if key:
            detail = key[2]
            alone = re.match(r"Unable to load config (\S+)", detail)
            if alone:
                return f"{key[1]} must hold settings by name, but got {alone[1]}. See --help."
            value = re.search(r"(?:Given value|Got value): (.*)", detail)
            types = re.search(r"Subtypes: \[(.*)\]", detail) or re.search(r"Expected an? (.*?)\. Got", detail)
            if value and types:
                wanted = _in_words(types[1])
                return f"{key[1]} must be {wanted}, but got {value[1]}."
            return f"{key[1]}: {' '.join(detail.split())}"
        return " ".join(message.split())

    def _suggest(self, text: str, option: str) -> str:
        known = self._known_options()
        close = difflib.get_close_matches(option, known, n=1, cutoff=0.6)
        by_end = [name for name in known if name.rpartition(".")[2] == option.removeprefix("--").rpartition(".")[2]]
        if by_end or close:
            best = (by_end or close)[0]
            return f"{text}. Did you mean {(best if text.startswith('unknown option') else best.removeprefix('--'))!r}?"
        return f"{text}. See --help."


def _in_words(types: str) -> str:
    """Types as jsonargparse writes them, for people who do not know Python."""
    types = re.sub(r"<class '(\w+)'>|typing\.", lambda match: match[1] or "", types)
    types = re.sub(r"Literal\[(.*?)\]", r"one of \1", types)
    words = {"int": "a whole number", "float": "a number", "bool": "true or false", "NoneType": "null", "str": "text"}
    types = re.sub(r"\b(int|float|bool|NoneType|str)\b", lambda match: words[match[1]], types)
    return re.sub(r", null$", " or null", types)


def _joined_values(arguments: list[str], option: str) -> list[str]:
    """``--option a b`` -> ``--option=["a", "b"]``, which is how jsonargparse takes a list inside a group."""
    found: list[str] = []
    values: list[str] | None = None
    for argument in [*arguments, "--"]:
        if values is not None and not argument.startswith("--"):
            values.append(argument)
            continue
        if values is not None:
            one_list = len(values) == 1 and values[0].startswith("[")
            found.append(f"{option}={values[0] if one_list else json.dumps(values)}")
            values = None
        if argument == option:
            values = []
        else:
            found.append(argument)
    return found[:-1]


def add_experiment_options(parser: CommandParser) -> None:
    """Adds ``--config`` and every setting of an experiment as a dotted option."""
    parser.add_argument("--config", action="config", help="YAML file with the settings of an experiment")
    parser.add_class_arguments(ExperimentConfig, skip={"emotions"})
    parser.add_argument(
        "--emotions",
        nargs="+",
        type=str,
        metavar="NAME",
        help="names of the emotions to learn (default: all in the data)",
    )


def with_found_configs(arguments: Sequence[str]) -> list[str]:
    """The arguments with the name of a shipped config replaced by its path.

    Raises:
        ConfigError: a config is named that does not exist, or is no YAML of settings.
    """
    found = list(arguments)
    for number, argument in enumerate(found):
        if argument == "--config" and number + 1 < len(found):
            found[number + 1] = _checked_config(found[number + 1])
        elif argument.startswith("--config="):
            found[number] = f"--config={_checked_config(argument.partition('=')[2])}"
    return found


class _StrictLoader(yaml.SafeLoader):
    """YAML in which a name that is given twice is an error, not a silent choice of the last."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict:
        """The mapping, if its keys differ."""
        keys = [key.value for key, _ in node.value]
        twice = next((key for number, key in enumerate(keys) if key in keys[:number]), None)
        if twice is not None:
            raise yaml.YAMLError(f"{twice!r} is given twice")
        return super().construct_mapping(node, deep)


def _checked_config(name: str) -> str:
    path = find_config(name)
    try:
        content = read_yaml(path, _StrictLoader)
    except yaml.YAMLError as error:
        raise ConfigError(f"{path}: must be YAML, but {' '.join(str(error).split()).rstrip('.')[:200]}.") from None
    if not isinstance(content, dict):
        raise ConfigError(f"{path}: must hold settings by name, but holds {str(content)[:40]!r}. See a shipped config.")
    if not isinstance(content.get("emotions"), (list, type(None))):
        raise ConfigError(f"{path}: emotions must be a list of names, but got {content['emotions']!r}. Write [a, b].")
    return str(path)


def experiment_from(parser: CommandParser, options: Any) -> ExperimentConfig:
    """The checked settings from parsed options.

    Raises:
        ConfigError: a setting is out of range.
    """
    for name in ("data", "model", "training"):
        if not isinstance(options[name], jsonargparse.Namespace):
            raise ConfigError(f"{name} must hold settings by name, but got {options[name]!r}. See --help.")
    built = parser.instantiate(options)
    return ExperimentConfig(**{name: getattr(built, name) for name in ExperimentConfig.__dataclass_fields__})


def run(main: Callable[[Sequence[str]], None], arguments: Sequence[str] | None = None) -> int:
    """Runs a command's body: status 0, or 2 with one line on stderr when the user can mend it (130 after Ctrl-C)."""
    from lmf_multitask.runtime import prepare_process

    arguments = list(sys.argv[1:] if arguments is None else arguments)
    debug = "--debug" in arguments
    arguments = [argument for argument in arguments if argument != "--debug"]
    prepare_process(debug)
    signal.signal(signal.SIGTERM, _end)  # as an exception, so that what is open is closed
    try:
        if "" in arguments:  # it would stand for the current folder, or for the built-in sample
            raise ConfigError(
                "every argument must say something, but one is empty. Is a variable in the command not set?"
            )
        main(arguments)
        sys.stdout.flush()
    except BrokenPipeError:  # the reader of a pipe has seen enough; nothing is left to be flushed at exit
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    except (UserError, OSError) as error:
        if debug:
            raise
        sys.stderr.write(f"error: {describe_error(error)}\n")
        return 2
    except ModuleNotFoundError as error:
        if debug or error.name != "paddle":
            raise
        from lmf_multitask.installation import MISSING_PADDLE

        sys.stderr.write(f"error: {MISSING_PADDLE}\n")
        return 2
    except (MemoryError, RecursionError) as error:  # the checks of sizes and depths come first; this is behind them
        if debug:
            raise
        what = "memory" if isinstance(error, MemoryError) else "nesting"
        sys.stderr.write(f"error: the input must fit into this machine, but its {what} does not. Use a smaller one.\n")
        return 2
    except RuntimeError as error:
        if debug or "home directory" not in str(error):  # what pathlib says of ~nobody
            raise
        sys.stderr.write("error: a path that begins with ~ must name a user, but this one has no home directory.\n")
        return 2
    except KeyboardInterrupt:
        sys.stderr.write("interrupted\n")
        return 130
    return 0


def _end(number: int, frame: object) -> NoReturn:
    sys.exit(128 + number)


def describe_error(error: Exception) -> str:
    """One line for the user: our own messages as they are, the system's with the file they concern."""
    if isinstance(error, OSError) and error.strerror:
        where = f"{error.filename}: " if error.filename else ""
        return _printable(f"{where}{error.strerror}.")
    return _printable(" ".join(str(error).split()))


def _printable(text: str) -> str:
    """Without what a terminal would obey: a file's names may hold control characters."""
    return "".join(letter if letter.isprintable() else ascii(letter)[1:-1] for letter in text)
