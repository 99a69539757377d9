"""Fusions, encoders and metrics of users: the examples of docs/own_fusion.md, and files that are refused."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

from lmf_multitask import plugins
from lmf_multitask.errors import ConfigError, RunError
from lmf_multitask.models.lmf import LMFModel

PAGE = (Path(__file__).resolve().parents[1] / "docs" / "own_fusion.md").read_text(encoding="utf-8")
EXAMPLES = dict(zip(("gated", "linear", "specificity"), re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL)))


@pytest.fixture
def examples(tmp_path):
    for name, text in EXAMPLES.items():
        (tmp_path / f"{name}.py").write_text(text, encoding="utf-8")
    return tmp_path


def python(code, cwd):
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=cwd)


def test_a_fusion_is_a_file_of_at_most_40_lines():
    assert len(EXAMPLES) == 3
    assert len(EXAMPLES["gated"].splitlines()) <= 40


USE = """
import sys
from lmf_multitask import plugins
from lmf_multitask.command_line import CommandParser, SettingsOptions
from lmf_multitask.pipeline.settings import ExperimentConfig, varied_settings

for name in ("gated.py", "linear.py", "specificity.py", "./gated.py"):
    plugins.load_plugin(name)
assert [path.name for path in plugins.loaded()] == ["gated.py", "linear.py", "specificity.py"]
assert "model.fusion.gate_dropout" in varied_settings()

parser = CommandParser(prog="test")
options = SettingsOptions(parser, ExperimentConfig)
text = parser.format_help()
assert "gated: dropout in front of the gates" in " ".join(text.split())
assert "lmf|tfn|concat|late|gated" in text and "mlp|lstm|linear" in text
assert "paddle" not in sys.modules and "sklearn" not in sys.modules
config = options.build(parser.parse_args([
    "--model.fusion.kind", "gated", "--model.fusion.dim", "6", "--model.encoders.audio.kind", "linear",
    "--training.monitor", "specificity",
]))

import numpy as np
import paddle
from conftest import INPUTS, random_clips
from lmf_multitask.models.lmf import LMFModel, weight_shapes

model, data = LMFModel(INPUTS, ["one", "two"], config.model), random_clips()
assert weight_shapes(INPUTS, ["one", "two"], config.model) == {n: tuple(w.shape) for n, w in model.weights().items()}
model.fit_statistics(data)
model.save_pretrained("model")
again = LMFModel.from_pretrained("model")
assert again.config == config.model
np.testing.assert_array_equal(again.predict(data), model.predict(data))
assert type(again.fusion).__name__ == "GatedFusion" and isinstance(again.fusion, paddle.nn.Layer)
assert again.flops()["audio"] == 2 * (5 * 16 + 16)

hidden = [np.random.default_rng(m).normal(size=(4, size)).astype("f4") for m, size in enumerate((16, 16, 64))]
fusion = {name: weight.numpy().astype("f8") for name, weight in again.fusion.named_parameters()}
together, wanted = np.concatenate(hidden, axis=1), 0
for m, vectors in enumerate(hidden):
    gate = 1 / (1 + np.exp(-together @ fusion[f"gates.{m}.weight"] - fusion[f"gates.{m}.bias"]))
    wanted = wanted + gate * np.tanh(vectors @ fusion[f"values.{m}.weight"] + fusion[f"values.{m}.bias"])
again.eval()
np.testing.assert_allclose(again.fusion([paddle.to_tensor(v) for v in hidden]).numpy(), wanted, rtol=1e-4, atol=1e-5)

from sklearn.metrics import recall_score
from lmf_multitask.evaluation.metrics import metrics_of
labels = np.random.default_rng(0).integers(0, 2, (50, 2))
predictions = np.random.default_rng(1).random((50, 2))
found = metrics_of(labels.astype("f4"), predictions, ["one", "two"])
for task, name in enumerate(("one", "two")):
    wanted = recall_score(labels[:, task], predictions[:, task] > 0.5, pos_label=0)
    assert abs(found["emotions"][name]["specificity"] - wanted) < 1e-12
