import csv

import numpy as np
import pytest
from conftest import EMOTIONS, shared_file

from lmf_multitask.data.sources import open_source
from lmf_multitask.deployment.benchmark import timing_table
from lmf_multitask.deployment.description import generated_clips
from lmf_multitask.deployment.inference import infer_file, predict_blocks
from lmf_multitask.deployment.predictor import Predictor
from lmf_multitask.errors import DataError, RunError
from lmf_multitask.evaluation.predictions import read_predictions

from .conftest import SEQUENCES, expected_present, make_rows, make_run


@pytest.fixture(scope="module")
def predictor(exported):
    return Predictor(exported)


def save(path, **rows):
    np.savez(path, **rows)
    return open_source(path)


def read_csv(path):
    with path.open() as file:
        return list(csv.DictReader(file))


def names(folder):
    return sorted(path.name for path in folder.iterdir())


@pytest.mark.parametrize("batch_size", [1, 4, 64])
def test_files(predictor, multitask_run, tmp_path, batch_size):
    rows = make_rows(9)
    report = infer_file(predictor, save(tmp_path / "x.npz", **rows), tmp_path / "out", batch_size)
    expected = expected_present(multitask_run, rows)
    assert report.rows == 9
    assert names(tmp_path / "out") == sorted([f"{e}_prob.npy" for e in EMOTIONS] + ["predictions.csv"])
    for t, emotion in enumerate(EMOTIONS):
        found = np.load(tmp_path / "out" / f"{emotion}_prob.npy")
        assert (found.dtype, found.shape) == (np.float32, (9, 2))
        np.testing.assert_allclose(found[:, 1], expected[:, t], atol=1e-6)
        np.testing.assert_allclose(found.sum(axis=1), 1, atol=1e-6)
    odds = expected / (1 - expected)
    joint = odds / odds.sum(axis=1, keepdims=True)
    for number, row in enumerate(read_csv(tmp_path / "out" / "predictions.csv")):
        assert row["decided"] == EMOTIONS[expected[number].argmax()]
        assert float(row["confidence"]) == pytest.approx(joint[number].max(), abs=1e-5)
        assert row["missing"] == ""
        for t, emotion in enumerate(EMOTIONS):
            assert float(row[f"{emotion}_probability"]) == pytest.approx(expected[number, t], abs=1e-6)
            assert row[f"{emotion}_prediction"] == str(int(expected[number, t] > 0.5))


def test_sequences_of_every_modality(tmp_path):
    run = make_run(tmp_path / "run", inputs=SEQUENCES)
    rows = make_rows(5, inputs=SEQUENCES, steps=3)
    infer_file(Predictor(run), save(tmp_path / "x.npz", **rows), tmp_path / "out", batch_size=2)
    found = np.load(tmp_path / "out" / "sad_prob.npy")[:, 1]
    np.testing.assert_allclose(found, expected_present(run, rows)[:, 1], atol=1e-6)


def test_ids_are_safe_for_spreadsheets_and_come_back(predictor, tmp_path):
    ids = ["=cmd|' /C calc'!A0", "+1", "plain", "'quoted", "=x", "'=x", "''=x", "\n=x", "＝x"]
    infer_file(predictor, save(tmp_path / "x.npz", **make_rows(len(ids)), id=np.array(ids)), tmp_path / "out")
    assert not any(row["id"].startswith(("=", "+", "-", "@")) for row in read_csv(tmp_path / "out" / "predictions.csv"))
    assert read_predictions(tmp_path / "out" / "predictions.csv").ids == ids


@pytest.mark.parametrize("workers", [2, 5])
def test_workers_do_not_change_the_results(predictor, tmp_path, workers):
    source = save(tmp_path / "x.npz", **make_rows(50))
    for name, count in (("one", 1), ("many", workers)):
        infer_file(predictor, source, tmp_path / name, batch_size=3, workers=count)
    for path in (tmp_path / "one").iterdir():
        assert path.read_bytes() == (tmp_path / "many" / path.name).read_bytes()


def test_only_a_few_blocks_are_read_ahead(predictor):
    read = []

    def blocks():
        for number in range(100):
            read.append(number)
            yield [str(number)], make_rows(1, seed=number)

    for number, (ids, clips, present) in enumerate(predict_blocks(predictor, blocks(), 3)):
        assert ids == [str(number)]
        assert (len(clips), present.shape) == (1, (1, 4))
        assert len(read) <= number + 1 + 2 * 3


def test_features_are_cleaned_as_in_training(predictor, multitask_run, corpus_path, tmp_path):
    from lmf_multitask import load_iemocap

    infer_file(predictor, open_source(corpus_path, "test"), tmp_path / "out")
    test = load_iemocap(corpus_path)["test"].with_format("numpy")
    rows = {name: test[:][name] for name in ("audio", "video", "text")}
    found = np.load(tmp_path / "out" / "sad_prob.npy")[:, 1]
    np.testing.assert_allclose(found, expected_present(multitask_run, rows)[:, 1], atol=1e-6)


def test_thresholds_decide(predictor, tmp_path):
    infer_file(predictor, save(tmp_path / "x.npz", **make_rows(5)), tmp_path / "out", thresholds=[0.0, 1.0, 0.5, 0.0])
    rows = read_csv(tmp_path / "out" / "predictions.csv")
    assert [[row[f"{e}_prediction"] for e in ("happy", "sad", "neutral")] for row in rows] == [["1", "0", "1"]] * 5


