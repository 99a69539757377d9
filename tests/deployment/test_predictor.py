import os
import shutil
import subprocess
import sys
import threading
from pathlib import Path

import numpy as np
import pytest
from conftest import EMOTIONS

from lmf_multitask.deployment import sessions
from lmf_multitask.deployment.exporter import export_run
from lmf_multitask.deployment.predictor import Predictor
from lmf_multitask.deployment.sessions import choose_backend
from lmf_multitask.errors import ConfigError, DataError, RunError

from .conftest import SEQUENCES, expected_present, make_rows, make_run


@pytest.fixture(scope="module", params=["paddle", "onnx"])
def predictor(request):
    return Predictor(request.getfixturevalue("exported" if request.param == "paddle" else "exported_onnx"))


def loaded_modules(code):
    """Runs code in a fresh process; the top-level modules that it loaded."""
    script = f"{code}\nimport sys; print('MODULES', *sorted({{name.partition('.')[0] for name in sys.modules}}))"
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])}
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", script], capture_output=True, text=True, env=environment, check=True
    )
    return set(done.stdout.rpartition("MODULES ")[2].split())


# -- what it returns


@pytest.mark.parametrize("count", [1, 2, 33])
def test_probabilities_are_those_of_the_trained_network(predictor, multitask_run, count):
    rows = make_rows(count)
    present = predictor.predict(**rows)
    assert (present.shape, present.dtype) == ((count, 4), np.float32)
    np.testing.assert_allclose(present, expected_present(multitask_run, rows), atol=1e-6)


@pytest.mark.parametrize("steps", [1, 5, 13])
def test_sequences_may_have_another_length_than_in_training(predictor, multitask_run, steps):
    rows = make_rows(3, steps=steps)
    np.testing.assert_allclose(predictor.predict(**rows), expected_present(multitask_run, rows), atol=1e-6)


def test_a_vector_of_text_is_a_sequence_of_one_step(predictor):
    rows = make_rows(3, steps=1)
    expected = predictor.predict(**rows)
    np.testing.assert_array_equal(predictor.predict(rows["audio"], rows["video"], rows["text"][:, 0]), expected)


def test_settings(predictor):
    assert predictor.emotions == list(EMOTIONS)
    assert predictor.device == "cpu"
    assert predictor.settings()["backend"] == predictor.backend


def test_no_clips(predictor):
    assert predictor.predict(**make_rows(0)).shape == (0, 4)


@pytest.mark.parametrize("dtype", ["float16", "float64", "int32", "list"])
def test_other_numbers_are_converted(predictor, dtype):
    rows = {name: np.round(values) for name, values in make_rows().items()}
    given = {name: values.tolist() if dtype == "list" else values.astype(dtype) for name, values in rows.items()}
    np.testing.assert_array_equal(predictor.predict(**given), predictor.predict(**rows))


def test_memory_order_does_not_matter(predictor):
    rows = make_rows()
    given = {name: np.asfortranarray(values) for name, values in rows.items()}
    np.testing.assert_array_equal(predictor.predict(**given), predictor.predict(**rows))


def test_numbers_that_are_not_finite_count_as_zero(predictor):
    rows = make_rows()
    dirty = {name: values.copy() for name, values in rows.items()}
    for name in rows:
        rows[name].reshape(7, -1)[2, :2] = 0
        dirty[name].reshape(7, -1)[2, 0] = np.nan
        dirty[name].reshape(7, -1)[2, 1] = np.inf
    before = {name: values.copy() for name, values in dirty.items()}
    np.testing.assert_array_equal(predictor.predict(**dirty), predictor.predict(**rows))
    for name in dirty:  # the arrays of the caller do not change
        np.testing.assert_array_equal(dirty[name], before[name])


def test_opposite_infinities_and_large_numbers(predictor):
    rows = make_rows()
    rows["audio"][0, 0], rows["audio"][0, 1] = np.inf, -np.inf
    assert np.isfinite(predictor.predict(**rows)).all()
    rows = make_rows()
    rows["audio"] = rows["audio"].astype("float64")
    rows["audio"][0, 0] = 1e300
    assert np.isfinite(predictor.predict(**rows)).all()


def test_a_model_that_refuses_numbers_that_are_not_finite(tmp_path):
    run = make_run(tmp_path / "run", non_finite="error")
    rows = make_rows()
    rows["video"][1, 0] = np.nan
    with pytest.raises(DataError, match="video must be finite, but has 1 NaN or infinite values"):
        Predictor(run).predict(**rows)


