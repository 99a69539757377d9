"""What a pickle may make: containers, texts, and arrays; and what each admitted global means."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

from lmf_multitask.data.pickle_bytes import PickleBytes
from lmf_multitask.data.stored_array import Content, DType, Refused, Span, StoredArray, shown, text_of

_LONGEST_KEY = 1000


class Name:
    """An admitted global: a name whose call has one fixed meaning here; it is not the real object."""

    def __init__(self, call: Callable[..., Any]) -> None:
        self.call = call


class PickleValues(PickleBytes):
    """Makes the values of a pickle, and knows what each admitted global (module, name) stands for."""

    def __init__(self, content: Content) -> None:
        super().__init__(content)
        self._keys: dict[bytes, str] = {}
        self._arrays: list[StoredArray] = []
        self._joblib_wrapper = Name(self._no_call)
        self._names = self._admitted_names()

    def _admitted_names(self) -> dict[tuple[str, str], Name]:
        ndarray, memmap, factory = Name(self._no_call), Name(self._no_call), Name(self._no_call)
        reconstruct = Name(lambda kind, shape, code: self._new_array(kind in (ndarray, memmap)))
        from_buffer = Name(self._array_from_buffer)
        containers = {
            "dict": self._new_dict,
            "list": self._new_list,
            "set": self._new_list,
            "frozenset": self._new_list,
            "tuple": lambda *items: tuple(self._new_list(*items)),
        }
        names = {
            ("numpy", "ndarray"): ndarray,
            ("numpy", "memmap"): memmap,
            ("numpy", "dtype"): Name(DType),
            ("joblib.numpy_pickle", "NumpyArrayWrapper"): self._joblib_wrapper,
            ("_codecs", "encode"): Name(self._encode),
            ("collections", "OrderedDict"): Name(self._new_dict),
            ("collections", "defaultdict"): Name(lambda factory=None, *items: self._new_dict(*items)),
        }
        for module in ("numpy.core", "numpy._core"):
            names[f"{module}.multiarray", "_reconstruct"] = reconstruct
            names[f"{module}.multiarray", "scalar"] = Name(self._scalar)
            names[f"{module}.numeric", "_frombuffer"] = from_buffer
            names[f"{module}.memmap", "memmap"] = memmap
        for module in ("builtins", "__builtin__"):
            names.update({(module, name): Name(call) for name, call in containers.items()})
            names[module, "bytes"] = names[module, "bytearray"] = Name(self._new_bytes)
            names.update({(module, name): factory for name in ("int", "long", "float", "bool", "str")})
        return names

    @staticmethod
    def _no_call(*arguments: Any) -> Any:
        raise Refused("calls a type")

    def _new_array(self, plain: bool) -> StoredArray:
        if not plain:
            raise Refused("holds a special kind of array")
        array = StoredArray()
        self._arrays.append(array)
        return array

    def _array_from_buffer(self, payload: Any, dtype: Any, shape: Any, order: Any, axes: Any = None) -> StoredArray:
        array = self._new_array(plain=True)
        order = text_of(order)
        if order not in (("C", "F") if axes is None else ("K",)):
            raise Refused("describes an array wrongly")
        array._set(shape, dtype, order == "F", payload)
        if axes is not None:
            array._permute(axes)
        return array

    def _scalar(self, dtype: Any, payload: Any) -> Any:
        array = self._array_from_buffer(payload, dtype, (), "C")
        self._make_bytes(len(payload))
        return array.read().item()

    def _encode(self, text: Any, coding: Any = "latin1") -> bytes | Span:
        if text_of(coding) not in ("latin1", "latin-1"):
            raise Refused(f"encodes text as {shown(text_of(coding))}")
        if isinstance(text, Span) and text.coding in ("utf-8", "raw-unicode-escape"):
            return text.encoded()
        if not isinstance(text, str):
            raise Refused("encodes something that is not text")
        self._make_bytes(len(text))
        return text.encode("latin-1")

    def _new_bytes(self, content: Any = b"", coding: Any = "latin1") -> bytes | Span:
        if isinstance(content, str):
            return self._encode(content, coding)
        if not isinstance(content, (bytes, Span)):
            raise Refused("makes bytes of something else")
        return content

    def _new_list(self, items: Any = ()) -> list[Any]:
        if not isinstance(items, (list, tuple)):
            raise Refused("makes a list of something else")
        self._count(len(items))
        return list(items)

    def _new_dict(self, items: Any = ()) -> dict[Any, Any]:
        if isinstance(items, dict):
            self._count(len(items))
            return dict(items)
        found: dict[Any, Any] = {}
        self._fill(found, self._new_list(items))
        return found

    def _fill(self, target: dict[Any, Any], items: Iterable[tuple[Any, Any]]) -> None:
        for key, value in items:
            name = self._key(key)
            if name in target:  # no pickle of a dict has one twice; b"a" and "a" would become one
                raise Refused(f"has the key {ascii(name)[:80]} twice, perhaps as text and as bytes")
            target[name] = value

    def _key(self, key: Any) -> Any:
        """A dict's key: bytes become text, once; keys that make a dict slow or large, or that cannot be printed, are refused."""
        if isinstance(key, (bytes, str)) and len(key) > _LONGEST_KEY:
            raise Refused(f"has a key of {len(key):,} characters")
        if isinstance(key, bytes):
            if key not in self._keys:  # decoded again for every dict, a key would take memory beyond the file's size
                self._keys[key] = _decoded_key(key)
            return self._keys[key]
        if isinstance(key, str) or key is None:
            return key
        if isinstance(key, (bool, int, float)) and abs(key) < (2**53 if isinstance(key, float) else 2**64):
            return key  # larger ones could all have the same hash
        raise Refused("has a key that is neither text nor a number")


def _decoded_key(key: bytes) -> str:
    try:
        return key.decode("utf-8")
    except UnicodeDecodeError:
        return key.decode("latin-1")
