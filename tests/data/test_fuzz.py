"""The pickle reader under random attack: every input is read or refused in one line, soon, and without much memory.

Inputs that reach a new place (another message, or more instructions done) become seeds of further ones, so that the
search finds its way into the machine without instrumentation. All numbers are drawn from a fixed seed.
"""

import io
import pickle
import pickletools
import random
import re
import resource
import struct
import time
import tracemalloc

import joblib
import numpy as np
import pytest
from recorded_pickles import RECORDED

from lmf_multitask.data import pickle_bytes, safe_pickle, stored_array
from lmf_multitask.data.stored_array import StoredArray, to_array
from lmf_multitask.errors import DataError


def joblib_bytes(content, protocol):
    file = io.BytesIO()
    joblib.dump(content, file, protocol=protocol)
    return file.getvalue()


SEEDS = [pickle.dumps({"a": [np.arange(3.0), "ä", b"x", {1: (2.5, None)}]}, protocol=p) for p in range(6)]
SEEDS += [pickle.dumps([np.float32(1), np.array(["ab"]), {b"k": bytearray(99)}], protocol=p) for p in range(6)]
SEEDS += [pickle.dumps(np.array(["a", 1, np.arange(2)], object), protocol=p) for p in (0, 2, 4)]
SEEDS += [joblib_bytes([np.arange(9.0), np.array(["a", None], object)], p) for p in (2, 4)]
SEEDS += list(RECORDED.values())
EDGES = [struct.pack(form, n) for form in ("<B", "<H", "<i", "<q") for n in (0, 1, 127)]
EDGES += [b"\xff" * n for n in (1, 2, 4, 8)] + [
    struct.pack("<I", 2**31),
    struct.pack("<Q", 2**40),
    b"-1\n",
    b"99999999999999\n",
]
CODES = [opcode.code.encode("latin-1") for opcode in pickletools.opcodes]
PIECES = [
    *CODES, *EDGES, b"cnumpy\nndarray\n", b"cnumpy\ndtype\n", b"cnumpy.core.multiarray\n_reconstruct\n",
    b"cnumpy._core.multiarray\nscalar\n", b"cnumpy.core.numeric\n_frombuffer\n", b"c_codecs\nencode\n", b"cbuiltins\nlist\n",
    b"cbuiltins\nset\n", b"cbuiltins\nbytes\n", b"ccollections\nOrderedDict\n", b"ccollections\ndefaultdict\n", b"cos\nsystem\n",
    b"(U\x02f8K\x00K\x01tR(K\x03U\x01<NNNJ\xff\xff\xff\xffJ\xff\xff\xff\xffK\x00tb", b"U\x02S0", b"U\x02O8", b"U\x04U999", b"U\x01<",
    b"cnumpy.core.multiarray\n_reconstruct\n(cnumpy\nndarray\n(K\x00tU\x01btR", b"(K\x01(K\x01t", b"(J\x00\x00\x00\x40t", b"Vlatin1\n",
    b"T\x60\x00\x00\x00" + bytes(96), b"V" + b"\xe9" * 99 + b"\n", b"S'" + b"\\x00" * 40 + b"'\n", b"h\x00", b"q\x00", b"\x85R", b"}(",
    b"cjoblib.numpy_pickle\nNumpyArrayWrapper\n)\x81", b"U\x02O8K\x00K\x01tR(K\x03U\x01|NNNJ\xff\xff\xff\xffJ\xff\xff\xff\xffK\x3ftb",
    b"\x95\x04" + bytes(7), b"\x95\x40" + bytes(7), b"(K\x01K\x00t", b"U\x01K", b"cnumpy\nmemmap\n", b"cbuiltins\nint\n",
]  # fmt: skip


def mutant(draw, pool):
    """A new input of old ones."""
    if draw.random() < 0.2:
        return b"".join(draw.choices(PIECES, k=draw.randint(1, 30))) + b"."
    content = bytearray(draw.choice(pool))
    for _ in range(draw.randint(1, 5)):
        place = draw.randrange(len(content) + 1)
        way = draw.random()
        if way < 0.35:
            content[place : place + 1] = bytes([draw.randrange(256)])
        elif way < 0.6:
            piece = draw.choice(PIECES)
            content[place : place + (len(piece) if draw.random() < 0.5 else 0)] = piece
        elif way < 0.75:
            del content[place : place + draw.randint(1, 8)]
        elif way < 0.9:
            other = draw.choice(pool)
            start = draw.randrange(len(other) + 1)
            content[place:place] = other[start : start + draw.randint(1, 40)]
        else:
            part = content[place : place + draw.randint(1, 12)]
            content[place:place] = part * draw.randint(1, 20)
    return bytes(content[:3000])


def values_in(value, depth=6):
    """Every array and list of numbers to be found without going round in circles."""
    if isinstance(value, StoredArray):
        if value.objects is None:
            value.read()
        else:
            values_in(value.objects, depth - 1)
    elif isinstance(value, (list, tuple, dict)) and depth and len(value) < 50:
        if not isinstance(value, dict):
            try:
                to_array(value, limit=3000)
            except ValueError as error:
                assert str(error)
        for item in value.values() if isinstance(value, dict) else value:
            values_in(item, depth - 1)


def attempt(content):
    """Reads or refuses; what came of it, for the search."""
    machine = safe_pickle.Machine(stored_array.Content("fuzz.pkl", io.BytesIO(content)))
    try:
        values_in(machine.run())
    except DataError as error:
        text = str(error)
        assert text.startswith("fuzz.pkl: must "), text
        assert "\n" not in text
        assert len(text) < 600
        return re.sub(r"\d[\d,]*|'.*'", "#", text), machine._objects.bit_length()
    return "read", machine._objects.bit_length()


def attack(seed, inputs, watch):
    """Runs so many inputs; returns how many different outcomes there were."""
    draw = random.Random(seed)
    pool, seen = list(SEEDS), set()
    for number in range(inputs):
        content = mutant(draw, pool)
        try:
            outcome = watch(content)
        except BaseException as error:
            raise AssertionError(f"input {number} of seed {seed}: {content!r}") from error
        if outcome not in seen:
            seen.add(outcome)
            pool.append(content)
    return len(seen)


def in_time(content):
    start = time.process_time()
    outcome = attempt(content)
    assert time.process_time() - start < 10
    return outcome


def in_time_and_memory(content):
    tracemalloc.reset_peak()
    before, _ = tracemalloc.get_traced_memory()
    outcome = in_time(content)
    assert tracemalloc.get_traced_memory()[1] - before < 300_000 + 300 * len(content)
    return outcome


@pytest.fixture
def everything_is_large(monkeypatch):
    """So that small payloads, too, take the way of those that are left in the file."""
    monkeypatch.setattr(pickle_bytes, "LARGE", 50)


def test_two_thousand_inputs_in_time_and_memory(everything_is_large):
    tracemalloc.start()
    try:
        assert attack(0, 2500, in_time_and_memory) > 80
    finally:
        tracemalloc.stop()


@pytest.mark.slow
@pytest.mark.parametrize("large", [50, 1 << 16])
def test_two_hundred_thousand_inputs(monkeypatch, large):
    monkeypatch.setattr(pickle_bytes, "LARGE", large)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    assert sum(attack(seed, 12_500, in_time) for seed in range(large, large + 8)) > 800
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 200_000  # kB
