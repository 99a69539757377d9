"""Builders: the same clips as a small file in each layout of tables, for several test modules."""

import csv
import json

import numpy as np
import pyarrow as pa
import pyarrow.feather as feather
import pyarrow.parquet as pq

SPLITS = ("train", "validation", "test")


def clips(rows=(8, 4, 5), seed=0):
    """Features, ids, a split and a class for each clip; text has 1 to 4 steps, padded with zeros at the end."""
    rng, count = np.random.default_rng(seed), sum(rows)
    text = rng.normal(size=(count, 4, 3)).astype("f4")
    lengths = rng.integers(1, 5, count)
    lengths[0] = 4
    for row, length in enumerate(lengths):
        text[row, length:] = 0
    return {
        "id": [f"clip{row:03d}" for row in range(count)],
        "split": np.repeat(SPLITS, rows).tolist(),
        "emotion": [("happy", "sad", "angry")[row % 3] for row in range(count)],
        "audio": rng.normal(size=(count, 5)).astype("f4"),
        "video": rng.normal(size=(count, 2)).astype("f4"),
        "text": text,
        "lengths": lengths,
    }


def labels_of(data):
    """Labels `[N, 3]` of happy, sad, angry."""
    return np.array([[name == one for one in ("happy", "sad", "angry")] for name in data["emotion"]], "f4")


def plain(data, row, ragged=True):
    """The features of one clip as lists; text without its padding."""
    text = data["text"][row][: data["lengths"][row]] if ragged else data["text"][row]
    return {"audio": data["audio"][row].tolist(), "video": data["video"][row].tolist(), "text": text.tolist()}


def records(data, **others):
    return [
        {"id": data["id"][row], "split": data["split"][row], "emotion": data["emotion"][row], **plain(data, row)}
        | {name: values[row] for name, values in others.items()}
        for row in range(len(data["id"]))
    ]


def write_jsonl(path, rows):
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def write_csv(path, rows, delimiter=","):
    with path.open("w", newline="") as file:
        writer = csv.DictWriter(file, rows[0], delimiter=delimiter)
        writer.writeheader()
        writer.writerows(rows)
    return path


def write_arrays(folder, data, names=("audio", "video", "text")):
    """A folder of `CLIP.npy` for each modality."""
    for modality, name in zip(("audio", "video", "text"), names):
        (folder / name).mkdir(parents=True)
        for row, clip in enumerate(data["id"]):
            np.save(folder / name / f"{clip}.npy", np.array(plain(data, row)[modality], "f4"))


def one_parquet(tmp_path, data):
    pq.write_table(pa.Table.from_pylist(records(data)), tmp_path / "x.parquet")
    return tmp_path / "x.parquet"


def parquet_shards(tmp_path, data):
    (tmp_path / "data").mkdir()
    for split in SPLITS:
        rows = [row for row in records(data) if row.pop("split") == split]
        half = len(rows) // 2
        for shard, part in enumerate((rows[:half], rows[half:])):
            pq.write_table(pa.Table.from_pylist(part), tmp_path / "data" / f"{split}-0000{shard}-of-00002.parquet")
    return tmp_path


def arrow_folder(tmp_path, data):
    for split, name in zip(SPLITS, ("train", "dev", "test")):
        rows = [row for row in records(data) if row.pop("split") == split]
        feather.write_feather(pa.Table.from_pylist(rows), str(tmp_path / f"{name}.arrow"), compression="uncompressed")
    return tmp_path


def json_lines(tmp_path, data):
    return write_jsonl(tmp_path / "x.jsonl", records(data))


def csv_of_lists(tmp_path, data):
    rows = [{k: json.dumps(v) if isinstance(v, list) else v for k, v in row.items()} for row in records(data)]
    return write_csv(tmp_path / "x.csv", rows)


def csv_of_paths(tmp_path, data):
    write_arrays(tmp_path / "features", data)
    rows = records(data)
    for row in rows:
        row.update({name: f"features/{name}/{row['id']}.npy" for name in ("audio", "video", "text")})
    return write_csv(tmp_path / "x.tsv", rows, "\t")


def feature_folders(tmp_path, data):
    names = ("chinese-hubert-large-UTT", "clip-vit-large-patch14-UTT", "chinese-roberta-wwm-ext-FRA")
    write_arrays(tmp_path, data, names)
    rows = [{"name": row["id"], "split": row["split"], "discrete": row["emotion"]} for row in records(data)]
    write_csv(tmp_path / "labels.csv", rows)
    return tmp_path


def npz(tmp_path, data):
    names = ("id", "split", "emotion", "audio", "video", "text")
    np.savez(tmp_path / "x.npz", **{name: np.array(data[name]) for name in names})
    return tmp_path / "x.npz"


LAYOUTS = {
    function.__name__: function
    for function in (
        one_parquet,
        parquet_shards,
        arrow_folder,
        json_lines,
        csv_of_lists,
        csv_of_paths,
        feature_folders,
        npz,
    )
}


def write_h5(path, tree):
    """Nested dicts of arrays as an HDF5 file."""
    import h5py

    def fill(group, content):
        for name, value in content.items():
            if isinstance(value, dict):
                fill(group.create_group(name), value)
            else:
                group[name] = value

    with h5py.File(path, "w") as file:
        fill(file, tree)


def csd_folder(folder, seed=0, videos=6):
    """Two labelled intervals per video, words of half a second, frames of a tenth; the second video has no faces.

    Returns:
        id -> (audio, video or None, text, label), as the intervals say.
    """
    rng = np.random.default_rng(seed)
    trees = {"COVAREP": {}, "FACET 4.2": {}, "glove_vectors": {}, "Opinion Segment Labels": {}}
    expected, splits = {}, []
    for number in range(videos):
        video = f"video{number}"
        steps = {"COVAREP": (40, 0.1, 5), "FACET 4.2": (40, 0.1, 2), "glove_vectors": (8, 0.5, 3)}
        values = {}
        for root, (count, length, width) in steps.items():
            start = np.arange(count) * length
            values[root] = rng.normal(size=(count, width)).astype("f4")
            if (number, root) != (1, "FACET 4.2"):
                trees[root][video] = {"features": values[root], "intervals": np.stack([start, start + length], axis=1)}
        labels = np.array([[number % 2], [1 - number % 2]], "f4")
        trees["Opinion Segment Labels"][video] = {"features": labels, "intervals": np.array([[0.0, 1.0], [1.26, 3.04]])}
        # overlapping: 0.1 second frames 0-9 and 12-30, words 0-1 and 2-6
        for clip, frames, words in ((0, slice(0, 10), slice(0, 2)), (1, slice(12, 31), slice(2, 7))):
            faces = None if number == 1 else values["FACET 4.2"][frames]
            expected[f"{video}[{clip}]"] = (
                values["COVAREP"][frames], faces, values["glove_vectors"][words], labels[clip, 0]
            )  # fmt: skip
        splits.append({"id": video, "split": SPLITS[number % 3]})
    for root, tree in trees.items():
        write_h5(folder / f"CMU_{root.replace(' ', '_')}.csd", {root: {"data": tree, "metadata": {}}})
    write_csv(folder / "splits.csv", splits)
    return expected
