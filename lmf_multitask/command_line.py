"""What all commands have in common: strict options with suggestions, settings from YAML and dotted options, one-line errors."""

from __future__ import annotations

import argparse
import functools
import os
import re
import signal
import sys
from collections.abc import Callable, Sequence
from typing import Any, Generic, Literal, NoReturn, TypeVar, get_args, get_origin

from lmf_multitask import plugins
from lmf_multitask.config import (
    Option,
    SettingsError,
    build,
    find_config,
    merged,
    nested,
    options,
    type_parts,
)
from lmf_multitask.errors import ConfigError, UserError, printable, suggestion
from lmf_multitask.strict_yaml import parse_value, read_settings

T = TypeVar("T")

_EVERY_EPOCH = "Validation, a line of the log and a checkpoint come after every epoch: leave it out"
_OTHER_NAMES = {
    **dict.fromkeys(("cuda", "use_gpu", "no_cuda"), "Use --device gpu or --device cpu"),
    **dict.fromkeys(("fp16", "bf16", "amp", "fp16_opt_level"), "All computation is in float32: leave it out"),
    **dict.fromkeys(
        ("save_steps", "eval_steps", "logging_steps", "save_strategy", "evaluation_strategy"), _EVERY_EPOCH
    ),
    **dict.fromkeys(("do_train", "do_eval", "do_predict"), "lmf train trains, validates and tests: leave it out"),
    **dict.fromkeys(
        ("warmup_steps", "warmup_ratio"), "There is no warm-up: leave it out, or use --training.schedule cosine"
    ),
    **dict.fromkeys(("max_steps", "num_train_epochs"), "Use --training.epochs"),
    **dict.fromkeys(
        ("model_path", "check_path", "save_inference_dir", "save_dir"), "Use --output_dir for what is written"
    ),
    "report_to": "Use --training.visualdl true",
    "gradient_accumulation_steps": "A batch of any size fits into memory: use --training.batch_size",
    "per_device_train_batch_size": "Use --training.batch_size",
    "per_device_eval_batch_size": "Use --training.eval_batch_size",
    "lr": "Use --training.learning_rate",
    "lr_scheduler_type": "Use --training.schedule constant or cosine",
    "metric_for_best_model": "Use --training.monitor",
    "early_stopping_patience": "Use --training.patience",
    "resume_from_checkpoint": "Use --resume",
    "output_dim": "The tasks determine it: leave it out",
}
"""Option of LMF_Paddle or PaddleNLP -> what to do here; shown where a command has the options that it names."""


class CommandParser(argparse.ArgumentParser):
    """An argument parser whose errors are one line and suggest the nearest right spelling."""

    def __init__(self, **given: Any) -> None:
        """Takes argparse's settings; option names must be written out."""
        super().__init__(allow_abbrev=False, formatter_class=_HelpFormatter, **given)
        self.add_argument(
            "--plugin",
            metavar="FILE.py",
            help="Python file that registers fusions, encoders or metrics; may be repeated",
        )
        self.add_argument("--debug", action="store_true", help="show the whole log, and errors with their traceback")

    def parse_args(self, args: Any = None, namespace: Any = None) -> Any:
        """As argparse; unknown options are errors with a suggestion."""
        options, unknown = self.parse_known_args(args, namespace)
        if unknown:
            self.error(self._unknown(unknown[0]))
        return options

    def error(self, message: str) -> NoReturn:
        """Raises what `run` shows as one line, ending with status 2."""
        message = message.removeprefix("argument ")
        raise ConfigError(message if message.endswith("?") else f"{message.rstrip('.')}. See --help.")

    def known_options(self) -> list[str]:
        """Names of all options, those of subcommands included."""
        found = [name for action in self._actions for name in action.option_strings if name.startswith("--")]
        for action in self._actions:
            if isinstance(action, argparse._SubParsersAction):
                found += [name for parser in action.choices.values() for name in parser.known_options()]
        return found

    def _unknown(self, text: str) -> str:
        option = text.split("=")[0]
        if not option.startswith("-"):
            return f"there must be no argument {text!r} here"
        known = self.known_options()
        advice = _OTHER_NAMES.get(option.lstrip("-").replace("-", "_"))
        if advice and set(re.findall(r"--[\w.]+", advice)) <= set(known):
            return f"unknown option {option!r}. {advice}"
        return f"unknown option {option!r}.{suggestion(option, known)}"

    def _get_value(self, action: argparse.Action, arg_string: str) -> Any:
        try:
            return super()._get_value(action, arg_string)
        except argparse.ArgumentError as error:
            if action.type is int:
                raise argparse.ArgumentError(action, f"must be a whole number, but got {arg_string!r}") from None
            raise error from None

    def _check_value(self, action: argparse.Action, value: Any) -> None:
        if action.choices is not None and value not in action.choices:
            known = [str(choice) for choice in action.choices]
            hint = suggestion(str(value), known)
            raise argparse.ArgumentError(action, f"must be one of {', '.join(known)}, but got {value!r}.{hint}")


