"""Micro-batches: what is computed together, and that nobody gets another's answer."""

import asyncio
import threading
from collections.abc import Awaitable, Callable, Sequence
from typing import Any

import pytest

from pipelines.serving.batching import Batcher, Said
from pipelines.serving.loading import Loaded


class Model:
    """Answers with the record and its version; notes its batches, and waits for `go` before each."""

    def __init__(self, version: str = "1") -> None:
        self.batches: list[list[Any]] = []
        self.go = threading.Event()
        self.go.set()
        self.loaded = Loaded("toy", version, "point", ["said"], "none", self.answer)

    def answer(self, records: Sequence[Any]) -> list[dict[str, Any] | str]:
        self.batches.append(list(records))
        self.go.wait()
        if "broken" in records:
            raise RuntimeError("no record is worth this")
        return ["bad" if one == "bad" else {"said": one, "version": self.loaded.version} for one in records]


def said(version: str, *records: object) -> list[Said]:
    return [{"said": one, "version": version} for one in records]


def served(work: Callable[[Batcher], Awaitable[Any]], most: int = 4) -> Any:
    """What `work` returns, with a batcher at work."""

    async def run() -> Any:
        batcher = Batcher(most, 0.01, lambda _size: None)
        task = asyncio.create_task(batcher.work())
        try:
            return await asyncio.wait_for(work(batcher), 30)
        finally:
            task.cancel()

    return asyncio.run(run())


async def until(condition: Callable[[], bool]) -> None:
    while not condition():  # noqa: ASYNC110 - what is waited for has no event
        await asyncio.sleep(0.001)


async def held(batcher: Batcher, model: Model, *requests: tuple[Model, list[Any]]) -> list[list[Said]]:
    """Answers to requests that come while both workers are busy."""
    model.go.clear()
    first = []
    for i in range(2):
        first.append(asyncio.create_task(batcher.answer(model.loaded, [f"first{i}"])))
        await until(lambda: len(model.batches) == len(first))
    asked = [asyncio.create_task(batcher.answer(one.loaded, records)) for one, records in requests]
    await until(lambda: batcher.waiting() == sum(len(records) for _, records in requests))
    model.go.set()
    await asyncio.gather(*first)
    return await asyncio.gather(*asked)


def test_requests_that_wait_are_computed_together() -> None:
    """Records of several requests fill a batch up to its limit, and each request gets its own answers in order."""
    model = Model()
    requests = [(model, ["a"]), (model, ["b", "c"]), (model, ["d", "e"]), (model, ["f"])]
    found = served(lambda batcher: held(batcher, model, *requests))
    assert found == [said("1", *records) for _, records in requests]
    assert sorted(model.batches[2:]) == [["a", "b", "c"], ["d", "e", "f"]]


def test_a_large_request_is_computed_in_parts() -> None:
    """More records than a batch takes are answered in order."""
    model = Model()
    records = [*range(10)]
    assert served(lambda batcher: batcher.answer(model.loaded, records)) == said("1", *records)
    assert sorted(map(len, model.batches)) == [2, 4, 4]


def test_a_batch_has_one_version() -> None:
    """Requests of before and after a reload are computed apart."""
    old, new = Model("1"), Model("2")
    found = served(lambda batcher: held(batcher, old, (old, ["a"]), (new, ["b"]), (new, ["c"])))
    assert found == [said("1", "a"), said("2", "b"), said("2", "c")]
    assert new.batches == [["b", "c"]]


@pytest.mark.parametrize(("record", "outcome"), [("bad", "bad"), ("broken", None)])
def test_a_bad_record_keeps_no_other_from_its_answer(record: str, outcome: str | None) -> None:
    """Neither one with a reason, nor one on which the model fails."""
    model = Model()
    found = served(lambda batcher: held(batcher, model, (model, ["a"]), (model, [record]), (model, ["b"])))
    assert found == [said("1", "a"), [outcome], said("1", "b")]
    assert served(lambda batcher: batcher.answer(model.loaded, ["c"])) == said("1", "c")
