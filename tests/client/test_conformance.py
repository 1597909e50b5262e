"""What every client does against every agent: both shells run it, and a real agent may take the fake one's place."""

import contextvars
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor, wait
from pathlib import Path
from typing import Any

import pytest

import mesh
from mesh import Message, Reply, rpc
from tests.client.shells import SHELLS, WAITING_FOR_THE_TEST, WITHIN_S, AioFace, Face, Shell

pytestmark = pytest.mark.io

waits_for_the_test = pytest.mark.parametrize("shell", WAITING_FOR_THE_TEST, indirect=True)


@pytest.fixture(params=sorted(SHELLS))
def shell(request: pytest.FixtureRequest) -> Iterator[Shell]:
    """Threads and asyncio, with an agent and in a fleet of `mesh.testing`."""
    made = SHELLS[request.param]()
    yield made
    made.close()


@pytest.fixture
def client(shell: Shell, mesh_socket: Path) -> Face:
    return shell.connect(mesh_socket, "caller")


@pytest.fixture
def server(shell: Shell, mesh_socket: Path) -> Face:
    return shell.connect(mesh_socket, "server")


@pytest.fixture
def topic() -> str:
    return f"topic-{uuid.uuid4().hex[:12]}"


def echo(message: Message) -> bytes:
    return message.body


def saying(body: bytes) -> Callable[[Message], bytes]:
    return lambda _: body


def test_a_call_brings_back_what_the_handler_returned(client: Face, server: Face, topic: str) -> None:
    server.serve(topic, lambda message: message.body.upper())
    reply = client.call(topic, b"hello")
    assert b"HELLO" == reply.body
    assert {} == reply.headers
    assert reply.id is not None
    assert (client.node, client.session) == (reply.id.node, reply.id.session)


def test_a_handler_sees_how_it_was_addressed_and_how_long_it_has(client: Face, server: Face, topic: str) -> None:
    seen: list[tuple[Message, float]] = []
    server.serve(topic, lambda message: seen.append((message, message.remaining_s)), server="one")
    client.call(f"{topic}@one", b"", headers={"a": "b"}, timeout_s=20.0)
    message, remaining_s = seen[0]
    assert (topic, "one", "call", {"a": "b"}) == (message.topic, message.server, message.kind, message.headers)
    assert (client.node, client.session) == (message.id.node, message.id.session)
    assert 0 < remaining_s <= 20.1
    assert not message.cancelled


def test_a_reply_may_have_headers(client: Face, server: Face, topic: str) -> None:
    server.serve(topic, lambda _: Reply(b"x", {"kind": "test"}))
    assert {"kind": "test"} == client.call(topic).headers


def test_a_traced_call_tells_where_its_time_went(client: Face, server: Face, topic: str) -> None:
    ran: list[bytes] = []
    server.serve(topic, lambda message: ran.append(message.body))
    probe = client.trace(topic, b"one")
    assert (b"", []) == (probe.body, ran), "the handler has not run"
    places = [leg.where for leg in probe.legs]
    assert ("caller", "server") == (places[0], places[-1])
    assert all(leg.took_s >= 0 for leg in probe.legs)
    assert () == client.call(topic).legs


def test_a_traced_call_runs_its_handler_where_that_is_asked(client: Face, server: Face, topic: str) -> None:
    server.serve(topic, echo)
    reply = client.trace(topic, b"one", run=True)
    assert b"one" == reply.body
    assert ("server", "until it had answered") == (reply.legs[-1].where, reply.legs[-1].what)


def test_none_is_an_empty_reply(client: Face, server: Face, topic: str) -> None:
    server.serve(topic, lambda _: None)
    assert b"" == client.call(topic).body


