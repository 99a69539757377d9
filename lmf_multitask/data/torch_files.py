"""Reads state dicts that ``torch.save`` wrote, without PyTorch and without running code from them.

Such a file is a zip archive: ``NAME/data.pkl``, a pickle whose tensors refer to storages, and ``NAME/data/KEY``, the bytes of
each storage.
"""

from __future__ import annotations

import io
import math
import zipfile
from typing import Any

import numpy as np

from lmf_multitask.data.pickle_values import Name
from lmf_multitask.data.safe_pickle import Machine
from lmf_multitask.data.stored_array import Content, Refused

_MOST_PICKLE = 1 << 24  # bytes
_DTYPES = {"Float": "<f4", "Double": "<f8", "Half": "<f2", "Long": "<i8", "Int": "<i4"}


def is_torch_file(archive: zipfile.ZipFile) -> bool:
    """Whether an archive has the layout of ``torch.save``."""
    return any(name.count("/") == 1 and name.endswith("/data.pkl") for name in archive.namelist())


def read_torch(path: object, archive: zipfile.ZipFile, size: int) -> Any:
    """Reads what ``torch.save`` wrote.

    Args:
        path: of the file, for messages.
        archive: the file.
        size: of the file; its tensors together must not take more.

    Returns:
        As `read_pickle`, with a numpy array for each tensor.

    Raises:
        DataError: it names anything but tensors and plain data, or is damaged.
        BadZipFile: the archive is damaged.
    """
    (name,) = [name for name in archive.namelist() if name.count("/") == 1 and name.endswith("/data.pkl")]
    with archive.open(name) as member:
        content = member.read(_MOST_PICKLE)
    return _TorchMachine(Content(f"{path}: {name}", io.BytesIO(content)), archive, name[: -len(".pkl")], size).run()


class _Storage:
    """The numbers that tensors refer to; they are read when the first tensor is built."""

    def __init__(self, dtype: str, member: zipfile.ZipInfo, count: Any) -> None:
        self.dtype, self.member, self.count = np.dtype(dtype), member, count
        if type(count) is not int or member.file_size != count * self.dtype.itemsize:
            raise Refused("has a storage of another size than it says")
        if member.compress_type != zipfile.ZIP_STORED:
            raise Refused("has a compressed storage")


class _TorchMachine(Machine):
    """A `Machine` that knows tensors."""

    def __init__(self, content: Content, archive: zipfile.ZipFile, folder: str, size: int) -> None:
        super().__init__(content)
        self._archive, self._folder, self._left = archive, folder, size

    def _admitted_names(self) -> dict[tuple[str, str], Name]:
        names = super()._admitted_names()
        self._kinds = {Name(self._no_call): dtype for dtype in _DTYPES.values()}
        names.update({("torch", f"{kind}Storage"): name for kind, name in zip(_DTYPES, self._kinds)})
        names["torch._utils", "_rebuild_tensor_v2"] = Name(self._tensor)
        names["torch._utils", "_rebuild_parameter"] = Name(lambda tensor, *rest: tensor)
        return names

    def _build(self) -> None:
        if type(self._stack[-2]) is dict:
            self._stack.pop()  # versions of the layers, which `state_dict` attaches
        else:
            super()._build()

    def _outside(self) -> None:
        what, kind, key, _, count = self._stack.pop()
        if what != "storage" or kind not in self._kinds or not isinstance(key, str):
            raise Refused("refers to something that is not a storage")
        self._push(_Storage(self._kinds[kind], self._archive.getinfo(f"{self._folder}/{key}"), count))

    def _tensor(self, storage: Any, offset: Any, shape: Any, strides: Any, *rest: Any) -> np.ndarray:
        numbers = (offset, *shape, *strides)
        if not isinstance(storage, _Storage) or any(type(one) is not int or not 0 <= one < 2**40 for one in numbers):
            raise Refused("describes a tensor wrongly")
        count = math.prod(shape)
        last = offset + sum((size - 1) * stride for size, stride in zip(shape, strides))
        if len(shape) != len(strides) or len(shape) > 8 or (count and last >= storage.count):
            raise Refused("describes a tensor wrongly")
        self._left -= max(count, storage.count) * storage.dtype.itemsize
        if self._left < 0:
            raise Refused("repeats its parts too often")
        if not count:
            return np.zeros(shape, storage.dtype)
        flat = np.frombuffer(self._archive.read(storage.member), storage.dtype, storage.count)[offset:]
        bytes_between = [stride * storage.dtype.itemsize for stride in strides]
        return np.lib.stride_tricks.as_strided(flat, shape, bytes_between, writeable=False).copy()
