"""Real agents as processes on loopback: each with its own directory, all of a fleet over one SQLite file.

::

    with Fleet(tmp_path) as fleet:
        a, b = fleet.start("a"), fleet.start("b", links={"idle_close_s": 1})
        a.query("status")
        b.kill_reactor()
        b.expect("reactor_ready")

Options are those of the configuration file, by section. Every wait is for an event and bounded by `WITHIN_S`.
"""

import contextlib
import http.client
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from tests.agent.supervised import wait_until_gone
from tests.system.raw_app import WITHIN_S, Echo, RawApp, Traffic

__all__ = ["WITHIN_S", "Agent", "Fleet", "Sections", "over_consul", "toml", "until"]

ROOT = Path(__file__).resolve().parents[2]

Note = dict[str, Any]
Sections = Mapping[str, Mapping[str, Any]]

_TICKS_PER_S = os.sysconf("SC_CLK_TCK")


def until(condition: Callable[[], Any], what: str, within_s: float = WITHIN_S) -> Any:
    """Wait for a condition and return what made it true; ``what`` names it in the failure."""
    give_up_at = time.monotonic() + within_s
    while True:
        value = condition()
        if value:
            return value
        assert time.monotonic() < give_up_at, f"not within {within_s} s: {what}"
        time.sleep(0.01)


def toml(sections: Sections) -> str:
    """Return a configuration file. JSON's strings, numbers, booleans and lists are TOML's too."""
    lines = []
    for section, options in sections.items():
        if section:
            lines.append(f"[{section}]")
        lines += [f"{name} = {json.dumps(value)}" for name, value in options.items()]
    return "\n".join(lines) + "\n"


def over_consul(address: str) -> dict[str, Any]:
    """Return the sections of agents that meet in the Consul at this address."""
    return {"matchmaker": {"kind": "consul"}, "matchmaker__consul": {"address": address}}


