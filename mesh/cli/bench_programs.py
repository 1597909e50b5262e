"""The programs that `bench` starts: ``python -m mesh.cli.bench_programs ROLE ADDRESS…``.

Each says a line when it is ready, and ends when its standard input does. Those that measure are asked there, a JSON
object a line, and answer with one on standard output.
"""

import json
import os
import socket
import sys
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from mesh.client.api import Message, Reply
    from mesh.client.sync import Client

__all__ = ["BODY", "IN_FLIGHT", "main", "percentile"]

BODY = b"x" * 64
IN_FLIGHT = 100
RELAY_BYTES = 4096
ECHO, SINK, COUNT = "bench.echo", "bench.sink", "bench.count"

Answer = dict[str, float]


def percentile(ordered: Sequence[float], share: float) -> float:
    """Return the value below which this share of the sorted values lies."""
    return ordered[min(len(ordered) - 1, int(len(ordered) * share))]


# Plain ZeroMQ: REQ → two proxies → REP


def proxy(front: str, back: str) -> None:
    """Pass messages on, in C."""
    import zmq

    context = zmq.Context()
    router, dealer = context.socket(zmq.ROUTER), context.socket(zmq.DEALER)
    router.bind(front)
    dealer.connect(back)
    _ready_until_input_ends()
    zmq.proxy(router, dealer)


def rep(address: str) -> None:
    """Answer each message with itself."""
    import zmq

    replier = zmq.Context().socket(zmq.REP)
    replier.bind(address)
    _ready_until_input_ends()
    while True:
        replier.send(replier.recv())


def req(address: str) -> None:
    """Measure round trips."""
    import zmq

    requester = zmq.Context().socket(zmq.REQ)
    requester.connect(address)

    def round_trip() -> None:
        requester.send(BODY)
        requester.recv()

    _answer_questions({"latency": lambda seconds: _latency(round_trip, seconds)})


# A bare relay in Python: a Unix socket, ZeroMQ on a gevent loop, a Unix socket, and nothing decoded


def relay(path: str, address: str, side: str) -> None:
    """Pass on what comes: of one app on a Unix socket to the other relay, and back. ``side``: ``near`` dials."""
    import zmq
    from gevent import get_hub

    loop = get_hub().loop
    link = zmq.Context().socket(zmq.DEALER if side == "near" else zmq.ROUTER)
    link.connect(address) if side == "near" else link.bind(address)
    peer: list[bytes] = []
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(path)
        listener.listen(1)
        _ready_until_input_ends()
        app, _ = listener.accept()
    app.setblocking(False)

    def from_app() -> None:
        data = app.recv(RELAY_BYTES)
        if not data:
            os._exit(0)
        link.send_multipart([*peer, data])
        from_link()  # the descriptor may not stir again for what came meanwhile

    def from_link() -> None:
        while int(link.getsockopt(zmq.EVENTS)) & zmq.POLLIN:
            frames = link.recv_multipart()
            peer[:] = frames[:-1]
            app.send(frames[-1])

    watchers = loop.io(app.fileno(), 1), loop.io(link.getsockopt(zmq.FD), 1)
    for watcher, passes_on in zip(watchers, (from_app, from_link), strict=True):
        watcher.start(passes_on)
    loop.run_callback(from_link)
    get_hub().join()


def echo(path: str) -> None:
    """Answer each message with itself, behind the far relay."""
    with socket.socket(socket.AF_UNIX) as app:
        app.connect(path)
        _ready_until_input_ends()
        while data := app.recv(RELAY_BYTES):
            app.send(data)


def ping(path: str) -> None:
    """Measure round trips, before the near relay."""
    with socket.socket(socket.AF_UNIX) as app:
        app.connect(path)

        def round_trip() -> None:
            app.send(BODY)
            app.recv(RELAY_BYTES)

        _answer_questions({"latency": lambda seconds: _latency(round_trip, seconds)})


# The mesh


