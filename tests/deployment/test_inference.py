import csv

import numpy as np
import pytest
from conftest import EMOTIONS, shared_file

from lmf_multitask.data.features import open_features
from lmf_multitask.deployment.benchmark import benchmark_rows, time_predictor, timing_table
from lmf_multitask.deployment.exporter import export_runs
from lmf_multitask.deployment.inference import infer_file, predict_blocks
from lmf_multitask.deployment.predictor import Predictor
from lmf_multitask.errors import DataError
from lmf_multitask.runs import runs_in

from .conftest import expected_probabilities, make_rows, make_run


@pytest.fixture(scope="module")
def predictor(exported):
    return Predictor(exported)


def save(path, **rows):
    np.savez(path, **rows)
    return open_features(path)


def read_csv(path):
    with path.open() as file:
        return list(csv.DictReader(file))


@pytest.mark.parametrize("batch_size", [1, 4, 64])
def test_files(predictor, multitask_run, tmp_path, batch_size):
    rows = make_rows(9)
    report = infer_file(predictor, save(tmp_path / "x.npz", **rows), tmp_path / "out", batch_size)
    expected = expected_probabilities(multitask_run, rows)
    assert report.rows == 9
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == sorted(
        [f"{e}_prob.npy" for e in EMOTIONS] + ["predictions.csv"]
    )
    for t, emotion in enumerate(EMOTIONS):
        found = np.load(tmp_path / "out" / f"{emotion}_prob.npy")
        assert found.dtype == np.float32
        np.testing.assert_allclose(found, expected[:, t], atol=1e-6)
        np.testing.assert_allclose(found.sum(axis=1), 1, atol=1e-6)
    table = read_csv(tmp_path / "out" / "predictions.csv")
    assert [row["id"] for row in table] == [f"row-{n:05d}" for n in range(9)]
    for number, row in enumerate(table):
        assert row["four_way"] == EMOTIONS[expected[number, :, 1].argmax()]
        assert row["missing"] == ""
        for t, emotion in enumerate(EMOTIONS):
            assert float(row[f"{emotion}_probability"]) == pytest.approx(expected[number, t, 1], abs=1e-6)
            assert row[f"{emotion}_prediction"] == str(int(expected[number, t, 1] > 0.5))


@pytest.mark.parametrize("workers", [2, 5])
def test_batches_side_by_side_come_in_order(predictor, tmp_path, workers):
    source = save(tmp_path / "x.npz", **make_rows(50))
    for name, count in (("one", 1), ("many", workers)):
        infer_file(predictor, source, tmp_path / name, batch_size=3, workers=count)
    for path in (tmp_path / "one").iterdir():
        assert path.read_bytes() == (tmp_path / "many" / path.name).read_bytes()


def test_only_a_few_batches_are_read_ahead(predictor):
    read = []

    def blocks():
        for number in range(100):
            read.append(number)
            yield [str(number)], make_rows(1, seed=number)

    for number, ((ids, _), both) in enumerate(predict_blocks(predictor, blocks(), 3)):
        assert ids == [str(number)]
        assert both.shape == (1, 4, 2)
        assert len(read) <= number + 1 + 2 * 3


def test_the_clips_are_those_of_the_run(predictor, multitask_run, corpus_path, tmp_path):
    """The pickle's NaN is cleaned as in training."""
    infer_file(predictor, open_features(corpus_path), tmp_path / "out")
    from lmf_multitask import load_iemocap

    test = load_iemocap(corpus_path)["test"].with_format("numpy")
    rows = {name: test[:][name] for name in ("audio", "video", "text")}
    np.testing.assert_allclose(
        np.load(tmp_path / "out" / "sad_prob.npy"), expected_probabilities(multitask_run, rows)[:, 1], atol=1e-6
    )


def test_thresholds_decide(predictor, tmp_path):
    infer_file(predictor, save(tmp_path / "x.npz", **make_rows(5)), tmp_path / "out", thresholds=[0.0, 1.0, 0.5, 0.0])
    rows = read_csv(tmp_path / "out" / "predictions.csv")
    assert [[row[f"{e}_prediction"] for e in ("happy", "sad", "neutral")] for row in rows] == [["1", "0", "1"]] * 5


