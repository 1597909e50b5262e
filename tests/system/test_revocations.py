"""Revocations published while agents run, at a real Consul: who hears of them, when, and what is not believed."""

import datetime
import json
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from mesh.core.records import Flag
from mesh.matchmaker.consul_api import ConsulOptions
from mesh.matchmaker.consul_revocations import ConsulRevocations
from mesh.security import store
from mesh.security.certificates import Revocations, sign
from mesh.security.forms import write_line
from tests.consul_server import ConsulServer, free_port
from tests.system.agents import ROOT, Agent, Fleet, Note, over_consul, until
from tests.system.keyring import Keyring

pytestmark = pytest.mark.system

WITHIN = datetime.timedelta(seconds=1)
"""What is promised: from the publication to the end of a revoked key's links."""

VALUE_BYTES_MAX = 4 << 20


@pytest.fixture
def keyring(tmp_path: Path) -> Keyring:
    return Keyring(tmp_path / "keys")


@pytest.fixture
def consul(tmp_path: Path) -> Iterator[ConsulServer]:
    """One that lets keys be larger than Consul's default."""
    with ConsulServer(tmp_path / "consul", settings={"limits": {"kv_max_value_size": VALUE_BYTES_MAX}}) as server:
        yield server


@pytest.fixture
def fleet(tmp_path: Path, consul: ConsulServer) -> Iterator[Fleet]:
    with Fleet(tmp_path, **over_consul(consul.address)) as fleet:
        yield fleet


def start(fleet: Fleet, keyring: Keyring, node: str, **sections: Any) -> Agent:
    return fleet.start(node, security=keyring.enrol(node), **sections)


def keys(*arguments: str, status: int = 0) -> str:
    """Run `mesh keys`, and return what it said; it must exit with this status."""
    command = [sys.executable, "-m", "mesh.cli", "keys", *arguments]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert status == done.returncode, done.stderr
    return done.stdout + done.stderr


def place_of(consul: ConsulServer) -> ConsulRevocations:
    return ConsulRevocations("default", ConsulOptions(address=consul.address))


def post(place: ConsulRevocations, text: bytes) -> None:
    assert place.post(text, place.read().written)


def at(note: Note) -> datetime.datetime:
    return datetime.datetime.fromisoformat(note["timestamp"])


def known(agent: Agent) -> tuple[int, int, bool]:
    """Return how many keys an agent knows to be revoked, by which list, and whether something is wrong with hearing."""
    facts = agent.query("status")["security"]
    return facts["revoked"], facts["revocations"], bool(facts["problem"])


def shut_out(agent: Agent, revoked: Agent) -> None:
    """Return when an agent has kept a revoked one out of the handshake."""
    agent.skip_notes()
    with revoked.app() as app:
        app.request("at-" + agent.node, b"let me in", flags=int(Flag.WAIT))
        agent.expect("inbound_evicted", why="its key was revoked")
    assert agent.link_to(revoked.node) is None


@pytest.mark.alone
def test_a_published_revocation_ends_links_within_a_second_and_outlasts_a_restart_without_consul(
    fleet: Fleet, keyring: Keyring, consul: ConsulServer, capsys: pytest.CaptureFixture[str]
) -> None:
    a, b, c = (start(fleet, keyring, node, agent={"link_port": free_port()}) for node in "abc")
    with a.echo("at-a"), b.echo("at-b"), c.echo("at-c"), a.traffic("at-b", timeout_s=2), c.traffic("at-b", timeout_s=2):
        with a.traffic("at-c") as others:
            store.revoke(keyring.fleet, "b", time.time())
            text, place = store.revocations_text(keyring.fleet), place_of(consul)
            published = datetime.datetime.now(datetime.UTC)
            post(place, text)
            lost = [agent.expect("link_lost", peer="b") for agent in (a, c)]
            for agent in (a, c):
                agent.expect("revocations_learned", number=1, revoked=1)
            others.flows()
            assert [] == others.failures
        shut_out(a, b)
    assert {"the key of 'b' was revoked"} == {note["why"] for note in lost}
    took = [at(note) - published for note in lost]
    assert max(took) < WITHIN
    b.expect("own_key_revoked")

    consul.stop()
    a.kill()
    a.spawn()
    a.expect("reactor_ready")
    a.expect("revocations_away")
    until(lambda: known(a) == (1, 1, True), "it knows the list, and that it hears of no other")
    with a.echo("at-a"):
        shut_out(a, b)
    with capsys.disabled():
        print(f"\na published revocation ended links after {[round(each.total_seconds(), 3) for each in took]} s")


def listed(keyring: Keyring, number: int, *revoked: str, fleet: str = "default") -> bytes:
    told = Revocations(fleet, number, revoked)
    return write_line("revoked", sign(told, keyring.secret.signer)).encode()


Text = Callable[[Keyring], bytes]

