import csv

import numpy as np
import pytest

from lmf_multitask.errors import DataError
from lmf_multitask.evaluation.comparison import compare
from lmf_multitask.evaluation.metrics import binary_figures
from lmf_multitask.evaluation.predictions import join_emotions, read_predictions
from lmf_multitask.runs import predictions_of

EMOTIONS = ("happy", "sad")


def made_up(rows=200, seed=0, noise=1.0):
    rng = np.random.default_rng(seed)
    labels = (np.random.default_rng(9).uniform(size=(rows, 2)) < 0.4).astype(int)
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
                row += [labels[number, t], repr(float(p)), int(p > 0.5)] if with_labels else [repr(float(p))]
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


def test_models_that_hardly_differ(model):
    found = compare([model("a"), model("b", noise=1.001)], resamples=300)
    text = found.as_text()
    assert "no difference that 200 rows can show" in text
    assert found.verdict() == "b against a: no difference that 200 rows can show (happy, sad, mean weighted F1)."


def test_a_clearly_better_model(model):
    found = compare([model("bad", noise=6.0), model("good", noise=0.5)], resamples=300)
    labels, good = made_up(noise=0.5)
    _, bad = made_up(noise=6.0)
    for t, emotion in enumerate(EMOTIONS):
        one = found.pairs[0].emotions[emotion]
        figures = [binary_figures(labels[:, t], p[:, t] > 0.5)["weighted_f1"] for p in (bad, good)]
        assert one.differences["weighted_f1"] == pytest.approx(figures[1] - figures[0])
        assert one.intervals["weighted_f1"][0] > 0
        assert one.p <= one.corrected < 0.05
        right = [(p[:, t] > 0.5) == (labels[:, t] == 1) for p in (bad, good)]
        assert one.only_second == (~right[0] & right[1]).sum()
    assert "good errs less (happy, sad)" in found.verdict()
    assert "good is better (mean weighted F1)" in found.verdict()
    swapped = compare([model("good", noise=0.5), model("bad", noise=6.0)], resamples=300)
    assert "good errs less (happy, sad)" in swapped.verdict()


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
    expected = binary_figures(labels[chosen, 0], probabilities[chosen, 0] > 0.5)["weighted_f1"]
    assert found.figures["b"]["emotions"]["happy"]["weighted_f1"] == pytest.approx(expected)
    assert found.notes == ["a: 50 of its 200 rows are not in all others"]


def test_external_probabilities_need_no_labels(model):
    found = compare([model("a"), model("b", with_labels=False, noise=2.0)], resamples=100)
    assert found.figures["b"]["emotions"]["sad"]["support"] == made_up()[0][:, 1].sum()
    with pytest.raises(DataError, match="one of the models to compare must have labels, but none has"):
        compare([model("c", with_labels=False), model("d", with_labels=False)])


def test_per_emotion_parts_become_one_model(tmp_path):
    labels, probabilities = made_up()
    for t, emotion in enumerate(EMOTIONS):
        write(tmp_path / "parent" / emotion / "predictions.csv", labels[:, [t]], probabilities[:, [t]], [emotion])
        (tmp_path / "parent" / emotion / "config.yaml").write_text("seed: 1\n")
    write(tmp_path / "other" / "predictions.csv", labels, probabilities)
    joined, other = predictions_of([str(tmp_path / "parent"), str(tmp_path / "other")])
    assert (joined.name, joined.emotions) == ("parent", ["happy", "sad"])
    np.testing.assert_array_equal(joined.probabilities, other.probabilities)
    np.testing.assert_array_equal(joined.labels, other.labels)
    with pytest.raises(DataError, match="must hold one run per emotion, but has happy, sad, happy, sad"):
        join_emotions([other, other], "x", tmp_path)


def test_runs_of_one_name_are_told_apart(tmp_path):
    labels, probabilities = made_up(20)
    for name in ("one/seed1", "two/seed1"):
        write(tmp_path / name / "predictions.csv", labels, probabilities)
    found = predictions_of([str(tmp_path / "one/seed1"), str(tmp_path / "two/seed1")])
    assert [one.name for one in found] == ["one/seed1", "two/seed1"]


def test_labels_of_some_emotions_are_enough(model, tmp_path):
    labels, probabilities = made_up()
    partial = labels.copy()
    partial[:, 1] = -100
    found = compare(
        [read_predictions(write(tmp_path / "p.csv", partial, probabilities), "p"), model("a")], resamples=50
    )
    assert found.figures["p"]["emotions"]["sad"]["support"] == labels[:, 1].sum()


def test_the_decision_among_exclusive_emotions(tmp_path):
    truth = np.arange(40) % 2
    labels = np.eye(2, dtype=int)[truth]
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
    low, high = pair.decision.intervals["weighted_accuracy"]
    assert 0.08 < low < 0.25 < high < 0.42
    assert "One of 2 (highest plain probability): WA +0.250" in compare(models, resamples=50).as_text()
    assert pair.decision_line().endswith("McNemar p 0.002: good errs less.")
    assert pair.emotions["happy"].verdict("bad", "good") == "no difference that 40 rows can show"


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
    with pytest.raises(DataError, match=r"wrong.csv: labels must be those of .* but sad of 'test-00003' is"):
        compare([model("a"), read_predictions(path, "b")])


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "must have the columns id and EMOTION_probability, but has none"),
        ("id,happy\n", "must have the columns id and EMOTION_probability, but has id, happy"),
        ("id,a_probability\n", "must have at least one row"),
        ("id,a_probability\nx\n", "line 2 must have 2 values, but has 1"),
        ("id,a_probability,a_probability\nx,1,1\n", "columns must have different names"),
        ("id,a_probability\nx,0.5\nx,0.6\n", "every id must stand in one row, but 'x' stands in several"),
        ("id,a_probability\nx,1.5\n", "a_probability in line 2 must be from 0 to 1, but is '1.5'"),
        ("id,a_probability\nx,nan\n", "a_probability in line 2 must be from 0 to 1, but is 'nan'"),
        ("id,a_probability,a_label\nx,0.5,2\n", "a_label in line 2 must be 1, 0, -100 or empty"),
    ],
)
def test_wrong_files(tmp_path, text, message):
    path = tmp_path / "predictions.csv"
    path.write_text(text)
    with pytest.raises(DataError, match=message) as caught:
        read_predictions(path)
    assert str(caught.value).startswith(str(path))
    with pytest.raises(DataError, match="must be there, but is missing"):
        read_predictions(tmp_path / "nowhere.csv")
