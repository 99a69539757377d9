"""HTML pages: the report of a model, the comparison of several. Each is one self-contained file, with its plots also as files."""

from __future__ import annotations

import base64
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jinja2
import numpy as np

from lmf_multitask.errors import printable
from lmf_multitask.evaluation import tables, value_tables
from lmf_multitask.evaluation.assessment import Assessment
from lmf_multitask.evaluation.comparison import Comparison
from lmf_multitask.evaluation.drawing import Plot
from lmf_multitask.evaluation.fold_tables import each_fold_table, pooled_tables
from lmf_multitask.evaluation.metrics import METRICS
from lmf_multitask.evaluation.plots import binary_tasks, comparison_plots, plots_of
from lmf_multitask.evaluation.table_parts import shown_metrics
from lmf_multitask.evaluation.text import TextTable, number, with_interval
from lmf_multitask.files import atomic_folder, write_text

REPORT_FILE, COMPARISON_FILE, PLOTS_FOLDER = "report.html", "comparison.html", "plots"
CLIPS_SHOWN = 50


@dataclass(frozen=True)
class Section:
    """One part of a page.

    Attributes:
        heading: of the part.
        text: a sentence or two on how to read it.
        plots: side by side on a wide page; None for a plot that could not be drawn.
        tables: below them; None likewise.
        verbatim: preformatted text; empty for none.
    """

    heading: str
    text: str = ""
    plots: Sequence[Plot | None] = ()
    tables: Sequence[TextTable | None] = ()
    verbatim: str = ""


def write_report(assessment: Assessment, folder: str | Path) -> Path:
    """Writes ``report.html`` and ``plots/``; returns the page."""
    plots = {plot.name: plot for plot in plots_of(assessment)}
    return write_page(
        Path(folder) / REPORT_FILE,
        title=f"Report of {assessment.name}",
        lead=_lead(assessment),
        facts=assessment.facts,
        sections=[*_metric_sections(assessment, plots), *_detail_sections(assessment, plots)],
    )


def write_comparison(comparison: Comparison, folder: str | Path) -> Path:
    """Writes ``comparison.html`` and ``plots/``; returns the page."""
    found = tables.comparison_tables(comparison)
    count = len(found) // (
        1 + len(comparison.pairs)
    )  # of kinds of tasks, which have a table of metrics and one per pair each
    metrics_tables, pair_tables = found[:count], found[count:]
    plots = {plot.name: plot for plot in comparison_plots(comparison)}
    sections = [
        Section(
            "Metrics",
            "Intervals show the variation over test clips. All models are evaluated on the same clips, so that intervals of "
            "two models may overlap although their difference is clear: see the differences.",
            [plots.get("side_by_side")],
            metrics_tables,
        ),
        Section(
            "Differences",
            "The interval is that of the paired difference on the same resampled clips. McNemar’s exact test asks whether one "
            "model makes more errors than the other, Wilcoxon’s signed-rank test whether its absolute errors are larger; Holm’s "
            "correction keeps the probability of any false positive in the tables at 5%.",
            [plots.get("differences"), plots.get("value_differences")],
            pair_tables,
        ),
    ]
    return write_page(
        Path(folder) / COMPARISON_FILE,
        title=f"Comparison of {', '.join(comparison.names)}",
        lead=tables.comparison_verdict(comparison),
        facts={"Clips": "\n".join([f"{comparison.rows:,} that all models have, joined by id", *comparison.notes])},
        sections=sections,
    )


def write_page(path: Path, *, title: str, lead: str, facts: Mapping[str, str], sections: Sequence[Section]) -> Path:
    """Writes a page, and ``plots/`` with its plots beside it.

    Args:
        path: of the page.
        title: heading.
        lead: the result in a few sentences.
        facts: heading -> text; ``Settings`` can be unfolded.
        sections: its parts.

    Returns:
        The page.
    """
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(Path(__file__).parent / "templates"),
        autoescape=True,
        finalize=lambda value: printable(str(value), keep="\n\t"),
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["data_uri"] = _data_uri
    template = environment.get_template("report.html.j2")
    page = template.render(title=title, lead=lead, facts=facts, sections=sections)
    with atomic_folder(path.parent / PLOTS_FOLDER) as folder:
        for plot in (plot for section in sections for plot in section.plots if plot):
            (folder / f"{plot.name}.svg").write_text(plot.svg, encoding="utf-8")
            (folder / f"{plot.name}.png").write_bytes(plot.png)
    write_text(path, page)
    return path


