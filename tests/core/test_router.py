"""Each policy spreads messages as it promises, while instances come, go and are passed over."""

from collections import Counter

from hypothesis import given
from hypothesis import strategies as st

from mesh.core.catalogue import Instance
from mesh.core.directory import Group
from mesh.core.router import Policy, RouterOptions, choose, in_turn
from mesh.types import InstanceKey
from tests.core.builders import group, instance

ALL = [instance(node, session) for node in ("a", "b", "c") for session in (1, 2)]
SOME = st.lists(st.sampled_from(ALL), min_size=1, unique_by=lambda one: one.key)
MAYBE = st.none() | st.sampled_from([one.key for one in ALL])


def nobody(_: Instance) -> bool:
    return False


class Sender:
    """One calling agent and one topic: it keeps the cursor, and what is unfinished where."""

    def __init__(self, policy: Policy, cursor: InstanceKey | None = None) -> None:
        self.policy = policy
        self.cursor = cursor
        self.unfinished: Counter[InstanceKey] = Counter()
        self.avoided: set[InstanceKey] = set()

    def pick(self, among: Group) -> InstanceKey | None:
        chosen = choose(
            self.policy,
            among,
            self.cursor,
            node="b",
            avoid=lambda one: one.key in self.avoided,
            outstanding=lambda one: self.unfinished[one.key],
        )
        if chosen is None:
            return None
        self.cursor = chosen.key
        self.unfinished[chosen.key] += 1
        return chosen.key

    def picks(self, among: Group, count: int) -> list[InstanceKey]:
        picked = [self.pick(among) for _ in range(count)]
        return [key for key in picked if key is not None]


@given(SOME, MAYBE)
def test_n_consecutive_picks_reach_n_instances_wherever_the_cursor_was(
    instances: list[Instance], cursor: InstanceKey | None
) -> None:
    among = group(*instances)
    picks = Sender("round_robin", cursor).picks(among, 2 * len(instances))
    assert sorted(among.keys) == sorted(picks[: len(instances)])
    assert picks[: len(instances)] == picks[len(instances) :]


@given(st.lists(SOME, min_size=1, max_size=10))
def test_instances_that_come_and_go_make_nobody_skipped_or_served_twice(changes: list[list[Instance]]) -> None:
    """Between two picks the group may be any other; each pick is the next of those that are there then."""
    sender = Sender("round_robin")
    for instances in changes:
        among = group(*instances)
        before = sender.cursor
        picked = sender.pick(among)
        later = [key for key in among.keys if before is not None and key > before]
        assert picked == (later or among.keys)[0]


@given(SOME, SOME)
def test_who_stays_gets_its_turn_within_one_round(before: list[Instance], after: list[Instance]) -> None:
    sender = Sender("round_robin")
    sender.picks(group(*before), 3)
    among = group(*after)
    assert set(among.keys) == set(sender.picks(among, len(among.keys)))


@given(SOME, MAYBE, st.data())
def test_who_is_avoided_is_passed_over_while_there_is_another_choice(
    instances: list[Instance], cursor: InstanceKey | None, data: st.DataObject
) -> None:
    for policy in ("round_robin", "local_first", "least_outstanding"):
        sender = Sender(policy, cursor)
        among = group(*instances)
        sender.avoided = data.draw(st.sets(st.sampled_from(among.keys)))
        picks = set(sender.picks(among, len(among.keys)))
        assert not picks & sender.avoided or sender.avoided == set(among.keys)
        assert picks, "somebody is better than nobody"


def test_those_left_share_the_turns_of_who_is_avoided() -> None:
    sender = Sender("round_robin")
    sender.avoided = {ALL[0].key, ALL[1].key}
    assert Counter([one.key for one in ALL[2:]] * 2) == Counter(sender.picks(group(*ALL), 8))


def test_if_all_are_avoided_they_take_turns_all_the_same() -> None:
    sender = Sender("round_robin")
    sender.avoided = {one.key for one in ALL}
    assert sorted(sender.avoided) == sorted(sender.picks(group(*ALL), len(ALL)))


def test_nobody_is_nobody_for_every_policy() -> None:
    for policy in ("round_robin", "local_first", "least_outstanding"):
        assert None is Sender(policy).pick(Group())


def test_local_first_takes_turns_among_those_of_this_node() -> None:
    picks = Sender("local_first").picks(group(*ALL), 4)
    assert [("b", 1), ("b", 2)] * 2 == [(key.node, key.session) for key in picks]


def test_local_first_goes_elsewhere_when_there_is_nobody_here_or_nobody_willing() -> None:
    elsewhere = [one for one in ALL if one.agent.node != "b"]
    assert {one.key for one in elsewhere} == set(Sender("local_first").picks(group(*elsewhere), 4))
    sender = Sender("local_first")
    sender.avoided = {one.key for one in ALL if one.agent.node == "b"}
    assert {one.key for one in elsewhere} == set(sender.picks(group(*ALL), 4))


def test_least_outstanding_goes_where_the_least_is_unfinished() -> None:
    sender = Sender("least_outstanding")
    sender.unfinished.update({one.key: 5 for one in ALL})
    sender.unfinished[ALL[3].key] = 2
    assert [ALL[3].key] * 3 == sender.picks(group(*ALL), 3)


@given(SOME, MAYBE)
def test_least_outstanding_takes_turns_among_equals(instances: list[Instance], cursor: InstanceKey | None) -> None:
    among = group(*instances)
    assert set(among.keys) == set(Sender("least_outstanding", cursor).picks(among, len(among.keys)))


@given(SOME, st.lists(st.tuples(st.booleans(), st.integers(0, 5)), max_size=60))
def test_least_outstanding_is_never_uneven_by_more_than_its_own_finishing(
    instances: list[Instance], steps: list[tuple[bool, int]]
) -> None:
    sender, among = Sender("least_outstanding"), group(*instances)
    for finishes, which in steps:
        key = among.keys[which % len(among.keys)]
        if finishes and sender.unfinished[key]:
            sender.unfinished[key] -= 1
            continue
        least = min(sender.unfinished[key] for key in among.keys)
        picked = sender.pick(among)
        assert picked is not None
        assert least + 1 == sender.unfinished[picked]


def test_a_turn_begins_at_the_first_key_without_a_cursor_and_after_it_with_one() -> None:
    among = group(*ALL)
    assert ALL[0] == in_turn(among, None, nobody)
    assert ALL[1] == in_turn(among, ALL[0].key, nobody)
    assert ALL[0] == in_turn(among, ALL[-1].key, nobody)
    assert ALL[4] == in_turn(among, InstanceKey("bb", "", 0), nobody), "a cursor whose instance is gone"


def test_a_topic_may_have_a_policy_of_its_own() -> None:
    options = RouterOptions(policy="local_first", topics={"thumbnails": "least_outstanding"})
    assert "least_outstanding" == options.policy_of("thumbnails")
    assert "local_first" == options.policy_of("orders")
    assert "round_robin" == RouterOptions().policy_of("orders")
