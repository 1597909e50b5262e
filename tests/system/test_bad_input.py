"""Malformed, truncated, oversized, hostile and missing bytes on both ports of real agents that are at work.

Whatever comes, it costs at most the connection it came by, with a note, while two agents call each other undisturbed.
"""

import contextlib
import os
import resource
import signal
import socket
import struct
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import msgspec
import pytest
import zmq

from mesh.core.codec import FRAME_BYTES_MAX, encode
from mesh.core.records import AppHello, Hello, Kind, Ping, Record, Refuse, RefuseReason, Reply, Request, Welcome
from tests.system.agents import Agent, Fleet, until
from tests.system.raw_app import WITHIN_S, Traffic, framed

pytestmark = pytest.mark.system

HELLO_TIMEOUT_S = 2.0
IDLE_LOAD_MAX = 0.25
"""More of a processor than this, with next to nothing to do, is a spin."""


class Pair:
    """Agents ``a`` and ``b``; an app at ``a`` calls one at ``b`` all the time, over one link."""

    def __init__(self, a: Agent, b: Agent, traffic: Traffic) -> None:
        self.a = a
        self.b = b
        self.traffic = traffic

    def is_undisturbed(self) -> None:
        """Calls still flow, none failed, and none of the two has lost its link."""
        self.traffic.flows()
        assert [] == self.traffic.failures
        for agent in (self.a, self.b):
            assert 1 == len(agent.noted("link_opened")), agent.tail()
            assert 1 == len(agent.noted("reactor_ready")), agent.tail()
            assert [] == agent.noise


@pytest.fixture
def pair(fleet: Fleet) -> Iterator[Pair]:
    """Two agents at work."""
    # All are of one user here, whose own bound is not what these tests are about.
    own = {"app_unread_bytes_max": 1 << 20, "user_connections_max": 10_000}
    a, b = fleet.start("a", agent=own), fleet.start("b")
    with b.echo(), a.traffic() as traffic:
        yield Pair(a, b, traffic)
        traffic.flows()


# The app socket

HELLO = AppHello(0, 0, 77, 1, "bad")
ODD = msgspec.msgpack.encode([0, [[16, 0, 0, 77, 1, "bad"], [4, "no stamp"]]])
APP_BYTES = {
    "noise": (b"\x00\x04\x00\x00" + bytes(range(256)) * 5, "not a batch"),
    "a length over the limit": (struct.pack("<I", FRAME_BYTES_MAX + 1), "is over"),
    "a frame that is no batch": (framed(msgspec.msgpack.encode({"no": "batch"})), "not a batch"),
    "an empty frame": (framed(b""), "not a batch"),
    "an empty batch": (framed(encode(0, [])), "HELLO"),
    "no hello": (framed(encode(0, [Ping(1)])), "HELLO"),
    "a gap in the counter": (framed(encode(0, [HELLO])) + framed(encode(2, [Ping(1)])), "batch 2 came where 1"),
    "a record of the other hop": (framed(encode(0, [HELLO, Welcome(0, "", "", 1, 1, 1, 1, 1, 1, 1, 1, 1)])), "may not"),
    "a bad record in a good batch": (framed(ODD), "not a batch"),
}


@pytest.mark.parametrize("case", APP_BYTES)
def test_bytes_that_break_the_app_protocol_cost_their_connection_and_one_note(pair: Pair, case: str) -> None:
    data, why = APP_BYTES[case]
    with pair.a.app(greet=False) as app:
        app.socket.sendall(data)
        assert app.ended()
    notes = [note for note in pair.a.noted("app_malformed") if why in note["why"]]
    assert 1 == len(notes) == len(pair.a.noted("app_malformed")), pair.a.tail()
    pair.is_undisturbed()


def test_a_refused_app_is_told_why_before_its_connection_ends(pair: Pair) -> None:
    with pair.a.app(greet=False) as app:
        app.socket.sendall(framed(encode(0, [Ping(1)])))
        refuse = app.expect(Refuse)
    assert RefuseReason.MALFORMED == refuse.reason
    assert "HELLO" in refuse.text


def test_an_app_that_ends_inside_a_frame_is_just_gone(pair: Pair) -> None:
    before = pair.a.settled_descriptors()
    with pair.a.app(name="cut") as app:
        app.socket.sendall(struct.pack("<I", 5000) + b"x" * 100)
    pair.a.expect("app_detached", app="cut")
    assert [] == pair.a.noted("app_malformed")
    until(lambda: pair.a.descriptors() <= before + 1, "its descriptors are given back")
    pair.is_undisturbed()


