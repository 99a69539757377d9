import numpy as np
import pytest
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from lmf_multitask.errors import DataError
from lmf_multitask.evaluation.baselines import STRENGTHS, fit_linear_baseline, flat_features, prevalence


def columns(rows, seed, strength=1.0):
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, 2, (rows, 2))
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


def test_padding_does_not_count_as_a_word():
    text = np.array([[[2.0, 4.0], [4.0, 0.0], [0.0, 0.0]], [[0.0, 0.0]] * 3])
    flat = flat_features({"audio": np.array([[7.0], [8.0]]), "video": np.array([[9.0], [10.0]]), "text": text})
    np.testing.assert_array_equal(flat, [[7, 9, 3, 2], [8, 10, 0, 0]])


def test_prevalence_leaves_unannotated_clips_out():
    np.testing.assert_array_equal(prevalence(np.array([[1, -100], [0, -100], [0, -100], [1, -100]])), [0.5, 0.0])


def test_agreement_with_scikit_learns_pipeline():
    train, validation, test = columns(120, 0), columns(60, 1), columns(50, 2)
    baseline = fit_linear_baseline(train, validation, ["a", "b"])
    got = baseline.predict_probabilities(test)
    for t, strength in enumerate(baseline.strengths):
        theirs = make_pipeline(StandardScaler(), LogisticRegression(C=strength, max_iter=5000, tol=1e-8))
        theirs.fit(flat_features(train), train["labels"][:, t])
        np.testing.assert_allclose(got[:, t], theirs.predict_proba(flat_features(test))[:, 1], atol=2e-3)


def test_strength_comes_from_validation_alone():
    train, validation = columns(120, 0), columns(60, 1)
    chosen = fit_linear_baseline(train, validation, ["a", "b"]).strengths
    noise = {**validation, "labels": 1 - validation["labels"]}
    assert fit_linear_baseline(train, noise, ["a", "b"]).strengths == (STRENGTHS[0], STRENGTHS[0])
    assert all(strength > STRENGTHS[0] for strength in chosen)


def test_labels_that_lack():
    train, validation = columns(60, 0), columns(30, 1)
    train["labels"][:20, 0] = -100
    validation["labels"][:, 1] = -100
    assert fit_linear_baseline(train, validation, ["a", "b"]).strengths[1] == 0.003
    train["labels"][:, 0] = 1
    with pytest.raises(DataError, match="a must be present in some clips of train and absent in others"):
        fit_linear_baseline(train, validation, ["a", "b"])
