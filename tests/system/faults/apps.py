"""Faults of apps: one that sleeps in its handler, one that never reads, ones that die in their handlers."""

import signal
import time
from collections.abc import Callable
from pathlib import Path

from mesh.core.records import Failure, Flag, Kind, Status
from tests.system.agents import Agent, until
from tests.system.faults.load_app import CallOptions, ServeOptions
from tests.system.faults.stage import SETTLED_S, Result, Stage

__all__ = ["deadly_handlers", "deaf_apps", "sleeping_handlers"]

VICTIMS = 40
TIMEOUT_S = 1.5
BODY_BYTES = 64 << 10
UNREAD_BYTES_MAX = 1 << 20

TRUE_ENDS = (Status.INDETERMINATE, Status.EXPIRED, Status.OVERLOADED)
"""How a call may end that nobody answers: it was begun, or not, or met a limit."""

DEATH_EACH = 150
"""Of so many requests one kills its handler."""


def _call_in_vain(agent: Agent, topic: str, body: bytes) -> None:
    """Call an app that does not answer; each call ends once, and truly."""
    with agent.app("victim") as app:
        for number in range(VICTIMS):
            flags = int(Flag.WAIT) | (int(Flag.IDEMPOTENT) if number % 2 else 0)
            app.request(topic, body, kind=Kind.CALL, timeout_s=TIMEOUT_S, flags=flags)
        ends = [app.expect(Failure) for _ in range(VICTIMS)]
    assert list(range(1, VICTIMS + 1)) == sorted(end.seq for end in ends), "each ends once"
    untrue = [end for end in ends if end.status not in TRUE_ENDS]
    assert not untrue, untrue


def sleeping_handlers(directory: Path, seed: int, rounds: int) -> Result:
    """An app whose handlers sleep holds what it has begun, until the callers' time is over, and nobody else."""
    with Stage(directory, seed) as stage:
        stage.bystander("b", ServeOptions(topics=("sleep",), workers=4, sleep_s=600.0))
        for _ in range(rounds):
            stage.fault("a serving app sleeps in its handler")
            _call_in_vain(stage.agents["a"], "sleep", b"victim 0 0")
            stage.recovered()
    return stage.result()


def deaf_apps(directory: Path, seed: int, rounds: int) -> Result:
    """An app that serves and never reads is cut off at ``app_unread_bytes_max``, and nobody else notices."""
    with Stage(directory, seed, agent={"app_unread_bytes_max": UNREAD_BYTES_MAX}) as stage:
        b = stage.agents["b"]
        for number in range(rounds):
            with b.app("deaf") as deaf:
                topic = f"deaf-{number}"
                deaf.serve(topic, "deaf", workers=VICTIMS, prefetch=VICTIMS)
                stage.fault("a serving app never reads")
                _call_in_vain(stage.agents["a"], topic, b"x" * BODY_BYTES)
                stage.recovered()
                until(lambda number=number: len(b.noted("app_malformed")) > number, "it is cut off")  # type: ignore[misc]
                assert deaf.ended()
    return stage.result()


def deadly_handlers(directory: Path, seed: int, rounds: int) -> Result:
    """Requests that kill the first app that handles them; another app takes its place."""
    with Stage(directory, seed, call=CallOptions(mortal_each=DEATH_EACH)) as stage:
        _replace_the_dead(stage, lambda: len(stage.faults) >= rounds)
        stage.caller.process.send_signal(signal.SIGTERM)
        _replace_the_dead(stage, lambda: stage.caller.process.poll() is not None)
    return stage.result()


def _replace_the_dead(stage: Stage, enough: Callable[[], bool]) -> None:
    give_up_at = time.monotonic() + SETTLED_S
    while not enough():
        assert time.monotonic() < give_up_at, f"{len(stage.faults)} deaths in {SETTLED_S} s"
        for node, server in list(stage.servers.items()):
            if server.process.poll() is not None:
                stage.fault("a handler kills its app", allowed=("Indeterminate",))
                stage.start_server(node)
        time.sleep(0.002)
