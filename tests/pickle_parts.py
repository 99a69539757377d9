"""Pickles for tests, written by hand from opcodes; and arrays to be pickled."""

import numpy as np

ARRAYS = {
    "float64": np.array([[1.5, np.nan, -np.inf], [0.0, -0.0, 1e300]]),
    "float32": np.arange(6, dtype="f4").reshape(3, 2),
    "float16": np.array([0.5], "f2"),
    "int64": np.array([-(2**63), 2**63 - 1]),
    "uint8": np.arange(256, dtype="u1"),
    "bool": np.array([True, False]),
    "complex": np.array([1 + 2j]),
    "bytes": np.array([b"ab", b"", b"abcd"]),
    "text": np.array(["ä", "", "\U0001f600xy"]),
    "big-endian": np.arange(5, dtype=">f8"),
    "Fortran order": np.asfortranarray(np.arange(24.0).reshape(2, 3, 4)),
    "a slice": np.arange(24.0).reshape(4, 6)[::2, 1::2],
    "no rows": np.zeros((0, 3), "f4"),
    "no dimensions": np.array(7.0),
    "every byte": np.frombuffer(bytes(range(256)) * 8, "f4"),
    "large": np.arange(60_000, dtype="f4").reshape(300, 200),
    "large bytes of every kind": np.frombuffer(bytes(range(256)) * 1024, "u1"),
    "large Fortran order": np.asfortranarray(np.arange(90_000.0).reshape(300, 300)),
    "large big-endian": np.arange(30_000, dtype=">i4"),
}


def opcodes(text):
    """Readable bytes: a pickle written by hand."""
    return text.encode("latin-1")


def array_opcodes(
    dtype="(S'f8'\nI0\nI1\ntR(I3\nS'<'\nNNNI-1\nI-1\nI0\ntb",
    shape="I1\nt",
    payload="S'12345678'\n",
    kind="cnumpy\nndarray\n",
):
    return opcodes(
        f"cnumpy.core.multiarray\n_reconstruct\n({kind}(I0\ntS'b'\ntR(I1\n({shape}cnumpy\ndtype\n{dtype}I00\n{payload}tb."
    )


def state_of_type(code, *state):
    """A dtype's code and the parts of its state, as opcodes."""
    return f"(S'{code}'\nI0\nI1\ntR(" + "".join("N" if part is None else f"{part}\n" for part in state) + "tb"
