"""The IEMOCAP pickle (or another data set of its kind) as a `datasets.DatasetDict`."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from difflib import get_close_matches
from pathlib import Path

import datasets
import numpy as np
import pyarrow as pa

from lmf_multitask.data.cache import built, feature_table, file_sha256, fixed_lists
from lmf_multitask.data.corpus import PickledCorpus
from lmf_multitask.data.folders import load_folder
from lmf_multitask.data.report import NonFinitePolicy, clean, describe
from lmf_multitask.data.safe_pickle import check_regular_file
from lmf_multitask.data.schema import (
    MODALITIES,
    NOT_ANNOTATED,
    SPLITS,
    column_array,
    dataset_features,
    emotion_names,
    labels_feature,
)
from lmf_multitask.errors import DataError

_POSITIONS = "positions"  # cached only where the emotions' rows differ in order; see `_in_own_order`


def load_iemocap(
    path: str | Path,
    emotions: Sequence[str] | None = None,
    *,
    label_column: int | None = None,
    non_finite: NonFinitePolicy = "zero",
    cache_dir: str | Path | None = None,
) -> datasets.DatasetDict:
    """Loads the IEMOCAP pickle, or your own features, as a `datasets.DatasetDict`.

    The first load of a pickle checks it, joins the emotions' rows by content and writes the result to the `datasets`
    cache, under a key that is the file's content; every later load maps that file into memory.

    Args:
        path: a pickle ``data[emotion][split][feature]`` (read without running code from it), a folder written by
            ``save_to_disk``, or a folder with ``train.parquet``, ``validation.parquet`` and ``test.parquet``.
        emotions: which emotions, in which order; None takes all. A single one comes in the order of its own rows in the
            file, should the emotions store the same clips in different orders. Parquet files whose ``labels`` column does not name
            its emotions need them all here, in the order of the labels.
        label_column: which column of one-hot labels means "present" (0 or 1); None decides by evidence and says so.
        non_finite: what becomes of NaN and infinities: ``zero``, or ``error`` to refuse them.
        cache_dir: instead of the default cache of `datasets`.

    Returns:
        Splits ``train``, ``validation`` and ``test`` with the columns ``id`` (text), ``audio`` (float32 `[74]` in
        IEMOCAP), ``video`` (`[35]`), ``text`` (`[20, 300]`), ``labels`` (int64 `[T]`: 1 present, 0 absent, -100 not
        annotated; see `emotion_names`). ``info.description`` holds the report of what was found and decided.

    Raises:
        DataError: the file is missing, damaged, hostile, of another layout, or lacks a wanted emotion.
    """
    path = Path(path).expanduser()
    if label_column not in (None, 0, 1):
        raise DataError(f"label_column must be 0 or 1, but got {label_column!r}. Leave it out to decide by evidence.")
    with _quiet_datasets():
        if path.is_dir():
            loaded = load_folder(path, emotions, non_finite, cache_dir)
        else:
            loaded = _load_pickle(path, label_column, non_finite, cache_dir)
        selected = loaded if emotions is None else _select_emotions(loaded, list(emotions), path)
        return _in_own_order(selected, emotions, loaded)


# -- pickle


@dataclass
class IemocapConfig(datasets.BuilderConfig):
    """What a cached data set depends on, beside the file's content."""

    path: str = ""
    sha256: str = ""
    label_column: int | None = None
    non_finite: NonFinitePolicy = "zero"

    def create_config_id(self, config_kwargs: dict, custom_features: datasets.Features | None = None) -> str:
        """The cache key: the content, wherever and whenever the file was written."""
        column = "auto" if self.label_column is None else self.label_column
        return f"{self.sha256[:32]}-{column}-{self.non_finite}"


