import csv

import numpy as np
import pytest

from lmf_multitask.errors import DataError
from lmf_multitask.evaluation.comparison import compare
from lmf_multitask.evaluation.decisions import decide
from lmf_multitask.evaluation.metrics import metrics_of, value_of
from lmf_multitask.evaluation.predictions import predictions_csv, read_predictions, write_predictions
from lmf_multitask.evaluation.verdicts import comparison_text

EMOTIONS = ("happy", "sad")


def made_up(rows=200, seed=0, noise=1.0):
    rng = np.random.default_rng(seed)
    labels = (np.random.default_rng(9).uniform(size=(rows, 2)) < 0.4).astype(float)
    return labels, 1 / (1 + np.exp(1 - 2 * labels - noise * rng.normal(size=labels.shape)))


def write(path, labels, probabilities, emotions=EMOTIONS, ids=None, with_labels=True):
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w", newline="") as file:
        writer = csv.writer(file)
        parts = ("label", "probability", "prediction") if with_labels else ("probability",)
        writer.writerow(["id", *(f"{e}_{part}" for e in emotions for part in parts)])
        for number in range(len(labels)):
            row = [ids[number] if ids else f"test-{number:05d}"]
            for t in range(len(emotions)):
                p = probabilities[number, t]
                row += [int(labels[number, t]), repr(float(p)), int(p > 0.5)] if with_labels else [repr(float(p))]
            writer.writerow(row)
    return path


@pytest.fixture
def model(tmp_path):
    def make(name, **settings):
        chosen = {k: settings.pop(k) for k in ("rows", "seed", "noise") if k in settings}
        labels, probabilities = made_up(**chosen)
        return read_predictions(write(tmp_path / name / "predictions.csv", labels, probabilities, **settings))

    return make


def test_a_file_comes_back(model):
    labels, probabilities = made_up()
    found = model("a")
    assert found.name == "a"
    assert found.emotions == ["happy", "sad"]
    np.testing.assert_array_equal(found.labels, labels)
    np.testing.assert_array_equal(found.probabilities, probabilities)
    assert found.ids[:2] == ["test-00000", "test-00001"]


def test_a_clearly_better_model(model):
    found = compare([model("bad", noise=6.0), model("good", noise=0.5)], resamples=300)
    labels, good = made_up(noise=0.5)
    _, bad = made_up(noise=6.0)
    both = [metrics_of(labels, p, EMOTIONS) for p in (bad, good)]
    for t, emotion in enumerate(EMOTIONS):
        one = found.pairs[0].emotions[emotion]
        for key in ("weighted_f1", "auroc"):
            values = [metrics["emotions"][emotion][key] for metrics in both]
            assert one.differences[key] == pytest.approx(values[1] - values[0])
            assert 0 < one.intervals[key][0] < one.differences[key] < one.intervals[key][1]
        assert one.p <= one.corrected < 0.05
        right = [(p[:, t] > 0.5) == (labels[:, t] == 1) for p in (bad, good)]
        assert one.only_second == (~right[0] & right[1]).sum()
    mean = found.pairs[0].mean
    assert mean.differences["auroc"] == pytest.approx(both[1]["mean"]["auroc"] - both[0]["mean"]["auroc"])
    assert (mean.p, mean.only_first, found.pairs[0].decision) == (None, None, None)
    swapped = compare([model("good", noise=0.5), model("bad", noise=6.0)], resamples=300).pairs[0].emotions["sad"]
    assert swapped.differences["auroc"] == -found.pairs[0].emotions["sad"].differences["auroc"]
    assert swapped.only_first == found.pairs[0].emotions["sad"].only_second


def test_a_file_is_written_and_read(tmp_path):
    labels = np.array([[1, 0], [0, 1], [np.nan, 1]])
    probabilities = np.array([[0.25, 0.5], [0.75, 0.875], [0.125, 0.5]], np.float32)
    ids = ["=1+1", "-7", "b"]
    path = tmp_path / "predictions.csv"
    write_predictions(path, ids, labels, probabilities, EMOTIONS)
    assert path.read_text().splitlines() == [
        "id,happy_label,happy_probability,happy_prediction,sad_label,sad_probability,sad_prediction,decided,confidence",
        "'=1+1,1,0.25,0,0,0.5,0,sad,0.75",
        "'-7,0,0.75,1,1,0.875,1,sad,0.7",
        "b,,0.125,0,1,0.5,0,sad,0.875",
    ]
    found = read_predictions(path)
    assert found.ids == ids
    np.testing.assert_array_equal(found.labels, labels)
    np.testing.assert_array_equal(found.probabilities.astype("f4"), probabilities)