"""


def test_the_examples_of_the_page(examples):
    tests = str(Path(__file__).parent)
    done = python(f"import sys; sys.path.insert(0, {tests!r})\n{USE}", examples)
    assert done.returncode == 0, done.stderr
    assert done.stdout == ""
    # this process has not loaded the plug-ins
    with pytest.raises(RunError) as caught:
        LMFModel.from_pretrained(examples / "model")
    text = str(caught.value)
    assert "\n" not in text
    assert re.search(
        r"model.fusion.kind must be one of lmf, tfn, concat, late, but got 'gated'.* add --plugin FILE.py\.", text
    )
    assert "model.encoders.audio.kind must be one of mlp, lstm, but got 'linear'" in text


def test_the_command_line_lists_and_checks_what_a_plugin_registers(examples):
    head = "from lmf_multitask.command_line import *\nfrom lmf_multitask.pipeline.settings import ExperimentConfig\n"
    main = (
        "def main(arguments):\n"
        "    parser = CommandParser(prog='test')\n"
        "    options = SettingsOptions(parser, ExperimentConfig)\n"
        "    print(options.build(parser.parse_args(arguments)).model.fusion)\n"
        "    print(plugin_arguments())\n"
    )

    def run(*arguments):
        done = python(f"{head}{main}raise SystemExit(run(main, {list(arguments)!r}))", examples)
        return done.returncode, done.stdout, done.stderr

    status, out, error = run("--plugin=gated.py", "--model.fusion.kind", "gated", "--plugin", "linear.py")
    assert (status, error) == (0, "")
    assert "Settings(dim=64, gate_dropout=0.0)" in out
    assert out.endswith(f"['--plugin', '{examples / 'gated.py'}', '--plugin', '{examples / 'linear.py'}']\n")
    status, out, error = run("--model.fusion.kind", "gated", "--plugin", "gated.py", "--model.fusion.gate_dropout", "2")
    assert (status, out, error) == (2, "", "error: model.fusion.gate_dropout must be less than 1, but got 2.\n")
    status, out, error = run("--model.fusion.kind", "gated")
    assert (status, out) == (2, "")
    assert re.fullmatch(r"error: model.fusion.kind must be one of .*, but got 'gated'.* add --plugin FILE.py.\n", error)
    status, out, error = run("--seed", "1", "--plugin")
    assert error == "error: --plugin must be followed by a Python file, but is the last argument. Add one.\n"
    (examples / "eager.py").write_text("import paddle\n")
    status, out, error = run("--plugin", "eager.py")
    assert status == 0
    assert error == (
        "warning: eager.py loads Paddle before the processor is set up, so that commands start and train more slowly. "
        "Write: from lmf_multitask.models.base import F, nn, paddle.\n"
    )


# -- files that are refused


@pytest.fixture
def no_plugins(monkeypatch):
    monkeypatch.setattr(plugins, "_LOADED", {})
    before = set(sys.modules)
    yield
    for name in set(sys.modules) - before:
        if name.startswith("lmf_plugin_"):
            del sys.modules[name]


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("none.py", None, "--plugin must be a Python file, but got .*none.py. Check the path."),
        ("text.txt", "x = 1", "--plugin must be a Python file, but got .*text.txt. Check the path."),
        ("a.py", "x = ", "a.py: must run without errors, but SyntaxError: invalid syntax .*. See --debug."),
        ("a.py", "1 / 0", "a.py: must run without errors, but ZeroDivisionError: division by zero. See --debug."),
        ("a.py", "import nowhere", "a.py: must run without errors, but ModuleNotFoundError: No module named 'nowhere'."),
        ("a.py", "raise ValueError('two\\nlines.')", "but ValueError: two lines. See --debug."),
        ("a.py", "\0", "a.py: must run without errors, but "),
    ],
)  # fmt: skip
def test_files_that_are_refused(tmp_path, no_plugins, name, content, message):
    if content is not None:
        (tmp_path / name).write_text(content)
    with pytest.raises(ConfigError, match=message) as caught:
        plugins.load_plugin(tmp_path / name)
    assert "\n" not in str(caught.value)
    assert plugins.loaded() == []
    assert "lmf_plugin_a" not in sys.modules


def test_a_folder_is_no_plugin(tmp_path, no_plugins):
    (tmp_path / "folder.py").mkdir()
    with pytest.raises(ConfigError, match="--plugin must be a Python file"):
        plugins.load_plugin(tmp_path / "folder.py")


def test_a_file_runs_once(tmp_path, no_plugins):
    (tmp_path / "once.py").write_text(
        "from pathlib import Path\nPath(__file__).with_suffix('.n').touch(exist_ok=False)\n"
    )
    (tmp_path / "link.py").symlink_to(tmp_path / "once.py")
    for name in ("once.py", "./once.py", "link.py"):
        plugins.load_plugin(tmp_path / name)
    assert plugins.loaded() == [tmp_path / "once.py"]


def test_two_files_of_one_name(tmp_path, no_plugins):
    for folder in ("a", "b"):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "same.py").write_text("")
    plugins.load_plugin(tmp_path / "a" / "same.py")
    with pytest.raises(ConfigError, match="--plugin must name files with different names, but got two same.py. Rename"):
        plugins.load_plugin(tmp_path / "b" / "same.py")


def test_a_config_names_no_code(tmp_path, no_plugins):
    from lmf_multitask.config import build
    from lmf_multitask.pipeline.settings import ExperimentConfig

    (tmp_path / "a.py").write_text("1 / 0")
    for content in ({"plugin": str(tmp_path / "a.py")}, {"model": {"fusion": {"kind": str(tmp_path / "a.py")}}}):
        with pytest.raises(ConfigError, match="unknown setting 'plugin'|model.fusion.kind must be one of"):
            build(ExperimentConfig, content)
