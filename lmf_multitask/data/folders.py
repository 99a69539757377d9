"""Your own features, a folder of ``save_to_disk`` or of Parquet files, as a `datasets.DatasetDict` of the package's types.

Nothing here holds more than a few hundred clips' features in memory, however many there are. A saved data set that already has
the right types, and whose numbers are all finite, is used as it is. Everything else is written once, checked and cleaned, to
the cache of `datasets` under a key that is the files' content, and mapped into memory from there.

Shape letters: N rows (clips), T emotions, L words, D feature dimensions.
"""

from __future__ import annotations

import hashlib
import logging
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import datasets
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from lmf_multitask.data.cache import built, feature_table, file_sha256
from lmf_multitask.data.columns import BLOCK_ROWS
from lmf_multitask.data.report import Cleaning, NonFinitePolicy, describe
from lmf_multitask.data.schema import (
    MODALITIES,
    NOT_ANNOTATED,
    SPLITS,
    check_emotion_name,
    dataset_features,
    emotion_names,
    present_modalities,
    table_column,
)
from lmf_multitask.data.tables import DAMAGES, first_line, open_parquet, open_saved
from lmf_multitask.errors import DataError

logger = logging.getLogger(__name__)

_LABEL_ROWS = 1 << 16  # read at a time: labels are small
_LONG = 1 << 28  # bytes whose copying is announced


def load_folder(
    folder: Path, emotions: Sequence[str] | None, non_finite: NonFinitePolicy, cache_dir: object
) -> datasets.DatasetDict:
    """The splits of a folder, memory-mapped, with `schema.dataset_features`; the arguments are those of `load_iemocap`.

    Raises:
        DataError: the folder is neither kind, damaged, or does not fit together.
    """
    if (folder / "dataset_dict.json").is_file():
        splits = _open_saved(folder)
    else:
        splits = _open_parquet(folder)
    try:
        data = _layout(splits, emotions, non_finite)
        return _as_it_is(data) or _copy(folder, data, cache_dir)
    except DataError as error:
        raise DataError(str(error) if str(folder) in str(error) else f"{folder}: {error}") from None


# -- the two kinds


@dataclass
class _Split:
    """One split as its files have it.

    Attributes:
        name: ``train``, ``validation`` or ``test``.
        count: N.
        features: its columns.
        files: where they are stored.
        tables: (columns, rows) -> all rows of these columns in order, at most so many at a time.
        dataset: the same as a memory-mapped data set; None where the files cannot be mapped.
        empty: modalities of which no row has a number other than 0, and whose size therefore does not matter.
    """

    name: str
    count: int
    features: datasets.Features
    files: list[Path]
    tables: Callable[[Sequence[str], int], Iterator[pa.Table]]
    dataset: datasets.Dataset | None = None
    empty: set[str] = field(default_factory=set)

    def column(self, name: str) -> np.ndarray:
        """A whole column: for labels."""
        return np.concatenate([table_column(table, name) for table in self.tables([name], _LABEL_ROWS)])


def _open_saved(folder: Path) -> list[_Split]:
    """What save_to_disk wrote; its splits are read from their own folders, whatever its JSON files say."""
    absent = [split for split in SPLITS if not (folder / split).is_dir()]
    if absent:
        raise DataError(
            f"{folder}: must be a saved data set with the splits {', '.join(SPLITS)}, but {', '.join(absent)} is missing."
        )
    found = []
    for split in SPLITS:
        source = folder / split
        part, files = open_saved(source)
        found.append(_Split(split, len(part), part.features, files, _mapped_tables(part.data.table), part))
    return found


def _mapped_tables(table: pa.Table) -> Callable[[Sequence[str], int], Iterator[pa.Table]]:
    def tables(columns: Sequence[str], rows: int) -> Iterator[pa.Table]:
        chosen = table.select(list(columns))
        return (chosen.slice(start, rows) for start in range(0, len(chosen), rows))

    return tables


def _open_parquet(folder: Path) -> list[_Split]:
    missing = [f"{split}.parquet" for split in SPLITS if not (folder / f"{split}.parquet").is_file()]
    if missing:
        raise DataError(
            f"{folder}: must be a pickle, a folder of save_to_disk, or a folder with train.parquet, validation.parquet "
            f"and test.parquet, but {', '.join(missing)} is missing. Check the path."
        )
    found = []
    for split in SPLITS:
        source = folder / f"{split}.parquet"
        with _parquet_damages(source):
            _check_parquet_size(source)
            schema, count = pq.read_schema(source), pq.read_metadata(source).num_rows
            twice = next((name for name in schema.names if schema.names.count(name) > 1), None)
            if twice is not None:
                raise ValueError(f"it has two columns {twice[:40]!r}")
            types = datasets.Features.from_arrow_schema(schema)
            found.append(_Split(split, count, types, [source], _parquet_tables(source)))
    return found


