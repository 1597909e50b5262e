"""What holds for every test: fast ones first, repeatable examples, no I/O without its mark, no skips.

With pytest-xdist, as `make test` runs them, the tests of a file run in one worker, in their order. Of the files that
take minutes none may begin last; what is marked `alone` waits until nothing else runs, and nothing begins beside it.
"""

import os
import shlex
import signal
import socket
import time
from collections.abc import Generator
from typing import NoReturn
from unittest.mock import patch

import msgspec
import pytest
from hypothesis import settings

from tests.system.faults.ledger import Row
from tests.system.faults.table import FAULT_ROW, table
from tests.turns import turn

# The same examples on every run and every machine; `make soak` is where new ones are searched for.
settings.register_profile("repeatable", derandomize=True, deadline=None)
settings.register_profile("soak", max_examples=5_000, stateful_step_count=200, deadline=None, print_blob=True)
settings.load_profile("repeatable")

os.environ.pop("COLUMNS", None)  # tables are as wide as in files, here and in what tests start; xdist sets a width

if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:  # as it is for whatever a script runs in its background
    signal.signal(signal.SIGINT, signal.default_int_handler)  # what tests start inherits it

SLOWER = ("io", "system")
ALONE = "alone"
LONGEST = (
    "tests/system/test_faults.py",
    "tests/system/test_topology.py",
    "tests/agent/test_reactor.py",
    "tests/system/test_security.py",
    "tests/system/test_mesh.py",
)
"""Files of minutes: begun before the other `system` tests, so that none of them goes on when the others have ended."""
PYTEST = ".venv/bin/python -m pytest"


def rank(item: pytest.Item) -> int:
    """0 for a pure test, 1 for `io`, 2 for `system`."""
    return max((1 + SLOWER.index(mark.name) for mark in item.iter_markers() if mark.name in SLOWER), default=0)


def is_alone(item: pytest.Item) -> bool:
    return item.get_closest_marker(ALONE) is not None


def order(item: pytest.Item) -> tuple[int, bool, bool]:
    """Fast ones first, those that want the machine last of theirs."""
    path = item.path.relative_to(item.config.rootpath).as_posix()
    return rank(item), rank(item) == 2 and path not in LONGEST, is_alone(item)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    items.sort(key=order)


@pytest.hookimpl(wrapper=True, tryfirst=True)  # around the timeout: waiting for a turn is not the test's time
def pytest_runtest_protocol(item: pytest.Item) -> Generator[None, object, object]:
    if not hasattr(item.config, "workerinput"):
        return (yield)
    assert item.config.cache is not None
    with turn(item.config.cache.mkdir("turns"), alone=is_alone(item)):
        return (yield)


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


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """At the end: what the faults did, and how to run alone what failed."""
    stats = terminalreporter.stats
    told = [told for report in stats.get("passed", []) + stats.get("failed", []) for told in report.user_properties]
    rows = [msgspec.convert(value, Row) for name, value in told if name == FAULT_ROW]
    if rows:
        terminalreporter.write_sep("=", "faults")
        terminalreporter.write_line(table(rows))
    broken = dict.fromkeys(report.nodeid for report in stats.get("failed", []) + stats.get("error", []))
    if broken:
        terminalreporter.write_sep("=", "to run one of these alone")
        for name in broken:
            terminalreporter.write_line(f"{PYTEST} {shlex.quote(name)}")
