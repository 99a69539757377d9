"""Who may import whom (DESIGN.md), and that importing does nothing else."""

import ast
import importlib
import json
import subprocess
import sys
from pathlib import Path

import pytest

import lmf_multitask.__main__

PACKAGE = Path(lmf_multitask.__file__).parent
MODULES = {
    ".".join(path.relative_to(PACKAGE.parent).with_suffix("").parts).removesuffix(".__init__"): path
    for path in sorted(PACKAGE.rglob("*.py"))
}

# room -> the rooms below it that it may import; every other module at the top is a command
ROOMS = {
    "errors": set(),
    "files": {"errors"},
    "strict_yaml": set(),
    "config": {"errors"},
    "runtime": {"errors"},
    "data": {"config", "runtime", "files", "errors"},
    "models": {"data", "config", "runtime", "files", "errors"},
    "evaluation": {"data", "config", "runtime", "files", "errors"},
    "runs": {"models", "evaluation", "data", "config", "strict_yaml", "runtime", "files", "errors"},
    "training": {"runs", "evaluation", "models", "data", "config", "runtime", "files", "errors"},
    "deployment": {"runs", "evaluation", "models", "data", "config", "runtime", "files", "errors"},
    "reporting": {"training", "runs", "evaluation", "models", "data", "config", "runtime", "files", "errors"},
    "launcher": {"runs", "config", "runtime", "errors"},
    "searching": {
        "command_line",
        "launcher",
        "training",
        "runs",
        "evaluation",
        "models",
        "data",
        "config",
        "strict_yaml",
        "runtime",
        "files",
        "errors",
    },
    "several": {"launcher", "reporting", "runs", "evaluation", "data", "config", "errors"},
}
COMMANDS = {module.removeprefix("lmf_multitask.") for module, _ in lmf_multitask.__main__.COMMANDS.values()} | {
    "__main__"
}


def room_of(module):
    """lmf_multitask.data.schema -> data; commands are rooms of their own."""
    inside = module.removeprefix("lmf_multitask").lstrip(".")
    return inside if inside in COMMANDS else inside.partition(".")[0]


def imports_of(path, at_import_time=False):
    """Modules that a file names in import statements, but for those that only type checkers read."""

    def walk(node):
        for child in ast.iter_child_nodes(node):
            if isinstance(child, ast.If) and "TYPE_CHECKING" in ast.dump(child.test):
                continue
            if at_import_time and isinstance(child, (ast.FunctionDef, ast.AsyncFunctionDef, ast.Lambda)):
                continue
            if isinstance(child, ast.Import):
                yield from (alias.name for alias in child.names)
            elif isinstance(child, ast.ImportFrom):
                assert child.level == 0, f"{path}: relative import"
                yield child.module
                yield from (f"{child.module}.{alias.name}" for alias in child.names)
            else:
                yield from walk(child)

    return set(walk(ast.parse(path.read_text(encoding="utf-8"))))


def own_imports(module, **kwargs):
    """Modules of the package that `module` imports, itself left out."""
    return {name for name in imports_of(MODULES[module], **kwargs) if name in MODULES} - {module, "lmf_multitask"}


def tops(module, **kwargs):
    return {name.partition(".")[0] for name in imports_of(MODULES[module], **kwargs)}


@pytest.mark.parametrize("module", [name for name in MODULES if room_of(name) in ROOMS])
def test_imports_go_down_only(module):
    room = room_of(module)
    allowed = ROOMS[room] | {room}
    assert {name for name in own_imports(module) if room_of(name) not in allowed} == set()


def test_nobody_imports_a_command():
    for module in MODULES:
        found = {name for name in own_imports(module) if room_of(name) in COMMANDS}
        assert found == set(), module


def test_there_is_no_circle():
    done, way = set(), []

    def visit(module):
        assert module not in way, f"circle: {' -> '.join([*way[way.index(module) :], module])}"
        if module in done:
            return
        way.append(module)
        for name in sorted(own_imports(module, at_import_time=True)):
            if not module.startswith(f"{name}."):  # a package's __init__ is loaded before its modules in any case
                visit(name)
        way.pop()
        done.add(module)

    for module in MODULES:
        visit(module)


