import base64
import dataclasses
import json
import logging
import re
import shutil
import subprocess
from types import SimpleNamespace
from xml.etree import ElementTree

import numpy as np
import pytest

from lmf_multitask.evaluation import drawing as drawing_module
from lmf_multitask.evaluation import evaluate_predictions, full_tables, write_report
from lmf_multitask.evaluation.assessment import Assessment, LearningCurves, assess
from lmf_multitask.evaluation.comparison import compare
from lmf_multitask.evaluation.drawing import DARK, LONGEST_LABEL, drawing, label
from lmf_multitask.evaluation.metrics import METRICS, Metric
from lmf_multitask.evaluation.plots import metrics_plot
from lmf_multitask.evaluation.predictions import Predictions
from lmf_multitask.evaluation.report import write_comparison
from lmf_multitask.evaluation.tables import comparison_text, comparison_verdict, further_table

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
        {e: [0.1 * t + 0.05 * n for n in epochs] for t, e in enumerate(EMOTIONS)},
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
    return write_report(whole, folder)


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
        "Ranking",
        "Probabilities",
        "Missing and noisy modalities",
        "Clips to inspect",
        "Data",
    ):
        assert re.search(rf"<h2 id=\"part\d\">{heading}</h2>", text), heading
    assert "Published metrics are not shown" in text  # the emotions are IEMOCAP's, the clips are not
    assert "most confident errors" in text
    assert "least confident decisions" in text


def test_nothing_comes_from_elsewhere_and_no_text_is_markup(full_page, comparison_page):
    for page in (full_page, comparison_page):
        text = page.read_text(encoding="utf-8")
        assert not re.findall(r'(?:src|href)="(?!data:|#)', text)
        assert "url(" not in text
        assert text.count("<script") == text.count("<script>\nfor (const table of") == 1  # ours
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
    assert names == {path.stem for path in plots.glob("*.png")}
    assert names == {
        "metrics", "further_metrics", "learning", "losses", "confusion", "one_of_many", "roc_and_precision_recall",
        "reliability", "robustness",
    }  # fmt: skip
    for path in plots.glob("*.png"):
        assert path.read_bytes().startswith(b"\x89PNG")
    for path in plots.glob("*.svg"):
        assert "var(" not in path.read_text(encoding="utf-8")  # other programs know no variables


def test_the_same_assessment_gives_the_same_page(tmp_path):
    labels, probabilities = predictions()
    found = evaluate_predictions(labels[:, :1], probabilities[:, :1], ["happy"], resamples=50)
    one, two = (write_report(found, tmp_path / name).read_text(encoding="utf-8") for name in ("one", "two"))
    assert one == two
    assert "one of" not in one  # a single emotion needs no decision among all
    assert not (tmp_path / "one" / "plots" / "one_of_many.png").exists()


def test_a_page_of_mostly_undefined_metrics(tmp_path):
    labels = np.array([[1, 0, np.nan], [1, 0, np.nan]])
    page = write_report(evaluate_predictions(labels, np.full((2, 3), 0.3), resamples=20), tmp_path)
    text = page.read_text(encoding="utf-8")
    assert "all annotated clips are present" in text
    assert "Ranking" in text


def test_a_registered_metric_is_in_tables_and_plots(monkeypatch):
    metric = Metric("error_rate", "error rate", lambda rows: 1 - METRICS["accuracy"](rows), greater_is_better=False)
    monkeypatch.setitem(METRICS, "error_rate", metric)
    metrics = evaluate_predictions(*predictions(), EMOTIONS, resamples=20).metrics
    assert "error rate" in further_table(metrics).heads
    with drawing():
        plot = metrics_plot(metrics, headline=False)
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
    curves = LearningCurves([1, 2], {"train": [1.0, 0.5]}, dict.fromkeys(HOSTILE, [0.1, 0.2]), None)
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
    assert "One of 4 (highest probability): WA -0." in text
    assert text.splitlines()[1].split()[:4] == ["emotion", "model", "weighted", "F1"]


# -- in a browser

PROBE = """<script>
addEventListener("load", () => setTimeout(() => parent.postMessage(JSON.stringify({
  width: innerWidth, scroll: document.documentElement.scrollWidth, images: document.images.length,
  missing: [...document.images].filter(i => !i.complete || i.naturalWidth === 0).length}), "*"), 100));
</script>"""

