"""Any data file or folder as train, validation and test, checked, cleaned and mapped into memory.

Shape letters: N rows (clips), T tasks, L steps, D features.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

import datasets
import numpy as np
import pyarrow as pa

from lmf_multitask.data import cache
from lmf_multitask.data.columns import BLOCK_ROWS, column_arrays, emotion_names, fingerprint, missing_rows
from lmf_multitask.data.config import DataConfig
from lmf_multitask.data.description import with_notes
from lmf_multitask.data.folds import Fold, describe_folds, split_of_rows
from lmf_multitask.data.groups import overlap_notes, shown_names
from lmf_multitask.data.modality import MODALITIES, Input
from lmf_multitask.data.quality import repetition_notes
from lmf_multitask.data.sample import builtin_sample
from lmf_multitask.data.schema import GROUPS, SPLITS
from lmf_multitask.data.sources import ALL, Source, naming, open_source
from lmf_multitask.data.targets import REGRESSION, Target, parse_target
from lmf_multitask.data.task_columns import above, known_targets, select_targets
from lmf_multitask.errors import DataError
from lmf_multitask.files import atomic_folder

logger = logging.getLogger(__name__)

_FOLD_SPLIT = "fold_split"

SAMPLE_NOTE = "These metrics are from the built-in sample of made-up clips: they say nothing about IEMOCAP."


@dataclass
class LoadedData:
    """A data set, ready for training.

    Attributes:
        dataset: splits ``train``, ``validation`` and ``test`` with the columns ``id`` (text), ``audio``, ``video``, ``text``
            (float32 `[D]` or `[L, D]`), ``labels`` (a struct with one float32 field per emotion, NaN = not annotated) and,
            where they are known, ``groups`` (text).
        emotions: names of the T tasks, in the order of their label columns.
        inputs: modality -> shape of a clip and padding of its sequences. A modality that the file does not have is a
            column of zeros of the shape ``(1,)``, for text ``(1, 1)``.
        report: text of ``lmf data inspect``: what was found and decided.
        notes: what was decided about the file, and warnings, one line each: for the console of train and evaluate.
        label_column: which column of one-hot labels means "present"; None for other kinds of labels.
        targets: the T tasks with their kinds and, where known, ranges.
        quality: repeated clips and ids, and outliers, for ``metrics.json``; see `cache.Facts`.
        folds: of a cross-validation, the names of the groups whose clips are test clips in each fold (none where the groups are
            not known); None for the splits of the file.
    """

    dataset: datasets.DatasetDict
    emotions: list[str]
    inputs: dict[str, Input]
    report: str
    notes: list[str]
    label_column: int | None
    targets: list[Target]
    quality: dict[str, Any] = field(default_factory=dict)
    folds: list[list[str]] | None = None

    @cached_property
    def fingerprint(self) -> str:
        """SHA-256 of everything that training uses, see `columns.fingerprint`."""
        return fingerprint(self.dataset)


def load(
    path: str | Path | None = None,
    emotions: Sequence[str | Target] | None = None,
    config: DataConfig | None = None,
    fold: Fold | None = None,
    only: str | None = None,
) -> LoadedData:
    """Loads a data file or folder of any known layout.

    The first load checks and cleans the data and writes them to the cache of `datasets`, under a key that is their content;
    later loads map these files into memory.

    Args:
        path: a pickle ``data[emotion][split][feature]`` (read without running code from it), a folder written by
            ``save_to_disk``, a folder with ``train.parquet``, ``validation.parquet`` and ``test.parquet``, or an ``.npz`` file
            with an array ``split``. None takes the built-in sample.
        emotions: which tasks, in which order, as `data.targets.parse_target` reads them; None takes all. If the emotions of
            a pickle store the same clips in different orders, a single one comes in its own order. Also names the emotions of
            files that do not name them, and chooses label columns of tables.
        config: how to read the file.
        fold: of a cross-validation over the clips of all splits, instead of the splits of the file, which may have none.
        only: the one split that the file must have; a file without splits is this split as a whole. None: all three.

    Raises:
        DataError: the file is missing, damaged, hostile, of another layout, or lacks a split or an emotion.
    """
    config = config or DataConfig()
    wanted = None if emotions is None else [parse_target(one) for one in emotions]
    path = Path(path or builtin_sample()).expanduser()
    stratify = [parse_target(one) for one in (() if fold is None else fold.stratify or ())]
    source = _opened(path, None if wanted is None else [*wanted, *stratify], config)
    unsplit = source.split_names == [ALL]
    needed = SPLITS if only is None else (only,)
    lacking = [split for split in needed if split not in source.split_names]
    if lacking and fold is None and not (only and unsplit):
        got, advice = ", ".join(source.split_names), f"Add {' and '.join(lacking)}; or cross-validate: --folds 5"
        if only:
            advice = "Choose one of these with --split"
        elif unsplit:
            got, advice = "none", "Name the column that tells them: --data.split_column; or cross-validate: --folds 5"
        what = f"the split {only}" if only else f"the splits {', '.join(SPLITS)} for training"
        raise DataError(f"{path}: must have {what}, but has {got}. {advice}.")
    if not source.emotions:
        source.scan()
        source.labels(source.split_names[0])  # says what is missing
    with naming(path):
        dataset, facts = cache.cached(source, config.non_finite, config.cache_dir)
        chosen = known_targets(facts, [Target(name) for name in facts.emotions] if wanted is None else wanted)
        folds: list[list[str]] | None = None
        notes: list[str] = []
        if facts.groups is not None:
            dataset = _with_column(dataset, GROUPS, facts.groups)
        if fold is not None:
            strata = known_targets(facts, stratify) if stratify else chosen
            dataset, folds, notes = _in_folds(dataset, strata, config.at_threshold, fold)
            facts = _of_all_clips(facts)
        selected, derived = select_targets(dataset, chosen, config.at_threshold)
        if fold is None:
            selected = _in_own_order(
                selected, None if wanted is None else [one.column for one in chosen], facts.emotions
            )
        else:
            selected = _fold_splits(selected["all"])
        if only and unsplit:
            selected[only] = selected.pop(ALL)
            notes.append(f"the file has no splits: all of its clips are taken as {only}")
        if facts.groups is not None:
            notes += overlap_notes({split: part[GROUPS][:] for split, part in selected.items()})
    report = "\n".join([with_notes(facts.report, notes), *(f"{'derived':<10} {line}" for line in derived)])
    for part in selected.values():
        part.info.description = report
    first = selected["train" if only is None else only]
    columns = column_arrays(first)
    inputs = {name: Input(tuple(columns[name].shape[1:]), facts.padding[name]) for name in MODALITIES}
    learned, notes = emotion_names(first), [*facts.notes, *notes, *derived]
    return LoadedData(selected, learned, inputs, report, notes, facts.label_column, chosen, facts.quality, folds)


def load_iemocap(
    path: str | Path,
    emotions: Sequence[str] | None = None,
    *,
    label_column: Literal[0, 1] | None = None,
    non_finite: Literal["zero", "error"] = "zero",
    max_length: int | None = None,
    group_column: str | None = None,
    cache_dir: str | Path | None = None,
) -> datasets.DatasetDict:
    """Loads the IEMOCAP pickle, or your own features, as a `datasets.DatasetDict`.

    Args:
        path: see `load`.
        emotions: see `load`.
        label_column: which column of one-hot labels means "present" (0 or 1); None decides by evidence.
        non_finite: ``zero`` replaces NaN and infinities by 0; ``error`` refuses them.
        max_length: longest sequence, in steps; None: no limit.
        group_column: column or key that names the speaker, session or dialogue of each clip; None: the usual names.
        cache_dir: instead of the default cache of `datasets`.

    Returns:
        See `LoadedData.dataset`; ``info.description`` of each split holds the report.

    Raises:
        DataError: see `load`.
        ConfigError: an option is out of range.
    """
    config = DataConfig(
        label_column=label_column,
        non_finite=non_finite,
        max_length=max_length,
        group_column=group_column,
        cache_dir=None if cache_dir is None else str(cache_dir),
    )
    return load(path, emotions, config).dataset


def inspect(path: str | Path, emotions: Sequence[str] | None = None, config: DataConfig | None = None) -> str:
    """Text of ``lmf data inspect``: what `load` finds in a file, which may lack splits and labels.

    Raises:
        DataError: see `load`.
    """
    config = config or DataConfig()
    source = _opened(path, None if emotions is None else [parse_target(one) for one in emotions], config)
    with naming(source.path):
        facts = cache.inspect(source, config.non_finite)
    return with_notes(facts.report, overlap_notes(facts.groups or {}))


def _opened(path: str | Path, targets: Sequence[Target] | None, config: DataConfig) -> Source:
    kinds = {one.column: one.kind if one.source is None else REGRESSION for one in targets or () if one.kind}
    names = None if targets is None else list(dict.fromkeys(one.column for one in targets))
    return open_source(path, emotions=names, kinds=kinds, config=config, scan=False)


def convert(
    path: str | Path, folder: Path, emotions: Sequence[str] | None = None, config: DataConfig | None = None
) -> dict[Path, int]:
    """Writes any data file as one Parquet file per split, which gives the same rows again: ``lmf data convert``.

    Args:
        path: see `load`; labels may be missing, and some of the splits.
        folder: what to write; it must not exist or be empty.
        emotions: see `load`.
        config: how to read the file.

    Returns:
        The files, with their numbers of rows.

    Raises:
        DataError: see `load`; or the file has no splits, or the folder holds files.
    """
    config, folder = config or DataConfig(), folder.expanduser()
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise DataError(f"{folder}: must not exist or be an empty folder, but is neither. Choose another one.")
    source = _opened(path, None if emotions is None else [parse_target(one) for one in emotions], config)
    if ALL in source.split_names:
        raise DataError(
            f"{source.path}: must have splits, but has none. Name the column of splits: --data.split_column."
        )
    with naming(source.path):
        dataset, facts = cache.cached(source, config.non_finite, config.cache_dir)
    if facts.groups is not None:
        dataset = _with_column(dataset, GROUPS, facts.groups)
    found = {}
    with atomic_folder(folder) as part:
        for split, rows in dataset.items():
            rows.to_parquet(str(part / f"{split}.parquet"), batch_size=BLOCK_ROWS)
            found[folder / f"{split}.parquet"] = len(rows)
    return found


def missing_in_train(dataset: datasets.DatasetDict, modalities: Sequence[str]) -> list[str]:
    """Those of the modalities that no clip of train has; logs them, and how many clips lack another one.

    Raises:
        DataError: all of them are missing.
    """
    count, gaps = len(dataset["train"]), missing_rows(column_arrays(dataset["train"]))
    gaps = {modality: rows for modality, rows in gaps.items() if modality in modalities}
    absent = [modality for modality, rows in gaps.items() if rows == count]
    if len(absent) == len(gaps):
        raise DataError(
            f"train must have clips with {' or '.join(absent)}, but {' and '.join(absent)} "
            f"{'is' if len(absent) == 1 else 'are'} missing in every clip. Choose others with --model.modalities."
        )
    if absent:
        logger.warning(
            "%s missing in every clip of train: the network is built without %s",
            f"{' and '.join(absent)} {'is' if len(absent) == 1 else 'are'}",
            "it" if len(absent) == 1 else "them",
        )
    for modality, rows in gaps.items():
        if 0 < rows < count:
            logger.info("%s is missing (all zero) in %s of %s clips of train", modality, f"{rows:,}", f"{count:,}")
    return absent


def _with_column(
    dataset: Mapping[str, datasets.Dataset], name: str, values: Mapping[str, Sequence[str]]
) -> datasets.DatasetDict:
    """The same data sets with one more column of texts, in memory."""
    found = datasets.DatasetDict()
    for split, part in dataset.items():
        column = datasets.Dataset(datasets.table.InMemoryTable(pa.table({name: pa.array(values[split], pa.string())})))
        found[split] = datasets.concatenate_datasets([part, column], axis=1)
    return found


def _in_folds(
    dataset: datasets.DatasetDict, strata: Sequence[Target], at_threshold: str, fold: Fold
) -> tuple[datasets.DatasetDict, list[list[str]], list[str]]:
    """All clips as the one split ``all``, with a column that says in which split of the fold each is.

    Returns:
        The data set, the test groups of every fold, and notes.
    """
    whole = datasets.concatenate_datasets(list(_in_own_order(dataset, None, []).values()))
    labels, known = np.asarray(column_arrays(whole)["labels"]), emotion_names(whole)
    columns = [
        values if one.source is None else above(values, one.threshold, at_threshold)
        for one in strata
        for values in [labels[:, known.index(one.column)]]
    ]
    groups = np.array(whole[GROUPS][:]) if GROUPS in whole.column_names else None
    split, folds = split_of_rows(np.stack(columns, axis=1), groups, fold)
    count = int(folds.max()) + 1
    tested = [[] if groups is None else np.unique(groups[folds == number]).tolist() for number in range(count)]
    own = tested[fold.number - 1]
    notes = [describe_folds(tested), *([f"fold {fold.number}: test groups {shown_names(own)}"] if own else [])]
    return _with_column({"all": whole}, _FOLD_SPLIT, {"all": split.tolist()}), tested, notes


def _of_all_clips(facts: cache.Facts) -> cache.Facts:
    """What is known about the file, with copies of a clip in two of its splits as copies among all clips."""
    across = {name: sum(facts.quality.get(name, {}).values()) for name in ("shared", "shared_ids")}
    outdated = repetition_notes({name: facts.quality[name] for name in across if name in facts.quality})
    notes = [note for note in facts.notes if note not in outdated]
    if across["shared"]:
        notes.append(
            f"{across['shared']} clip(s) are in two splits of the file: copies may be in train and test of a fold, whose "
            "results are then too optimistic"
        )
    quality = {name: found for name, found in facts.quality.items() if name not in across}
    quality.update({name: {"all": count} for name, count in across.items() if count})
    report = "\n".join(line for line in facts.report.splitlines() if line[11:] not in outdated)
    return replace(facts, notes=notes, quality=quality, report=report)


def _fold_splits(whole: datasets.Dataset) -> datasets.DatasetDict:
    """The clips by the column of `_in_folds`, without it."""
    split, whole = np.array(whole[_FOLD_SPLIT][:]), whole.remove_columns(_FOLD_SPLIT)
    rows = {name: np.flatnonzero(split == name) for name in SPLITS}
    empty = [name for name, found in rows.items() if not len(found)]
    if empty:
        raise DataError(
            f"{' and '.join(empty)} of the fold must have annotated clips, but have none. Take fewer folds."
        )
    return datasets.DatasetDict({name: whole.select(found) for name, found in rows.items()})


def _in_own_order(dataset: datasets.DatasetDict, emotions: list[str] | None, known: list[str]) -> datasets.DatasetDict:
    """Puts the rows of a single emotion into its own order, and drops the column that has these orders."""
    if cache.POSITIONS not in next(iter(dataset.values())).column_names:
        return dataset
    result = datasets.DatasetDict()
    for split, part in dataset.items():
        if emotions is not None and len(emotions) == 1:
            positions = np.array(part[cache.POSITIONS][:])[:, known.index(emotions[0])]
            part = part.select(np.argsort(positions))
        result[split] = part.remove_columns(cache.POSITIONS)
    return result
