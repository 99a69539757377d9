"""Clips without a modality, in every way that clips come in."""

import csv
import json

import numpy as np
import pytest

from lmf_multitask.data.features import open_features
from lmf_multitask.deployment.exporter import export_runs, known_data
from lmf_multitask.deployment.inference import infer_file
from lmf_multitask.deployment.predictor import Predictor
from lmf_multitask.errors import DataError, RunError

from .conftest import SIZES, make_rows, make_run

GONE = ["audio", "video", "text"]


@pytest.fixture(scope="module", params=["paddle", "onnx"])
def predictor(request):
    return Predictor(request.getfixturevalue("exported" if request.param == "paddle" else "exported_onnx"))


@pytest.mark.parametrize("gone", GONE)
def test_what_is_left_out_is_zeros(predictor, gone):
    rows = make_rows()
    zeros = {**rows, gone: np.zeros_like(rows[gone])}
    expected = predictor.predict(**zeros)
    np.testing.assert_array_equal(predictor.predict(**{**rows, gone: None}), expected)
    np.testing.assert_array_equal(predictor.predict(**{k: v for k, v in rows.items() if k != gone}), expected)
    assert np.abs(predictor.predict(**rows) - expected).max() > 1e-4


@pytest.mark.parametrize("gone", GONE)
def test_infer_says_and_counts(exported, tmp_path, gone):
    rows = make_rows(5)
    zeros = {**rows, gone: np.zeros_like(rows[gone])}
    np.savez(tmp_path / "x.npz", **{name: values for name, values in rows.items() if name != gone})
    report = infer_file(Predictor(exported), open_features(tmp_path / "x.npz"), tmp_path / "out", batch_size=2)
    assert report.missing == {**dict.fromkeys(GONE, 0), gone: 5}
    text = "\n".join(report.lines())
    assert f"{gone} is missing (not there, all zero or not finite) in 5 clips" in text
    assert f"no clip has {gone}: how good the model is without it was not measured" in text
    with (tmp_path / "out" / "predictions.csv").open() as file:
        assert [row["missing"] for row in csv.DictReader(file)] == [gone] * 5
    expected = Predictor(exported).predict(**zeros)
    np.testing.assert_allclose(np.load(tmp_path / "out" / "sad_prob.npy")[:, 1], expected[:, 1], atol=1e-6)


def test_what_was_measured_travels_with_the_export(tmp_path, corpus_path):
    run = make_run(tmp_path / "run", data_path=str(corpus_path))
    subsets = [
        {"modalities": kept, "mean": {"weighted_f1": value}}
        for kept, value in ((GONE, 0.8), (["audio", "text"], 0.75), (["video", "text"], None))
    ]
    (run.folder / "robustness.json").write_text(
        json.dumps({"split": "validation", "modalities": GONE, "subsets": subsets})
    )
    done = export_runs([run], tmp_path / "out")
    assert done.description.without == {"video": {"split": "validation", "weighted_f1": 0.75, "with_all": 0.8}}
    rows = make_rows(3)
    np.savez(tmp_path / "x.npz", audio=rows["audio"], text=rows["text"])
    report = infer_file(Predictor(tmp_path / "out"), open_features(tmp_path / "x.npz"), tmp_path / "prob")
    assert report.notes == [
        "no clip has video: on validation the model's mean weighted F1 was 0.750 without it, 0.800 with all"
    ]
    (run.folder / "robustness.json").write_text("{}")
    with pytest.raises(
        RunError, match="robustness.json: must be what `lmf evaluate --robustness` wrote, but 'subsets'. Remove"
    ):
        export_runs([run], tmp_path / "out")


def test_a_network_of_fewer_modalities_looks_at_nothing_else(tmp_path):
    run = make_run(tmp_path / "run", modalities=["audio", "text"])
    predictor, rows = Predictor(run.folder), make_rows(4)
    assert predictor.description.modalities == ("audio", "text")
    expected = predictor.predict(rows["audio"], None, rows["text"])
    for video in (rows["video"], np.ones((4, 99)), np.zeros((4, 1))):
        np.testing.assert_array_equal(predictor.predict(rows["audio"], video, rows["text"]), expected)
    np.savez(tmp_path / "x.npz", **{**rows, "video": np.ones((4, 99))})
    report = infer_file(predictor, open_features(tmp_path / "x.npz"), tmp_path / "out")
    assert report.missing == dict.fromkeys(GONE, 0)
    np.savez(tmp_path / "y.npz", video=rows["video"])
    with pytest.raises(
        DataError, match="must have at least one of audio, text, which the model looks at, but have video"
    ):
        infer_file(predictor, open_features(tmp_path / "y.npz"), tmp_path / "out")
    with pytest.raises(DataError, match="at least one of audio, text must be given"):
        predictor.predict(video=rows["video"])


def test_an_export_learns_nothing_of_texts_that_are_not_there(tmp_path):
    run = make_run(tmp_path / "run")
    rows = make_rows(4)
    np.savez(tmp_path / "x.npz", audio=rows["audio"], video=rows["video"])
    data = known_data([run], str(tmp_path / "x.npz"))
    assert (data.words, data.padding) == (None, None)
    assert data.rows["text"].shape == (4, 1, SIZES["text"])
    assert export_runs([run], tmp_path / "out", data=data).description.words is None
    assert Predictor(tmp_path / "out").predict(rows["audio"]).shape == (4, 4)


def test_older_exports_look_at_everything(exported, tmp_path):
    from lmf_multitask.deployment.description import ModelDescription

    content = json.loads((exported / "lmf_model.json").read_text())
    del content["modalities"], content["without"]
    (tmp_path / "lmf_model.json").write_text(json.dumps(content))
    assert ModelDescription.read(tmp_path).modalities == ("audio", "video", "text")
    (tmp_path / "lmf_model.json").write_text(json.dumps({**content, "modalities": ["smell"]}))
    with pytest.raises(RunError, match=r"its modalities are \['smell'\]"):
        ModelDescription.read(tmp_path)
