"""What holds for every test: fast ones first, repeatable examples, no I/O without its mark, no skips."""

import socket
import time
from collections.abc import Generator
from typing import NoReturn
from unittest.mock import patch

import pytest
from hypothesis import settings

# The same examples on every run and every machine; `make soak` is where new ones are searched for.
settings.register_profile("repeatable", derandomize=True, deadline=None)
settings.register_profile("soak", max_examples=5_000, stateful_step_count=200, deadline=None, print_blob=True)
settings.load_profile("repeatable")

SLOWER = ("io", "system")


def rank(item: pytest.Item) -> int:
    """0 for a pure test, 1 for `io`, 2 for `system`."""
    return max((1 + SLOWER.index(mark.name) for mark in item.iter_markers() if mark.name in SLOWER), default=0)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    items.sort(key=rank)


def refuse(*_args: object, **_kwargs: object) -> NoReturn:
    raise AssertionError("a test that sleeps or uses sockets is marked io or system")


@pytest.hookimpl(wrapper=True)
def pytest_runtest_call(item: pytest.Item) -> Generator[None, object, object]:
    if rank(item):
        return (yield)
    with (
        patch.object(time, "sleep", refuse),
        patch.object(socket.socket, "bind", refuse),
        patch.object(socket.socket, "connect", refuse),
    ):
        return (yield)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport() -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """A skip is a failure: what a test needs is there, or the run says what is missing."""
    report = yield
    if report.skipped:
        report.outcome = "failed"
        report.longrepr = f"skipped, and nothing may be: {report.longrepr}"
    return report
