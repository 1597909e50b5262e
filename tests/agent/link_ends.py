"""Both ends of links in one process, for the tests of sockets: what they told is kept, and the loop runs in waits."""

import itertools
import socket
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import gevent

from mesh.agent.links import LinkEvents, Links, LinksOptions
from mesh.agent.listeners import listen_links
from mesh.types import Endpoint

__all__ = ["WITHIN_S", "End", "until"]

WITHIN_S = 20.0

OPTIONS = LinksOptions(links_max=64, hello_timeout_s=0.3, inbound_unproven_max=4, reap_after_s=10.0)


def until(condition: Callable[[], Any], what: str) -> Any:
    """Run the loop until a condition holds, and return what made it true."""
    give_up_at = time.monotonic() + WITHIN_S
    while True:
        value = condition()
        if value:
            return value
        assert time.monotonic() < give_up_at, f"not in time: {what}"
        gevent.sleep(0.002)


class End:
    """Link sockets that listen on loopback, and what they told. ``answer`` makes the reply to a message, if any."""

    def __init__(self, host: str = "127.0.0.1", options: LinksOptions = OPTIONS) -> None:
        self.listeners = listen_links((host,), 0, 64)
        public_key = options.keys.public_key if options.keys is not None else ""
        host, port = self.listeners[0].getsockname()[:2]
        self.endpoint = Endpoint(host, port, public_key)
        self.numbers = itertools.count(1)
        self.accepted: list[int] = []
        self.keys: list[str] = []
        self.connected: list[int] = []
        self.heard: list[tuple[int, bytes]] = []
        self.lost: list[tuple[int, str]] = []
        self.evicted: list[str] = []
        self.answer: Callable[[bytes], bytes | None] = lambda data: None
        events = LinkEvents(
            self._accepted,
            self._heard,
            self.connected.append,
            lambda conn, why: self.lost.append((conn, why)),
            lambda why, address: self.evicted.append(why),
        )
        self.links = Links(self.listeners, events, options, time.monotonic)

    def _accepted(self, key: str) -> int:
        self.keys.append(key)
        self.accepted.append(next(self.numbers))
        return self.accepted[-1]

    def _heard(self, conn: int, data: bytes) -> None:
        self.heard.append((conn, data))
        reply = self.answer(data)
        if reply is not None:
            self.links.send(conn, reply)
            self.links.settle()

    def send(self, conn: int, data: bytes) -> None:
        """Send one message, as a turn does."""
        self.links.send(conn, data)
        self.links.settle()

    def dial(self, to: "End | Endpoint") -> int:
        """Begin a dial; return its number."""
        conn = next(self.numbers)
        self.links.open(conn, to.endpoint if isinstance(to, End) else to)
        return conn

    def reach(self, to: "End") -> int:
        """Dial, and return the number of the connection when it stands."""
        conn = self.dial(to)
        until(lambda: conn in self.connected, "the dial stands")
        return conn

    def tick_until(self, condition: Callable[[], Any], what: str) -> Any:
        """The same as `until`, with ticks."""

        def ticked() -> Any:
            self.links.tick()
            return condition()

        return until(ticked, what)

    def close(self) -> None:
        self.links.close_all(0.0)
        for listener in self.listeners:
            listener.close()

    @classmethod
    @contextmanager
    def pair(cls, **options: Any) -> Iterator[tuple["End", "End"]]:
        """Two of them."""
        ends = cls(**options), cls(**options)
        try:
            yield ends
        finally:
            for end in ends:
                end.close()


@contextmanager
def deaf_listener() -> Iterator[Endpoint]:
    """An address whose queue is full: what is sent there is never answered, as in a black hole."""
    with socket.socket() as listener, socket.socket() as first, socket.socket() as second:
        listener.bind(("127.0.0.1", 0))
        listener.listen(0)
        for queued in (first, second):
            queued.setblocking(False)
            queued.connect_ex(listener.getsockname())
        time.sleep(0.05)
        yield Endpoint(*listener.getsockname())