# -- what it refuses


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"audio": np.zeros((7, 6))}, r"audio must have the shape \[rows, 5\], but got \[7, 6\]\."),
        ({"audio": np.zeros(5)}, r"audio must have the shape \[rows, 5\], but got \[5\]\."),
        (
            {"video": np.zeros((6, 4))},
            r"audio, video and text must have the same number of rows, but have \{'audio': 7, 'video': 6, 'text': 7\}",
        ),
        (
            {"text": np.zeros((7, 0, 3))},
            r"text must have the shape \[rows, steps, 3\], but got \[7, 0, 3\]\.",
        ),
        ({"text": np.zeros((7, 6, 4))}, r"text must have the shape \[rows, steps, 3\], but got \[7, 6, 4\]\.$"),
        ({"text": np.zeros((7, 6))}, r"text must have the shape \[rows, steps, 3\], but got \[7, 1, 6\]\.$"),
        ({"audio": np.zeros((7, 2, 5))}, r"audio must have the shape \[rows, 5\], but got \[7, 2, 5\]\.$"),
        ({"audio": np.full((7, 5), "a")}, r"audio must be an array of numbers \[rows, 5\], but got the type <U1"),
        ({"audio": np.zeros((7, 5), complex)}, r"audio must be an array of numbers .* type complex128"),
        ({"audio": np.zeros((7, 5), bool)}, r"audio must be an array of numbers .* type bool"),
        ({"audio": [None] * 7}, r"audio must be an array of numbers .* type object"),
        (
            dict.fromkeys(("audio", "video", "text")),
            "at least one of audio, video, text, which the model uses, must be given, but none is",
        ),
        ({"audio": [[1.0], [1.0, 2.0]]}, r"audio must be an array \[rows, 5\], but its rows differ in length"),
    ],
)
def test_wrong_input_is_an_error_that_names_the_shape(predictor, change, message):
    with pytest.raises(DataError, match=message):
        predictor.predict(**{**make_rows(), **change})