def test_rows_of_a_file_in_blocks():
    given = (np.array([[0.25, 0.5], [0.75, 0.9]]), EMOTIONS)
    settings = {"missing": ["", "audio+text"], "decisions": decide(given[0], [0.2, 0.95], EMOTIONS)}
    whole = predictions_csv(["a", "b"], *given, **settings)
    assert whole.splitlines() == [
        "id,missing,happy_probability,happy_prediction,sad_probability,sad_prediction",
        "a,,0.25,1,0.5,0",
        "b,audio+text,0.75,1,0.9,0",
    ]
    assert whole.splitlines()[1:] == predictions_csv(["a", "b"], *given, **settings, head=False).splitlines()


def test_labels_of_others_may_be_minus_100(tmp_path):
    path = tmp_path / "predictions.csv"
    path.write_text("id,a_label,a_probability\nx,-100,0.5\ny,,0.5\nz,1,0.5\nw,0.0,0.5\n")
    np.testing.assert_array_equal(read_predictions(path).labels, [[np.nan], [np.nan], [1], [0]])


def test_holm_goes_over_all_pairs(model):
    found = compare([model("a"), model("b", seed=1), model("c", seed=2)], resamples=100)
    tests = sorted(one.p for pair in found.pairs for one in pair.emotions.values())
    corrected = min(one.corrected for pair in found.pairs for one in pair.emotions.values())
    assert len(tests) == 4
    assert corrected == pytest.approx(min(1.0, 4 * tests[0]))


def test_rows_are_joined_by_id(model):
    ids = [f"test-{number:05d}" for number in range(200)]
    first = model("a")
    labels, probabilities = made_up(noise=3.0)
    order = np.random.default_rng(3).permutation(200)[:150]
    path = write(first.source.parent.parent / "b.csv", labels[order], probabilities[order], ids=[ids[i] for i in order])
    found = compare([first, read_predictions(path, "b")], resamples=100)
    assert found.rows == 150
    chosen = np.sort(order)
    expected = value_of("weighted_f1", labels[chosen, :1], probabilities[chosen, :1], ["happy"])
    assert found.metrics["b"]["emotions"]["happy"]["weighted_f1"] == pytest.approx(expected)
    assert found.notes == ["a: 50 of its 200 rows are not in all others"]


def test_external_probabilities_need_no_labels(model):
    found = compare([model("a"), model("b", with_labels=False, noise=2.0)], resamples=100)
    assert found.metrics["b"]["emotions"]["sad"]["support"] == made_up()[0][:, 1].sum()
    with pytest.raises(DataError, match="one of the models to compare must have labels, but none has"):
        compare([model("c", with_labels=False), model("d", with_labels=False)])


def test_labels_of_some_emotions_are_enough(model, tmp_path):
    labels, probabilities = made_up()
    partial = labels.copy()
    partial[:, 1] = np.nan
    write_predictions(tmp_path / "p.csv", [f"test-{row:05d}" for row in range(200)], partial, probabilities, EMOTIONS)
    found = compare([read_predictions(tmp_path / "p.csv", "p"), model("a")], resamples=50)
    assert found.metrics["p"]["emotions"]["sad"]["support"] == labels[:, 1].sum()


def test_the_decision_among_exclusive_emotions(tmp_path):
    truth = np.arange(40) % 2
    labels = np.eye(2)[truth]
    good = np.where(labels == 1, 0.3, 0.2)  # no head says present, yet the higher one is right
    bad = good.copy()
    bad[:10] = bad[:10, ::-1]
    models = [
        read_predictions(write(tmp_path / f"{name}.csv", labels, p), name) for name, p in (("bad", bad), ("good", good))
    ]
    pair = compare(models, resamples=300).pairs[0]
    assert pair.decision.differences["weighted_accuracy"] == pytest.approx(0.25)
    assert (pair.decision.only_first, pair.decision.only_second) == (0, 10)
    assert pair.decision.p == pytest.approx(2 / 2**10)
    assert set(pair.decision.differences) == {"weighted_accuracy", "unweighted_accuracy", "macro_f1"}
    for key in ("weighted_accuracy", "unweighted_accuracy"):
        low, high = pair.decision.intervals[key]
        assert 0.08 < low < 0.25 < high < 0.42
    assert pair.emotions["happy"].differences["weighted_f1"] == 0


