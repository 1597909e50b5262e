"""Reactors for the supervisor's tests, and the program that supervises one of them, telling events as JSON lines."""

import json
import os
import select
import signal
import time
from collections.abc import Callable
from typing import Any

import gevent
import gevent.event
import msgspec
import zmq
from gevent._hub_local import get_hub_if_exists

from mesh.agent.exits import Exit
from mesh.agent.incarnation import raise_incarnation
from mesh.agent.process import READY, pulse
from mesh.agent.supervisor import Inherited, SupervisorOptions, supervise
from mesh.agent.unpatched import poll

__all__ = ["REACTORS", "main"]

BEAT_S = 0.02


def tell(event: str, level: int = 0, **fields: Any) -> None:
    os.write(1, (json.dumps({"event": event, **fields}) + "\n").encode())


def serve(inherited: Inherited) -> int:
    """Answer every app with who serves it, and drop every peer; drain on SIGTERM."""
    ended: list[int] = []
    signal.signal(signal.SIGTERM, lambda *_: ended.append(1))
    signal.signal(signal.SIGHUP, lambda *_: tell("hup"))
    listeners = {listener.fileno(): listener for listener in (inherited.app_listener, *inherited.link_listeners)}
    waiter = poll()
    for fd in listeners:
        waiter.register(fd, select.POLLIN)
    pulse(inherited.pulse_fd, READY)
    while not ended:
        for fd, _ in waiter.poll(BEAT_S * 1000):
            accepted, _ = listeners[fd]._accept()  # type: ignore[attr-defined]
            os.write(accepted, f"{os.getpid()} {inherited.incarnation}\n".encode())
            os.close(accepted)
        pulse(inherited.pulse_fd)
    tell("drained")
    return Exit.OK


def hang(inherited: Inherited) -> int:
    """Get ready, ignore SIGTERM, and never turn again."""
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    pulse(inherited.pulse_fd, READY)
    while True:
        signal.pause()


def mute(inherited: Inherited) -> int:
    """Close the pulse and live on."""
    os.close(inherited.pulse_fd)
    while True:
        signal.pause()


def again(inherited: Inherited) -> int:
    """Ask for a greater incarnation until it is one beyond any clock's, then serve."""
    floor = 1 << 50
    if inherited.incarnation > floor:
        return serve(inherited)
    raise_incarnation(inherited.data_dir, floor, tell)
    return Exit.AGAIN


def fail(_: Inherited) -> int:
    """Raise."""
    raise RuntimeError("a bug in the reactor")


def look(inherited: Inherited) -> int:
    """Tell what was inherited, use what needs a hub of its own, then serve."""
    descriptors = os.listdir("/proc/self/fd")
    threads = len(os.listdir("/proc/self/task"))
    tell("look", hub=get_hub_if_exists() is not None, threads=threads, descriptors=len(descriptors))
    gevent.sleep(0.001)
    in_pool = gevent.get_hub().threadpool.apply(os.getpid)
    tell("pool", same=in_pool == os.getpid())
    return serve(inherited)


def echo(inherited: Inherited) -> int:
    """Bind a ROUTER to a dup of the link listener and echo, on gevent's loop."""
    context = zmq.Context()
    router = context.socket(zmq.ROUTER)
    listener = inherited.link_listeners[0]
    host, port = listener.getsockname()[:2]
    router.setsockopt(zmq.IPV6, 1)
    router.setsockopt(zmq.USE_FD, os.dup(listener.fileno()))
    router.bind(f"tcp://[{host}]:{port}" if ":" in host else f"tcp://{host}:{port}")

    def turn() -> None:
        pulse(inherited.pulse_fd)
        while int(router.getsockopt(zmq.EVENTS)) & zmq.POLLIN:
            peer, body = router.recv_multipart(zmq.NOBLOCK)
            router.send_multipart((peer, body, str(inherited.incarnation).encode()), zmq.NOBLOCK)

    loop = gevent.get_hub().loop
    readable = loop.io(router.getsockopt(zmq.FD), 1)
    readable.start(turn)
    tick = loop.timer(0.0, BEAT_S)
    tick.start(turn)
    ended = gevent.event.Event()
    gevent.signal_handler(signal.SIGTERM, ended.set)
    pulse(inherited.pulse_fd, READY)
    ended.wait()
    return Exit.OK


REACTORS: dict[str, Callable[[Inherited], int]] = {
    "serve": serve,
    "hang": hang,
    "mute": mute,
    "again": again,
    "fail": fail,
    "look": look,
    "echo": echo,
    "refused": lambda _: Exit.CONFIGURATION,
    "die": lambda _: 1,
}


def main(reactor: str, told: str) -> int:
    """Supervise the reactor of that name; ``told`` is a JSON object of `SupervisorOptions` and, optionally,
    ``clock``: what the wall clock says in milliseconds, start by start."""
    if reactor == "look":
        import requests  # noqa: F401 - makes a hub, by a socket that urllib3 opens when it is imported

        assert get_hub_if_exists() is not None
    fields = json.loads(told)
    clock = fields.pop("clock", [])

    def unix_ms() -> int:
        return int(clock.pop(0)) if clock else time.time_ns() // 1_000_000

    options = msgspec.convert(fields, SupervisorOptions, dec_hook=lambda kind, value: kind(value))
    return supervise(options, REACTORS[reactor], tell, unix_ms)