@pytest.mark.parametrize("name", ["multitask.json", "multitask.pdiparams"])
def test_damaged_files_are_refused(exported, tmp_path, name):
    folder = shutil.copytree(exported, tmp_path / "copy")
    content = bytearray((folder / name).read_bytes())
    content[len(content) // 2] ^= 1
    (folder / name).write_bytes(content)
    with pytest.raises(
        RunError, match=rf"{name}: must have the sha256 in lmf_model.json, but has another. The file is"
    ):
        Predictor(folder, backend="paddle")
    (folder / name).unlink()
    with pytest.raises(RunError, match=f"{name}: must be a readable file, but No such file"):
        Predictor(folder, backend="paddle")
    os.mkfifo(folder / name)
    with pytest.raises(RunError, match=f"{name}: must be a regular file, but is a pipe or a device"):
        Predictor(folder, backend="paddle")


def test_no_model(tmp_path):
    with pytest.raises(RunError, match="must be an exported model, but has no lmf_model.json"):
        Predictor(tmp_path)
    (tmp_path / "lmf_model.json").write_text("{")
    with pytest.raises(RunError, match="lmf_model.json: must be JSON"):
        Predictor(tmp_path)
    (tmp_path / "lmf_model.json").unlink()
    os.mkfifo(tmp_path / "lmf_model.json")
    with pytest.raises(RunError, match="lmf_model.json: must be a regular file"):
        Predictor(tmp_path)


def test_back_ends_and_devices(exported, exported_onnx):
    with pytest.raises(
        RunError, match="must hold the format onnx, but has paddle. Export it: lmf export --format onnx"
    ):
        Predictor(exported, backend="onnx")
    with pytest.raises(RunError, match="must hold the format paddle, but has onnx"):
        Predictor(exported_onnx, backend="paddle")
    with pytest.raises(ConfigError, match="backend must be auto, paddle or onnx, but got 'torch'"):
        Predictor(exported, backend="torch")
    with pytest.raises(ConfigError, match="device must be auto, cpu or gpu, but got 'tpu'"):
        Predictor(exported, device="tpu")
    with pytest.raises(ConfigError, match="threads must be a whole number of at least 1, but got 0"):
        Predictor(exported, threads=0)


def test_auto_takes_onnx_where_it_can_use_the_device(tmp_path):
    formats = ("paddle", "onnx")
    pytest.importorskip("onnxruntime", reason="needs the extra onnx")
    assert (
        choose_backend(tmp_path, formats, "auto", "cpu") == choose_backend(tmp_path, formats, "auto", "auto") == "onnx"
    )
    assert choose_backend(tmp_path, ("paddle",), "auto", "cpu") == "paddle"
    if not sessions._onnx_has_gpu():
        assert choose_backend(tmp_path, formats, "auto", "gpu") == "paddle"


def test_paddle_keeps_results_in_the_session_only(exported):
    """Other programs of the process free theirs as Paddle's settings say."""
    import paddle

    before = paddle.get_flags("FLAGS_eager_delete_tensor_gb")
    Predictor(exported, backend="paddle").predict(**make_rows())
    assert paddle.get_flags("FLAGS_eager_delete_tensor_gb") == before


def test_no_gpu(exported):
    import paddle

    if paddle.is_compiled_with_cuda():
        pytest.skip("Paddle is compiled for GPUs")
    with pytest.raises(RunError, match="device must be one that the back end paddle can use, but got 'gpu'"):
        Predictor(exported, device="gpu")


# -- run directories


@pytest.mark.parametrize("inputs", [None, SEQUENCES])
def test_a_run_and_its_export_behave_alike(tmp_path, inputs):
    options = {} if inputs is None else {"inputs": inputs}
    run = make_run(tmp_path / "run", **options)
    export_run(run, tmp_path / "out")
    first, second = Predictor(run), Predictor(tmp_path / "out")
    about = [{**predictor.description.to_json(), "sha256": None} for predictor in (first, second)]
    assert about[0] == about[1]
    for steps in (None, 3, 11):
        rows = make_rows(**options, steps=steps)
        np.testing.assert_array_equal(first.predict(**rows), second.predict(**rows))


def test_the_parent_of_runs(separate_runs, tmp_path):
    for name in ("sad", "happy"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "model").symlink_to(separate_runs / name / "model")
    assert Predictor(tmp_path).emotions == ["happy", "sad"]


# -- threads


def test_threads_get_their_own_answers(predictor):
    """Each thread predicts other rows again and again; a shared buffer would mix them up."""
    inputs = [make_rows(1 + number % 3, seed=number) for number in range(8)]
    expected = [predictor.predict(**rows) for rows in inputs]
    wrong, barrier = [], threading.Barrier(8)

    def work(number):
        barrier.wait()
        for _ in range(50):
            if not np.array_equal(predictor.predict(**inputs[number]), expected[number]):
                wrong.append(number)

    threads = [threading.Thread(target=work, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert wrong == []


def test_files_may_be_replaced_while_in_use(exported, multitask_run, tmp_path):
    """A thread that comes later still gets the model that was loaded."""
    folder = shutil.copytree(exported, tmp_path / "copy")
    predictor = Predictor(folder)
    rows = make_rows()
    export_run(make_run(tmp_path / "other", seed=9), folder, ["paddle"])
    found = []
    thread = threading.Thread(target=lambda: found.append(predictor.predict(**rows)))
    thread.start()
    thread.join()
    np.testing.assert_allclose(found[0], expected_present(multitask_run, rows), atol=1e-6)


def test_nothing_is_left_in_the_temporary_folder(exported, tmp_path):
    code = f"from lmf_multitask.deployment.predictor import Predictor; Predictor({str(exported)!r})"
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[2]), "TMPDIR": str(tmp_path)}
    subprocess.run([sys.executable, "-W", "ignore", "-c", code], env=environment, check=True, capture_output=True)
    assert [path.name for path in tmp_path.iterdir() if path.name.startswith("lmf-")] == []


# -- what it loads


def test_importing_loads_no_framework():
    loaded = loaded_modules(
        "import lmf_multitask.deployment.predictor, lmf_multitask.deployment.inference, lmf_multitask.deployment.sessions"
    )
    assert not {"paddle", "paddlenlp", "datasets", "onnxruntime", "pyarrow"} & loaded


def test_paddle_back_end_needs_neither_paddlenlp_nor_datasets(exported):
    code = f"""
import numpy as np
from lmf_multitask import Predictor
Predictor({str(exported)!r}).predict(np.zeros((1, 5)), np.zeros((1, 4)), np.zeros((1, 6, 3)))"""
    loaded = loaded_modules(code)
    assert "paddle" in loaded
    assert not {"paddlenlp", "datasets", "onnxruntime"} & loaded


def test_onnx_back_end_does_not_even_need_paddle(exported_onnx):
    code = f"""
import numpy as np
from lmf_multitask import Predictor
Predictor({str(exported_onnx)!r}).predict(np.zeros((1, 5)), np.zeros((1, 4)), np.zeros((1, 6, 3)))"""
    loaded = loaded_modules(code)
    assert "onnxruntime" in loaded
    assert not {"paddle", "paddlenlp", "datasets", "paddle2onnx"} & loaded