def _parquet_tables(source: Path) -> Callable[[Sequence[str], int], Iterator[pa.Table]]:
    def tables(columns: Sequence[str], rows: int) -> Iterator[pa.Table]:
        with _parquet_damages(source), open_parquet(source) as file:
            for batch in file.iter_batches(rows, columns=list(columns)):
                yield pa.Table.from_batches([batch])

    return tables


@contextmanager
def _parquet_damages(source: Path) -> Iterator[None]:
    try:
        yield
    except DataError:
        raise
    except DAMAGES as error:
        raise DataError(f"{source}: must be a Parquet file, but {first_line(error)}. Write it again.") from None


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


# -- what is in them


@dataclass
class _Layout:
    """What is known of a folder's data before their features are passed over.

    Attributes:
        splits: train first.
        emotions: names of the T label columns.
        there: the modalities that have a column.
        shapes: modality -> size of a row, `(D,)` or `(L, D)`; ones for those that have no column.
        labels: split -> int64 `[N, T]`.
        non_finite: see `load_iemocap`.
        description: the report that came with a saved data set; empty where there is none.
    """

    splits: list[_Split]
    emotions: list[str]
    there: list[str]
    shapes: dict[str, tuple[int, ...]]
    labels: dict[str, np.ndarray]
    non_finite: NonFinitePolicy
    description: str

    @property
    def types(self) -> datasets.Features:
        shapes = self.shapes
        return dataset_features(*shapes["audio"], *shapes["video"], *shapes["text"], self.emotions)


def _layout(splits: list[_Split], emotions: Sequence[str] | None, non_finite: NonFinitePolicy) -> _Layout:
    train = splits[0]
    for split in splits:
        if split.count == 0:
            raise DataError(f"{split.name} must have at least one row, but is empty. Give every split some clips.")
    names = _label_names(train, emotions)
    there = present_modalities(list(train.features), "train")
    for split in splits:
        if [modality for modality in MODALITIES if modality in split.features] != there:
            raise DataError(
                f"{split.name} must have the columns of train, {', '.join(there)}, but has {', '.join(split.features)}."
                " Store zeros for clips that have none."
            )
    shapes = _shapes(splits, there)
    labels = {split.name: _labels(split, names) for split in splits}
    for split in splits:
        _check_ids(split)
    described = train.dataset is not None and emotion_names(train) == names and len(there) == len(MODALITIES)
    description = train.dataset.info.description if described else ""  # of the data before a column was removed
    if not isinstance(description, str) or not description.replace("\n", "").isprintable():
        description = ""
    return _Layout(splits, names, there, shapes, labels, non_finite, description)


def _label_names(train: _Split, emotions: Sequence[str] | None) -> list[str]:
    """The emotions of the label columns: as the data set names them, as its columns are called, or as the user says."""
    if "labels" not in train.features:
        others = [name for name in train.features if name not in ("id", *MODALITIES)]
        names = [
            name
            for name in others
            if str(getattr(train.features[name], "dtype", "")).startswith(("int", "uint", "bool"))
        ]
        if not names:
            raise DataError(
                f"the data must have a column 'labels' or one 0/1 column per emotion, but have {list(train.features)}."
            )
        return [check_emotion_name(name) for name in names]
    named = emotion_names(train)
    if named is not None:
        if len(set(named)) != len(named):
            raise DataError(f"emotions must be different, but the data name {', '.join(named)[:80]!r}. Rename them.")
        return [check_emotion_name(name) for name in named]
    count = train.column("labels").shape[-1]
    if emotions is None or len(emotions) != count:
        given = "none is given" if emotions is None else f"{len(emotions)} are"
        raise DataError(
            f"the {count} label columns must be named, but {given}. Add --emotions with {count} names in their order."
        )
    return [check_emotion_name(name) for name in emotions]