class _HelpFormatter(argparse.HelpFormatter):
    """Wide enough for dotted names, which the line of usage does not repeat."""

    def __init__(self, prog: str) -> None:
        super().__init__(prog, max_help_position=36)

    def add_usage(self, usage: Any, actions: Any, groups: Any, prefix: str | None = None) -> None:
        super().add_usage(usage, [action for action in actions if "." not in action.dest], groups, prefix)


class SettingsOptions(Generic[T]):
    """``--config FILE.yaml`` and one dotted option for each setting below a settings class.

    Later configs go over earlier ones, and options over all configs.
    """

    def __init__(
        self, parser: CommandParser, cls: type[T], help: str = "YAML file with settings; or a shipped one, by name"
    ) -> None:
        """Adds the options to a parser."""
        self._cls, self._options = cls, {option.name: option for option in options(cls)}
        parser.add_argument("--config", action="append", default=[], metavar="FILE.yaml", help=help)
        group = parser.add_argument_group("settings", "with their defaults, as in YAML files; null stands for no value")
        for option in self._options.values():
            many = any(get_origin(part) is list for part in type_parts(option.type))
            group.add_argument(
                f"--{option.name}",
                nargs="+" if many else None,
                default=argparse.SUPPRESS,
                metavar=_metavar(option),
                help=f"{option.help} (default: {_shown(option.default)})".replace("%", "%%"),
            )

    def build(self, parsed: argparse.Namespace, *below: dict[str, Any]) -> T:
        """The checked settings.

        Raises:
            ConfigError: a config is missing, or a setting is unknown or not allowed.
        """
        # the kinds are stated, so that a layer that states the same kind again drops nothing
        kinds = nested({name: option.default for name, option in self._options.items() if name.endswith(".kind")})
        given = {
            name: _value(option, getattr(parsed, name))
            for name, option in self._options.items()
            if hasattr(parsed, name)
        }
        files = [(f"{path}: ", read_settings(path)) for path in map(find_config, parsed.config)]
        layers = [("", kinds), *(("", layer) for layer in below), *files, ("", nested(given))]
        try:
            return build(self._cls, functools.reduce(merged, (layer for _, layer in layers)))
        except SettingsError as error:
            raise ConfigError(f"{self._to_blame(layers, str(error))}{error}") from None

    def _to_blame(self, layers: Sequence[tuple[str, dict[str, Any]]], said: str) -> str:
        """What the first layer after which the settings are wrong in the same way is called; the last where none is."""
        found: dict[str, Any] = {}
        for where, layer in layers:
            found = merged(found, layer)
            try:
                build(self._cls, found)
            except SettingsError as error:
                if str(error) == said:
                    return where
        return ""


def _parts(option: Option) -> list[Any]:
    """The types of a value, or of one of several values, except None."""
    parts = [part for part in type_parts(option.type) if part is not type(None)]
    return [get_args(part)[0] if get_origin(part) is list else part for part in parts]