def _data_uri(plot: Plot) -> str:
    return "data:image/svg+xml;base64," + base64.b64encode(plot.svg_of_both_themes().encode()).decode()


def _lead(assessment: Assessment) -> str:
    metrics = assessment.metrics
    if not metrics["emotions"]:
        name, key = (
            ("mean of tasks", "mean") if len(metrics["regression"]) > 1 else (next(iter(metrics["regression"])), None)
        )
        found, bounds = (part["mean"] if key else part["regression"][name] for part in (metrics, metrics["intervals"]))
        shown = (f"{METRICS[k].title} {with_interval(found[k], bounds[k])}" for k in ("mae", "pearson"))
        head = f"{metrics['split'].capitalize()}, {metrics['samples']:,} clips, {name}: {', '.join(shown)}."
        return f"{head} {tables.verdict_on_linear(metrics)}".rstrip()
    first = shown_metrics(metrics)[0]
    mean, absent = metrics["mean"].get(first.key), metrics["always_absent"]["mean"].get(first.key)
    count = len(metrics["emotions"])
    text = (
        f"{metrics['split'].capitalize()}, {metrics['samples']:,} clips: {first.title} "
        f"{with_interval(mean, metrics['intervals']['mean'].get(first.key))}"
        f"{f', mean of {count} emotions' if count > 1 else ''}; "
        f"never predicting an emotion gives {number(absent)}. {tables.verdict_on_linear(metrics)}"
    )
    return text.rstrip()


def _metric_sections(assessment: Assessment, plots: Mapping[str, Plot]) -> list[Section]:
    metrics = assessment.metrics
    found = _emotion_sections(metrics, plots) if metrics["emotions"] else []
    if metrics.get("regression"):
        found += _value_sections(metrics, plots)
    if assessment.curves:
        text = "On validation. The model has the weights of the kept epoch."
        found.append(Section("Learning curves", text, [plots.get("learning"), plots.get("losses")]))
    return found


def _value_sections(metrics: Mapping[str, Any], plots: Mapping[str, Plot]) -> list[Section]:
    text = (
        "MAE and RMSE are in the unit of the labels; CCC (concordance correlation) is 1 only if predictions equal labels. "
        "The baselines are the mean of train, and ridge regression on the same features, averaged over time. "
        + tables.verdict_on_linear(metrics, "regression")
    )
    return [
        Section(
            "Real-valued tasks",
            text.rstrip(),
            [plots.get("predicted"), plots.get("residuals")],
            [
                value_tables.intervals_table(metrics),
                value_tables.headline_table(metrics),
                value_tables.further_table(metrics),
                value_tables.prediction_intervals_table(metrics),
                value_tables.published_table(metrics),
            ],
            "" if metrics["emotions"] else tables.undefined_lines(metrics),
        )
    ]


def _emotion_sections(metrics: Mapping[str, Any], plots: Mapping[str, Plot]) -> list[Section]:
    found = [
        Section(
            "Metrics",
            "An emotion is decided as present if its probability is above one half. Intervals (95%, bootstrap) show the "
            "variation over test clips, not over training seeds. Weighted F1 is high for a rare emotion even if it is never "
            "predicted; F1 of “present”, UAR (guessing: 0.5) and AUROC (guessing: 0.5) are not.",
            [plots.get("metrics"), plots.get("further_metrics")],
            [tables.intervals_table(metrics), tables.further_table(metrics)],
            tables.undefined_lines(metrics),
        )
    ]
    if metrics.get("folds"):
        text = "Each clip is predicted by the model of the fold whose training had neither the clip nor its group."
        found.append(Section("Cross-validation", text, tables=[*pooled_tables(metrics), each_fold_table(metrics)]))
    baselines = [tables.baseline_table(metrics), tables.published_table({"this model": metrics})]
    if any(baselines):
        text = (
            "Always absent predicts no emotion; prevalence predicts the share in the training data; logistic regression "
            f"is trained on the same features, averaged over time. {tables.why_not_published(metrics)}"
        ).rstrip()
        found.append(Section("Baselines", text, tables=baselines))
    return found


