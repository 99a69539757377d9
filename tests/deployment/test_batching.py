import asyncio
import threading

import numpy as np
import pytest

from lmf_multitask.deployment.batching import Batcher, QueueFullError, StoppingError
from lmf_multitask.deployment.predictor import Checked


def clips(count, value=0.0, steps=2):
    """8 bytes * (3 + 2 + 4 steps) per clip."""
    shapes = {"audio": (3,), "video": (2,), "text": (steps, 4)}
    return Checked({name: np.full((count, *shape), value) for name, shape in shapes.items()}, {}, tuple(shapes))


class Model:
    """Answers with ten times each clip's value; waits for `go` before every pass."""

    def __init__(self):
        self.passes, self.go = [], threading.Event()
        self.go.set()

    def __call__(self, clips):
        self.go.wait(10)
        audio = clips.arrays["audio"]
        self.passes.append((len(audio), clips.arrays["text"].shape[1]))
        if (audio < 0).any():
            raise RuntimeError("a broken model")
        return audio[:, :1] * 10


def run(scenario, **limits):
    async def body():
        model = Model()
        batcher = Batcher(model, **limits)
        batcher.start()
        try:
            return await asyncio.wait_for(scenario(batcher, model), 20)
        finally:
            model.go.set()
            await batcher.close()

    return asyncio.run(body())


async def hold(batcher, model):
    """The worker is busy with one clip until model.go is set."""
    model.go.clear()
    first = asyncio.ensure_future(batcher.predict(clips(1)))
    while batcher.waiting_rows or not first:
        await asyncio.sleep(0)
    await asyncio.sleep(0.01)
    return first


def test_waiting_requests_share_a_pass_and_get_their_own_answers():
    async def scenario(batcher, model):
        first = await hold(batcher, model)
        others = [asyncio.ensure_future(batcher.predict(clips(1 + n % 3, n))) for n in range(6)]
        await asyncio.sleep(0.01)
        assert batcher.waiting_rows == 12
        model.go.set()
        await first
        for number, answer in enumerate(await asyncio.gather(*others)):
            np.testing.assert_array_equal(answer, np.full((1 + number % 3, 1), number * 10))
        assert model.passes == [(1, 2), (12, 2)]

    run(scenario)


def test_a_pass_has_a_limit_of_clips_and_one_length_of_sequences():
    async def scenario(batcher, model):
        first = await hold(batcher, model)
        sizes = [(3, 2), (1, 2), (2, 2), (9, 2), (1, 5), (1, 5)]
        others = [asyncio.ensure_future(batcher.predict(clips(n, steps=steps))) for n, steps in sizes]
        await asyncio.sleep(0.01)
        model.go.set()
        await asyncio.gather(first, *others)
        assert model.passes == [(1, 2), (4, 2), (2, 2), (9, 2), (2, 5)]

    run(scenario, batch_rows=4)


def test_a_full_queue_refuses():
    async def scenario(batcher, model):
        first = await hold(batcher, model)
        waiting = asyncio.ensure_future(batcher.predict(clips(4)))
        await asyncio.sleep(0)
        with pytest.raises(
            QueueFullError,
            match="the queue must hold at most 520 bytes of features, but is full. Try again in a moment.",
        ):
            await batcher.predict(clips(2))
        model.go.set()
        assert len(await waiting) == 4
        assert len(await batcher.predict(clips(2))) == 2
        await first

    run(scenario, queue_bytes=5 * 104)


def test_an_error_of_the_model_reaches_only_the_requests_of_its_pass():
    async def scenario(batcher, model):
        with pytest.raises(RuntimeError, match="a broken model"):
            await batcher.predict(clips(1, -1))
        assert (await batcher.predict(clips(1, 2)))[0, 0] == 20

    run(scenario)


def test_a_cancelled_request_does_not_disturb_others():
    async def scenario(batcher, model):
        first = await hold(batcher, model)
        gone = asyncio.ensure_future(batcher.predict(clips(1, 1)))
        stays = asyncio.ensure_future(batcher.predict(clips(1, 2)))
        await asyncio.sleep(0)
        gone.cancel()
        await asyncio.sleep(0)
        model.go.set()
        assert (await stays)[0, 0] == 20
        await first
        assert model.passes == [(1, 2), (1, 2)]

    run(scenario)


def test_all_waiting_requests_are_cancelled():
    async def scenario(batcher, model):
        first = await hold(batcher, model)
        gone = asyncio.ensure_future(batcher.predict(clips(1, 1)))
        await asyncio.sleep(0)
        gone.cancel()
        await asyncio.sleep(0)
        model.go.set()
        await first
        assert (await batcher.predict(clips(1, 3)))[0, 0] == 30

    run(scenario)


def test_stopping_finishes_accepted_requests():
    async def scenario(batcher, model):
        first = await hold(batcher, model)
        accepted = [asyncio.ensure_future(batcher.predict(clips(1, n))) for n in range(3)]
        await asyncio.sleep(0)
        closing = asyncio.ensure_future(batcher.close())
        await asyncio.sleep(0)
        with pytest.raises(StoppingError, match="the service is stopping"):
            await batcher.predict(clips(1))
        model.go.set()
        await closing
        assert [answer[0, 0] for answer in await asyncio.gather(*accepted)] == [0, 10, 20]
        await first

    run(scenario)


def test_passes_are_reported():
    async def scenario(batcher, model):
        await batcher.predict(clips(3))

    seen = []
    run(scenario, on_batch=lambda requests, rows: seen.append((requests, rows)))
    assert seen == [(1, 3)]
