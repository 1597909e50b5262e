"""Agents of one's own: processes on loopback with a directory each, ended with whoever started them."""

import contextlib
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Self

from mesh.cli.agent import agent_command
from mesh.client.sync import connect
from mesh.errors import AgentUnavailable, MeshError

__all__ = ["STOP_S", "PrivateAgent", "StartFailed", "free_port", "leashed", "private_directory", "unwinding"]

START_S = 20.0
STOP_S = 3.0
LOG_TAIL_CHARS = 2_000

# 1 is PR_SET_PDEATHSIG, which outlives the exec.
_LEASH = """
import ctypes, os, signal, sys
ctypes.CDLL(None).prctl(1, signal.SIGTERM, 0, 0, 0)
if os.getppid() == int(sys.argv[1]):
    os.execv(sys.argv[2], sys.argv[2:])
"""

Settings = Mapping[str, Mapping[str, object]]


class StartFailed(MeshError):
    """Something that was to be started here did not start; the text ends with what it said."""


class PrivateAgent:
    """One agent on the local preset; ``settings`` are options by section, over those that make it private.

    Its reactor and supervisor end when the context does, and also when this process dies.
    """

    def __init__(self, directory: Path, node: str, settings: Settings | None = None) -> None:
        self.node = node
        self.directory = directory
        self.socket = directory / f"{node}.sock"
        self._log = directory / f"{node}.log"
        sections: dict[str, dict[str, object]] = {
            "agent": {"node_id": node, "data_dir": str(directory / node), "socket": str(self.socket)},
            "matchmaker": {"kind": "sqlite"},
            "matchmaker.sqlite": {"path": str(directory / "matchmaker.sqlite")},
        }
        for section, options in (settings or {}).items():
            sections.setdefault(section, {}).update(options)
        config = directory / f"{node}.toml"
        config.write_text(_toml(sections), encoding="utf-8")
        with self._log.open("wb") as log:
            self._process = subprocess.Popen(
                leashed(agent_command(config)),
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                env=_environment(),
                start_new_session=True,  # Ctrl-C is for us, who end it after what uses it
            )

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    def wait_ready(self) -> None:
        """Return when it answers; raises StartFailed with the end of its log."""
        until = time.monotonic() + START_S
        while time.monotonic() < until and self._process.poll() is None:
            with contextlib.suppress(AgentUnavailable), connect("mesh-cli", socket=self.socket, connect_timeout_s=0.5):
                return
        status = self._process.poll()
        what = f"did not answer within {START_S:g} s" if status is None else f"exited with {status}"
        tail = self._log.read_text(encoding="utf-8", errors="replace")[-LOG_TAIL_CHARS:]
        raise StartFailed(f"the agent {self.node} {what}; its log ends with: {tail}")

    def stop(self) -> None:
        """End it: it may drain for a moment, is then stopped at once, and in the end killed."""
        for number in (signal.SIGTERM, signal.SIGTERM, signal.SIGKILL):
            if self._process.poll() is None:
                self._process.send_signal(number)
                with contextlib.suppress(subprocess.TimeoutExpired):
                    self._process.wait(STOP_S)


@contextlib.contextmanager
def private_directory() -> Iterator[Path]:
    """Make a directory that is gone afterwards."""
    directory = Path(tempfile.mkdtemp(prefix="mesh-"))
    try:
        yield directory
    finally:
        shutil.rmtree(directory, ignore_errors=True)


@contextlib.contextmanager
def unwinding() -> Iterator[None]:
    """Have SIGTERM and SIGHUP leave as Ctrl-C does, so that what was started here is ended."""

    def leave(number: int, _: object) -> None:
        sys.exit(128 + number)

    before = {number: signal.signal(number, leave) for number in (signal.SIGTERM, signal.SIGHUP)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def free_port() -> int:
    """Return a loopback port that nobody has now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def leashed(command: Sequence[str]) -> list[str]:
    """Return a command that runs another, to which the kernel sends SIGTERM when this process dies without a word."""
    return [sys.executable, "-I", "-S", "-c", _LEASH, str(os.getpid()), *command]


def _environment() -> dict[str, str]:
    """Return ours without what would make a private agent public, or speak for us to systemd."""
    private = ("NOTIFY_SOCKET", "WATCHDOG_PID", "WATCHDOG_USEC")
    return {name: value for name, value in os.environ.items() if not name.startswith("MESH_") and name not in private}


def _toml(sections: Settings) -> str:
    """Return the options as TOML; numbers, texts and flat lists are written as in JSON."""
    lines = ['preset = "local"']
    for section, options in sections.items():
        lines += [f"\n[{section}]", *(f"{name} = {json.dumps(value)}" for name, value in options.items())]
    return "\n".join(lines) + "\n"
