"""Both shells when the agent dies, drains, is mute, is full, or is not there, played by a scripted agent."""

import contextlib
import errno
import socket
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor, wait
from pathlib import Path
from typing import Any

import pytest

import mesh
from mesh.core.records import (
    Accepted,
    Answer,
    Ask,
    Cancel,
    Flag,
    Goodbye,
    Reach,
    Refuse,
    RefuseReason,
    Reply,
    Request,
    Serve,
    Serving,
    Settled,
    Verdict,
)
from tests.client.scripted import Conn, ScriptedAgent
from tests.client.shells import WITHIN_S, Face, Shell

pytestmark = pytest.mark.io

Connected = tuple[Face, Conn]


class Scene:
    """An agent, a shell, and a thread to connect in."""

    def __init__(self, shell: Shell, path: Path) -> None:
        self.shell = shell
        self.path = path
        self.agent = ScriptedAgent(path)
        self.threads = ThreadPoolExecutor(16)

    def begin(self, verb: Callable[..., Any], *arguments: Any, **options: Any) -> "Future[Any]":
        return self.threads.submit(verb, *arguments, **options)

    def connect(self, limits: dict[str, Any] | None = None, **options: Any) -> Connected:
        connecting = self.begin(self.shell.connect, self.path, **options)
        conn, _ = self.agent.welcome(**(limits or {}))
        return connecting.result(WITHIN_S), conn

    def restart(self) -> None:
        """The agent is killed and its successor listens."""
        self.agent.close()
        self.agent = ScriptedAgent(self.path)


@pytest.fixture
def scene(shell: Shell, tmp_path: Path) -> Iterator[Scene]:
    made = Scene(shell, tmp_path / "agent.sock")
    yield made
    made.agent.close()
    made.threads.shutdown(cancel_futures=True)


def answer(conn: Conn, request: Request, hello_session: int, body: bytes = b"done") -> None:
    conn.say(Reply("scripted", hello_session, request.seq, body))


def test_a_call_outlives_its_agent(scene: Scene) -> None:
    client, conn = scene.connect()
    call = client.call_async("topic", b"x")
    request = conn.hear(Request)
    conn.say(Reach("far", 9))
    scene.restart()
    conn, hello = scene.agent.welcome(incarnation=2)
    assert (client.session, 2) == (hello.session, hello.connection)
    assert Reach("far", 9) == conn.hear()
    again = conn.hear()
    assert (request.seq, b"x", Flag.RESUMED) == (again.seq, again.body, again.flags)
    answer(conn, again, client.session)
    assert b"done" == call.result(WITHIN_S).body


def test_what_the_agent_said_last_counts_though_the_connection_was_reset(scene: Scene) -> None:
    client, conn = scene.connect()
    one = client.call_async("topic", b"1")
    request = conn.hear(Request)
    two = client.call_async("topic", b"x" * 300_000)
    answer(conn, request, client.session, b"last words")
    conn.say(Reach("far", 9))
    scene.restart()
    conn, _ = scene.agent.welcome(incarnation=2)
    assert b"last words" == one.result(WITHIN_S).body
    assert Reach("far", 9) == conn.hear()
    assert two.cancel()


def test_an_accepted_cast_is_replayed_until_it_is_settled(scene: Scene) -> None:
    client, conn = scene.connect()
    casting = scene.begin(client.cast, "topic", b"x")
    request = conn.hear(Request)
    conn.say(Accepted([(request.seq, request.seq)]))
    casting.result(WITHIN_S)
    scene.restart()
    conn, _ = scene.agent.welcome(incarnation=2)
    assert (request.seq, Flag.RESUMED) == ((again := conn.hear(Request)).seq, again.flags)
    conn.say(Settled("scripted", client.session, [(request.seq, request.seq)]))
    scene.restart()
    conn, _ = scene.agent.welcome(incarnation=3)
    other = client.call_async("topic", b"next")
    assert b"next" == conn.hear(Request).body
    assert other.cancel()


def test_what_is_served_is_served_again_and_answers_are_kept(scene: Scene) -> None:
    client, conn = scene.connect()
    ran: list[bytes] = []

    def handle(message: mesh.Message) -> bytes:
        ran.append(message.body)
        return b"answer"

    serving = scene.begin(client.serve, "topic", handle, server="one", workers=2, prefetch=3)
    assert Serve("topic", "one", 2, 3) == conn.hear()
    conn.say(Serving("topic", "one", True))
    serving.result(WITHIN_S)
    request = Request(0, 4, "topic", "", 60_000, b"x", node="far", session=5)
    conn.say(request)
    assert Reply("far", 5, 4, b"answer") == conn.hear()
    scene.restart()
    conn, _ = scene.agent.welcome(incarnation=2)
    assert Serve("topic", "one", 2, 3) == conn.hear()
    assert Reply("far", 5, 4, b"answer") == conn.hear()
    conn.say(request, Ask("far", 1, 1, client.session, 1, [(5, 4), (5, 6)]))
    assert Reply("far", 5, 4, b"answer") == conn.hear()
    verdicts = [int(Verdict.RUNNING), int(Verdict.NEVER)]
    assert Answer("far", 1, 1, client.session, [(5, 4), (5, 6)], verdicts) == conn.hear()
    assert Reply("far", 5, 4, b"answer") == conn.hear()
    assert [b"x"] == ran


