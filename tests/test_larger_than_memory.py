"""Training, evaluating and predicting ten times as many clips as IEMOCAP has, in processes with less memory than these take.

The limit is RLIMIT_DATA: what a process writes counts, pages of a mapped file do not (the system takes them back when it
needs them). It needs 3 GB of disk for a while.
"""

import subprocess
import sys

import datasets
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from lmf_multitask.data.arrow import feature_table
from lmf_multitask.data.sample import ROWS, sample_clips
from lmf_multitask.data.schema import IEMOCAP_EMOTIONS, dataset_features

pytestmark = pytest.mark.slow

LIMIT = 1_000_000_000  # bytes
TIMES = 10

# pyarrow's usual allocator reserves 1 GB that it does not use, and every thread a stack: both would count
LIMITED = f"""
import os, resource, runpy, sys
resource.setrlimit(resource.RLIMIT_DATA, ({LIMIT}, {LIMIT}))
os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[:2])
os.environ.update(OMP_NUM_THREADS="1", ARROW_DEFAULT_MEMORY_POOL="system")
sys.argv = sys.argv[1:]
runpy.run_module(sys.argv[0], run_name="__main__", alter_sys=True)
"""

READ_ALL = """
import sys
import numpy as np
from lmf_multitask import load_iemocap
from lmf_multitask.data.columns import column_arrays

whole = [np.array(column_arrays(rows)[name]) for rows in load_iemocap(sys.argv[1]).values() for name in ("audio", "video", "text")]
"""


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """A folder with the same clips as ``saved`` and as ``parquet``."""
    place = tmp_path_factory.mktemp("large")
    shapes = {"audio": (74,), "video": (35,), "text": (20, 300)}
    types = dataset_features(shapes, IEMOCAP_EMOTIONS)
    mapped = datasets.DatasetDict()
    (place / "parquet").mkdir()
    for split, name in (("train", "train"), ("validation", "valid"), ("test", "test")):
        rows, seeds = ROWS["full"][name], [TIMES * len(mapped) + n for n in range(TIMES)]
        stream = place / f"{split}.arrow"
        schema = types.arrow_schema
        with (
            pa.ipc.new_stream(stream, schema) as arrow,
            pq.ParquetWriter(place / "parquet" / f"{split}.parquet", schema) as parquet,
        ):
            for number, seed in enumerate(seeds):
                clips = sample_clips(rows, seed)
                features = {name: np.nan_to_num(clips[name]).astype("f4") for name in ("audio", "video", "text")}
                labels = (clips["emotion"][:, None] == np.arange(4)).astype("f4")
                ids = [f"{split}-{number}-{row}" for row in range(rows)]
                table = feature_table(ids, features, labels, IEMOCAP_EMOTIONS)
                arrow.write_table(table)
                parquet.write_table(table)
        mapped[split] = datasets.Dataset.from_file(str(stream))
    mapped.save_to_disk(str(place / "saved"))
    del mapped
    for stream in place.glob("*.arrow"):
        stream.unlink()
    return place


def limited(module, *arguments, cwd):
    """`python -m MODULE ...` with less memory than the clips take."""
    return subprocess.run(
        [sys.executable, "-c", LIMITED, module, *map(str, arguments)], capture_output=True, text=True, cwd=cwd
    )


def works(*arguments, cwd):
    done = limited(*arguments, cwd=cwd)
    assert done.returncode == 0, done.stderr


def test_more_clips_than_fit_into_memory(place):
    assert sum(path.stat().st_size for path in (place / "saved").rglob("*.arrow")) > 1.05 * LIMIT
    for form in ("saved", "parquet"):
        works(
            "lmf_multitask.train", "--data_path", form, "--output_dir", f"run-{form}", "--training.epochs", 1,
            "--no_report", cwd=place,
        )  # fmt: skip
        works("lmf_multitask.infer", f"run-{form}", "--data_path", form, "--output_dir", f"out-{form}", cwd=place)
    for file in (
        "run-{}/metrics.json",
        "run-{}/predictions.csv",
        "run-{}/model/model.safetensors",
    ):
        contents = [(place / file.format(form)).read_bytes() for form in ("saved", "parquet")]
        assert contents[0] == contents[1], file
    metrics = (place / "run-saved" / "metrics.json").read_text()
    works("lmf_multitask.evaluate", "run-saved", cwd=place)
    assert (place / "run-saved" / "metrics_test.json").read_text() == metrics
    probabilities, others = (np.load(place / f"out-{form}" / "sad_prob.npy") for form in ("saved", "parquet"))
    np.testing.assert_allclose(others, probabilities, atol=1e-6)  # batches of Parquet end with its row groups
    assert probabilities.shape == (TIMES * ROWS["full"]["test"], 2)


def test_the_limit_is_one(place):
    (place / "read_all.py").write_text(READ_ALL)
    done = limited("read_all", "saved", cwd=place)
    assert done.returncode == 1
    assert "MemoryError" in done.stderr
