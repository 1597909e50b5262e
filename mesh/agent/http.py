"""A small HTTP server on the reactor's loop, for a few readers: one GET or HEAD each connection, then it closes.

Everything is bounded: how many connections there are (one more ends the oldest), how long each may take in all, and how
long a request may be. So who is slow, or says nothing, costs nobody else; and what goes wrong here never ends the
reactor, for it knows nothing that the node depends on.
"""

import contextlib
import io
import socket
import time
from collections import OrderedDict
from collections.abc import Callable, Mapping
from email.message import Message
from http import HTTPStatus
from http.client import HTTPException, parse_headers
from typing import Any, NamedTuple
from urllib.parse import parse_qsl, urlsplit

import gevent
import gevent.socket
from msgspec import Struct, field

from mesh.core.effects import Level

__all__ = ["HTTP_FAILED", "HttpServer", "Request", "Response"]

HTTP_FAILED = "http_failed"

HEAD_BYTES_MAX = 16_384
"""The request line and all headers."""

ACCEPT_PAUSE_S = 0.5
"""How long it is not accepted after that failed, as without descriptors."""

FAILED_NOTES_S = 10.0
"""How often it is noted, at most, that no answer could be made."""


class Request(NamedTuple):
    """What was asked. ``query``: the last value of each name."""

    path: str
    query: Mapping[str, str]
    headers: Message


class Response(Struct, frozen=True):
    """What is answered: a status, the body and its type, and further headers."""

    body: bytes
    kind: str = "text/plain; charset=utf-8"
    status: HTTPStatus = HTTPStatus.OK
    headers: dict[str, str] = field(default_factory=dict)


class _Unreadable(Exception):
    """The request cannot be understood; with the status that says so."""

    def __init__(self, status: HTTPStatus, why: str) -> None:
        super().__init__(why)
        self.response = Response(f"{why}\n".encode(), status=status)


class HttpServer:
    """Answers what comes to a listener. ``answer`` makes each response at once, without waiting."""

    def __init__(
        self,
        listener: socket.socket,
        answer: Callable[[Request], Response],
        connections_max: int,
        request_s: float,
        note: Callable[..., None],
    ) -> None:
        self.listener = gevent.socket.socket(fileno=socket.dup(listener.fileno()))
        self.answer = answer
        self.connections_max = connections_max
        self.request_s = request_s
        self.note = note
        self.noted_at = -FAILED_NOTES_S
        self.open: OrderedDict[gevent.Greenlet, Any] = OrderedDict()
        self.acceptor: Any = None

    def start(self) -> None:
        """Begin to accept."""
        self.acceptor = gevent.spawn(self._accept)

    def stop(self) -> None:
        """Accept nobody more, and end all connections."""
        self.acceptor.kill(block=False)
        self.listener.close()
        while self.open:
            self._end_oldest()

    def _end_oldest(self) -> None:
        greenlet, connection = self.open.popitem(last=False)
        greenlet.kill(block=False)  # which does nothing to one that did not run yet
        connection.close()

    def _accept(self) -> None:
        while True:
            try:
                connection, _ = self.listener.accept()
            except OSError:  # it was reset meanwhile, or there is no descriptor left
                gevent.sleep(ACCEPT_PAUSE_S)
                continue
            if len(self.open) >= self.connections_max:
                self._end_oldest()
            greenlet = gevent.Greenlet(self._serve, connection)
            self.open[greenlet] = connection
            greenlet.link(lambda ended: self.open.pop(ended, None))
            greenlet.start()
            gevent.sleep(0)  # a flood of them comes one at each turn of the loop

    def _serve(self, connection: Any) -> None:
        with connection, contextlib.suppress(OSError), gevent.Timeout(self.request_s, exception=False):
            try:
                head = _read_head(connection)
                if not head:
                    return
                request, is_head = _understand(head)
                response = self._answer(request)
            except _Unreadable as error:
                response, is_head = error.response, False
            connection.sendall(_encode(response, is_head))
            connection.shutdown(socket.SHUT_WR)
            while connection.recv(4096):  # closing on what is unread would take the answer back
                pass

    def _answer(self, request: Request) -> Response:
        try:
            return self.answer(request)
        except Exception as error:  # noqa: BLE001 - a page that cannot be made is no reason to end an agent
            if time.monotonic() - self.noted_at >= FAILED_NOTES_S:
                self.noted_at = time.monotonic()
                self.note(HTTP_FAILED, Level.ERROR, path=request.path[:200], why=str(error)[:500], exc_info=error)
            return Response(b"this could not be made; the agent's log says why\n", status=HTTPStatus(500))


def _read_head(connection: Any) -> bytes:
    """Return a request's line and headers, or nothing if the other end closed before."""
    head = bytearray()
    while b"\r\n\r\n" not in head:
        data = connection.recv(4096)
        if not data:
            return b""
        head += data
        if len(head) > HEAD_BYTES_MAX:
            raise _Unreadable(
                HTTPStatus.REQUEST_HEADER_FIELDS_TOO_LARGE, f"a request's head may have {HEAD_BYTES_MAX} bytes"
            )
    return bytes(head)


def _understand(head: bytes) -> tuple[Request, bool]:
    """Return a request, and whether only its head is wanted."""
    line, _, rest = head.partition(b"\r\n")
    words = line.decode("latin-1").split(" ")
    if len(words) != 3 or not words[2].startswith("HTTP/1."):
        raise _Unreadable(HTTPStatus.BAD_REQUEST, "this is no HTTP/1 request")
    method, target, _ = words
    if method not in ("GET", "HEAD"):
        raise _Unreadable(HTTPStatus.METHOD_NOT_ALLOWED, "here is only GET and HEAD")
    try:
        parts = urlsplit(target)
        query = dict(parse_qsl(parts.query, keep_blank_values=True, max_num_fields=16))
        return Request(parts.path, query, parse_headers(io.BytesIO(rest))), method == "HEAD"
    except (HTTPException, ValueError) as error:
        raise _Unreadable(HTTPStatus.BAD_REQUEST, f"this request is not understood: {error}"[:500]) from None


def _encode(response: Response, is_head: bool) -> bytes:
    headers = {
        "Content-Type": response.kind,
        "Content-Length": str(len(response.body)),
        "Cache-Control": "no-store",
        "Connection": "close",
        "X-Content-Type-Options": "nosniff",
        **response.headers,
    }
    lines = [f"HTTP/1.1 {response.status:d} {response.status.phrase}", *(f"{k}: {v}" for k, v in headers.items())]
    return "\r\n".join((*lines, "", "")).encode("latin-1") + (b"" if is_head else response.body)
