import hashlib
import json
import shutil

import numpy as np
import pytest
from conftest import EMOTIONS, PAPERS, shared_file

from lmf_multitask.deployment import exporter
from lmf_multitask.deployment.description import ModelDescription
from lmf_multitask.deployment.exporter import KnownData, export_runs, known_data
from lmf_multitask.deployment.predictor import Predictor
from lmf_multitask.errors import DataError, RunError
from lmf_multitask.runs import runs_in

from .conftest import SIZES, expected_probabilities, make_rows, make_run


def names(folder):
    return sorted(path.name for path in folder.iterdir())


# -- what is written


def test_one_model_for_a_multitask_run(exported):
    assert names(exported) == ["lmf_model.json", "multitask.json", "multitask.pdiparams"]
    about = json.loads((exported / "lmf_model.json").read_text())
    assert about["emotions"] == list(EMOTIONS)
    assert about["inputs"]["audio"] == {"dtype": "float32", "shape": ["batch", 5]}
    assert about["inputs"]["text"] == {"dtype": "float32", "shape": ["batch", "words", 3]}
    assert about["text"] == {"words": 6, "padding": "end", "padding_is_read": True}
    assert about["cleaning"] == {"non_finite": "zero"}
    assert about["models"][0]["temperature"] == [1.0] * 4
    for name in ("multitask.json", "multitask.pdiparams"):
        assert about["sha256"][name] == hashlib.sha256((exported / name).read_bytes()).hexdigest()


def test_a_model_per_emotion_for_separate_runs(separate_runs, tmp_path):
    export_runs(runs_in(separate_runs), tmp_path / "out")
    expected = [f"{emotion}{end}" for emotion in EMOTIONS for end in (".json", ".pdiparams")]
    assert names(tmp_path / "out") == sorted([*expected, "lmf_model.json"])
    rows = make_rows()
    got = Predictor(tmp_path / "out").predict_both(**rows)
    for t, run in enumerate(runs_in(separate_runs)):
        np.testing.assert_allclose(got[:, t], expected_probabilities(run, rows)[:, 0], atol=1e-6)


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
    for count, words in ((1, 6), (9, 6), (2, 11)):  # batch and length of the text are free
        rows = make_rows(count, words)
        got = np.stack(session.run(None, rows), axis=1)
        np.testing.assert_allclose(got, expected_probabilities(multitask_run, rows), atol=1e-6)


def test_both_formats_in_one_folder(multitask_run, tmp_path):
    pytest.importorskip("paddle2onnx", reason="needs the extra onnx")
    pytest.importorskip("onnxruntime", reason="needs the extra onnx")
    done = export_runs([multitask_run], tmp_path / "out", ["paddle", "onnx"])
    assert set(done.differences) == {"paddle", "onnx"}
    assert all(value <= 1e-6 for value in done.differences.values())
    assert names(tmp_path / "out") == ["lmf_model.json", "multitask.json", "multitask.onnx", "multitask.pdiparams"]


def by_emotion(calibration):
    """The same calibration as the evaluation writes it."""
    return {
        "format": 1,
        "fitted_on": "validation",
        "emotions": {
            name: {
                "temperature": calibration["temperature"][t],
                "thresholds": {figure: values[t] for figure, values in calibration["thresholds"].items()},
                "rows": 9,
                "reason": None,
            }
            for t, name in enumerate(calibration["emotions"])
        },
    }