def server(agent: str) -> None:
    """Serve: an echo, a sink that counts, and the count."""
    from mesh.client.sync import connect

    taken, last_at = 0, 0.0

    def sink(_: "Message") -> None:
        nonlocal taken, last_at
        taken += 1
        last_at = time.monotonic()

    with connect("bench-server", socket=agent) as client:
        client.serve(ECHO, lambda message: message.body, workers=IN_FLIGHT)
        client.serve(SINK, sink, workers=1, prefetch=4096)
        client.serve(COUNT, lambda _: json.dumps([taken, last_at]).encode(), workers=1)
        _answer_questions({})


def caller(agent: str) -> None:
    """Measure calls one at a time, calls in flight, and casts."""
    from mesh.client.sync import connect

    with connect("bench-caller", socket=agent) as client:
        client.call(ECHO, BODY, wait=True)
        client.call(COUNT, wait=True)
        client.cast(SINK, BODY, wait=True, confirm=True)
        _answer_questions(
            {
                "latency": lambda seconds: _latency(lambda: client.call(ECHO, BODY), seconds),
                "calls": lambda seconds: _calls(client, seconds),
                "casts": lambda seconds: _casts(client, seconds),
            }
        )


def _latency(round_trip: Callable[[], object], seconds: float) -> Answer:
    """Do one after the other; return p50 and p99 in µs."""
    times: list[float] = []
    now = time.perf_counter()
    until = now + seconds
    while now < until:
        round_trip()
        before, now = now, time.perf_counter()
        times.append(now - before)
    times.sort()
    return {"p50_us": percentile(times, 0.5) * 1e6, "p99_us": percentile(times, 0.99) * 1e6}


def _calls(client: "Client", seconds: float) -> Answer:
    """Keep `IN_FLIGHT` calls under way; return how many ended each second."""
    window: deque[Future[Reply]] = deque()
    ended = 0
    began = time.perf_counter()
    until = began + seconds
    while time.perf_counter() < until:
        while len(window) < IN_FLIGHT:
            window.append(client.call_async(ECHO, BODY))
        window.popleft().result()
        ended += 1
        while window and window[0].done():
            window.popleft().result()
            ended += 1
    elapsed_s = time.perf_counter() - began
    for future in window:
        future.result()
    return {"per_s": ended / elapsed_s}


def _casts(client: "Client", seconds: float) -> Answer:
    """Cast as fast as they are accepted; return how many the receiver counted each second until its last."""
    before = json.loads(client.call(COUNT).body)[0]
    began = time.monotonic()
    sent, last = 0, None
    while time.monotonic() < began + seconds:
        for _ in range(IN_FLIGHT):
            last = client.cast_async(SINK, BODY)
        sent += IN_FLIGHT
    if last is not None:
        last.result()
    while True:
        taken, last_at = json.loads(client.call(COUNT).body)
        if taken - before >= sent:
            return {"per_s": (taken - before) / (last_at - began)}
        time.sleep(0.01)


def _ready_until_input_ends() -> None:
    """Say so, and have the process end with its input, for the main thread never looks there."""

    def wait() -> None:
        sys.stdin.read()
        os._exit(0)

    _say({})
    threading.Thread(target=wait, daemon=True).start()


def _answer_questions(measures: dict[str, Callable[[float], Answer]]) -> None:
    _say({})
    for line in sys.stdin:
        question: dict[str, Any] = json.loads(line)
        _say(measures[question["what"]](question["seconds"]))


def _say(answer: Answer) -> None:
    sys.stdout.write(json.dumps(answer) + "\n")
    sys.stdout.flush()


ROLES: dict[str, Callable[..., None]] = {
    "proxy": proxy,
    "rep": rep,
    "req": req,
    "relay": relay,
    "echo": echo,
    "ping": ping,
    "server": server,
    "caller": caller,
}


def main(arguments: Sequence[str]) -> None:
    """Be one of the programs."""
    role, *addresses = arguments
    ROLES[role](*addresses)


if __name__ == "__main__":
    main(sys.argv[1:])
