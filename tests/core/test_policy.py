"""Rules: whom they are about, what they refuse, and what is wrong with them."""

import pytest

from mesh.core import policy
from mesh.core.policy import DEFAULT, Law, PolicyOptions, Rule, Subject, Verb, policy_problems
from mesh.core.vocabulary import Kind

ALICE = Subject("web1", "alice", ("staff", "ops"))
BOB = Subject("web2", "bob", ("staff",))


def law(default: str = "allow", **rules: Rule) -> Law:
    return Law(PolicyOptions(default, rules))  # type: ignore[arg-type]


def asked(one: Law, who: Subject, topic: str = "orders", verb: Verb = Verb.CALL, server: str = "") -> str:
    return one.refusal(who, verb, "", topic, server)


def test_verbs_of_requests_are_numbered_as_their_kinds_are() -> None:
    assert [(kind.name, int(kind)) for kind in Kind] == [(verb.name, int(verb)) for verb in Verb][:3]


@pytest.mark.parametrize(
    ("pattern", "matches", "others"),
    [
        ("orders", ["orders"], ["orders.new", "order", "xorders"]),
        ("orders.*", ["orders.new", "orders."], ["orders", "orders.new.big"]),
        ("orders.*.big", ["orders.new.big"], ["orders.new", "orders.a.b.big"]),
        ("orders.>", ["orders.new", "orders.new.big"], ["orders", "orders."]),
        ("or*", ["or", "orders", "or/ders:x"], ["orders.new"]),
        ("or>", ["orders", "orders.new"], ["or"]),
        (">", ["orders", "a.b.c"], []),
        ("a.b", ["a.b"], ["axb"]),
        ("a\n>", ["a\nb\nc"], ["a\n"]),
    ],
)
def test_a_pattern_matches_tokens_as_nats_does_and_prefixes(
    pattern: str, matches: list[str], others: list[str]
) -> None:
    one = law(no=Rule("deny", topics=("never", pattern)))
    assert ["no"] * len(matches) == [asked(one, ALICE, topic) for topic in matches]
    assert [""] * len(others) == [asked(one, ALICE, topic) for topic in others]


def test_without_rules_everybody_may_do_everything_and_nobody_need_ask() -> None:
    assert law().idle
    assert "" == asked(law(), ALICE)
    assert not law("deny").idle
    assert not law(no=Rule("deny")).idle


def test_a_rule_looks_only_at_what_it_says() -> None:
    one = law(
        no=Rule("deny", verbs=("serve", "cast"), namespaces=("", "prod"), topics=("orders",), servers=("db*",)),
    )
    about = [(Verb.SERVE, "", "orders", "db1"), (Verb.CAST, "prod", "orders", "db")]
    others = [
        (Verb.CALL, "", "orders", "db1"),
        (Verb.CAST, "test", "orders", "db1"),
        (Verb.CAST, "", "bills", "db1"),
        (Verb.CAST, "", "orders", ""),
    ]
    assert ["no", "no"] == [one.refusal(ALICE, *question) for question in about]
    assert [""] * 4 == [one.refusal(ALICE, *question) for question in others]


@pytest.mark.parametrize(
    ("rule", "alice", "bob"),
    [
        (Rule("deny", users=("alice",)), "rule", ""),
        (Rule("deny", groups=("ops",)), "rule", ""),
        (Rule("deny", users=("bob",), groups=("ops",)), "rule", "rule"),
        (Rule("deny", nodes=("web1",)), "rule", ""),
        (Rule("deny", users=(">",), nodes=("web2",)), "", "rule"),
        (Rule("only", users=("alice",)), "", "rule"),
        (Rule("only", groups=("ops",), nodes=("web2",)), "rule", "rule"),
        (Rule("only", nodes=("web*",)), "", ""),
    ],
)
def test_deny_refuses_its_subjects_and_only_everybody_else(rule: Rule, alice: str, bob: str) -> None:
    one = law(rule=rule)
    assert (alice, bob) == (asked(one, ALICE), asked(one, BOB))


