"""Clips without a modality, in every interface."""

import csv
import json

import numpy as np
import pytest

from lmf_multitask.data.sources import open_source
from lmf_multitask.deployment.exporter import export_run
from lmf_multitask.deployment.inference import infer_file
from lmf_multitask.deployment.predictor import Predictor
from lmf_multitask.errors import DataError, RunError

from .conftest import make_rows, make_run

GONE = ["audio", "video", "text"]


@pytest.fixture(scope="module", params=["paddle", "onnx"])
def predictor(request):
    return Predictor(request.getfixturevalue("exported" if request.param == "paddle" else "exported_onnx"))


@pytest.mark.parametrize("gone", GONE)
def test_a_modality_that_is_left_out_is_zeros(predictor, gone):
    rows = make_rows()
    zeros = {**rows, gone: np.zeros_like(rows[gone])}
    expected = predictor.predict(**zeros)
    np.testing.assert_array_equal(predictor.predict(**{**rows, gone: None}), expected)
    np.testing.assert_array_equal(predictor.predict(**{k: v for k, v in rows.items() if k != gone}), expected)
    assert np.abs(predictor.predict(**rows) - expected).max() > 1e-4


@pytest.mark.parametrize("gone", GONE)
def test_infer_counts_missing_clips(exported, tmp_path, gone):
    rows = make_rows(5)
    zeros = {**rows, gone: np.zeros_like(rows[gone])}
    np.savez(tmp_path / "x.npz", **{name: values for name, values in rows.items() if name != gone})
    report = infer_file(Predictor(exported), open_source(tmp_path / "x.npz"), tmp_path / "out", batch_size=2)
    assert report.missing == {**dict.fromkeys(GONE, 0), gone: 5}
    text = "\n".join(report.lines())
    assert f"{gone} is missing (absent, all zero or not finite) in 5 clips" in text
    assert f"no clip has {gone}: the model was not measured without it" in text
    with (tmp_path / "out" / "predictions.csv").open() as file:
        assert [row["missing"] for row in csv.DictReader(file)] == [gone] * 5
    expected = Predictor(exported).predict(**zeros)
    np.testing.assert_allclose(np.load(tmp_path / "out" / "sad_prob.npy")[:, 1], expected[:, 1], atol=1e-6)


def test_robustness_is_part_of_the_description(tmp_path):
    run = make_run(tmp_path / "run")
    subsets = [
        {"modalities": kept, "mean": {"weighted_f1": value}}
        for kept, value in ((GONE, 0.8), (["audio", "text"], 0.75), (["video", "text"], None))
    ]
    (run / "robustness.json").write_text(json.dumps({"split": "validation", "modalities": GONE, "subsets": subsets}))
    done = export_run(run, tmp_path / "out")
    assert done.description.without == {"video": {"split": "validation", "weighted_f1": 0.75, "with_all": 0.8}}
    rows = make_rows(3)
    np.savez(tmp_path / "x.npz", audio=rows["audio"], text=rows["text"])
    report = infer_file(Predictor(tmp_path / "out"), open_source(tmp_path / "x.npz"), tmp_path / "prob")
    assert report.notes == [
        "no clip has video: on validation the model's mean weighted F1 was 0.750 without it, 0.800 with all"
    ]
    for content in ("{}", "[]", '{"split": 1, "modalities": [], "subsets": 3}'):
        (run / "robustness.json").write_text(content)
        with pytest.raises(RunError, match=r"robustness.json: must be what `lmf evaluate --robustness` wrote, but"):
            export_run(run, tmp_path / "out")


def test_a_network_of_fewer_modalities_ignores_the_others(tmp_path):
    run = make_run(tmp_path / "run", config={"modalities": ["audio", "text"]})
    predictor, rows = Predictor(run), make_rows(4)
    assert predictor.description.modalities == ["audio", "text"]
    expected = predictor.predict(rows["audio"], None, rows["text"])
    for video in (rows["video"], np.ones((4, 99)), np.zeros((4, 1))):
        np.testing.assert_array_equal(predictor.predict(rows["audio"], video, rows["text"]), expected)
    np.savez(tmp_path / "x.npz", **{**rows, "video": np.ones((4, 99))})
    report = infer_file(predictor, open_source(tmp_path / "x.npz"), tmp_path / "out")
    assert report.missing == dict.fromkeys(GONE, 0)
    np.savez(tmp_path / "y.npz", video=rows["video"])
    with pytest.raises(DataError, match="must have at least one of audio, text, which the model uses, but have video"):
        infer_file(predictor, open_source(tmp_path / "y.npz"), tmp_path / "out")
    with pytest.raises(DataError, match="at least one of audio, text, which the model uses, must be given"):
        predictor.predict(video=rows["video"])
