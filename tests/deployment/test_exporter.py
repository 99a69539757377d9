import dataclasses
import hashlib
import json
import re
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import paddle
import pytest
from conftest import EMOTIONS, INPUTS, PAPERS, model_config, shared_file

from lmf_multitask.deployment import exporter, writing
from lmf_multitask.deployment.description import ModelDescription
from lmf_multitask.deployment.exporter import export_models, export_run
from lmf_multitask.deployment.graph import OPERATORS
from lmf_multitask.deployment.predictor import Predictor
from lmf_multitask.errors import DataError, RunError
from lmf_multitask.evaluation.calibration import Calibration, TaskCalibration
from lmf_multitask.models.lmf import LMFModel

from .conftest import SEQUENCES, expected_present, expected_probabilities, make_model, make_rows, make_run


def names(folder):
    return sorted(path.name for path in folder.iterdir())


# -- what is written


def test_one_model_for_a_multitask_run(exported):
    assert names(exported) == ["lmf_model.json", "multitask.json", "multitask.pdiparams"]
    about = json.loads((exported / "lmf_model.json").read_text())
    assert about["emotions"] == list(EMOTIONS)
    assert about["inputs"] == {
        "audio": {"dtype": "float32", "shape": ["batch", 5]},
        "video": {"dtype": "float32", "shape": ["batch", 4]},
        "text": {"dtype": "float32", "shape": ["batch", "steps", 3], "length": 6, "padding": None},
    }
    assert about["cleaning"] == {"non_finite": "zero"}
    assert about["exclusive"] is True
    for name in ("multitask.json", "multitask.pdiparams"):
        assert about["sha256"][name] == hashlib.sha256((exported / name).read_bytes()).hexdigest()


def test_a_model_per_emotion_for_separate_runs(separate_runs, exported_separate):
    expected = [f"{emotion}{end}" for emotion in EMOTIONS for end in (".json", ".pdiparams")]
    assert names(exported_separate) == sorted([*expected, "lmf_model.json"])
    rows = make_rows()
    got = Predictor(exported_separate).predict(**rows)
    for t, emotion in enumerate(EMOTIONS):
        np.testing.assert_allclose(got[:, t], expected_present(separate_runs / emotion, rows)[:, 0], atol=1e-6)


def test_the_usual_formats(monkeypatch):
    """ONNX where it is installed and can be written: paddle2onnx ends the process at an operator that it does not know."""
    own, plugin = make_model(), make_model()
    plugin.fusion.__class__ = type("Gated", (type(plugin.fusion),), {"__module__": "gated"})
    monkeypatch.setattr(writing.importlib.util, "find_spec", lambda name: name)
    assert writing.usual_formats([own]) == ("paddle", "onnx")
    assert writing.usual_formats([own, plugin]) == ("paddle",)
    monkeypatch.setattr(writing.importlib.util, "find_spec", lambda name: None if name == "paddle2onnx" else name)
    assert writing.usual_formats([own]) == ("paddle",)


class Odd:
    def forward(self, hidden):
        return self.bias + paddle.digamma(paddle.concat(list(hidden), axis=1).abs().sum(axis=1, keepdim=True) + 1.0)


def test_operators_of_plug_ins_that_exports_do_not_have(tmp_path, monkeypatch):
    model = make_model()
    model.fusion.__class__ = type("OddFusion", (Odd, type(model.fusion)), {"__module__": "odd"})
    with pytest.raises(
        RunError, match=r"its operators include '1.digamma'. A plug-in whose parts need them adds them to OPERATORS"
    ):
        export_models([model], tmp_path / "refused")
    monkeypatch.setitem(OPERATORS, "paddle", {*OPERATORS["paddle"], "1.digamma"})
    export_models([model], tmp_path / "paddle")
    with pytest.raises(RunError, match="operators that paddle2onnx knows, but a part of a plug-in has another one"):
        export_models([model], tmp_path / "onnx", formats=["onnx"])
    assert not (tmp_path / "onnx").exists()


