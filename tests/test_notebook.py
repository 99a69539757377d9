"""The notebook: clean as it is stored, and every cell of it works, as Jupyter would run it."""

import json
import re
import subprocess
import sys
import types
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
NOTEBOOK = json.loads((ROOT / "scripts/aistudio.ipynb").read_text(encoding="utf-8"))
CODE = ["".join(cell["source"]) for cell in NOTEBOOK["cells"] if cell["cell_type"] == "code"]


def as_python(source):
    """A cell with its lines for the shell as calls of `shell`."""
    return re.sub(r"^( *)!(.*)$", r"\1shell(rf'''\2''')", source, flags=re.MULTILINE)


def test_nothing_of_a_run_is_stored():
    assert NOTEBOOK["nbformat"] == 4
    for cell in NOTEBOOK["cells"]:
        assert cell["metadata"] == {}
        assert cell["cell_type"] == "markdown" or (cell["outputs"] == [] and cell["execution_count"] is None)
    for source in CODE:
        compile(as_python(source), "cell", "exec")


@pytest.mark.slow
def test_every_cell_works(tmp_path, monkeypatch):
    """All but the installation and its check: with the package that is tested. On the made-up clips."""
    said, shown = [], []

    def shell(command):
        if " pip install " in command or command.endswith(" doctor"):  # which fails on a very busy machine
            return
        if ".train " in command:
            command += " --training.epochs 2"  # what becomes of it is not the question here
        done = subprocess.run(["bash", "-c", command], capture_output=True, text=True)
        assert done.returncode == 0, f"{command}\n{done.stderr}"
        said.append(done.stdout)

    display = types.ModuleType("IPython.display")
    display.SVG = lambda filename: Path(filename).read_bytes()
    display.display = shown.append
    monkeypatch.setitem(sys.modules, "IPython", types.ModuleType("IPython"))
    monkeypatch.setitem(sys.modules, "IPython.display", display)
    monkeypatch.chdir(tmp_path)
    (tmp_path / "lmf_multitask").symlink_to(ROOT)  # as if it had been cloned beside the notebook
    names = {"shell": shell}
    for source in CODE:
        exec(compile(as_python(source), "cell", "exec"), names)
    assert names["root"] == tmp_path / "lmf_multitask"
    assert [b"<svg" in image for image in shown] == [True] * 3
    assert any("per_emotion" in text and "multitask" in text for text in said)
    assert "valence" in said[-1]
    predicted = (tmp_path / "out_prob/predictions.csv").read_text().splitlines()
    assert len(predicted) == 161
    for name in ("happy", "sad", "angry", "neutral"):
        assert (tmp_path / "runs/per_emotion" / name / "metrics.json").is_file()
        assert f"{name}_probability" in predicted[0]