def test_what_cannot_be_compared(model, tmp_path):
    with pytest.raises(DataError, match="must have at least two models, but got 1"):
        compare([model("a")])
    with pytest.raises(DataError, match="must share an emotion, but a has happy, sad; b has calm, tense"):
        compare([model("a"), model("b", emotions=("calm", "tense"))])
    with pytest.raises(DataError, match="must have common ids, but have none"):
        compare([model("a"), model("b", ids=[str(n) for n in range(200)])])
    labels, probabilities = made_up()
    labels[3, 1] = 1 - labels[3, 1]
    path = write(tmp_path / "wrong.csv", labels, probabilities)
    with pytest.raises(DataError, match=r"wrong.csv: labels must equal those of .* but sad of 'test-00003' is"):
        compare([model("a"), read_predictions(path, "b")])


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "must have the columns id and EMOTION_probability .or TASK_value., but has none"),
        ("id,happy\n", "must have the columns id and EMOTION_probability .or TASK_value., but has id, happy"),
        ("id,a_probability\n", "must have at least one row"),
        ("id,a_probability\nx\n", "line 2 must have 2 values, but has 1"),
        ("id,a_probability,a_probability\nx,1,1\n", "columns must have different names"),
        ("id,a_probability\nx,0.5\nx,0.6\n", "every id must be in one row, but 'x' is in several"),
        ("id,a_probability\nx,1.5\n", "a_probability in line 2 must be from 0 to 1, but is '1.5'"),
        ("id,a_probability\nx,nan\n", "a_probability in line 2 must be from 0 to 1, but is 'nan'"),
        ("id,a_probability,a_label\nx,0.5,2\n", "a_label in line 2 must be 1, 0 or empty"),
        ("id,a_probability,a_label\nx,0.5,yes\n", "a_label in line 2 must be 1, 0 or empty"),
    ],
)
def test_wrong_files(tmp_path, text, message):
    path = tmp_path / "predictions.csv"
    path.write_text(text)
    with pytest.raises(DataError, match=message) as caught:
        read_predictions(path)
    assert str(caught.value).startswith(str(path))
    with pytest.raises(DataError, match="must be a readable file, but No such file"):
        read_predictions(tmp_path / "nowhere.csv")


def test_metrics_are_averaged_over_seeds(model, tmp_path):
    """The mean of two seeds' metrics, not the metric of their mean probability; paired on the same clips."""
    first, seeds = model("one"), []
    for seed in (1, 2):
        labels, probabilities = made_up(seed=seed, noise=3.0)
        path = write(tmp_path / f"many/seed{seed}/predictions.csv", labels, probabilities)
        seeds.append(read_predictions(path, "many"))
    found = compare([first, seeds], resamples=200)
    assert found.names == ["one", "many"]
    each = [compare([first, one], resamples=200) for one in seeds]
    for key in ("weighted_f1", "auroc"):
        own = [one.metrics["many"]["emotions"]["sad"][key] for one in each]
        assert found.metrics["many"]["emotions"]["sad"][key] == pytest.approx(np.mean(own))
        assert own[0] != own[1]
        differences = [one.pairs[0].emotions["sad"].differences[key] for one in each]
        assert found.pairs[0].emotions["sad"].differences[key] == pytest.approx(np.mean(differences))
        low, high = found.pairs[0].emotions["sad"].intervals[key]
        widths = [np.ptp(one.pairs[0].emotions["sad"].intervals[key]) for one in each]
        assert 0 < high - low < max(widths)
    assert found.notes == [
        "many: metrics are means over 2 seeds (seed1, seed2); intervals show the variation over clips, with these seeds"
    ]
    assert found.metrics["many"]["emotions"]["sad"]["support"] == int(labels[:, 1].sum())


def test_decisions_of_several_seeds_are_not_tested(model, tmp_path):
    labels = np.eye(2)[np.arange(60) % 2]
    seeds = []
    for seed in (1, 2):
        probabilities = np.clip(labels + np.random.default_rng(seed).normal(0, 0.6, labels.shape), 0.01, 0.99)
        seeds.append(read_predictions(write(tmp_path / f"a/seed{seed}/predictions.csv", labels, probabilities), "a"))
    other = read_predictions(write(tmp_path / "b/predictions.csv", labels, probabilities), "b")
    (pair,) = compare([other, seeds], resamples=100).pairs
    assert pair.decision.p is None
    assert [one.p for one in pair.emotions.values()] == [None, None]
    text = comparison_text(compare([other, seeds], resamples=100))
    assert "None" not in text
    assert "a: metrics are means over 2 seeds" in text
    assert "McNemar p -" not in text
