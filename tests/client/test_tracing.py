"""Who follows what is asked: one or nobody, and told how it ended."""

import asyncio
from collections.abc import Iterator
from concurrent.futures import CancelledError, Future
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import pytest

from mesh.client.api import Message
from mesh.client.tracing import Asked, follow, follower, tell_asked
from mesh.core.records import Request


class Nobody:
    def asks(self, request: Request, node: str, session: int) -> Asked:
        return lambda error: None

    def handles(self, message: Message) -> AbstractContextManager[object]:
        return nullcontext()


@pytest.fixture(autouse=True)
def alone() -> Iterator[None]:
    yield
    follow(None)


def test_there_is_one_follower_or_none() -> None:
    assert None is follower()
    first, second = Nobody(), Nobody()
    follow(first)
    follow(second)
    assert second is follower()
    follow(None)
    assert None is follower()


@pytest.mark.parametrize("make", [Future, asyncio.Future])
def test_how_a_future_ended_is_told(make: Any) -> None:
    told: list[BaseException | None] = []
    with asyncio.Runner() as runner:
        loop = runner.get_loop()
        futures = [make(loop=loop) if make is asyncio.Future else make() for _ in range(3)]
    error = ValueError("no")
    futures[0].set_result(7)
    futures[1].set_exception(error)
    futures[2].cancel()
    for future in futures:
        tell_asked(told.append, future)
    assert [None, error] == told[:2]
    assert isinstance(told[2], CancelledError)
