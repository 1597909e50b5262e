"""What the Consul matchmaker adds to the contract: names, neighbours, rights, restarts and wipes, on a real Consul."""

import contextlib
import http.client
import statistics
import subprocess
import sys
import time
import uuid
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from mesh.core.catalogue import AgentEntry, Health
from mesh.matchmaker.base import MatchmakerError
from mesh.matchmaker.consul import ConsulMatchmaker, ConsulOptions
from mesh.matchmaker.names import FLEET_DEFAULT, agent_service, topic_service
from mesh.types import TopicKey
from tests.consul_server import ConsulServer, binary, free_port
from tests.matchmaker.worlds import ORDERS, agent, instance, until

pytestmark = pytest.mark.system

ANONYMOUS = "00000000-0000-0000-0000-000000000002"
ALL_RIGHTS = 'service_prefix "heartmesh-" { policy = "write" } node_prefix "" { policy = "read" }'
WAIT_S = 60.0


@pytest.fixture
def fleet() -> str:
    return f"fleet-{uuid.uuid4().hex[:8]}"


@pytest.fixture
def made() -> Iterator[list[ConsulMatchmaker]]:
    """Matchmakers to close at the end."""
    matchmakers: list[ConsulMatchmaker] = []
    yield matchmakers
    for matchmaker in matchmakers:
        matchmaker.close()


Maker = Callable[..., ConsulMatchmaker]


@pytest.fixture
def make(made: list[ConsulMatchmaker], fleet: str) -> Maker:
    def maker(server: ConsulServer, *, of: str = fleet, **options: Any) -> ConsulMatchmaker:
        settings: dict[str, Any] = {"address": server.address, "ttl_s": 60} | options
        made.append(ConsulMatchmaker(of, ConsulOptions(**settings)))
        return made[-1]

    return maker


def serving(matchmaker: ConsulMatchmaker, sessions: int = 1, at: AgentEntry | None = None) -> None:
    at = at or agent()
    matchmaker.register(at)
    for session in range(1, sessions + 1):
        matchmaker.register(instance(at, session))


def sessions(matchmaker: ConsulMatchmaker) -> list[int]:
    return [found.session for found in matchmaker.watch(ORDERS, 0, 0).instances]


def ids(server: ConsulServer, service: str) -> dict[str, str]:
    """Session by service id."""
    rows = server.get(f"/v1/health/service/{service}")
    return {row["Service"]["ID"]: row["Service"]["Meta"].get("session", "") for row in rows}


def test_entries_of_the_default_fleet_have_the_plain_names(make: Maker, consul: ConsulServer) -> None:
    matchmaker = make(consul, of=FLEET_DEFAULT)
    serving(matchmaker)
    until(matchmaker, lambda seen: len(seen.instances) == 1)
    row = consul.get("/v1/health/service/heartmesh-topic-orders")[0]
    service = row["Service"]
    assert ("heartmesh-topic-orders:node1:0", "127.0.0.1", 7000) == (service["ID"], service["Address"], service["Port"])
    assert {
        "heartmesh": "1",
        "fleet": "default",
        "namespace": "",
        "topic": "orders",
        "server": "srv",
        "session": "1",
        "node": "node1",
        "incarnation": "1",
        "roles": "[]",
        "health": "",
        "public_key": "",
        "zone": "",
    } == service["Meta"]
    checks = {check["CheckID"]: (check["Type"], check["Status"]) for check in row["Checks"]}
    assert ("ttl", "passing") == checks["heartmesh-topic-orders:node1:0:ttl"]
    assert ("alias", "passing") == checks["heartmesh-topic-orders:node1:0:agent"]
    assert ["heartmesh-agent:node1"] == list(ids(consul, "heartmesh-agent"))
    matchmaker.withdraw(agent())


def test_an_instance_takes_the_lowest_slot_free_and_keeps_it(make: Maker, consul: ConsulServer, fleet: str) -> None:
    matchmaker, service = make(consul), topic_service(fleet, ORDERS)
    serving(matchmaker, sessions=3)
    matchmaker.withdraw(instance(agent(), 1))
    matchmaker.register(instance(agent(), 3))
    matchmaker.register(instance(agent(), 4))
    until(matchmaker, lambda seen: [found.session for found in seen.instances] == [2, 3, 4])
    assert {f"{service}:node1:0": "4", f"{service}:node1:1": "2", f"{service}:node1:2": "3"} == ids(consul, service)