def test_what_a_handler_raises_reaches_its_caller_by_type_and_text(client: Face, server: Face, topic: str) -> None:
    def fail(_: Message) -> bytes:
        raise LookupError("no such thing")

    server.serve(topic, fail)
    with pytest.raises(mesh.RemoteError) as raised:
        client.call(topic)
    error = raised.value
    assert ("LookupError", "no such thing", "") == (error.type, error.text, error.traceback)
    assert error.may_have_run
    assert not error.retry_safe
    assert error.where == server.node
    assert error.message_id is not None


def test_the_traceback_goes_along_where_the_server_allows_it(client: Face, server: Face, topic: str) -> None:
    def fail(_: Message) -> bytes:
        raise LookupError("no such thing")

    server.serve(topic, fail, expose_tracebacks=True)
    with pytest.raises(mesh.RemoteError) as raised:
        client.call(topic)
    assert "in fail" in raised.value.traceback


def test_a_text_that_cannot_be_encoded_is_told_all_the_same(client: Face, server: Face, topic: str) -> None:
    def fail(_: Message) -> bytes:
        raise ValueError("bad \ud800" + "x" * 100_000)

    server.serve(topic, fail)
    with pytest.raises(mesh.RemoteError, match="bad"):
        client.call(topic)


def test_a_result_that_is_no_body_is_the_servers_type_error(client: Face, server: Face, topic: str) -> None:
    server.serve(topic, lambda _: "text")
    with pytest.raises(mesh.RemoteError) as raised:
        client.call(topic)
    assert "TypeError" == raised.value.type


def test_nobody_serving_is_unroutable_at_once(client: Face, topic: str) -> None:
    with pytest.raises(mesh.Unroutable) as raised:
        client.call(topic)
    assert not raised.value.may_have_run
    assert raised.value.retry_safe


def test_with_wait_a_call_waits_for_somebody_to_serve(client: Face, server: Face, topic: str) -> None:
    future = client.call_async(topic, b"x", wait=True, timeout_s=3600)  # a fleet's hours pass fast in its own thread
    server.serve(topic, echo)
    assert b"x" == future.result(WITHIN_S).body


def test_waiting_in_vain_is_expired_and_certainly_not_run(client: Face, topic: str) -> None:
    with pytest.raises(mesh.Expired) as raised:
        client.call(topic, wait=True, timeout_s=0.2)
    assert isinstance(raised.value, TimeoutError)
    assert not raised.value.may_have_run


def test_a_handler_that_takes_too_long_is_indeterminate_and_hears_of_it(
    client: Face, server: Face, shell: Shell, topic: str
) -> None:
    seen: list[Message] = []
    told = threading.Event()

    def slow(message: Message) -> None:
        seen.append(message)
        until = time.monotonic() + WITHIN_S
        while not message.cancelled and time.monotonic() < until:
            time.sleep(0.01)
        told.set()

    server.serve(topic, shell.wrap(slow))
    with pytest.raises(mesh.Indeterminate) as raised:
        client.call(topic, timeout_s=0.2)
    assert raised.value.may_have_run
    assert not raised.value.retry_safe
    assert told.wait(WITHIN_S)
    assert seen[0].cancelled


def test_calls_go_round_all_instances(client: Face, shell: Shell, mesh_socket: Path, topic: str) -> None:
    for name in (b"one", b"two", b"three"):
        shell.connect(mesh_socket, "server").serve(topic, saying(name))
    assert {b"one", b"two", b"three"} == {client.call(topic).body for _ in range(3)}


def test_a_server_name_addresses_one_instance(client: Face, shell: Shell, mesh_socket: Path, topic: str) -> None:
    for name in ("one", "two"):
        shell.connect(mesh_socket, "server").serve(topic, saying(name.encode()), server=name)
    assert [b"two"] * 4 == [client.call(f"{topic}@two").body for _ in range(4)]


def test_many_calls_may_be_outstanding_at_once(client: Face, server: Face, topic: str) -> None:
    server.serve(topic, echo)
    bodies = [b"%d" % number for number in range(500)]
    futures = [client.call_async(topic, body) for body in bodies]
    assert bodies == [future.result(WITHIN_S).body for future in futures]


