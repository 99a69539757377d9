"""The page of a search, from made-up trials of every state."""

import base64
import dataclasses
import re
from xml.etree import ElementTree

import numpy as np
import pytest
from browser import Chromium, faults, needs_chromium

from lmf_multitask.evaluation.drawing import DARK
from lmf_multitask.evaluation.statistics import seed_summary
from lmf_multitask.searching.page import write_search
from lmf_multitask.searching.results import Retrained, SearchResult, Trial, short_name, shown, spread

NAMES = (
    "training.learning_rate",
    "model.fusion.rank",
    "model.encoders.text.hidden, model.encoders.text.state",
    "model.fusion.dim",
)


def trial(number, value, state="finished", epochs=6, **others):
    rng = np.random.default_rng(number)
    values = [float(one) for one in rng.uniform(0.5, 0.9, epochs - 1)] + ([] if value is None else [value])
    settings = dict(zip(NAMES, (10.0 ** rng.uniform(-4, -1), int(rng.choice([1, 4])), [64, 32], None)))
    kept = None if value is None else epochs
    return Trial(number, state, settings, value, kept, [] if value is None else values, **others)


def summed_up(seeds, emotions=("happy", "sad")):
    def metrics(seed):
        figures = dict.fromkeys(("weighted_f1", "accuracy", "positive_f1", "uar", "auroc"), 0.5 + seed / 100)
        return {
            "split": "test",
            "samples": 80,
            "seed": seed,
            "emotions": dict.fromkeys(emotions, figures),
            "mean": figures,
        }

    return seed_summary([metrics(seed) for seed in seeds])


@pytest.fixture(scope="module")
def result():
    trials = [
        trial(1, 0.70),
        trial(2, 0.90),
        trial(3, 0.60, "pruned", 3),
        trial(4, None, "failed", reason="the training loss must stay finite <script>"),
        trial(5, 0.90),
        trial(6, 0.85),
    ]
    retrained = [
        Retrained(trials[1], [2, 3], [0.80, 0.84], summed_up([2, 3])),
        Retrained(trials[4], [2, 3], [0.88, 0.86], summed_up([2, 3])),
    ]
    importances = dict(zip(NAMES, (0.6, 0.3, 0.08, 0.02)))
    return SearchResult(
        "<b>mine</b>",
        "weighted_f1",
        True,
        trials,
        importances,
        frozenset(NAMES[:1]),
        retrained,
        {"Settings": "seed: 1\n"},
    )


@pytest.fixture(scope="module")
def page(result, tmp_path_factory):
    return write_search(result, tmp_path_factory.mktemp("page"))


def text_of(page):
    return page.read_text(encoding="utf-8")


def test_the_best_and_its_new_seeds(result):
    assert [one.number for one in result.best(9)] == [2, 5, 6, 1]  # of equals the earlier; only finished ones
    # mean of .80 and .84 is .82, .08 below .90; their standard deviation is .04 / sqrt(2)
    assert result.verdict() == (
        "The best of 6 trials is trial 2: weighted F1 0.900 on validation, epoch 6 of 6. With 2 new seeds the same settings "
        "give 0.820 ± 0.028: 0.080 worse than in the search. Trial 5 is better with these seeds: 0.870."
    )
    rows = result.retrained_table().rows
    assert rows[0] == ["trial 2", "0.900", "0.800, 0.840", "0.820 ± 0.028", "-0.080"]
    assert "The best value of 6 trials is too optimistic" in result.retrained_table().note
    assert result.counts_line() == "4 finished, 1 pruned, 1 failed"


def test_a_loss_is_better_when_it_is_less():
    trials = [trial(1, 0.7), trial(2, 0.2), trial(3, 0.4)]
    again = [Retrained(trials[1], [5], [0.15], summed_up([5], ("happy",)))]
    found = SearchResult("x", "loss", False, trials, retrained=again)
    assert [one.number for one in found.best(2)] == [2, 3]
    assert found.verdict().endswith("With 1 new seed the same settings give 0.150: 0.050 better than in the search.")
    assert "has not been trained with new seeds" in SearchResult("x", "loss", False, trials).verdict()


def test_the_page_has_every_part_and_escapes_markup(page):
    text = text_of(page)
    for heading in (
        "Best settings", "New seeds", "Test", "Trials", "Importance", "Each setting", "Every trial",
    ):  # fmt: skip
        assert re.search(rf"<h2 id=\"part\d\">{heading}</h2>", text), heading
    assert text.count("<script") == 1  # the page's own, which sorts tables
    assert "&lt;b&gt;mine" in text
    assert "trial 4: the training loss must stay finite &lt;script&gt;" in text
    assert not re.findall(r'(?:src|href)="(?!data:|#)', text)


def test_plots_have_alternatives_and_follow_the_theme(page):
    text = text_of(page)
    images = re.findall(r'<img src="([^"]*)" alt="([^"]*)">', text)
    assert len(images) == 4
    for source, alternative in images:
        assert len(alternative) > 30
        svg = base64.b64decode(source.removeprefix("data:image/svg+xml;base64,")).decode()
        ElementTree.fromstring(svg)
        assert not any(colour in svg.partition("</style>")[2] for colour in DARK)
    assert {path.name for path in (page.parent / "plots").iterdir()} == {
        f"{name}.{kind}" for name in ("history", "epochs", "importance", "slices") for kind in ("svg", "pdf")
    }


def test_one_trial_alone(tmp_path):
    text = text_of(write_search(SearchResult("x", "uar", True, [trial(1, 0.7)]), tmp_path))
    assert "first of" not in text  # all settings are shown
    assert "Importances need more finished trials than settings that vary" in text
    assert ">Test<" not in text


def test_the_number_of_settings_left_out_is_shown(tmp_path):
    many = trial(1, 0.7)
    many = dataclasses.replace(many, settings={**many.settings, **{f"model.extra_{n}": n for n in range(15)}})
    assert len(many.settings) == 19
    result = SearchResult("x", "uar", True, [many])
    assert "The first 18 of 19." in text_of(write_search(result, tmp_path / "many"))
    result = SearchResult("x", "uar", True, [many], importances={"model.extra_14": 1.0})
    text = text_of(write_search(result, tmp_path / "ranked"))
    assert "The most important 18 of 19." in text


def test_values_and_names_as_text():
    assert [shown(value) for value in (0.000123456, [64, 32], None, 8, "lmf")] == [
        "0.0001235",
        "64, 32",
        "null",
        "8",
        "lmf",
    ]
    assert spread([0.5]) == "0.500"
    assert short_name("model.encoders.text.hidden, model.fusion.rank") == "text.hidden, fusion.rank"
    assert short_name("training.epochs") == "epochs"


@pytest.mark.slow
@needs_chromium
def test_a_browser_finds_nothing_wrong(page):
    with Chromium() as browser:
        assert faults(browser, page, 4) == {}
