import base64
import dataclasses
import hashlib
import logging
import re
import zlib
from types import SimpleNamespace
from xml.etree import ElementTree

import numpy as np
import pytest
from browser import Chromium, faults, needs_chromium
from sklearn.metrics import precision_recall_curve, roc_curve

from lmf_multitask import evaluate_predictions, full_tables, write_report
from lmf_multitask.evaluation import drawing as drawing_module
from lmf_multitask.evaluation.assessment import Assessment, LearningCurves, assess
from lmf_multitask.evaluation.comparison import compare
from lmf_multitask.evaluation.drawing import DARK, LONGEST_LABEL, drawing, label
from lmf_multitask.evaluation.metrics import METRICS, Metric
from lmf_multitask.evaluation.plots import equal_mass_bins, hits_and_alarms, metrics_plot
from lmf_multitask.evaluation.predictions import Predictions
from lmf_multitask.evaluation.report import write_comparison, write_seeds
from lmf_multitask.evaluation.statistics import seed_summary
from lmf_multitask.evaluation.tables import intervals_table
from lmf_multitask.evaluation.verdicts import comparison_text, comparison_verdict
from lmf_multitask.tasks import make_tasks

EMOTIONS = ["happy", "sad", "angry", "neutral"]


def predictions(seed=0, rows=120):
    rng = np.random.default_rng(seed)
    labels = np.eye(4)[np.random.default_rng(5).integers(0, 4, rows)]
    return labels, 1 / (1 + np.exp(1 - 2 * labels - rng.normal(size=labels.shape)))


def robustness():
    """The content of a ``robustness.json``."""

    def entry(value):
        metrics = {"weighted_f1": value, "positive_f1": None, "auroc": value}
        return {"mean": metrics, "sd": dict.fromkeys(metrics, 0.02), "emotions": dict.fromkeys(EMOTIONS, metrics)}

    kept = [["audio", "video", "text"], ["text"]]
    noise = [{"strength": strength, **entry(0.8 - strength / 10)} for strength in (0.0, 1.0, 4.0)]
    missing = [{"share": share, **entry(0.8 - share / 4)} for share in (0.0, 0.5, 1.0)]
    return {
        "split": "validation", "samples": 120, "draws": 3, "modalities": kept[0], "rows_without": {"audio": 2, "text": 0},
        "always_absent": {"weighted_f1": 0.6}, "subsets": [{"modalities": names, **entry(0.8)} for names in kept],
        "noise": dict.fromkeys(kept[0], noise), "missing": dict.fromkeys(kept[0], missing),
    }  # fmt: skip


@pytest.fixture(scope="module")
def full_page(tmp_path_factory):
    """A report with everything in it, long names and hostile text included."""
    folder = tmp_path_factory.mktemp("report")
    labels, probabilities = predictions()
    ids = [f"a-very-long-name-of-a-clip-with-<b>markup</b>-{number:05d}" for number in range(len(labels))]
    found = evaluate_predictions(
        labels,
        probabilities,
        EMOTIONS,
        ids=ids,
        validation_labels=labels,
        validation_probabilities=predictions(1)[1],
        name="<script>alert(1)</script>",
        resamples=100,
    )
    guesses = {"logistic_regression": predictions(2)[1], "prevalence": np.full(labels.shape, 0.25)}
    metrics = assess(
        labels, probabilities, EMOTIONS, split="test", calibration=found.calibration, baselines=guesses, resamples=100
    )
    epochs = list(range(1, 9))
    curves = LearningCurves(
        epochs,
        {"train": [1 / e for e in epochs], "validation": [1.2 / e for e in epochs]},
        {
            "average_precision": {"mean": [0.05 * n for n in epochs]},
            "weighted_f1": {e: [0.1 * t + 0.05 * n for n in epochs] for t, e in enumerate(EMOTIONS)},
        },
        6,
    )
    whole = dataclasses.replace(
        found,
        metrics=metrics,
        curves={"multitask": curves},
        robustness=robustness(),
        without={"audio": probabilities, "text": probabilities / 2},
        facts={"Data": "/" + "long" * 60, "Settings": "seed: 1\n"},
        data_report="audio  " + "x" * 300,
    )
    return write_report(whole, folder, pdf=True)


@pytest.fixture(scope="module")
def comparison_page(tmp_path_factory):
    folder = tmp_path_factory.mktemp("comparison")
    models = []
    for seed in range(3):
        labels, probabilities = predictions(seed)
        ids = [str(number) for number in range(len(labels))]
        models.append(Predictions(f"run{seed}", folder, ids, EMOTIONS, labels, probabilities))
    return write_comparison(compare(models, resamples=100), folder)


