import numpy as np
import pytest
import scipy.optimize
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from threadpoolctl import threadpool_info, threadpool_limits

from lmf_multitask.data.columns import ChunkedColumn
from lmf_multitask.errors import DataError
from lmf_multitask.evaluation import baselines
from lmf_multitask.evaluation.baselines import (
    STRENGTHS,
    UNVALIDATED_STRENGTH,
    baseline_predictions,
    constant,
    fit_linear_baseline,
    flat_features,
)
from lmf_multitask.tasks import BinaryTask, RegressionTask


def sigmoid(x):
    return 1 / (1 + np.exp(-x))


def columns(rows, seed, strength=1.0):
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, 2, (rows, 2)).astype(float)
    audio = rng.normal(size=(rows, 4)) + strength * labels[:, :1]
    audio[:, 3] = 0  # a constant feature, as COVAREP has them
    text = rng.normal(size=(rows, 5, 3))
    text[:, 3:] = 0
    return {
        "audio": audio.astype(np.float32),
        "video": rng.normal(size=(rows, 2)).astype(np.float32),
        "text": (text + strength * labels[:, 1, None, None] * (text != 0)).astype(np.float32),
        "labels": labels,
    }


def strengths(baseline):
    return list(baseline.strengths)


def test_padding_does_not_count_as_a_step():
    text = np.array([[[2.0, 4.0], [4.0, 0.0], [0.0, 0.0]], [[0.0, 0.0]] * 3])
    flat = flat_features({"audio": np.array([[7.0], [8.0]]), "video": np.array([[9.0], [10.0]]), "text": text})
    np.testing.assert_array_equal(flat, [[7, 9, 3, 2], [8, 10, np.nan, np.nan]])


def test_sequences_of_every_modality_are_averaged():
    audio = np.array([[[2.0], [4.0], [0.0]], [[0.0], [0.0], [0.0]]])
    flat = flat_features({"audio": audio, "video": np.array([[9.0], [10.0]]), "text": np.full((2, 1, 2), 5.0)})
    np.testing.assert_array_equal(flat, [[3, 9, 5, 5], [np.nan, 10, 5, 5]])


def test_a_missing_modality_counts_as_its_mean_and_outliers_are_clipped():
    train, validation = columns(120, 0), columns(60, 1)
    train["text"][::3] = 0
    baseline = fit_linear_baseline(train, validation, ["a", "b"])
    present = flat_features(train)[np.arange(120) % 3 > 0]
    np.testing.assert_allclose(baseline.mean[-3:], present[:, -3:].mean(axis=0), rtol=1e-6)
    np.testing.assert_allclose(baseline.std[-3:], present[:, -3:].std(axis=0), rtol=1e-6)
    clip = {name: np.zeros((1, *values.shape[1:]), "f4") for name, values in train.items() if name != "labels"}
    np.testing.assert_allclose(baseline.predict(clip)[0], sigmoid(baseline.intercepts))
    for size in (1e3, 1e9):
        clip["audio"][:] = size
        moved = 5 * baseline.weights[:3].sum(axis=0)
        np.testing.assert_allclose(baseline.predict(clip)[0], sigmoid(baseline.intercepts + moved), rtol=1e-6)


def test_some_modalities_only():
    train, validation = columns(120, 0), columns(60, 1)
    baseline = fit_linear_baseline(train, validation, ["a", "b"], ["audio", "text"])
    assert baseline.weights.shape == (4 + 3, 2)
    other = {**train, "video": train["video"] + 9}
    np.testing.assert_array_equal(baseline.predict(other), baseline.predict(train))


def test_prevalence_leaves_unannotated_clips_out():
    np.testing.assert_array_equal(constant(np.array([[1, np.nan], [0, np.nan], [0, np.nan], [1, np.nan]])), [0.5, 0.0])


def test_agreement_with_scikit_learns_pipeline():
    train, validation, test = columns(120, 0), columns(60, 1), columns(50, 2)
    baseline = fit_linear_baseline(train, validation, ["a", "b"])
    got = baseline.predict(test)
    for t, chosen in enumerate(strengths(baseline)):
        theirs = make_pipeline(StandardScaler(), LogisticRegression(C=chosen, max_iter=5000, tol=1e-8))
        theirs.fit(flat_features(train), train["labels"][:, t])
        np.testing.assert_allclose(got[:, t], theirs.predict_proba(flat_features(test))[:, 1], atol=2e-3)