def test_a_sites_own_service_of_the_same_name_is_neither_seen_nor_touched(
    make: Maker, consul: ConsulServer, fleet: str
) -> None:
    matchmaker, service = make(consul), topic_service(fleet, ORDERS)
    serving(matchmaker)
    theirs: list[dict[str, Any]] = [
        {"ID": f"{fleet}-plain", "Name": service, "Port": 80},
        {"ID": f"{fleet}-socket", "Name": service, "SocketPath": "/run/theirs"},
        {"ID": f"{fleet}-meta", "Name": service, "Port": 80, "Meta": {"fleet": fleet, "session": "9"}},
        {"ID": f"{fleet}-agent", "Name": agent_service(fleet), "Meta": {"node": "theirs"}},
    ]
    for definition in theirs:
        consul.put("/v1/agent/service/register", definition)
    until(matchmaker, lambda seen: len(seen.instances) == 1)
    assert [1] == sessions(matchmaker)
    assert [agent()] == list(matchmaker.agents())
    matchmaker.withdraw(agent())
    until(matchmaker, lambda seen: not seen.instances)
    assert {definition["ID"] for definition in theirs} <= set(consul.get("/v1/agent/services"))
    assert 0 == matchmaker.skipped


def test_entries_that_cannot_be_read_are_skipped_and_counted(make: Maker, consul: ConsulServer, fleet: str) -> None:
    matchmaker, service = make(consul), topic_service(fleet, ORDERS)
    serving(matchmaker)
    until(matchmaker, lambda seen: len(seen.instances) == 1)
    good = consul.get(f"/v1/health/service/{service}")[0]["Service"]["Meta"]
    port: dict[str, Any] = {"Address": "127.0.0.1", "Port": 7}
    bad: list[dict[str, Any]] = [
        *(
            {**port, "Meta": good | wrong}
            for wrong in (
                {"session": "many"},
                {"session": str(1 << 63)},
                {"incarnation": "-1"},
                {"node": "a/b"},
                {"node": ""},
                {"server": "no spaces"},
                {"roles": "["},
                {"roles": '{"a": 1}'},
                {"heartmesh": "2"},
                {"health": "blue"},
            )
        ),
        {"Address": "127.0.0.1", "Meta": good},
        {"Port": 7, "Meta": good},
    ]
    for number, definition in enumerate(bad):
        id = f"{fleet}-{number}"
        checks = [{"CheckID": f"{id}:ttl", "TTL": "60s", "Status": "passing"}]
        consul.put("/v1/agent/service/register", {"ID": id, "Name": service, "Checks": checks} | definition)
    consul.put("/v1/agent/service/register", {"ID": f"{fleet}-unchecked", "Name": service, "Meta": good} | port)
    while len(ids(consul, service)) < len(bad) + 2:
        time.sleep(0.05)
    before = matchmaker.skipped
    assert [1] == sessions(matchmaker)
    assert len(bad) + 1 == matchmaker.skipped - before


def test_a_reason_is_in_the_catalogue_at_once_for_whoever_looks_at_the_ui(
    make: Maker, consul: ConsulServer, fleet: str
) -> None:
    matchmaker, service = make(consul), topic_service(fleet, ORDERS)
    serving(matchmaker)
    for health, status in ((Health.WARNING, "warning"), (Health.MAINTENANCE, "warning"), (Health.CRITICAL, "critical")):
        reason = f"because of {health.name}"
        matchmaker.renew(instance(agent()), health, reason)
        deadline = time.monotonic() + 10
        while (status, reason) not in [
            (check["Status"], check["Output"]) for check in consul.get(f"/v1/health/checks/{service}")
        ]:
            assert time.monotonic() < deadline
            time.sleep(0.05)


def test_an_instance_that_an_operator_put_into_maintenance_is_passed_over(
    make: Maker, consul: ConsulServer, fleet: str
) -> None:
    matchmaker = make(consul)
    serving(matchmaker, sessions=2)
    until(matchmaker, lambda seen: len(seen.instances) == 2)
    id = f"{topic_service(fleet, ORDERS)}:node1:0"
    consul.put(f"/v1/agent/service/maintenance/{id}?enable=true")
    until(matchmaker, lambda seen: [found.session for found in seen.instances] == [2])
    consul.put(f"/v1/agent/service/maintenance/{id}?enable=false")
    until(matchmaker, lambda seen: len(seen.instances) == 2)


