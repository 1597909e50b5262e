"""Real agents whose links are secured: who gets in, who does not, and that keys can change under load."""

import datetime
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

import mesh
from mesh.core.records import Flag
from tests.system.agents import ROOT, WITHIN_S, Agent, Fleet, Note, until
from tests.system.keyring import Keyring

pytestmark = pytest.mark.system

ATTACKER = (str(ROOT / "tests" / "system" / "attacker.py"),)


@pytest.fixture
def keyring(tmp_path: Path) -> Keyring:
    return Keyring(tmp_path / "keys")


def start(fleet: Fleet, keyring: Keyring, node: str) -> Agent:
    return fleet.start(node, security=keyring.enrol(node))


def attack(fleet: Fleet, keyring: Keyring, node: str, name: str = "") -> Agent:
    """Start an agent that uses its keys whatever they are."""
    return fleet.start(node, name=name, program=("-P", *ATTACKER), security=keyring.section(node))


def at(note: Note) -> datetime.datetime:
    return datetime.datetime.fromisoformat(note["timestamp"])


def test_agents_of_one_fleet_reach_each_other_and_say_by_which_keys(fleet: Fleet, keyring: Keyring) -> None:
    a, b = start(fleet, keyring, "a"), start(fleet, keyring, "b")
    with b.echo(), a.traffic() as traffic:
        traffic.flows()
        link = a.link_to("b")
    assert link is not None
    assert [] == traffic.failures
    security = a.query("status")["security"]
    assert (True, keyring.key_of("a")[:8], 0) == (security["curve"], security["key"], security["revoked"])


# Who dials with what

Prepare = Callable[[Keyring], None]


def as_another(keyring: Keyring) -> None:
    keyring.show("m", keyring.certificate("somebody", keyring.key_of("m")))


def by_anothers_certificate(keyring: Keyring) -> None:
    keyring.enrol("d")
    keyring.show("m", keyring.certificate("m", keyring.key_of("d")))


def forged(keyring: Keyring) -> None:
    keyring.show("m", Keyring(keyring.directory / "forger").certificate("m", keyring.key_of("m")))


def of_another_fleet(keyring: Keyring) -> None:
    keyring.show("m", Keyring(keyring.directory / "other", "staging").certificate("m", keyring.key_of("m")))


def expired(keyring: Keyring) -> None:
    keyring.show("m", keyring.certificate("m", keyring.key_of("m"), -3600, -60))


def not_valid_yet(keyring: Keyring) -> None:
    keyring.show("m", keyring.certificate("m", keyring.key_of("m"), 600, 3600))


def without(keyring: Keyring) -> None:
    keyring.show("m", b"none")


@pytest.mark.parametrize(
    ("prepare", "why"),
    [
        (as_another, "'m' showed a certificate of 'somebody'"),
        (by_anothers_certificate, "'m' showed a certificate for another key than the one it connected with"),
        (forged, "a certificate that no key of this fleet has signed (it says node 'm' of fleet 'default')"),
        (of_another_fleet, "a certificate that no key of this fleet has signed (it says node 'm' of fleet 'staging')"),
        (expired, "'m' showed a certificate that expired at "),
        (not_valid_yet, "'m' showed a certificate that is valid only from "),
        (without, "'m' showed a certificate that cannot be read"),
    ],
)
def test_who_is_not_proven_is_refused_and_noted_with_its_address(
    fleet: Fleet, keyring: Keyring, prepare: Prepare, why: str
) -> None:
    a = start(fleet, keyring, "a")
    keyring.enrol("m")
    prepare(keyring)
    m = attack(fleet, keyring, "m")
    with a.echo(), m.app() as app:
        app.request("echo", b"let me in", flags=int(Flag.WAIT))
        noted = a.expect("link_refused", peer="m", by_us=1)
    assert why in noted["why"]
    refused = a.query("status")["refused"][0]
    assert ("m", noted["why"]) == (refused["peer"], refused["why"])
    assert refused["address"].startswith("127.0.0.1:")
    assert a.link_to("m") is None


