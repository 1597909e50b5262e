"""The thread client's suites again, under gevent's and eventlet's monkey-patching."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = [pytest.mark.system, pytest.mark.timeout(300)]

ROOT = Path(__file__).resolve().parents[2]
SUITES = ("tests/client/test_conformance.py", "tests/client/test_faults.py")


@pytest.mark.parametrize("library", ["gevent", "eventlet"])
@pytest.mark.parametrize("suite", SUITES)
def test_a_suite_passes_under_patching(library: str, suite: str, mesh_socket: Path) -> None:
    command = [
        sys.executable,
        "-m",
        "tests.client.patched",
        library,
        "-q",
        "-k",
        "sync",
        "-p",
        "no:cacheprovider",
        suite,
    ]
    environment = {**os.environ, "MESH_TEST_SOCKET": str(mesh_socket)}
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
    assert 0 == done.returncode, done.stdout[-8_000:] + done.stderr[-2_000:]
