"""The report: one HTML file with everything inside, and its pictures as files."""

from __future__ import annotations

import base64
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jinja2
import numpy as np

from lmf_multitask.data.schema import NOT_ANNOTATED
from lmf_multitask.evaluation import tables
from lmf_multitask.evaluation.assessment import Assessment
from lmf_multitask.evaluation.comparison import Comparison
from lmf_multitask.evaluation.plots import Picture, difference_pictures, pictures_of
from lmf_multitask.evaluation.robustness import robustness_table
from lmf_multitask.evaluation.tables import TextTable
from lmf_multitask.files import atomic_folder, write_text

REPORT_FILE, COMPARISON_FILE, PLOTS_FOLDER = "report.html", "comparison.html", "plots"
SHOWN_ROWS = 5


@dataclass(frozen=True)
class Section:
    """One part of a page.

    Attributes:
        heading: of the part.
        text: a sentence or two on how to read it.
        pictures: shown side by side where there is room.
        tables: below them.
        verbatim: text shown as it is; None for none.
    """

    heading: str
    text: str = ""
    pictures: Sequence[Picture] = ()
    tables: Sequence[TextTable] = ()
    verbatim: str | None = None


def write_report(assessment: Assessment, folder: Path) -> Path:
    """Writes ``report.html`` and ``plots/``; returns the page."""
    pictures = {picture.name: picture for picture in pictures_of(assessment)}
    facts = dict(assessment.facts)
    settings = facts.pop("Settings", None)
    metrics = assessment.metrics
    return write_page(
        folder,
        REPORT_FILE,
        list(pictures.values()),
        title=f"Report of {assessment.name}",
        lead=_lead(metrics),
        facts=facts,
        settings=settings,
        sections=_sections(assessment, pictures),
    )


def write_comparison(comparison: Comparison, folder: Path) -> Path:
    """Writes ``comparison.html`` and ``plots/``; returns the page."""
    pictures = difference_pictures(comparison)
    sections = [
        Section(
            "Figures",
            "Intervals tell what other test rows would have changed. They overlap more than differences do, because all "
            "models are judged on the same rows: see the differences.",
            pictures[:1],
            [comparison.figures_table()],
        ),
        Section(
            "Differences",
            "The interval is of the paired difference on the same resampled rows. McNemar's exact test asks whether one "
            "model errs more often than the other; Holm's correction keeps the chance of any false alarm in the "
            "table at 5%.",
            pictures[1:],
            comparison.pair_tables(),
        ),
    ]
    return write_page(
        folder,
        COMPARISON_FILE,
        pictures,
        title=f"Comparison of {', '.join(comparison.names)}",
        lead=comparison.verdict(),
        facts={"Rows": comparison.rows_line()},
        settings=None,
        sections=sections,
    )


def write_page(folder: Path, name: str, pictures: Sequence[Picture], **content: Any) -> Path:
    """Writes a page and ``plots/`` beside it.

    Args:
        folder: where they go.
        name: of the page.
        pictures: those of its sections, for ``plots/``.
        content: ``title``, ``lead``, ``facts``, ``settings`` and ``sections``, as the template shows them.

    Returns:
        The page.
    """
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(Path(__file__).parent / "templates"),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["data_uri"] = _data_uri
    page = environment.get_template("report.html.j2").render(words=tables.WORDS, **content)
    with atomic_folder(folder / PLOTS_FOLDER) as plots:
        for picture in pictures:
            (plots / f"{picture.name}.svg").write_text(picture.svg, encoding="utf-8")
            (plots / f"{picture.name}.png").write_bytes(picture.png)
    write_text(folder / name, page)
    return folder / name


def _data_uri(picture: Picture) -> str:
    return "data:image/svg+xml;base64," + base64.b64encode(picture.svg_of_both_themes().encode()).decode()


def _lead(metrics: dict[str, Any]) -> str:
    mean, found = metrics["mean"]["weighted_f1"], metrics["intervals"]["mean"].get("weighted_f1")
    emotions = len(metrics["emotions"])
    text = (
        f"{metrics['split'].capitalize()}, {metrics['samples']:,} clips: weighted F1 {tables.with_interval(mean, found)}"
        f"{f', mean of {emotions} emotions' if emotions > 1 else ''}; "
        f"never seeing any emotion gives {tables.number(metrics['always_absent']['mean']['weighted_f1'])}."
    )
    if "logistic_regression" in metrics["baselines"]:
        text += " " + tables.verdict_on_linear(metrics)
    return text