def test_a_revoked_key_does_not_get_through_the_handshake(fleet: Fleet, keyring: Keyring) -> None:
    keyring.enrol("m")
    keyring.revoke("m")
    a = start(fleet, keyring, "a")
    m = attack(fleet, keyring, "m")
    with a.echo(), m.app() as app:
        app.request("echo", b"let me in", flags=int(Flag.WAIT))
        assert "127.0.0.1" == a.expect("inbound_evicted", why="its key was revoked")["address"]
        assert "it does not let this agent in" in m.expect("dial_failed", peer="a")["why"]
    assert [] == a.query("links")


@pytest.mark.parametrize("curve", [True, False])
def test_whoever_speaks_without_curve_does_not_get_in_nor_is_he_dialled(
    fleet: Fleet, keyring: Keyring, curve: bool
) -> None:
    """``curve``: of the agent that dials."""
    plain, secured = {"curve": False}, keyring.enrol("dialler" if curve else "server")
    dialler = fleet.start("dialler", security=secured if curve else plain, http={"http_listen": "127.0.0.1:0"})
    server = fleet.start("server", security=plain if curve else secured)
    with server.echo(), dialler.app() as app:
        app.request("echo", b"let me in", flags=int(Flag.WAIT))
        dialler.expect("dial_failed", peer="server")
        failed = until(lambda: dialler.query("status")["refused"], "the dial is in the status")
    assert "server" == failed[0]["peer"]
    assert f"127.0.0.1:{server.links[0][1]}" == failed[0]["address"]
    metric = 'heartmesh_connection_refused_timestamp_seconds{host="127.0.0.1",peer="server"}'
    assert metric in dialler.get("/metrics")[1]
    assert [] == server.query("links")


# Who is dialled, by a catalogue that lies


@pytest.mark.parametrize("prepare", [forged, by_anothers_certificate, expired])
def test_an_impostor_in_the_catalogue_gets_a_refusal_and_no_message(
    fleet: Fleet, keyring: Keyring, prepare: Prepare
) -> None:
    a = start(fleet, keyring, "a")
    keyring.enrol("m")
    prepare(keyring)
    m = attack(fleet, keyring, "m")
    with m.echo() as impostor, a.app() as app:
        app.request("echo", b"secret", flags=int(Flag.WAIT))
        assert "'m' showed a certificate" in a.expect("link_refused", peer="m", by_us=1)["why"]
        assert 0 == impostor.served


def test_an_impostor_that_says_it_has_our_name_stops_nobody(fleet: Fleet, keyring: Keyring) -> None:
    keyring.enrol("a")
    right = keyring.shown_by("a")
    forger = Keyring(keyring.directory / "forger")
    keyring.show("a", forger.certificate("a", keyring.key_of("a")))
    impostor = attack(fleet, keyring, "a", name="impostor")
    until(lambda: impostor.query("status")["matchmaker"]["registered"], "the impostor is entered")
    keyring.show("a", right)
    a = fleet.start("a", security=keyring.section("a"))
    a.expect("namesake_silent")
    facts = until(lambda: a.query("status")["matchmaker"]["registered"], "the rightful one is entered")
    assert facts == 1
    assert a.process.poll() is None


# Keys change


@pytest.mark.alone
def test_a_revoked_keys_links_end_within_a_second_of_the_reload(fleet: Fleet, keyring: Keyring) -> None:
    a, b, c = (start(fleet, keyring, node) for node in "abc")
    with b.echo("at-b"), c.echo("at-c"), a.traffic("at-b"), a.traffic("at-c") as others:
        keyring.revoke("b", "a")
        a.send(signal.SIGHUP)
        reloaded, lost = a.expect("reloaded"), a.noted("link_lost", peer="b") or [a.expect("link_lost", peer="b")]
        assert "the key of 'b' was revoked" == lost[0]["why"]
        assert abs(at(lost[0]) - at(reloaded)) < datetime.timedelta(seconds=1)
        a.expect("dial_failed", peer="b") if not a.noted("dial_failed", peer="b") else None
        others.flows()
        assert a.link_to("b") is None
        assert [] == others.failures
    assert 1 == a.query("status")["security"]["revoked"]