def _labels(split: _Split, names: list[str]) -> np.ndarray:
    if "labels" in split.features:
        values = split.column("labels")
    else:
        absent = [name for name in names if name not in split.features]
        if absent:
            raise DataError(f"{split.name} must have the label columns of train, but lacks {', '.join(absent)}.")
        values = np.stack([split.column(name) for name in names], axis=1)
    if values.ndim != 2 or values.shape[1] != len(names):
        raise DataError(
            f"labels of {split.name} must have {len(names)} numbers per row, but have the shape {list(values.shape)}."
        )
    odd = values[~np.isin(values, (0, 1, NOT_ANNOTATED))]
    if len(odd):
        raise DataError(
            f"labels must be 1, 0 or {NOT_ANNOTATED} (not annotated), but {split.name} holds {odd[0]:g}. Make them binary."
        )
    return values.astype(np.int64)


def _shapes(splits: list[_Split], there: Sequence[str]) -> dict[str, tuple[int, ...]]:
    """Each modality's size of a row in train, after a look whether the other splits have it, too."""
    found: dict[str, dict[str, tuple[int, ...]]] = {}
    for split in splits:
        sizes = found[split.name] = {}
        for modality in MODALITIES:
            ones = (1, 1) if modality == "text" else (1,)
            size = _row_shape(split, modality) if modality in there else ones
            other = split is not splits[0] and size != found["train"][modality]
            if other and (size is None or _all_zero(split, modality)):
                split.empty.add(modality)
                size = found["train"][modality]
            sizes[modality] = size = ones if size is None else size
            if len(size) != len(ones) or 0 in size:
                rule = "a list of word vectors" if modality == "text" else "a list of numbers"
                raise DataError(
                    f"{modality} must be {rule} in every row, but {split.name} has rows of the shape {size}."
                )
        if sizes != found["train"]:
            raise DataError(
                f"{split.name} must have the sizes of train, {_in_words(found['train'])}, but has {_in_words(sizes)}. "
                "Extract the features alike."
            )
    return found["train"]


def _row_shape(split: _Split, modality: str) -> tuple[int, ...] | None:
    """Size of the first rows that have the modality; None where all are null."""
    for table in split.tables([modality], BLOCK_ROWS):
        column = table.column(modality)
        if column.null_count < len(column) or not len(column):
            return table_column(table, modality).shape[1:]
    return None


def _all_zero(split: _Split, modality: str) -> bool:
    return not any(table_column(table, modality).any() for table in split.tables([modality], BLOCK_ROWS))


def _in_words(shapes: dict[str, tuple[int, ...]]) -> str:
    return ", ".join(f"{modality} {' x '.join(map(str, shape))}" for modality, shape in shapes.items())


def _check_ids(split: _Split) -> None:
    """Ids are read as they are stored: what a type says of decoding (an image is fetched from where it is) is not followed."""
    if "id" in split.features:
        kind = next(split.tables(["id"], 1)).schema.field("id").type
        if not (pa.types.is_string(kind) or pa.types.is_large_string(kind) or pa.types.is_integer(kind)):
            raise DataError(
                f"column 'id' of {split.name} must hold text or whole numbers, but holds {kind}. Convert it."
            )


# -- all rows


def _blocks(
    data: _Layout, split: _Split, seen: dict[str, Cleaning]
) -> Iterator[tuple[list[str] | None, dict[str, np.ndarray]]]:
    """The rows in order: their ids (None where the data have none), and modality -> cleaned float32 `[n, D]` or `[n, L, D]`."""
    columns = [name for name in ("id", *data.there) if name in split.features]
    done = 0
    for table in split.tables(columns, BLOCK_ROWS):
        arrays = {}
        for modality in MODALITIES:
            shape = data.shapes[modality]
            if modality not in data.there or modality in split.empty:
                values = np.zeros((len(table), *shape), np.float32)
            else:
                with np.errstate(over="ignore"):  # beyond float32 becomes infinite, which is counted with the others
                    values = table_column(table, modality, shape).astype(np.float32, copy=False)
            arrays[modality] = seen[modality].take(values)
        done += len(table)
        yield list(map(str, table.column("id").to_pylist())) if "id" in columns else None, arrays
    if done != split.count:
        raise DataError(f"{split.name} must have the {split.count} rows that it announces, but has {done}.")


