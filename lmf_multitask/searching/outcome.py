"""A search from its settings to its report: folder, study, trials, best settings, and these under fresh seeds.

search.yaml       what is searched; it must not change when the search is continued
study.db          every trial: an Optuna study in SQLite
trials.csv        the same as a table
best-1.yaml ...   complete settings of the best, for ``train --config``
retrained/        the best under fresh seeds, a run directory each
search.json       metrics of the best, searched and retrained
search.html       the report; its plots also in plots/
"""

from __future__ import annotations

import csv
import dataclasses
import io
import json
import logging
import shlex
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

from lmf_multitask.config import replaced, to_dict
from lmf_multitask.data.columns import fingerprint
from lmf_multitask.data.loading import SAMPLE_NOTE
from lmf_multitask.errors import ConfigError, RunError, TrainingError
from lmf_multitask.evaluation.metrics import EXCLUSIVE, METRICS, TASK_METRIC
from lmf_multitask.evaluation.statistics import seed_summary
from lmf_multitask.evaluation.text import number
from lmf_multitask.files import remove_leftovers, write_json, write_text
from lmf_multitask.pipeline.launcher import train_all
from lmf_multitask.pipeline.layout import HISTORY_FILE, check_no_links
from lmf_multitask.pipeline.runs import Run, kept_row
from lmf_multitask.pipeline.stages import Prepared, check_network, load
from lmf_multitask.searching.driver import run_trials
from lmf_multitask.searching.page import write_search
from lmf_multitask.searching.results import Retrained, SearchResult, Trial, spread
from lmf_multitask.searching.space import SearchConfig, read_search
from lmf_multitask.searching.study import STUDY_FILE, Study, is_metric

logger = logging.getLogger(__name__)

SEARCH_FILE, TRIALS_FILE, RESULT_FILE, RETRAINED_FOLDER = "search.yaml", "trials.csv", "search.json", "retrained"
SHOWN = 3
"""How many of the best are written and shown."""


@dataclasses.dataclass(frozen=True)
class Plan:
    """The size of a search.

    Attributes:
        trials: the wanted number of trials, those of earlier calls included.
        jobs: how many trainings run at a time.
        retrain: how many of the best are trained under fresh seeds.
        seeds: these seeds.
        report: also write the report.
    """

    trials: int
    jobs: int
    retrain: int = 1
    seeds: Sequence[int] = ()
    report: bool = True


def check_seeds(config: SearchConfig, seeds: Sequence[int]) -> None:
    """Checks that fresh seeds differ from each other and from that of the search.

    Raises:
        ConfigError: they do not.
    """
    if not seeds or len(set(seeds)) < len(seeds) or min(seeds) < 0 or max(seeds) >= 2**63:
        raise ConfigError(
            f"--retrain_seeds must be different whole numbers of at least 0, but got {', '.join(map(str, seeds))}."
        )
    if config.experiment.seed in seeds:
        raise ConfigError(
            f"--retrain_seeds must not contain the seed of the trials, but {config.experiment.seed} is it. Choose fresh ones."
        )


def search(config: SearchConfig, folder: Path, plan: Plan) -> SearchResult:
    """Runs the missing part of a search and writes the result; no trial uses the test split.

    Raises:
        UserError: the data, the settings or the folder do not allow it; nothing has been written then.
        TrainingError: no trial succeeded, or a training under fresh seeds failed.
    """
    exists = _check_folder(folder)
    prepared = load(config.experiment)
    splits = {name: rows for name, rows in prepared.data.dataset.items() if name != "test"}
    experiment = dataclasses.replace(prepared.config, output_dir=None)
    config = dataclasses.replace(config, experiment=experiment, objective=_objective(config.objective, prepared))
    _check_sizes(config, prepared)
    if exists:
        _check_same_search(config, folder)
    with Run(folder).locked():
        remove_leftovers(folder)
        if not exists:
            write_text(folder / SEARCH_FILE, config.to_yaml())
        study = Study(folder / STUDY_FILE, config)
        _check_same_data(study, fingerprint(splits), folder)
        try:
            run_trials(study, config, plan.trials, plan.jobs)
        except (KeyboardInterrupt, SystemExit):
            done = len(study.trials())
            logger.warning("stopped; %s of %s trials are kept. Give the same command to continue.", done, plan.trials)
            raise
        result = _result(study, config, folder, splits)
        if not result.best(1):
            reasons = dict.fromkeys(trial.reason for trial in result.trials if trial.reason)
            raise TrainingError(
                f"a search must have a trial that ends with a metric, but all {len(result.trials)} failed "
                f"({'; '.join(list(reasons)[:2]).rstrip('.')}). Change the space, and choose another --output_dir."
            )
        _write(result, config, folder, plan)
        if plan.retrain:
            result = dataclasses.replace(result, retrained=_retrain(result, config, folder, plan))
            _write(result, config, folder, plan)
    return result