@pytest.mark.parametrize("form", [dict, by_emotion])
def test_calibration_travels_with_the_model(tmp_path, form):
    temperature, uar = [0.5, 1.0, 2.0, 3.5], [0.1, 0.2, 0.3, 0.4]
    calibration = {"emotions": list(EMOTIONS), "temperature": temperature, "thresholds": {"uar": uar}}
    run = make_run(tmp_path / "run", calibration=form(calibration))
    export_runs([run], tmp_path / "out")
    about = json.loads((tmp_path / "out" / "lmf_model.json").read_text())["models"][0]
    assert (about["temperature"], about["thresholds"]) == (temperature, {"uar": uar})
    rows = make_rows(40)
    plain, calibrated = Predictor(tmp_path / "out"), Predictor(tmp_path / "out", calibrated=True)
    np.testing.assert_allclose(plain.predict_both(**rows), expected_probabilities(run, rows), atol=1e-6)
    np.testing.assert_allclose(
        calibrated.predict_both(**rows), expected_probabilities(run, rows, temperature), atol=1e-6
    )
    assert plain.thresholds("uar") == uar
    for criterion in ("half", "uar"):  # the decisions are the same ones
        decisions = [p.predict(**rows) > p.thresholds(criterion) for p in (plain, calibrated)]
        assert 0 < decisions[0].mean() < 1
        np.testing.assert_array_equal(*decisions)
    # sigmoid(logit(0.3) / 2) by hand: logit = -0.8472979, half of it -0.4236489
    assert calibrated.thresholds("uar")[2] == pytest.approx(0.3956439)
    with pytest.raises(RunError, match="the thresholds must be among half, uar, but got 'f1'"):
        plain.thresholds("f1")


def test_training_is_not_disturbed_by_names(multitask_run, tmp_path):
    """Exporting twice in one process gives the same weights file."""
    for name in ("a", "b"):
        export_runs([multitask_run], tmp_path / name)
    assert (tmp_path / "a/multitask.pdiparams").read_bytes() == (tmp_path / "b/multitask.pdiparams").read_bytes()


# -- the released checkpoints

LMF_PADDLE_NAMES = {
    "audio_subnet.": "audio_encoder.",
    "video_subnet.": "video_encoder.",
    "text_subnet.rnn.": "text_encoder.lstm.",
    "text_subnet.linear_1.": "text_encoder.linear.",
}
LMF_PADDLE_WEIGHTS = {
    "audio_factor": "fusion.factors.0",
    "video_factor": "fusion.factors.1",
    "text_factor": "fusion.factors.2",
    "fusion_weights": "fusion.rank_weights",
    "fusion_bias": "fusion.bias",
}


def from_lmf_paddle(path, emotion, folder):
    from lmf_multitask.config import ExperimentConfig, ModelConfig
    from lmf_multitask.data.safe_pickle import StoredArray, read_pickle
    from lmf_multitask.models.lmf import LMFModel
    from lmf_multitask.runs import Run

    def array(value):  # paddle.save stores (name, array) in some versions
        value = value[1] if isinstance(value, tuple) else value
        return value.read() if isinstance(value, StoredArray) else np.asarray(value)

    stored = {}
    for name, value in read_pickle(path).items():
        if "cell." in name or name == "StructuredToParameterName@@":
            continue
        for old, new in LMF_PADDLE_NAMES.items():
            name = name.replace(old, new)
        stored[LMF_PADDLE_WEIGHTS.get(name, name)] = array(value)
    config = ModelConfig(
        **PAPERS,
        audio_hidden=stored["audio_encoder.linear_1.weight"].shape[1],
        video_hidden=stored["video_encoder.linear_1.weight"].shape[1],
        text_lstm=stored["text_encoder.linear.weight"].shape[0],
        text_hidden=stored["text_encoder.linear.weight"].shape[1],
        fusion_rank=stored["fusion.rank_weights"].shape[1],
        fusion_dim=None,
    )
    model = LMFModel({"audio": 74, "video": 35, "text": 300}, [emotion], config)
    model.load_weights(stored)
    run = Run(folder)
    run.start(ExperimentConfig(emotions=[emotion], model=config))
    model.save_pretrained(folder / "model")
    return run


@pytest.mark.parametrize("form", ["paddle", "onnx"])
def test_released_checkpoints_give_the_softmax_of_their_recorded_logits(tmp_path, form):
    if form == "onnx":
        pytest.importorskip("paddle2onnx", reason="needs the extra onnx")
        pytest.importorskip("onnxruntime", reason="needs the extra onnx")
    recorded = np.load(shared_file("golden/released_outputs.npz"))
    runs = [
        from_lmf_paddle(shared_file(f"golden/released/{emotion}.pkl"), emotion, tmp_path / "runs" / emotion)
        for emotion in EMOTIONS
    ]
    export_runs(runs, tmp_path / "out", [form], KnownData(words=20))
    rows = {
        new: recorded[old].astype("float32") for new, old in (("audio", "audio"), ("video", "visual"), ("text", "text"))
    }
    got = Predictor(tmp_path / "out").predict_both(**rows)
    for t, emotion in enumerate(EMOTIONS):
        logits = recorded[emotion].astype("float64")
        powers = np.exp(logits - logits.max(axis=1, keepdims=True))
        np.testing.assert_allclose(got[:, t], powers / powers.sum(axis=1, keepdims=True), atol=1e-5)