def test_many_threads_may_share_a_client(client: Face, server: Face, topic: str) -> None:
    server.serve(topic, echo)

    def work(number: int) -> bool:
        return all(
            client.call(topic, b"%d %d" % (number, turn)).body == b"%d %d" % (number, turn) for turn in range(20)
        )

    with ThreadPoolExecutor(16) as threads:
        assert all(threads.map(work, range(16)))


def test_a_cast_returns_when_it_is_held_and_is_run_after(client: Face, server: Face, topic: str) -> None:
    came = threading.Event()
    server.serve(topic, lambda _: came.set())
    id = client.cast(topic, b"x")
    assert (client.node, client.session) == (id.node, id.session)
    assert came.wait(WITHIN_S)


def test_a_confirmed_cast_returns_when_it_was_handled(client: Face, server: Face, topic: str) -> None:
    done: list[bytes] = []
    server.serve(topic, lambda message: done.append(message.body))
    client.cast(topic, b"x", confirm=True)
    assert [b"x"] == done


def test_a_cast_whose_handler_raises_has_ended(client: Face, server: Face, topic: str) -> None:
    def fail(_: Message) -> bytes:
        raise ValueError

    server.serve(topic, fail)
    client.cast(topic, confirm=True)


def test_pipelined_casts_are_flushed_and_all_run(client: Face, server: Face, topic: str) -> None:
    done: list[bytes] = []
    complete = threading.Event()

    def take(message: Message) -> None:
        done.append(message.body)
        if len(done) == 2_000:
            complete.set()

    server.serve(topic, take)
    futures = [client.cast_async(topic, b"%d" % number) for number in range(2_000)]
    client.flush()
    wait(futures, WITHIN_S)
    assert [None] * 2_000 == [future.result(0) for future in futures]
    assert complete.wait(WITHIN_S)
    assert {b"%d" % number for number in range(2_000)} == set(done)


def test_a_fanout_reaches_every_instance_and_counts_how_it_ended(
    client: Face, shell: Shell, mesh_socket: Path, topic: str
) -> None:
    def fail(_: Message) -> bytes:
        raise ValueError

    for handler in (echo, echo, fail):
        shell.connect(mesh_socket, "server").serve(topic, handler)
    receipt = client.fanout(topic, b"x", confirm=True)
    assert (3, 2, 1, 0) == (receipt.asked, receipt.finished, receipt.failed, receipt.unknown)
    assert 3 == client.fanout(topic, b"x").asked


def test_a_fanout_to_nobody_is_unroutable(client: Face, topic: str) -> None:
    with pytest.raises(mesh.Unroutable):
        client.fanout(topic)


def test_large_bodies_go_both_ways(client: Face, server: Face, topic: str) -> None:
    server.serve(topic, lambda message: message.body[::-1])
    body = bytes(range(256)) * 12_000
    small = client.call_async(topic, b"ab")
    large = [client.call_async(topic, body) for _ in range(3)]
    assert b"ba" == small.result(WITHIN_S).body
    assert [body[::-1]] * 3 == [future.result(WITHIN_S).body for future in large]


def test_what_cannot_be_sent_is_rejected_before_it_is(client: Face, topic: str) -> None:
    with pytest.raises(mesh.Rejected, match="body_bytes_max"):
        client.call(topic, bytes((64 << 20) + 1))
    with pytest.raises(mesh.Rejected, match="may hold only"):
        client.call("no such/topic!")
    with pytest.raises(mesh.Rejected, match="longer than"):
        client.call(topic, headers={"k": "v" * 20_000})
    with pytest.raises(mesh.Rejected, match="more than 64"):
        client.call(topic, headers={str(number): "" for number in range(65)})
    with pytest.raises(mesh.Rejected, match="the longest for a call"):
        client.call(topic, timeout_s=10**6)
    with pytest.raises(TypeError, match="bytes"):
        client.call(topic, "text")  # type: ignore[arg-type]
    with pytest.raises(mesh.Expired):
        client.call(topic, timeout_s=0)