def test_inputs_and_outputs_have_names(exported):
    program = json.loads((exported / "multitask.json").read_text())["program"]["regions"][0]["blocks"][0]["ops"]
    found = [
        [attribute["AT"]["D"] for op in program if op["#"] == kind for attribute in op["A"] if attribute["N"] == "name"]
        for kind in ("1.data", "1.fetch")
    ]
    assert found == [["audio", "video", "text"], list(EMOTIONS)]


def test_onnx_names_its_inputs_and_outputs_and_gives_probabilities(exported_onnx, multitask_run):
    import onnxruntime

    assert names(exported_onnx) == ["lmf_model.json", "multitask.onnx"]
    session = onnxruntime.InferenceSession(exported_onnx / "multitask.onnx", providers=["CPUExecutionProvider"])
    assert [value.name for value in session.get_inputs()] == ["audio", "video", "text"]
    assert [value.name for value in session.get_outputs()] == list(EMOTIONS)
    for count, steps in ((1, 6), (9, 6), (2, 11)):  # the numbers of clips and steps are free
        rows = make_rows(count, steps=steps)
        got = np.stack(session.run(None, rows), axis=1)
        np.testing.assert_allclose(got, expected_probabilities(multitask_run, rows), atol=1e-6)


@pytest.mark.parametrize(
    "config",
    [
        {"modalities": ["audio", "text"]},
        {"modalities": ["video"]},
        {"fusion": {"kind": "late"}},
        {"encoders.text.pooling": "last_present"},
        {"encoders": {"audio": {"kind": "lstm", "state": 4, "hidden": 3}, "video": {"pooling": "mean_std"}}},
    ],
    ids=str,
)
def test_every_kind_of_network_is_exported(tmp_path, config):
    """Sequences of all modalities, of another length than in training; a modality that is not used is ignored."""
    pytest.importorskip("paddle2onnx", reason="needs the extra onnx")
    pytest.importorskip("onnxruntime", reason="needs the extra onnx")
    run = make_run(tmp_path / "run", inputs=SEQUENCES, config=config)
    done = export_run(run, tmp_path / "out", ["paddle", "onnx"])
    assert set(done.differences) == {"paddle", "onnx"}
    assert all(value < 1e-5 for value in done.differences.values())
    assert names(tmp_path / "out") == ["lmf_model.json", "multitask.json", "multitask.onnx", "multitask.pdiparams"]
    rows = make_rows(inputs=SEQUENCES, steps=4)
    for values in rows.values():
        values[0, 2:] = 0
        values[1] = 0
    for form in ("paddle", "onnx"):
        found = Predictor(tmp_path / "out", backend=form).predict(**rows)
        np.testing.assert_allclose(found, expected_present(run, rows), atol=1e-5)


def test_an_encoder_for_one_length_is_exported_with_that_length(tmp_path):
    model = make_model(inputs=SEQUENCES)
    model.encoders["video"].any_length = False
    export_models([model], tmp_path / "out", ["paddle"])
    predictor = Predictor(tmp_path / "out")
    assert predictor.description.shape("video") == ("batch", 8, 4)
    assert predictor.description.shape("text") == ("batch", "steps", 3)
    rows = make_rows(inputs=SEQUENCES)
    assert predictor.predict(**rows).shape == (7, 4)
    with pytest.raises(DataError, match=r"video must have the shape \[rows, 8, 4\], but got \[7, 5, 4\]"):
        predictor.predict(rows["audio"], rows["video"][:, :5], rows["text"])


