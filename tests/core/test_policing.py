"""The policy at the caller's agent, again at the server's, and of whoever serves."""

import pytest

from mesh.core.policing import NOTE_S
from mesh.core.policy import DEFAULT, PolicyOptions, Rule
from mesh.core.records import Failure, Flag, GiveBack, Kind, Reach, Reply, Request, Serving, Status
from mesh.sim.world import World
from mesh.types import TopicKey
from tests.core.fabric import App, Peer, assert_mesh_quiescent, fleet, lone_node, notes, obey, served

NO_ALICE = Rule("deny", verbs=("call", "cast", "fanout"), topics=("orders",), users=("alice",))


def refused(world: World, node: str) -> dict[str, int]:
    return {rule: tally.count for rule, tally in world.agents[node].node.state.refusals.items()}


@pytest.mark.parametrize("kind", list(Kind))
def test_an_app_that_a_rule_is_against_is_refused_by_its_own_agent_with_the_rules_name(kind: Kind) -> None:
    world = fleet("ab")
    obey(world, "a", no_alice=NO_ALICE)
    (server,) = served(world, "b")
    alice, bob = App(world, "a", 1, user="alice"), App(world, "a", 2, user="bob")
    denied, let = alice.send(kind, "orders"), bob.send(kind, "orders")
    world.run(world.now + 1.0)
    failure = alice.failure(denied)
    assert (Status.REJECTED, "no_alice", "a") == (failure.status, failure.rule, failure.where)
    verb = {"CALL": "call", "CAST": "cast to", "FANOUT": "fan out to"}[kind.name]
    assert f"user 'alice' at 'a' may not {verb} 'orders': policy rule 'no_alice' is against it" == failure.text
    assert not isinstance(bob.end(let), Failure)
    assert 1 == len(server.asked)
    assert ({"no_alice": 1}, {}) == (refused(world, "a"), refused(world, "b"))
    assert_mesh_quiescent(world)


@pytest.mark.parametrize("kind", list(Kind))
def test_an_agent_that_does_not_ask_its_policy_is_refused_by_the_servers_agent(kind: Kind) -> None:
    world = fleet("ab")
    obey(world, "b", no_alice=NO_ALICE)
    (server,) = served(world, "b")
    alice = App(world, "a", 1, user="alice")
    seq = alice.send(kind, "orders")
    world.run(world.now + 1.0)
    if kind == Kind.FANOUT:
        assert (1, 0, 1, 0) == alice.receipt(seq)
    else:
        failure = alice.failure(seq)
        assert (Status.REJECTED, "no_alice", "b") == (failure.status, failure.rule, failure.where)
    assert ([], {}, {"no_alice": 1}) == (server.asked, refused(world, "a"), refused(world, "b"))
    assert_mesh_quiescent(world)


def test_the_servers_agent_asks_about_the_node_that_the_link_is_with() -> None:
    world = fleet("abc")
    obey(world, "b", only_c=Rule("only", topics=("orders",), nodes=("b", "c")))
    served(world, "b")
    ends = {}
    for node in "abc":
        app = App(world, node, 1)
        ends[node] = (app, app.call("orders"))
    world.run(world.now + 1.0)
    assert Status.REJECTED == ends["a"][0].status(ends["a"][1])
    assert "an app of 'a' may not call 'orders': policy rule 'only_c' is against it" == (
        ends["a"][0].failure(ends["a"][1]).text
    )
    assert [Reply, Reply] == [type(app.end(seq)) for app, seq in (ends["b"], ends["c"])]


def test_groups_are_asked_where_they_are_known_and_users_are_passed_on() -> None:
    world = fleet("ab")
    ops, mallory = Rule("only", verbs=("call",), groups=("ops",)), Rule("deny", users=("mallory",))
    obey(world, "ab", ops=ops, mallory=mallory)
    served(world, "b")
    apps = [
        App(world, "a", 1, user="ada", groups=("staff", "ops")),
        App(world, "a", 2, user="bob", groups=("staff",)),
        App(world, "a", 3, user="mallory", groups=("ops",)),
    ]
    seqs = [app.call("orders") for app in apps]
    world.run(world.now + 1.0)
    assert isinstance(apps[0].end(seqs[0]), Reply)
    assert ["ops", "mallory"] == [app.failure(seq).rule for app, seq in zip(apps[1:], seqs[1:], strict=True)]


def test_what_an_app_says_of_its_user_is_not_believed() -> None:
    world = fleet("ab")
    obey(world, "b", no_alice=NO_ALICE)
    served(world, "b")
    alice = App(world, "a", 1, user="alice")
    alice.say(Request(int(Kind.CALL), 0, "orders", "", 1000, b"", user="bob"))
    world.run(world.now + 1.0)
    assert "no_alice" == alice.failure(0).rule


def test_a_request_from_a_peer_is_given_back_with_the_rules_name_and_a_copy_too() -> None:
    one = lone_node()
    one.obey(PolicyOptions("allow", {"no_p": Rule("deny", nodes=("p",))}), 1.0)
    peer = Peer(one)
    request = Request(int(Kind.CALL), 5, "orders", "", 1000, b"", node="p", session=7, target=3, dispatch=2)
    for _ in range(2):
        (given,) = [record for record in peer.hears(request) if isinstance(record, GiveBack)]
        assert (Status.REJECTED, 2, "no_p") == (given.status, given.dispatch, given.rule)


