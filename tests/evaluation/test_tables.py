import pytest

from lmf_multitask.evaluation.published import LMF_PADDLE, LMF_PAPER, PUBLISHED
from lmf_multitask.evaluation.statistics import seed_summary
from lmf_multitask.evaluation.tables import TextTable, published_table, seed_table, verdict_on_linear


def metrics(**ahead):
    """`ahead`: emotion -> (difference, low, high) of weighted F1 against the logistic regression."""

    def entry(difference, low, high):
        return {"weighted_f1": {"difference": difference, "interval": [low, high]}}

    mean = [sum(values) / len(ahead) for values in zip(*ahead.values())]
    found = {"emotions": {name: entry(*values) for name, values in ahead.items()}, "mean": entry(*mean)}
    return {"samples": 80, "baselines": {"logistic_regression": {"network_ahead": found}}}


@pytest.mark.parametrize(
    ("ahead", "said"),
    [
        (
            {"happy": (0.1, 0.05, 0.15), "sad": (0.1, 0.05, 0.15)},
            "ahead of logistic regression on the mean weighted F1 (difference +0.100 [+0.050, +0.150]); better on happy, sad.",
        ),
        (
            {"happy": (-0.1, -0.2, -0.05), "sad": (0.0, -0.1, 0.1)},
            "not shown to beat logistic regression on the mean weighted F1 (difference -0.050 [-0.150, +0.025]); "
            "WORSE on happy; no difference that 80 rows can show on sad.",
        ),
        (
            {"happy": (-0.1, -0.2, -0.05)},
            "behind logistic regression on weighted F1 (difference -0.100 [-0.200, -0.050]).",
        ),
    ],
)
def test_the_network_says_when_it_does_not_beat_a_linear_model(ahead, said):
    assert verdict_on_linear(metrics(**ahead)) == f"The network is {said}"


def test_published_figures_tell_where_they_are_from():
    assert all(row.source for row in PUBLISHED)
    assert {row.name for row in PUBLISHED if not row.second_hand} == {"LMF", "LMF_Paddle"}
    assert all(set(row.weighted_f1) == set(LMF_PAPER) == set(LMF_PADDLE) for row in PUBLISHED)
    # ../shared/FACTS.md: DF's angry and neutral are those of never seeing the emotion, .654 and .440
    df = next(row for row in PUBLISHED if row.name == "DF")
    assert (df.weighted_f1["angry"], df.weighted_f1["neutral"]) == (0.654, 0.440)


def test_published_figures_stand_beside_iemocaps_emotions_only():
    text = published_table({"ours": {"emotions": {"sad": {"weighted_f1": 0.9}}}}).as_text()
    assert text.splitlines()[1].split() == ["model", "sad"]
    assert "ours" in text
    assert ["TFN", "(second-hand)", "0.828"] in [line.split() for line in text.splitlines()]
    assert "LMF_Paddle" in text
    assert published_table({"ours": {"emotions": {"sad": {}, "positive": {}}}}) is None


def test_a_long_title_is_not_wrapped_and_columns_stand_in_line():
    text = TextTable(
        "a title that is longer than its table", ["emotion", "F1"], [["happy", "0.5"]], note="so"
    ).as_text()
    assert text.splitlines() == ["a title that is longer than its table", "emotion   F1", "happy    0.5", "so"]


def test_seeds_in_a_table():
    def one(seed, f1):
        figures = {"weighted_f1": f1, "accuracy": None}
        return {"split": "test", "samples": 9, "seed": seed, "emotions": {"sad": figures}, "mean": figures}

    lines = seed_table(seed_summary([one(1, 0.7), one(2, 0.8), one(3, 0.9)])).splitlines()
    assert lines[0] == "test, 9 clips, 3 seeds: mean ± standard deviation [95% t-interval of the mean]"
    # 0.8 ± 4.3026527 x 0.1 / sqrt(3)
    assert lines[2].split()[:6] == ["sad", "0.800", "±", "0.100", "[0.552,", "1.048]"]
    assert seed_table(seed_summary([one(1, 0.7)])).splitlines()[2].split()[1] == "0.700"
