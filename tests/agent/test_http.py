"""The HTTP server is bounded in everything, and whoever is slow, silent or wrong costs nobody else."""

import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import gevent
import gevent.socket
import pytest

from mesh.agent.http import HEAD_BYTES_MAX, HTTP_FAILED, HttpServer, Request, Response

pytestmark = pytest.mark.io

WITHIN_S = 30.0
GET = b"GET /a?x=1&x=2 HTTP/1.1\r\nHost: here\r\n\r\n"


def echo(request: Request) -> Response:
    """Say what was asked."""
    if request.path == "/broken":
        raise RuntimeError("a defect")
    if request.path == "/large":
        return Response(b"x" * (32 << 20))
    return Response(f"{request.path} {request.query} {request.headers['Host']}".encode())


class Server:
    """A server on a free port, and what it noted."""

    def __init__(self, connections_max: int, request_s: float) -> None:
        self.noted: list[tuple[Any, ...]] = []
        self.connections: list[Any] = []
        listener = gevent.socket.socket()
        listener.bind(("127.0.0.1", 0))
        listener.listen(64)
        self.address = listener.getsockname()
        self.server = HttpServer(listener, echo, connections_max, request_s, self.note)
        self.server.start()
        listener.close()

    def note(self, name: str, *_: Any, **facts: Any) -> None:
        self.noted.append((name, facts["why"]))

    def connect(self, *sent: bytes) -> Any:
        connection = gevent.socket.create_connection(self.address, timeout=WITHIN_S)
        self.connections.append(connection)
        for data in sent:
            connection.sendall(data)
        return connection

    def get(self, *sent: bytes) -> bytes:
        return read_all(self.connect(*sent))


def read_all(connection: Any) -> bytes:
    whole = b""
    while data := connection.recv(65_536):
        whole += data
    return whole


@contextmanager
def serving(connections_max: int = 8, request_s: float = WITHIN_S) -> Iterator[Server]:
    server = Server(connections_max, request_s)
    try:
        yield server
    finally:
        server.server.stop()
        for connection in server.connections:
            connection.close()


def test_a_request_is_answered_and_the_connection_closed() -> None:
    with serving() as server:
        head, _, body = server.get(GET).partition(b"\r\n\r\n")
    assert b"/a {'x': '2'} here" == body
    lines = head.split(b"\r\n")
    assert b"HTTP/1.1 200 OK" == lines[0]
    assert {b"Content-Length: 18", b"Connection: close", b"Cache-Control: no-store"} < set(lines)


def test_a_request_may_come_in_pieces() -> None:
    with serving() as server:
        connection = server.connect(GET[:10])
        gevent.sleep(0.01)
        connection.sendall(GET[10:])
        assert read_all(connection).startswith(b"HTTP/1.1 200")


def test_only_the_head_is_said_if_only_that_is_wanted() -> None:
    with serving() as server:
        answer = server.get(GET.replace(b"GET", b"HEAD"))
    assert b"Content-Length: 18" in answer
    assert answer.endswith(b"\r\n\r\n")


@pytest.mark.parametrize(
    ("sent", "status"),
    [
        (b"hello\r\n\r\n", 400),
        (b"GET / HTTP/2\r\n\r\n", 400),
        (b"GET http://[ HTTP/1.1\r\n\r\n", 400),
        (b"GET /?" + b"&".join([b"a=1"] * 17) + b" HTTP/1.1\r\n\r\n", 400),
        (b"GET / HTTP/1.1\r\n" + b"a: b\r\n" * 200 + b"\r\n", 400),
        (b"POST / HTTP/1.1\r\nContent-Length: 3\r\n\r\nabc", 405),
        (b"GET / HTTP/1.1\r\na: " + b"x" * HEAD_BYTES_MAX, 431),
    ],
    ids=["no HTTP", "another version", "a bad target", "a long query", "many headers", "POST", "a long head"],
)
def test_what_is_wrong_is_answered_so(sent: bytes, status: int) -> None:
    with serving() as server:
        assert server.get(sent).startswith(b"HTTP/1.1 %d " % status)
        assert server.get(GET).startswith(b"HTTP/1.1 200")


def test_an_answer_that_cannot_be_made_is_noted_once_in_a_while_and_ends_nothing() -> None:
    with serving() as server:
        for _ in range(3):
            assert server.get(b"GET /broken HTTP/1.1\r\n\r\n").startswith(b"HTTP/1.1 500")
        assert server.get(GET).startswith(b"HTTP/1.1 200")
        assert [(HTTP_FAILED, "a defect")] == server.noted


def test_one_connection_too_many_ends_the_oldest() -> None:
    with serving(connections_max=3) as server:
        silent = [server.connect() for _ in range(3)]
        gevent.sleep(0.01)
        assert server.get(GET).startswith(b"HTTP/1.1 200")
        assert b"" == silent[0].recv(1)
        silent[2].sendall(GET)
        assert read_all(silent[2]).startswith(b"HTTP/1.1 200")


def test_who_is_silent_or_does_not_read_is_ended_when_its_time_is_over() -> None:
    with serving(request_s=0.2) as server:
        silent, slow = server.connect(), server.connect(b"GET /large HTTP/1.1\r\n\r\n")
        began = time.monotonic()
        assert b"" == silent.recv(1)
        assert time.monotonic() - began >= 0.1
        with gevent.Timeout(WITHIN_S):
            while server.server.open:
                gevent.sleep(0.01)
        slow.close()
        assert server.get(GET).startswith(b"HTTP/1.1 200")


def test_who_hangs_up_harms_nobody() -> None:
    with serving() as server:
        for sent in (b"", b"GET", GET, b"GET /large HTTP/1.1\r\n\r\n"):
            connection = server.connect(sent)
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
            connection.close()
        assert server.get(GET).startswith(b"HTTP/1.1 200")
        assert [] == server.noted


def test_nobody_is_answered_after_the_end() -> None:
    with serving() as server:
        waiting = server.connect()
        gevent.sleep(0.01)
        server.server.stop()
        assert b"" == waiting.recv(1)
        with pytest.raises(ConnectionRefusedError):
            server.connect()