def test_thresholds_are_part_of_the_description(tmp_path):
    uar = [0.4, 0.9, 0.3, 0.8]
    tasks = {name: TaskCalibration(thresholds={"uar": uar[t]}, rows=9) for t, name in enumerate(EMOTIONS)}
    run = make_run(tmp_path / "run", calibration=Calibration(tasks))
    export_run(run, tmp_path / "out", ["paddle"])
    rows = make_rows(40)
    predictor = Predictor(tmp_path / "out")
    np.testing.assert_allclose(predictor.predict(**rows), expected_present(run, rows), atol=1e-6)
    assert predictor.thresholds("uar") == uar
    assert predictor.thresholds() == predictor.thresholds("half") == [0.5] * 4
    model = LMFModel.from_pretrained(run / "model")
    model.tasks = [dataclasses.replace(task, threshold=limit) for task, limit in zip(model.tasks, uar)]
    export_models([model], tmp_path / "other", ["paddle"], check=False)
    assert Predictor(tmp_path / "other").thresholds() == uar
    with pytest.raises(RunError, match="thresholds must be one of own, half, uar, but got 'f1'"):
        predictor.thresholds("f1")


def test_weights_do_not_depend_on_earlier_exports(multitask_run, exported, tmp_path):
    export_run(multitask_run, tmp_path / "again", ["paddle"], check=False)
    assert (tmp_path / "again/multitask.pdiparams").read_bytes() == (exported / "multitask.pdiparams").read_bytes()


def test_clips_of_a_file_are_compared(multitask_run, tmp_path):
    np.savez(tmp_path / "x.npz", audio=make_rows(5)["audio"], text=make_rows(5, steps=9)["text"])
    assert export_run(multitask_run, tmp_path / "out", ["paddle"], data_path=tmp_path / "x.npz").rows == 5 + 1 + 5
    with pytest.raises(DataError, match=r"nowhere.npz: must be a readable file"):
        export_run(multitask_run, tmp_path / "out", data_path=tmp_path / "nowhere.npz")
    np.savez(tmp_path / "y.npz", audio=np.ones((2, 9), "float32"))
    with pytest.raises(DataError, match=r"y.npz: audio must be 5 numbers per clip, as in the model, but is 9 numbers"):
        export_run(multitask_run, tmp_path / "out", data_path=tmp_path / "y.npz")


# -- the released checkpoints


def released_model(path, emotion):
    """A checkpoint of LMF_Paddle, read here once more so that `convert` is not trusted."""
    from lmf_multitask.data.safe_pickle import read_pickle
    from lmf_multitask.data.stored_array import StoredArray
    from lmf_multitask.models.lmf import LMFModel

    def array(value):  # paddle.save stores (name, array) in some versions
        value = value[1] if isinstance(value, tuple) else value
        return value.read() if isinstance(value, StoredArray) else np.asarray(value)

    renamed = {
        "audio_subnet.": "encoders.audio.",
        "video_subnet.": "encoders.video.",
        "text_subnet.rnn.": "encoders.text.lstm.",
        "text_subnet.linear_1.": "encoders.text.linear.",
        "audio_factor": "fusion.factors.0",
        "video_factor": "fusion.factors.1",
        "text_factor": "fusion.factors.2",
        "fusion_weights": "fusion.rank_weights",
        "fusion_bias": "fusion.bias",
    }
    stored = {}
    for name, value in read_pickle(path).items():
        if "cell." not in name and name != "StructuredToParameterName@@":
            for old, new in renamed.items():
                name = name.replace(old, new)
            stored[name] = array(value)
    sizes = {
        "encoders.audio.hidden": stored["encoders.audio.linear_1.weight"].shape[1],
        "encoders.video.hidden": stored["encoders.video.linear_1.weight"].shape[1],
        "encoders.text.state": stored["encoders.text.linear.weight"].shape[0],
        "encoders.text.hidden": stored["encoders.text.linear.weight"].shape[1],
        "fusion.rank": stored["fusion.rank_weights"].shape[1],
        "fusion.dim": None,
    }
    model = LMFModel({"audio": (74,), "video": (35,), "text": (20, 300)}, [emotion], model_config(PAPERS, sizes))
    model.load_weights(stored)
    return model