def test_a_draining_agent_is_given_nothing_new(scene: Scene) -> None:
    client, conn = scene.connect()
    seen = client.call_async("topic", b"seen")
    first = conn.hear(Request)
    conn.say(Goodbye("draining"))
    answer(conn, first, client.session)
    assert b"done" == seen.result(WITHIN_S).body
    kept = client.call_async("topic", b"kept")
    scene.restart()
    conn, _ = scene.agent.welcome(incarnation=2)
    request = conn.hear(Request)
    assert (b"kept", 0) == (request.body, request.flags)
    answer(conn, request, client.session)
    assert b"done" == kept.result(WITHIN_S).body


def test_a_mute_agent_is_left(scene: Scene) -> None:
    client, conn = scene.connect({"heartbeat_ms": 50})
    conn.is_mute = True
    call = client.call_async("topic", b"x", timeout_s=WITHIN_S)
    assert conn.is_closed()
    conn, hello = scene.agent.welcome()
    assert 2 == hello.connection
    answer(conn, conn.hear(Request), client.session)
    assert b"done" == call.result(WITHIN_S).body


@pytest.mark.parametrize("garbage", [b"\xff\xff\xff\xff", b"\x02\0\0\0\xc1\xc1", b"\x04\0\0\0\x92\x07\x91\xc0"])
def test_an_agent_that_breaks_the_protocol_is_left(scene: Scene, garbage: bytes) -> None:
    client, conn = scene.connect()
    call = client.call_async("topic", b"x")
    conn.hear(Request)
    conn.sock.sendall(garbage)
    assert conn.is_closed()
    conn, _ = scene.agent.welcome()
    answer(conn, conn.hear(Request), client.session)
    assert b"done" == call.result(WITHIN_S).body


def test_connecting_to_nobody_names_the_socket_and_what_to_do(shell: Shell, tmp_path: Path) -> None:
    path = tmp_path / "nobody.sock"
    with pytest.raises(mesh.AgentUnavailable, match="mesh agent") as raised:
        shell.connect(path, connect_timeout_s=0.1)
    assert str(path) in str(raised.value)
    assert isinstance(raised.value, ConnectionError)


@pytest.mark.parametrize("reason", [RefuseReason.PROTOCOL, RefuseReason.SECURITY])
def test_a_final_refusal_is_raised_by_connect(scene: Scene, reason: RefuseReason) -> None:
    connecting = scene.begin(scene.shell.connect, scene.path)
    scene.agent.accept().say(Refuse(int(reason), "not you"))
    with pytest.raises(mesh.ProtocolError if reason == RefuseReason.PROTOCOL else mesh.Rejected, match="not you"):
        connecting.result(WITHIN_S)


def test_a_call_ends_when_the_next_agent_refuses_its_app_for_good(scene: Scene) -> None:
    client, conn = scene.connect()
    call = client.call_async("topic", b"x", timeout_s=600.0)
    conn.hear(Request)
    scene.restart()
    scene.agent.accept().say(Refuse(int(RefuseReason.FLEET), "of another fleet"))
    with pytest.raises(mesh.Indeterminate, match="refused this app: of another fleet"):
        call.result(WITHIN_S)


def test_a_refusal_for_now_is_tried_again(scene: Scene) -> None:
    connecting = scene.begin(scene.shell.connect, scene.path)
    conn = scene.agent.accept()
    conn.say(Refuse(int(RefuseReason.DRAINING), "draining", retry_after_ms=1))
    assert conn.is_closed()
    scene.agent.welcome()
    connecting.result(WITHIN_S)


def test_while_there_is_no_agent_a_call_waits_and_then_says_so(scene: Scene) -> None:
    client, _ = scene.connect()
    scene.agent.close()
    with contextlib.suppress(mesh.AgentUnavailable, mesh.Indeterminate):  # the loss may not have been noticed before
        client.call("topic", timeout_s=0.1)
    with pytest.raises(mesh.AgentUnavailable, match=r"agent\.sock") as raised:
        client.call("topic", timeout_s=0.2)
    assert not raised.value.may_have_run
    with pytest.raises(mesh.AgentUnavailable):
        client.cast("topic", timeout_s=0.2)
    with pytest.raises(mesh.AgentUnavailable):
        client.query("status", timeout_s=0.2)
    casting = client.cast_async("topic")
    with pytest.raises(TimeoutError):
        client.flush(0.2)
    assert casting.cancel()


def test_a_call_that_the_lost_agent_saw_is_indeterminate(scene: Scene) -> None:
    client, conn = scene.connect()
    call = client.call_async("topic", timeout_s=0.3)
    conn.hear(Request)
    scene.agent.close()
    with pytest.raises(mesh.Indeterminate):
        call.result(WITHIN_S)


