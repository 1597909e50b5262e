"""Runs `fake_agent` and hears its events; every wait is for an event, and bounded."""

import json
import os
import select
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

__all__ = ["WITHIN_S", "Agent", "ask", "wait_until_gone"]

WITHIN_S = 30.0
ROOT = Path(__file__).resolve().parents[2]

Event = dict[str, Any]


class Agent:
    """A supervisor in a process of its own, with a directory for what it keeps."""

    def __init__(self, directory: Path, reactor: str = "serve", env: dict[str, str] | None = None, **options: Any):
        self.data_dir = Path(options.setdefault("data_dir", str(directory / "data")))
        self.socket_path = Path(options.setdefault("socket_path", str(directory / "run" / "agent.sock")))
        self.events: list[Event] = []
        self.errors = directory / f"stderr-{time.monotonic_ns()}"
        self._lines = b""
        with self.errors.open("wb") as errors:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "tests.agent.fake_agent", reactor, json.dumps(options)],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=errors,
                cwd=ROOT,
                env=os.environ | (env or {}),
            )

    @property
    def pid(self) -> int:
        return self.process.pid

    def __enter__(self) -> "Agent":
        return self

    def __exit__(self, *_: object) -> None:
        self.process.kill()
        self.process.wait(WITHIN_S)
        assert self.process.stdout is not None
        self.process.stdout.close()

    def send(self, number: signal.Signals) -> None:
        self.process.send_signal(number)

    def stop(self) -> None:
        """Stop the supervisor, and return when it is."""
        self.send(signal.SIGSTOP)
        os.waitid(os.P_PID, self.pid, os.WSTOPPED)

    def expect(self, name: str) -> Event:
        """Return the next event of that name."""
        return self.expect_any(name)

    def expect_any(self, *names: str) -> Event:
        """Return the next event of one of the names; what comes before is kept in ``events``."""
        give_up_at = time.monotonic() + WITHIN_S
        while True:
            while b"\n" in self._lines:
                line, _, self._lines = self._lines.partition(b"\n")
                event: Event = json.loads(line)
                self.events.append(event)
                if event["event"] in names:
                    return event
            self._read(give_up_at, names)

    def _read(self, give_up_at: float, names: tuple[str, ...]) -> None:
        assert self.process.stdout is not None
        fd = self.process.stdout.fileno()
        ready, _, _ = select.select([fd], [], [], max(0.0, give_up_at - time.monotonic()))
        data = os.read(fd, 65_536) if ready else b""
        if not data:
            raise AssertionError(f"none of {names} came after {self.events}\n{self.errors.read_text()}")
        self._lines += data

    def ready(self) -> Event:
        return self.expect("reactor_ready")

    def wait(self) -> int:
        """Return the exit status, with all events read."""
        assert self.process.stdout is not None
        rest = b"" if self.process.stdout.closed else self.process.stdout.read()
        self.events += [json.loads(line) for line in (self._lines + rest).splitlines()]
        self._lines = b""
        return self.process.wait(WITHIN_S)

    def names(self) -> list[str]:
        return [event["event"] for event in self.events]

    def connect(self) -> socket.socket:
        app = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        app.settimeout(WITHIN_S)
        app.connect(str(self.socket_path))
        return app


def ask(connection: socket.socket) -> tuple[int, int]:
    """Return the pid and the incarnation of the reactor that accepts this connection."""
    with connection:
        pid, incarnation = connection.makefile().readline().split()
    return int(pid), int(incarnation)


def wait_until_gone(pid: int) -> None:
    """Return when the process is no more; it need not be a child."""
    try:
        watched = os.pidfd_open(pid)
    except ProcessLookupError:
        return
    try:
        ready, _, _ = select.select([watched], [], [], WITHIN_S)
    finally:
        os.close(watched)
    assert ready, f"process {pid} still lives"