def test_fitting_takes_one_thread(monkeypatch):
    """Two take two to three times as long, and round otherwise."""
    threads = []
    original = scipy.optimize.minimize

    def watched(*given, **named):
        threads.extend(library["num_threads"] for library in threadpool_info())
        return original(*given, **named)

    monkeypatch.setattr(scipy.optimize, "minimize", watched)
    with threadpool_limits(2):
        fit_linear_baseline(columns(120, 0), columns(60, 1), ["a", "b"])
    assert set(threads) == {1}


def test_strength_comes_from_validation_alone():
    train, validation = columns(120, 0), columns(60, 1)
    chosen = strengths(fit_linear_baseline(train, validation, ["a", "b"]))
    noise = {**validation, "labels": 1 - validation["labels"]}
    assert strengths(fit_linear_baseline(train, noise, ["a", "b"])) == [STRENGTHS[0], STRENGTHS[0]]
    assert all(strength > STRENGTHS[0] for strength in chosen)


def test_missing_labels():
    train, validation = columns(60, 0), columns(30, 1)
    train["labels"][:20, 0] = np.nan
    validation["labels"][:, 1] = np.nan
    assert strengths(fit_linear_baseline(train, validation, ["a", "b"]))[1] == UNVALIDATED_STRENGTH
    train["labels"][:, 0] = 1
    with pytest.raises(DataError, match="a must be present in some clips of train and absent in others"):
        fit_linear_baseline(train, validation, ["a", "b"])


def test_chosen_rows_and_chunks():
    data = columns(1100, 0)
    cut = {name: ChunkedColumn(np.array_split(values, 4)) for name, values in data.items()}
    text = data["text"].astype(np.float64)[:, :3]  # two of the five words are padding
    expected = np.concatenate([data["audio"], data["video"], text.mean(axis=1)], axis=1)
    np.testing.assert_allclose(flat_features(data), expected, rtol=1e-12)
    np.testing.assert_array_equal(flat_features(cut), flat_features(data))
    np.testing.assert_array_equal(flat_features(cut, [700, 3]), flat_features(data)[[700, 3]])


def test_of_many_clips_some_are_drawn(monkeypatch):
    monkeypatch.setattr(baselines, "MOST_ROWS", 200)
    train, validation, test = columns(1000, 0), columns(300, 1), columns(500, 2)
    asked = []
    original = baselines.flat_features
    monkeypatch.setattr(baselines, "flat_features", lambda *given: asked.append(given[1]) or original(*given))
    baseline = fit_linear_baseline(train, validation, ["a", "b"])
    assert [len(rows) for rows in asked] == [200, 200]
    assert len(set(asked[0].tolist())) == 200
    again = fit_linear_baseline(train, validation, ["a", "b"])
    np.testing.assert_array_equal(again.predict(test), baseline.predict(test))
    asked.clear()
    got = baseline.predict(test)
    assert [len(rows) for rows in asked] == [200, 200, 100]
    right = (got > 0.5) == (test["labels"] == 1)
    assert (right.mean(axis=0) > 0.6).all()  # of two classes that are as frequent
    rows = (original(test) - baseline.mean) / baseline.std
    np.testing.assert_allclose(got, sigmoid(rows.clip(-5, 5) @ baseline.weights + baseline.intercepts), rtol=1e-9)


def test_every_class_is_drawn(monkeypatch):
    monkeypatch.setattr(baselines, "MOST_ROWS", 200)
    train, validation = columns(1000, 0), columns(100, 1)
    for row in (17, 500, 999):
        train["labels"][:, 0] = 0
        train["labels"][row, 0] = 1
        fit_linear_baseline(train, validation, ["a", "b"])  # or "a must be present in some clips"


def test_a_kind_of_task_without_baselines_has_none():
    class Count(RegressionTask):
        kind = "count"

    data = columns(40, 1)
    linear = fit_linear_baseline(data, columns(20, 2), [BinaryTask("one"), Count("two")])
    found = baseline_predictions(data["labels"], linear, columns(10, 3))
    assert set(found) == {"prevalence", "logistic_regression"}
    for values in found.values():
        assert np.isfinite(values[:, 0]).all() and np.isnan(values[:, 1]).all()