def _report(data: _Layout, seen: dict[str, dict[str, Cleaning]]) -> str:
    """The description of the data, when all rows have been seen."""
    facts = {split: {m: one.facts(data.non_finite) for m, one in each.items()} for split, each in seen.items()}
    if all(about.empty_clips == about.shape[0] for split in facts.values() for about in split.values()):
        raise DataError(
            f"{', '.join(data.there)} must have numbers in some clip, but are zero or null everywhere. Check the features."
        )
    return data.description or describe(data.emotions, data.labels, facts)


def _as_it_is(data: _Layout) -> datasets.DatasetDict | None:
    """The mapped data set itself; None where its types are other ones, or a number is not finite."""
    for split in data.splits:
        if split.dataset is None or split.features != data.types:
            return None
        if any(split.dataset.data.column(name).null_count for name in ("id", *MODALITIES)):
            return None
    seen: dict[str, dict[str, Cleaning]] = {}
    with _progress(sum(split.count for split in data.splits), "checking") as advance:
        for split in data.splits:
            seen[split.name] = {modality: Cleaning(modality) for modality in MODALITIES}
            for _, arrays in _blocks(data, split, seen[split.name]):
                advance(len(arrays["audio"]))
                if any(one.dirty for one in seen[split.name].values()) and data.non_finite == "zero":
                    return None
    description = _report(data, seen)
    result = datasets.DatasetDict({split.name: split.dataset for split in data.splits})
    for part in result.values():
        part.info.description = description
    return result


# -- the copy


@dataclass
class FolderConfig(datasets.BuilderConfig):
    """What a cached copy depends on: the content of the files, and what they were read as."""

    content: str = ""

    def create_config_id(self, config_kwargs: dict, custom_features: datasets.Features | None = None) -> str:
        """The cache key."""
        return self.content[:32]


class CheckedFolder(datasets.ArrowBasedBuilder):
    """Builder of the cached copy; use `load_iemocap`.

    Attributes:
        layout: what is copied.
        advance: told of the clips that are done.
    """

    VERSION = datasets.Version("1.0.0")  # part of the cache key: raise it when the same files must be built anew
    BUILDER_CONFIG_CLASS = FolderConfig
    layout: _Layout
    advance: Callable[[int], object]

    def _info(self) -> datasets.DatasetInfo:
        return datasets.DatasetInfo()

    def _split_generators(self, dl_manager: object) -> list[datasets.SplitGenerator]:
        self.info.features = self.layout.types
        self._seen: dict[str, dict[str, Cleaning]] = {}
        return [datasets.SplitGenerator(split.name, gen_kwargs={"split": split}) for split in self.layout.splits]

    def _generate_tables(self, split: _Split) -> Iterator[tuple[tuple[int, int], pa.Table]]:
        data, done = self.layout, 0
        self._seen[split.name] = seen = {modality: Cleaning(modality) for modality in MODALITIES}
        for ids, arrays in _blocks(data, split, seen):
            count = len(arrays["audio"])
            names = ids or [f"{split.name}-{number:05d}" for number in range(done, done + count)]
            labels = data.labels[split.name][done : done + count]
            yield (0, done), feature_table(names, arrays, labels, self.info.features)
            done += count
            self.advance(count)
        for one in seen.values():
            one.facts(data.non_finite)
        if len(self._seen) == len(data.splits):
            self.info.description = _report(data, self._seen)


def _copy(folder: Path, data: _Layout, cache_dir: object) -> datasets.DatasetDict:
    files = [path for split in data.splits for path in split.files]
    said = (data.emotions, data.there, data.non_finite, data.description)
    content = hashlib.sha256(repr(([file_sha256(path) for path in files], said)).encode()).hexdigest()
    builder = CheckedFolder(cache_dir=cache_dir and str(cache_dir), content=content)
    builder.layout = data
    clips, size = sum(split.count for split in data.splits), sum(path.stat().st_size for path in files)
    if size > _LONG and not Path(builder.cache_dir).exists():
        logger.info("%s: its %s clips are checked and copied to the cache of datasets, once", folder, f"{clips:,}")
    with _progress(clips, "writing") as builder.advance:
        return built(builder, folder)


@contextmanager
def _progress(clips: int, what: str) -> Iterator[Callable[[int], object]]:
    """Gives a function that is told of clips that are done; on a terminal it draws a bar when all take more than two seconds."""
    if not sys.stderr.isatty():
        yield lambda done: None
        return
    from tqdm import tqdm

    with tqdm(desc=what, total=clips, unit=" clips", delay=2, leave=False, dynamic_ncols=True) as bar:
        yield bar.update
