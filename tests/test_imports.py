"""Who may import whom (DESIGN.md, section 3), lazy imports included, and that importing does nothing else."""

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
COMMANDS = {"lmf_multitask.__main__", *(module for module, _ in lmf_multitask.__main__.COMMANDS.values())}

# from top to bottom: a module imports from its own layer and those below; COMMANDS are the first layer
LAYERS = [
    {"pipeline", "searching"},
    {"training", "deployment", "evaluation"},
    {"models", "tasks"},
    {"data"},
    {"command_line", "plugins", "config", "strict_yaml", "files", "runtime", "cache_folder", "installation", "errors"},
]


def layer_of(module):
    """0 is the top, of commands."""
    part = module.removeprefix("lmf_multitask.").partition(".")[0]
    return 0 if module in COMMANDS else next((n for n, parts in enumerate(LAYERS, start=1) if part in parts), 0)


def names_of(node):
    """What an import statement names."""
    if isinstance(node, ast.Import):
        return [alias.name for alias in node.names]
    return [node.module, *(f"{node.module}.{alias.name}" for alias in node.names)]


def imports_of(path, at_import_time=False):
    """Modules that a file names in import statements, but for those that only type checkers read."""

    def walk(node):
        if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.dump(node.test):
            children = node.orelse
        elif at_import_time and isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef, ast.Lambda)):
            children = []
        else:
            children = ast.iter_child_nodes(node)
        if isinstance(node, (ast.Import, ast.ImportFrom)):
            assert getattr(node, "level", 0) == 0, f"{path}: relative import"
            yield from names_of(node)
        for child in children:
            yield from walk(child)

    return set(walk(ast.parse(path.read_text(encoding="utf-8"))))


def own_imports(module):
    """Modules of the package that `module` imports, at any time; of the package itself, only `__version__` is taken."""
    return {name for name in imports_of(MODULES[module]) if name in MODULES} - {module, "lmf_multitask"}


def libraries(module, **kwargs):
    return {name.partition(".")[0] for name in imports_of(MODULES[module], **kwargs)}


def below(*parts):
    """The modules of these files and folders."""
    return [name for name in MODULES if name.removeprefix("lmf_multitask.").partition(".")[0] in parts]


# -- layers


def test_every_module_has_a_layer():
    assert {name for name in MODULES if layer_of(name) == 0} == COMMANDS | {"lmf_multitask"}


def test_imports_go_down_only():
    for module in MODULES.keys() - {"lmf_multitask"}:
        assert {name for name in own_imports(module) if layer_of(name) < layer_of(module)} == set(), module


def test_nobody_imports_a_command():
    for module in MODULES:
        found = own_imports(module) & COMMANDS
        assert found == set(), module


def test_there_is_no_circle():
    """Lazy imports count: a module that is imported in a function is needed all the same."""
    done, way = set(), []

    def visit(module):
        assert module not in way, f"circle: {' -> '.join([*way[way.index(module) :], module])}"
        if module in done:
            return
        way.append(module)
        for name in sorted(own_imports(module)):
            visit(name)
        way.pop()
        done.add(module)

    for module in MODULES:
        visit(module)


def test_lazy_imports_are_found(tmp_path):
    file = tmp_path / "a.py"
    file.write_text(
        "from typing import TYPE_CHECKING\n"
        "if TYPE_CHECKING:\n    import one\nelse:\n    import two\n"
        "class A:\n    import three\n    def f(self):\n        if self:\n            from four.five import six\n"
        "try:\n    import seven\nexcept ImportError:\n    pass\n"
    )
    lazy = {"four.five", "four.five.six"}
    always = {"typing", "typing.TYPE_CHECKING", "two", "three", "seven"}
    assert imports_of(file) == always | lazy
    assert imports_of(file, at_import_time=True) == always


# -- libraries


def test_one_file_knows_paddlenlp():
    assert [module for module in MODULES if "paddlenlp" in libraries(module)] == ["lmf_multitask.training.paddlenlp"]


def test_one_file_knows_optuna():
    found = [module for module in MODULES if libraries(module) & {"optuna", "sqlalchemy"}]
    assert found == ["lmf_multitask.searching.study"]


def test_data_and_evaluation_never_need_paddle():
    for module in below("data", "evaluation", "config", "plugins", "command_line", "files", "strict_yaml", "errors"):
        assert not libraries(module) & {"paddle", "paddlenlp", "visualdl", "paddle2onnx"}, module


def test_tasks_and_settings_need_no_paddle_to_be_imported():
    for module in (*below("tasks"), "lmf_multitask.pipeline.settings", "lmf_multitask.training.config"):
        assert "paddle" not in libraries(module, at_import_time=True), module


def test_the_pipeline_needs_no_datasets_to_be_imported_below_data():
    for module in below("models", "deployment", "evaluation", "config", "runtime", "tasks"):
        assert "datasets" not in libraries(module, at_import_time=True), module


def test_paddle_is_loaded_without_its_noise():
    """Whichever module comes first: at the top of a file, Paddle stands below `with quiet_imports()`."""
    loud = [
        f"{module}:{node.lineno}"
        for module, path in MODULES.items()
        for node in ast.parse(path.read_text(encoding="utf-8")).body
        if isinstance(node, (ast.Import, ast.ImportFrom))
        and any(name.partition(".")[0] in ("paddle", "paddlenlp") for name in names_of(node))
    ]
    assert loud == []


def test_no_module_is_for_everything():
    words = {"utils", "util", "common", "helpers", "helper", "misc", "registry", "factory"}
    assert [module for module in MODULES if words & set(module.split("."))] == []


LIGHT = """
import sys
import lmf_multitask.pipeline.settings, lmf_multitask.command_line, lmf_multitask.tasks
import lmf_multitask.data.modality, lmf_multitask.evaluation.metrics
heavy = ("paddle", "paddlenlp", "datasets", "pyarrow", "pandas", "sklearn", "scipy", "matplotlib", "optuna", "rich", "jinja2")
print([name for name in heavy if name in sys.modules])
"""


def test_settings_load_no_large_library():
    assert run(LIGHT).stdout == "[]\n"


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
def test_public_names_exist(name):
    value = getattr(lmf_multitask, name)
    assert value is not None
    assert name in dir(lmf_multitask)
    if name != "__version__":
        home = lmf_multitask._HOMES[name]
        assert value is getattr(importlib.import_module(home), name)
        assert value.__module__ == home  # where it is defined
        assert value.__doc__


def test_other_names_do_not():
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
import paddle, paddlenlp.trainer, paddlenlp.trainer.integrations, datasets, sklearn.metrics, rich.table, pydantic, safetensors.numpy
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
