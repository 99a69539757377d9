"""Requests that arrive together are predicted together, in one forward pass.

A request never waits for others: while one pass runs in a worker thread, new requests are queued, and the next pass takes
all of them. A single request is as fast as without batching; many at once cost a fraction of their single passes.

Shape letters: N rows (clips) of one request, T tasks (emotions).
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np

from lmf_multitask.deployment.predictor import Checked
from lmf_multitask.errors import UserError

_ANSWERS_AT_ONCE = 8
"""Requests whose answers are written before the event loop looks at its sockets again, so that others wait little."""


class QueueFullError(UserError):
    """The queue has no space for a request."""


class StoppingError(UserError):
    """The service finishes accepted requests and takes no new ones."""


@dataclass
class _Waiting:
    clips: Checked
    answer: asyncio.Future[np.ndarray]

    @property
    def shapes(self) -> list[tuple[int, ...]]:
        return [array.shape[1:] for array in self.clips.arrays.values()]

    @property
    def size(self) -> int:
        return sum(array.nbytes for array in self.clips.arrays.values())


class Batcher:
    """Queues requests on the event loop and predicts them in one worker thread.

    Attributes:
        waiting_rows: clips in the queue.
        waiting_bytes: size of their features.
    """

    def __init__(
        self,
        predict: Callable[[Checked], np.ndarray],
        batch_rows: int = 64,
        queue_bytes: int = 2**28,
        on_batch: Callable[[int, int], None] = lambda requests, rows: None,
    ) -> None:
        """Takes the model and the limits; `start` begins to work.

        Args:
            predict: checked clips -> `[N, ...]`.
            batch_rows: clips per pass; a larger request gets a pass of its own.
            queue_bytes: size of the features in the queue; more are refused.
            on_batch: called after every pass with its requests and its clips.
        """
        self._predict, self._batch_rows, self._queue_bytes, self._on_batch = predict, batch_rows, queue_bytes, on_batch
        self._queue: deque[_Waiting] = deque()
        self.waiting_rows = self.waiting_bytes = 0
        self._closing = False
        self._wake = asyncio.Event()
        self._task: asyncio.Task[None] | None = None
        self._worker = ThreadPoolExecutor(1, thread_name_prefix="predict")

    def start(self) -> None:
        """Begins to work, on the running event loop."""
        self._task = asyncio.get_running_loop().create_task(self._run())

    async def predict(self, clips: Checked) -> np.ndarray:
        """The answer to one request, `[N, ...]`.

        Raises:
            QueueFullError: the queue has no space for it.
            StoppingError: the service stops.
        """
        if self._closing:
            raise StoppingError("the service is stopping. Send the request to another one, or again later.")
        waiting = _Waiting(clips, asyncio.get_running_loop().create_future())
        if self._queue and self.waiting_bytes + waiting.size > self._queue_bytes:
            raise QueueFullError(
                f"the queue must hold at most {self._queue_bytes:,} bytes of features, but is full. Try again in a moment."
            )
        self._queue.append(waiting)
        self._count(waiting, 1)
        self._wake.set()
        return await waiting.answer

    async def close(self) -> None:
        """Finishes accepted requests, then stops."""
        self._closing = True
        self._wake.set()
        if self._task is not None:
            await self._task
        self._worker.shutdown()

    def _count(self, waiting: _Waiting, sign: int) -> None:
        self.waiting_rows += sign * len(waiting.clips)
        self.waiting_bytes += sign * waiting.size

    async def _run(self) -> None:
        loop = asyncio.get_running_loop()
        while self._queue or not self._closing:
            if not self._queue:
                self._wake.clear()
                await self._wake.wait()
                continue
            batch = self._take()
            if not batch:
                continue
            try:
                answers = await loop.run_in_executor(self._worker, self._predict, _joined([w.clips for w in batch]))
            except Exception as error:  # whatever it is, it belongs to the requests of this pass
                for waiting in batch:
                    if not waiting.answer.done():
                        waiting.answer.set_exception(error)
                continue
            self._on_batch(len(batch), len(answers))
            start = 0
            for number, waiting in enumerate(batch):
                if number % _ANSWERS_AT_ONCE == _ANSWERS_AT_ONCE - 1:
                    await asyncio.sleep(0)
                stop = start + len(waiting.clips)
                if not waiting.answer.done():  # the client may have disconnected
                    waiting.answer.set_result(answers[start:stop])
                start = stop

    def _take(self) -> list[_Waiting]:
        """The requests of the next pass: the oldest, and those behind it that fit and whose sequences are as long."""
        batch: list[_Waiting] = []
        rows = 0
        while self._queue:
            waiting = self._queue[0]
            count = len(waiting.clips)
            if batch and (rows + count > self._batch_rows or waiting.shapes != batch[0].shapes):
                break
            self._queue.popleft()
            self._count(waiting, -1)
            if waiting.answer.cancelled():
                continue
            batch.append(waiting)
            rows += count
        return batch


def _joined(parts: Sequence[Checked]) -> Checked:
    if len(parts) == 1:
        return parts[0]
    arrays = {name: np.concatenate([part.arrays[name] for part in parts]) for name in parts[0].arrays}
    return Checked(arrays, {}, parts[0].used)