def test_frames_may_come_byte_by_byte_and_many_at_once(pair: Pair) -> None:
    with pair.a.app() as app:
        for seq in range(1, 4):
            frame = framed(encode(seq, [Request(int(Kind.CALL), seq, "echo", "", 9000, b"slow")]))
            for at in range(len(frame)):
                app.socket.sendall(frame[at : at + 1])
        app.socket.sendall(
            b"".join(
                framed(encode(seq, [Request(int(Kind.CALL), seq, "echo", "", 9000, b"fast")])) for seq in range(4, 500)
            )
        )
        assert set(range(1, 500)) == {app.expect(Reply).seq for _ in range(499)}


def test_large_bodies_arrive_whole_both_ways(pair: Pair) -> None:
    body = os.urandom(5_000_000)
    with pair.a.app() as app:
        reply = app.call("echo", body, timeout_s=30)
        assert isinstance(reply, Reply)
        assert body == reply.body
    pair.is_undisturbed()


def test_apps_that_connect_and_say_nothing_are_bounded_and_leave_no_descriptor_behind(pair: Pair) -> None:
    allow_open_files(5000)
    before = pair.a.settled_descriptors()
    with contextlib.ExitStack() as stack:
        silent = [stack.enter_context(pair.a.app(greet=False)) for _ in range(2000)]
        assert pair.a.descriptors() <= before + 2 * 1000 + 50
        with pair.a.app() as latecomer:
            assert isinstance(latecomer.call("echo"), Reply)
        assert all(app.ended() for app in silent)
    assert pair.a.noted("apps_full")
    until(lambda: pair.a.descriptors() <= before + 1, "their descriptors are given back")
    pair.is_undisturbed()


def test_an_app_that_never_reads_is_cut_off_at_the_limit_with_one_note(pair: Pair) -> None:
    with pair.a.app(name="deaf") as app:
        with contextlib.suppress(BrokenPipeError):
            for _ in range(100):
                app.request("echo", b"x" * 60_000)
        note = pair.a.expect("app_malformed", app="deaf")
        assert "app_unread_bytes_max" in note["why"]
        assert app.ended()
    assert 1 == len(pair.a.noted("app_malformed"))
    pair.is_undisturbed()


SERVING_APP = """
import subprocess, sys
from pathlib import Path
from tests.system.raw_app import RawApp

app = RawApp(Path(sys.argv[1]), "doomed")
app.serve("doomed", "d")
if sys.argv[2] == "child":
    app.socket.set_inheritable(True)
    subprocess.Popen([sys.executable, "-c", "import sys; sys.stdin.read()"], close_fds=False)
print("serving", flush=True)
app.receive()
"""


@pytest.mark.parametrize("heir", ["alone", "child"])
def test_the_death_of_an_apps_process_is_noticed_even_if_a_child_keeps_its_socket(pair: Pair, heir: str) -> None:
    root = Path(__file__).resolve().parents[2]
    with subprocess.Popen(
        [sys.executable, "-c", SERVING_APP, str(pair.a.socket_path), heir],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        cwd=root,
    ) as process:
        assert process.stdout is not None
        assert b"serving\n" == process.stdout.readline()
        process.send_signal(signal.SIGKILL)
        killed_at = time.monotonic()
        pair.a.expect("app_session_ended", app="doomed", orderly=0)
        resume_grace_s = 5.0
        assert time.monotonic() - killed_at < resume_grace_s
    pair.is_undisturbed()


# The link port


def allow_open_files(count: int) -> None:
    """Raise this process's own limit."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(count, hard), hard))


def knock(agent: Agent, data: bytes = b"") -> socket.socket:
    """Open a TCP connection to an agent's link port and send some bytes."""
    connection = socket.create_connection(agent.links[0], timeout=WITHIN_S)
    connection.sendall(data)
    return connection


def is_ended(connection: socket.socket) -> bool:
    """Return True when the other end has closed a connection; raises TimeoutError if it does not."""
    try:
        while connection.recv(65_536):
            pass
    except ConnectionResetError:
        pass
    return True


GREETING = b"\xff" + b"\x00" * 8 + b"\x7f"
MECHANISM = GREETING + b"\x03\x00" + b"NULL" + b"\x00" * 16 + b"\x00" + b"\x00" * 31
READY = b"\x04\x1c\x05READY\x0bSocket-Type\x00\x00\x00\x06DEALER"
TCP_BYTES = {
    "nothing": b"",
    "a web request": b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n",
    "noise": bytes(range(255, -1, -1)) * 40,
    "half a greeting": GREETING[:5],
    "a greeting": GREETING,
    "a greeting and noise": MECHANISM + bytes(range(256)),
    "a whole handshake": MECHANISM + READY,
    "a handshake and a frame that never ends": MECHANISM + READY + b"\x02" + (1 << 20).to_bytes(8, "big") + b"x" * 99,
    "a frame over the limit": MECHANISM + READY + b"\x02" + (1 << 40).to_bytes(8, "big"),
    "zmtp 1.0": b"\x01\x00\x05\x00ping",
}


