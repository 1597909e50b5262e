"""A fleet in this process: who may connect, what is seen of what was sent, and how its time goes."""

import inspect
from typing import assert_type

import pytest

import mesh
from mesh import Message, Reply, testing
from mesh.testing import Fleet
from mesh.testing.fixtures import fleet

__all__ = ["fleet"]


def echo(message: Message) -> bytes:
    return message.body


@pytest.fixture
def client(fleet: Fleet) -> mesh.Client:
    fleet.connect("server").serve("words", echo)
    return fleet.connect("web")


def test_what_it_gives_is_the_products_own_client(fleet: Fleet) -> None:
    client = fleet.connect("web")
    assert_type(client, mesh.Client)
    assert type(client) is mesh.Client


def test_apps_take_the_nodes_in_turn_or_the_one_that_they_name(fleet: Fleet) -> None:
    assert ["node1", "node2", "node1"] == [fleet.connect().node for _ in range(3)]
    assert "node1" == fleet.connect(node="node1").node
    with pytest.raises(ValueError, match="no node 'node3' in this fleet, only node1, node2"):
        fleet.connect(node="node3")
    with pytest.raises(ValueError, match="one node or more, each once"):
        Fleet(("a", "a"))


def test_names_and_fleets_are_refused_in_the_products_words(fleet: Fleet) -> None:
    with pytest.raises(mesh.Rejected, match="may hold only"):
        fleet.connect("no such/app!")
    with pytest.raises(mesh.Rejected, match="fleet"):
        fleet.connect(fleet="another")


