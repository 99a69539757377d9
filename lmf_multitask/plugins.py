"""Files of the user that register fusions, encoders or metrics: ``--plugin FILE.py``.

Only what the command line (or the caller) names is ever imported; a config or a run directory cannot name code.
"""

from __future__ import annotations

import importlib.util
import logging
import sys
from pathlib import Path

from lmf_multitask.errors import ConfigError
from lmf_multitask.runtime import quiet_imports

_log = logging.getLogger(__name__)

_LOADED: dict[Path, str] = {}


def load_plugin(path: str | Path) -> None:
    """Runs a Python file once, so that it can register what it defines.

    Raises:
        ConfigError: there is no such file, or it fails.
    """
    file = Path(path).expanduser().resolve()
    if file in _LOADED:
        return
    if file.suffix != ".py" or not file.is_file():
        raise ConfigError(f"--plugin must be a Python file, but got {path}. Check the path.")
    name = f"lmf_plugin_{file.stem}"
    if name in _LOADED.values():
        raise ConfigError(f"--plugin must name files with different names, but got two {file.name}. Rename one.")
    spec = importlib.util.spec_from_file_location(name, file)
    if spec is None or spec.loader is None:
        raise ConfigError(f"--plugin must be a Python file, but got {path}. Check the path.")
    module, had_paddle = importlib.util.module_from_spec(spec), "paddle" in sys.modules
    sys.modules[name] = module
    try:
        with quiet_imports():
            spec.loader.exec_module(module)
    except Exception as error:
        del sys.modules[name]
        raise ConfigError(
            f"{path}: must run without errors, but {type(error).__name__}: {' '.join(str(error).split()).rstrip('.')}. See --debug."
        ) from error
    if "paddle" in sys.modules and not had_paddle:
        _log.warning(
            f"{path} loads Paddle before the processor is set up, so that commands start and train more slowly. "
            "Write: from lmf_multitask.models.base import F, nn, paddle."
        )
    _LOADED[file] = name


def loaded() -> list[Path]:
    """The files that have been loaded, in order; child processes must be given the same."""
    return list(_LOADED)
