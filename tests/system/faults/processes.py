"""Faults of processes: killed, stopped, blocked, restarted in turn."""

import ctypes
import os
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from tests.system.agents import Agent, until
from tests.system.faults.ledger import CALLS, IDEMPOTENT
from tests.system.faults.stage import REACTOR_S, Result, Stage

__all__ = ["blocked_loops", "kills", "rolling_restarts", "stopped_agents", "stopped_reactors"]

DEAD_AFTER_S = 1.0
"""Of the preset `local`."""

WATCHDOG_SHARE = 1.25
"""The last pulse before a stop, and the supervisor's turn, are each an eighth of its watchdog's time."""


def kills(directory: Path, seed: int, rounds: int) -> Result:
    """SIGKILL of each role in turn, each at a moment that is drawn, and replaced at once."""
    with Stage(directory, seed) as stage:
        roles = list(KILLS)
        stage.draw.shuffle(roles)
        for number in range(rounds):
            KILLS[roles[number % len(roles)]](stage)
            stage.calm(0.2, 1.5)
    return stage.result()


def _serving(stage: Stage) -> str:
    return stage.draw.choice(stage.nodes[1:])


def _reactor(stage: Stage, node: str, name: str) -> None:
    stage.fault(name)
    stage.hope(REACTOR_S, CALLS, IDEMPOTENT)
    stage.agents[node].kill_reactor()
    stage.agents[node].expect("reactor_ready")
    stage.recovered()


def _agent(stage: Stage, node: str, name: str) -> None:
    stage.fault(name)
    stage.agents[node].kill()
    start_up_s = stage.restart(node)
    stage.hope(start_up_s + REACTOR_S, CALLS)
    stage.hope(REACTOR_S + (start_up_s if node == "a" else 0.0), IDEMPOTENT)
    stage.recovered()


def _server_app(stage: Stage) -> None:
    node = _serving(stage)
    stage.fault("SIGKILL serving app", allowed=("Indeterminate",))
    stage.servers[node].kill()
    stage.start_server(node)
    stage.recovered()
    stage.servers[node].ready()


def _calling_app(stage: Stage) -> None:
    stage.fault("SIGKILL calling app")
    stage.caller.kill()
    stage.start_caller()
    stage.recovered()


KILLS: dict[str, Callable[[Stage], None]] = {
    "caller's reactor": lambda stage: _reactor(stage, "a", "SIGKILL caller's reactor"),
    "server's reactor": lambda stage: _reactor(stage, _serving(stage), "SIGKILL server's reactor"),
    "caller's agent": lambda stage: _agent(stage, "a", "SIGKILL caller's agent"),
    "server's agent": lambda stage: _agent(stage, _serving(stage), "SIGKILL server's agent"),
    "serving app": _server_app,
    "calling app": _calling_app,
}


@contextmanager
def _stopped(*pids: int) -> Iterator[None]:
    for pid in pids:
        os.kill(pid, signal.SIGSTOP)
    try:
        yield
    finally:
        for pid in pids:
            os.kill(pid, signal.SIGCONT)


def _accusations(agent: Agent) -> int:
    return sum("dead" in note.get("reason", "") for note in agent.noted("link_lost"))


def stopped_agents(directory: Path, seed: int, rounds: int) -> Result:
    """SIGSTOP of supervisor and reactor for three dead times: on waking it accuses nobody, and is readmitted."""
    with Stage(directory, seed) as stage:
        for number in range(rounds):
            node = stage.nodes[number % 3]
            agent = stage.agents[node]
            pid, accused = agent.reactor_pid, _accusations(agent)
            stage.fault(f"SIGSTOP {'caller' if node == 'a' else 'server'}'s agent for {3 * DEAD_AFTER_S:g} s")
            with _stopped(agent.process.pid, pid):
                time.sleep(3 * DEAD_AFTER_S)
            stage.recovered()
            assert accused == _accusations(agent), f"{agent} accuses others after it was stopped\n{agent.tail()}"
            assert pid == agent.reactor_pid, f"{agent} was replaced, and only slept\n{agent.tail()}"
            until(lambda: all(map(stage.agents["a"].link_to, stage.nodes[1:])), "all are linked again")
            stage.calm()
    return stage.result()


def stopped_reactors(directory: Path, seed: int, rounds: int) -> Result:
    """SIGSTOP of a reactor alone: its supervisor replaces it."""
    watchdog_s = 2.0
    with Stage(directory, seed, agent={"watchdog_s": watchdog_s}) as stage:
        for number in range(rounds):
            node = stage.nodes[number % 2]
            agent = stage.agents[node]
            agent.read_notes()
            hung = len(agent.noted("reactor_hung"))
            pid = agent.reactor_pid
            name = f"SIGSTOP {'caller' if node == 'a' else 'server'}'s reactor, replaced after {watchdog_s:g} s"
            stage.fault(name)
            stage.hope(watchdog_s * WATCHDOG_SHARE + REACTOR_S, CALLS)
            os.kill(pid, signal.SIGSTOP)
            until(lambda agent=agent, pid=pid: agent.reactor_pid != pid, f"{agent} has another reactor")  # type: ignore[misc]
            stage.recovered()
            assert hung + 1 == len(agent.noted("reactor_hung")), agent.tail()
            stage.calm()
    return stage.result()


PTRACE_DETACH, PTRACE_SEIZE, PTRACE_INTERRUPT = 17, 0x4206, 0x4207
_ptrace = ctypes.CDLL(None, use_errno=True).ptrace
_ptrace.argtypes = (ctypes.c_long, ctypes.c_long, ctypes.c_void_p, ctypes.c_void_p)
_ptrace.restype = ctypes.c_long


def _trace(verb: int, pid: int) -> None:
    if _ptrace(verb, pid, None, None) != 0:
        raise OSError(ctypes.get_errno(), f"ptrace({verb:#x}) of {pid}")


@contextmanager
def _blocked(pid: int) -> Iterator[None]:
    """Hold the first thread of a process, which in a reactor is the loop; ZeroMQ's own threads go on."""
    _trace(PTRACE_SEIZE, pid)
    try:
        _trace(PTRACE_INTERRUPT, pid)
        yield
    finally:
        _trace(PTRACE_DETACH, pid)


def blocked_loops(directory: Path, seed: int, rounds: int) -> Result:
    """A loop that does not turn for twice the dead time, while the process's other threads do."""
    with Stage(directory, seed) as stage:
        for number in range(rounds):
            node = stage.nodes[number % 2]
            agent = stage.agents[node]
            pid, accused = agent.reactor_pid, _accusations(agent)
            stage.fault(f"{'caller' if node == 'a' else 'server'}'s loop blocked for {2 * DEAD_AFTER_S:g} s")
            with _blocked(pid):
                time.sleep(2 * DEAD_AFTER_S)
            stage.recovered()
            assert pid == agent.reactor_pid, f"{agent} was replaced before its watchdog's time\n{agent.tail()}"
            assert accused == _accusations(agent), f"{agent} accuses others after it was blocked\n{agent.tail()}"
            stage.calm()
    return stage.result()


def rolling_restarts(directory: Path, seed: int, rounds: int) -> Result:
    """SIGTERM and a new start of each of five agents in turn."""
    with Stage(directory, seed, nodes=("a", "b", "c", "d", "e")) as stage:
        for _ in range(rounds):
            for node in stage.nodes:
                stage.fault("rolling restart of five agents")
                assert 0 == stage.agents[node].stop(60.0), stage.agents[node].tail()
                stage.restart(node)
                stage.recovered()
    return stage.result()
