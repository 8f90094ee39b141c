"""Micro-batches: records of several requests are answered by one pass of the model."""

import asyncio
import logging
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from typing import Any, TypeAlias

import torch

from components.core.machine import cpus
from pipelines.serving.loading import Loaded

WORKERS = 2  # batches at a time: one is decoded while the other is computed, each by half of the CPUs
Said: TypeAlias = dict[str, Any] | str | None  # an answer, the reason why there is none, or a failure of the model
log = logging.getLogger(__name__)


@dataclass(frozen=True)
class _Chunk:
    """Records of one request, at most a batch of them."""

    model: Loaded
    records: Sequence[Any]
    said: "asyncio.Future[list[Said]]"


class Batcher:
    """Collects records into batches, in their order, and never waits for a client that is not there.

    A batch starts as soon as a worker is free and as many records have come as in the batch before, or after `wait`
    seconds. A lone client is so answered at once, and many clients together.

    Args:
        most: Records of a batch.
        wait: Seconds that a batch waits for more.
        observe: Takes the size of each batch.
    """

    def __init__(self, most: int, wait: float, observe: Callable[[int], None]) -> None:
        self._most, self._wait, self._observe = most, wait, observe
        self._queue = deque[_Chunk]()
        self._arrived = asyncio.Event()
        self._expected = 1
        self._pool = ThreadPoolExecutor(WORKERS, "batch", torch.set_num_threads, (threads(),))

    async def answer(self, model: Loaded, records: Sequence[Any]) -> list[Said]:
        """Return what the model says of each record; all of them are answered by the same version."""
        loop = asyncio.get_running_loop()
        parts = [records[start : start + self._most] for start in range(0, len(records), self._most)]
        chunks = [_Chunk(model, part, loop.create_future()) for part in parts]
        self._queue += chunks
        self._arrived.set()
        return [one for chunk in chunks for one in await chunk.said]

    def waiting(self) -> int:
        """Return how many records no worker has begun with."""
        return sum(len(chunk.records) for chunk in self._queue)

    async def work(self) -> None:
        """Answer what comes until this is canceled."""
        loop, free = asyncio.get_running_loop(), asyncio.Semaphore(WORKERS)
        try:
            while True:
                await free.acquire()
                batch = await self._collected()
                model, records = batch[0].model, [one for chunk in batch for one in chunk.records]
                self._expected = len(records)
                self._observe(len(records))
                done = loop.run_in_executor(self._pool, _answers, model, records)
                done.add_done_callback(partial(self._deliver, batch, free))
        finally:
            self._pool.shutdown(wait=False, cancel_futures=True)

    async def _collected(self) -> list[_Chunk]:
        while not self._queue:
            self._arrived.clear()
            await self._arrived.wait()
        try:
            async with asyncio.timeout(self._wait):
                while self.waiting() < min(self._expected, self._most):
                    self._arrived.clear()
                    await self._arrived.wait()
        except TimeoutError:
            pass
        batch = [self._queue.popleft()]
        count = len(batch[0].records)
        while self._queue and self._queue[0].model is batch[0].model:
            count += len(self._queue[0].records)
            if count > self._most:
                break
            batch.append(self._queue.popleft())
        return batch

    def _deliver(self, batch: Sequence[_Chunk], free: asyncio.Semaphore, found: "asyncio.Future[list[Said]]") -> None:
        free.release()
        said = iter([] if found.cancelled() else found.result())
        for chunk in batch:
            answers = [next(said, None) for _ in chunk.records]
            if not chunk.said.done():  # its request may have been given up
                chunk.said.set_result(answers)


def threads() -> int:
    """Return the threads of one worker."""
    return max(1, cpus.available() // WORKERS)


def _answers(model: Loaded, records: Sequence[Any]) -> list[Said]:
    """Return what the model says of each record; one that makes it fail keeps no other from its answer."""
    try:
        return [*model.answer(records)]
    except Exception:
        if len(records) == 1:
            log.exception("%s version %s failed on a record", model.name, model.version)
            return [None]
    return [said for record in records for said in _answers(model, [record])]