def test_released_checkpoints_give_the_softmax_of_their_recorded_logits(tmp_path):
    pytest.importorskip("paddle2onnx", reason="needs the extra onnx")
    pytest.importorskip("onnxruntime", reason="needs the extra onnx")
    with np.load(shared_file("golden/released_outputs.npz")) as file:
        recorded = dict(file)
    models = [released_model(shared_file(f"golden/released/{emotion}.pkl"), emotion) for emotion in EMOTIONS]
    export_models(models, tmp_path / "out", ["paddle", "onnx"], check=False)
    rows = {
        new: recorded[old].astype("float32") for new, old in (("audio", "audio"), ("video", "visual"), ("text", "text"))
    }
    for form in ("paddle", "onnx"):
        got = Predictor(tmp_path / "out", backend=form).predict(**rows)
        for t, emotion in enumerate(EMOTIONS):
            logits = recorded[emotion].astype("float64")
            powers = np.exp(logits - logits.max(axis=1, keepdims=True))
            np.testing.assert_allclose(got[:, t], powers[:, 1] / powers.sum(axis=1), atol=1e-5)


# -- what is refused


@pytest.mark.parametrize(("wrong", "shown"), [(2e-5, "2e-05"), (np.nan, "nan")])
def test_an_export_that_differs_is_an_error_and_writes_nothing(multitask_run, tmp_path, monkeypatch, wrong, shown):
    true = exporter.trained_predictions
    monkeypatch.setattr(exporter, "trained_predictions", lambda *args: true(*args) + wrong)
    with pytest.raises(
        RunError,
        match=f"the exported paddle model must agree with the trained one within 1e-05, but differs by {shown}",
    ):
        export_run(multitask_run, tmp_path / "out", ["paddle"])
    assert list(tmp_path.iterdir()) == []


def test_an_earlier_export_is_replaced_and_nothing_else(multitask_run, exported_separate, tmp_path):
    shutil.copytree(exported_separate, tmp_path / "out")
    export_run(multitask_run, tmp_path / "out", ["paddle"], check=False)
    assert names(tmp_path / "out") == ["lmf_model.json", "multitask.json", "multitask.pdiparams"]
    (tmp_path / "out" / "thesis.txt").write_text("mine")
    with pytest.raises(RunError, match="must hold nothing but an earlier export, but holds 'thesis.txt' too"):
        export_run(multitask_run, tmp_path / "out")
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "a").write_text("")
    with pytest.raises(RunError, match="must be empty or an earlier export, but holds 'a'"):
        export_run(multitask_run, tmp_path / "other")
    with pytest.raises(RunError, match="must be a folder, but is a file"):
        export_run(multitask_run, tmp_path / "other" / "a")


@pytest.mark.parametrize("content", ["[]", "{}", '{"emotions": {"happy": {"temperature": 0.0}}}'])
def test_a_wrong_calibration_is_refused(tmp_path, content):
    run = make_run(tmp_path / "run", ["happy"])
    (run / "model" / "calibration.json").write_text(content)
    with pytest.raises(RunError, match="calibration"):
        export_run(run, tmp_path / "out")


def test_runs_that_do_not_fit_together(tmp_path):
    with pytest.raises(
        RunError, match="nothing: must be a run directory, or hold run directories, with a trained model"
    ):
        export_run(tmp_path / "nothing", tmp_path / "out")
    make_run(tmp_path / "a", ["happy"])
    make_run(tmp_path / "b", ["sad"], inputs={**INPUTS, "audio": (9,)})
    with pytest.raises(RunError, match="the runs must have the same feature shapes, but happy has"):
        export_run(tmp_path, tmp_path / "out")
    shutil.rmtree(tmp_path / "b")
    make_run(tmp_path / "c", ["happy"])
    with pytest.raises(RunError, match="each emotion must be in one run, but the runs have happy, happy"):
        export_run(tmp_path, tmp_path / "out")
    shutil.rmtree(tmp_path / "c")
    make_run(tmp_path / "d", ["sad", "angry"])
    with pytest.raises(RunError, match="several runs must have one emotion each, but one is a multi-task run"):
        export_run(tmp_path, tmp_path / "out")
    (tmp_path / "d").rename(tmp_path.parent / f"{tmp_path.name}-d")
    (tmp_path / "d").symlink_to(tmp_path.parent / f"{tmp_path.name}-d")
    with pytest.raises(RunError, match="d: must be a folder of its parent itself, but is a link"):
        export_run(tmp_path, tmp_path / "out")


