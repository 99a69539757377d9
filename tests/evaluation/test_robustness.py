import json

import numpy as np
import pytest

from lmf_multitask.errors import DataError
from lmf_multitask.evaluation import robustness
from lmf_multitask.evaluation.metrics import metrics_of
from lmf_multitask.evaluation.robustness import (
    MISSING_SHARES,
    NOISE_STRENGTHS,
    ROBUSTNESS_METRICS,
    feature_stds,
    loss_without,
    measure_robustness,
)

EMOTIONS = ["a", "b"]


def clips(count=40, seed=0):
    rng = np.random.default_rng(seed)
    text = rng.normal(0, 2, (count, 4, 3)).astype("f4")
    text[::2, 2:] = 0  # padding
    rows = {"audio": rng.normal(3, 1, (count, 5)), "video": rng.normal(0, 0.5, (count, 2)), "text": text}
    rows = {name: values.astype("f4") for name, values in rows.items()}
    rows["audio"][3] = 0  # none was recorded
    return {**rows, "labels": rng.integers(0, 2, (count, 2)).astype(float)}


class Model:
    """A made-up model that records its inputs; emotion a is in audio and video, b in text."""

    def __init__(self):
        self.asked = []

    def __call__(self, features):
        self.asked.append({name: np.array(values) for name, values in features.items()})
        a = features["audio"][:, 0] + features["video"][:, 0] - 3
        b = features["text"].sum(axis=(1, 2)) / 10
        return 1 / (1 + np.exp(-np.stack([a, b], axis=1)))


def measured(count=40, model=None, **settings):
    rows = clips(count)
    return measure_robustness(model or Model(), rows, EMOTIONS, split="validation", **{"train": rows, **settings})


def test_every_subset_has_the_metrics_of_the_rows_without_the_rest():
    found = measured(train=None)
    names = [one["modalities"] for one in found["subsets"]]
    assert names == [
        ["audio", "video", "text"], ["audio", "video"], ["audio", "text"], ["video", "text"], ["audio"], ["video"], ["text"],
    ]  # fmt: skip
    rows = clips()
    for one in found["subsets"]:
        zeroed = {name: rows[name] * (name in one["modalities"]) for name in ("audio", "video", "text")}
        expected = metrics_of(rows["labels"], Model()(zeroed), EMOTIONS)
        for key in ROBUSTNESS_METRICS:
            assert one["mean"][key] == pytest.approx(expected["mean"][key])
            for name in EMOTIONS:
                assert one["emotions"][name][key] == pytest.approx(expected["emotions"][name][key])
    assert found["noise"] is found["missing"] is None
    assert found["rows_without"] == {"audio": 1, "video": 0, "text": 0}
    assert (found["split"], found["samples"]) == ("validation", 40)


def test_known_predictions_are_not_computed_again():
    model, rows = Model(), clips()
    found = measured(model=model, train=None, plain=Model()(rows))
    assert len(model.asked) == 6
    assert found == measured(train=None)


def test_sequences_of_every_modality():
    rows = clips()
    rows["audio"] = np.stack([rows["audio"], 2 * rows["audio"], 0 * rows["audio"]], axis=1)  # the last step is padding
    asked = []

    def predict(features):
        asked.append(features["audio"])
        return Model()({**features, "audio": features["audio"].sum(axis=1)})

    found = measure_robustness(predict, rows, EMOTIONS, split="validation", train=rows, modalities=["audio"], draws=1)
    assert found["rows_without"] == {"audio": 1}
    np.testing.assert_allclose(
        feature_stds(rows["audio"]), np.delete(rows["audio"][:, :2], 3, 0).std(axis=(0, 1)), rtol=1e-5
    )
    noisy = asked[1]
    assert not noisy[:, 2].any()
    assert not noisy[3].any()
    assert (np.delete(noisy != rows["audio"], 3, axis=0)[:, :2]).any(axis=2).all()


def test_a_model_of_fewer_modalities_has_their_subsets_only():
    found = measured(modalities=["audio", "text"])
    assert [one["modalities"] for one in found["subsets"]] == [["audio", "text"], ["audio"], ["text"]]
    assert list(found["noise"]) == list(found["missing"]) == ["audio", "text"]


def test_stds_leave_out_padding_and_missing_clips(monkeypatch):
    monkeypatch.setattr(robustness, "_BLOCK_ROWS", 7)  # several blocks
    rows = clips()
    present = np.delete(rows["audio"], 3, axis=0)
    np.testing.assert_allclose(feature_stds(rows["audio"]), present.std(axis=0), rtol=1e-5)
    words = np.concatenate([text[:2] if number % 2 == 0 else text for number, text in enumerate(rows["text"])])
    np.testing.assert_allclose(feature_stds(rows["text"]), words.std(axis=0), rtol=1e-5)
    np.testing.assert_array_equal(feature_stds(np.zeros((5, 2), "f4")), [0, 0])


