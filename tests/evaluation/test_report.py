import base64
import json
import re
import shutil
import subprocess
from xml.etree import ElementTree

import numpy as np
import pytest

from lmf_multitask.evaluation import evaluate_predictions
from lmf_multitask.evaluation.assessment import Assessment, LearningCurves
from lmf_multitask.evaluation.comparison import compare
from lmf_multitask.evaluation.page import write_comparison
from lmf_multitask.evaluation.plots import DARK
from lmf_multitask.evaluation.predictions import Predictions
from lmf_multitask.evaluation.robustness import measure_robustness

EMOTIONS = ["happy", "sad", "angry", "neutral"]


def predictions(seed=0, rows=120):
    rng = np.random.default_rng(seed)
    labels = np.eye(4, dtype=int)[np.random.default_rng(5).integers(0, 4, rows)]
    return labels, 1 / (1 + np.exp(1 - 2 * labels - rng.normal(size=labels.shape)))


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
    rows = {"audio": np.ones((120, 2), "f4"), "video": np.ones((120, 2), "f4"), "text": np.ones((120, 3, 2), "f4")}
    robustness = measure_robustness(
        lambda features: (
            probabilities[: len(features["audio"])] * features["audio"].mean(axis=1, keepdims=True).clip(0, 1)
        ),
        {**rows, "labels": labels},
        EMOTIONS,
        split="validation",
        train={
            name: values * np.linspace(0, 1, 120).reshape(-1, *[1] * (values.ndim - 1)) for name, values in rows.items()
        },
    )
    epochs = list(range(1, 9))
    curves = LearningCurves(
        epochs,
        {"train": [1 / e for e in epochs], "validation": [1.2 / e for e in epochs]},
        {e: [0.1 * t + 0.05 * n for n in epochs] for t, e in enumerate(EMOTIONS)},
        6,
    )
    fields = {name: getattr(found, name) for name in Assessment.__dataclass_fields__}
    fields.update(
        curves={"multitask": curves},
        robustness=robustness,
        facts={"Data": "/" + "long" * 60, "Settings": "seed: 1\n"},
        data_report="audio  " + "x" * 300,
    )
    return Assessment(**fields).write_report(folder)


@pytest.fixture(scope="module")
def comparison_page(tmp_path_factory):
    folder = tmp_path_factory.mktemp("comparison")
    models = []
    for seed in range(3):
        labels, probabilities = predictions(seed)
        ids = [str(number) for number in range(len(labels))]
        models.append(Predictions(f"run{seed}", folder, ids, EMOTIONS, labels, True, probabilities))
    return write_comparison(compare(models, resamples=100), folder)


def images(page):
    return re.findall(r'<img src="([^"]*)" alt="([^"]*)">', page.read_text(encoding="utf-8"))


def test_every_part_is_there(full_page):
    text = full_page.read_text(encoding="utf-8")
    for heading in (
        "Figures",
        "Baselines and published figures",
        "Learning",
        "Which are confused",
        "Ranking",
        "Probabilities",
        "Missing and noisy modalities",
        "Clips to look at",
        "Data",
    ):
        assert re.search(rf"<h2 id=\"part\d\">{heading}</h2>", text), heading
    assert "most confidently wrong" in text
    assert "least confident" in text


def test_nothing_comes_from_elsewhere_and_no_text_is_markup(full_page, comparison_page):
    for page in (full_page, comparison_page):
        text = page.read_text(encoding="utf-8")
        assert not re.findall(r'(?:src|href)="(?!data:|#)', text)
        assert "url(" not in text
        assert "<script" not in text
    assert "&lt;b&gt;markup" in full_page.read_text(encoding="utf-8")


def test_every_image_has_an_alternative_and_follows_the_theme(full_page, comparison_page):
    assert len(images(full_page)) == 8
    assert len(images(comparison_page)) == 2
    for source, alternative in images(full_page) + images(comparison_page):
        assert len(alternative) > 30
        svg = base64.b64decode(source.removeprefix("data:image/svg+xml;base64,")).decode()
        ElementTree.fromstring(svg)
        assert "prefers-color-scheme:dark" in svg
        body = svg.partition("</style>")[2]
        assert not any(colour in body for colour in DARK)  # each is a variable now


def test_each_picture_is_also_a_file(full_page):
    plots = full_page.parent / "plots"
    names = {path.stem for path in plots.glob("*.svg")}
    assert names == {path.stem for path in plots.glob("*.png")}
    assert names == {
        "figures", "learning", "losses", "confusion", "one_of_many", "roc_and_precision_recall", "reliability", "robustness",
    }  # fmt: skip
    for path in plots.glob("*.png"):
        assert path.read_bytes().startswith(b"\x89PNG")
    for path in plots.glob("*.svg"):
        assert "var(" not in path.read_text(encoding="utf-8")  # other programs know no variables


def test_the_same_assessment_gives_the_same_page(tmp_path):
    labels, probabilities = predictions()
    pages = [
        evaluate_predictions(labels, probabilities, EMOTIONS, resamples=50).write_report(tmp_path / name).read_bytes()
        for name in ("one", "two")
    ]
    assert pages[0] == pages[1]


def test_a_page_of_what_is_hardly_defined(tmp_path):
    labels = np.array([[1, 0, -100], [1, 0, -100]])
    page = evaluate_predictions(labels, np.full((2, 3), 0.3), resamples=20).write_report(tmp_path)
    text = page.read_text(encoding="utf-8")
    assert "all annotated clips are present" in text
    assert "Ranking" in text


def test_one_emotion_has_a_page_too(tmp_path):
    labels, probabilities = predictions()
    page = evaluate_predictions(labels[:, :1], probabilities[:, :1], ["happy"], resamples=50).write_report(tmp_path)
    assert "one of" not in page.read_text(encoding="utf-8")
    assert not (tmp_path / "plots" / "one_of_many.png").exists()


# -- in a real browser

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


def look_at(page, folder):
    """Opens the page in frames of 1280 and 390 pixels: what each says of itself, and the console's lines."""
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
    found, console = look_at(page, tmp_path)
    assert console == []
    assert [one["width"] for one in found] == [1280, 390]
    for one in found:
        assert one["images"] == len(images(page))
        assert one["missing"] == 0
        assert one["scroll"] <= one["width"]


def test_the_browser_would_tell(tmp_path):
    page = """<!doctype html><body><img src="data:image/png;base64,AAAA" alt=""><p style="width:600px">wide</p>
    <script>console.error("oh")</script></body>"""
    found, console = look_at(page, tmp_path)
    assert [one["missing"] for one in found] == [1, 1]
    assert found[1]["scroll"] > 390
    assert len(console) == 2
