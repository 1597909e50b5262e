"""Where revocations are posted, at a real Consul: who may write, who hears of it, and when."""

import threading
import time
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from mesh.matchmaker.base import MatchmakerError
from mesh.matchmaker.consul import ConsulOptions
from mesh.matchmaker.consul_revocations import ConsulRevocations
from mesh.matchmaker.names import fleet_key
from mesh.security.store import REVOKED_BYTES_MAX
from tests.consul_server import ConsulServer

pytestmark = pytest.mark.system

POLICIES = Path(__file__).resolve().parents[2] / "consul" / "acl"

Make = Callable[..., ConsulRevocations]


@pytest.fixture
def fleet() -> str:
    return f"fleet-{uuid.uuid4().hex[:8]}"


@pytest.fixture
def make(consul: ConsulServer, fleet: str) -> Iterator[Make]:
    """Makes ways to the key of one fleet, and closes them."""
    made: list[ConsulRevocations] = []

    def making(of: str = fleet, at: ConsulServer = consul, token_file: str = "") -> ConsulRevocations:
        made.append(ConsulRevocations(of, ConsulOptions(address=at.address, token_file=token_file)))
        return made[-1]

    yield making
    for one in made:
        one.close()


def test_what_is_posted_is_read_by_those_of_the_fleet_and_replaced_only_as_it_was_read(make: Make) -> None:
    operator, agent, other = make(), make(), make(of="other")
    assert (None, 0) == agent.read()[::2]
    assert operator.post(b"one", 0)
    assert not operator.post(b"two", 0)
    found = agent.read()
    assert b"one" == found.text
    assert operator.post(b"x" * REVOKED_BYTES_MAX, found.written)
    assert REVOKED_BYTES_MAX == len(agent.read().text or b"")
    assert None is other.read().text
    with pytest.raises(MatchmakerError, match="too large"):
        operator.post(b"x" * (REVOKED_BYTES_MAX + 1), agent.read().written)


def test_who_waits_hears_of_a_change_at_once_and_of_none_when_the_time_is_over(make: Make) -> None:
    operator, agent = make(), make()
    begun = agent.read()
    assert (None, begun.position) == agent.read(begun.position, 0.1)[:2]
    heard: list[tuple[float, bytes | None]] = []

    def wait() -> None:
        found = agent.read(begun.position, 30)
        heard.append((time.monotonic(), found.text))

    waiter = threading.Thread(target=wait)
    waiter.start()
    posted_at = time.monotonic()
    assert operator.post(b"one", 0)
    waiter.join(30)
    ((at, text),) = heard
    assert b"one" == text
    assert at - posted_at < 10


def test_a_place_in_history_that_is_no_more_is_begun_with_anew(make: Make) -> None:
    agent = make()
    assert 0 == agent.read(1 << 40, 0.1).position


def test_a_key_without_a_value_holds_an_empty_text(make: Make, consul: ConsulServer, fleet: str) -> None:
    consul.put(f"/v1/kv/{fleet_key(fleet)}revoked", None)
    assert b"" == make().read().text


def test_agents_may_read_and_the_operator_may_write(consul_with_acls: ConsulServer, make: Make, tmp_path: Path) -> None:
    ways = {}
    for who in ("agent", "operator", "topology-keeper"):
        file = tmp_path / who
        file.write_text(consul_with_acls.new_token((POLICIES / f"{who}.hcl").read_text()))
        ways[who] = make(of="default", at=consul_with_acls, token_file=str(file))
    assert ways["operator"].post(b"one", ways["operator"].read().written)
    assert b"one" == ways["agent"].read().text
    for who in ("agent", "topology-keeper"):
        with pytest.raises(MatchmakerError, match=r'needs key "heartmesh/default/revoked" { policy = "write" }'):
            ways[who].post(b"two", 0)
    with pytest.raises(MatchmakerError, match=r'needs key "heartmesh/default/revoked" { policy = '):
        ways["topology-keeper"].read()


def test_closing_ends_who_waits(make: Make) -> None:
    agent = make()
    ends: list[str] = []

    def wait() -> None:
        with pytest.raises(MatchmakerError) as raised:
            agent.read(agent.read().position, 60)
        ends.append(str(raised.value))

    waiter = threading.Thread(target=wait)
    waiter.start()
    while not agent._api._busy:
        time.sleep(0.01)
    agent.close()
    waiter.join(30)
    assert "it was closed here" in ends[0]
