"""The page of a search for settings."""

from __future__ import annotations

from pathlib import Path

from lmf_multitask.evaluation.page import Section, Tile, write_page
from lmf_multitask.evaluation.run_tables import seed_tables
from lmf_multitask.evaluation.text import number
from lmf_multitask.searching.plots import MOST_SLICES, search_plots
from lmf_multitask.searching.results import SearchResult, spread

SEARCH_PAGE = "search.html"
_SHOWN = 3


def write_search(result: SearchResult, folder: Path) -> Path:
    """Writes ``search.html`` and ``plots/``; returns the page."""
    plots = {plot.name: plot for plot in search_plots(result)}
    text = "The complete settings are in best-1.yaml and so on, for lmf train --config."
    sections = [Section("Best settings", text, tables=[result.best_table(_SHOWN)])]
    if result.retrained:
        text = "The same settings trained again on the same data with seeds that the search has not used."
        sections.append(Section("New seeds", text, tables=[result.retrained_table()]))
        text = "Only the trainings with new seeds were tested, after everything had been chosen on validation."
        tests = [table for one in result.retrained for table in seed_tables(one.test, f"trial {one.trial.number}, ")]
        sections.append(Section("Test", text, tables=tests))
    text = (
        f"{len(result.trials)} trials: {result.counts_line()}. A pruned trial was stopped because others were better after as "
        "many epochs; its best value until then is shown."
    )
    sections.append(Section("Trials", text, [plots["history"], plots["epochs"]]))
    text = (
        "Share of the objective’s variance over the finished trials that a setting explains by itself (fANOVA, a forest of "
        "regression trees). Imprecise with few trials."
        if result.importances
        else "Importances need more finished trials than settings that vary, and different values of the objective."
    )
    sections.append(Section("Importance", text, [plots.get("importance")]))
    varied = len(result.trials[0].settings)
    text = "The most important first." if result.importances else ""
    if varied > MOST_SLICES:
        text = f"The {'most important' if result.importances else 'first'} {MOST_SLICES} of {varied}."
    sections.append(Section("Each setting", text, [plots["slices"]]))
    failed = "\n".join(f"trial {trial.number}: {trial.reason}" for trial in result.trials if trial.reason)
    sections.append(Section("Every trial", tables=[result.trials_table()], verbatim=failed))
    best, facts = result.best(1)[0], dict(result.facts)
    tiles = [
        Tile(f"{result.metric}, trial {best.number}", number(best.value), f"epoch {best.kept} of {len(best.values)}")
    ]
    for one in result.retrained:
        value, _, note = spread(one.values).partition(" ")
        tiles.append(Tile(f"{result.metric}, trial {one.trial.number}, new seeds", value, note))
    tiles.append(Tile("trials", f"{len(result.trials)}", result.counts_line()))
    on_top = {name: facts.pop(name, "") for name in ("Data", "Clips", "Emotions", "Compared by")}
    return write_page(
        folder / SEARCH_PAGE,
        title=f"Search {result.name}",
        summary={**on_top, "Verdict": result.verdict()},
        tiles=tiles,
        caption=f"The best trials, {result.metric} on validation",
        sections=sections,
        facts=facts,
        pdf=True,
    )