def _detail_sections(assessment: Assessment, plots: Mapping[str, Plot]) -> list[Section]:
    found = _binary_sections(assessment, plots) if assessment.metrics["emotions"] else []
    robustness = assessment.robustness
    if robustness:
        text = (
            f"Measured on {robustness['split']}. Features of a removed modality are zeros, as in a clip that lacks it. "
            + (
                "Noise is Gaussian; padding and missing modalities stay zero."
                if robustness["noise"]
                else "The command lmf report adds curves for noise and missing rows."
            )
        )
        found.append(
            Section(
                "Missing and noisy modalities", text, [plots.get("robustness")], tables.robustness_tables(robustness)
            )
        )
    clips = (
        [_clips_table(assessment, wrong=True), _clips_table(assessment, wrong=False)]
        if binary_tasks(assessment)
        else []
    )
    if assessment.metrics.get("regression"):
        clips.append(_value_clips_table(assessment))
    text = (
        f"Up to {CLIPS_SHOWN} per task, by prediction; a click on a head sorts. A clip named test-00012 is row 12, "
        "counted from 0, of the split test in the data file; other names are those of the file."
    )
    if assessment.without:
        text += (
            " The columns “no ...” show how the prediction changes when the modality is removed from the clip: -0.300 under "
            "“no text” means that the text raises it by 0.300. without.csv has this for every clip."
        )
    found.append(Section("Clips to inspect", text, tables=clips))
    if assessment.data_report:
        found.append(Section("Data", "What was read and cleaned.", verbatim=assessment.data_report))
    return found


def _binary_sections(assessment: Assessment, plots: Mapping[str, Plot]) -> list[Section]:
    metrics = assessment.metrics
    exclusive = tables.exclusive_table(metrics)
    text = "Percentages are shares of the clips in a row."
    if exclusive:
        text += (
            " Every clip has exactly one of the emotions, so that the highest probability decides among them: WA is the "
            "share of correct clips, UA the mean recall of the emotions."
        )
    found = [
        Section("Confusion", text, [plots.get("confusion"), plots.get("one_of_many")], [exclusive]),
        Section(
            "Ranking",
            "How well the probability sorts clips, whatever the threshold. Triangles on the right: precision of guessing.",
            [plots.get("roc_and_precision_recall")],
        ),
    ]
    fitted = []
    if metrics.get("thresholds"):
        fitted = [tables.thresholds_table(metrics, key) for key in metrics["thresholds"]]
    text = "ECE is the mean distance from the diagonal, weighted by clips; larger points hold more clips. " + (
        "Thresholds were fitted on validation." if fitted else "No thresholds were fitted."
    )
    found.append(Section("Probabilities", text, [plots.get("reliability")], fitted))
    return found


def _clips_table(assessment: Assessment, *, wrong: bool) -> TextTable:
    """The most confident errors, or the least confident decisions."""
    rows = []
    for t, emotion in binary_tasks(assessment):
        truth, values = assessment.labels[:, t], assessment.probabilities[:, t].astype(np.float64)
        decided, limit = assessment.decided.present[:, t], getattr(assessment.tasks[t], "threshold", 0.5)
        confidence = np.abs(values - limit)
        chosen = np.argsort(-confidence if wrong else confidence, kind="stable")
        if wrong:
            chosen = chosen[~np.isnan(truth[chosen]) & ((truth[chosen] == 1) != decided[chosen])]
        for row in chosen[:CLIPS_SHOWN]:
            label = "not annotated" if np.isnan(truth[row]) else "present" if truth[row] else "absent"
            rows.append([assessment.ids[row], emotion, label, f"{values[row]:.4f}", *_changes(assessment, row, t)])
    title = "most confident errors" if wrong else "least confident decisions"
    heads = ["clip", "emotion", "label", "probability", *(f"no {name}" for name in assessment.without)]
    return TextTable(title, heads, rows, left=(0, 1, 2), sortable=True)


def _changes(assessment: Assessment, row: int, task: int) -> list[str]:
    """How much a prediction changes without each modality."""
    own = assessment.probabilities[row, task]
    return [f"{values[row, task] - own:+.3f}" for values in assessment.without.values()]


def _value_clips_table(assessment: Assessment) -> TextTable:
    """The largest errors of real-valued tasks."""
    rows = []
    for t, task in enumerate(assessment.emotions):
        if task not in assessment.metrics["regression"]:
            continue
        truth, values = assessment.labels[:, t], assessment.probabilities[:, t].astype(np.float64)
        errors = np.nan_to_num(np.abs(values - truth), nan=-1.0)
        for row in np.argsort(-errors, kind="stable")[:CLIPS_SHOWN]:
            if errors[row] >= 0:
                cells = [f"{truth[row]:.3f}", f"{values[row]:.3f}", *_changes(assessment, row, t)]
                rows.append([assessment.ids[row], task, *cells])
    heads = ["clip", "task", "true", "predicted", *(f"no {name}" for name in assessment.without)]
    return TextTable("largest errors", heads, rows, left=(0, 1), sortable=True)
