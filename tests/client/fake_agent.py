"""An agent in two hundred lines, for the client's tests: one node, no links, the app hop as `records` has it.

``python -m tests.client.fake_agent SOCKET`` serves until it is killed. What one app asks, another answers; nothing is
decided here that a test is about, but what the record's own words demand.
"""

import asyncio
import json
import sys
from collections.abc import Iterable
from pathlib import Path

from mesh.client.wire import FrameReader, frames
from mesh.core.chunks import Chunker
from mesh.core.codec import decode, encode_split
from mesh.core.ranges import expand, to_ranges
from mesh.core.records import (
    Accepted,
    AppHello,
    AppWelcome,
    Cancel,
    Chunk,
    ChunkAck,
    Failure,
    Flag,
    Goodbye,
    Kind,
    Ping,
    Pong,
    Query,
    Receipt,
    Record,
    Refuse,
    RefuseReason,
    Reply,
    Report,
    Request,
    Serve,
    Serving,
    Settled,
    Status,
    Targets,
    Unserve,
)

NODE = "fake-node"
CHUNK_BYTES = 64 << 10


class Flight:
    """A request that has not ended: who asked, who is at it."""

    def __init__(self, request: Request) -> None:
        self.request = request
        self.targets: dict[int, bool] = {}
        self.asked = 0
        self.failed = 0
        self.timer: asyncio.TimerHandle | None = None


class App:
    """A session, over its connections."""

    def __init__(self, hello: AppHello) -> None:
        self.hello = hello
        self.out: list[Record] = []
        self.chunker = Chunker(CHUNK_BYTES)
        self.writer: asyncio.StreamWriter | None = None
        self.counter_in = self.counter_out = 0
        self.services: dict[str, str] = {}
        self.outcomes: dict[int, Reply | Failure | Receipt | Settled] = {}

    def say(self, *records: Record) -> None:
        for record in records:
            if isinstance(record, Request | Reply) and len(record.body) > CHUNK_BYTES:
                announcement, chunks = self.chunker.split(record)
                self.out += [announcement, *chunks]
            else:
                self.out.append(record)

    def flush(self) -> None:
        if self.out and self.writer is not None:
            batches = encode_split(self.counter_out, self.out)
            self.counter_out += len(batches)
            self.writer.write(frames(batches))
        self.out = []