@pytest.mark.alone
def test_what_is_registered_is_seen_within_half_a_second(make: Maker, consul: ConsulServer) -> None:
    matchmaker, other = make(consul), make(consul)
    serving(matchmaker)
    seen = until(other, lambda seen: len(seen.instances) == 1)
    took = []
    with ThreadPoolExecutor(1) as threads:
        for session in range(2, 11):
            watching = threads.submit(other.watch, ORDERS, seen.index, WAIT_S)
            time.sleep(0.1)
            begun = time.monotonic()
            matchmaker.register(instance(agent(), session))
            seen = watching.result(WAIT_S)
            took.append(time.monotonic() - begun)
            assert session == len(seen.instances)
    assert statistics.median(took) < 0.5


def test_a_watch_that_nothing_happens_to_costs_one_request(make: Maker, consul: ConsulServer) -> None:
    matchmaker = make(consul)
    serving(matchmaker)
    seen = until(matchmaker, lambda seen: len(seen.instances) == 1)
    seen = matchmaker.watch(ORDERS, seen.index, 0.2)
    asked = []
    instances = matchmaker._api.instances

    def counting(service: str, **kwargs: Any) -> Any:
        asked.append(service)
        return instances(service, **kwargs)

    matchmaker._api.instances = counting  # type: ignore[method-assign]
    assert seen == matchmaker.watch(ORDERS, seen.index, 1.0)
    assert len(asked) <= 2


def test_a_wiped_consul_is_never_taken_for_an_empty_fleet(tmp_path: Path, make: Maker) -> None:
    """The watch fails when Consul goes, fails while the agent is unknown, and works when it registered again."""
    with ConsulServer(tmp_path) as server, ThreadPoolExecutor(1) as threads:
        matchmaker = make(server)
        serving(matchmaker)
        seen = until(matchmaker, lambda seen: len(seen.instances) == 1)
        watching = threads.submit(matchmaker.watch, ORDERS, seen.index, WAIT_S)
        time.sleep(0.3)
        server.stop()
        with pytest.raises(MatchmakerError, match=f"Consul at {server.address} could not list"):
            watching.result(WAIT_S)
        for verb in (lambda: matchmaker.register(agent()), lambda: matchmaker.withdraw(agent()), matchmaker.agents):
            with pytest.raises(MatchmakerError, match="refused"):
                verb()
        with pytest.raises(MatchmakerError, match="refused"):
            matchmaker.renew(agent(), Health.PASSING, "")
        server.wipe()
        server.start()
        for look in (lambda: matchmaker.watch(ORDERS, seen.index, WAIT_S), matchmaker.agents):
            with pytest.raises(MatchmakerError, match="not even this agent's own entry .* register again"):
                look()
        assert not matchmaker.renew(agent(), Health.PASSING, "")
        assert not matchmaker.renew(instance(agent()), Health.PASSING, "")
        serving(matchmaker)
        assert seen == until(matchmaker, lambda seen: len(seen.instances) == 1)


def test_a_restarted_consul_still_knows_its_entries(tmp_path: Path, make: Maker) -> None:
    with ConsulServer(tmp_path) as server:
        matchmaker = make(server)
        serving(matchmaker)
        seen = until(matchmaker, lambda seen: len(seen.instances) == 1)
        server.stop()
        server.start()
        assert matchmaker.renew(agent(), Health.PASSING, "")
        assert matchmaker.renew(instance(agent()), Health.PASSING, "")
        assert seen == until(matchmaker, lambda now: now == seen)


def with_token(tmp_path: Path, token: str) -> dict[str, str]:
    file = tmp_path / "token"
    file.write_text(token)
    return {"token_file": str(file)}