def test_it_may_stand_for_connect_itself(fleet: Fleet, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(mesh, "connect", fleet.connect)
    with mesh.connect("web", socket="/run/mesh/agent.sock", token_file="/t", connect_timeout_s=1.0) as client:
        assert client.node in fleet.nodes


def test_it_takes_what_connect_takes_and_a_node() -> None:
    for real, own in ((mesh.connect, Fleet.connect), (mesh.aio.connect, Fleet.connect_aio)):
        taken = [name for name in inspect.signature(own).parameters if name not in ("self", "node")]
        assert [*inspect.signature(real).parameters] == taken


def test_it_is_seen_who_ran_a_message(fleet: Fleet) -> None:
    for node in fleet.nodes:
        fleet.connect("server", node=node).serve("words", echo, server=f"at-{node}")
    client = fleet.connect("web")
    client.fanout("words", confirm=True)
    client.call("words@at-node2")
    fanout, call = fleet.sent
    assert [("server", "node1"), ("server", "node2")] == sorted(fanout.ran_by)
    assert ("at-node2", [("server", "node2")]) == (call.server, call.ran_by)


def test_every_message_is_seen_with_its_end(fleet: Fleet, client: mesh.Client) -> None:
    client.call("words", b"a", headers={"k": "v"})
    client.cast("words", b"b")
    client.fanout("words", b"c", confirm=True)
    with pytest.raises(mesh.Unroutable):
        client.call("nothing")
    call, cast, fanout, failed = fleet.sent
    assert ("web", "call", "words", "", b"a", {"k": "v"}) == (
        *(call.app, call.kind, call.topic, call.server),
        *(call.body, call.headers),
    )
    assert (client.node, client.session) == (call.id.node, call.id.session)
    assert [("call", 1, True), ("cast", 1, True), ("fanout", 1, True)] == [
        (sent.kind, sent.runs, sent.ended) for sent in (call, cast, fanout)
    ]
    assert isinstance(call.outcome, Reply)
    assert isinstance(fanout.outcome, mesh.Receipt)
    assert cast.outcome is None
    assert isinstance(failed.outcome, mesh.Unroutable)
    assert 0 == failed.runs


def test_what_a_verb_sets_off_has_happened_when_it_returns(fleet: Fleet) -> None:
    done: list[bytes] = []
    fleet.connect("server").serve("mail", lambda message: done.append(message.body))
    client = fleet.connect("web")
    client.cast("mail", b"1")
    assert [b"1"] == done
    future = client.cast_async("mail", b"2")
    assert ([b"1", b"2"], True) == (done, future.done())
    client.fanout("mail", b"3")
    assert [b"1", b"2", b"3"] == done
    client.cast("mail", b"4", durable=True)
    assert b"4" == done[-1]


def test_a_thousand_calls_take_no_time_of_the_fleet_to_speak_of(fleet: Fleet, client: mesh.Client) -> None:
    for number in range(1_000):
        client.call("words", b"%d" % number)
    assert fleet.now < 2.0
    assert 1_000 == len(fleet.sent)


def test_waiting_takes_the_fleets_time_and_none_of_the_clock_on_the_wall(fleet: Fleet, client: mesh.Client) -> None:
    began = fleet.now
    with pytest.raises(mesh.Expired):
        client.call("nothing", wait=True, timeout_s=3_000.0)
    assert 3_000.0 <= fleet.now - began < 3_001.0
    fleet.sleep(2.0)
    assert 3_002.0 <= fleet.now - began < 3_003.0


def test_a_wait_that_nothing_ends_is_an_error(fleet: Fleet) -> None:
    with pytest.raises(RuntimeError, match="nothing that happened within 4000 s of the fleet's time ended this wait"):
        fleet.go_on(lambda: False, float("inf"))


def test_to_run_a_client_is_refused_for_it_would_never_return(fleet: Fleet) -> None:
    with pytest.raises(RuntimeError, match=r"client.run\(\) waits until the client is closed, .*: leave it out"):
        fleet.connect("server").run()


@pytest.mark.parametrize("nodes", [3, "abc", (1, 2), None])
def test_nodes_are_names(nodes: object) -> None:
    with pytest.raises(TypeError, match=r"a tuple of names, as in Fleet\(nodes=\('node1', 'node2'\)\), not "):
        Fleet(nodes)  # type: ignore[arg-type]


def test_nodes_are_called_as_nodes_may_be_called() -> None:
    with pytest.raises(ValueError, match="node id 'a b' must be printable and hold neither white space"):
        Fleet(["a b"])
    assert ("one", "two", "three") == Fleet(["one", "two", "three"]).nodes


def test_a_seed_is_a_number() -> None:
    with pytest.raises(TypeError, match="the seed of a fleet is a whole number, not 'x'"):
        Fleet(seed="x")  # type: ignore[arg-type]


def test_what_lasts_lasts_no_less_than_nothing(fleet: Fleet) -> None:
    with pytest.raises(ValueError, match="a sleep lasts 0 s or more, not -1"):
        fleet.sleep(-1)
    with pytest.raises(ValueError, match="'the reply is late' lasts 0 s or more, not -1"):
        fleet.fault("the reply is late", "words", for_s=-1)
    with pytest.raises(ValueError, match="lasts 0 s or more, not nan"):
        fleet.fault("pause", "words", for_s=float("nan"))
    with pytest.raises(ValueError, match="'nobody serves' is not undone after a time: for_s=5 means nothing to it"):
        fleet.fault("nobody serves", "words", for_s=5)


def test_a_fault_meets_a_topic_that_somebody_serves(fleet: Fleet) -> None:
    with pytest.raises(ValueError, match="nobody serves 'word' here, whom a fault could meet: serve it first"):
        fleet.draw("word")
    server = fleet.connect("server")
    server.serve("words", echo)
    server.serve("lines", echo)
    with pytest.raises(ValueError, match="whom a fault could meet: only words, lines"):
        fleet.draw("word")
    with pytest.raises(ValueError, match="topic 'words@till' may hold only"):
        fleet.fault("the reply is late", "words@till")


def test_nothing_begins_in_a_fleet_that_is_closed(fleet: Fleet) -> None:
    fleet.close()
    for begin in (fleet.connect, lambda: fleet.fault("kill", "words"), lambda: fleet.draw("words")):
        with pytest.raises(RuntimeError, match="this fleet is closed: make another"):
            begin()
    with pytest.raises(RuntimeError, match="this fleet is closed"):
        fleet.connect_aio().send(None)


def test_the_same_seed_does_the_same() -> None:
    def played(seed: int) -> list[object]:
        with Fleet(seed=seed) as fleet:
            fleet.connect("server").serve("words", echo)
            client = fleet.connect("web")
            client.call("words", b"x")
            drawn = fleet.draw("words")
            return [client.session, fleet.now, drawn]

    assert played(1) == played(1)
    assert played(1) != played(2)


def test_clients_are_closed_with_the_fleet() -> None:
    with Fleet() as fleet:
        client = fleet.connect()
    with pytest.raises(mesh.SessionClosed):
        client.call("words")


def test_a_fleet_is_a_threads_or_a_loops(fleet: Fleet) -> None:
    fleet.connect()
    with pytest.raises(RuntimeError, match="this fleet is a thread's"):
        fleet.connect_aio().send(None)


def test_the_public_names_are_these() -> None:
    assert ["FAULTS", "Fault", "FaultError", "Fleet", "Sent"] == testing.__all__
