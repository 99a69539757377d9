"""A search from its settings to its page: folder, study, trials, best settings, and these under fresh seeds.

search.yaml       what is searched; going on needs the same
study.db          every trial: an Optuna study in SQLite
trials.csv        the same as a table
best-1.yaml ...   complete settings of the best, for ``train --config``
retrained/        the best under fresh seeds, a run directory each
search.json       figures of the best, searched and retrained
search.html       all of it to look at; the pictures also in plots/
"""

from __future__ import annotations

import csv
import dataclasses
import io
import json
import logging
import shlex
import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml

from lmf_multitask.data.schema import fingerprint
from lmf_multitask.errors import ConfigError, RunError, TrainingError
from lmf_multitask.evaluation.search_results import Retrained, SearchResult, Trial, spread
from lmf_multitask.evaluation.statistics import seed_summary
from lmf_multitask.evaluation.tables import number
from lmf_multitask.files import remove_leftovers, write_text
from lmf_multitask.launcher import train_all
from lmf_multitask.models.sizes import check_size
from lmf_multitask.runs import METRICS_FILE, Run
from lmf_multitask.searching.driver import run_trials
from lmf_multitask.searching.space import SearchConfig, read_search
from lmf_multitask.searching.study import STUDY_FILE, Study, kept_row
from lmf_multitask.training.experiment import prepare_experiment

from lmf_multitask.data.loading import SAMPLE_NOTE  # isort: skip - paddlenlp must be imported before datasets

if TYPE_CHECKING:
    import datasets

logger = logging.getLogger(__name__)

SEARCH_FILE, TRIALS_FILE, RESULT_FILE, RETRAINED_FOLDER = "search.yaml", "trials.csv", "search.json", "retrained"
SHOWN = 3
"""So many of the best are written and shown."""


@dataclasses.dataclass(frozen=True)
class Plan:
    """How much is to be done.

    Attributes:
        trials: how many there are to be, those of earlier calls included.
        jobs: how many trainings run at a time.
        retrain: how many of the best are trained under fresh seeds.
        seeds: these.
        report: also write the page.
    """

    trials: int
    jobs: int
    retrain: int = 1
    seeds: Sequence[int] = ()
    report: bool = True


def check_seeds(config: SearchConfig, seeds: Sequence[int]) -> None:
    """Fresh seeds are others than the search's, and different.

    Raises:
        ConfigError: they are not.
    """
    if not seeds or len(set(seeds)) < len(seeds) or min(seeds) < 0 or max(seeds) >= 2**63:
        raise ConfigError(
            f"--retrain_seeds must be different whole numbers of at least 0, but got {', '.join(map(str, seeds))}."
        )
    if config.experiment.seed in seeds:
        raise ConfigError(
            f"--retrain_seeds must be other than the seed of the trials, but {config.experiment.seed} is. Choose fresh ones."
        )


def search(config: SearchConfig, folder: Path, plan: Plan) -> SearchResult:
    """Runs what is missing of a search, and draws up the result; no trial sees the test split.

    Args:
        config: what is searched.
        folder: where it goes; a search that is there already is gone on with.
        plan: how much.

    Raises:
        UserError: the data, the settings or the folder do not allow it; nothing has been written then.
        TrainingError: no trial ended with a figure, or a training under fresh seeds failed.
    """
    begun = _check_folder(folder)
    experiment, splits = prepare_experiment(config.experiment)
    del splits["test"]
    config = dataclasses.replace(config, experiment=dataclasses.replace(experiment, output_dir=None))
    _check_sizes(config, splits)
    if begun:
        _check_same_search(config, folder)
    with Run(folder).locked():
        remove_leftovers(folder)
        if not begun:
            write_text(folder / SEARCH_FILE, config.to_yaml())
        study = Study(folder / STUDY_FILE, config)
        _check_same_data(study, fingerprint(splits), folder)
        try:
            run_trials(study, config, plan.trials, plan.jobs)
        except (KeyboardInterrupt, SystemExit):
            logger.warning(
                "stopped; %s of %s trials are kept. To go on, give the same command again.",
                len(study.trials()), plan.trials,
            )  # fmt: skip
            raise
        result = _result(study, config, folder, splits)
        if not result.best(1):
            reasons = dict.fromkeys(trial.reason for trial in result.trials if trial.reason)
            raise TrainingError(
                f"a search must have a trial that ended with a figure, but all {len(result.trials)} failed "
                f"({'; '.join(list(reasons)[:2]).rstrip('.')}). Change the space, and choose another --output_dir."
            )
        _write(result, config, folder, plan)
        if plan.retrain:
            result = dataclasses.replace(result, retrained=_retrain(result, config, folder, plan))
            _write(result, config, folder, plan)
    return result


