"""For pytest: ``from mesh.testing.fixtures import fleet`` in a ``conftest.py``."""

from collections.abc import Iterator

import pytest

from mesh.testing.fleet import Fleet

__all__ = ["fleet"]


class Ending:
    """A plugin for the time of one test: whether that has failed."""

    def __init__(self, item: pytest.Item) -> None:
        self.has_failed = False
        self._item = item

    @pytest.hookimpl(tryfirst=True)
    def pytest_runtest_makereport(self, item: pytest.Item, call: pytest.CallInfo[None]) -> None:
        """A phase of a test is over."""
        if item is self._item and call.excinfo is not None:
            self.has_failed = True


@pytest.fixture
def fleet(request: pytest.FixtureRequest) -> Iterator[Fleet]:
    """A fleet of two agents, ``node1`` and ``node2``. At the test's end all its clients are closed, and a test that has
    passed fails if a handler's assertion did, or if a fault that it asked for met nothing."""
    made, ending = Fleet(), Ending(request.node)
    request.config.pluginmanager.register(ending)
    yield made
    request.config.pluginmanager.unregister(ending)
    made.close(check=not ending.has_failed)
