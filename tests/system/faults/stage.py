"""A mesh at work: agents as processes, apps as processes that load it, and the moments of what was done to them.

::

    with Stage(directory, seed=1) as stage:
        stage.agents["b"].kill_reactor()          after stage.fault("name")
        stage.recovered()
    stage.result()                                 when all has ended and the books are made up

The caller is at agent ``a``, the others serve, each with one app.
"""

import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import msgspec

from tests.system.agents import ROOT, WITHIN_S, Agent, Fleet, until
from tests.system.faults.ledger import Fault, Row, gather, parse, problems, rows
from tests.system.faults.load_app import CallOptions, ServeOptions

__all__ = ["REACTOR_S", "SETTLED_S", "App", "Result", "Stage"]

REACTOR_S = 0.25
"""Within this the requests in flight are hoped to end when a reactor is replaced."""

SETTLED_S = 90.0
"""Everything ends within this: no timeout of the load is longer."""


class Result(msgspec.Struct):
    """The rows of the table, and what broke the promise: a sentence for each kind of breach, with examples."""

    rows: list[Row]
    problems: list[str]


class App:
    """A program of `load_app`, in one life."""

    def __init__(
        self, directory: Path, role: str, agent: Agent, name: str, options: CallOptions | ServeOptions
    ) -> None:
        self.agent = agent
        self.log_path = directory / f"{name}.app"
        errors_path = directory / f"{name}.stderr"
        raw = msgspec.json.encode(options).decode()
        arguments = (role, str(agent.socket_path), str(self.log_path), name, raw)
        with errors_path.open("wb") as errors:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "tests.system.faults.load_app", *arguments],
                stdin=subprocess.DEVNULL,
                stdout=errors,
                stderr=errors,
                cwd=ROOT,
            )
        self.errors_path = errors_path
        self.begun: dict[str, float] = {}
        self._ended: set[str] = set()
        self._read_to = 0

    def ready(self) -> "App":
        """Return when it serves, or has had its first reply."""

        def is_ready() -> bool:
            assert self.process.poll() is None, f"{self} ended\n{self.errors_path.read_text()}"
            return self.log_path.exists() and b" ready " in self.log_path.read_bytes()

        until(is_ready, f"{self} is ready")
        return self

    def ended(self) -> set[str]:
        """Return the ids of what has ended so far; when each began is in ``begun``."""
        lines, self._read_to = parse(self.log_path, self._read_to)
        for line in lines:
            if line.word == "begun":
                self.begun[line.id] = line.at
            elif line.word == "ended":
                self._ended.add(line.id)
        return self._ended

    def kill(self) -> None:
        self.process.kill()
        self.process.wait(WITHIN_S)

    def stop(self) -> None:
        """Have it finish what it asked for; raises if it does not, or failed."""
        self.process.send_signal(signal.SIGTERM)
        try:
            status = self.process.wait(SETTLED_S)
        except subprocess.TimeoutExpired:
            raise AssertionError(f"{self} did not end within {SETTLED_S} s\n{self.agent.tail()}") from None
        assert 0 == status, f"{self} ended with {status}\n{self.errors_path.read_text()}"
        assert "Traceback" not in self.errors_path.read_text(), f"{self} wrote\n{self.errors_path.read_text()}"

    def __str__(self) -> str:
        return f"app {self.log_path.stem}"