def _sections(assessment: Assessment, pictures: dict[str, Picture]) -> list[Section]:
    metrics = assessment.metrics

    def shown(*names: str) -> list[Picture]:
        return [pictures[name] for name in names if name in pictures]

    undefined = tables.undefined_lines(metrics)
    baselines = [
        one
        for one in (tables.baseline_table(metrics), tables.published_table({"this model": metrics}))
        if one is not None
    ]
    sections = [
        Section(
            "Figures",
            "A decision is “present” if the probability is above one half. Intervals (95%, bootstrap) tell what other "
            "test rows would have changed, not what another training seed would have. Weighted F1 looks high where an "
            "emotion is rare; F1 on “present”, UAR (0.5: guessing) and AUROC (0.5: guessing) do not.",
            shown("figures"),
            [tables.intervals_table(metrics), tables.further_table(metrics)],
            undefined or None,
        )
    ]
    if baselines:
        text = (
            "Always absent never sees an emotion; prevalence answers with its share in train; "
            "logistic regression sees the same features, words averaged."
        )
        sections.append(Section("Baselines and published figures", text, (), baselines))
    if assessment.curves:
        text = "On validation. The kept epoch’s weights are the model."
        sections.append(Section("Learning", text, shown("learning", "losses")))
    exclusive = tables.exclusive_table(metrics)
    text = "Shares are of the clips in a row." + (
        " Every clip has exactly one of the emotions, so that the highest probability decides among them: "
        "WA is the share of clips that are right, UA the mean of the emotions’ recalls."
        if exclusive
        else ""
    )
    sections.append(
        Section("Which are confused", text, shown("confusion", "one_of_many"), [exclusive] if exclusive else ())
    )
    sections.append(
        Section(
            "Ranking",
            "How well the probability sorts clips, whatever the threshold. Triangles at the right: precision of guessing.",
            shown("roc_and_precision_recall"),
        )
    )
    calibration = []
    if metrics.get("calibrated"):
        calibration = [tables.calibrated_table(metrics)]
        calibration += [tables.thresholds_table(metrics, figure) for figure in metrics["thresholds"]]
    text = (
        "ECE is the mean distance from the diagonal, weighted by clips; the larger a point, the more clips it has. "
        + ("Temperatures and thresholds were fitted on validation." if calibration else "No calibration was fitted.")
    )
    sections.append(Section("Probabilities", text, shown("reliability"), calibration))
    if assessment.robustness:
        sections.append(
            Section(
                "Missing and noisy modalities",
                f"Measured on {assessment.robustness['split']}. What is not named is taken away: its features are zeros, as in a "
                "clip where it was not recorded. "
                + (
                    "Noise is Gaussian, and leaves padding and what is missing as it is."
                    if assessment.robustness["noise"]
                    else "lmf report adds what noise and missing rows do."
                ),
                shown("robustness"),
                [robustness_table(assessment.robustness)],
            )
        )
    sections.append(
        Section(
            "Clips to look at",
            f"Up to {SHOWN_ROWS} per emotion, by plain probability.",
            (),
            [_confident_errors(assessment), _least_confident(assessment)],
        )
    )
    if assessment.data_report:
        sections.append(Section("Data", "What was read and cleaned.", verbatim=assessment.data_report))
    return sections


def _confident_errors(assessment: Assessment) -> TextTable:
    rows = []
    for t, emotion in enumerate(assessment.emotions):
        truth, values = assessment.labels[:, t], assessment.probabilities[:, t].astype(np.float64)
        wrong = np.flatnonzero((truth != NOT_ANNOTATED) & ((truth == 1) != (values > 0.5)))
        for row in wrong[np.argsort(-np.abs(values[wrong] - 0.5), kind="stable")][:SHOWN_ROWS]:
            rows.append([assessment.ids[row], emotion, "present" if truth[row] else "absent", f"{values[row]:.4f}"])
    return TextTable("most confidently wrong", ["clip", "emotion", "truth", "probability of present"], rows)


def _least_confident(assessment: Assessment) -> TextTable:
    rows = []
    for t, emotion in enumerate(assessment.emotions):
        truth, values = assessment.labels[:, t], assessment.probabilities[:, t].astype(np.float64)
        words = {1: "present", 0: "absent", NOT_ANNOTATED: "not annotated"}
        for row in np.argsort(np.abs(values - 0.5), kind="stable")[:SHOWN_ROWS]:
            rows.append([assessment.ids[row], emotion, words[int(truth[row])], f"{values[row]:.4f}"])
    return TextTable("least confident", ["clip", "emotion", "truth", "probability of present"], rows)