def _check_folder(folder: Path) -> bool:
    """Whether the folder holds a search already."""
    if folder.exists() and not folder.is_dir():
        raise RunError(f"{folder}: must be a folder, but is a file. Choose another --output_dir.")
    found = sorted(path.name for path in folder.iterdir() if not path.name.startswith(".")) if folder.exists() else []
    if SEARCH_FILE in found:
        runs = (path for pattern in ("", "/*", "/*/*") for path in folder.glob(f"{RETRAINED_FOLDER}{pattern}"))
        for path in [folder / SEARCH_FILE, *folder.glob(f"{STUDY_FILE}*"), *runs]:
            check_no_links(folder, path)
        study = folder / STUDY_FILE
        if study.exists() and not study.is_file():
            raise RunError(
                f"{study}: must be the study of a search, but is no regular file. Choose another --output_dir."
            )
        return True
    if found:
        raise RunError(f"{folder}: must be empty or a search, but holds {found[0]!r}. Choose another --output_dir.")
    return False


def _check_same_search(config: SearchConfig, folder: Path) -> None:
    found = config.difference(read_search(folder / SEARCH_FILE))
    if found is not None:
        name, old, new = found
        raise RunError(
            f"{folder}: cannot continue the search: {name} changed from {old!r} to {new!r}. Choose another --output_dir."
        )


def _check_same_data(study: Study, now: str, folder: Path) -> None:
    before = study.data()
    if before is None:
        study.note_data(now)
    elif before != now:
        raise RunError(
            f"{folder}: cannot continue the search: the fingerprint of the data changed from {before[:12]} to {now[:12]}. "
            "Choose another --output_dir."
        )


def _objective(name: str, prepared: Prepared) -> str:
    """The objective for these tasks: with tasks of one kind, `TASK_METRIC` is the metric of that kind."""
    own = list(dict.fromkeys(task.monitor for task in prepared.tasks))
    metric = METRICS.get(name)
    if metric is not None and metric.kind != EXCLUSIVE and not any(map(metric.rates, prepared.tasks)):
        raise ConfigError(
            f"objective must be a metric of the tasks, but {name} is for {metric.kind} tasks. "
            f"Choose {own[0] if len(own) == 1 else TASK_METRIC}."
        )
    return own[0] if name == TASK_METRIC and len(own) == 1 else name


def _check_sizes(config: SearchConfig, prepared: Prepared) -> None:
    for dimension in config.dimensions():
        for value in dimension.choices or (dimension.high,):
            model = replaced(config.experiment, dimension.assigned(value)).model
            check_network(prepared.data, model)


# -- results