def test_a_renewed_certificate_is_taken_and_the_links_stay(fleet: Fleet, keyring: Keyring) -> None:
    a, b = start(fleet, keyring, "a"), start(fleet, keyring, "b")
    with b.echo(), a.traffic() as traffic:
        before, pid = a.link_to("b"), a.reactor_pid
        keyring.renew("a")
        assert "valid until" in a.query("reload")["keys"]
        traffic.flows()
        after = a.link_to("b")
    assert before is not None
    assert after is not None
    assert before["age_s"] < after["age_s"]
    assert (pid, []) == (a.reactor_pid, traffic.failures)


def test_keys_that_cannot_be_read_change_nothing(fleet: Fleet, keyring: Keyring) -> None:
    a, b = start(fleet, keyring, "a"), start(fleet, keyring, "b")
    with b.echo(), a.traffic() as traffic:
        (keyring.node("a") / "node.key").chmod(0o640)
        done = subprocess.run(
            [sys.executable, "-m", "mesh.cli", "reload", "--socket", str(a.socket_path)],
            cwd=ROOT,
            capture_output=True,
            text=True,
            check=False,
        )
        traffic.flows()
    assert 7 == done.returncode
    assert "nothing was changed" in done.stderr
    assert "chmod 600" in done.stderr
    assert [] == traffic.failures


class Caller:
    """Calls a topic all the time, not repeatably, until it is stopped; every end is counted."""

    def __init__(self, client: mesh.Client, topic: str) -> None:
        self.client = client
        self.topic = topic
        self.answered = 0
        self.failures: list[str] = []
        self.ending = threading.Event()
        self.thread = threading.Thread(target=self.run, daemon=True)
        self.thread.start()

    def run(self) -> None:
        while not self.ending.wait(0.002):
            try:
                self.client.call(self.topic, b"x" * 64, timeout_s=WITHIN_S)
                self.answered += 1
            except mesh.OutcomeError as error:
                self.failures.append(repr(error))

    def flows(self) -> None:
        """Return when two more calls were answered."""
        target = self.answered + 2
        until(lambda: self.answered >= target or self.failures, "calls go on")

    def stop(self) -> None:
        self.ending.set()
        self.thread.join(WITHIN_S)


@pytest.fixture
def apps() -> Iterator[ExitStack]:
    with ExitStack() as stack:
        yield stack


@pytest.mark.timeout(240)
def test_the_keys_of_five_change_under_load_and_no_call_fails(fleet: Fleet, keyring: Keyring, apps: ExitStack) -> None:
    agents = [start(fleet, keyring, node) for node in "abcde"]
    for agent in agents:
        server = apps.enter_context(mesh.connect(app="server", socket=agent.socket_path))
        server.serve("work", lambda message: message.body, workers=4)
    callers = []
    for agent in agents:
        client = apps.enter_context(mesh.connect(app="caller", socket=agent.socket_path))
        client.call("work", b"", wait=True, timeout_s=WITHIN_S)
        callers.append(Caller(client, "work"))
        apps.callback(callers[-1].stop)
    for caller in callers:
        caller.flows()
    for agent in agents:
        before = agent.query("status")["security"]["key"]
        keyring.rotate(agent.node)
        pid = agent.reactor_pid
        agent.send(signal.SIGHUP)
        until(lambda agent=agent, pid=pid: agent.reactor_pid != pid, "another reactor is ready")  # type: ignore[misc]
        assert before != until(lambda agent=agent: agent.query("status")["security"]["key"], "it answers")  # type: ignore[misc]
        for caller in callers:
            caller.flows()
    for caller in callers:
        caller.stop()
    assert [] == [failure for caller in callers for failure in caller.failures]
    assert all(caller.answered > 10 for caller in callers)
    for agent in agents:
        assert 0 == agent.stop()
        assert [] == agent.noted("link_refused")


# Without keys


def test_an_agent_outside_the_local_preset_does_not_start_without_keys(tmp_path: Path) -> None:
    config = tmp_path / "agent.toml"
    config.write_text(
        'preset = "lan"\n[matchmaker]\nkind = "sqlite"\n'
        f'[agent]\nbind = ["127.0.0.1"]\ndata_dir = "{tmp_path}/data"\nsocket = "{tmp_path}/s"\n'
    )
    done = subprocess.run(
        [sys.executable, "-m", "mesh.agent", "--config", str(config)],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert 78 == done.returncode
    assert "mesh keys generate" in done.stderr
