"""Writes files in the layout of ``torch.save`` with Python's own pickler and stand-ins for PyTorch's classes."""

import collections
import io
import pickle
import sys
import types
import zipfile
from unittest import mock

KINDS = {"f4": "FloatStorage", "f8": "DoubleStorage", "f2": "HalfStorage", "i8": "LongStorage", "i4": "IntStorage"}


def _rebuild_tensor_v2(*arguments):
    pass


def _rebuild_parameter(*arguments):
    pass


torch, utils = types.ModuleType("torch"), types.ModuleType("torch._utils")
torch._utils = utils
for function in (_rebuild_tensor_v2, _rebuild_parameter):
    function.__module__ = "torch._utils"
    setattr(utils, function.__name__, function)
for name in (*KINDS.values(), "BFloat16Storage"):
    setattr(torch, name, type(name, (), {"__module__": "torch"}))


class Tensor:
    """What `torch.save` stores of a tensor: a view of a storage."""

    def __init__(self, key, dtype, count, offset, shape, strides, parameter=False):
        self.storage, self.view, self.parameter = (key, dtype, count), (offset, shape, strides), parameter

    def __reduce__(self):
        if self.parameter:
            return _rebuild_parameter, (Tensor(*self.storage, *self.view), True, collections.OrderedDict())
        return _rebuild_tensor_v2, (self.storage, *self.view, False, collections.OrderedDict())


def torch_tensors(arrays):
    """An ordered dict of tensors, and their storages, for named arrays in C order."""
    found, storages = collections.OrderedDict(), {}
    for key, (name, array) in enumerate(arrays.items()):
        strides = tuple(stride // array.itemsize for stride in array.strides)
        found[name] = Tensor(str(key), array.dtype.str[1:], array.size, 0, array.shape, strides)
        storages[str(key)] = array
    return found, storages


class _Pickler(pickle.Pickler):
    def persistent_id(self, value):
        if isinstance(value, tuple) and len(value) == 3 and isinstance(value[1], str):
            key, dtype, count = value
            return ("storage", getattr(torch, KINDS.get(dtype, dtype)), key, "cpu", count)
        return None


def write_torch(path, content, storages, compression=zipfile.ZIP_STORED):
    buffer = io.BytesIO()
    with mock.patch.dict(sys.modules, {"torch": torch, "torch._utils": utils}):
        _Pickler(buffer, 2).dump(content)
    with zipfile.ZipFile(path, "w", compression) as archive:
        archive.writestr("model/data.pkl", buffer.getvalue())
        archive.writestr("model/byteorder", "little")
        for key, values in storages.items():
            archive.writestr(f"model/data/{key}", values.tobytes())
        archive.writestr("model/version", "3\n")
    return path