def _check_folder(folder: Path) -> bool:
    """Whether there is a search in it already."""
    if folder.exists() and not folder.is_dir():
        raise RunError(f"{folder}: must be a folder, but is a file. Choose another --output_dir.")
    found = sorted(path.name for path in folder.iterdir() if not path.name.startswith(".")) if folder.exists() else []
    if SEARCH_FILE in found:
        inside = [folder / SEARCH_FILE, *folder.glob(f"{STUDY_FILE}*"), folder / RETRAINED_FOLDER]
        for path in [*inside, *folder.glob(f"{RETRAINED_FOLDER}/*"), *folder.glob(f"{RETRAINED_FOLDER}/*/*")]:
            if path.is_symlink():
                raise RunError(f"{path}: must lie in its folder itself, but is a link. Put there what it leads to.")
        return True
    if found:
        raise RunError(f"{folder}: must be empty or a search, but holds {found[0]!r}. Choose another --output_dir.")
    return False


def _check_same_search(config: SearchConfig, folder: Path) -> None:
    found = config.difference(read_search(folder / SEARCH_FILE))
    if found is not None:
        name, old, new = found
        raise RunError(
            f"{folder}: must be gone on with as it was begun, but {name} was {old!r} and is {new!r} now. "
            "Choose another --output_dir."
        )


def _check_same_data(study: Study, now: str, folder: Path) -> None:
    before = study.data()
    if before is None:
        study.note_data(now)
    elif before != now:
        raise RunError(
            f"{folder}: must be gone on with on the data that it was begun on, but their fingerprint was {before[:12]} "
            f"and is {now[:12]} now. Choose another --output_dir."
        )


def _check_sizes(config: SearchConfig, splits: datasets.DatasetDict) -> None:
    types = splits["train"].features
    sizes = {"audio": types["audio"].length, "video": types["video"].length, "text": types["text"].feature.length}
    for dimension in config.dimensions():
        for value in dimension.choices or (dimension.high,):
            experiment = config.experiment.with_settings(dimension.assigned(value))
            check_size(sizes, len(experiment.emotions), experiment.model)


# -- what is written


def _result(study: Study, config: SearchConfig, folder: Path, splits: datasets.DatasetDict) -> SearchResult:
    experiment = config.experiment
    facts = {
        "Data": f"the built-in sample. {SAMPLE_NOTE}" if experiment.data_path is None else experiment.data_path,
        "Clips": ", ".join(f"{len(rows):,} {name}" for name, rows in splits.items()) + "; no trial sees the test split",
        "Emotions": ", ".join(experiment.emotions),
        "Compared by": f"validation {config.objective} of the epoch that training.monitor {experiment.training.monitor} keeps, "
        f"seed {experiment.seed} in every trial",
        "Sampler": f"{config.sampler}, seed {config.seed}",
        "Pruning": "none"
        if config.pruning.method == "none"
        else f"median, from epoch {config.pruning.warmup_epochs} on, of at least {config.pruning.startup_trials} trials",
        "Study": f"{STUDY_FILE}, an Optuna study in SQLite",
        "Drawn up": time.strftime("%Y-%m-%d %H:%M"),
        "Settings": config.to_yaml().partition("\n")[2],
    }
    return SearchResult(
        name=folder.name or str(folder),
        objective=config.objective,
        maximise=config.maximise,
        trials=study.trials(),
        importances=study.importances(),
        logarithmic=frozenset(one.name for one in config.dimensions() if one.log),
        facts=facts,
    )


def _write(result: SearchResult, config: SearchConfig, folder: Path, plan: Plan) -> None:
    best = result.best(max(SHOWN, plan.retrain))
    for path in folder.glob("best-*.yaml"):
        rank = path.stem.removeprefix("best-")
        if rank.isdigit() and int(rank) > len(best):  # of an earlier call that retrained more
            path.unlink()
    for rank, trial in enumerate(best, 1):
        write_text(folder / f"best-{rank}.yaml", _best_yaml(result, trial, rank, config, folder))
    write_text(folder / TRIALS_FILE, _trials_csv(result))
    write_text(folder / RESULT_FILE, json.dumps(_as_json(result, best), indent=2, ensure_ascii=False) + "\n")
    if plan.report:
        from lmf_multitask.evaluation.search_page import write_search

        write_search(result, folder)