def test_an_app_that_may_not_serve_is_told_which_rule_is_against_it() -> None:
    world = fleet("b")
    obey(world, "b", no=Rule("deny", verbs=("serve",), topics=("orders",), servers=("b-10",), users=("bob",)))
    bob, ada = App(world, "b", 10, user="bob"), App(world, "b", 11, user="ada")
    for app in (bob, ada):
        app.serve("orders")
    world.run(world.now + 0.5)
    text = "user 'bob' at 'b' may not serve 'orders': policy rule 'no' is against it"
    assert [Serving("orders", "b-10", False, text, "no")] == bob.of(Serving)
    assert [Serving("orders", "b-11", True)] == ada.of(Serving)
    assert 1 == len(world.catalogue[TopicKey("", "orders")])


def test_who_serves_against_the_rules_is_not_sent_to_whatever_the_catalogue_says() -> None:
    """Node m does not keep the rules, as one whose keys were stolen would not."""
    world = fleet("abm")
    obey(world, "ab", only_b=Rule("only", verbs=("serve",), topics=("orders",), nodes=("b",)))
    impostor, right = App(world, "m", 10), App(world, "b", 11)
    for app in (impostor, right):
        app.serve("orders")
    world.run(world.now + 0.5)
    caller = App(world, "a", 1)
    seqs = [caller.call("orders") for _ in range(4)]
    fan = caller.fanout("orders")
    world.run(world.now + 1.0)
    assert [Reply] * 4 == [type(caller.end(seq)) for seq in seqs]
    assert (1, 1, 0, 0) == caller.receipt(fan)
    assert ([], 5) == (impostor.asked, len(right.asked))
    assert any("may not serve 'orders'" in line for line in notes(world, "policy_refused", "a"))


def test_who_was_listed_before_the_rules_were_is_struck() -> None:
    world = fleet("am")
    impostor = App(world, "m", 10)
    impostor.serve("orders")
    App(world, "a", 11).serve("orders")
    caller = App(world, "a", 1)
    caller.call("orders")
    world.run(world.now + 0.5)
    obey(world, "a", no=Rule("deny", verbs=("serve",), nodes=("m",)))
    asked = len(impostor.asked)
    seqs = [caller.call("orders") for _ in range(3)]
    world.run(world.now + 0.5)
    assert [Reply] * 3 == [type(caller.end(seq)) for seq in seqs]
    assert asked == len(impostor.asked)


def test_an_app_of_ones_own_node_is_asked_with_all_that_is_known_when_it_serves() -> None:
    world = fleet("a")
    obey(world, "a", only=Rule("only", verbs=("serve",), users=("ada",)))
    App(world, "a", 10, user="ada").serve("orders")
    world.run(world.now + 0.5)
    caller = App(world, "a", 1)
    seq = caller.call("orders")
    world.run(world.now + 0.5)
    assert isinstance(caller.end(seq), Reply)


def test_nothing_is_let_that_no_rule_lets_where_the_default_is_to_deny() -> None:
    world = fleet("ab")
    obey(world, "ab", "deny", let=Rule("allow", verbs=("call", "serve"), topics=("orders",)))
    served(world, "b")
    app = App(world, "a", 1, user="ada")
    call, cast = app.call("orders"), app.cast("orders")
    world.run(world.now + 1.0)
    assert isinstance(app.end(call), Reply)
    assert (DEFAULT, "user 'ada' at 'a' may not cast to 'orders': no policy rule lets it") == (
        app.failure(cast).rule,
        app.failure(cast).text,
    )


def test_what_an_earlier_agent_may_have_sent_is_not_said_to_be_rejected_unrun() -> None:
    world = fleet("a")
    obey(world, "a", no_alice=NO_ALICE)
    alice = App(world, "a", 1, user="alice")
    alice.say(Reach("b", 5, 99), Request(int(Kind.CALL), 0, "orders", "", 1000, b"", int(Flag.RESUMED)))
    world.run(world.now + 0.1)
    assert (Status.INDETERMINATE, "no_alice") == (alice.status(0), alice.failure(0).rule)


def test_a_rule_that_refuses_much_is_noted_now_and_then_with_how_often() -> None:
    world = fleet("ab")
    obey(world, "a", no_alice=NO_ALICE)
    alice = App(world, "a", 1, user="alice")
    for _ in range(5):
        alice.call("orders")
    world.run(world.now + NOTE_S)
    alice.call("orders")
    world.run(world.now + 0.5)
    lines = notes(world, "policy_refused", "a")
    assert ["count=1", "count=5"] == [line.split()[-1] for line in lines], lines
    assert {"no_alice": 6} == refused(world, "a")


def test_counts_of_rules_that_are_gone_go_with_them() -> None:
    world = fleet("a")
    obey(world, "a", "deny", one=Rule("deny", topics=("a",)), two=Rule("deny", topics=("b",)))
    app = App(world, "a", 1)
    for topic in "abc":
        app.call(topic)
    world.run(world.now + 0.5)
    assert {"one": 1, "two": 1, DEFAULT: 1} == refused(world, "a")
    obey(world, "a", "deny", two=Rule("deny", topics=("b",)))
    assert {"two": 1, DEFAULT: 1} == refused(world, "a")