def test_a_token_with_the_documented_rights_is_enough(
    make: Maker, consul_with_acls: ConsulServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CONSUL_HTTP_TOKEN", "not-a-token")
    matchmaker = make(consul_with_acls, **with_token(tmp_path, consul_with_acls.new_token(ALL_RIGHTS)))
    serving(matchmaker)
    seen = until(matchmaker, lambda seen: len(seen.instances) == 1)
    assert matchmaker.renew(instance(agent()), Health.MAINTENANCE, "")
    assert seen.index != matchmaker.watch(ORDERS, seen.index, WAIT_S).index
    assert [agent()] == list(matchmaker.agents())
    assert () == matchmaker.watch(TopicKey("", "nobody"), 0, 0).instances
    matchmaker.withdraw(agent())


def test_a_write_without_the_right_is_an_error_that_names_it(
    make: Maker, consul_with_acls: ConsulServer, tmp_path: Path
) -> None:
    reader = consul_with_acls.new_token('service_prefix "" { policy = "read" } node_prefix "" { policy = "read" }')
    for options in ({}, with_token(tmp_path, reader), with_token(tmp_path, str(uuid.uuid4()))):
        with pytest.raises(MatchmakerError, match='service_prefix "heartmesh-" { policy = "write" }') as caught:
            make(consul_with_acls, **options).register(agent())
        assert reader not in str(caught.value)


def test_a_list_that_was_filtered_is_an_error_that_names_the_right(
    make: Maker, consul_with_acls: ConsulServer, tmp_path: Path
) -> None:
    writer = consul_with_acls.new_token('service_prefix "heartmesh-" { policy = "write" }')
    matchmaker = make(consul_with_acls, **with_token(tmp_path, writer))
    serving(matchmaker)
    for look in (lambda: matchmaker.watch(ORDERS, 0, 0), matchmaker.agents):
        with pytest.raises(MatchmakerError, match='the token in .* needs .* node_prefix "" { policy = "read" }'):
            look()


def test_an_empty_list_without_a_token_is_not_believed_where_consul_does_not_even_say_that_it_filtered(
    make: Maker, consul_with_acls: ConsulServer
) -> None:
    server = consul_with_acls
    rules = 'service_prefix "heartmesh-" { policy = "write" }'
    policy = server.put("/v1/acl/policy", {"Name": f"anonymous-{uuid.uuid4().hex}", "Rules": rules})["ID"]
    with contextlib.ExitStack() as undo:
        server.put(f"/v1/acl/token/{ANONYMOUS}", {"Policies": [{"ID": policy}]})
        undo.callback(server.put, f"/v1/acl/token/{ANONYMOUS}", {"Policies": []})
        matchmaker = make(server)
        serving(matchmaker)
        for look in (lambda: matchmaker.watch(ORDERS, 0, 0), matchmaker.agents):
            with pytest.raises(MatchmakerError, match='without a token .* node_prefix "" { policy = "read" }'):
                look()


def test_a_right_that_is_taken_away_during_a_watch_is_an_error(
    make: Maker, consul_with_acls: ConsulServer, tmp_path: Path
) -> None:
    server = consul_with_acls
    name = f"shrinking-{uuid.uuid4().hex}"
    policy = server.put("/v1/acl/policy", {"Name": name, "Rules": ALL_RIGHTS})["ID"]
    token = server.put("/v1/acl/token", {"Policies": [{"ID": policy}]})["SecretID"]
    matchmaker = make(server, **with_token(tmp_path, token))
    serving(matchmaker)
    seen = until(matchmaker, lambda seen: len(seen.instances) == 1)
    server.put(f"/v1/acl/policy/{policy}", {"Name": name, "Rules": 'node_prefix "" { policy = "read" }'})
    with pytest.raises(MatchmakerError, match='service_prefix "heartmesh-" { policy = "read" }'):
        until(matchmaker, lambda now: now != seen)


def test_a_new_token_in_the_file_is_used_from_then_on(
    make: Maker, consul_with_acls: ConsulServer, tmp_path: Path
) -> None:
    matchmaker = make(consul_with_acls, **with_token(tmp_path, str(uuid.uuid4())))
    with pytest.raises(MatchmakerError, match="ACL not found"):
        matchmaker.register(agent())
    with_token(tmp_path, consul_with_acls.new_token(ALL_RIGHTS))
    serving(matchmaker)
    until(matchmaker, lambda seen: len(seen.instances) == 1)


def test_tls_with_a_client_certificate(tmp_path: Path, make: Maker) -> None:
    for command in (
        ["ca", "create"],
        ["cert", "create", "-server", "-dc=dc1"],
        ["cert", "create", "-client", "-dc=dc1"],
    ):
        subprocess.run([binary(), "tls", *command], cwd=tmp_path, check=True, capture_output=True, timeout=30)
    ca, port = str(tmp_path / "consul-agent-ca.pem"), free_port()
    server_pem, client_pem = (str(tmp_path / f"dc1-{role}-consul-0") for role in ("server", "client"))
    tls = {
        "ca_file": ca,
        "cert_file": f"{server_pem}.pem",
        "key_file": f"{server_pem}-key.pem",
        "verify_incoming": True,
    }
    shown = {"certificate_file": f"{client_pem}.pem", "key_file": f"{client_pem}-key.pem"}
    with ConsulServer(tmp_path / "server", settings={"ports": {"https": port}, "tls": {"https": tls}}) as server:
        address = f"https://127.0.0.1:{port}"
        matchmaker = make(server, address=address, ca_file=ca, **shown)
        serving(matchmaker)
        seen = until(matchmaker, lambda seen: len(seen.instances) == 1)
        with ThreadPoolExecutor(1) as threads:
            watching = threads.submit(matchmaker.watch, ORDERS, seen.index, WAIT_S)
            time.sleep(0.3)
            matchmaker.close()
            with pytest.raises(MatchmakerError, match="closed"):
                watching.result(WAIT_S)
        for wrong in ({"ca_file": ca}, shown):
            with pytest.raises(MatchmakerError, match=f"Consul at {address} could not"):
                make(server, address=address, **wrong).agents()


def test_the_development_server_starts_and_has_its_ui(tmp_path: Path) -> None:
    configuration = Path(__file__).resolve().parent.parent.parent / "consul" / "dev" / "server.hcl"
    with ConsulServer(tmp_path, base=[configuration]) as server:
        connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=10)
        with contextlib.closing(connection):
            connection.request("GET", "/ui/")
            assert b"<title>Consul" in connection.getresponse().read()