HARNESS = """<!doctype html><title>probe</title><body>
<script>addEventListener("message", e => document.body.append(Object.assign(document.createElement("p"), {textContent: "FOUND" + e.data})));</script>
<iframe src="page.html" style="width:1280px;height:900px;border:0"></iframe>
<iframe src="page.html" style="width:390px;height:900px;border:0"></iframe>"""

BROWSERS = ("chromium", "chromium-browser", "google-chrome", "chrome")


def open_in_browser(page, folder):
    """Opens the page in frames of 1280 and 390 pixels: sizes and images of each, and the lines of the console."""
    browser = next(filter(None, map(shutil.which, BROWSERS)), None)
    if browser is None:
        pytest.skip(f"needs a browser: none of {', '.join(BROWSERS)} is installed")
    text = page.read_text(encoding="utf-8") if hasattr(page, "read_text") else page
    (folder / "page.html").write_text(text.replace("</body>", PROBE + "</body>"), encoding="utf-8")
    (folder / "harness.html").write_text(HARNESS, encoding="utf-8")
    command = [
        browser, "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run",
        "--disable-background-networking", "--disable-component-update", "--disable-sync",
        f"--user-data-dir={folder / 'profile'}", "--window-size=1400,1000", "--enable-logging=stderr",
        "--virtual-time-budget=5000", "--dump-dom", (folder / "harness.html").as_uri(),
    ]  # fmt: skip
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=True)
    found = [json.loads(one) for one in re.findall(r"<p>FOUND(\{.*?\})</p>", done.stdout)]
    return sorted(found, key=lambda one: -one["width"]), [
        line for line in done.stderr.splitlines() if "CONSOLE" in line
    ]


@pytest.mark.parametrize("which", ["full_page", "comparison_page"])
def test_a_browser_finds_nothing_wrong(which, request, tmp_path):
    page = request.getfixturevalue(which)
    found, console = open_in_browser(page, tmp_path)
    assert console == []
    assert [one["width"] for one in found] == [1280, 390]
    for one in found:
        assert one["images"] == len(images(page))
        assert one["missing"] == 0
        assert one["scroll"] <= one["width"]


CLICKS = """<script>
addEventListener("load", () => {
  const table = document.querySelector(".long table"), column = 3;
  const values = () => [...table.tBodies[0].rows].map(row => Number(row.cells[column].textContent));
  const button = table.querySelectorAll("thead button")[column];
  button.click();
  const up = values();
  button.click();
  console.log(JSON.stringify({up, down: values(), sort: button.parentElement.getAttribute("aria-sort")}));
});
</script></body>"""


def test_a_click_sorts_the_clips(full_page, tmp_path):
    text = full_page.read_text(encoding="utf-8").replace("</body>", CLICKS)
    _, console = open_in_browser(text, tmp_path)
    found = json.loads(re.search(r"\{.*\}", console[0])[0].replace('\\"', '"'))
    assert len(found["up"]) > 20
    assert found["up"] == sorted(found["up"])
    assert found["down"] == found["up"][::-1]
    assert found["sort"] == "descending"


def test_clips_have_the_change_without_each_modality(full_page):
    """By hand: predictions without text are half of those with it."""
    text = full_page.read_text(encoding="utf-8")
    heads, rows = (
        re.findall(pattern, text.split("most confident errors</p>")[1], re.S)
        for pattern in (r"<button type=\"button\">(.*?)</button>", r"<tr><th scope=\"row\">(.*?)</tr>")
    )
    assert heads[:6] == ["clip", "emotion", "label", "probability", "no audio", "no text"]
    for row in rows[:5]:
        *_, own, without_audio, without_text = re.findall(r"<td[^>]*>(.*?)</td>", row)
        assert without_audio == "+0.000"
        assert abs(float(without_text) + float(own) / 2) < 6e-4
    assert "test-00012 is row 12, counted from 0, of the split test in the data file" in text


def test_the_browser_test_finds_faults(tmp_path):
    page = """<!doctype html><body><img src="data:image/png;base64,AAAA" alt=""><p style="width:600px">wide</p>
    <script>console.error("oh")</script></body>"""
    found, console = open_in_browser(page, tmp_path)
    assert [one["missing"] for one in found] == [1, 1]
    assert found[1]["scroll"] > 390
    assert len(console) == 2