def _result(study: Study, config: SearchConfig, folder: Path, splits: Mapping[str, Any]) -> SearchResult:
    experiment, pruning = config.experiment, config.pruning
    clips = ", ".join(f"{len(rows):,} {name}" for name, rows in splits.items())
    facts = {
        "Data": f"the built-in sample. {SAMPLE_NOTE}" if experiment.data_path is None else experiment.data_path,
        "Clips": f"{clips}; no trial uses the test split",
        "Tasks": ", ".join(experiment.wanted or ()),
        "Compared by": f"validation {config.objective} of the epoch that training.monitor {experiment.training.monitor} selects, "
        f"seed {experiment.seed} in every trial",
        "Sampler": f"{config.sampler}, seed {config.seed}",
        "Pruning": "none"
        if pruning.method == "none"
        else f"median, from epoch {pruning.warmup_epochs} on, of at least {pruning.startup_trials} trials",
        "Study": f"{STUDY_FILE}, an Optuna study in SQLite",
        "Written": time.strftime("%Y-%m-%d %H:%M"),
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
        number_of_file = path.stem.removeprefix("best-")
        if number_of_file.isdecimal() and int(number_of_file) > len(best):  # of an earlier call that retrained more
            path.unlink()
    for rank, trial in enumerate(best, 1):
        write_text(folder / f"best-{rank}.yaml", _best_yaml(result, trial, rank, config, folder))
    write_text(folder / TRIALS_FILE, _trials_csv(result))
    write_json(folder / RESULT_FILE, _as_json(result, best))
    if plan.report:
        write_search(result, folder)


def _best_yaml(result: SearchResult, trial: Trial, rank: int, config: SearchConfig, folder: Path) -> str:
    place = folder.resolve()
    experiment = replaced(config.experiment, _settings(config, trial))
    lines = [
        f"Number {rank} of {len(result.trials)} trials of a search: trial {trial.number} of {place / STUDY_FILE}",
        f"Command: python -m lmf_multitask.train --config {shlex.quote(str(place / f'best-{rank}.yaml'))} --output_dir NEW_FOLDER",
        f"Measured: {result.metric} {number(trial.value)} on validation, epoch {trial.kept} of {len(trial.values)}, "
        f"seed {experiment.seed}, {time.strftime('%Y-%m-%d')}.",
    ]
    again = next((one for one in result.retrained if one.trial.number == trial.number), None)
    if again is None:
        lines.append("It was chosen for this value, which is therefore optimistic; no fresh seed has been trained.")
    else:
        test = again.test["mean"].get("weighted_f1")
        lines.append(
            f"Under the fresh seeds {', '.join(map(str, again.seeds))}: {spread(again.values)} on validation"
            + (f"; test weighted F1 {_mean_std(test)}." if test else ".")
        )
    if config.experiment.data_path is None:
        lines.append(SAMPLE_NOTE)
    text = yaml.safe_dump(to_dict(experiment), sort_keys=False, allow_unicode=True)
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
        plain = (str, int, float)
        cells = [value if isinstance(value, plain) else json.dumps(value) for value in trial.settings.values()]
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
    experiments, runs = {}, {}
    for trial in best:
        for seed in plan.seeds:
            name = f"trial-{trial.number}/seed{seed}"
            run = runs[trial.number, seed] = Run(folder / RETRAINED_FOLDER / name)
            experiment = replaced(config.experiment, _settings(config, trial))
            experiments[name] = dataclasses.replace(experiment, seed=seed, output_dir=str(run.folder))
    which = "best" if len(best) == 1 else f"best {len(best)}"
    logger.info("training the %s again under the seeds %s", which, ", ".join(map(str, plan.seeds)))
    failures = train_all(experiments, plan.jobs, quiet=True)
    if failures:
        reasons = "; ".join(f"{name}: {reason.rstrip('.')}" for name, reason in failures.items())
        raise TrainingError(
            f"every training under fresh seeds must end normally, but {len(failures)} failed ({reasons}). "
            "Correct that and give the same command again: it trains only what is missing."
        )
    found = []
    for trial in best:
        own = [runs[trial.number, seed] for seed in plan.seeds]
        values = [kept_value(run, config.column) for run in own]
        found.append(Retrained(trial, list(plan.seeds), values, seed_summary([run.metrics() or {} for run in own])))
    return found


def kept_value(run: Run, column: str) -> float:
    """The value of a column of the history in the epoch whose weights a run kept.

    Raises:
        RunError: the history does not have it.
    """
    row = kept_row(run.history())
    if row is None or not is_metric(row.get(column)):
        where = run.folder / HISTORY_FILE
        raise RunError(f"{where}: must have {column} of the kept epoch, but does not. Remove that folder.")
    return row[column]


def _mean_std(found: dict[str, Any]) -> str:
    return number(found["mean"]) + ("" if found["sd"] is None else f" ± {found['sd']:.3f}")
