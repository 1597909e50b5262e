"""Every fault happens, and a call that it meets ends as it says, under every seed."""

import pytest

import mesh
from mesh import Message, Reply
from mesh.sim.faults import KINDS
from mesh.testing import FAULTS, Fleet
from mesh.testing.fixtures import fleet

__all__ = ["fleet"]


def echo(message: Message) -> bytes:
    return message.body


def ended(client: mesh.Client, *, idempotent: bool = False) -> type:
    """Call, and return what the call ended as."""
    try:
        return type(client.call("words", b"x", idempotent=idempotent))
    except mesh.OutcomeError as error:
        return type(error)


def some_s(fleet: Fleet, name: str) -> float | None:
    """Draw how long a fault lasts, if it does."""
    return None if FAULTS[name].for_s is None else fleet.rng.uniform(0.01, 20.0)


def test_the_simulators_faults_are_all_there_with_what_they_do() -> None:
    assert [] == [kind for kind in KINDS if kind not in FAULTS or kind == FAULTS[kind].what]
    assert [] == [fault.name for fault in FAULTS.values() if fault.kind not in KINDS or not fault.outcomes]


@pytest.mark.parametrize("name", FAULTS)
def test_a_call_ends_as_the_fault_says_and_never_runs_twice_unasked(name: str) -> None:
    for seed in range(12):
        idempotent = seed % 3 == 2
        with Fleet(seed=seed) as fleet:
            for _ in range(1 + seed % 2):
                fleet.connect("server", node="node1").serve("words", echo)
            client = fleet.connect("web", node="node2")
            if seed % 4:
                client.call("words", b"a link is there")
            fault = fleet.fault(name, "words", for_s=some_s(fleet, name) if seed % 5 else None)
            outcome = ended(client, idempotent=idempotent)
            assert outcome in fault.outcomes or (idempotent and outcome in fault.idempotent)
            assert fleet.sent[-1].runs <= 1 + idempotent
            assert fault.struck


@pytest.mark.parametrize(
    "name", [name for name, fault in FAULTS.items() if fault.outcomes == (Reply, mesh.Indeterminate)]
)
def test_each_outcome_of_those_in_doubt_does_happen(name: str) -> None:
    seen = {}
    for seed in range(40):
        with Fleet(seed=seed) as fleet:
            fleet.connect("server").serve("words", echo)
            client = fleet.connect("web")
            fleet.fault(name, "words", for_s=0.1 if seed % 2 else 20.0)
            seen[ended(client)] = seed
    assert {Reply, mesh.Indeterminate} == {*seen}


def test_what_comes_after_a_fault_is_as_before(fleet: Fleet) -> None:
    fleet.connect("server").serve("words", echo)
    client = fleet.connect("web")
    fleet.fault("the server's agent dies in mid-call", "words")
    assert [Reply, Reply] == [ended(client), ended(client)]


def test_a_fault_that_there_is_not_is_named_with_all_that_there_are(fleet: Fleet) -> None:
    with pytest.raises(ValueError, match="there is no fault 'flood', only: the agent dies in mid-call, the server's"):
        fleet.fault("flood", "words")
    with pytest.raises(ValueError, match="nobody serves 'words' here, whom 'nobody serves' could meet"):
        fleet.fault("nobody serves", "words")


def test_an_app_that_died_is_closed_and_another_may_take_its_place(fleet: Fleet) -> None:
    server, client = fleet.connect("server"), fleet.connect("web")
    server.serve("words", echo)
    fleet.fault("the server dies in mid-call", "words")
    assert ended(client) is mesh.Indeterminate
    with pytest.raises(mesh.SessionClosed):
        server.call("words")
    fleet.connect("server").serve("words", echo)
    assert ended(client) is Reply


def test_a_cast_is_run_though_the_agent_that_accepted_it_dies(fleet: Fleet) -> None:
    done: list[bytes] = []
    fleet.connect("server").serve("mail", lambda message: done.append(message.body))
    client = fleet.connect("web")
    fleet.fault("the agent dies in mid-call", "mail")
    client.cast("mail", b"1", confirm=True)
    assert [b"1"] == done


@pytest.mark.parametrize("name", ["the server dies in mid-call", "the server's agent dies in mid-call"])
def test_a_cast_runs_again_where_another_serves_and_one_to_be_run_once_never_does(name: str) -> None:
    runs: dict[bool, set[int]] = {False: set(), True: set()}
    for seed in range(12):
        once = seed % 2 == 1
        with Fleet(seed=seed) as fleet:
            for _ in range(2):
                fleet.connect("server", node="node1").serve("mail", lambda _: None)
            client = fleet.connect("web", node="node2")
            fleet.fault(name, "mail")
            try:
                client.cast("mail", b"x", once=once, confirm=True)
            except mesh.Indeterminate:
                assert once
            runs[once].add(fleet.sent[-1].runs)
    assert runs[True] == {1}
    assert 2 in runs[False]


def test_a_fanout_counts_as_unknown_the_instance_that_a_fault_met(fleet: Fleet) -> None:
    for _ in range(2):
        fleet.connect("server").serve("mail", lambda _: None)
    client = fleet.connect("web")
    fleet.fault("the server dies in mid-call", "mail")
    receipt = client.fanout("mail", confirm=True)
    assert (2, 1, 0, 1) == (receipt.asked, receipt.finished, receipt.failed, receipt.unknown)


def test_draws_differ_by_seed() -> None:
    drawn = [Fleet(seed=seed).rng.below(len(FAULTS)) for seed in range(40)]
    assert len({*drawn}) > 10
