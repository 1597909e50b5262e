"""Dials: how each way of failing is noticed."""

import socket
import time
from collections.abc import Iterator

import pytest
import zmq
from msgspec.structs import replace

from mesh.types import Endpoint
from tests.agent.link_ends import OPTIONS, End, deaf_listener, until

pytestmark = pytest.mark.io


@pytest.fixture
def end() -> Iterator[End]:
    """One end, closed with the test."""
    made = End()
    yield made
    made.close()


def test_a_refused_dial_is_told_long_before_its_timeout(end: End) -> None:
    with socket.socket() as bound:
        bound.bind(("127.0.0.1", 0))
        begun = time.monotonic()
        conn = end.dial(Endpoint(*bound.getsockname()))
        ((lost, why),) = until(lambda: end.lost, "it is told")
    assert (conn, True) == (lost, why.startswith("dial failed"))
    assert time.monotonic() - begun < OPTIONS.hello_timeout_s


def test_a_dial_that_nobody_answers_is_lost_at_its_timeout(end: End) -> None:
    with deaf_listener() as endpoint:
        begun = time.monotonic()
        end.dial(endpoint)
        until(lambda: end.lost, "it is told")
    assert OPTIONS.hello_timeout_s * 0.9 < time.monotonic() - begun < 10 * OPTIONS.hello_timeout_s


def test_a_dial_to_what_speaks_no_zeromq_is_lost_at_its_timeout(end: End) -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        end.dial(Endpoint(*silent.getsockname()))
        ((_, why),) = until(lambda: end.lost, "it is told")
    assert why.startswith("dial failed: what is there broke off")


@pytest.mark.parametrize("endpoint", [Endpoint("db.example", 7441), Endpoint("1;2", 3)], ids=str)
def test_a_dial_to_what_is_no_address_is_lost_at_once(end: End, endpoint: Endpoint) -> None:
    conn = end.dial(endpoint)
    ((lost, why),) = until(lambda: end.lost, "it is told")
    assert conn == lost
    assert f"cannot dial {endpoint}" in why


def test_a_dial_that_is_closed_before_it_stands_is_told_of_no_more(end: End) -> None:
    with deaf_listener() as endpoint:
        conn = end.dial(endpoint)
        end.links.close(conn, 0.0)
        begun = time.monotonic()
        until(lambda: time.monotonic() - begun > 2 * OPTIONS.hello_timeout_s, "its timeout has passed")
    assert [] == end.lost


def test_an_accepter_that_sends_several_frames_loses_the_connection(end: End) -> None:
    with zmq.Context() as context, context.socket(zmq.ROUTER) as router:
        router.setsockopt(zmq.LINGER, 0)
        port = router.bind_to_random_port("tcp://127.0.0.1")
        conn = end.dial(Endpoint("127.0.0.1", port))
        until(lambda: end.connected, "it stands")
        end.send(conn, b"hello")
        until(lambda: router.poll(0), "it is heard")
        routing_id, _ = router.recv_multipart()
        router.send_multipart([routing_id, b"one", b"two"])
        assert [(conn, "it sent a message of several frames")] == until(lambda: end.lost, "it is told")
        assert [] == end.heard


def test_more_dials_than_sockets_are_lost_and_not_a_defect() -> None:
    end = End(options=replace(OPTIONS, links_max=2))
    try:
        with deaf_listener() as endpoint:
            for _ in range(400):
                end.dial(endpoint)
            until(lambda: any("cannot dial" in why for _, why in end.lost), "one is told")
    finally:
        end.close()
