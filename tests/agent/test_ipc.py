"""The app socket in one process: frames in any pieces, who is let in, and who is waited for how long."""

import grp
import os
import pwd
import random
import socket
import struct
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import gevent
import gevent.event
import pytest
from msgspec import structs

from mesh.agent.ipc import FAREWELL_S, SLICE_S, AppEvents, Apps, AppsOptions
from mesh.agent.listeners import AppListener
from mesh.agent.people import People, Person
from mesh.core.codec import FRAME_BYTES_MAX, decode, encode
from mesh.core.records import AppHello, Ping
from mesh.core.session import Credentials, Named
from mesh.security.tokens import Bearer, Tokens, digest_of
from tests.agent.link_ends import until

pytestmark = pytest.mark.io

TOKEN = b"0123456789abcdef"
UNREAD_BYTES_MAX = 1 << 20
MOURN_S = 5.0


def framed(data: bytes) -> bytes:
    return struct.pack("<I", len(data)) + data


class Host:
    """An app socket, what it told, and a clock that only the test moves. Each connection has a session."""

    def __init__(self, directory: Path, **options: Any) -> None:
        limits = {"connections_max": 100, "unread_bytes_max": UNREAD_BYTES_MAX, "mourn_s": MOURN_S}
        self.path = directory / "s"
        self.listener = AppListener(self.path, 0o600, "", 64)
        self.now = 0.0
        self.credentials: list[Credentials] = []
        self.named: list[tuple[int, Named]] = []
        self.frames: list[bytes] = []
        self.malformed: list[tuple[int, str]] = []
        self.closed: list[int] = []
        self.died: list[int] = []
        self.took: list[tuple[int, int]] = []
        self.full: list[str] = []
        events = AppEvents(
            self._connected,
            lambda conn, named: self.named.append((conn, named)),
            lambda conn, data: self.frames.append(bytes(data)),
            lambda conn, why: self.malformed.append((conn, why)),
            self._closed,
            self.died.append,
            lambda conn, number: self.took.append((conn, number)),
            self.full.append,
        )
        self.people = People(Tokens(((digest_of(TOKEN), Bearer("web", ("apps",))),)))
        self.apps = Apps(self.listener.socket, self.people, events, AppsOptions(**(limits | options)), lambda: self.now)

    def _connected(self, credentials: Credentials) -> int:
        self.credentials.append(credentials)
        return len(self.credentials)

    def _closed(self, conn: int) -> int:
        self.closed.append(conn)
        return 1000 + conn

    def connect(self) -> socket.socket:
        app = socket.socket(socket.AF_UNIX)
        app.connect(str(self.path))
        app.setblocking(False)
        return app

    def joined(self) -> socket.socket:
        """Connect, and return when that was accepted."""
        count = len(self.credentials) + 1
        app = self.connect()
        until(lambda: len(self.credentials) == count, "it is accepted")
        return app

    def close(self) -> None:
        self.apps.close_all(0.0)
        self.listener.close()


@pytest.fixture
def host(tmp_path: Path) -> Iterator[Host]:
    """An app socket with small limits."""
    host = Host(tmp_path)
    yield host
    host.close()


def read(app: socket.socket, count: int) -> bytes:
    """Read that many bytes, or to the end."""
    got = bytearray()

    def more() -> bool:
        try:
            data = app.recv(1 << 20)
        except BlockingIOError:
            return False
        got.extend(data)
        return not data or len(got) >= count

    until(more, f"{count} bytes")
    return bytes(got)


def test_frames_arrive_the_same_however_they_were_cut(host: Host) -> None:
    rng = random.Random(7)
    sizes = [0, 1, 3, 4, 5, 100, 300_000, 2_000_000, *(rng.randrange(2000) for _ in range(200))]
    frames = [rng.randbytes(size) for size in sizes]
    data = b"".join(map(framed, frames))
    with host.joined() as app:
        start = 0
        while start < len(data):
            piece = data[start : start + rng.choice((1, 2, 5, 1000, 65_536, 200_000))]
            try:
                start += app.send(piece)
            except BlockingIOError:
                pass
            gevent.sleep(0)
        until(lambda: len(host.frames) == len(frames), "all have arrived")
    assert frames == host.frames


def test_a_frame_over_the_limit_is_told_once_and_nothing_is_read_after_it(host: Host) -> None:
    with host.joined() as app:
        app.send(framed(b"good") + struct.pack("<I", FRAME_BYTES_MAX + 1) + framed(b"more"))
        ((conn, why),) = until(lambda: host.malformed, "it is told")
        app.send(framed(b"still more"))
        gevent.sleep(0.02)
        assert (1, True, [b"good"]) == (conn, str(FRAME_BYTES_MAX) in why, host.frames)
        host.apps.close(conn)
        assert [1] == host.closed


def test_who_is_there_is_what_the_kernel_says(host: Host) -> None:
    with host.joined():
        (found,) = host.credentials
    assert (os.getuid(), os.getpid(), pwd.getpwuid(os.getuid()).pw_name) == (found.uid, found.pid, found.user)
    assert {grp.getgrgid(gid).gr_name for gid in (os.getgid(), *os.getgroups())} == set(found.groups)