# -- what is refused


def test_an_export_that_differs_is_an_error_and_writes_nothing(multitask_run, tmp_path, monkeypatch):
    true = exporter.probabilities
    monkeypatch.setattr(exporter, "probabilities", lambda *args: true(*args) + 2e-5)
    with pytest.raises(
        RunError, match=r"the exported paddle model must agree with the trained one within 1e-05, but differs by 2e-05"
    ):
        export_runs([multitask_run], tmp_path / "out")
    assert list(tmp_path.iterdir()) == []


def test_an_export_that_gives_nan_is_an_error(multitask_run, tmp_path, monkeypatch):
    monkeypatch.setattr(exporter, "probabilities", lambda *args: np.full((1, 4, 2), np.nan))
    with pytest.raises(RunError, match="but differs by nan"):
        export_runs([multitask_run], tmp_path / "out", data=KnownData(make_rows(1)))


def test_an_earlier_export_is_replaced_and_nothing_else(multitask_run, separate_runs, tmp_path):
    export_runs(runs_in(separate_runs), tmp_path / "out")
    export_runs([multitask_run], tmp_path / "out")
    assert names(tmp_path / "out") == ["lmf_model.json", "multitask.json", "multitask.pdiparams"]
    (tmp_path / "out" / "thesis.txt").write_text("mine")
    with pytest.raises(RunError, match="must hold nothing but an earlier export, but holds 'thesis.txt' too"):
        export_runs([multitask_run], tmp_path / "out")
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "a").write_text("")
    with pytest.raises(RunError, match="must be empty or an earlier export, but holds 'a'"):
        export_runs([multitask_run], tmp_path / "other")
    with pytest.raises(RunError, match="must be a folder, but is a file"):
        export_runs([multitask_run], tmp_path / "other" / "a")


@pytest.mark.parametrize(
    ("calibration", "message"),
    [
        ([], r"must be the calibration of this model, but it holds a list"),
        (
            {"emotions": ["sad"], "temperature": [1.0]},
            r"but its emotions are \['sad'\] and the model's are \['happy'\]",
        ),
        ({}, r"but 'emotions' is missing"),
        ({"emotions": {"happy": {"thresholds": {}}}}, r"but 'temperature' is missing"),
        (
            {"emotions": {"sad": {"temperature": 1.0}}},
            r"but its emotions are \['sad'\] and the model's are \['happy'\]",
        ),
        ({"emotions": ["happy"], "temperature": [0.0]}, r"but its temperature is \[0.0\] and must be above 0"),
        (
            {"emotions": ["happy"], "temperature": [1.0, 1.0]},
            r"but its temperature is \[1.0, 1.0\] and must be 1 numbers",
        ),
        ({"emotions": ["happy"], "temperature": ["1"]}, r"but its temperature is \['1'\] and must be 1 numbers"),
        ({"emotions": ["happy"]}, r"but its temperature is None and must be 1 numbers"),
        (
            {"emotions": ["happy"], "temperature": [1.0], "thresholds": {"uar": [1.5]}},
            r"its thresholds.uar are \[1.5\] and must be from 0 to 1",
        ),
        (
            {"emotions": ["happy"], "temperature": [1.0], "thresholds": [0.5]},
            r"its thresholds are \[0.5\] and must be given by criterion",
        ),
    ],
)
def test_a_wrong_calibration_is_refused(tmp_path, calibration, message):
    run = make_run(tmp_path / "run", ["happy"], calibration=calibration)
    with pytest.raises(RunError, match=message):
        export_runs([run], tmp_path / "out")


