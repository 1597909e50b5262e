"""Apps under load, as programs: one calls, one serves, and each writes down what it sees in a log of its own.

::

    python -m tests.system.faults.load_app call SOCKET LOG NAME OPTIONS
    python -m tests.system.faults.load_app serve SOCKET LOG NAME OPTIONS

A line is a moment (of the clock that all processes of a machine share), a word, the request's id, and details:

    begun ID            the calling app is about to ask
    ended ID OUTCOME    and how it ended, as the client told
    run ID              a handler begins
    done ID             a handler has ended
    ready, closed       the app's own life; without ``closed`` it was killed

It is one ``write`` to a file opened for appending, so what is there was said before the process died.
"""

import contextlib
import os
import random
import signal
import sys
import threading
import time
from collections.abc import Callable, Mapping
from pathlib import Path

import msgspec

import mesh

__all__ = ["CallOptions", "ServeOptions"]

CONNECT_S = 30.0
CLOSE_S = 60.0


class CallOptions(msgspec.Struct):
    """What a calling app asks for: threads for each kind of request, milliseconds of work for the handler."""

    threads: dict[str, int] = msgspec.field(
        default_factory=lambda: {"call": 6, "idempotent": 6, "cast": 1, "confirmed": 1, "once": 1, "fanout": 1}
    )
    topic: str = "work"
    timeout_s: float = 30.0
    pause_s: float = 0.005
    work_ms: int = 10
    mortal_each: int = 0
    """Each so many-th request kills the first app that handles it."""


class ServeOptions(msgspec.Struct):
    """How a serving app works: ``sleep_s`` on top of what each request asks for."""

    topics: tuple[str, ...] = ("work",)
    workers: int = 32
    sleep_s: float = 0.0


class Log:
    """One file, one ``write`` for each line."""

    def __init__(self, path: Path) -> None:
        self.fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)

    def say(self, word: str, id: str = "-", details: str = "") -> None:
        os.write(self.fd, f"{time.monotonic():.6f} {word} {id} {details}\n".encode())


def ask(client: mesh.Client, kind: str, options: CallOptions, body: bytes) -> str:
    """Make one request and return its outcome's name and details."""
    topic, timeout_s = options.topic, options.timeout_s
    if kind in ("call", "idempotent"):
        client.call(topic, body, timeout_s=timeout_s, idempotent=kind == "idempotent")
        return "Reply"
    if kind == "fanout":
        receipt = client.fanout(topic, body, ttl_s=timeout_s, confirm=True)
        return f"Receipt {receipt.asked} {receipt.finished} {receipt.failed} {receipt.unknown}"
    client.cast(topic, body, ttl_s=timeout_s, confirm=kind == "confirmed", once=kind == "once", timeout_s=timeout_s)
    return "Accepted"


def load(
    client: mesh.Client, log: Log, name: str, kind: str, thread: int, options: CallOptions, stop: threading.Event
) -> None:
    """Ask one after the other until it is time to stop."""
    draw = random.Random(f"{name}.{kind}.{thread}")
    number = 0
    while not stop.wait(options.pause_s * draw.random() * 2):
        number += 1
        id = f"{name}.{kind}.{thread}.{number}"
        is_mortal = options.mortal_each and draw.randrange(options.mortal_each) == 0
        body = f"{id} {draw.randint(0, 2 * options.work_ms)} {int(is_mortal)}".encode()
        log.say("begun", id)
        try:
            outcome = ask(client, kind, options, body)
        except TimeoutError as error:
            outcome = f"{type(error).__name__} {error}"
        except mesh.MeshError as error:
            outcome = f"{type(error).__name__} {error}"
        log.say("ended", id, outcome.replace("\n", " "))


def call(socket: str, log: Log, name: str, raw: bytes) -> None:
    """Be a calling app until SIGTERM; then wait for the end of all that was asked."""
    options = msgspec.json.decode(raw, type=CallOptions)
    stop = threading.Event()
    signal.signal(signal.SIGTERM, lambda *_: stop.set())
    client = mesh.connect(app=name, socket=socket, connect_timeout_s=CONNECT_S)
    client.call(options.topic, b"first 0 0", timeout_s=CONNECT_S, idempotent=True, wait=True)
    log.say("ready")
    threads = [
        threading.Thread(target=load, args=(client, log, name, kind, thread, options, stop))
        for kind, count in options.threads.items()
        for thread in range(count)
    ]
    for thread in threads:
        thread.start()
    while not stop.wait(1.0):
        pass
    for thread in threads:
        thread.join()
    client.close(CLOSE_S)
    log.say("closed")


def serve(socket: str, log: Log, name: str, raw: bytes) -> None:
    """Be a serving app until SIGTERM."""
    options = msgspec.json.decode(raw, type=ServeOptions)
    marks = Path(os.readlink(f"/proc/self/fd/{log.fd}")).parent

    def handle(message: mesh.Message) -> bytes:
        id, work_ms, is_mortal = message.body.decode().split()
        log.say("run", id)
        if is_mortal == "1":
            with contextlib.suppress(FileExistsError):
                os.close(os.open(marks / f"mortal-{id}", os.O_CREAT | os.O_EXCL))
                os.kill(os.getpid(), signal.SIGKILL)
        time.sleep(options.sleep_s + int(work_ms) / 1000)
        log.say("done", id)
        return name.encode()

    client = mesh.connect(app=name, socket=socket, connect_timeout_s=CONNECT_S)
    for topic in options.topics:
        client.serve(topic, handle, workers=options.workers)
    log.say("ready")
    client.run()
    log.say("closed")


ROLES: Mapping[str, Callable[[str, Log, str, bytes], None]] = {"call": call, "serve": serve}

if __name__ == "__main__":
    role, socket, log, name, options = sys.argv[1:]
    ROLES[role](socket, Log(Path(log)), name, options.encode())
