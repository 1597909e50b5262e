"""Fixtures for tests of real agents."""

from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

import msgspec
import pytest

from tests.system.agents import Fleet
from tests.system.faults.ledger import Row
from tests.system.faults.table import FAULT_ROW

__all__ = ["Table"]

Table = Callable[[Iterable[Row]], None]


@pytest.fixture
def fleet(tmp_path: Path) -> Iterator[Fleet]:
    """No agents yet; those that are started end with the test."""
    with Fleet(tmp_path) as fleet:
        yield fleet


@pytest.fixture
def fault_table(request: pytest.FixtureRequest) -> Table:
    """Takes rows for the table that is printed at the end."""

    def tell(rows: Iterable[Row]) -> None:
        request.node.user_properties.extend((FAULT_ROW, msgspec.to_builtins(row)) for row in rows)

    return tell