def test_one_file_knows_optuna():
    assert [module for module in MODULES if tops(module) & {"optuna", "sqlalchemy"}] == [
        "lmf_multitask.searching.study"
    ]


def test_one_file_knows_paddlenlp():
    assert [module for module in MODULES if "paddlenlp" in tops(module)] == ["lmf_multitask.training.trainer"]


@pytest.mark.parametrize("room", ["data", "evaluation", "files", "config", "errors"])
def test_rooms_that_need_no_paddle(room):
    for module in MODULES:
        if room_of(module) == room:
            assert not tops(module) & {"paddle", "paddlenlp", "visualdl", "paddle2onnx"}, module


def test_models_and_deployment_need_no_datasets_to_be_imported():
    for module in MODULES:
        if room_of(module) in ("models", "deployment", "evaluation", "runs", "config", "runtime"):
            assert "datasets" not in tops(module, at_import_time=True), module


def test_there_is_no_room_for_everything():
    words = {"utils", "util", "common", "helpers", "helper", "misc", "registry", "factory", "base"}
    assert [module for module in MODULES if words & set(module.split("."))] == []


# -- what importing does


def run(code):
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)


def test_the_package_is_light():
    done = run(
        "import sys, lmf_multitask\n"
        "dir(lmf_multitask), lmf_multitask.__version__, lmf_multitask.UserError\n"
        "print([n for n in ('numpy', 'paddle', 'paddlenlp', 'datasets', 'pyarrow', 'sklearn', 'yaml', 'rich') if n in sys.modules])"
    )
    assert (done.stdout, done.stderr) == ("[]\n", "")


@pytest.mark.parametrize("name", lmf_multitask.__all__)
def test_public_names_are_there(name):
    value = getattr(lmf_multitask, name)
    assert value is not None
    assert name in dir(lmf_multitask)
    if name != "__version__":
        home = lmf_multitask._HOMES[name]
        assert value is getattr(importlib.import_module(home), name)
        assert value.__module__ == home  # the table names where it is made
        assert value.__doc__


def test_other_names_are_not():
    with pytest.raises(AttributeError, match="module 'lmf_multitask' has no attribute 'nothing'"):
        _ = lmf_multitask.nothing


def test_type_checkers_see_the_same_names():
    tree = ast.parse((PACKAGE / "__init__.py").read_text())
    block = next(node for node in tree.body if isinstance(node, ast.If))
    seen = {alias.name: node.module for node in block.body for alias in node.names}
    assert seen == lmf_multitask._HOMES


STATE = """
import importlib, json, logging, os, pkgutil, random, sys, warnings
# what third parties do when they are imported is theirs
import paddle, paddlenlp.trainer, paddlenlp.trainer.integrations, datasets, sklearn.metrics, rich.table, jsonargparse, safetensors.numpy
for optional in ("matplotlib.pyplot", "scipy.stats", "onnxruntime"):
    try:
        importlib.import_module(optional)
    except ImportError:
        pass
import numpy as np

def state():
    return {
        "environment": dict(os.environ),
        "folder": os.getcwd(),
        "path": list(sys.path),
        "warnings": [str(item) for item in warnings.filters],
        "handlers": {
            name: [str(handler) for handler in logging.getLogger(name).handlers] + [logging.getLogger(name).level]
            for name in ("", "lmf_multitask", "py.warnings", "paddlenlp", "PaddleNLP", "datasets")
        },
        "python": hash(random.getstate()),
        "numpy": np.random.get_state()[1].tolist(),
        "paddle": [paddle.get_rng_state()[0].current_seed(), paddle.get_default_dtype(), paddle.get_device()],
        "bars": datasets.utils.are_progress_bars_disabled(),
        "excepthook": str(sys.excepthook),
    }

import lmf_multitask
before = state()
names = [m.name for m in pkgutil.walk_packages(lmf_multitask.__path__, "lmf_multitask.")]
for name in names:
    importlib.import_module(name)
after = state()
print(json.dumps([len(names), [key for key in before if before[key] != after[key]]]))
"""


def test_importing_changes_nothing_in_the_process(tmp_path):
    done = subprocess.run([sys.executable, "-W", "ignore", "-c", STATE], capture_output=True, text=True, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    count, changed = json.loads(done.stdout)
    assert changed == []
    assert count >= 25
    assert list(tmp_path.iterdir()) == []
