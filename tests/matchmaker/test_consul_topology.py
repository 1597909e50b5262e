"""What the topology does at a real Consul: sessions, predecessors, rights; and that the files for Consul hold."""

import contextlib
import subprocess
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from mesh.core.catalogue import Health
from mesh.core.edges import Caller, Edge
from mesh.core.health import Verdict
from mesh.matchmaker.base import MatchmakerError
from mesh.matchmaker.consul import ConsulOptions
from mesh.matchmaker.consul_topology import ConsulTopology
from mesh.matchmaker.names import app_service, fleet_key, topology_node
from mesh.matchmaker.picture import pair
from tests.consul_server import ConsulServer, binary

pytestmark = pytest.mark.system

WEB = Caller("", "web", True)
EDGES = [Edge(WEB, "orders"), Edge(Caller("", "orders"), "stock")]
FILES = Path(__file__).resolve().parents[2] / "consul"

Make = Callable[..., ConsulTopology]


@pytest.fixture
def fleet() -> str:
    return f"fleet-{uuid.uuid4().hex[:8]}"


@pytest.fixture
def make(consul: ConsulServer, fleet: str) -> Iterator[Make]:
    """Makes agents' parts, of one fleet, and closes them."""
    made: list[ConsulTopology] = []

    def making(node: str = "a", at: ConsulServer = consul, token_file: str = "", of: str = fleet) -> ConsulTopology:
        made.append(ConsulTopology(of, node, ConsulOptions(address=at.address, token_file=token_file)))
        return made[-1]

    yield making
    for one in made:
        one.close()


def test_edges_of_all_agents_are_told_until_their_sessions_end(make: Make, fleet: str) -> None:
    a, b = make("a"), make("b")
    of_a, of_b = a.open_session(10), b.open_session(10)
    a.tell(of_a, EDGES[:1])
    first = a.told(0, 0)
    b.tell(of_b, EDGES)
    both = a.told(first.position, 10)
    assert [pair(fleet, EDGES[0])] == first.pairs
    assert sorted(pair(fleet, edge) for edge in EDGES) == both.pairs
    b.end_session(of_b)
    assert first.pairs == a.told(both.position, 10).pairs
    assert (True, False) == (a.keep_session(of_a), b.keep_session(of_b))


def test_a_successor_takes_the_place_of_an_agent_that_left_its_session(make: Make) -> None:
    before, after = make("a"), make("a")
    old = before.open_session(10)
    before.tell(old, EDGES)
    assert before.lock(old)
    new = after.open_session(10)
    after.tell(new, [])
    assert ([], False) == (after.told(0, 0).pairs, before.keep_session(old))
    assert after.lock(new)


def test_one_of_two_has_the_lock_and_the_other_gets_it_when_the_first_ends(make: Make) -> None:
    a, b = make("a"), make("b")
    of_a, of_b = a.open_session(10), b.open_session(10)
    assert (True, True, False) == (a.lock(of_a), a.lock(of_a), b.lock(of_b))
    a.end_session(of_a)
    b.wait_for_lock(10)
    assert b.lock(of_b)


def test_a_picture_is_written_once_and_taken_back_whole(make: Make, consul: ConsulServer, fleet: str) -> None:
    a = make()
    pairs = [pair(fleet, edge) for edge in EDGES]
    assert (5, 0) == (a.draw(pairs), a.draw(pairs))
    assert (3, 0) == (a.draw(pairs[:1]), a.draw(pairs[:1]))
    assert (3, 0) == (a.draw([]), a.draw([]))
    assert not consul.get(f"/v1/catalog/node-services/{topology_node(fleet)}")["Services"]
    assert not [e for e in consul.get("/v1/config/service-intentions") if e["Meta"].get("heartmesh") == fleet]


def test_what_cannot_be_read_is_counted_and_an_own_key_that_is_missing_is_an_error(
    make: Make, consul: ConsulServer, fleet: str
) -> None:
    a = make()
    with pytest.raises(MatchmakerError, match="does not show this agent's own edges"):
        a.told(0, 0)
    a.tell(a.open_session(10), [])
    consul.put(f"/v1/kv/{fleet_key(fleet)}edges/odd", [["not", "ours"]])
    assert ([], 1) == a.told(0, 0)[:2]


def test_an_app_that_only_calls_has_a_check_with_a_reason(make: Make, consul: ConsulServer, fleet: str) -> None:
    a = make()
    assert not a.report(WEB, Verdict(Health.PASSING))
    a.register(WEB)
    assert a.report(WEB, Verdict(Health.CRITICAL, "silent"))
    (row,) = consul.get(f"/v1/health/checks/{app_service(fleet, '', 'web')}")
    assert ("critical", "silent") == (row["Status"], row["Output"])
    a.withdraw(WEB)
    assert not a.report(WEB, Verdict(Health.PASSING))


@pytest.mark.parametrize(
    ("lacks", "verb", "needs"),
    [
        ("session_prefix", lambda a: a.open_session(10), 'session_prefix "" { policy = "write" }'),
        ("key_prefix", lambda a: a.tell(a.open_session(10), []), 'key_prefix "heartmesh/default/edges/"'),
        ('key "heartmesh/default/keeper"', lambda a: a.lock(a.open_session(10)), 'key "heartmesh/default/keeper"'),
        ("node ", lambda a: a.draw([("heartmesh-app-x", "heartmesh-topic-y")]), 'node "heartmesh-topology"'),
    ],
)
def test_a_right_that_is_missing_is_named_and_each_rule_is_needed(
    make: Make,
    consul_with_acls: ConsulServer,
    tmp_path: Path,
    lacks: str,
    verb: Callable[[ConsulTopology], object],
    needs: str,
) -> None:
    rules = "".join((FILES / "acl" / f"{name}.hcl").read_text() for name in ("agent", "topology-keeper"))
    blocks = [block + "}\n" for block in rules.split("\n}\n")[:-1]]
    some = [block for block in blocks if not any(line.startswith(lacks) for line in block.splitlines())]
    assert len(blocks) - 1 == len(some)
    for kept, allowed in ((some, False), (blocks, True)):
        file = tmp_path / f"token-{allowed}"
        file.write_text(consul_with_acls.new_token("\n".join(kept)))
        a = make(at=consul_with_acls, token_file=str(file), of="default")
        with contextlib.nullcontext() if allowed else pytest.raises(MatchmakerError, match=needs):
            verb(a)


@pytest.mark.parametrize("name", ["dashboard", "dev/server", "production/client", "production/server"])
def test_consul_takes_the_configuration(name: str, tmp_path: Path) -> None:
    place = tmp_path / "place.hcl"
    place.write_text("" if name.startswith("production") else f'data_dir = "{tmp_path}"')
    command = [binary(), "validate", "-config-format=hcl", str(FILES / f"{name}.hcl"), str(place)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert 0 == done.returncode, done.stdout + done.stderr
