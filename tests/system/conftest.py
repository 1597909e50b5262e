"""Fixtures for tests of real agents."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.system.agents import Fleet


@pytest.fixture
def fleet(tmp_path: Path) -> Iterator[Fleet]:
    """No agents yet; those that are started end with the test."""
    with Fleet(tmp_path) as fleet:
        yield fleet