def images(page):
    return re.findall(r'<img src="([^"]*)" alt="([^"]*)">', page.read_text(encoding="utf-8"))


def test_every_part_is_present(full_page):
    text = full_page.read_text(encoding="utf-8")
    for heading in (
        "Metrics",
        "Baselines",
        "Learning curves",
        "Confusion",
        "Ranking and calibration",
        "Missing and noisy modalities",
        "Clips to look at",
        "Data",
    ):
        assert re.search(rf"<h2 id=\"part\d\">{heading}</h2>", text), heading
    assert "Published metrics are not shown" in text  # the emotions are IEMOCAP's, the clips are not
    box = re.search(r'<section class="summary".*?</section>', text, re.S)[0]
    for heading in ("Data", "Task", "Against a linear model", "Against always absent"):
        assert f"<dt>{heading}</dt>" in box
    assert "<dd>Which of happy, sad, angry and neutral is in a clip: each clip has exactly one.</dd>" in box
    assert "The model against always absent: the model is better on weighted F1" in box
    assert text.count("confusion.") == 0  # counts stand in the plot alone
    assert "TP/FP/FN/TN" not in text


def test_nothing_comes_from_elsewhere_and_no_text_is_markup(full_page, comparison_page):
    for page in (full_page, comparison_page):
        text = page.read_text(encoding="utf-8")
        assert not re.findall(r'(?:src|href)="(?!data:|#)', text)
        assert "url(" not in text
        assert text.count("<script") == 1  # ours, which alone may run
        script = re.search(r"<script>(.*)</script>", text, re.S)[1]
        digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
        policy = f"default-src 'none'; img-src data:; style-src 'unsafe-inline'; script-src 'sha256-{digest}'"
        assert f'<meta http-equiv="Content-Security-Policy" content="{policy}">' in text
        assert not re.findall(r" on[a-z]+=", text)
    assert "&lt;b&gt;markup" in full_page.read_text(encoding="utf-8")


def test_every_image_has_an_alternative_and_follows_the_theme(full_page, comparison_page):
    assert len(images(full_page)) == 9
    assert len(images(comparison_page)) == 2
    for source, alternative in images(full_page) + images(comparison_page):
        assert len(alternative) > 30
        svg = base64.b64decode(source.removeprefix("data:image/svg+xml;base64,")).decode()
        ElementTree.fromstring(svg)
        assert "prefers-color-scheme:dark" in svg
        body = svg.partition("</style>")[2]
        assert not any(colour in body for colour in DARK)  # each is a variable now


def test_each_plot_is_also_a_file(full_page):
    plots = full_page.parent / "plots"
    names = {path.stem for path in plots.glob("*.svg")}
    assert names == {path.stem for path in plots.glob("*.pdf")}
    assert names == {
        "metrics", "against_linear", "learning", "losses", "confusion", "one_of_many", "roc_and_precision_recall",
        "reliability", "robustness",
    }  # fmt: skip
    for path in plots.glob("*.svg"):
        assert "var(" not in path.read_text(encoding="utf-8")  # other programs know no variables


def test_the_same_assessment_gives_the_same_page(tmp_path):
    labels, probabilities = predictions()
    found = evaluate_predictions(labels[:, :1], probabilities[:, :1], ["happy"], resamples=50)
    one, two = (write_report(found, tmp_path / name).read_text(encoding="utf-8") for name in ("one", "two"))
    assert one == two
    assert "one of" not in one  # a single emotion needs no decision among all
    assert not (tmp_path / "one" / "plots" / "one_of_many.svg").exists()


def test_a_page_of_mostly_undefined_metrics(tmp_path):
    labels = np.array([[1, 0, np.nan], [1, 0, np.nan]])
    page = write_report(evaluate_predictions(labels, np.full((2, 3), 0.3), resamples=20), tmp_path)
    text = page.read_text(encoding="utf-8")
    assert "all annotated clips are present" in text
    assert "Ranking" in text


def test_a_registered_metric_is_in_tables_and_plots(monkeypatch):
    metric = Metric(
        "error_rate", "error rate", lambda rows: 1 - METRICS["accuracy"](rows), greater_is_better=False, headline=True
    )
    monkeypatch.setitem(METRICS, "error_rate", metric)
    metrics = evaluate_predictions(*predictions(), EMOTIONS, resamples=20).metrics
    assert "error rate" in intervals_table(metrics).heads
    with drawing():
        plot = metrics_plot(metrics)
    assert "<!-- error rate -->" in plot.svg  # matplotlib's comment before the outlines of a text


