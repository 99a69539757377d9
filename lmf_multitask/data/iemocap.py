"""The IEMOCAP pickle (or another data set of its kind) as a `datasets.DatasetDict`."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from difflib import get_close_matches
from pathlib import Path

import datasets
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from datasets.exceptions import DatasetGenerationError

from lmf_multitask.data.corpus import PickledCorpus
from lmf_multitask.data.report import NonFinitePolicy, clean, describe
from lmf_multitask.data.safe_pickle import check_regular_file
from lmf_multitask.data.schema import (
    MODALITIES,
    NOT_ANNOTATED,
    SPLITS,
    check_emotion_name,
    column_array,
    dataset_features,
    emotion_names,
    labels_feature,
    present_modalities,
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
            loaded = _load_folder(path, emotions, non_finite, cache_dir)
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
        yield 0, _table(ids, features, rows.labels, self.info.features)
        if len(self._facts) == len(SPLITS):
            labels = {name: joined.labels for name, joined in corpus.rows.items()}
            self.info.description = describe(corpus.emotions, labels, self._facts, corpus, self.config.sha256)


def _load_pickle(
    path: Path, label_column: int | None, non_finite: NonFinitePolicy, cache_dir: object
) -> datasets.DatasetDict:
    check_regular_file(path)
    try:
        with path.open("rb") as file:
            sha256 = (
                hashlib.file_digest(file, "sha256").hexdigest() if hasattr(hashlib, "file_digest") else _sha256(file)
            )
    except OSError as error:
        raise DataError(f"{path}: must be a readable file, but {error.strerror}. Check the path.") from None
    builder = Iemocap(
        cache_dir=cache_dir and str(cache_dir),
        path=str(path),
        sha256=sha256,
        label_column=label_column,
        non_finite=non_finite,
    )
    try:
        builder.download_and_prepare()
    except DatasetGenerationError as error:
        cause = error.__cause__
        if isinstance(cause, DataError):
            raise DataError(f"{path}: {cause}" if str(path) not in str(cause) else str(cause)) from None
        raise
    return builder.as_dataset()


def _sha256(file: object) -> str:
    digest = hashlib.sha256()  # Python 3.10 has no hashlib.file_digest
    while block := file.read(1 << 20):
        digest.update(block)
    return digest.hexdigest()


def _table(ids: list[str], features: dict[str, np.ndarray], labels: np.ndarray, types: datasets.Features) -> pa.Table:
    arrays = {**features, "labels": labels}
    columns = [pa.array(ids) if name == "id" else _fixed_lists(arrays[name]) for name in types]
    return pa.table(columns, names=list(types)).cast(types.arrow_schema)


def _fixed_lists(values: np.ndarray) -> pa.Array:
    """`[N, ...]` as nested fixed-size lists over the same memory."""
    array = pa.array(np.ascontiguousarray(values).reshape(-1))
    for size in values.shape[:0:-1]:
        array = pa.FixedSizeListArray.from_arrays(array, size)
    return array


# -- folders


def _load_folder(
    folder: Path, emotions: Sequence[str] | None, non_finite: NonFinitePolicy, cache_dir: object
) -> datasets.DatasetDict:
    if (folder / "dataset_dict.json").is_file():
        loaded = _load_saved(folder)
    else:
        missing = [f"{split}.parquet" for split in SPLITS if not (folder / f"{split}.parquet").is_file()]
        if missing:
            raise DataError(
                f"{folder}: must be a pickle, a folder of save_to_disk, or a folder with train.parquet, validation.parquet "
                f"and test.parquet, but {', '.join(missing)} is missing. Check the path."
            )
        loaded = datasets.DatasetDict()
        for split in SPLITS:
            source = folder / f"{split}.parquet"
            try:
                _check_parquet_size(source)
                loaded[split] = datasets.Dataset.from_parquet(str(source), cache_dir=cache_dir and str(cache_dir))
            except DataError:
                raise
            except (*_DAMAGES, DatasetGenerationError) as error:
                raise DataError(
                    f"{source}: must be a Parquet file, but {_first_line(error)}. Write it again."
                ) from None
    try:
        return _checked(datasets.DatasetDict({split: loaded[split] for split in SPLITS}), folder, emotions, non_finite)
    except DataError as error:
        raise DataError(f"{folder}: {error}") from None


_DAMAGES = (OSError, ValueError, KeyError, TypeError, AttributeError, IndexError, RecursionError, pa.ArrowException)
"""What `datasets` and pyarrow raise on files that are not what they expect."""


def _load_saved(folder: Path) -> datasets.DatasetDict:
    """What save_to_disk wrote; its splits are read from their own folders, whatever its JSON files say."""
    absent = [split for split in SPLITS if not (folder / split).is_dir()]
    if absent:
        raise DataError(
            f"{folder}: must be a saved data set with the splits {', '.join(SPLITS)}, but {', '.join(absent)} is missing."
        )
    loaded = datasets.DatasetDict()
    for split in SPLITS:
        source = folder / split
        try:
            state = json.loads((source / "state.json").read_text(encoding="utf-8"))
            names = [part["filename"] for part in state["_data_files"]]
            if any(Path(name).name != name or (source / name).is_symlink() for name in names):
                raise ValueError("it refers to files outside of it")
            loaded[split] = datasets.Dataset.load_from_disk(str(source))
            loaded[split].data.validate(full=True)  # or a damaged offset would make pyarrow read foreign memory
        except _DAMAGES as error:
            raise DataError(f"{source}: must be a saved data set, but {_first_line(error)}. Save it again.") from None
    return loaded


def _check_parquet_size(path: Path) -> None:
    """A repeated value takes no place in a Parquet file, but all of it in memory and in the cache."""
    about, size = pq.read_metadata(path), path.stat().st_size
    if about.num_rows == 0:
        raise DataError(f"{path}: must have at least one row, but is empty. Give every split some clips.")
    groups = [about.row_group(number) for number in range(about.num_row_groups)]
    values = sum(group.column(number).num_values for group in groups for number in range(group.num_columns))
    if values > max(1 << 24, 100 * size):
        raise DataError(
            f"{path}: must hold at most 100 values per byte, but holds {values:,} in {size:,}. Check the file."
        )


def _checked(
    loaded: datasets.DatasetDict, folder: Path, emotions: Sequence[str] | None, non_finite: NonFinitePolicy
) -> datasets.DatasetDict:
    """A user's own data in the types that the package works with; unchanged (memory-mapped) where they already are."""
    names = _label_names(loaded["train"], emotions)
    ready = loaded["train"].info.description if emotion_names(loaded["train"]) == names else ""
    if not isinstance(ready, str) or not ready.replace("\n", "").isprintable():
        ready = ""
    facts: dict[str, dict] = {}
    labels: dict[str, np.ndarray] = {}
    result = datasets.DatasetDict()
    there = present_modalities(loaded["train"].column_names, "train")
    if len(there) < len(MODALITIES):
        ready = ""  # it is of the data before a column was removed
    for split, part in loaded.items():
        arrays, dirty = {}, False
        facts[split] = {}
        for modality in MODALITIES:
            if (modality in part.column_names) != (modality in there):
                raise DataError(
                    f"{split} must have the columns of train, {', '.join(there)}, but has {', '.join(part.column_names)}."
                    " Store zeros for clips that have none."
                )
            if modality in there:
                values = column_array(part, modality).astype(np.float32)
                dirty |= part.data.column(modality).null_count > 0
                if split != "train" and not values.any():  # of no size of its own where all are null
                    values = np.zeros((len(part), *facts["train"][modality].shape[1:]), np.float32)
            else:
                values = np.zeros((len(part), 1, 1) if modality == "text" else (len(part), 1), np.float32)
            if values.ndim != (3 if modality == "text" else 2) or 0 in values.shape:
                rule = "a list of word vectors" if modality == "text" else "a list of numbers"
                raise DataError(
                    f"{modality} must be {rule} in every row, but {split} has rows of the shape {values.shape[1:]}."
                )
            facts[split][modality] = clean(values, modality, non_finite)
            dirty |= bool(facts[split][modality].nan or facts[split][modality].infinite)
            arrays[modality] = values
        labels[split] = _checked_labels(part, split, names)
        shapes = {modality: values.shape[1:] for modality, values in arrays.items()}
        first = {modality: facts["train"][modality].shape[1:] for modality in MODALITIES}
        if shapes != first:
            raise DataError(
                f"{split} must have the sizes of train, {_sizes(first)}, but has {_sizes(shapes)}. Extract the features alike."
            )
        types = dataset_features(*shapes["audio"], *shapes["video"], *shapes["text"], names)
        if dirty or part.features != types:
            ids = _ids(part, split)
            part = datasets.Dataset(
                datasets.table.InMemoryTable(_table(ids, arrays, labels[split], types)), split=part.split
            )
        result[split] = part
    if all(about.empty_clips == about.shape[0] for split in facts.values() for about in split.values()):
        raise DataError(
            f"{', '.join(there)} must have numbers in some clip, but are zero or null everywhere. Check the features."
        )
    description = ready or describe(names, labels, facts)
    for part in result.values():
        part.info.description = description
    return result


