"""The page of a search for settings."""

from __future__ import annotations

from pathlib import Path

from lmf_multitask.evaluation.page import Section, write_page
from lmf_multitask.evaluation.search_plots import MOST_SLICES, search_pictures
from lmf_multitask.evaluation.search_results import SearchResult
from lmf_multitask.evaluation.tables import TextTable, seed_rows

SEARCH_PAGE = "search.html"
_SHOWN = 3


def write_search(result: SearchResult, folder: Path) -> Path:
    """Writes ``search.html`` and ``plots/``; returns the page."""
    pictures = {picture.name: picture for picture in search_pictures(result)}
    facts = dict(result.facts)
    settings = facts.pop("Settings", None)

    def shown(*names: str) -> list:
        return [pictures[name] for name in names if name in pictures]

    sections = [
        Section(
            "The best settings",
            "Complete settings are in best-1.yaml and the like, ready for lmf train --config.",
            (),
            [result.best_table(_SHOWN)],
        )
    ]
    if result.retrained:
        sections.append(
            Section(
                "Under fresh seeds",
                "The same settings trained again, on the same data, with random numbers that the search has not seen.",
                shown("fresh_seeds"),
                [result.retrained_table()],
            )
        )
        heads, _ = seed_rows(result.retrained[0].test)
        sections.append(
            Section(
                "On test",
                "Only the trainings under fresh seeds were tested, after everything had been chosen on validation.",
                (),
                [
                    TextTable(
                        f"trial {one.trial.number}, {one.test['samples']:,} test clips, {len(one.seeds)} seeds: "
                        "mean ± standard deviation [95% t-interval of the mean]",
                        heads,
                        seed_rows(one.test)[1],
                        bold_last=len(one.test["emotions"]) > 1,
                    )
                    for one in result.retrained
                ],
            )
        )
    sections.append(
        Section(
            "Trials",
            f"{len(result.trials)} trials: {result.counts_line()}. A pruned trial was ended because others were better "
            "after as many epochs; what it had reached until then is shown.",
            shown("history", "epochs"),
        )
    )
    text = (
        "The share of the objective’s variance over the finished trials that a setting explains by itself, by a forest of "
        "regression trees (fANOVA). With few trials it is rough."
        if result.importances
        else "Importances need more finished trials than settings that vary, and different figures."
    )
    sections.append(Section("What matters", text, shown("importance")))
    varied = len(result.trials[0].settings)
    text = "The most important first." if result.importances else ""
    if varied > MOST_SLICES:
        kind = "most important" if result.importances else "first"
        text = f"The {MOST_SLICES} {kind} of {varied}."
    sections.append(Section("Each setting", text, shown("slices")))
    failed = "\n".join(f"trial {trial.number}: {trial.reason}" for trial in result.trials if trial.reason)
    sections.append(Section("Every trial", "", (), [result.trials_table()], failed or None))
    return write_page(
        folder,
        SEARCH_PAGE,
        list(pictures.values()),
        title=f"Search {result.name}",
        lead=result.verdict(),
        facts=facts,
        settings=settings,
        sections=sections,
    )