def test_calls_of_a_handler_inherit_its_deadline_and_headers(
    client: Face, shell: Shell, mesh_socket: Path, topic: str
) -> None:
    inner, outer = shell.connect(mesh_socket, "inner"), shell.connect(mesh_socket, "outer")
    seen: list[tuple[dict[str, str], float]] = []
    inner.serve(f"{topic}-in", lambda message: seen.append((dict(message.headers), message.remaining_s)))

    def handle(_: Message) -> bytes:
        outer.call(f"{topic}-in", timeout_s=60.0)
        outer.call(f"{topic}-in", timeout_s=60.0, headers={"other": "1"})
        return b"done"

    outer.serve(f"{topic}-out", shell.calling(handle))
    assert b"done" == client.call(f"{topic}-out", timeout_s=15.0, headers={"traceparent": "t", "a": "b"}).body
    assert [{"traceparent": "t", "a": "b"}, {"traceparent": "t", "other": "1"}] == [headers for headers, _ in seen]
    assert all(0 < remaining_s <= 15.1 for _, remaining_s in seen)


@waits_for_the_test
def test_workers_bound_how_many_run_at_once(client: Face, server: Face, shell: Shell, topic: str) -> None:
    running: list[int] = []
    most: list[int] = []
    gate = threading.Event()

    def handle(_: Message) -> None:
        running.append(1)
        most.append(len(running))
        if len(running) == 3:
            gate.set()
        gate.wait(WITHIN_S)
        running.pop()

    server.serve(topic, shell.wrap(handle), workers=3)
    futures = [client.call_async(topic) for _ in range(9)]
    for future in futures:
        future.result(WITHIN_S)
    assert 3 == max(most)


def test_a_topic_is_served_once_by_a_client(server: Face, topic: str) -> None:
    server.serve(topic, echo)
    with pytest.raises(mesh.Rejected, match="already"):
        server.serve(topic, echo)


def test_a_topic_that_is_no_longer_served_is_not_routed_to(
    client: Face, shell: Shell, mesh_socket: Path, topic: str
) -> None:
    one, two = shell.connect(mesh_socket, "one"), shell.connect(mesh_socket, "two")
    one.serve(topic, lambda _: b"one")
    two.serve(topic, lambda _: b"two")
    one.unserve(topic)
    assert {b"two"} == {client.call(topic).body for _ in range(4)}
    one.serve(topic, lambda _: b"again")
    assert {b"two", b"again"} == {client.call(topic).body for _ in range(4)}


@waits_for_the_test
def test_closing_finishes_what_is_in_hand(client: Face, server: Face, shell: Shell, topic: str) -> None:
    begun, gate = threading.Event(), threading.Event()

    def handle(message: Message) -> bytes:
        begun.set()
        gate.wait(WITHIN_S)
        return message.body

    server.serve(topic, shell.wrap(handle))
    future = client.call_async(topic, b"x")
    assert begun.wait(WITHIN_S)
    with ThreadPoolExecutor(1) as thread:
        closing = thread.submit(server.close)
        gate.set()
        assert b"x" == future.result(WITHIN_S).body
        closing.result(WITHIN_S)


def test_closing_waits_for_what_was_asked(client: Face, server: Face, shell: Shell, topic: str) -> None:
    done: list[bytes] = []

    def handle(message: Message) -> None:
        time.sleep(0.05)
        done.append(message.body)

    server.serve(topic, shell.wrap(handle), workers=1)
    for number in range(4):
        client.cast(topic, b"%d" % number)
    client.close()
    assert 4 == len(done)


def test_a_closed_client_says_so(client: Face, topic: str) -> None:
    client.close()
    client.close()
    with pytest.raises(mesh.SessionClosed):
        client.call(topic)