def test_a_name_is_looked_up_once_and_whoever_leaves_meanwhile_is_let_go(
    host: Host, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = len(os.listdir("/proc/self/fd"))
    gate, asked = gevent.event.Event(), list[Person]()

    def look_up(person: Person) -> Credentials:
        asked.append(person)
        gate.wait()
        return Credentials(person.uid, person.pid, "ada")

    monkeypatch.setattr(host.people, "look_up", look_up)
    with host.connect():
        until(lambda: asked, "the name is asked for")
        assert ([], 1) == (host.credentials, len(host.apps.unnamed))
        gate.set()
        until(lambda: host.credentials, "it is let in")
        assert "ada" == host.credentials[0].user
    until(lambda: host.closed, "it has left")
    gate.clear()
    with host.connect():
        until(lambda: host.apps.unnamed, "the name is asked for")
        host.apps.close_all(0.0)
        assert {} == host.apps.unnamed
        gate.set()
        gevent.sleep(0.01)
    assert 1 == len(host.credentials)
    assert before >= len(os.listdir("/proc/self/fd")) - 1


def test_the_token_of_a_first_frame_is_taken_out_and_named_before_it(host: Host) -> None:
    hello = AppHello(0, 0, 7, 1, "app", token=TOKEN)
    wrong = AppHello(0, 0, 8, 1, "app", token=b"guessed-guessed!")
    with host.joined() as app, host.joined() as guesser:
        app.send(framed(encode(0, [hello, Ping(1)])) + framed(encode(1, [hello])))
        until(lambda: len(host.frames) == 2, "both have come")
        guesser.send(framed(encode(0, [wrong])))
        until(lambda: len(host.frames) == 3, "it has come")
    assert [(1, Named("web", ("apps",)))] == host.named[:1]
    assert (2, True) == (host.named[1][0], "knows no such token" in host.named[1][1].problem)
    assert [AppHello(0, 0, 7, 1, "app"), Ping(1)] == decode(host.frames[0]).records
    assert [hello] == decode(host.frames[1]).records, "what is no first frame is the node's to refuse"
    until(lambda: len(host.closed) == 2, "both have left")
    assert {} == host.people.bearers


def test_what_an_app_does_not_read_at_once_waits_and_arrives_whole(host: Host) -> None:
    with host.joined() as app:
        host.apps.send(1, b"x" * 700_000)
        host.apps.send(1, b"y" * 200_000)
        expected = framed(b"x" * 700_000) + framed(b"y" * 200_000)
        assert expected == read(app, len(expected))


def test_an_app_that_leaves_too_much_unread_is_told_of_once_and_sent_nothing_more(host: Host) -> None:
    with host.joined() as app:
        for _ in range(10):
            host.apps.send(1, b"x" * 500_000)
        ((conn, why),) = host.malformed
        assert (1, True) == (conn, "app_unread_bytes_max" in why)
        host.apps.close(1)
        assert len(read(app, 10_000_000)) < UNREAD_BYTES_MAX
        assert {} == host.apps.connections


def test_it_is_told_when_a_socket_has_taken_all_and_not_when_it_has_broken(host: Host) -> None:
    with host.joined() as app:
        host.apps.confirm(1, 1)
        assert [(1, 1)] == host.took
        host.apps.send(1, b"x" * 900_000)
        host.apps.confirm(1, 2)
        host.apps.confirm(1, 3)
        assert [(1, 1)] == host.took
        read(app, 900_004)
        until(lambda: host.took == [(1, 1), (1, 3)], "it has taken all")
        host.apps.send(1, b"x" * 900_000)
        host.apps.confirm(1, 4)
    until(lambda: host.closed, "its end is seen")
    assert [(1, 1), (1, 3)] == host.took
    host.apps.confirm(1, 5)
    with host.joined() as app:
        app.shutdown(socket.SHUT_RD)
        host.apps.send(2, b"x")
        host.apps.confirm(2, 6)
        assert [(1, 1), (1, 3)] == host.took


def test_a_farewell_waits_for_its_app_but_not_for_ever(host: Host) -> None:
    with host.joined() as reads, host.joined() as does_not:
        for conn in (1, 2):
            host.apps.send(conn, b"x" * 900_000)
            host.apps.close(conn)
        assert 900_004 == len(read(reads, 900_004))
        until(lambda: host.closed == [1], "the one that reads is done")
        host.now = FAREWELL_S / 2
        host.apps.tick()
        assert [1] == host.closed
        host.now = FAREWELL_S
        host.apps.tick()
        assert [1, 2] == host.closed
        assert {} == host.apps.leaving
        does_not.close()


def test_those_who_come_when_it_is_full_wait_until_somebody_leaves(tmp_path: Path) -> None:
    host = Host(tmp_path, connections_max=2)
    try:
        first, second, third = host.joined(), host.joined(), host.connect()
        until(lambda: host.full, "that is told")
        host.apps.tick()
        gevent.sleep(0.02)
        assert 2 == len(host.credentials)
        first.close()
        until(lambda: len(host.credentials) == 3, "the third is let in")
        for app in (second, third):
            app.close()
    finally:
        host.close()


def test_the_process_of_an_app_that_left_is_watched_for_a_while_and_then_forgotten(host: Host) -> None:
    before = len(os.listdir("/proc/self/fd"))
    host.joined().close()
    until(lambda: host.closed, "it is gone")
    assert 1 == len(host.apps.mourned)
    host.now = MOURN_S - 0.1
    host.apps.tick()
    assert 1 == len(host.apps.mourned)
    host.now = MOURN_S
    host.apps.tick()
    assert (0, []) == (len(host.apps.mourned), host.died)
    assert before == len(os.listdir("/proc/self/fd"))


def test_one_that_reconnects_all_the_time_is_watched_no_more_often_than_the_limit(tmp_path: Path) -> None:
    host = Host(tmp_path, connections_max=3)
    try:
        for count in range(1, 10):
            host.joined().close()
            until(lambda: len(host.closed) >= count, "it is gone")  # noqa: B023 - waited for before the next round
        assert 3 == len(host.apps.mourned)
    finally:
        host.close()


PROGRAM = """
import socket, struct, subprocess, sys
app = socket.socket(socket.AF_UNIX)
app.connect(sys.argv[1])
if sys.argv[2] == "child":
    app.set_inheritable(True)
    subprocess.Popen([sys.executable, "-c", "import sys; sys.stdin.read()"], close_fds=False)
elif sys.argv[2] == "closes":
    app.close()
print("here", flush=True)
sys.stdin.readline()
app.sendall(struct.pack("<I", 4) + b"last") if sys.argv[2] != "closes" else None
"""


def test_an_app_that_has_much_to_say_is_heard_in_turns_and_whole(host: Host) -> None:
    """Each frame of the one takes longer than a slice; the clock is the test's."""
    heard: list[int] = []

    with host.joined() as busy, host.joined() as other:

        def data(conn: int, view: memoryview) -> None:
            heard.append(conn)
            host.now += SLICE_S if conn == 1 else 0.0
            if len(heard) == 10:
                other.send(framed(b"y"))

        host.apps.events = structs.replace(host.apps.events, data=data)
        busy.send(framed(b"x" * 10) * 100)
        until(lambda: 2 in heard, "the other is heard")
        assert heard.index(2) < 15
        busy.close()
        until(lambda: 1 in host.closed, "its end is seen after all it said")
        assert 100 == heard.count(1)


def test_what_a_dead_app_had_said_is_heard_whole_in_its_turns(host: Host) -> None:
    heard: list[bytes] = []

    def data(conn: int, view: memoryview) -> None:
        heard.append(bytes(view))
        host.now += SLICE_S

    host.apps.events = structs.replace(host.apps.events, data=data)
    program = (
        "import socket, struct, sys; app = socket.socket(socket.AF_UNIX); app.connect(sys.argv[1]); "
        "app.sendall((struct.pack('<I', 4) + b'word') * 200)"
    )
    subprocess.run([sys.executable, "-c", program, str(host.path)], check=True)
    until(lambda: host.died, "its death is told")
    assert [b"word"] * 200 == heard


def test_a_connection_that_is_closed_between_its_turns_is_heard_no_more(host: Host) -> None:
    heard: list[int] = []

    def data(conn: int, view: memoryview) -> None:
        heard.append(conn)
        host.now += SLICE_S
        if len(heard) == 3:
            host.apps.send(conn, b"x" * 900_000)
            host.apps.close(conn)

    host.apps.events = structs.replace(host.apps.events, data=data)
    with host.joined() as app:
        app.send(framed(b"x") * 100)
        until(lambda: len(heard) >= 3, "it is heard")
        gevent.sleep(0.05)
        assert 3 == len(heard)
        assert 900_004 == len(read(app, 900_004))
        until(lambda: host.closed, "it is closed")


@pytest.mark.parametrize("how", ["ends", "closes", "child"])
def test_the_death_of_a_process_is_told_after_its_last_words(host: Host, how: str) -> None:
    with subprocess.Popen(
        [sys.executable, "-c", PROGRAM, str(host.path), how], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        assert b"here\n" == process.stdout.readline()
        until(lambda: host.credentials, "it is accepted")
        gevent.sleep(0.02)
        assert [] == host.died
        process.stdin.write(b"go\n")
        process.stdin.flush()
        until(lambda: host.died, "its death is told")
        assert [1001] == host.died
        assert ([] if how == "closes" else [b"last"]) == host.frames
        assert {} == host.apps.connections


def test_the_end_gives_last_words_their_time_and_all_descriptors_back(tmp_path: Path) -> None:
    before = len(os.listdir("/proc/self/fd"))
    host = Host(tmp_path)
    host.apps.clock = lambda: gevent.get_hub().loop.now()
    with host.joined() as app, host.joined() as deaf:
        for conn in (1, 2):
            host.apps.send(conn, b"x" * 900_000)
        reader = gevent.spawn(read, app, 900_004)
        host.apps.close_all(0.3)
        assert 900_004 == len(reader.get())
        deaf.close()
    host.listener.close()
    assert before == len(os.listdir("/proc/self/fd"))
