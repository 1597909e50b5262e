"""Python programs of this package that a command starts beside itself, and speaks to in lines."""

import contextlib
import subprocess
import sys
from types import TracebackType
from typing import IO, Self

from mesh.cli.private import StartFailed

__all__ = ["Program"]

END_S = 5.0


class Program:
    """``python -m MODULE ARGUMENTS…``: says a line when it is ready, answers each line with one, ends with its input.

    So it also ends when this process dies. Its errors go where ours go.
    """

    def __init__(self, module: str, *arguments: str) -> None:
        self._name = " ".join((module, *arguments[:1]))
        self._process = subprocess.Popen(
            [sys.executable, "-P", "-m", module, *arguments],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            start_new_session=True,  # Ctrl-C is for us, who end it
        )
        self.pid = self._process.pid

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        with contextlib.suppress(OSError):
            _open(self._process.stdin).close()
        try:
            self._process.wait(END_S)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        _open(self._process.stdout).close()

    def read(self) -> str:
        """Return its next line; raises StartFailed if there is none."""
        line = _open(self._process.stdout).readline()
        if not line:
            raise StartFailed(f"{self._name} ended too early; its errors are above")
        return line

    def ask(self, question: str) -> str:
        """Write a line and return the answer; raises StartFailed."""
        stdin = _open(self._process.stdin)
        with contextlib.suppress(BrokenPipeError):
            stdin.write(question + "\n")
            stdin.flush()
        return self.read()


def _open(stream: IO[str] | None) -> IO[str]:
    assert stream is not None
    return stream
