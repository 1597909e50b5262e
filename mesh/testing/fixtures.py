"""For pytest: ``pytest_plugins = ["mesh.testing.fixtures"]`` in the ``conftest.py`` at the top."""

from collections.abc import Iterator

import pytest

from mesh.testing.fleet import Fleet

__all__ = ["fleet"]


@pytest.fixture
def fleet() -> Iterator[Fleet]:
    """A fleet of two agents, ``node1`` and ``node2``; all its clients are closed at the test's end."""
    with Fleet() as made:
        yield made