def test_runs_that_do_not_fit_together(tmp_path):
    make_run(tmp_path / "a", ["happy"])
    make_run(tmp_path / "b", ["sad"], sizes={**SIZES, "audio": 9})
    with pytest.raises(RunError, match="b: must have the feature sizes of the other runs"):
        export_runs(runs_in(tmp_path), tmp_path / "out")
    shutil.rmtree(tmp_path / "b")
    make_run(tmp_path / "c", ["happy"])
    with pytest.raises(RunError, match="each emotion must be in one run, but the runs have happy, happy"):
        export_runs(runs_in(tmp_path), tmp_path / "out")
    shutil.rmtree(tmp_path / "c")
    make_run(tmp_path / "d", ["sad", "angry"])
    with pytest.raises(RunError, match="must hold one run per emotion, but has a multi-task run among others"):
        export_runs(runs_in(tmp_path), tmp_path / "out")


@pytest.mark.parametrize("name", ["text", "lmf_model"])
def test_an_emotion_may_not_be_called_like_something_else(tmp_path, name):
    with pytest.raises(
        RunError, match=f"an emotion must not be called like an input or a file of an export, but one is '{name}'"
    ):
        export_runs([make_run(tmp_path / "run", [name])], tmp_path / "out")


def test_without_the_training_data_the_text_length_is_free(tmp_path, caplog):
    run = make_run(tmp_path / "run", data_path="/nowhere/data.pkl")
    data = known_data([run])
    assert data.rows is None
    assert "the training data are not at hand" in caplog.text
    done = export_runs([run], tmp_path / "out", data=data)
    assert done.description.words is None
    rows = make_rows(3, words=13)
    np.testing.assert_allclose(
        Predictor(tmp_path / "out").predict_both(**rows), expected_probabilities(run, rows), atol=1e-6
    )
    with pytest.raises(DataError, match="/nowhere/data.pkl: must be a readable file"):
        known_data([run], "/nowhere/data.pkl")
    np.savez(tmp_path / "other.npz", **make_rows(2, sizes={**SIZES, "audio": 9}))
    with pytest.raises(
        DataError, match=r"other.npz: must have the feature sizes of the model, .* but has \{'audio': 9"
    ):
        known_data([run], str(tmp_path / "other.npz"))


# -- the description


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda about: about.update(format=2), "must be of the format 1, but is of 2"),
        (lambda about: about.pop("models"), "must describe an exported model, but 'models' is missing"),
        (lambda about: about["models"][0].update(name="../x"), "an emotion's name must consist of"),
        (lambda about: about["inputs"]["audio"].update(shape=["batch", "x"]), "its sizes are"),
        (lambda about: about["cleaning"].update(non_finite="maybe"), "its cleaning is 'maybe'"),
    ],
)
def test_a_damaged_description(exported, tmp_path, change, message):
    folder = shutil.copytree(exported, tmp_path / "copy")
    about = json.loads((folder / "lmf_model.json").read_text())
    change(about)
    (folder / "lmf_model.json").write_text(json.dumps(about))
    with pytest.raises(RunError, match=message):
        ModelDescription.read(folder)


def test_a_description_comes_back_as_it_was(exported):
    description = ModelDescription.read(exported)
    assert description.to_json() == json.loads((exported / "lmf_model.json").read_text())


@pytest.mark.parametrize("form", ["paddle", "onnx"])
@pytest.mark.parametrize(
    "choice", [{"modalities": ["audio", "text"]}, {"modalities": ["video"]}, {"fusion": "late"}, {"text_pooling": "last_word"}],
    ids=str,
)  # fmt: skip
def test_every_kind_of_network_is_exported(tmp_path, form, choice):
    """Also those that have no part for a modality: all three features are given to them, and not looked at."""
    if form == "onnx":
        pytest.importorskip("paddle2onnx", reason="needs the extra onnx")
        pytest.importorskip("onnxruntime", reason="needs the extra onnx")
    run = make_run(tmp_path / "run", **choice)
    export_runs([run], tmp_path / "out", [form])
    rows = make_rows()
    wanted = expected_probabilities(run, rows)[:, :, 1]
    found = Predictor(tmp_path / "out", backend=form).predict(rows["audio"], rows["video"], rows["text"])
    np.testing.assert_allclose(found, wanted, atol=1e-5)
