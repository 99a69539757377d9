"""Files of the user that register fusions, encoders or metrics: ``--plugin FILE.py``.

Only what the command line (or the caller) names is ever imported; a config or a run directory cannot name code.
"""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path

from lmf_multitask.errors import ConfigError

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
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    try:
        spec.loader.exec_module(module)
    except Exception as error:
        del sys.modules[name]
        raise ConfigError(
            f"{path}: must run without errors, but {type(error).__name__}: {' '.join(str(error).split()).rstrip('.')}. See --debug."
        ) from error
    _LOADED[file] = name


def loaded() -> list[Path]:
    """The files that have been loaded, in order; child processes must be given the same."""
    return list(_LOADED)
