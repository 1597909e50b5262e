"""`demo`: Ctrl-C ends everything that it started, whenever it comes."""

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.system.agents import ROOT, until

pytestmark = pytest.mark.system


class Demo:
    """A demo under way, in a session of its own, as in a terminal."""

    def __init__(self, directory: Path, *arguments: str) -> None:
        self.directory = directory
        text = directory / "text"
        text.write_text("to be or not to be\n" * 20)
        self.said = (directory / "said").open("w+b")
        self.process = subprocess.Popen(
            [sys.executable, "-m", "mesh.cli", "demo", *arguments, str(text)],
            cwd=ROOT,
            env={**os.environ, "TMPDIR": str(directory), "NO_COLOR": "1"},
            stdin=subprocess.DEVNULL,
            stdout=self.said,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )

    def output(self) -> str:
        return (self.directory / "said").read_text()

    def made(self) -> list[Path]:
        """What is in the directory for temporary ones."""
        return list(self.directory.glob("mesh-*"))

    def processes(self) -> list[str]:
        """The command lines of those that use it."""
        found = []
        for path in Path("/proc").glob("[0-9]*/cmdline"):
            try:
                command = path.read_bytes().replace(b"\0", b" ").decode()
            except OSError:
                continue
            if f"{self.directory}/mesh-" in command:
                found.append(command)
        return found

    def interrupt(self) -> int:
        """Press Ctrl-C, which reaches the whole foreground, and return the exit status."""
        os.killpg(self.process.pid, signal.SIGINT)
        return self.process.wait(30)

    def close(self) -> None:
        if self.process.poll() is None:
            self.process.kill()
            self.process.wait()
        self.said.close()


@pytest.fixture
def demo(tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[Demo]:
    demo = Demo(tmp_path, *request.param)
    yield demo
    demo.close()


@pytest.mark.parametrize("demo", [("--keep",)], indirect=True)
def test_what_is_kept_is_there_until_ctrl_c(demo: Demo) -> None:
    until(lambda: "Left running until Ctrl-C" in demo.output(), "it has come to its end", within_s=90.0)
    assert "equal" in demo.output()
    assert demo.processes()
    assert 0 == demo.interrupt()
    assert ([], []) == (demo.processes(), demo.made())
    assert "Traceback" not in demo.output()


@pytest.mark.parametrize("demo", [()], indirect=True)
def test_ctrl_c_in_the_middle_leaves_nothing_behind(demo: Demo) -> None:
    until(lambda: "workers serve" in demo.output(), "it is at work", within_s=60.0)
    assert 130 == demo.interrupt()
    assert ([], []) == (demo.processes(), demo.made())
    assert "Traceback" not in demo.output()