def test_an_agent_that_says_nothing_of_a_call_is_told_that_it_was_given_up(scene: Scene) -> None:
    client, conn = scene.connect()
    call = scene.begin(client.call, "topic", timeout_s=0.2)
    request = conn.hear(Request)
    with pytest.raises(mesh.Indeterminate):
        call.result(WITHIN_S)
    assert Cancel("scripted", client.session, request.seq) == conn.hear()


def test_a_cast_that_is_not_accepted_in_time_is_given_up(scene: Scene) -> None:
    client, conn = scene.connect()
    casting = scene.begin(client.cast, "topic", timeout_s=0.1)
    request = conn.hear(Request)
    with pytest.raises(mesh.Indeterminate):
        casting.result(WITHIN_S)
    assert Cancel("scripted", client.session, request.seq) == conn.hear()


def test_a_request_waits_for_room_within_its_time(scene: Scene) -> None:
    client, conn = scene.connect({"outstanding_records": 1})
    first = client.call_async("topic", b"1")
    request = conn.hear(Request)
    second = scene.begin(client.call, "topic", b"2")
    with pytest.raises(mesh.Overloaded) as raised:
        client.call("topic", b"3", timeout_s=0.2)
    assert "outstanding_records" == raised.value.limit
    answer(conn, request, client.session)
    first.result(WITHIN_S)
    answer(conn, conn.hear(Request), client.session)
    assert b"done" == second.result(WITHIN_S).body


def test_without_waiting_for_room_a_request_is_overloaded_at_once(scene: Scene) -> None:
    client, conn = scene.connect({"outstanding_records": 1}, wait_for_room=False)
    first = client.call_async("topic", b"1")
    conn.hear(Request)
    with pytest.raises(mesh.Overloaded):
        client.call("topic", b"2")
    assert first.cancel()


def test_a_full_backlog_is_tried_again(shell: Shell, tmp_path: Path) -> None:
    agent = ScriptedAgent(tmp_path / "agent.sock", backlog=0)
    blockers = [socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) for _ in range(8)]
    errors = []
    for blocker in blockers:
        blocker.setblocking(False)
        errors.append(blocker.connect_ex(str(agent.path)))
    assert errno.EAGAIN == errors[-1]
    with ThreadPoolExecutor(1) as thread:
        connecting = thread.submit(shell.connect, agent.path)
        for _ in range(errors.count(0)):
            agent.accept()
        agent.welcome()
        connecting.result(WITHIN_S)
    for blocker in blockers:
        blocker.close()
    agent.close()


def test_a_refused_topic_is_rejected(scene: Scene) -> None:
    client, conn = scene.connect()
    serving = scene.begin(client.serve, "topic", lambda _: b"")
    served = conn.hear(Serve)
    conn.say(Serving("topic", served.server, False, "not yours"))
    with pytest.raises(mesh.Rejected, match="not yours"):
        serving.result(WITHIN_S)
    serving = scene.begin(client.serve, "topic", lambda _: b"")
    conn.say(Serving("topic", conn.hear(Serve).server, True))
    serving.result(WITHIN_S)


def test_a_topic_of_which_the_agent_says_nothing_is_not_served(scene: Scene) -> None:
    client, _ = scene.connect()
    with pytest.raises(mesh.AgentUnavailable):
        client.serve("topic", lambda _: b"", timeout_s=0.1)


def test_closing_with_no_agent_does_not_hang(scene: Scene) -> None:
    client, conn = scene.connect()
    serving = scene.begin(client.serve, "topic", lambda _: b"")
    conn.say(Serving("topic", conn.hear(Serve).server, True))
    serving.result(WITHIN_S)
    scene.agent.close()
    client.close(0.2)


def test_closing_says_goodbye_and_waits_for_the_answer(scene: Scene) -> None:
    client, conn = scene.connect()
    closing = scene.begin(client.close)
    assert Goodbye() == conn.hear()
    assert not wait([closing], 0.1).done
    conn.say(Goodbye("answer"))
    closing.result(WITHIN_S)
    assert conn.is_closed()


def test_a_slow_reader_stops_nobody(scene: Scene) -> None:
    client, conn = scene.connect({"heartbeat_ms": 60_000})
    futures = [client.call_async("topic", b"x" * 60_000, timeout_s=WITHIN_S) for _ in range(50)]
    taken = [conn.hear(Request) for _ in range(50)]
    for request in taken:
        answer(conn, request, client.session)
    assert 50 == sum(future.result(WITHIN_S).body == b"done" for future in futures)


def test_many_threads_outlive_the_agent(scene: Scene) -> None:
    client, conn = scene.connect()
    calls = [scene.begin(client.call, "topic", b"%d" % number, timeout_s=WITHIN_S) for number in range(8)]
    for _ in range(8):
        conn.hear(Request)
    scene.restart()
    conn, _ = scene.agent.welcome(incarnation=2)
    ended = threading.Event()

    def serve() -> None:
        for _ in range(8):
            request = conn.hear(Request)
            answer(conn, request, client.session, request.body)
        ended.set()

    scene.begin(serve)
    assert [b"%d" % number for number in range(8)] == [call.result(WITHIN_S).body for call in calls]
    assert ended.wait(WITHIN_S)