def _ids(part: datasets.Dataset, split: str) -> list[str]:
    """As they are stored: what a column's type says of decoding (an image is fetched from where it is) is not followed."""
    if "id" not in part.column_names:
        return [f"{split}-{n:05d}" for n in range(len(part))]
    column = part.data.column("id")
    kind = column.type
    if not (pa.types.is_string(kind) or pa.types.is_large_string(kind) or pa.types.is_integer(kind)):
        raise DataError(f"column 'id' of {split} must hold text or whole numbers, but holds {kind}. Convert it.")
    return list(map(str, column.to_pylist()))


def _label_names(part: datasets.Dataset, emotions: Sequence[str] | None) -> list[str]:
    """The emotions of the label columns: as the data set names them, as its columns are called, or as the user says."""
    if "labels" not in part.column_names:
        others = [name for name in part.column_names if name not in ("id", *MODALITIES)]
        names = [
            name
            for name in others
            if str(getattr(part.features[name], "dtype", "")).startswith(("int", "uint", "bool"))
        ]
        if not names:
            raise DataError(
                f"the data must have a column 'labels' or one 0/1 column per emotion, but have {part.column_names}."
            )
        return [check_emotion_name(name) for name in names]
    named = emotion_names(part)
    if named is not None:
        if len(set(named)) != len(named):
            raise DataError(f"emotions must be different, but the data name {', '.join(named)[:80]!r}. Rename them.")
        return [check_emotion_name(name) for name in named]
    count = column_array(part, "labels").shape[-1]
    if emotions is None or len(emotions) != count:
        given = "none is given" if emotions is None else f"{len(emotions)} are"
        raise DataError(
            f"the {count} label columns must be named, but {given}. Add --emotions with {count} names in their order."
        )
    return [check_emotion_name(name) for name in emotions]