class Stage:
    """See the module. ``sections`` are for all agents, ``each`` for some; ``prefixes`` run some in another place."""

    def __init__(
        self,
        directory: Path,
        seed: int,
        *,
        nodes: Sequence[str] = ("a", "b", "c"),
        call: CallOptions | None = None,
        serve: ServeOptions | None = None,
        each: Mapping[str, Mapping[str, Any]] | None = None,
        prefixes: Mapping[str, Sequence[str]] | None = None,
        **sections: Mapping[str, Any],
    ) -> None:
        directory.mkdir(parents=True, exist_ok=True)
        self.directory = directory
        self.draw = random.Random(seed)
        self.nodes = nodes
        self.call_options = call or CallOptions()
        self.serve_options = serve or ServeOptions()
        self.fleet = Fleet(directory, **sections)
        self.each = each or {}
        self.prefixes = prefixes or {}
        self.agents: dict[str, Agent] = {}
        self.servers: dict[str, App] = {}
        self.lives = 0
        self.faults: list[Fault] = []
        self._all: list[App] = []

    def __enter__(self) -> "Stage":
        try:
            for node in self.nodes:
                self.agents[node] = self.fleet.start(
                    node, ready=False, prefix=self.prefixes.get(node, ()), **self.each.get(node, {})
                )
            for agent in self.agents.values():
                agent.expect("reactor_ready")
            for node in self.nodes[1:]:
                self.start_server(node)
            for server in self.servers.values():
                server.ready()
            self.start_caller()
            self.calm()
        except BaseException:
            self.end()
            raise
        return self

    def __exit__(self, kind: object, *_: object) -> None:
        try:
            if kind is None:
                self.finish()
        finally:
            self.end()

    # Its apps

    def start_server(self, node: str) -> None:
        """Start the serving app of a node, another after one that died."""
        self.servers[node] = self._start("serve", node, self.serve_options)

    def start_caller(self) -> None:
        """Start the calling app, another after one that died; returns after its first reply."""
        self.caller = self._start("call", self.nodes[0], self.call_options).ready()

    def bystander(self, node: str, options: ServeOptions) -> App:
        """Start a serving app that no load is for, and that only the end ends."""
        return self._start("serve", node, options).ready()

    def _start(self, role: str, node: str, options: CallOptions | ServeOptions) -> App:
        self.lives += 1
        app = App(self.directory, role, self.agents[node], f"{role}-{node}-{self.lives}", options)
        self._all.append(app)
        return app

    # What is done to it

    def fault(self, name: str, allowed: Iterable[str] = ()) -> None:
        """Write down that something is done now."""
        self.faults.append(Fault(name, time.monotonic(), tuple(allowed)))

    def hope(self, target_s: float, *groups: str) -> None:
        """Say within what the requests of some groups are hoped to end that the last fault met in flight."""
        fault = self.faults[-1]
        self.faults[-1] = msgspec.structs.replace(
            fault, targets_s={**fault.targets_s, **dict.fromkeys(groups, target_s)}
        )

    def recovered(self, caller: App | None = None) -> None:
        """Return when all that was in flight has ended, and something of each kind that began since then too."""
        caller, now = caller or self.caller, time.monotonic()

        def is_recovered() -> bool:
            assert caller.process.poll() is None, f"{caller} ended\n{caller.errors_path.read_text()}"
            ended, begun = caller.ended(), caller.begun
            fresh = {id.split(".")[1] for id in ended if begun[id] > now}
            return set(self.call_options.threads) <= fresh and all(id in ended for id, at in begun.items() if at <= now)

        def story() -> str:
            return "\n".join(f"{agent}\n{agent.tail(15)}" for agent in self.agents.values())

        try:
            until(is_recovered, "all that was in flight has ended, and more", SETTLED_S)
        except AssertionError as error:
            raise AssertionError(f"{error}\n{story()}") from None

    def calm(self, at_least_s: float = 0.2, at_most_s: float = 0.6) -> None:
        """Let the load run for a while that is drawn."""
        time.sleep(self.draw.uniform(at_least_s, at_most_s))

    def restart(self, node: str) -> float:
        """Start an agent that is gone, as the service manager does; return the seconds until it was ready."""
        agent, begun = self.agents[node], time.monotonic()
        agent.skip_notes()
        agent.spawn()
        agent.expect("reactor_ready")
        return time.monotonic() - begun

    # How it ends

    def finish(self) -> None:
        """Have all that was asked end, then the apps, then the agents in order."""
        self.caller.stop()
        for server in self.servers.values():
            server.ready().stop()
        for node, agent in self.agents.items():
            assert 0 == agent.stop(), f"agent {node} does not drain\n{agent.tail()}"

    def end(self) -> None:
        """End whatever is there still."""
        for app in self._all:
            app.kill()
        for agent in self.fleet.agents:
            for pid in [note["pid"] for note in agent.noted("reactor_started")[-1:]]:
                _go_on(pid)
            _go_on(agent.process.pid)
            agent.kill()

    def result(self) -> Result:
        """Return what became of all requests."""
        requests = gather(sorted(self.directory.glob("*.app"))).values()
        return Result(rows(requests, self.faults), problems(requests, self.faults))


def _go_on(pid: int) -> None:
    """Wake a process that may have been stopped, or be gone."""
    try:
        os.kill(pid, signal.SIGCONT)
    except ProcessLookupError:
        return
