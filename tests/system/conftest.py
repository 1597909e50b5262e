"""Fixtures for tests of real agents, and the table of faults at the end of a run that had some."""

from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

import pytest

from tests.system.agents import Fleet
from tests.system.faults.ledger import Row
from tests.system.faults.table import table

__all__ = ["Table"]

Table = Callable[[Iterable[Row]], None]

_ROWS = pytest.StashKey[list[Row]]()


@pytest.fixture
def fleet(tmp_path: Path) -> Iterator[Fleet]:
    """No agents yet; those that are started end with the test."""
    with Fleet(tmp_path) as fleet:
        yield fleet


@pytest.fixture
def fault_table(request: pytest.FixtureRequest) -> Table:
    """Takes rows for the table that is printed at the end."""
    return request.config.stash.setdefault(_ROWS, []).extend


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, config: pytest.Config) -> None:
    """Print the table of faults."""
    rows = config.stash.get(_ROWS, [])
    if rows:
        terminalreporter.write_sep("=", "faults")
        terminalreporter.write_line(table(rows))