@pytest.mark.parametrize("modality", ["audio", "text"])
def test_noise_has_the_stated_std_and_leaves_padding_at_zero(modality):
    model, rows = Model(), clips(2000)
    found = measured(2000, model, modalities=[modality], draws=2)
    strengths = [s for s in NOISE_STRENGTHS if s > 0 for _ in range(2)]
    blocks = model.asked[2 : 2 + 2 * len(strengths)]  # after the one subset, in two blocks
    asked = [np.concatenate([x[modality], y[modality]]) for x, y in zip(blocks[::2], blocks[1::2])]
    std = feature_stds(rows[modality])
    present = (rows[modality] != 0).any(axis=-1)
    units = []
    for strength, values in zip(strengths, asked):
        assert not values[~present].any()
        noise = (values - rows[modality])[present] / std / strength
        units.append(noise)
        assert noise.mean() == pytest.approx(0, abs=0.03)
        assert noise.std() == pytest.approx(1, abs=0.03)
    np.testing.assert_allclose(units[0], units[-2], atol=1e-3)  # one draw serves every strength
    assert np.abs(units[0] - units[1]).mean() > 0.5  # the draws differ
    for other in ("video", "audio" if modality == "text" else "text"):
        np.testing.assert_array_equal(np.concatenate([one[other] for one in blocks[:2]]), rows[other])
    assert [point["draws"] for point in found["noise"][modality]] == [1, 2, 2, 2, 2, 2]


def test_missing_rows_are_nested(monkeypatch):
    monkeypatch.setattr(robustness, "_BLOCK_ROWS", 16)
    model, rows = Model(), clips()
    measured(model=model, modalities=["video"], draws=1)
    asked = [np.concatenate([one["video"] for one in model.asked[n : n + 3]]) for n in range(0, len(model.asked), 3)]
    removed = [
        set(np.flatnonzero((values == 0).all(axis=1))) for values in asked[-5:]
    ]  # share 0 is the whole, asked before
    assert [len(one) for one in removed] == [round(share * 40) for share in MISSING_SHARES[1:]]
    assert all(before < after for before, after in zip(removed, removed[1:]))
    for values, chosen in zip(asked[-5:], removed):
        kept = [row for row in range(40) if row not in chosen]
        np.testing.assert_array_equal(values[kept], rows["video"][kept])


def test_ends_of_the_curves_are_subsets():
    found = measured()
    whole = found["subsets"][0]["mean"]
    for modality, rest in (("audio", ["video", "text"]), ("video", ["audio", "text"]), ("text", ["audio", "video"])):
        without = next(one for one in found["subsets"] if one["modalities"] == rest)
        assert found["noise"][modality][0]["mean"] == found["missing"][modality][0]["mean"] == whole
        assert found["missing"][modality][-1]["mean"] == without["mean"]
        assert loss_without(found, modality) == (whole["weighted_f1"], without["mean"]["weighted_f1"])
    assert loss_without(measured(modalities=["audio"]), "audio") is None
    assert loss_without(measured(modalities=["audio"]), "text") is None


def test_mean_and_spread_over_draws():
    found, single = measured(draws=3), measured(draws=1)
    point, one = found["noise"]["text"][-1], single["noise"]["text"][-1]
    assert 0 < point["sd"]["weighted_f1"] < 0.5
    assert one["sd"]["weighted_f1"] == 0
    means = [point["emotions"][name]["auroc"] for name in EMOTIONS]
    assert point["mean"]["auroc"] == pytest.approx(np.mean(means))


def test_the_same_arguments_give_the_same_numbers():
    assert json.dumps(measured()) == json.dumps(measured())
    assert measured()["noise"] != measured(seed=1)["noise"]


def test_an_emotion_without_labels_is_undefined():
    rows = clips()
    rows["labels"][:, 1] = np.nan
    found = measure_robustness(Model(), rows, EMOTIONS, split="test", train=rows)
    assert found["subsets"][0]["emotions"]["b"] == {"weighted_f1": None, "positive_f1": None, "auroc": None}
    assert found["subsets"][0]["mean"]["auroc"] == found["subsets"][0]["emotions"]["a"]["auroc"]
    rows["labels"][:, 0] = 0
    found = measure_robustness(Model(), rows, EMOTIONS, split="test", train=rows)
    assert found["noise"]["audio"][-1]["mean"]["auroc"] is None
    assert found["noise"]["audio"][-1]["sd"]["auroc"] is None
    json.dumps(found, allow_nan=False)


@pytest.mark.parametrize("wrong", [{"modalities": []}, {"draws": 0}])
def test_nothing_to_measure(wrong):
    with pytest.raises(
        DataError, match="robustness must be measured on rows and modalities, in at least one draw, but"
    ):
        measured(**wrong)
