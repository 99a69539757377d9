"""State dicts of PyTorch are read without PyTorch, and nothing of them is run.

The files are written by Python's own pickler, with stand-ins for PyTorch's classes.
"""

import collections
import zipfile

import numpy as np
import pytest
from torch_parts import KINDS, Tensor, write_torch

from lmf_multitask.data.torch_files import is_torch_file, read_torch
from lmf_multitask.errors import DataError


@pytest.fixture
def save(tmp_path):
    return lambda *content: write_torch(tmp_path / "model.pt", *content)


def load(path):
    with zipfile.ZipFile(path) as archive:
        assert is_torch_file(archive)
        return read_torch(path, archive, path.stat().st_size)


@pytest.mark.parametrize("dtype", KINDS)
def test_every_dtype(save, dtype):
    values = np.arange(6, dtype=dtype)
    found = load(save({"a": Tensor("0", dtype, 6, 0, (2, 3), (3, 1))}, {"0": values}))
    np.testing.assert_array_equal(found["a"], values.reshape(2, 3))
    assert found["a"].dtype == values.dtype


def test_views_parameters_and_versions_of_layers(save):
    values = np.arange(20, dtype="f4")
    state = collections.OrderedDict(
        transposed=Tensor("0", "f4", 20, 0, (4, 5), (1, 4)),
        part=Tensor("0", "f4", 20, 3, (2, 2), (10, 2), parameter=True),
        number=Tensor("1", "i8", 1, 0, (), ()),
        nothing=Tensor("0", "f4", 20, 0, (0, 5), (5, 1)),
    )
    state._metadata = collections.OrderedDict([("", {"version": 1})])
    storages = {"0": values, "1": np.array([7]), "other": np.zeros(99)}
    found = load(save(state, storages))
    np.testing.assert_array_equal(found["transposed"], values.reshape(5, 4).T)
    np.testing.assert_array_equal(found["part"], [[3, 5], [13, 15]])
    assert found["number"] == 7
    assert found["nothing"].shape == (0, 5)


WRONG = {
    "beyond its storage": (Tensor("0", "f4", 6, 4, (3,), (1,)), "describes a tensor wrongly"),
    "far beyond its storage": (Tensor("0", "f4", 6, 0, (2,), (2**39,)), "describes a tensor wrongly"),
    "before its storage": (Tensor("0", "f4", 6, -1, (3,), (1,)), "describes a tensor wrongly"),
    "backwards": (Tensor("0", "f4", 6, 5, (6,), (-1,)), "describes a tensor wrongly"),
    "without strides": (Tensor("0", "f4", 6, 0, (6,), ()), "describes a tensor wrongly"),
    "unfolded": (Tensor("0", "f4", 6, 0, (2**30,), (0,)), "repeats its parts too often"),
    "of another size": (Tensor("0", "f4", 2**30, 0, (6,), (1,)), "a storage of another size than it says"),
    "of no storage": (Tensor("9", "f4", 6, 0, (6,), (1,)), "damaged"),
    "of another dtype": (Tensor("0", "BFloat16Storage", 6, 0, (6,), (1,)), "names torch.BFloat16Storage"),
    "of bytes": (Tensor(b"0", "f4", 6, 0, (6,), (1,)), "refers to something that is not a storage"),
}


@pytest.mark.parametrize("name", WRONG)
def test_tensors_that_are_refused(save, name):
    tensor, message = WRONG[name]
    with pytest.raises(DataError, match=message) as caught:
        load(save({"a": tensor}, {"0": np.arange(6, dtype="f4")}))
    assert "\n" not in str(caught.value)


def test_many_views_of_one_storage_do_not_fill_the_memory(save):
    one = Tensor("0", "f4", 100_000, 0, (100_000,), (1,))
    content = {str(n): Tensor(*one.storage, *one.view) for n in range(300)}
    with pytest.raises(DataError, match="repeats its parts too often"):
        load(save(content, {"0": np.zeros(100_000, "f4")}))


def test_compressed_storages_are_refused(save):
    path = save({"a": Tensor("0", "f4", 6, 0, (6,), (1,))}, {"0": np.zeros(6, "f4")}, zipfile.ZIP_DEFLATED)
    with pytest.raises(DataError, match="has a compressed storage"):
        load(path)


class Harmful:
    def __reduce__(self):
        return (print, ("run",))


def test_nothing_is_run(save, capsys):
    with pytest.raises(DataError, match="names (builtins|__builtin__).print"):
        load(save({"a": Harmful()}, {}))
    assert capsys.readouterr().out == ""