def test_a_task_of_another_kind_has_tables_and_a_page(tmp_path, monkeypatch):
    def error(rows):
        return rows.mean(np.abs(rows.predictions - rows.labels))

    metric = Metric("mae", "MAE", error, "level", "value", greater_is_better=False, headline=True)
    monkeypatch.setitem(METRICS, "mae", metric)
    labels = np.array([[1, 2.0], [0, 4.0], [1, np.nan]])
    values = np.array([[0.9, 3.0], [0.2, 4.5], [0.6, 1.0]])
    tasks = [SimpleNamespace(name="happy", kind="binary"), SimpleNamespace(name="valence", kind="level")]
    metrics = assess(labels, values, tasks, split="test", resamples=20)
    found = Assessment("mixed", ["happy", "valence"], ["a", "b", "c"], labels, values, metrics)
    assert ["valence", "-/2", *["-"] * 5, "0.750", "-"] in [line.split() for line in full_tables(metrics).splitlines()]
    page = write_report(found, tmp_path).read_text(encoding="utf-8")
    assert re.search(r'<th scope="row">valence</th>.*<td>0\.750 \[', page)


# -- names


HOSTILE = ["_first", "a$x_1$", "control\x1b[31m\x00", "快乐"]


def test_any_name_can_be_drawn(tmp_path, caplog, monkeypatch):
    """Warnings are errors in tests, so one about a glyph or a hidden legend entry would fail."""
    monkeypatch.setattr(drawing_module, "_cjk_families", list)  # no such font is installed
    drawing_module._warn_of_boxes.cache_clear()
    found = evaluate_predictions(*predictions(), HOSTILE, resamples=20, name="\x1b]0;$a$\x07" + "x" * 300)
    curves = LearningCurves([1, 2], {"train": [1.0, 0.5]}, {"weighted_f1": dict.fromkeys(HOSTILE, [0.1, 0.2])}, None)
    with caplog.at_level(logging.WARNING, "lmf_multitask"):
        page = write_report(dataclasses.replace(found, curves={"multitask": curves}), tmp_path)
    assert [record.message.partition(",")[0] for record in caplog.records] == ["plots show boxes for some characters"]
    text = page.read_text(encoding="utf-8")
    assert not re.search(r"[\x00-\x08\x0b-\x1f\x7f-\x9f]", text)
    assert "control\\x1b[31m\\x00" in text
    for path in (tmp_path / "plots").glob("*.svg"):
        ElementTree.fromstring(path.read_text(encoding="utf-8"))
    assert "<!-- a$x_1$ -->" in (tmp_path / "plots" / "confusion.svg").read_text(encoding="utf-8")


def test_labels_are_short_and_never_hidden():
    assert label("_x") == " _x"
    assert label("x" * 300) == "x" * (LONGEST_LABEL - 1) + "…"


# -- comparisons