def test_deny_wins_over_allow_in_any_order_and_the_first_that_refuses_is_named() -> None:
    allow, deny, only = Rule("allow", topics=(">",)), Rule("deny", users=("alice",)), Rule("only", users=("bob",))
    assert "deny" == asked(law("deny", allow=allow, deny=deny, only=only), ALICE)
    assert "only" == asked(law("deny", only=only, deny=deny, allow=allow), ALICE)
    assert "" == asked(law("deny", deny=deny, allow=allow), BOB)
    assert DEFAULT == asked(law("deny", allow=Rule("allow", topics=("bills",))), BOB)
    assert "" == asked(law("allow", allow=allow), BOB)


@pytest.mark.parametrize(
    ("rule", "remote", "instance"),
    [
        (Rule("deny", groups=("ops",)), "", ""),
        (Rule("only", groups=("ops",)), "", ""),
        (Rule("allow", groups=("ops",)), "", ""),
        (Rule("deny", users=("alice",), groups=("ops",)), "rule", ""),
        (Rule("only", users=("bob",)), "rule", ""),
        (Rule("allow", users=("bob",)), DEFAULT, ""),
        (Rule("only", users=("bob",), nodes=("db*",)), "rule", "rule"),
    ],
)
def test_what_is_not_known_of_somebody_is_left_to_the_agent_that_knows(rule: Rule, remote: str, instance: str) -> None:
    """``remote``: a caller whose agent named the user; ``instance``: a server of which only the node is known."""
    one = law("deny" if rule.effect == "allow" else "allow", rule=rule)
    assert remote == asked(one, Subject("web1", "alice", None))
    assert instance == asked(one, Subject("web1", None, None))


def test_whoever_nobody_names_is_matched_by_no_name() -> None:
    one = law(only=Rule("only", users=("alice", ">")), deny=Rule("deny", topics=("bills",), users=("*",)))
    assert "only" == asked(one, Subject("web1"))
    assert "deny" == asked(law(deny=Rule("deny", users=("*",))), Subject("web1"))


def test_answers_are_remembered_and_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(policy, "KNOWN_MAX", 2)
    one = law(no=Rule("deny", topics=("b",)))
    assert ["", "no"] == [one.learn((1, topic), ALICE, Verb.CALL, "", topic, "") for topic in "ab"]
    assert {(1, "a"): "", (1, "b"): "no"} == one.known
    assert "" == one.learn((2, "b"), ALICE, Verb.CALL, "", "c", "")
    assert {(2, "b"): ""} == one.known


@pytest.mark.parametrize(
    ("name", "rule", "expected"),
    [
        ("a b", Rule("deny"), "a rule's name has at most 64 of letters, digits and _ . -, not 'default'"),
        ("default", Rule("deny"), "a rule's name has at most 64 of letters, digits and _ . -, not 'default'"),
        ("x" * 65, Rule("deny"), "a rule's name has at most 64 of letters, digits and _ . -, not 'default'"),
        ("one", Rule("only", topics=("a",)), "effect = 'only' needs users, groups or nodes, or it lets nobody"),
        (
            "one",
            Rule("allow"),
            "effect = 'allow' changes nothing while default = 'allow': set default = 'deny', or use 'only'",
        ),
        ("one", Rule("deny", topics=("a>b",)), "topics: in 'a>b' a > stands before the end"),
        ("one", Rule("deny", nodes=("*.*a*b*",)), "nodes: in '*.*a*b*' one token has more than 2 *"),
        ("one", Rule("deny", users=("",)), "users: an empty pattern matches nothing"),
    ],
)
def test_a_rule_that_cannot_be_meant_is_said(name: str, rule: Rule, expected: str) -> None:
    assert [(name, expected)] == list(policy_problems(PolicyOptions("allow", {name: rule})))


def test_good_rules_have_no_problems() -> None:
    rules = {"a": Rule("only", users=("x",)), "b": Rule("deny", namespaces=("",)), "c": Rule("allow")}
    assert [] == list(policy_problems(PolicyOptions("deny", rules)))