def test_no_four_way_decision_without_the_four(tmp_path):
    run = make_run(tmp_path / "run", ["happy", "sad"])
    infer_file(Predictor(run.folder), save(tmp_path / "x.npz", **make_rows(3)), tmp_path / "out")
    assert "four_way" not in read_csv(tmp_path / "out" / "predictions.csv")[0]


def test_missing_modalities_are_counted_and_said(predictor, tmp_path):
    rows = make_rows(6)
    rows["audio"][1] = 0
    rows["audio"][3] = np.nan
    rows["text"][3] = 0
    rows["text"][4, :, 0] = 0  # something is left
    rows["video"][5] = [0, np.inf, 0, np.nan]
    rows["video"][0, 1] = np.nan  # the others are there
    report = infer_file(predictor, save(tmp_path / "x.npz", **rows), tmp_path / "out", batch_size=4)
    assert report.missing == {"audio": 2, "video": 1, "text": 1}
    assert report.non_finite == {"audio": 5, "video": 3, "text": 0}
    assert [row["missing"] for row in read_csv(tmp_path / "out" / "predictions.csv")] == [
        "",
        "audio",
        "",
        "audio+text",
        "",
        "video",
    ]
    lines = "\n".join(report.lines())
    assert "audio is missing (not there, all zero or not finite) in 2 clips" in lines
    assert "video has 3 NaN or infinite numbers, set to 0" in lines


def test_missing_in_the_real_features_of_another_corpus(tmp_path):
    """youtube.pkl: 66 of 96 clips have no audio, 70 no video, 1 no text."""
    rows = open_features(shared_file("data/youtube.pkl"), None)
    sizes = {name: shape[-1] for name, shape in rows.shapes.items()}
    run = make_run(tmp_path / "run", ["negative", "neutral", "positive"], sizes=sizes)
    report = infer_file(Predictor(run.folder), rows, tmp_path / "out")
    assert report.missing == {"audio": 66, "video": 70, "text": 1}


def test_nothing_is_half_written(predictor, tmp_path):
    class Broken:
        def __init__(self, rows):
            self.count, self.shapes = 9, rows.shapes
            self.blocks = lambda size: [(["a"], next(rows.blocks(1))[1])]

    with pytest.raises(DataError, match="must have the 9 clips that it announces, but has 1"):
        infer_file(predictor, Broken(save(tmp_path / "x.npz", **make_rows(3))), tmp_path / "out")
    assert list((tmp_path / "out").iterdir()) == []


def test_other_sizes_are_refused_before_anything_is_written(predictor, tmp_path):
    rows = make_rows(3, sizes={"audio": 5, "video": 4, "text": 8})
    with pytest.raises(
        DataError, match=r"must have the feature sizes of the model, \{'audio': 5, 'video': 4, 'text': 3\}, but have"
    ):
        infer_file(predictor, save(tmp_path / "x.npz", **rows), tmp_path / "out")
    with pytest.raises(DataError, match="must have 6 words as the training data, but have 9. Pad or cut"):
        infer_file(predictor, save(tmp_path / "y.npz", **make_rows(3, words=9)), tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_separate_models_write_the_same_files(separate_runs, tmp_path):
    rows = make_rows(4)
    export_runs(runs_in(separate_runs), tmp_path / "model")
    infer_file(Predictor(tmp_path / "model"), save(tmp_path / "x.npz", **rows), tmp_path / "out")
    angry = runs_in(separate_runs)[2]
    np.testing.assert_allclose(
        np.load(tmp_path / "out" / "angry_prob.npy"), expected_probabilities(angry, rows)[:, 0], atol=1e-6
    )


def test_benchmark_tells_speed_settings_and_memory(predictor, tmp_path):
    for rows in (None, save(tmp_path / "x.npz", **make_rows(5))):
        timings = time_predictor(predictor, benchmark_rows(predictor, rows), (1, 8), seconds=0.02)
        assert [timing.batch_size for timing in timings] == [1, 8]
        for timing in timings:
            assert timing.calls >= 5
            assert 0 < timing.milliseconds[50] <= timing.milliseconds[95] <= timing.milliseconds[99]
        text = timing_table(predictor, timings)
        assert "settings: backend paddle, device cpu, threads 1, models 1" in text
        assert "peak memory" in text
