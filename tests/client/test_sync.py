"""What only the thread client has: callbacks in the reader, signals, and how answers of short handlers are gathered."""

import logging
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

import mesh
from mesh import Message
from mesh.client.api import new_session
from mesh.client.connection import Phase
from mesh.client.engine import Engine
from mesh.client.unheard import Unheard
from mesh.core.records import Failure, Status
from tests.client.scripted import ScriptedAgent
from tests.client.shells import WITHIN_S

pytestmark = pytest.mark.io

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def client(mesh_socket: Path) -> mesh.Client:
    return mesh.connect("both", socket=mesh_socket)


def test_a_callback_may_call_though_it_runs_in_the_reader(client: mesh.Client) -> None:
    with client:
        client.serve("sync-callback", lambda message: message.body)
        bodies: list[bytes] = []
        done = threading.Event()

        def called(_: object) -> None:
            bodies.append(client.call("sync-callback", b"inner").body)
            done.set()

        client.call_async("sync-callback", b"outer").add_done_callback(called)
        assert done.wait(WITHIN_S)
        assert [b"inner"] == bodies


def test_a_client_that_is_stopped_while_it_dials_connects_no_more(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    agent = ScriptedAgent(tmp_path / "agent.sock")
    session = new_session("web", "", "", "here")
    engine = Engine(session, [str(agent.path)], lambda events: None)

    def stopped_meanwhile(path: str) -> None:
        engine.stop()

    monkeypatch.setattr("mesh.client.engine.trust", stopped_meanwhile)
    engine.start()
    until = time.monotonic() + WITHIN_S
    while not engine.is_stopped and time.monotonic() < until:
        time.sleep(0.001)
    assert agent.accept().is_closed()
    assert Phase.CLOSED is session.phase
    assert [] == [record.getMessage() for record in caplog.records if record.levelno >= logging.WARNING]
    agent.close()


def test_serve_decorates(client: mesh.Client) -> None:
    with client:

        @client.serve("sync-decorated", workers=1)
        def handle(message: Message) -> bytes:
            return message.body

        assert b"x" == client.call("sync-decorated", b"x").body
        assert b"y" == handle(Message(b"y", {}, "", "", "call", mesh.types.MessageId("", 1, 1), 0.0))


def test_a_short_answer_is_not_kept_behind_a_handler_that_suddenly_takes_long(client: mesh.Client) -> None:
    with client:
        gate = threading.Event()

        def handle(message: Message) -> bytes:
            if message.body == b"long":
                gate.wait(WITHIN_S)
            return message.body

        client.serve("sync-short", handle, workers=1)
        for _ in range(200):
            client.call("sync-short", b"short")
        calls = [client.call_async("sync-short", body, idempotent=True) for body in (b"1", b"2", b"long", b"4")]
        assert [b"1", b"2"] == [call.result(WITHIN_S).body for call in calls[:2]]
        gate.set()
        assert [b"long", b"4"] == [call.result(WITHIN_S).body for call in calls[2:]]


def test_a_stuck_handler_gets_company(client: mesh.Client) -> None:
    with client:
        gate = threading.Event()

        def handle(message: Message) -> bytes:
            if message.body == b"stuck":
                gate.wait(WITHIN_S)
            return message.body

        client.serve("sync-stuck", handle, workers=4)
        for _ in range(200):
            client.call("sync-stuck", b"short")
        stuck = client.call_async("sync-stuck", b"stuck")
        assert b"free" == client.call("sync-stuck", b"free").body
        gate.set()
        assert b"stuck" == stuck.result(WITHIN_S).body


@pytest.mark.system
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_run_ends_in_good_order_on_a_signal(mesh_socket: Path, number: int) -> None:
    program = """if True:
        import os, sys, threading, mesh
        client = mesh.connect("runner", socket=sys.argv[1])
        client.serve("sync-run", lambda message: message.body)
        threading.Timer(0.3, os.kill, (os.getpid(), int(sys.argv[2]))).start()
        client.run()
        print("closed")
    """
    done = subprocess.run(
        [sys.executable, "-c", program, str(mesh_socket), str(int(number))],
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=WITHIN_S,
        check=False,
    )
    assert ("closed\n", "", 0) == (done.stdout, done.stderr, done.returncode)


def test_failures_that_nobody_waits_for_are_told_at_most_once_a_second(caplog: pytest.LogCaptureFixture) -> None:
    unheard = Unheard()
    with caplog.at_level(logging.WARNING, "mesh"):
        for tenth in range(25):
            unheard.note(Failure("n", 1, tenth, int(Status.EXPIRED), "late"), 100 + tenth / 10)
    assert [1, 10, 10] == [int(record.getMessage().split()[0]) for record in caplog.records]


def test_an_interrupted_wait_gives_its_call_up(mesh_socket: Path) -> None:
    """KeyboardInterrupt in the thread that reads loses nothing for the others."""
    with mesh.connect("both", socket=mesh_socket) as client:

        def handle(message: Message) -> bytes:
            time.sleep(0.3)
            return message.body

        client.serve("sync-interrupted", handle)
        timer = threading.Timer(0.1, lambda: os.kill(os.getpid(), signal.SIGINT))
        timer.start()
        with pytest.raises(KeyboardInterrupt):
            client.call("sync-interrupted")
        timer.join()
        assert b"x" == client.call("sync-interrupted", b"x").body


class InterruptedOnce(dict[str, int]):
    """A dict whose first change is followed at once by Ctrl-C."""

    is_due = True

    def setdefault(self, key: str, default: int = 0, /) -> int:
        value = super().setdefault(key, default)
        if self.is_due:
            self.is_due = False
            raise KeyboardInterrupt
        return value


def test_an_interrupt_as_a_thread_becomes_the_reader_leaves_the_role_to_others(mesh_socket: Path) -> None:
    with mesh.connect("interrupted", socket=mesh_socket) as client:
        engine = client._desk.engine
        assert isinstance(engine, Engine)
        role = engine._role = InterruptedOnce()
        with pytest.raises(KeyboardInterrupt):
            engine._lead(lambda: True, float("inf"))
        assert {} == role
        assert client.node == client.query("status")["node"]