@pytest.mark.parametrize("case", TCP_BYTES)
def test_bytes_that_are_no_link_cost_their_connection_and_a_note(pair: Pair, case: str) -> None:
    with knock(pair.a, TCP_BYTES[case]) as connection:
        assert is_ended(connection)
    pair.a.expect("inbound_evicted")
    pair.is_undisturbed()


class Dealer:
    """A peer that completes the ZeroMQ handshake and then says what it likes. Its first batch has counter 0."""

    def __init__(self, agent: Agent) -> None:
        host, port = agent.links[0]
        self.context = zmq.Context()
        self.socket = self.context.socket(zmq.DEALER)
        self.socket.setsockopt(zmq.LINGER, 0)
        self.socket.setsockopt(zmq.RECONNECT_IVL, -1)
        self.monitor = self.socket.get_monitor_socket(int(zmq.Event.DISCONNECTED))
        self.socket.connect(f"tcp://{host}:{port}")

    def __enter__(self) -> "Dealer":
        return self

    def __exit__(self, *_: object) -> None:
        self.context.destroy(0)

    def receive(self) -> list[Record]:
        """Return the records of the next batch."""
        assert self.socket.poll(int(WITHIN_S * 1000)), "no answer"
        return msgspec.msgpack.decode(self.socket.recv(), type=tuple[int, list[Record]])[1]

    def is_ended(self) -> bool:
        """Return whether the agent closes the connection in time."""
        return bool(self.monitor.poll(int(WITHIN_S * 1000)))


def hello(node: str = "stranger", meant: str = "a", fleet: str = "default", protocol: int = 0) -> Hello:
    terms = (200, 1000, 1 << 20, 1 << 18, 2, 1000, 1 << 20)
    return Hello(protocol, protocol, fleet, node, 1, 1, meant, "127.0.0.1", 1, *terms)


BATCHES = {
    "noise": (bytes(range(256)), "link_malformed"),
    "nothing": (b"", "link_malformed"),
    "no batch": (msgspec.msgpack.encode({"no": "batch"}), "link_malformed"),
    "a record before hello": (encode(0, [Ping(1)]), "link_malformed"),
    "a record after hello in the same batch": (encode(0, [hello(meant="x"), Ping(1)]), "link_refused"),
    "a counter that does not begin at zero": (encode(1, [hello()]), "link_malformed"),
    "an app's hello": (encode(0, [HELLO]), "link_malformed"),
    "a node id with a slash": (encode(0, [hello(node="a/b")]), "link_malformed"),
    "a protocol to come": (encode(0, [hello(protocol=7)]), "link_refused"),
    "another node meant": (encode(0, [hello(meant="c")]), "link_refused"),
    "another fleet": (encode(0, [hello(fleet="staging")]), "link_refused"),
    "our own name": (encode(0, [hello(node="a")]), "duplicate_node"),
}


@pytest.mark.parametrize("case", BATCHES)
def test_messages_that_open_no_link_cost_their_connection_and_one_note(pair: Pair, case: str) -> None:
    data, name = BATCHES[case]
    with Dealer(pair.a) as dealer:
        for _ in range(100):
            dealer.socket.send(data)
        assert dealer.is_ended()
    pair.is_undisturbed()
    names = ("link_malformed", "link_refused", "duplicate_node", "inbound_evicted")
    assert [name] == [note["event"] for note in pair.a.read_notes() if note["event"] in names], pair.a.tail()


def test_an_empty_batch_opens_nothing_and_its_connection_ends(pair: Pair) -> None:
    with Dealer(pair.a) as dealer:
        dealer.socket.send(encode(0, []))
        assert dealer.is_ended()
    pair.is_undisturbed()


def test_a_message_of_several_frames_ends_its_connection(pair: Pair) -> None:
    with Dealer(pair.a) as dealer:
        dealer.socket.send_multipart([encode(0, [hello()]), b"more", b"and more"])
        assert dealer.is_ended()
    assert "several frames" in pair.a.expect("inbound_evicted")["why"]
    pair.is_undisturbed()


def test_a_message_over_the_limit_ends_its_connection(pair: Pair) -> None:
    with Dealer(pair.a) as dealer:
        dealer.socket.send(b"x" * (FRAME_BYTES_MAX + 1))
        assert dealer.is_ended()
    pair.is_undisturbed()


