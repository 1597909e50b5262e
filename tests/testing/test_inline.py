"""The client for threads in a fleet: handlers in the thread that waits, futures that make things happen."""

import concurrent.futures
from concurrent.futures import ThreadPoolExecutor

import pytest

import mesh
from mesh import Message
from mesh.testing import Fleet
from mesh.testing.fixtures import fleet

__all__ = ["fleet"]


def test_a_handler_may_call_others_and_take_time(fleet: Fleet) -> None:
    inner, outer = fleet.connect("inner"), fleet.connect("outer")

    @inner.serve("in")
    def handle_in(message: Message) -> bytes:
        fleet.sleep(2.0)
        return message.body + b" in"

    @outer.serve("out")
    def handle_out(message: Message) -> bytes:
        return outer.call("in", message.body).body + b" out"

    assert b"x in out" == fleet.connect("web").call("out", b"x").body
    assert 3.0 < fleet.now < 3.1


def test_a_handler_that_takes_longer_than_its_caller_waits_hears_of_it(fleet: Fleet) -> None:
    seen: list[tuple[bool, float]] = []

    def slow(message: Message) -> None:
        fleet.sleep(2.0)
        seen.append((message.cancelled, round(message.remaining_s, 1)))

    fleet.connect("server").serve("slow", slow)
    with pytest.raises(mesh.Indeterminate, match="within its time"):
        fleet.connect("web").call("slow", timeout_s=1.0)
    fleet.sleep(2.0)
    assert [(True, -1.0)] == seen


def test_workers_bound_how_many_run_on_top_of_each_other(fleet: Fleet) -> None:
    running: list[int] = []
    most: list[int] = []

    def handle(_: Message) -> None:
        running.append(1)
        most.append(len(running))
        fleet.sleep(0.1)
        running.pop()

    fleet.connect("server").serve("work", handle, workers=3)
    client = fleet.connect("web")
    futures = [client.call_async("work") for _ in range(9)]
    assert [b""] * 9 == [future.result().body for future in futures]
    assert max(most) <= 3


def test_asking_a_future_lets_time_go_on(fleet: Fleet) -> None:
    client = fleet.connect("web")
    future = client.call_async("words", wait=True, timeout_s=5.0)
    with pytest.raises(concurrent.futures.TimeoutError):
        future.result(1.0)
    assert 2.0 <= fleet.now < 2.1
    assert isinstance(future.exception(), mesh.Expired)
    other = client.call_async("words", b"x", wait=True)
    fleet.connect("server").serve("words", lambda message: message.body)
    assert b"x" == other.result().body


def test_what_is_no_exception_ends_the_test_and_not_the_call(fleet: Fleet) -> None:
    def interrupt(_: Message) -> None:
        raise KeyboardInterrupt

    fleet.connect("server").serve("words", interrupt)
    client = fleet.connect("web")
    with pytest.raises(KeyboardInterrupt):
        client.call("words")
    with pytest.raises(KeyboardInterrupt):
        client.call("words")


def test_an_error_of_a_handler_is_an_outcome_under_test_and_is_kept(fleet: Fleet) -> None:
    def fail(_: Message) -> None:
        raise LookupError("no such word")

    fleet.connect("server").serve("words", fail)
    client = fleet.connect("web")
    client.cast("words")
    with pytest.raises(mesh.RemoteError):
        client.call("words")
    assert [["no such word"]] * 2 == [[str(error) for error in sent.errors] for sent in fleet.sent]
    assert [True, True] == [sent.ended for sent in fleet.sent]


@pytest.mark.parametrize("grouped", [False, True])
def test_a_handlers_assertion_fails_the_test_at_its_end_unless_it_was_taken_out(fleet: Fleet, grouped: bool) -> None:
    failed = AssertionError("two is not three")

    def check(_: Message) -> None:
        raise BaseExceptionGroup("", [failed]) if grouped else failed

    fleet.connect("server").serve("words", check)
    fleet.connect("web").cast("words")
    with pytest.raises((AssertionError, BaseExceptionGroup)) as caught:
        fleet.close()
    assert fleet.sent[0].errors == [caught.value]
    assert ["raised by a handler of 'words', for a cast of 'web'"] == [
        note.partition(";")[0] for note in caught.value.__notes__
    ]
    with Fleet() as other:
        other.connect("server").serve("words", check)
        other.connect("web").cast("words")
        other.sent[0].errors.clear()


def test_threads_may_share_a_client(fleet: Fleet) -> None:
    fleet.connect("server").serve("words", lambda message: message.body)
    client = fleet.connect("web")
    with ThreadPoolExecutor(8) as threads:
        bodies = [b"%d" % number for number in range(200)]
        assert bodies == [reply.body for reply in threads.map(lambda body: client.call("words", body), bodies)]
    assert 200 == len(fleet.sent)


def test_a_topic_is_left_in_order(fleet: Fleet) -> None:
    server, client = fleet.connect("server"), fleet.connect("web")
    server.serve("words", lambda message: message.body)
    server.unserve("words")
    with pytest.raises(mesh.Unroutable):
        client.call("words")
    server.close()
    client.close()