class Agent:
    """One agent: its supervisor is ``process``, what it noted is in ``notes``."""

    def __init__(self, directory: Path, sections: Sections, program: Sequence[str], prefix: Sequence[str] = ()) -> None:
        directory.mkdir(parents=True, exist_ok=True)
        self.directory = directory
        self.program = program
        self.prefix = prefix
        self.node: str = sections["agent"]["node_id"]
        self.data_dir = Path(sections["agent"]["data_dir"])
        self.socket_path = Path(sections["agent"]["socket"])
        self.config_path = directory / "agent.toml"
        self.config_path.write_text(toml(sections))
        self.log_path = directory / "log"
        self.notes: list[Note] = []
        self.noise: list[str] = []
        self._read_to = 0
        self._expected_to = 0
        self.spawn()

    def spawn(self) -> None:
        """Start the process, with what the last one left on disk if there was one."""
        environment = {name: value for name, value in os.environ.items() if not name.startswith("MESH_")}
        with self.log_path.open("ab") as log:
            self.process = subprocess.Popen(
                [*self.prefix, sys.executable, *self.program, "--config", str(self.config_path)],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                cwd=ROOT,
                env=environment,
            )

    # What it tells

    def read_notes(self) -> list[Note]:
        """Return all notes so far; lines that are none are in ``noise``."""
        with self.log_path.open("rb") as log:
            log.seek(self._read_to)
            for line in log:
                if not line.endswith(b"\n"):
                    break
                self._read_to += len(line)
                try:
                    self.notes.append(json.loads(line))
                except ValueError:
                    self.noise.append(line.decode(errors="replace").rstrip())
        return self.notes

    def noted(self, name: str, **facts: Any) -> list[Note]:
        """Return the notes so far that have a name and these facts."""
        return [note for note in self.read_notes() if note["event"] == name and facts.items() <= note.items()]

    def expect(self, name: str, within_s: float = WITHIN_S, **facts: Any) -> Note:
        """Return the next note that has a name and these facts, after the last one that was expected."""

        def found() -> Note | None:
            for at, note in enumerate(self.read_notes()[self._expected_to :], self._expected_to + 1):
                if note["event"] == name and facts.items() <= note.items():
                    self._expected_to = at
                    return note
            if self.process.poll() is not None and self._all_read():
                raise AssertionError(f"{self} ended without noting {name} {facts}\n{self.tail()}")
            return None

        try:
            note: Note = until(found, f"{self} notes {name} {facts}", within_s)
        except AssertionError as error:
            raise AssertionError(f"{error}\n{self.tail()}") from None
        return note

    def skip_notes(self) -> None:
        """Expect only what it notes from now on."""
        self._expected_to = len(self.read_notes())

    def _all_read(self) -> bool:
        self.read_notes()
        return self._read_to >= self.log_path.stat().st_size

    def tail(self, lines: int = 30) -> str:
        """Return the end of what it wrote."""
        return "\n".join(self.log_path.read_text(errors="replace").splitlines()[-lines:])

    def __str__(self) -> str:
        return f"agent {self.directory.name}"

    # What it is

    @property
    def reactor_pid(self) -> int:
        """The process that does the work, the latest that was ready."""
        return int(until(lambda: self.noted("reactor_ready"), f"{self} is ready")[-1]["pid"])

    @property
    def links(self) -> list[tuple[str, int]]:
        """Where it listens for peers."""
        note = until(lambda: self.noted("supervisor_listening"), f"{self} listens")[-1]
        return [(host, port) for host, port in note["links"]]

    def cpu_s(self) -> float:
        """Return the processor time that its reactor has used, by all threads."""
        fields = Path(f"/proc/{self.reactor_pid}/stat").read_text().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / _TICKS_PER_S

    def load_over(self, seconds: float) -> float:
        """Return what part of one processor its reactor uses from now on for so long."""
        begun, used = time.monotonic(), self.cpu_s()
        time.sleep(seconds)
        return (self.cpu_s() - used) / (time.monotonic() - begun)

    @property
    def http_address(self) -> tuple[str, int]:
        """Where its HTTP is."""
        host, port = self.noted("supervisor_listening")[-1]["http"]
        return host, port

    def get(self, path: str, **headers: str) -> tuple[int, str]:
        """Ask its HTTP; return the status and the body."""
        with contextlib.closing(http.client.HTTPConnection(*self.http_address, timeout=WITHIN_S)) as connection:
            connection.request("GET", path, headers=headers)
            answer = connection.getresponse()
            return answer.status, answer.read().decode()

    def descriptors(self) -> int:
        """Return how many sockets and files its reactor has open. Event loops are not counted: each thread of the hub's
        pool, of which there are ten at most, makes one when it first sleeps."""
        count = 0
        for entry in os.scandir(f"/proc/{self.reactor_pid}/fd"):
            with contextlib.suppress(FileNotFoundError):
                count += not os.readlink(entry.path).startswith("anon_inode:")
        return count

    def settled_descriptors(self) -> int:
        """Return how many descriptors its reactor has open, once that has not changed for half a second."""
        counts = [self.descriptors()]

        def same() -> bool:
            time.sleep(0.05)
            counts.append(self.descriptors())
            return len(counts) > 10 and len(set(counts[-10:])) == 1

        until(same, f"{self} keeps its number of descriptors")
        return counts[-1]

    # What apps do with it

    def app(self, name: str = "raw", **options: Any) -> RawApp:
        """Connect an app."""
        return RawApp(self.socket_path, name, **options)

    def echo(self, topic: str = "echo", server: str = "") -> Echo:
        """Start an app that serves a topic."""
        return Echo(self.socket_path, topic, server or self.directory.name)

    def traffic(self, topic: str = "echo", **options: Any) -> Traffic:
        """Start an app that calls a topic all the time; returns after the first reply."""
        return Traffic(self.socket_path, topic, **options)

    def query(self, what: str) -> Any:
        """Ask it about itself: ``status``, ``links``, ``topics``."""
        with self.app("query") as app:
            return app.query(what)

    def link_to(self, peer: str) -> Note | None:
        """Return its open link to a peer, as it reports it."""
        links: list[Note] = self.query("links")
        return next((link for link in links if link["peer"] == peer and link["phase"] == "open"), None)

    # How it ends

    def send(self, number: signal.Signals) -> None:
        """Send its supervisor a signal."""
        self.process.send_signal(number)

    def wait(self, within_s: float = WITHIN_S) -> int:
        """Return its exit status when it ends, all notes read."""
        try:
            status = self.process.wait(within_s)
        except subprocess.TimeoutExpired:
            raise AssertionError(f"{self} did not end within {within_s} s\n{self.tail()}") from None
        self.read_notes()
        return status

    def stop(self, within_s: float = WITHIN_S) -> int:
        """Have it drain, and return its exit status."""
        self.send(signal.SIGTERM)
        return self.wait(within_s)

    def kill(self) -> None:
        """Kill supervisor and reactor, as a power cut does; returns when both are gone."""
        pids = [note["pid"] for note in self.noted("reactor_started")[-1:]]
        if "--pid" in self.prefix:  # what it notes are numbers of its own; with the first process there all others go
            children = Path(f"/proc/{self.process.pid}/task/{self.process.pid}/children")
            pids = [int(pid) for pid in children.read_text().split()] if children.exists() else []
        self.process.kill()
        self.process.wait(WITHIN_S)
        for pid in pids:
            wait_until_gone(pid)

    def kill_reactor(self) -> int:
        """Kill the reactor alone, and return its pid; its supervisor starts another."""
        pid = self.reactor_pid
        self.skip_notes()
        os.kill(pid, signal.SIGKILL)
        return pid


class Fleet:
    """Agents that find each other. ``sections`` are options for all of them, under those of each."""

    def __init__(self, directory: Path, **sections: Mapping[str, Any]) -> None:
        self.directory = directory
        self.sections = sections
        self.matchmaker_path = directory / "matchmaker.sqlite"
        self.agents: list[Agent] = []

    def __enter__(self) -> "Fleet":
        return self

    def __exit__(self, *_: object) -> None:
        for agent in self.agents:
            agent.kill()

    def start(
        self,
        node: str,
        *,
        name: str = "",
        ready: bool = True,
        program: Sequence[str] = ("-m", "mesh.agent"),
        prefix: Sequence[str] = (),
        **sections: Mapping[str, Any],
    ) -> Agent:
        """Start an agent and wait until it is ready.

        ``name``: of its directory, if two agents have one node id. ``program``: what Python runs, if not the agent as
        it is; ``prefix``: a command that runs it, as in a network namespace. A dot in a section's name is written as
        two underscores.
        """
        directory = self.directory / (name or node)
        whole: dict[str, dict[str, Any]] = {
            "": {"preset": "local"},
            "agent": {
                "node_id": node,
                "data_dir": str(directory / "data"),
                "socket": str(self.directory / f"{name or node}.sock"),
                "log_format": "json",
            },
            "matchmaker.sqlite": {"path": str(self.matchmaker_path)},
        }
        for told in (self.sections, sections):
            for section, options in told.items():
                whole.setdefault(section.replace("__", "."), {}).update(options)
        agent = Agent(directory, whole, program, prefix)
        self.agents.append(agent)
        if ready:
            agent.expect("reactor_ready")
        return agent