@pytest.mark.parametrize(
    ("data", "why"),
    [
        (encode(2, [Ping(1)]), "batch 2 came where 1"),
        (encode(1, [hello()]), "may not send Hello"),
        (b"noise", "not a batch"),
    ],
    ids=["a gap in the counter", "a second hello", "noise"],
)
def test_an_open_link_that_breaks_the_protocol_is_closed_with_one_note(pair: Pair, data: bytes, why: str) -> None:
    with Dealer(pair.a) as dealer:
        dealer.socket.send(encode(0, [hello()]))
        assert isinstance(dealer.receive()[0], Welcome)
        dealer.socket.send(data)
        assert dealer.is_ended()
    assert why in pair.a.expect("link_malformed", peer="stranger")["why"]
    assert 1 == len(pair.a.noted("link_malformed"))
    pair.traffic.flows()
    assert [] == pair.traffic.failures


def test_connections_that_say_nothing_are_bounded_and_leave_no_descriptor_behind(pair: Pair) -> None:
    allow_open_files(5000)
    before = pair.a.settled_descriptors()
    with contextlib.ExitStack() as stack:
        silent = [stack.enter_context(knock(pair.a, MECHANISM + READY)) for _ in range(500)]
        until(lambda: pair.a.descriptors() <= before + 64 + 8, "at most inbound_unproven_max are there")
        assert all(is_ended(connection) for connection in silent)
    until(lambda: pair.a.descriptors() <= before, "their descriptors are given back")
    assert pair.a.noted("inbound_evicted", why="inbound_unproven_max")
    pair.is_undisturbed()


def test_a_flood_gets_no_more_descriptors_than_the_options_of_the_agent_need(fleet: Fleet) -> None:
    """4 for each link, 2 for each app, 1 for each watch and each stranger, and the reserve."""
    needed = 4 * 8 + 2 * 8 + 8 + 4 + 40
    options = {"inbound_unproven_max": 4, "app_connections_max": 8, "descriptors_reserve": 40}
    a, b = fleet.start("a", agent=options, links={"links_max": 8}, directory={"watches_max": 8}), fleet.start("b")
    with b.echo(), a.traffic(pause_s=0.05) as traffic, contextlib.ExitStack() as stack:
        assert needed == a.query("status")["descriptors_max"]
        most = 0
        strangers = []
        for _ in range(3 * needed):
            strangers.append(stack.enter_context(knock(a)))
            most = max(most, a.descriptors())
        assert most <= needed
        assert all(is_ended(stranger) for stranger in strangers)
        traffic.flows()
        assert [] == traffic.failures


@pytest.mark.alone
def test_an_agent_at_its_limit_of_open_files_goes_on_and_does_not_spin(fleet: Fleet) -> None:
    a, b = fleet.start("a"), fleet.start("b")
    with b.echo(), a.traffic(pause_s=0.05) as traffic:
        pid = a.reactor_pid
        open_now = a.settled_descriptors()
        _, hard = resource.prlimit(pid, resource.RLIMIT_NOFILE)
        resource.prlimit(pid, resource.RLIMIT_NOFILE, (open_now + 20, hard))
        with contextlib.ExitStack() as stack:
            strangers = [stack.enter_context(knock(a, MECHANISM + READY)) for _ in range(40)]
            apps = [stack.enter_context(a.app(greet=False)) for _ in range(20)]
            traffic.flows()
            assert all(is_ended(connection) for connection in strangers)
            assert all(app.ended() for app in apps)
        resource.prlimit(pid, resource.RLIMIT_NOFILE, (hard, hard))
        traffic.flows()
        assert [] == traffic.failures
        assert pid == a.reactor_pid
        assert a.load_over(2.0) < IDLE_LOAD_MAX


def test_a_flood_of_hellos_of_another_fleet_is_bounded(pair: Pair) -> None:
    allow_open_files(5000)
    before = pair.a.settled_descriptors()
    host, port = pair.a.links[0]
    with contextlib.ExitStack() as stack:
        context = stack.enter_context(zmq.Context())
        context.set(zmq.MAX_SOCKETS, 2000)
        for number in range(500):
            dealer = stack.enter_context(context.socket(zmq.DEALER))
            dealer.setsockopt(zmq.LINGER, 0)
            dealer.setsockopt(zmq.RECONNECT_IVL, -1)
            dealer.connect(f"tcp://{host}:{port}")
            dealer.send(encode(0, [hello(fleet="staging")]))
            if number % 50 == 49:
                until(lambda: pair.a.descriptors() <= before + 2 * 64, "the flood is shed while it goes on")
    until(lambda: pair.a.descriptors() <= before, "their descriptors are given back")
    pair.is_undisturbed()