class Iemocap(datasets.ArrowBasedBuilder):
    """Builder of the Arrow cache; use `load_iemocap`, which also selects emotions."""

    VERSION = datasets.Version("1.1.0")  # part of the cache key: raise it when the same file must be built anew
    BUILDER_CONFIG_CLASS = IemocapConfig
    DEFAULT_WRITER_BATCH_SIZE = 1 << 20  # one record batch per split, so that a column is one block of memory

    def _info(self) -> datasets.DatasetInfo:
        return datasets.DatasetInfo()  # the sizes are known once the file has been read

    def _split_generators(self, dl_manager: object) -> list[datasets.SplitGenerator]:
        self._corpus = PickledCorpus(self.config.path, self.config.label_column)
        shape = {modality: self._corpus.width(modality) for modality in MODALITIES}
        emotions = self._corpus.emotions
        self.info.features = dataset_features(*shape["audio"], *shape["video"], *shape["text"], emotions)
        if not all(rows.same_order for rows in self._corpus.rows.values()):
            self.info.features[_POSITIONS] = datasets.Sequence(datasets.Value("int32"), length=len(emotions))
        self._facts: dict[str, dict] = {}
        return [datasets.SplitGenerator(split, gen_kwargs={"split": split}) for split in SPLITS]

    def _generate_tables(self, split: str) -> Iterator[tuple[object, pa.Table]]:
        corpus, rows = self._corpus, self._corpus.rows[split]
        features, self._facts[split] = {}, {}
        for modality in MODALITIES:
            features[modality] = corpus.features(split, modality)
            self._facts[split][modality] = clean(features[modality], modality, self.config.non_finite)
        ids = [f"{split}-{number:05d}" for number in range(len(rows))]
        if _POSITIONS in self.info.features:
            features[_POSITIONS] = rows.positions
        yield 0, feature_table(ids, features, rows.labels, self.info.features)
        if len(self._facts) == len(SPLITS):
            labels = {name: joined.labels for name, joined in corpus.rows.items()}
            self.info.description = describe(corpus.emotions, labels, self._facts, corpus, self.config.sha256)


def _load_pickle(
    path: Path, label_column: int | None, non_finite: NonFinitePolicy, cache_dir: object
) -> datasets.DatasetDict:
    check_regular_file(path)
    try:
        sha256 = file_sha256(path)
    except OSError as error:
        raise DataError(f"{path}: must be a readable file, but {error.strerror}. Check the path.") from None
    builder = Iemocap(
        cache_dir=cache_dir and str(cache_dir),
        path=str(path),
        sha256=sha256,
        label_column=label_column,
        non_finite=non_finite,
    )
    return built(builder, path)


# -- emotions


def _select_emotions(loaded: datasets.DatasetDict, emotions: list[str], path: Path) -> datasets.DatasetDict:
    """Keeps the label columns of `emotions`, in that order, and the rows that at least one of them annotates."""
    known = emotion_names(loaded["train"])
    for emotion in emotions:
        if emotion not in known:
            close = get_close_matches(emotion, known, n=1)
            hint = f"Did you mean {close[0]!r}?" if close else "Choose among these."
            raise DataError(f"{path}: emotions must be among {', '.join(known)}, but got {emotion!r}. {hint}")
    if not emotions or len(set(emotions)) != len(emotions):
        raise DataError(f"emotions must be one or more different names, but got {emotions}.")
    if emotions == known:
        return loaded
    result = datasets.DatasetDict()
    for split, part in loaded.items():
        labels = column_array(part, "labels")[:, [known.index(emotion) for emotion in emotions]]
        types = part.features.copy()
        types["labels"] = labels_feature(emotions)
        column = pa.table({"labels": fixed_lists(labels)}).cast(datasets.Features(labels=types["labels"]).arrow_schema)
        kept = part.remove_columns("labels")
        joined = datasets.concatenate_datasets([kept, datasets.Dataset(datasets.table.InMemoryTable(column))], axis=1)
        joined.info.description = part.info.description
        annotated = (labels != NOT_ANNOTATED).any(axis=1)
        if not annotated.any():
            raise DataError(f"{path}: {split} must have clips annotated for {', '.join(emotions)}, but has none.")
        result[split] = joined if annotated.all() else joined.select(np.flatnonzero(annotated))
    return result


def _in_own_order(
    selected: datasets.DatasetDict, emotions: Sequence[str] | None, loaded: datasets.DatasetDict
) -> datasets.DatasetDict:
    """Drops the emotions' own row numbers, after a single emotion's rows have been put into their order by them."""
    if _POSITIONS not in loaded["train"].column_names:
        return selected
    result = datasets.DatasetDict()
    for split, part in selected.items():
        if emotions is not None and len(emotions) == 1:
            index = emotion_names(loaded["train"]).index(emotions[0])
            part = part.select(np.argsort(column_array(part, _POSITIONS)[:, index]))
        result[split] = part.remove_columns(_POSITIONS)
    return result


@contextmanager
def _quiet_datasets() -> Iterator[None]:
    """Silences `datasets` below errors: a build takes seconds, a bar per split and a note on older caches say nothing."""
    hidden, level = datasets.utils.are_progress_bars_disabled(), datasets.logging.get_verbosity()
    datasets.disable_progress_bars()
    datasets.logging.set_verbosity_error()
    try:
        yield
    finally:
        datasets.logging.set_verbosity(level)
        if not hidden:
            datasets.enable_progress_bars()