def test_no_decision_among_tasks_that_are_not_exclusive(tmp_path):
    run = make_run(tmp_path / "run", ["happy", "sad"], exclusive=False)
    infer_file(Predictor(run), save(tmp_path / "x.npz", **make_rows(3)), tmp_path / "out")
    assert "decided" not in read_csv(tmp_path / "out" / "predictions.csv")[0]


def test_missing_modalities_are_counted(predictor, tmp_path):
    rows = make_rows(6)
    rows["audio"][1] = 0
    rows["audio"][3] = np.nan
    rows["text"][3] = 0
    rows["text"][4, :, 0] = 0  # not all zero
    rows["video"][5] = [0, np.inf, 0, np.nan]
    rows["video"][0, 1] = np.nan
    report = infer_file(predictor, save(tmp_path / "x.npz", **rows), tmp_path / "out", batch_size=4)
    assert report.missing == {"audio": 2, "video": 1, "text": 1}
    assert report.non_finite == {"audio": 5, "video": 3, "text": 0}
    found = [row["missing"] for row in read_csv(tmp_path / "out" / "predictions.csv")]
    assert found == ["", "audio", "", "audio+text", "", "video"]
    lines = "\n".join(report.lines())
    assert "audio is missing (absent, all zero or not finite) in 2 clips" in lines
    assert "video has 3 NaN or infinite numbers, set to 0" in lines


def test_missing_in_the_real_features_of_another_corpus(tmp_path):
    """youtube.pkl: 66 of 96 clips have no audio, 70 no video, 1 no text."""
    source = open_source(shared_file("data/youtube.pkl"))
    run = make_run(tmp_path / "run", ["negative", "neutral", "positive"], inputs=source.shapes)
    report = infer_file(Predictor(run), source, tmp_path / "out")
    assert report.missing == {"audio": 66, "video": 70, "text": 1}


# -- the output folder


def test_results_of_another_model_are_replaced(predictor, tmp_path):
    source = save(tmp_path / "x.npz", **make_rows(3))
    other = Predictor(make_run(tmp_path / "run", ["joy", "sad"]))
    infer_file(other, source, tmp_path / "out")
    assert names(tmp_path / "out") == ["joy_prob.npy", "predictions.csv", "sad_prob.npy"]
    (tmp_path / "out" / ".sad_prob.npy.x.part").write_text("of a killed process")
    infer_file(predictor, source, tmp_path / "out")
    assert names(tmp_path / "out") == sorted([f"{e}_prob.npy" for e in EMOTIONS] + ["predictions.csv"])


@pytest.mark.parametrize("foreign", ["thesis.txt", "other_prob.npy"])
def test_foreign_files_are_refused(predictor, tmp_path, foreign):
    source = save(tmp_path / "x.npz", **make_rows(3))
    infer_file(predictor, source, tmp_path / "out")
    (tmp_path / "out" / foreign).write_text("mine")
    before = {path: path.read_bytes() for path in (tmp_path / "out").iterdir()}
    with pytest.raises(
        RunError, match=f"must be empty or hold the results of an earlier inference, but holds '{foreign}'"
    ):
        infer_file(predictor, source, tmp_path / "out")
    assert {path: path.read_bytes() for path in (tmp_path / "out").iterdir()} == before
    with pytest.raises(RunError, match=r"x.npz: must be a folder, but is a file"):
        infer_file(predictor, source, tmp_path / "x.npz")


def test_nothing_is_half_written(predictor, tmp_path):
    class Broken:
        def __init__(self, source):
            self.count, self.shapes = 9, source.shapes
            self.all_blocks = lambda size: [(["a"], next(source.all_blocks(1))[1])]

    with pytest.raises(DataError, match="must have the 9 clips that it announces, but has 1"):
        infer_file(predictor, Broken(save(tmp_path / "x.npz", **make_rows(3))), tmp_path / "out")
    assert list((tmp_path / "out").iterdir()) == []


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"text": (6, 8)}, r"text must have the shape \[steps, 3\] per clip, as in training, but has \[6, 8\]"),
        ({"audio": (2, 5)}, r"audio must have the shape \[5\] per clip, as in training, but has \[2, 5\]"),
    ],
)
def test_other_shapes_are_refused_before_anything_is_written(predictor, tmp_path, change, message):
    rows = make_rows(3, inputs={"audio": (5,), "video": (4,), "text": (6, 3), **change})
    with pytest.raises(DataError, match=message):
        infer_file(predictor, save(tmp_path / "x.npz", **rows), tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_separate_models_write_the_same_files(separate_runs, exported_separate, tmp_path):
    rows = make_rows(4)
    infer_file(Predictor(exported_separate), save(tmp_path / "x.npz", **rows), tmp_path / "out")
    found = np.load(tmp_path / "out" / "angry_prob.npy")[:, 1]
    np.testing.assert_allclose(found, expected_present(separate_runs / "angry", rows)[:, 0], atol=1e-6)


def test_benchmark(predictor):
    lines = timing_table(predictor, generated_clips(predictor.description, 5), (1, 8), seconds=0.02).splitlines()
    assert lines[0] == "settings: backend paddle, device cpu, threads 1, models 1"
    assert lines[-1].startswith("peak memory")
    for line, size in zip(lines[2:-1], (1, 8)):
        found, per_second, p50, p95, p99, calls = (float(word.replace(",", "")) for word in line.split())
        assert found == size
        assert per_second > 0
        assert 0 < p50 <= p95 <= p99
        assert calls >= 5
