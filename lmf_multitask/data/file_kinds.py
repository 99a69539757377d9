"""What a file is that is no pickle of plain data, and what to do with it."""

from __future__ import annotations

import re
import sys

from lmf_multitask.errors import DataError

_KINDS_OF_FILE = {
    b"version https://git-lfs": "is a Git LFS pointer, not the file itself. Run `git lfs pull`",
    b"<": "is a web page or XML. Download the file itself",
    b"\x1f\x8b": "is a gzip archive. Unpack it first",
    b"BZh": "is a bzip2 archive. Unpack it first",
    b"\xfd7zXZ": "is an xz archive. Unpack it first",
    b"PK\x03\x04": "is a zip archive (.npz and PyTorch files are such). Unpack it, or give the original pickle",
    b"\x28\xb5\x2f\xfd": "is a zstd archive. Unpack it first",
    b"\x04\x22\x4d\x18": "is an lz4 archive. Unpack it first",
    b"Rar!": "is a rar archive. Unpack it first",
    b"\x89HDF": "is an HDF5 file. Give the original pickle",
    b"\x93NUMPY": "is a single numpy array. Give the original pickle",
    b"PAR1": "is a Parquet file. Give the folder that holds train.parquet, validation.parquet and test.parquet",
    b"ARROW1": "is an Arrow file. Give the folder that save_to_disk wrote",
}

_ADVICE = {
    **dict.fromkeys(
        ("copyreg", "copy_reg"),
        "It holds objects of a class. If you trust the file, load it with the code that defines this class, and save its "
        "content as dicts of numpy arrays: vars(object) is the dict of an object.",
    ),
    "numpy": "Save plain numpy arrays instead.",
    "pandas": "It is a pandas object: write the table with to_parquet, and give that file.",
    "torch": "It holds PyTorch tensors: save them as numpy arrays, tensor.numpy().",
    "tensorflow": "It holds TensorFlow tensors: save them as numpy arrays, tensor.numpy().",
    "scipy": "It holds scipy's sparse matrices: save them as numpy arrays, matrix.toarray().",
    "joblib": "It was written by a joblib before 0.10, which is not read: write it again with a newer one.",
}


_TABLE_OR_JSON = re.compile(r"[^\n,;\t]+[,;\t][^\n]*[\n\r]|[{\[]\s*[\"{\[]|#|import |from ")


def check_kind_of_file(path: object, start: bytes) -> None:
    """Names a kind of file that is known not to be a pickle.

    Args:
        path: for the message.
        start: first bytes of the file.

    Raises:
        DataError: it is such a file, or is empty.
    """
    if not start:
        raise DataError(f"{path}: must be a pickle, but is empty. Get the file again.")
    for beginning, what in _KINDS_OF_FILE.items():
        if (start.lstrip(b"\xef\xbb\xbf \r\n\t") if beginning == b"<" else start).startswith(beginning):
            raise DataError(f"{path}: must be a pickle, but {what}.")


def advice_on_class(module: str, name: str) -> str:
    """What to do with a pickle that names a class or function: nothing of it was run."""
    package = module.split(".")[0]
    if package in _ADVICE:
        return f"Nothing of it was run. {_ADVICE[package]}"
    if package in sys.stdlib_module_names or package == "__builtin__":
        return f"Nothing of it was run. {_ADVICE['numpy']}"
    return (
        f"Nothing of it was run. If you trust the file, load it with the code that defines {name[:60]}, and save its content "
        "as dicts of numpy arrays: vars(object) is the dict of an object."
    )


def is_text(start: bytes) -> bool:
    """Whether a file that is no pickle begins like a table, JSON or source code."""
    try:
        text = start[:-4].decode("utf-8") if len(start) > 4000 else start.decode("utf-8")
    except UnicodeDecodeError:
        return False
    lines = text.splitlines()
    return all(line.replace("\t", " ").isprintable() for line in lines) and bool(_TABLE_OR_JSON.match(text.lstrip()))
