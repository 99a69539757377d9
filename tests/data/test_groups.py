"""Groups: where they are found, and which of them are in several splits."""

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from conftest import make_corpus

from lmf_multitask.data.config import DataConfig
from lmf_multitask.data.loading import convert, inspect, load, load_iemocap
from lmf_multitask.errors import DataError

ROWS = {"train": 8, "validation": 4, "test": 4}


def ids_of(split):
    """IEMOCAP's form: train has sessions 1 and 2, validation 3, test 4 and 2."""
    sessions = {"train": [1, 2], "validation": [3], "test": [4, 2]}[split]
    return [
        f"Ses0{sessions[row % len(sessions)]}F_{'script01_1b' if row % 2 else 'impro05a'}_{'FM'[row // 2 % 2]}{row:03d}"
        for row in range(ROWS[split])
    ]


@pytest.fixture
def write_npz(tmp_path):
    def write(ids=ids_of, **arrays):
        rng = np.random.default_rng(0)
        total = sum(ROWS.values())
        content = {
            "id": np.array([one for split in ROWS for one in ids(split)]),
            "split": np.repeat(list(ROWS), list(ROWS.values())),
            "audio": rng.normal(size=(total, 3)).astype("f4"),
            "text": rng.normal(size=(total, 2, 3)).astype("f4"),
            "happy": np.arange(total) % 2,
            **arrays,
        }
        path = tmp_path / "data.npz"
        np.savez(path, **content)
        return path

    return write


def groups(dataset):
    return {split: dataset[split]["groups"][:] for split in dataset}


def test_sessions_are_read_off_ids_of_iemocap(write_npz):
    data = load(write_npz())
    assert groups(data.dataset)["validation"] == ["Ses03"] * 4
    assert groups(data.dataset)["test"] == ["Ses04", "Ses02"] * 2
    assert "groups: 4, session in the ids, which have IEMOCAP's form" in data.notes
    overlap = "1 group(s) of train are also in test: results on test are too optimistic (Ses02)"
    assert [note for note in data.notes if "group(s)" in note] == [overlap]
    assert overlap in data.report


@pytest.mark.parametrize(
    ("level", "names"),
    [
        ("session", ["Ses01", "Ses02", "Ses01"]),
        ("speaker", ["Ses01F", "Ses02F", "Ses01M"]),
        ("dialogue", ["Ses01F_impro05a", "Ses02F_script01_1b", "Ses01F_impro05a"]),
    ],
)
def test_levels_of_iemocap(write_npz, level, names):
    found = groups(load_iemocap(write_npz(), group_column=level))["train"]
    assert found[:3] == names


def test_other_ids_name_no_groups(write_npz):
    data = load(write_npz(lambda split: [f"{split}{row}" for row in range(ROWS[split])]))
    assert "groups" not in data.dataset["train"].column_names
    assert not any("group" in note for note in data.notes)


def test_one_other_id_is_enough_to_name_none(write_npz):
    data = load(write_npz(lambda split: ["x", *ids_of(split)[1:]] if split == "test" else ids_of(split)))
    assert "groups" not in data.dataset["train"].column_names


@pytest.mark.parametrize("name", ["groups", "group", "who"])
@pytest.mark.parametrize("kind", ["texts", "numbers"])
def test_an_array_names_groups(write_npz, name, kind):
    numbers = np.array([1, 1, 2, 2, 3, 3, 4, 4, 5, 5, 6, 6, 7, 7, 4, 4])
    path = write_npz(**{name: numbers if kind == "numbers" else np.array([f"s{one}" for one in numbers])})
    data = load(path, config=DataConfig(group_column=name if name == "who" else None))
    prefix = "" if kind == "numbers" else "s"
    assert groups(data.dataset)["test"] == [f"{prefix}{one}" for one in (7, 7, 4, 4)]
    assert f"groups: 7, column {name!r}" in data.notes
    assert data.emotions == ["happy"]
    assert not any("ignored" in note for note in data.notes)
    assert f"1 group(s) of train are also in test: results on test are too optimistic ({prefix}4)" in inspect(
        path, config=DataConfig(group_column=name if name == "who" else None)
    )


def write_tables(folder, values):
    folder.mkdir()
    rng = np.random.default_rng(0)
    for split, count in ROWS.items():
        columns = {
            "id": [f"{split}{row}" for row in range(count)],
            "audio": list(rng.normal(size=(count, 3))),
            "happy": np.arange(count) % 2,
            "speaker": pa.array(values[:count]),
        }
        pq.write_table(pa.table(columns), folder / f"{split}.parquet")
    return folder


def test_a_column_names_groups_and_conversion_keeps_them(tmp_path):
    path = write_tables(tmp_path / "tables", ["a", "b", "c", "d", "e", "f", "g", "h"])
    assert "groups" not in load(path).dataset["train"].column_names
    config = DataConfig(group_column="speaker")
    data = load(path, config=config)
    assert groups(data.dataset)["train"] == list("abcdefgh")
    assert "4 group(s) of validation are also in test: results on test are too optimistic (a, b, c, d)" in data.notes
    convert(path, tmp_path / "converted", config=config)
    assert groups(load(tmp_path / "converted").dataset) == groups(data.dataset)
    data.dataset.save_to_disk(tmp_path / "saved")
    assert groups(load(tmp_path / "saved").dataset) == groups(data.dataset)


def test_whole_numbers_name_groups_and_no_row_may_lack_one(tmp_path):
    path = write_tables(tmp_path / "tables", [1, 2, 3, None, 5, 6, 7, 8])
    with pytest.raises(
        DataError, match="speaker must name a group in every row, but is empty in row 3 of train. Fill it"
    ):
        load(path, config=DataConfig(group_column="speaker"))


def test_a_key_of_a_pickle_names_groups(write_pickle):
    corpus = make_corpus()
    for emotion, splits in corpus.items():
        for name, rows in splits.items():
            count = len(rows["label"])
            rows["session"] = [f"{name}{row // 4}".encode() for row in range(count)]
            if emotion == "happy":  # another order; rows are joined by content
                corpus[emotion][name] = {
                    key: value[::-1] if isinstance(value, list) else value[::-1].copy() for key, value in rows.items()
                }
    data = load(write_pickle(corpus), config=DataConfig(group_column="session"))
    expected = [f"train{row // 4}" for row in range(12)]
    assert groups(data.dataset)["train"] == expected[::-1]  # in the order of happy, the first emotion
    assert not any("are also in" in note for note in data.notes)


@pytest.mark.parametrize(
    ("name", "hint"),
    [("nowhere", "Check its name."), ("session", "Ids of IEMOCAP also give session, speaker, dialogue.")],
)
def test_a_column_that_is_not_there(write_pickle, name, hint):
    with pytest.raises(
        DataError, match=f"data.group_column must name a column or key of every split, but '{name}' is none"
    ):
        load(write_pickle(make_corpus()), config=DataConfig(group_column=name))
    with pytest.raises(DataError, match=hint):
        load(write_pickle(make_corpus()), config=DataConfig(group_column=name))


def test_groups_are_texts(tmp_path):
    path = write_tables(tmp_path / "tables", [[1.0], [2.0], [3.0], [4.0], [5.0], [6.0], [7.0], [8.0]])
    with pytest.raises(DataError, match="column 'speaker' must name a group in every row, but holds list"):
        load(path, config=DataConfig(group_column="speaker"))