def compared(shift, rows=120):
    """Two models with the same decisions; `shift` of the second's probabilities within absent clips changes only the ranking."""
    labels = np.tile([[1.0], [0.0]], (rows // 2, 1))
    first = np.where(labels == 1, np.linspace(0.1, 0.4, rows)[:, None], np.linspace(0.0, 0.3, rows)[:, None])
    second = np.where(labels == 1, first, first + shift)
    ids = [str(number) for number in range(rows)]
    models = [Predictions(name, None, ids, ["happy"], labels, p) for name, p in (("one", first), ("two", second))]
    return compare(models, resamples=100)


def test_a_difference_in_ranking_alone_decides():
    verdict = comparison_verdict(compared(0.15))
    assert verdict.startswith("two against one: one is better on AUROC (weighted F1 +0.000 [+0.000, +0.000], AUROC -0.")
    assert comparison_verdict(compared(0.0)).startswith("two against one: no difference that 120 clips can show")
    assert comparison_verdict(compared(0.15, 20)) == (
        "two against one: no verdict is possible on 20 clips (at least 30 are needed)."
    )


def test_the_decision_among_all_counts(tmp_path):
    labels, good = predictions()
    ids = [str(number) for number in range(len(labels))]
    models = [Predictions(n, tmp_path, ids, EMOTIONS, labels, p) for n, p in (("good", good), ("bad", good[::-1]))]
    comparison = compare(models, resamples=100)
    assert "good is better on weighted F1, AUROC, WA, UA, number of errors (means over" in comparison_verdict(
        comparison
    )
    text = comparison_text(comparison)
    assert "One of 4 (highest probability as a multiple of its threshold): WA -0." in text
    assert text.splitlines()[1].split()[:4] == ["emotion", "model", "weighted", "F1"]


# -- clips, bins, decimals


def rows_of_clips(text):
    part = text.split("errors, and uncertain decisions</p>")[1]
    heads = re.findall(r"<button type=\"button\">(.*?)</button>", part)
    rows = [
        re.findall(r"<t[hd][^>]*>(.*?)</t[hd]>", row)
        for row in re.findall(r"<tr>(<th scope=\"row\">.*?)</tr>", part, re.S)
    ]
    return heads, rows


def test_clips_have_all_predictions_and_the_change_without_each_modality(full_page):
    """By hand: predictions without text are half of those with it."""
    text = full_page.read_text(encoding="utf-8")
    heads, rows = rows_of_clips(text)
    assert heads == ["clip", "task", "label", "outcome", *EMOTIONS, "no audio", "no text"]
    labels, probabilities = predictions()
    for _, task, label_, outcome, *numbers in rows[:40]:
        own = float(numbers[EMOTIONS.index(task)])
        assert numbers[4] == "+0.000"
        assert abs(float(numbers[5]) + own / 2) < 6e-4
        right = (own > 0.5) == (label_ == "present")
        assert outcome == ("correct" if right else {"present": "missed", "absent": "false alarm"}[label_])
    row = int(rows[0][0].rpartition("-")[2])
    assert rows[0][4:8] == [f"{value:.3f}" for value in probabilities[row]]
    wrong = np.where((probabilities > 0.5) != (labels == 1), np.abs(probabilities - labels), 0)
    assert row == wrong[:, 0].argmax()  # tasks take turns, the first task's largest error first
    assert "test-00012 is row 12, counted from 0, of the split test in the data file" in text


def test_no_number_of_the_tables_is_rounded_in_two_ways(full_page, comparison_page):
    for page in (full_page, comparison_page):
        cells = re.findall(r"<(?:td|strong|small)[^>]*>([^<]*)<", page.read_text(encoding="utf-8"))
        numbers = re.findall(r"(?<![\d.])\d+\.\d+", " ".join(cells))
        assert len(numbers) > 100
        assert all(len(one.partition(".")[2]) == 3 for one in numbers)


def test_bins_hold_equally_many_clips():
    values = np.arange(20) / 20
    truth = np.arange(20) % 4 == 0
    mean, share, low, high = equal_mass_bins(truth, values, 5)
    np.testing.assert_allclose(mean, [0.075, 0.275, 0.475, 0.675, 0.875])
    np.testing.assert_array_equal(share, [0.25] * 5)
    # Wilson's interval of 1 of 4, as scipy.stats.binomtest(1, 4).proportion_ci(method="wilson") gives it
    np.testing.assert_allclose([low[0], high[0]], [0.04558726, 0.69935816], atol=1e-6)
    assert len(equal_mass_bins(truth[:3], values[:3])[0]) == 3


def test_chinese_names_are_embedded_in_the_pdf(tmp_path):
    """Where no such font is installed, its letters are boxes, and DejaVu is embedded all the same."""
    found = evaluate_predictions(*predictions(), ["快乐", "悲伤", "愤怒", "中性"], resamples=20)
    drawing_module._warn_of_boxes()
    write_report(found, tmp_path, pdf=True)
    content = (tmp_path / "plots" / "confusion.pdf").read_bytes()
    parts = [content]
    for stream in re.findall(rb"stream\r?\n(.*?)endstream", content, re.S):
        try:
            parts.append(zlib.decompress(stream))
        except zlib.error:
            continue
    fonts = set(re.findall(rb"/FontName /(?:[A-Z]{6}\+)?([\w-]+)", b"".join(parts)))
    assert any(b"DejaVu" in one for one in fonts)
    if drawing_module._cjk_families():
        assert any(b"DejaVu" not in one for one in fonts)


# -- in a browser


@pytest.fixture(scope="module")
def browser():
    with Chromium() as found:
        yield found


@pytest.fixture(scope="module")
def seeds_page(tmp_path_factory):
    """Of an emotion and a real-valued task with a Chinese name."""
    tasks = make_tasks(["happy", "情感:regression:-3:3"])
    results = {}
    for seed in range(3):
        rng = np.random.default_rng(seed)
        labels = np.stack([np.arange(60) % 2, np.linspace(-3, 3, 60)], axis=1)
        values = np.stack(
            [np.clip(labels[:, 0] * 0.4 + rng.uniform(0, 0.6, 60), 0, 1), labels[:, 1] + rng.normal(size=60)], axis=1
        )
        results[f"seed{seed}"] = assess(labels, values, tasks, split="test", seed=seed, resamples=50)
    facts = {
        "Data": "made up",
        "Model": "a network",
        "Changed settings": "training.epochs 3 (default 40)",
        "Settings": "a: 1\n",
    }
    return write_seeds(seed_summary(list(results.values())), results, facts, tmp_path_factory.mktemp("seeds"))


def test_the_page_of_seeds(seeds_page):
    text = seeds_page.read_text(encoding="utf-8")
    assert "Whether happy is present in a clip. The value of 情感." in text
    assert "training.epochs 3 (default 40)" in text.partition("</section>")[0]  # at first sight
    assert len(images(seeds_page)) == 2
    for seed in range(3):
        assert f'<th scope="row">seed{seed}</th>' in text
    assert {path.name for path in (seeds_page.parent / "plots").iterdir()} == {
        "seeds_emotions.svg",
        "seeds_regression.svg",
    }


@pytest.mark.slow
@needs_chromium
@pytest.mark.parametrize("which", ["full_page", "comparison_page", "seeds_page"])
def test_a_browser_finds_nothing_wrong(which, request, browser):
    page = request.getfixturevalue(which)
    assert faults(browser, page, len(images(page))) == {}


@pytest.mark.slow
@needs_chromium
def test_clips_are_sorted_and_filtered(full_page, browser):
    browser.open(full_page.as_uri())
    shown = "[...document.querySelectorAll('.long tbody tr')].filter(row => !row.hidden).map(row => row.cells[{}].textContent)"
    click = "document.querySelectorAll('.long thead button')[4].click()"
    everything = len(browser.run(shown.format(1)))
    for sign, sort in ((1, "ascending"), (-1, "descending")):
        browser.run(click)
        values = [sign * float(one) for one in browser.run(shown.format(4))]
        assert len(values) == everything > 20
        assert values == sorted(values)
        assert browser.run("document.querySelectorAll('.long thead th')[4].getAttribute('aria-sort')") == sort
    choose = """(() => {{ const one = document.querySelector('.filters [data-column="{}"]'); one.value = "{}";
        one.dispatchEvent(new Event("input", {{bubbles: true}})); }})()"""
    browser.run(choose.format(1, "sad"))
    browser.run(choose.format(3, "missed"))
    assert set(browser.run(shown.format(1))) == {"sad"}
    assert set(browser.run(shown.format(3))) == {"missed"}
    left = len(browser.run(shown.format(0)))
    assert browser.run("document.querySelector('.filters output').textContent") == f"{left} of {everything} rows"
    assert 0 < left < everything


@pytest.mark.slow
@needs_chromium
def test_the_printed_page_is_light_a4_and_complete(full_page, browser, tmp_path):
    browser.open(full_page.as_uri(), dark=True)
    browser.pdf(tmp_path / "page.pdf")
    content = (tmp_path / "page.pdf").read_bytes()
    sizes = {
        tuple(round(float(one)) for one in box) for box in re.findall(rb"/MediaBox \[0 0 ([\d.]+) ([\d.]+)\]", content)
    }
    assert sizes == {(595, 842)}
    browser.open(full_page.as_uri(), 695, dark=True, print_=True)
    assert browser.run("getComputedStyle(document.body).backgroundColor") == "rgb(255, 255, 255)"


@pytest.mark.slow
@needs_chromium
def test_the_browser_test_finds_faults(browser, tmp_path):
    page = tmp_path / "page.html"
    page.write_text(
        """<!doctype html><meta name="viewport" content="width=device-width"><body><img src="data:image/png;base64,AAAA">
        <p style="width:600px">wide</p><select></select><script>console.error("oh")</script></body>"""
    )
    found = faults(browser, page)
    phone = found["390 light"]
    assert phone["scroll"] > 0
    assert phone["missing"] == phone["unlabelled"] == len(phone["console"]) == 1
    assert {"image-alt", "select-name"} <= set(phone["axe"])
    assert "scroll" not in found["1280 light"]


def test_curves_are_those_of_scikit_learn():
    rng = np.random.default_rng(0)
    for rows in (5, 200):
        truth = rng.random(rows) < 0.3
        truth[:2] = [True, False]
        values = np.round(rng.random(rows) + 0.2 * truth, 1)  # many equal ones
        hits, alarms = hits_and_alarms(truth, values)
        false_rate, true_rate, _ = roc_curve(truth, values, drop_intermediate=False)
        np.testing.assert_allclose(alarms / alarms[-1], false_rate)
        np.testing.assert_allclose(hits / hits[-1], true_rate)
        precision, recall, _ = precision_recall_curve(truth, values)
        np.testing.assert_allclose((hits / (hits + alarms).clip(min=1))[:0:-1], precision[:-1])
        np.testing.assert_allclose((hits / hits[-1])[:0:-1], recall[:-1])