BAD: list[tuple[Text, str]] = [
    (lambda keyring: b"not ours", "line 1 is no 'heartmesh revoked …'"),
    (lambda keyring: b"heartmesh revoked AAAA\n", "holds no revocations that can be read"),
    (lambda keyring: listed(Keyring(keyring.directory / "forger"), 9), "is signed by no key of this fleet"),
    (lambda keyring: listed(keyring, 9, fleet="prod"), "is of fleet 'prod', this is 'default'"),
    (lambda keyring: b"x" * (store.REVOKED_BYTES_MAX + 1), "is larger than 524288 bytes"),
    (lambda keyring: listed(keyring, 1), "is number 1, older than number 2 in use"),
]


def test_what_is_no_list_of_the_fleet_or_an_older_one_is_refused_and_the_one_of_before_stays(
    fleet: Fleet, keyring: Keyring, consul: ConsulServer
) -> None:
    a, b = start(fleet, keyring, "a"), start(fleet, keyring, "b")
    place = place_of(consul)
    post(place, listed(keyring, 2, "k" * 40))
    for agent in (a, b):
        agent.expect("revocations_learned", number=2, revoked=1)
    with b.echo(), a.traffic() as traffic:
        for text, why in BAD:
            post(place, text(keyring))
            noted = a.expect("revocations_refused", why=why)
            assert f"heartmesh/default/revoked at Consul at {consul.address}" == noted["where"]
        until(lambda: known(a) == (1, 2, True), "the list of before is in effect")
        post(place, listed(keyring, 3, "k" * 40, "l" * 40))
        a.expect("revocations_learned", number=3, revoked=2)
        until(lambda: known(a) == (2, 3, False), "the later list is in effect")
        traffic.flows()
        assert [] == traffic.failures


# The operator


def test_the_operator_publishes_what_is_later_and_nothing_else(
    fleet: Fleet, keyring: Keyring, consul: ConsulServer, tmp_path: Path
) -> None:
    a, b = start(fleet, keyring, "a"), start(fleet, keyring, "b")
    where, own = ("--consul", consul.address), str(keyring.fleet)
    copy = tmp_path / "copy"
    subprocess.run(["cp", "-a", own, copy], check=True)
    told = keys("revoke", own, "b", "--publish", *where)
    assert f"revoked {keyring.key_of('b')}" in told
    assert f"heartmesh/default/revoked at Consul at {consul.address}: number 1, 1 keys; agents take it" in told
    a.expect("revocations_learned", number=1)
    assert "was there already" in keys("publish", own, *where)
    assert "which this directory, at number 0, does not know" in keys("publish", str(copy), *where, status=1)
    keyring.enrol("c")
    other = keys("revoke", own, "c", "--publish", *where)
    assert "number 2, 2 keys; agents take it" in other
    a.expect("revocations_learned", number=2, revoked=2)
    post(place_of(consul), b"rubbish")
    assert "line 1 is no 'heartmesh revoked …'; it is replaced" in keys("publish", own, *where)
    assert "of fleet 'default'" in keys("publish", own, "--config", str(prod(tmp_path)), status=2)
    consul.stop()
    keyring.enrol("d")
    told = keys("revoke", own, "d", "--publish", "--config", str(b.config_path), status=1)
    assert "number 3, 3 keys" in told
    assert "the list is written, `mesh keys publish` publishes it" in told


def prod(directory: Path) -> Path:
    path = directory / "prod.toml"
    told = {"fleet": "prod", "data_dir": str(directory), "socket": str(directory / "s")}
    path.write_text("[agent]\n" + "".join(f"{name} = {json.dumps(value)}\n" for name, value in told.items()))
    return path


def test_under_acls_agents_hear_of_it_and_one_that_may_not_read_the_key_says_so_and_goes_on(
    tmp_path: Path, keyring: Keyring
) -> None:
    policies = ROOT / "consul" / "acl"
    agent_rules = (policies / "agent.hcl").read_text()
    blind_rules = agent_rules.replace('key "heartmesh/default/revoked"', 'key "heartmesh/default/other"')
    rules = {"agent": agent_rules, "blind": blind_rules, "operator": (policies / "operator.hcl").read_text()}
    with ConsulServer(tmp_path / "consul", acl=True) as consul, Fleet(tmp_path) as fleet:
        files = {who: tmp_path / who for who in rules}
        for who, file in files.items():
            file.write_text(consul.new_token(rules[who]))

        def begin(node: str, who: str) -> Agent:
            options = {"address": consul.address, "token_file": str(files[who])}
            return start(fleet, keyring, node, matchmaker={"kind": "consul"}, matchmaker__consul=options)

        a, b = begin("a", "agent"), begin("b", "blind")
        assert 'key "heartmesh/default/revoked"' in b.expect("revocations_away")["why"]
        keyring.enrol("c")
        denied = keys("revoke", str(keyring.fleet), "c", "--publish", "--config", str(a.config_path), status=1)
        assert 'needs key "heartmesh/default/revoked" { policy = "write" }' in denied
        where = ("--consul", consul.address, "--token-file", str(files["operator"]))
        assert "agents take it" in keys("publish", str(keyring.fleet), *where)
        a.expect("revocations_learned", number=1)
        with b.echo(), a.traffic() as traffic:
            traffic.flows()
            assert [] == traffic.failures
        until(lambda: (known(a), known(b)) == ((1, 1, False), (0, 0, True)), "one knows, the other does not")