def _best_yaml(result: SearchResult, trial: Trial, rank: int, config: SearchConfig, folder: Path) -> str:
    place = folder.resolve()
    experiment = config.experiment.with_settings(_settings(config, trial))
    lines = [
        f"Number {rank} of {len(result.trials)} trials of a search: trial {trial.number} of {place / STUDY_FILE}",
        f"Command: python -m lmf_multitask.train --config {shlex.quote(str(place / f'best-{rank}.yaml'))} --output_dir NEW_FOLDER",
        f"Measured: {result.figure} {number(trial.value)} on validation, epoch {trial.kept} of {len(trial.values)}, "
        f"seed {experiment.seed}, {time.strftime('%Y-%m-%d')}.",
    ]
    again = next((one for one in result.retrained if one.trial.number == trial.number), None)
    if again is None:
        lines.append("It was chosen for that figure, which therefore flatters it; no fresh seed has been tried.")
    else:
        test = again.test["mean"].get("weighted_f1")
        lines.append(
            f"Under the fresh seeds {', '.join(map(str, again.seeds))}: {spread(again.values)} on validation"
            + (f"; test weighted F1 {_mean_sd(test)}." if test else ".")
        )
    if config.experiment.data_path is None:
        lines.append(SAMPLE_NOTE)
    text = yaml.safe_dump(dataclasses.asdict(experiment), sort_keys=False, allow_unicode=True)
    return "".join(f"# {line}\n" for line in lines) + text


def _settings(config: SearchConfig, trial: Trial) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for dimension in config.dimensions():
        found.update(dimension.assigned(trial.settings[dimension.name]))
    return found


def _trials_csv(result: SearchResult) -> str:
    buffer = io.StringIO()
    writer = csv.writer(buffer, lineterminator="\n")
    names = list(result.trials[0].settings)
    writer.writerow(["trial", "state", f"validation_{result.objective}", "kept_epoch", "epochs", *names, "reason"])
    for trial in result.trials:
        cells = [json.dumps(value) if isinstance(value, list) else value for value in trial.settings.values()]
        cells = ["null" if value is None else value for value in cells]
        value, kept = ("" if one is None else one for one in (trial.value, trial.kept))
        writer.writerow([trial.number, trial.state, value, kept, len(trial.values), *cells, trial.reason])
    return buffer.getvalue()


def _as_json(result: SearchResult, best: Sequence[Trial]) -> dict[str, Any]:
    states = [trial.state for trial in result.trials]
    return {
        "objective": f"validation_{result.objective}",
        "trials": {"total": len(states), **{state: states.count(state) for state in dict.fromkeys(states)}},
        "best": [
            {"trial": one.number, "value": one.value, "kept_epoch": one.kept, "settings": one.settings} for one in best
        ],
        "importances": result.importances,
        "retrained": [
            {"trial": one.trial.number, "searched": one.trial.value, "seeds": one.seeds, "validation": one.values, "test": one.test}
            for one in result.retrained
        ],
    }  # fmt: skip


# -- fresh seeds


def _retrain(result: SearchResult, config: SearchConfig, folder: Path, plan: Plan) -> list[Retrained]:
    best = result.best(plan.retrain)
    experiments, places = {}, {}
    for trial in best:
        for seed in plan.seeds:
            name = f"trial-{trial.number}/seed{seed}"
            places[trial.number, seed] = folder / RETRAINED_FOLDER / name
            experiment = config.experiment.with_settings(_settings(config, trial))
            experiments[name] = dataclasses.replace(experiment, seed=seed, output_dir=str(places[trial.number, seed]))
    logger.info("training the best%s anew under the seeds %s",
                f" {len(best)}" if len(best) > 1 else "", ", ".join(map(str, plan.seeds)))  # fmt: skip
    failures = train_all(experiments, plan.jobs, quiet=True)
    if failures:
        reasons = "; ".join(f"{name}: {reason.rstrip('.')}" for name, reason in failures.items())
        raise TrainingError(
            f"every training under fresh seeds must end well, but {len(failures)} failed ({reasons}). "
            "Mend that and give the same command again: it trains only what is missing."
        )
    found = []
    for trial in best:
        runs = [Run(places[trial.number, seed]) for seed in plan.seeds]
        values = [_kept_figure(run.folder, config.column) for run in runs]
        metrics = [json.loads((run.folder / METRICS_FILE).read_text(encoding="utf-8")) for run in runs]
        found.append(Retrained(trial, list(plan.seeds), values, seed_summary(metrics)))
    return found


def _kept_figure(run: Path, column: str) -> float:
    """The objective on validation of a run's kept epoch, from its history."""
    path = run / "history.csv"
    with path.open(encoding="utf-8", newline="") as file:
        rows = [{**row, "best": float(row.get("best") or 0)} for row in csv.DictReader(file)]
    row = kept_row(rows)
    if row is None or not row.get(column):
        raise RunError(f"{path}: must tell {column} of the kept epoch, but does not. Remove that folder.")
    return float(row[column])


def _mean_sd(found: dict[str, Any]) -> str:
    return number(found["mean"]) + ("" if found["sd"] is None else f" ± {found['sd']:.3f}")