def _checked_labels(part: datasets.Dataset, split: str, names: list[str]) -> np.ndarray:
    if "labels" in part.column_names:
        values = column_array(part, "labels")
    else:
        absent = [name for name in names if name not in part.column_names]
        if absent:
            raise DataError(f"{split} must have the label columns of train, but lacks {', '.join(absent)}.")
        values = np.stack([column_array(part, name) for name in names], axis=1)
    if values.ndim != 2 or values.shape[1] != len(names):
        raise DataError(
            f"labels of {split} must have {len(names)} numbers per row, but have the shape {list(values.shape)}."
        )
    odd = values[~np.isin(values, (0, 1, NOT_ANNOTATED))]
    if len(odd):
        raise DataError(
            f"labels must be 1, 0 or {NOT_ANNOTATED} (not annotated), but {split} holds {odd[0]:g}. Make them binary."
        )
    return values.astype(np.int64)


def _sizes(shapes: dict[str, tuple[int, ...]]) -> str:
    return ", ".join(f"{modality} {' x '.join(map(str, shape))}" for modality, shape in shapes.items())


def _first_line(error: BaseException) -> str:
    cause = error.__cause__ or error
    return (str(cause).strip().splitlines() or [type(cause).__name__])[0].rstrip(".")[:200]


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
        column = pa.table({"labels": _fixed_lists(labels)}).cast(datasets.Features(labels=types["labels"]).arrow_schema)
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
