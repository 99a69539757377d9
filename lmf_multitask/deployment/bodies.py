"""The body of a request -> checked features, within limits that hold before anything large is built.

No pickle is ever read: ``.npz`` goes through `lmf_multitask.data.sources.npz`, which builds no Python objects.
"""

from __future__ import annotations

import asyncio
import io
import json
import math
import re
from collections.abc import Collection, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from starlette.requests import ClientDisconnect, Request

from lmf_multitask.data.modality import MODALITIES
from lmf_multitask.data.sources.npz import NpzSource
from lmf_multitask.deployment.description import ModelDescription
from lmf_multitask.deployment.predictor import Checked, Predictor
from lmf_multitask.errors import ConfigError, DataError

JSON_TYPE = "application/json"
_MOST_LISTS, _MOST_QUOTES = 2**16, 64
_ROW = re.compile(rb'\[[^][{}"]*\]')
NPZ_TYPES = ("application/x-npz", "application/zip", "application/octet-stream")


@dataclass(frozen=True)
class Limits:
    """What one client may ask for.

    Attributes:
        body_bytes: of one request; more is answered with 413.
        json_bytes: of one request in JSON, which takes longer to read and blocks other threads meanwhile.
        rows: clips per request; more are answered with 422. Longer sequences than in training count as several clips.
        queue_rows: clips that wait together; more are answered with 429. Longer sequences count as several.
        held_bytes: of all bodies that are being received or read; more are answered with 429.
        body_seconds: to send a body; longer is answered with 408.
    """

    body_bytes: int = 16 * 2**20
    json_bytes: int = 2**20
    rows: int = 1024
    queue_rows: int = 8192
    held_bytes: int = 256 * 2**20
    body_seconds: float = 15.0

    def __post_init__(self) -> None:
        for name, value in asdict(self).items():
            if not value > 0:
                raise ConfigError(f"{name} must be above 0, but got {value!r}.")


class RefusedError(Exception):
    """A request that is answered with an error.

    Attributes:
        status: of HTTP.
    """

    def __init__(self, status: int, message: str) -> None:
        super().__init__(message)
        self.status = status


def numbers_per_clip(description: ModelDescription) -> int:
    """Numbers in the features of one clip as long as those of the training data."""
    return sum(math.prod(one.shape) for one in description.inputs.values())


class BodyReader:
    """Reads bodies while they arrive, and turns them into features.

    Attributes:
        held: bytes of all bodies that are being received or read.
    """

    def __init__(self, predictor: Predictor, limits: Limits) -> None:
        self._predictor, self._limits = predictor, limits
        self._sizes = {one.features for one in predictor.description.inputs.values()}
        self.held = 0

    async def read(self, request: Request, kind: str) -> bytes:
        """The body; `release` must follow.

        Raises:
            RefusedError: it is too large, too slow, or there are too many.
        """
        most = self._limits.json_bytes if kind == JSON_TYPE else self._limits.body_bytes
        hint = "Send .npz instead, or fewer clips at a time." if kind == JSON_TYPE else "Send fewer clips at a time."
        too_large = RefusedError(413, f"the body must have at most {most:,} bytes, but has more. {hint}")
        announced = request.headers.get("content-length", "")
        if announced.isascii() and announced.isdigit() and int(announced[:20]) > most:
            raise too_large
        parts: list[bytes] = []

        async def receive() -> None:
            size = 0
            async for part in request.stream():
                size += len(part)
                if size > most:
                    raise too_large
                if self.held + len(part) > self._limits.held_bytes:
                    raise RefusedError(429, "too many large requests are in work. Try again in a moment.")
                self.held += len(part)
                parts.append(part)

        try:
            await asyncio.wait_for(receive(), self._limits.body_seconds)
            return b"".join(parts)
        except BaseException as error:
            self.release(sum(map(len, parts)))
            if isinstance(error, ClientDisconnect):
                raise RefusedError(400, "the client disconnected.") from None
            if isinstance(error, (asyncio.TimeoutError, TimeoutError)):
                limit = self._limits.body_seconds
                raise RefusedError(408, f"the body must arrive within {limit:g} seconds, but did not.") from None
            raise

    def release(self, size: int) -> None:
        """Counts a body of so many bytes as done."""
        self.held -= size

    def features(self, kind: str, body: bytes) -> Checked:
        """The features in a body; call it in a thread.

        Raises:
            DataError: they do not fit the model or the limits.
        """
        given = _from_json(body, self._sizes) if kind == JSON_TYPE else self._from_npz(body)
        for value in given.values():
            self._check_rows(1 if value is None else len(value) or 1)
        clips = self._predictor.check(**given)
        limit = self._limits.rows * numbers_per_clip(self._predictor.description)
        size = sum(array.size for array in clips.arrays.values())
        if size > limit:
            raise DataError(f"a request must have at most {limit:,} numbers, but has {size:,}. Send fewer clips.")
        return clips

    def _from_npz(self, body: bytes) -> Mapping[str, np.ndarray]:
        limit = self._limits.rows * 8 * numbers_per_clip(self._predictor.description)
        source = NpzSource.from_bytes(io.BytesIO(body), "the body", limit)
        self._check_rows(source.count)
        _, features = next(source.all_blocks(source.count))
        return features

    def _check_rows(self, rows: int) -> None:
        if not 1 <= rows <= self._limits.rows:
            raise DataError(f"a request must have from 1 to {self._limits.rows:,} clips, but has {rows:,}. Split it.")


def _from_json(body: bytes, sizes: Collection[int]) -> Mapping[str, Any]:
    """Modality -> nested lists, the innermost of which are arrays.

    Each list of numbers is read by itself, and only if it is as long as a row of features: `json` and numpy do not give way to
    other threads while they read one text.
    """
    # many short lists, or text that numpy would give all numbers the width of, cost far more than numbers
    if body.count(b"[") > _MOST_LISTS or body.count(b"{") > 1 or body.count(b'"') > _MOST_QUOTES:
        raise DataError("the body must be one object with lists of numbers, but has too many lists, objects or texts.")
    rows: list[np.ndarray] = []

    def name_of(found: re.Match[bytes]) -> bytes:
        count = found[0].count(b",") + 1 if found[0][1:-1].strip() else 0
        rows.append(np.array(json.loads(found[0])) if count in sizes else np.zeros(count))
        return b'"%d"' % (len(rows) - 1)

    try:
        content = json.loads(_ROW.sub(name_of, body))
        if not isinstance(content, dict) or not set(content) <= set(MODALITIES) or not content:
            found = f"has {sorted(key[:40] for key in content)[:9]}" if isinstance(content, dict) else "is none"
            raise DataError(
                f"the body must be an object with audio, video and text, or some of them, and nothing else, but {found}."
            )
        if body.count(b'"') > 2 * len(content):
            raise DataError(f"{', '.join(content)} must hold numbers, but text or a name stands among them.")
        content = {name: _with_rows(value, rows) for name, value in content.items()}
    except DataError:
        raise
    except (ValueError, RecursionError) as error:
        reason = getattr(error, "msg", None) or " ".join(str(error).split())[:120]
        raise DataError(f"the body must be JSON, but {reason}.") from None
    for name, value in content.items():
        if value is not None and not isinstance(value, (list, np.ndarray)):
            raise DataError(f"{name} must be a list of clips, but is {json.dumps(value)[:40]}.")
    return content


def _with_rows(value: Any, rows: Sequence[np.ndarray]) -> Any:
    if isinstance(value, list):
        return [_with_rows(one, rows) for one in value]
    return rows[int(value)] if isinstance(value, str) else value