@waits_for_the_test
def test_who_waits_while_the_client_closes_is_told(client: Face, server: Face, shell: Shell, topic: str) -> None:
    gate = threading.Event()
    server.serve(topic, shell.wrap(lambda _: gate.wait(WITHIN_S) and None))
    future = client.call_async(topic)
    client.close(0.1)
    gate.set()
    with pytest.raises(mesh.SessionClosed):
        future.result(WITHIN_S)


def test_an_agent_of_another_fleet_is_refused_for_good(shell: Shell, mesh_socket: Path) -> None:
    with pytest.raises(mesh.Rejected, match="fleet"):
        shell.connect(mesh_socket, "app", fleet="another")


def test_the_name_of_an_app_is_refused_as_that(shell: Shell, mesh_socket: Path) -> None:
    with pytest.raises(mesh.Rejected, match="name of an app 'no way' may hold only"):
        shell.connect(mesh_socket, "no way")


def test_namespaces_do_not_see_each_other(client: Face, shell: Shell, mesh_socket: Path, topic: str) -> None:
    other = shell.connect(mesh_socket, "server", namespace="other")
    other.serve(topic, echo)
    with pytest.raises(mesh.Unroutable):
        client.call(topic)
    assert b"x" == shell.connect(mesh_socket, "caller", namespace="other").call(topic, b"x").body


def test_the_agent_answers_questions_about_itself(client: Face) -> None:
    assert client.node == client.query("status")["node"]
    with pytest.raises(mesh.Rejected):
        client.query("no-such-thing")


@waits_for_the_test
def test_cancelling_a_future_tells_the_handler(client: Face, server: Face, shell: Shell, topic: str) -> None:
    begun, told = threading.Event(), threading.Event()

    def handle(message: Message) -> None:
        begun.set()
        until = time.monotonic() + WITHIN_S
        while not message.cancelled and time.monotonic() < until:
            time.sleep(0.01)
        told.set()

    server.serve(topic, shell.wrap(handle))
    future = client.call_async(topic)
    assert begun.wait(WITHIN_S)
    assert future.cancel()
    assert told.wait(WITHIN_S)


def test_typed_methods(client: Face, server: Face, shell: Shell, topic: str) -> None:
    def count(text: str, longest: int = 80) -> dict[str, int]:
        return {word: len(word) for word in text.split() if len(word) <= longest}

    server.serve(topic, rpc.methods(count))
    assert {"to": 2, "be": 2} == shell.rpc_call(client, topic, "count", {"text": "to be"})
    assert {"a": 1} == shell.rpc_call(client, topic, "count", {"text": "a bcd", "longest": 2}, returns=dict[str, int])
    with pytest.raises(mesh.RemoteError, match="Expected `str`") as raised:
        shell.rpc_call(client, topic, "count", {"text": 3})
    assert "TypeError" == raised.value.type
    with pytest.raises(mesh.RemoteError) as raised:
        shell.rpc_call(client, topic, "other", {})
    assert "MethodNotFound" == raised.value.type


def test_handlers_do_not_see_each_others_context(client: Face, server: Face, shell: Shell, topic: str) -> None:
    variable: contextvars.ContextVar[int] = contextvars.ContextVar("variable", default=0)
    server.serve(topic, shell.wrap(lambda _: b"%d" % variable.get()))
    assert b"0" == client.call(topic).body


def test_a_handler_cannot_end_the_client_that_runs_it(client: Face, server: Face, shell: Shell, topic: str) -> None:
    raised: list[BaseException] = []
    own: Any = server.client if isinstance(server, AioFace) else server

    async def end_async(_: Message) -> bytes:
        try:
            await own.close()
        except RuntimeError as error:
            raised.append(error)
        return b"still here"

    def end(_: Message) -> bytes:
        try:
            own.close()
        except RuntimeError as error:
            raised.append(error)
        return b"still here"

    server.serve(topic, end_async if isinstance(server, AioFace) else end)
    assert b"still here" == client.call(topic, timeout_s=30).body
    assert ["a handler cannot end the client that runs it"] == [str(error).split(",")[0] for error in raised]
