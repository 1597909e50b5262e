"""Connections that come in: whose they are, how many may be silent, and that only the meant one ends."""

import os
import socket
import time
from collections.abc import Iterator, Sequence
from contextlib import closing

import gevent
import pytest
import zmq

from mesh.agent.inbound import _Twin
from tests.agent.link_ends import OPTIONS, End, until

pytestmark = pytest.mark.io


@pytest.fixture
def end() -> Iterator[End]:
    """One end, closed with the test."""
    made = End()
    yield made
    made.close()


def knock(end: End) -> socket.socket:
    return socket.create_connection(end.endpoint[:2], timeout=10)


def is_open(connection: socket.socket) -> bool:
    """Whether the other end is still there."""
    connection.setblocking(False)
    try:
        while connection.recv(4096):
            pass
    except BlockingIOError:
        return True
    except ConnectionResetError:
        pass
    return False


def wait_for(told: Sequence[object], count: int) -> None:
    """Return when that many have been told of."""
    until(lambda: len(told) >= count, f"{count} are told of")


def test_the_oldest_of_too_many_silent_connections_is_ended_first(end: End) -> None:
    silent = []
    for _ in range(OPTIONS.inbound_unproven_max + 2):
        silent.append(knock(end))
        until(lambda: len(end.links.inbounds.by_fd) + len(end.evicted) == len(silent), "it is accepted")
    until(lambda: not is_open(silent[0]) and not is_open(silent[1]), "the two oldest are ended")
    assert [True] * OPTIONS.inbound_unproven_max == [is_open(connection) for connection in silent[2:]]
    assert ["inbound_unproven_max"] * 2 == end.evicted
    for connection in silent:
        connection.close()


def test_a_silent_connection_is_ended_after_its_time(end: End) -> None:
    with knock(end) as connection:
        end.tick_until(lambda: not is_open(connection), "it is ended")
    assert 1 == len(end.evicted)
    assert {} == end.links.inbounds.by_fd


def test_who_was_answered_is_never_counted_among_the_silent() -> None:
    with End.pair() as (a, b):
        b.answer = lambda data: data
        for count in range(1, 3 * OPTIONS.inbound_unproven_max):
            a.send(a.reach(b), b"hello")
            wait_for(a.heard, count)
        strangers = [knock(b) for _ in range(2 * OPTIONS.inbound_unproven_max)]
        b.tick_until(lambda: len(b.evicted) == len(strangers), "all strangers are ended")
        assert [] == a.lost == b.lost
        for stranger in strangers:
            stranger.close()


def test_who_spoke_but_was_not_answered_is_ended_when_there_are_too_many() -> None:
    with End.pair() as (a, b):
        for _ in range(OPTIONS.inbound_unproven_max + 2):
            a.send(a.reach(b), b"hello")
            wait_for(b.heard, len(b.heard) + 1)
        wait_for(b.lost, 2)
        assert b.accepted[:2] == [conn for conn, _ in b.lost]


def test_what_follows_on_a_connection_that_was_ended_is_dropped(end: End) -> None:
    with zmq.Context() as context, context.socket(zmq.DEALER) as dealer:
        dealer.setsockopt(zmq.LINGER, 0)
        dealer.setsockopt(zmq.RECONNECT_IVL, -1)
        dealer.connect(f"tcp://{end.endpoint}")
        end.answer = lambda data: end.links.close(end.accepted[-1], 0.0)
        for _ in range(1000):
            dealer.send(b"noise")
        until(lambda: end.heard, "the first is heard")
        gevent.sleep(0.2)
        assert 1 == len(end.accepted) == len(end.heard)


def test_a_message_read_late_is_never_taken_for_one_of_the_next_owner_of_its_descriptor(end: End) -> None:
    with zmq.Context() as context:
        for round_ in range(30):
            for number in range(2):
                dealer = context.socket(zmq.DEALER)
                dealer.connect(f"tcp://{end.endpoint}")
                dealer.send(f"{round_} {number}".encode())
                dealer.close(1000)
                time.sleep(0.005)  # the loop stands still, ZeroMQ's thread does not
            gevent.sleep(0.002)
        end.tick_until(lambda: not end.links.inbounds.by_fd, "all are gone")
    heard = [conn for conn, _ in end.heard]
    assert len(heard) == len(set(heard)), "two connections were taken for one"
    assert set(end.accepted) == {conn for conn, _ in end.lost}


def test_a_descriptor_whose_other_end_is_another_is_left_alone() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener, socket.socket() as here, closing(_Twin()) as twin:
        here.connect(listener.getsockname())
        there, address = listener.accept()
        with there, open(os.devnull, "rb") as file:
            assert address == twin.peer_of(there.fileno())
            assert twin.peer_of(file.fileno()) is None
            twin.shut(file.fileno(), address)
            twin.shut(there.fileno(), ("127.0.0.1", 1))
            assert is_open(here)
            twin.shut(there.fileno(), address)
            until(lambda: not is_open(here), "the meant one is ended")


def read_all(connection: socket.socket) -> None:
    while connection.recv(1 << 20):
        pass


def test_what_ends_without_a_goodbye_is_reset_for_its_end_would_wait_behind_what_is_not_acknowledged() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener, socket.socket() as here, closing(_Twin()) as twin:
        here.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1 << 10)
        here.connect(listener.getsockname())
        there, address = listener.accept()
        with there:
            there.settimeout(0.1)
            with pytest.raises(TimeoutError):
                there.sendall(bytes(64 << 20))
            twin.shut(there.fileno(), address, reset=True)
        with pytest.raises(ConnectionResetError):
            read_all(here)


def test_what_ends_after_its_goodbye_leaves_to_its_last_byte() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener, socket.socket() as here, closing(_Twin()) as twin:
        here.connect(listener.getsockname())
        there, address = listener.accept()
        with there:
            there.sendall(b"goodbye")
            twin.shut(there.fileno(), address)
        assert [b"goodbye", b""] == [here.recv(64), here.recv(64)]
