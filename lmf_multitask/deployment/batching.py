"""Requests that arrive together are predicted together: one forward pass for all that wait.

Nothing waits for company: while one pass runs in a worker thread, the requests that arrive meanwhile gather, and the next
pass takes them all. A single request is as fast as without; many at once cost a fraction of their single passes.

Shape letters: N rows (clips) of one request, T tasks (emotions).
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np

from lmf_multitask.errors import UserError

Predict = Callable[..., np.ndarray]


class QueueFullError(UserError):
    """As many clips are waiting as the service takes."""


class StoppingError(UserError):
    """The service finishes what it accepted and takes nothing more."""


@dataclass
class _Waiting:
    inputs: Sequence[np.ndarray]
    answer: asyncio.Future[np.ndarray]


class Batcher:
    """Gathers requests on the event loop and predicts them in one worker thread.

    Attributes:
        waiting_rows: clips that wait for a pass.
    """

    def __init__(
        self,
        predict: Predict,
        batch_rows: int = 64,
        queue_rows: int = 8192,
        on_batch: Callable[[int, int], None] = lambda requests, rows: None,
    ) -> None:
        """Takes the model and the limits; `start` begins.

        Args:
            predict: (audio, video, text), arrays `[N, ...]` -> `[N, ...]`.
            batch_rows: clips per pass; a larger request goes alone.
            queue_rows: clips that may wait; more are refused.
            on_batch: told of every pass: its requests and its clips.
        """
        self._predict, self._batch_rows, self._queue_rows, self._on_batch = predict, batch_rows, queue_rows, on_batch
        self._queue: deque[_Waiting] = deque()
        self.waiting_rows = 0
        self._closing = False
        self._wake = asyncio.Event()
        self._task: asyncio.Task[None] | None = None
        self._worker = ThreadPoolExecutor(1, thread_name_prefix="predict")

    def start(self) -> None:
        """Begins to work, on the running event loop."""
        self._task = asyncio.get_running_loop().create_task(self._run())

    async def predict(self, inputs: Sequence[np.ndarray]) -> np.ndarray:
        """The answer to one request: checked audio, video and text, `[N, ...]` each -> `[N, ...]`.

        Raises:
            QueueFullError: too many clips wait already.
            StoppingError: the service stops.
        """
        rows = len(inputs[0])
        if self._closing:
            raise StoppingError("the service is stopping. Send the request to another one, or again later.")
        if self.waiting_rows + rows > self._queue_rows and self._queue:
            raise QueueFullError(
                f"the queue must hold at most {self._queue_rows} clips, but is full. Try again in a moment."
            )
        answer: asyncio.Future[np.ndarray] = asyncio.get_running_loop().create_future()
        self._queue.append(_Waiting(inputs, answer))
        self.waiting_rows += rows
        self._wake.set()
        return await answer

    async def close(self) -> None:
        """Finishes what was accepted, then stops."""
        self._closing = True
        self._wake.set()
        if self._task is not None:
            await self._task
        self._worker.shutdown()

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
            arrays = [
                np.concatenate(parts) if len(parts) > 1 else parts[0] for parts in zip(*(w.inputs for w in batch))
            ]
            try:
                answers = await loop.run_in_executor(self._worker, lambda arrays=arrays: self._predict(*arrays))
            except Exception as error:  # whatever it is, it belongs to those who asked
                for waiting in batch:
                    if not waiting.answer.done():
                        waiting.answer.set_exception(error)
                continue
            self._on_batch(len(batch), len(arrays[0]))
            start = 0
            for waiting in batch:
                stop = start + len(waiting.inputs[0])
                if not waiting.answer.done():  # the client may have gone
                    waiting.answer.set_result(answers[start:stop])
                start = stop

    def _take(self) -> list[_Waiting]:
        """The requests of the next pass: the oldest, and those behind it that fit and have the same length of text."""
        batch: list[_Waiting] = []
        rows = 0
        while self._queue:
            waiting = self._queue[0]
            count = len(waiting.inputs[0])
            same = not batch or waiting.inputs[2].shape[1:] == batch[0].inputs[2].shape[1:]
            if batch and (rows + count > self._batch_rows or not same):
                break
            self._queue.popleft()
            self.waiting_rows -= count
            if waiting.answer.cancelled():
                continue
            batch.append(waiting)
            rows += count
        return batch