@pytest.mark.parametrize("name", ["text", "lmf_model"])
def test_an_emotion_may_not_be_called_like_something_else(tmp_path, name):
    with pytest.raises(
        RunError, match=f"an emotion must not be called like an input or a file of an export, but one is '{name}'"
    ):
        export_models([make_model([name])], tmp_path / "out")


# -- the description


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda about: about.update(format=1), "must have the format 2, but has 1"),
        (lambda about: about.pop("models"), "must describe an exported model, but 'models' is missing"),
        (lambda about: about.update(models=[]), r"its emotions are \[\]"),
        (lambda about: about["models"][0].update(name="../x"), "must consist of at most 64 letters"),
        (lambda about: about["models"][0].update(modalities=["smell"]), r"its modalities are \['smell'\]"),
        (lambda about: about["inputs"]["audio"].update(shape=["batch", "x"]), "the input audio must have a shape"),
        (lambda about: about["inputs"]["text"].update(length=-1), "the input text must have a shape"),
        (lambda about: about["cleaning"].update(non_finite="maybe"), "its cleaning is 'maybe'"),
        (lambda about: about.update(exclusive=1), "exclusive is 1"),
        (lambda about: about.update(calibration=[]), "its calibration"),
        (lambda about: about.update(without={"audio": {"weighted_f1": "x", "with_all": 1}}), "its metrics without"),
        (lambda about: about.update(sha256={"multitask.json": 3}), "a hash or version is not text"),
        (lambda about: about.update(inputs=None), "must describe an exported model"),
    ],
)
def test_a_damaged_description(exported, tmp_path, change, message):
    about = json.loads((exported / "lmf_model.json").read_text())
    change(about)
    (tmp_path / "lmf_model.json").write_text(json.dumps(about))
    with pytest.raises(RunError, match=message) as caught:
        ModelDescription.read(tmp_path)
    assert "\n" not in str(caught.value)


def test_a_description_comes_back_as_it_was(exported):
    description = ModelDescription.read(exported)
    assert description.to_json() == json.loads((exported / "lmf_model.json").read_text())


# -- plug-ins


def test_a_fusion_and_an_encoder_of_the_user_are_exported(tmp_path):
    """The examples of docs/own_fusion.md; the exported model needs no plug-in."""
    page = (Path(__file__).resolve().parents[2] / "docs" / "own_fusion.md").read_text(encoding="utf-8")
    for name, text in zip(("gated", "linear"), re.findall(r"```python\n(.*?)```", page, re.DOTALL)):
        (tmp_path / f"{name}.py").write_text(text, encoding="utf-8")
    code = f"""
import sys
sys.path.insert(0, {str(Path(__file__).parents[1])!r})
from lmf_multitask.plugins import load_plugin
load_plugin("gated.py"); load_plugin("linear.py")
from deployment.conftest import make_run
from pathlib import Path
make_run(Path("run"), config={{"fusion": {{"kind": "gated", "dim": 4}}, "encoders": {{"audio": {{"kind": "linear"}}}}}})
from lmf_multitask.deployment.exporter import export_run
export_run("run", "out")
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert Predictor(tmp_path / "out").predict(**make_rows(3)).shape == (3, 4)
    with pytest.raises(RunError, match="gated"):
        export_run(tmp_path / "run", tmp_path / "other")
