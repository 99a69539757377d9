"""PaddleNLP's Trainer and what belongs to it: the only file that imports paddlenlp.

``import paddlenlp`` loads hundreds of language models with their tokenizers. Trainer's own modules need none of them. So commands
load only these modules, and placeholders for the rest of paddlenlp meanwhile.
"""

from __future__ import annotations

import importlib
import logging
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec
from importlib.metadata import version
from importlib.util import find_spec
from types import ModuleType
from typing import Any

from lmf_multitask.runtime import is_command, quiet_imports

TESTED = "3.0.0b4"
"""Another version of paddlenlp is imported as a whole."""

_MODULES = {
    *(f"trainer.{name}" for name in ("argparser", "integrations", "trainer", "trainer_callback", "trainer_utils")),
    *("trainer.training_args", "trainer.plugins.timer", "trainer.utils.helper"),
    *(f"utils.{name}" for name in ("env", "fault_tolerance", "import_utils", "log", "nested")),
}
"""Modules of paddlenlp that are loaded; the packages that they are in are empty meanwhile."""


class _Placeholder(ModuleType):
    """Every name in it is a class without instances: ``isinstance`` is False, and a call is an error."""

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)

        def refuse(cls: type, *positional: Any, **named: Any) -> Any:
            raise NotImplementedError(f"{self.__name__}.{name} is not loaded in a command")

        return type(name, (), {"__new__": refuse})


class _Finder(MetaPathFinder, Loader):
    """Finds placeholders for everything in paddlenlp but `_MODULES`."""

    def __init__(self, folders: Sequence[str]) -> None:
        self._folders = folders  # of paddlenlp

    def find_spec(self, fullname: str, path: Any = None, target: Any = None) -> ModuleSpec | None:
        package, _, name = fullname.partition(".")
        if package != "paddlenlp" or name in _MODULES:
            return None
        spec = ModuleSpec(fullname, self, is_package=True)
        spec.submodule_search_locations = [f"{folder}/{name.replace('.', '/')}" for folder in self._folders]
        return spec

    def create_module(self, spec: ModuleSpec) -> ModuleType:
        return _Placeholder(spec.name)

    def exec_module(self, module: ModuleType) -> None:
        """There is nothing to execute."""


@contextmanager
def trainer_alone() -> Iterator[None]:
    """Inside the block, the modules of Trainer can be imported without the rest of paddlenlp; after it, all of paddlenlp.

    Not in a program that is not ours or has imported paddlenlp, nor with another version: there all of it is imported.
    """
    if not is_command() or "paddlenlp" in sys.modules or version("paddlenlp") != TESTED:
        yield
        return
    spec = find_spec("paddlenlp")
    finder = _Finder(spec.submodule_search_locations or () if spec else ())
    sys.meta_path.insert(0, finder)
    try:
        importlib.import_module("paddlenlp.trainer.trainer")
        importlib.import_module("paddle").disable_signal_handler()  # as paddlenlp does
    except Exception:  # with another version of Paddle, perhaps
        logging.getLogger(__name__).debug("all of paddlenlp is imported", exc_info=True)
        _forget(finder)
    try:
        yield
    finally:
        _forget(finder)


def _forget(finder: _Finder) -> None:
    """Removes the finder and the modules that it has found; the names that were imported from them stay valid."""
    if finder in sys.meta_path:
        sys.meta_path.remove(finder)
        for name in [name for name in sys.modules if name.partition(".")[0] == "paddlenlp"]:
            del sys.modules[name]


with quiet_imports(), trainer_alone():
    from paddlenlp.trainer.integrations import VisualDLCallback
    from paddlenlp.trainer.trainer import Trainer
    from paddlenlp.trainer.trainer_callback import PrinterCallback, ProgressCallback, TrainerCallback
    from paddlenlp.trainer.trainer_utils import EvalLoopOutput
    from paddlenlp.trainer.training_args import TrainingArguments
    from paddlenlp.utils.log import logger

__all__ = [
    "EvalLoopOutput",
    "PrinterCallback",
    "ProgressCallback",
    "Trainer",
    "TrainerCallback",
    "TrainingArguments",
    "VisualDLCallback",
    "logger",
]