def _metavar(option: Option) -> str:
    parts = _parts(option)
    if all(get_origin(part) is Literal for part in parts):
        return "|".join(dict.fromkeys(str(value) for part in parts for value in get_args(part)))
    names = {int: "N", float: "X", bool: "true|false", str: "TEXT"}
    return names.get(parts[0], "VALUE")


def _shown(value: Any) -> str:
    if isinstance(value, list):
        return " ".join(map(str, value))
    return (
        {None: "null", True: "true", False: "false"}[value]
        if value is None or value is True or value is False
        else str(value)
    )


def _value(option: Option, text: str | list[str]) -> Any:
    """What the text of an option means: text where the setting is text, otherwise YAML."""
    parts = _parts(option)
    plain = str in parts or any(get_origin(part) is Literal and isinstance(get_args(part)[0], str) for part in parts)

    def one(word: str) -> Any:
        return (None if word == "null" else word) if plain else parse_value(word)

    if isinstance(text, str):
        return one(text)
    if len(text) == 1 and (text[0] == "null" or text[0].startswith("[")):
        return parse_value(text[0])
    return [one(word) for word in text]


def run(main: Callable[[Sequence[str]], None], arguments: Sequence[str] | None = None) -> int:
    """Runs a command: status 0, or 2 with one line on stderr for an error of the user (130 after Ctrl-C)."""
    from lmf_multitask.runtime import prepare_process

    arguments = list(sys.argv[1:] if arguments is None else arguments)
    debug = "--debug" in arguments
    prepare_process(debug)
    signal.signal(signal.SIGTERM, _exit)  # as an exception, so that what is open is closed
    try:
        if "" in arguments:  # it would stand for the current folder, or for the built-in sample
            raise ConfigError("arguments must not be empty, but one is. Is a variable in the command not set?")
        main(_with_plugins(arguments))
        sys.stdout.flush()
    except BrokenPipeError:  # the reader of a pipe has closed it; nothing must be flushed at exit
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
    except (MemoryError, RecursionError) as error:  # the checks of sizes and depths come first
        if debug:
            raise
        what = "memory" if isinstance(error, MemoryError) else "nesting"
        sys.stderr.write(f"error: the input must fit into this machine, but its {what} does not. Use a smaller one.\n")
        return 2
    except KeyboardInterrupt:
        sys.stderr.write("interrupted\n")
        return 130
    except Exception as error:
        if debug:
            raise
        if isinstance(error, RuntimeError) and "home directory" in str(error):  # pathlib's words for ~nobody
            line = "a path that begins with ~ must name a user, but this one has no home directory."
        else:
            line = (
                f"unexpected {type(error).__name__}: {describe_error(error)[:300]} This is a bug: --debug shows where."
            )
        sys.stderr.write(f"error: {line}\n")
        return 2
    return 0


def _with_plugins(arguments: list[str]) -> list[str]:
    """The arguments without ``--plugin FILE.py``, which is loaded, and without ``--debug``."""
    found, rest = [], iter(arguments)
    for argument in rest:
        name, equals, value = argument.partition("=")
        if name == "--plugin":
            file = value if equals else next(rest, None)
            if file is None:
                raise ConfigError("--plugin must be followed by a Python file, but is the last argument. Add one.")
            plugins.load_plugin(file)
        elif argument != "--debug":
            found.append(argument)
    return found


def plugin_arguments() -> list[str]:
    """The ``--plugin`` options that a child process needs."""
    return [part for path in plugins.loaded() for part in ("--plugin", str(path))]


def _exit(number: int, frame: object) -> NoReturn:
    sys.exit(128 + number)


def describe_error(error: Exception) -> str:
    """One line for the user: our own messages as they are, the system's with the file that they concern."""
    if isinstance(error, OSError) and error.strerror:
        where = f"{error.filename}: " if error.filename else ""
        return printable(f"{where}{error.strerror}.")
    return printable(" ".join(str(error).split()))
