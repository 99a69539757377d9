"""What stands on the pages: the report of a model, a cross-validation included, of several seeds, and of a comparison."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from lmf_multitask.evaluation import tables
from lmf_multitask.evaluation.assessment import Assessment
from lmf_multitask.evaluation.clips import CLIPS_SHOWN, clips_table
from lmf_multitask.evaluation.comparison import Comparison
from lmf_multitask.evaluation.drawing import Plot
from lmf_multitask.evaluation.metrics import BASELINES, EXCLUSIVE, PLACES, metrics_for
from lmf_multitask.evaluation.page import Section, Tile, write_page
from lmf_multitask.evaluation.plots import plots_of
from lmf_multitask.evaluation.run_plots import comparison_plots, seeds_plot
from lmf_multitask.evaluation.run_tables import each_run_table, pooled_tables, robustness_tables, seed_tables
from lmf_multitask.evaluation.table_parts import (
    TASK_WORDS,
    Cell,
    Content,
    bounded,
    exclusive_metrics_line,
    shown_metrics,
    spread,
)
from lmf_multitask.evaluation.text import number
from lmf_multitask.evaluation.verdicts import (
    comparison_verdict,
    linear_over_seeds,
    pair_table,
    places_of,
    side_by_side_tables,
    verdict_on_constant,
    verdict_on_linear,
)

REPORT_FILE, COMPARISON_FILE, SEEDS_PAGE = "report.html", "comparison.html", "seeds.html"
SUMMARY_FACTS = ("Data", "Model", "Changed settings")
"""Facts that stand in the box on top."""


def write_report(assessment: Assessment, folder: str | Path, *, pdf: bool = False) -> Path:
    """Writes ``report.html`` and ``plots/``; returns the page.

    Args:
        assessment: of a model, or of the pooled folds of a cross-validation.
        folder: where they go.
        pdf: write the plots as PDF, too.
    """
    metrics, facts = assessment.metrics, dict(assessment.facts)
    plots = {plot.name: plot for plot in plots_of(assessment)}
    data, model, changed = (facts.pop(name, "") for name in SUMMARY_FACTS)
    summary = {
        "Data": data,
        "Task": task_sentence(metrics),
        "Model": model,
        "Against a linear model": verdict_on_linear(metrics, brief=True),
        "Against always absent" if metrics["emotions"] else "Against the mean": verdict_on_constant(metrics)
        or _absent_sentence(metrics),
        "Probabilities": _fitted_sentence(assessment),
        "Changed settings": changed,
    }
    sections = [
        *_metric_sections(assessment, plots),
        *_probability_sections(assessment, plots),
        *_modality_sections(assessment, plots),
        _clips_section(assessment),
    ]
    if assessment.data_report:
        sections.append(Section("Data", "What was read and cleaned.", verbatim=assessment.data_report))
    return write_page(
        Path(folder) / REPORT_FILE,
        title=f"Report of {assessment.name}",
        summary=summary,
        tiles=tiles_of(metrics, bounded, metrics["intervals"]),
        caption=f"{_caption(metrics)}, with 95% intervals over clips",
        sections=sections,
        facts=facts,
        pdf=pdf,
    )


def write_seeds(
    summary: Content, results: Mapping[str, Content], facts: Mapping[str, str], folder: Path, *, pdf: bool = False
) -> Path:
    """Writes ``seeds.html`` and ``plots/``; returns the page.

    Args:
        summary: `statistics.seed_summary` of several seeds of one training.
        results: name -> content of ``metrics.json`` of each.
        facts: heading -> text.
        folder: their parent.
        pdf: write the plots as PDF, too.
    """
    rest = dict(facts)
    data, model, changed = (rest.pop(name, "") for name in SUMMARY_FACTS)
    each = each_run_table("means over tasks of each seed", results, {"clips": lambda one: f"{one['samples']:,}"})
    text = (
        "Dots are seeds, the bar is the 95% interval of their mean (Student’s). It shows how much the training itself varies; "
        "the intervals over clips, on the page of each seed, show how much other test clips would change."
    )
    plots = [seeds_plot(list(results.values()), summary, place) for place in PLACES.values()]
    return write_page(
        folder / SEEDS_PAGE,
        title=f"{len(results)} seeds of {folder.name or folder}",
        summary={
            "Data": data,
            "Task": task_sentence(next(iter(results.values()))),
            "Model": model,
            "Against a linear model": linear_over_seeds(list(results.values())),
            "Changed settings": changed,
        },
        tiles=tiles_of(summary, spread),
        caption=f"{_caption(summary)}, mean ± std over {len(results)} seeds, with 95% intervals of the mean",
        sections=[
            Section("Metrics over seeds", text, plots, seed_tables(summary)),
            Section("Each seed", tables=[each]),
        ],
        facts=rest,
        pdf=pdf,
    )


def write_comparison(comparison: Comparison, folder: str | Path) -> Path:
    """Writes ``comparison.html`` and ``plots/``, also as PDF; returns the page."""
    plots = {plot.name: plot for plot in comparison_plots(comparison)}
    metrics = "Intervals show the variation over test clips. All models are evaluated on the same clips, so that intervals of "
    metrics += "two models may overlap although their difference is clear: see the differences."
    differences = (
        "The interval is that of the paired difference on the same resampled clips. McNemar’s exact test asks whether one "
        "model makes more errors than the other, Wilcoxon’s signed-rank test whether its absolute errors are larger; Holm’s "
        "correction keeps the probability of any false positive in the tables at 5%."
    )
    pairs = [pair_table(pair, place) for pair in comparison.pairs for place in places_of(comparison)]
    return write_page(
        Path(folder) / COMPARISON_FILE,
        title=f"Comparison of {', '.join(comparison.names)}",
        summary={
            "Data": "\n".join([f"{comparison.rows:,} clips that all models have, joined by id.", *comparison.notes]),
            "Task": task_sentence(next(iter(comparison.metrics.values()))),
            "Models": f"{', '.join(comparison.names)}; the first is the reference.",
            "Verdict": comparison_verdict(comparison),
        },
        tiles=[
            Tile(f"{name}: {metric.title}", *_split(bounded(metric, one["mean"], one["intervals"]["mean"])))
            for name, one in comparison.metrics.items()
            for place in places_of(comparison)
            for metric in shown_metrics(one, True, place)[:1]
        ],
        caption=f"{comparison.rows:,} clips, means over tasks, with 95% intervals over clips",
        sections=[
            Section("Metrics", metrics, [plots.get("side_by_side")], side_by_side_tables(comparison)),
            Section("Differences", differences, [plots.get("differences"), plots.get("value_differences")], pairs),
        ],
        pdf=True,
    )


# -- the box on top


def task_sentence(metrics: Content) -> str:
    """What is predicted, in a sentence."""
    emotions, values = list(metrics["emotions"]), list(metrics.get("regression", {}))
    parts = []
    if metrics.get("exclusive"):
        parts.append(f"Which of {_listed(emotions)} is in a clip: each clip has exactly one.")
    elif emotions:
        parts.append(f"Whether {_listed(emotions)} {'is' if len(emotions) == 1 else 'are'} present in a clip.")
    if values:
        parts.append(f"The value{'' if len(values) == 1 else 's'} of {_listed(values)}.")
    return " ".join(parts)


def tiles_of(content: Content, cell: Cell, *others: Content) -> list[Tile]:
    """The headline metrics: of the only task, or means over tasks; and those of the decision among all emotions.

    Args:
        content: metrics, or a summary over runs.
        cell: of `table_parts`: called with a metric and the entries of `content` and `others`.
        others: further contents that the cells need.
    """
    found = []
    for place in PLACES.values():
        names = list(content.get(place, {}))
        entries = [one["mean"] if len(names) != 1 else one[place][names[0]] for one in (content, *others)]
        word = f"{names[0]}: " if len(names) == 1 and len(content.get("regression", {})) else ""
        found += [Tile(word + m.title, *_split(cell(m, *entries))) for m in shown_metrics(content, True, place)]
    if content.get("exclusive"):
        own = [m for m in metrics_for(EXCLUSIVE).values() if m.key in content["exclusive"]][:2]
        entries = [one.get("exclusive", {}) for one in (content, *others)]
        found += [Tile(f"{m.title}, one of {len(content['emotions'])}", *_split(cell(m, *entries))) for m in own]
    return found


def _split(cell: str) -> tuple[str, str]:
    value, _, note = cell.partition(" ")
    return value, note


def _caption(metrics: Content) -> str:
    counts = {place: len(metrics.get(place, {})) for place in PLACES.values()}
    means = [f"means over {count} {TASK_WORDS[place]}s" for place, count in counts.items() if count > 1]
    return ", ".join([f"{metrics['split'].capitalize()}, {metrics['samples']:,} clips", *means])


def _listed(names: Sequence[str]) -> str:
    return names[0] if len(names) == 1 else f"{', '.join(names[:-1])} and {names[-1]}"


def _fitted_sentence(assessment: Assessment) -> str:
    """The weights of the network and of the linear model, the thresholds, and what the network alone reaches."""
    metrics, parts = assessment.metrics, []
    weights = (metrics.get("calibration") or {}).get("weights") or {}
    kinds = {str(one): (name, one) for name, one in weights.items()}  # tasks of a kind share them
    for name, one in kinds.values():
        what, linear = ("Log-odds", "logistic") if name in metrics["emotions"] else ("Values", "ridge")
        pair = f"{number(one['network'])} times those of the network plus {number(one['linear'])} times those of"
        parts.append(f"{what} are {pair} {linear} regression, weights fitted on validation.")
    parts.append(tables.thresholds_line(metrics))
    alone = metrics.get("network_alone")
    if alone:
        shown = [metric for metric in shown_metrics(alone, True) if metric.needs == "probability"]
        parts += [f"The network alone reaches {m.title} {number(alone['mean'].get(m.key))}." for m in shown[:1]]
    return " ".join(filter(None, parts))


def _absent_sentence(metrics: Content) -> str:
    """The verdict on never predicting an emotion, where no baseline was predicted: from the interval of the model alone."""
    shown = [metric for metric in shown_metrics(metrics, True) if metric.needs == "decision"][:1]
    absent = metrics["always_absent"]["mean"].get(shown[0].key) if shown else None
    interval = metrics["intervals"]["mean"].get(shown[0].key) if shown else None
    if absent is None or interval is None:
        return ""
    where = "below" if absent < interval[0] else "above" if absent > interval[1] else "inside"
    return f"Never predicting an emotion gives {shown[0].title} {absent:.3f}, {where} the interval of the model."


# -- sections of a report


def _metric_sections(assessment: Assessment, plots: Mapping[str, Plot]) -> list[Section]:
    metrics, found = assessment.metrics, []
    texts = {
        "emotions": "An emotion is decided as present if its probability is above its threshold. Intervals "
        "(95%, bootstrap) show the variation over test clips, not over training seeds. Weighted F1 is high for a rare emotion "
        "even if it is never predicted; F1 of “present”, UAR (guessing: 0.5) and AUROC (guessing: 0.5) are not.",
        "regression": "MAE and RMSE are in the unit of the labels; CCC (concordance correlation) is 1 only if predictions equal "
        "labels.",
    }
    names: dict[str, tuple[str, ...]] = {
        "emotions": ("metrics", "against_linear"),
        "regression": ("predicted", "residuals"),
    }
    if not metrics["emotions"]:
        names["regression"] += ("against_linear",)
    for place, text in texts.items():
        if not metrics.get(place):
            continue
        shown = [tables.intervals_table(metrics, place), tables.further_table(metrics, place, counts=False)]
        if place == "regression":
            shown.append(tables.prediction_intervals_table(metrics))
        undefined = tables.undefined_lines(metrics) if place == next(iter(p for p in texts if metrics.get(p))) else ""
        heading = "Metrics" if place == "emotions" else "Real-valued tasks"
        found.append(Section(heading, text, [plots.get(name) for name in names[place]], shown, undefined))
    if metrics.get("folds"):
        text = "Each clip is predicted by the model of the fold whose training had neither the clip nor its group."
        folds = {one["name"]: one for one in metrics["folds"]["runs"]}
        columns = {"test groups": _groups, "clips": lambda one: f"{one['samples']:,}"}
        each = each_run_table("means over tasks of each fold", folds, columns)
        found.append(Section("Cross-validation", text, tables=[*pooled_tables(metrics), each]))
    baselines = [tables.baseline_table(metrics, kind) for kind in BASELINES]
    published = [tables.published_table({"this model": metrics}), tables.published_values_table(metrics)]
    if any(baselines) or any(published):
        text = (
            "Always absent predicts no emotion; prevalence and train mean predict the share or mean in the training data; "
            "logistic and ridge regression are trained on the same features, averaged over time. "
            f"{tables.why_not_published(metrics)}"
        ).rstrip()
        found.append(Section("Baselines", text, tables=[*baselines, *published]))
    if assessment.curves:
        text = "On validation. The model has the weights of the kept epoch."
        found.append(Section("Learning curves", text, [plots.get("learning"), plots.get("losses")]))
    return found


def _groups(fold: Content) -> str:
    return ", ".join(fold["groups"][:4]) + (", ..." if len(fold["groups"]) > 4 else "") or "-"


def _probability_sections(assessment: Assessment, plots: Mapping[str, Plot]) -> list[Section]:
    metrics = assessment.metrics
    if not metrics["emotions"]:
        return []
    text = "Clips; the darker a cell, the larger its share of the row."
    exclusive = metrics.get("exclusive")
    if exclusive:
        line = exclusive_metrics_line(exclusive, bounded, metrics["intervals"].get("exclusive", {}))
        heads = exclusive["heads"]
        text += (
            " Every clip has exactly one of the emotions, so that one is chosen, that with the highest probability as a multiple of "
            f"its threshold: {line} (WA is the share of correct clips, UA the mean recall of the emotions). By themselves, exactly "
            f"one head predicts present in {heads['one_present']:.0%} of clips, none in {heads['none_present']:.0%}, several in "
            f"{heads['several_present']:.0%}."
        )
    ranking = (
        "How well the probability sorts clips, whatever the threshold. Triangles on the right: precision of guessing."
    )
    fitted = []
    if metrics.get("thresholds"):
        fitted = [tables.thresholds_table(metrics, key) for key in metrics["thresholds"]]
    calibration = (
        "Each point stands for an equal number of clips (a tenth), the line through it for the 95% interval of their share of "
        "present; below, how many clips have which probability. ECE is the mean distance from the diagonal over ten bins of "
        "equal width, weighted by clips. "
        + ("Thresholds were fitted on validation, see the box on top." if fitted else "No thresholds were fitted.")
    )
    return [
        Section("Confusion", text, [plots.get("confusion"), plots.get("one_of_many")]),
        Section(
            "Ranking and calibration",
            f"{ranking} {calibration}",
            [plots.get("roc_and_precision_recall"), plots.get("reliability")],
            fitted,
        ),
    ]


def _modality_sections(assessment: Assessment, plots: Mapping[str, Plot]) -> list[Section]:
    robustness = assessment.robustness
    if not robustness:
        return []
    text = (
        f"Measured on {robustness['split']}. Features of a removed modality are zeros, as in a clip that lacks it. "
        + (
            "Noise is Gaussian; padding and missing modalities stay zero."
            if robustness["noise"]
            else "The command lmf report adds curves for noise and missing rows."
        )
    )
    return [Section("Missing and noisy modalities", text, [plots.get("robustness")], robustness_tables(robustness))]


def _clips_section(assessment: Assessment) -> Section:
    text = (
        f"Up to {CLIPS_SHOWN} errors and {CLIPS_SHOWN} uncertain decisions per task, by prediction; the columns named "
        "after tasks hold all predictions. A clip named test-00012 is row 12, counted from 0, of the split test in the data file; "
        "other names are those of the file."
    )
    if assessment.without:
        text += (
            " The columns “no ...” show how the prediction for the task changes when the modality is removed from the clip: "
            "-0.300 under “no text” means that the text raises it by 0.300. without.csv has this for every clip."
        )
    return Section("Clips to look at", text, tables=[clips_table(assessment, assessment.probabilities)])