class FakeAgent:
    """All sessions, and what is between them."""

    def __init__(self) -> None:
        self.apps: dict[int, App] = {}
        self.flights: dict[tuple[int, int], Flight] = {}
        self.waiting: list[Flight] = []
        self.turn = 0

    async def serve(self, path: Path) -> None:
        server = await asyncio.start_unix_server(self.accept, path)
        async with server:
            await server.serve_forever()

    async def accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        app: App | None = None
        cut = FrameReader()
        try:
            while data := await reader.read(1 << 18):
                for frame in cut.feed(data):
                    batch = decode(frame)
                    records = batch.records
                    if app is None:
                        app = self.attach(records.pop(0), writer)
                    if app is None:
                        return
                    assert batch.counter == app.counter_in
                    app.counter_in += 1
                    for record in records:
                        self.take(app, record)
                for each in self.apps.values():
                    each.flush()
        except ConnectionError:
            pass
        finally:
            if app is not None and app.writer is writer:
                app.writer = None
            writer.close()

    def attach(self, hello: Record, writer: asyncio.StreamWriter) -> App | None:
        assert isinstance(hello, AppHello)
        if hello.fleet not in ("", "default"):
            refuse = Refuse(int(RefuseReason.FLEET), f"this agent is of fleet 'default', not {hello.fleet!r}")
            writer.write(frames(encode_split(0, [refuse])))
            return None
        app = self.apps.setdefault(hello.session, App(hello))
        app.chunker = Chunker(CHUNK_BYTES)
        app.counter_in = app.counter_out = 0
        app.writer = writer
        app.out = [
            AppWelcome(0, "default", NODE, 1, 200, 8 << 20, CHUNK_BYTES, 2, 10_000, 64 << 20, 65_536, 3_600_000, 5_000)
        ]
        return app

    def take(self, app: App, record: Record) -> None:
        if isinstance(record, Request | Reply) and record.size:
            assert app.chunker.announced(record)
        elif isinstance(record, Request):
            self.request(app, record)
        elif isinstance(record, Reply | Failure):
            self.answered(record)
        elif isinstance(record, Settled):
            self.settled(app, record)
        elif isinstance(record, Chunk):
            whole, ack = app.chunker.chunk(record)
            app.say(ack)
            if whole is not None:
                self.take(app, whole)
        elif isinstance(record, ChunkAck):
            app.out += app.chunker.acked(record)
        elif isinstance(record, Cancel):
            self.cancel(record)
        elif isinstance(record, Serve):
            app.services[record.topic] = record.server
            app.say(Serving(record.topic, record.server, True))
            waiting, self.waiting = self.waiting, []
            for flight in waiting:
                self.place(flight)
        elif isinstance(record, Unserve):
            app.services.pop(record.topic, None)
            app.say(Serving(record.topic, record.server, False))
        elif isinstance(record, Query):
            is_known = record.what == "status"
            told = {"node": NODE, **(record.arguments or {})}
            app.say(Report(record.seq, is_known, (json.dumps(told) if is_known else "not known here").encode()))
        elif isinstance(record, Ping):
            app.say(Pong(record.stamp))
        elif isinstance(record, Goodbye):
            app.services.clear()
            app.say(Goodbye("answer"))
        else:
            assert isinstance(record, Pong), f"an app may not send {record}"

    def request(self, app: App, request: Request) -> None:
        request.node, request.session, request.namespace = NODE, app.hello.session, app.hello.namespace
        key = (request.session, request.seq)
        if request.seq in app.outcomes:
            app.say(app.outcomes[request.seq])
            return
        if key not in self.flights:
            flight = self.flights[key] = Flight(request)
            loop = asyncio.get_running_loop()
            flight.timer = loop.call_later(request.timeout_ms / 1000, self.late, flight)
            self.place(flight)
        if request.kind != Kind.CALL:
            app.say(Accepted([(request.seq, request.seq)]))

    def instances(self, request: Request) -> list[App]:
        return [
            app
            for app in self.apps.values()
            if request.topic in app.services
            and app.hello.namespace == request.namespace
            and request.server in ("", app.services[request.topic])
        ]

    def place(self, flight: Flight) -> None:
        request = flight.request
        apps = self.instances(request)
        if not apps and request.flags & Flag.WAIT:
            self.waiting.append(flight)
        elif not apps:
            self.fail(flight, Status.UNROUTABLE, f"nobody serves {request.topic!r}")
        elif request.kind == Kind.FANOUT:
            self.apps[request.session].say(Targets(request.seq, [(NODE, len(apps))]))
            self.hand(flight, apps)
        else:
            self.turn += 1
            self.hand(flight, [apps[self.turn % len(apps)]])

    def hand(self, flight: Flight, apps: Iterable[App]) -> None:
        for app in apps:
            flight.targets[app.hello.session] = True
            flight.asked += 1
            app.say(flight.request)

    def settled(self, app: App, record: Settled) -> None:
        done: list[int] = []
        for seq in expand(record.ranges, 65_536):
            flight = self.flights.get((record.session, seq))
            if flight is None or flight.request.kind != Kind.FANOUT:
                done.append(seq)
                continue
            if flight.targets.pop(app.hello.session, False):
                flight.failed += bool(record.failed)
            if not flight.targets:
                failed = flight.failed
                self.end(
                    (record.session, seq),
                    Receipt(NODE, record.session, seq, flight.asked, flight.asked - failed, failed, 0),
                )
        for seq in done:
            self.end((record.session, seq), Settled(NODE, record.session, to_ranges([seq]), record.failed))

    def answered(self, record: Reply | Failure) -> None:
        if isinstance(record, Failure):
            record.where = NODE
        self.end((record.session, record.seq), record)

    def end(self, key: tuple[int, int], outcome: Reply | Failure | Receipt | Settled) -> None:
        flight = self.flights.pop(key, None)
        if flight is not None:
            if flight.timer is not None:
                flight.timer.cancel()
            app = self.apps[key[0]]
            app.outcomes[key[1]] = outcome
            app.say(outcome)

    def fail(self, flight: Flight, status: Status, text: str) -> None:
        request = flight.request
        key = (request.session, request.seq)
        self.end(key, Failure(NODE, *key, int(status), text, where=NODE))

    def late(self, flight: Flight) -> None:
        request = flight.request
        is_begun = bool(flight.targets)
        if flight in self.waiting:
            self.waiting.remove(flight)
        for session in flight.targets:
            self.apps[session].say(Cancel(NODE, request.session, request.seq))
        self.fail(flight, Status.INDETERMINATE if is_begun else Status.EXPIRED, "its time is over")
        for app in self.apps.values():
            app.flush()

    def cancel(self, record: Cancel) -> None:
        flight = self.flights.get((record.session, record.seq))
        if flight is not None:
            for session in flight.targets:
                self.apps[session].say(record)
            self.fail(flight, Status.CANCELLED, "its caller gave it up")


if __name__ == "__main__":
    asyncio.run(FakeAgent().serve(Path(sys.argv[1])))
