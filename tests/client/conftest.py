"""The agent that the client's suites run against, and the shells that they run on."""

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.client.shells import SHELLS, Shell

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="session")
def mesh_socket(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """The socket of an agent with nothing but these tests on it: the one of ``MESH_TEST_SOCKET``, or a fake's."""
    given = os.environ.get("MESH_TEST_SOCKET")
    if given:
        yield Path(given)
        return
    path = tmp_path_factory.mktemp("agent") / "agent.sock"
    agent = subprocess.Popen([sys.executable, "-m", "tests.client.fake_agent", str(path)], cwd=ROOT)
    yield path
    agent.terminate()
    agent.wait()


@pytest.fixture(params=["aio", "sync"])
def shell(request: pytest.FixtureRequest) -> Iterator[Shell]:
    """Threads, and asyncio, with an agent's socket."""
    made = SHELLS[request.param]()
    yield made
    made.close()