GREENLETS = """
from gevent import monkey
monkey.patch_all(os=False, signal=False, subprocess=False)
import gevent, sys
from mesh.core.catalogue import AgentEntry, Instance
from mesh.matchmaker.base import MatchmakerError
from mesh.matchmaker.consul import ConsulMatchmaker, ConsulOptions
from mesh.matchmaker.sqlite import SqliteMatchmaker, SqliteOptions
from mesh.types import TopicKey

address, path = sys.argv[1:]
topic, agent = TopicKey("", "orders"), AgentEntry("node1", "127.0.0.1", 7000, 1)
for matchmaker in (
    ConsulMatchmaker(path, ConsulOptions(address=address)),
    SqliteMatchmaker("one", SqliteOptions(path=path)),
):
    matchmaker.register(agent)
    seen = matchmaker.watch(topic, 0, 0)
    waiting = [gevent.spawn(matchmaker.watch, topic, seen.index, 60) for _ in range(3)]
    gevent.sleep(0.3)
    matchmaker.register(Instance("", "orders", "srv", 1, agent))
    gevent.joinall(waiting, timeout=30, raise_error=True)
    print(*[len(greenlet.value.instances) for greenlet in waiting])
    again = gevent.spawn(matchmaker.watch, topic, waiting[0].value.index, 60)
    pool = gevent.get_hub().threadpool
    print(pool.apply(matchmaker.agents) == [agent])
    gevent.sleep(0.3)
    matchmaker.close()
    try:
        again.get(timeout=30)
    except MatchmakerError as error:
        print("closed" in str(error))
"""


def test_under_gevents_patching_watches_wait_as_greenlets(consul: ConsulServer, tmp_path: Path) -> None:
    """Sqlite and Consul: watches wake on what the same thread registers, native threads may help, close ends them."""
    ran = subprocess.run(
        [sys.executable, "-c", GREENLETS, consul.address, str(tmp_path / "mesh.sqlite")],
        capture_output=True,
        text=True,
        timeout=90,
        check=False,
    )
    assert "1 1 1\nTrue\nTrue\n" * 2 == ran.stdout, ran.stderr


def test_another_datacenter_is_asked_for(make: Maker, consul: ConsulServer) -> None:
    assert () == make(consul, datacenter="dc1").watch(ORDERS, 0, 0).instances
    with pytest.raises(MatchmakerError, match="No path to datacenter"):
        make(consul, datacenter="elsewhere").watch(ORDERS, 0, 0)
