import numpy as np

from lmf_multitask.evaluation.metrics import always_absent, multitask_figures
from lmf_multitask.evaluation.report import results_table


def metrics(emotions, baseline=True):
    labels = np.array([[1, 0], [0, 1], [0, 0], [1, -100]])[:, : len(emotions)]
    probabilities = np.array([[0.9, 0.1], [0.2, 0.3], [0.6, 0.4], [0.7, 0.8]])[:, : len(emotions)]
    figures = {"split": "test", "samples": 4, **multitask_figures(labels, probabilities, emotions)}
    return {**figures, "always_absent": always_absent(labels, emotions)} if baseline else figures


def cells(table, name):
    return next(line.split() for line in table.splitlines() if line.startswith(f"{name} "))


def test_paper_figures_stand_beside_and_are_told_apart():
    table = results_table(metrics(["happy", "sad"]))
    assert table.startswith("test, 4 clips")
    # happy: TP 2, FP 1, FN 0, TN 1; F1 .8 and .667; always absent: half of .667
    assert cells(table, "happy") == ["happy", "2/4", "0.733", "0.750", "0.800", "0.750", "0.333", "0.858", "0.858"]
    # sad: FN 1, TN 2; F1 0 and .8
    assert cells(table, "sad") == ["sad", "1/3", "0.533", "0.667", "0.000", "0.500", "0.533", "0.859", "0.863"]
    assert cells(table, "mean") == ["mean", "0.633", "0.708", "0.400", "0.625", "0.433"]
    assert "LMF paper**" in table
    assert "** weighted F1 published for IEMOCAP's 938 test clips" in table
    assert "*  weighted F1 of never seeing the emotion" in table
    assert max(map(len, table.splitlines())) <= 120


def test_differences_to_the_published_figures_of_separate_models():
    table = results_table({**metrics(["happy", "sad"]), "mode": "per_emotion"})
    assert cells(table, "happy")[-4:] == ["0.858", "(-0.125)", "0.858", "(-0.125)"]
    assert "(in brackets: ours less that)" in table


def test_emotions_of_other_corpora_have_no_published_figures():
    assert "paper" not in results_table(metrics(["happy", "calm"]))  # another corpus' happy
    table = results_table(metrics(["positive"], baseline=False))
    assert "paper" not in table
    assert "*" not in table
    assert "mean" not in table
    assert cells(table, "positive") == ["positive", "2/4", "0.733", "0.750", "0.800", "0.750"]


def test_undefined_figures_are_a_dash():
    figures = {"split": "test", "samples": 2, **multitask_figures(np.zeros((2, 1), int), np.zeros((2, 1)), ["x"])}
    assert cells(results_table(figures), "x") == ["x", "0/2", "1.000", "1.000", "-", "-"]
