"""Links over real sockets: what crosses them, what a lost wake-up costs, how all of it ends."""

import os
import time

import gevent
import pytest

from tests.agent.link_ends import End, until

pytestmark = pytest.mark.io


@pytest.mark.parametrize("host", ["127.0.0.1", "::1"])
def test_a_link_carries_messages_both_ways(host: str) -> None:
    with End.pair(host=host) as (a, b):
        b.answer = lambda data: data[::-1]
        conn = a.reach(b)
        a.send(conn, b"abc")
        assert (conn, b"cba") == until(lambda: a.heard, "the answer")[0]
        assert [(b.accepted[0], b"abc")] == b.heard


def test_no_message_is_stuck_though_no_tick_ever_looks() -> None:
    with End.pair() as (a, b):
        b.answer = lambda data: data
        a.answer = lambda data: str(int(data) - 1).encode() if int(data) else None
        conns = [a.reach(b) for _ in range(3)]
        for conn in conns:
            a.send(conn, b"2000")
        until(lambda: 3 * 2001 == len(a.heard), "every answer has come")


def test_a_message_whose_wake_up_was_lost_is_found_by_the_next_tick() -> None:
    with End.pair() as (a, b):
        conn = a.reach(b)
        a.send(conn, b"hello")
        until(lambda: b.heard, "the link stands")
        for watcher in (*b.links.inbounds.watchers, *(dial.watcher for dial in a.links.dials.dials.values())):
            watcher.stop()
        a.links.send(conn, b"lost")
        b.links.send(b.accepted[0], b"lost too")
        gevent.sleep(0.1)
        assert [b"hello"] == [data for _, data in b.heard]
        b.tick_until(lambda: len(b.heard) == 2, "b finds it")
        a.tick_until(lambda: a.heard, "a finds it")


def test_a_send_to_nobody_is_nothing() -> None:
    with End.pair() as (a, _):
        a.send(4711, b"x")
        a.links.close(4711, 1.0)
        gevent.sleep(0.01)
        assert [] == a.lost


def test_both_ends_are_told_when_one_closes() -> None:
    with End.pair() as (a, b):
        first, second = a.reach(b), a.reach(b)
        for conn in (first, second):
            a.send(conn, b"hello")
        until(lambda: len(b.heard) == 2, "both are known")
        a.links.close(first, 0.0)
        b.links.close(b.accepted[1], 0.0)
        assert [(b.accepted[0], "connection lost")] == until(lambda: b.lost, "b is told")
        assert [(second, "connection lost")] == until(lambda: a.lost, "a is told")


@pytest.mark.parametrize("closer", ["dialler", "accepter"])
def test_what_was_sent_last_arrives_before_a_connection_with_linger_ends(closer: str) -> None:
    with End.pair() as (a, b):
        conn = a.reach(b)
        a.send(conn, b"hello")
        until(lambda: b.heard, "the link stands")
        here, there, number = (a, b, conn) if closer == "dialler" else (b, a, b.accepted[0])
        here.send(number, b"last words")
        here.links.close(number, 0.2)
        here.send(number, b"too late")
        here.tick_until(lambda: there.lost, "the other end is told")
        assert b"last words" == there.heard[-1][1]
        assert [] == here.lost


def test_connections_that_come_and_go_leave_no_descriptor_behind() -> None:
    with End.pair() as (a, b):

        def cycle() -> None:
            conn = a.reach(b)
            a.send(conn, b"hello")
            count = len(b.heard) + 1
            until(lambda: len(b.heard) == count, "it is heard")
            a.links.close(conn, 0.1)
            until(lambda: len(b.lost) == count, "it is gone")

        cycle()
        gevent.sleep(0.2)
        before = len(os.listdir("/proc/self/fd"))
        for _ in range(200):
            cycle()
        until(lambda: len(os.listdir("/proc/self/fd")) <= before, "all descriptors are given back")
        inbounds = b.links.inbounds
        assert not inbounds.by_fd
        assert not inbounds.by_conn
        assert not inbounds.conns


def test_the_end_does_not_wait_for_a_peer_that_does_not_read() -> None:
    a, b = End(), End()
    conn = a.reach(b)
    for watcher in b.links.inbounds.watchers:
        watcher.stop()
    for _ in range(64):
        a.links.send(conn, b"x" * (1 << 20))
    begun = time.monotonic()
    linger_s = 0.2
    a.links.close_all(linger_s)
    assert time.monotonic() - begun < 20 * linger_s
    a.listeners[0].close()
    b.close()
