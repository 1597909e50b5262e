"""An entry is in exactly one place until it ends, once; what the outbox counts is what it holds."""

import pytest
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from mesh.core.outbox import Entry, Key, Outbox, Place, TargetKey
from mesh.core.records import Flag, Kind
from mesh.types import TopicKey
from tests.core.builders import ORDERS, STOCK, copied, request

B1: TargetKey = ("b", 1)
B2: TargetKey = ("b", 2)
C1: TargetKey = ("c", 1)


def entry(seq: int = 1, *, session: int = 7, topic: TopicKey = ORDERS, deadline: float = 10.0) -> Entry:
    return Entry(request(seq, session=session, topic=topic.topic), topic, deadline, 128)


def admitted(outbox: Outbox, seq: int = 1) -> Entry:
    one = entry(seq)
    outbox.admit(one)
    return one


def placed(outbox: Outbox, seq: int = 1, target: TargetKey = B1, place: Place = Place.PLACED) -> Entry:
    """An entry that was aimed, and sent or queued."""
    one = admitted(outbox, seq)
    outbox.aim(one, target)
    one.place = place
    if place is Place.QUEUED:
        outbox.queue(target[0], one.key)
    return one


def is_empty(outbox: Outbox) -> bool:
    """Whether nothing is left of any entry, not even an empty table."""
    tables = (outbox.entries, outbox.by_target, outbox.waiting, outbox.queues, outbox.held)
    return (
        not any((*tables, outbox.inquiries, outbox.unasked)) and outbox.queued == 0 and outbox.wheel.deadline() is None
    )


@pytest.mark.parametrize(
    ("kind", "flags", "repeatable"),
    [
        (Kind.CALL, 0, False),
        (Kind.CALL, Flag.ONCE, False),
        (Kind.CALL, Flag.IDEMPOTENT, True),
        (Kind.CAST, 0, True),
        (Kind.CAST, Flag.ONCE, False),
        (Kind.CAST, Flag.ONCE | Flag.IDEMPOTENT, False),
    ],
)
def test_only_an_idempotent_call_or_a_plain_cast_may_run_twice(kind: Kind, flags: int, repeatable: bool) -> None:
    assert repeatable is Entry(request(kind=kind, flags=flags), ORDERS, 10.0, 128).repeatable


def test_what_is_held_until_its_app_is_told_is_released_in_order_or_taken_out_alone() -> None:
    outbox = Outbox()
    entries = [placed(outbox, seq) for seq in (1, 2, 3)]
    for one in entries:
        one.place = Place.QUEUED
        outbox.hold("b", one.key)
    assert 3 == outbox.queued
    assert outbox.is_held("b", (7, 2))
    assert not outbox.is_held("c", (7, 2))
    outbox.unplace(entries[1])
    assert [("b", (7, 1)), ("b", (7, 3))] == outbox.release(7)
    assert ([], 0) == (outbox.release(7), outbox.queued)
    outbox.hold("b", (7, 1))
    outbox.end((7, 1))
    outbox.unplace(entries[2])
    assert ({}, 0) == (outbox.held, outbox.queued)


def test_an_entry_is_known_by_session_and_seq_and_due_at_its_deadline() -> None:
    outbox = Outbox()
    one = entry(5, session=9)
    outbox.admit(one)
    assert {(9, 5): one} == outbox.entries
    assert [(9, 5)] == outbox.wheel.due(10.1)


def test_those_who_wait_for_a_topic_come_out_in_their_order() -> None:
    outbox = Outbox()
    for seq in (3, 1, 2):
        outbox.wait(admitted(outbox, seq))
    other = entry(4, topic=STOCK)
    outbox.admit(other)
    outbox.wait(other)
    assert 4 == outbox.queued
    assert [3, 1, 2] == [one.request.seq for one in outbox.unwait(ORDERS)]
    assert [] == outbox.unwait(ORDERS)
    assert (1, [STOCK]) == (outbox.queued, list(outbox.waiting))


def test_what_began_to_wait_late_comes_out_before_what_was_admitted_after_it() -> None:
    outbox = Outbox()
    first, second = admitted(outbox, 1), admitted(outbox, 2)
    for one in (second, first):
        outbox.wait(one)
    assert [first, second] == outbox.unwait(ORDERS)


def test_what_is_queued_for_a_node_leaves_once() -> None:
    outbox = Outbox()
    one = placed(outbox, 1, B1, Place.QUEUED)
    two = placed(outbox, 2, B2, Place.QUEUED)
    assert [one.key, two.key] == list(outbox.queues["b"])
    outbox.unqueue("b", one.key)
    outbox.unqueue("b", one.key)
    outbox.unqueue("c", two.key)
    assert 1 == outbox.queued
    outbox.unqueue("b", two.key)
    assert ({}, 0) == (outbox.queues, outbox.queued)


def test_what_is_outstanding_is_counted_by_target_and_found_by_node() -> None:
    outbox = Outbox()
    one, two, three = placed(outbox, 1, B1), placed(outbox, 2, B1, Place.QUEUED), placed(outbox, 3, B2)
    placed(outbox, 4, C1)
    assert [2, 1, 1, 0] == [outbox.outstanding(target) for target in (B1, B2, C1, ("d", 1))]
    assert [one, two, three] == outbox.at_node("b")
    assert [] == outbox.at_node("d")


def asked(outbox: Outbox, one: Entry, now: float, *targets: tuple[str, int]) -> None:
    """Have a placed entry asked about at these targets, which were incarnation 5."""
    outbox.unplace(one)
    outbox.ask(one, dict.fromkeys(targets, 5), now)


@pytest.mark.parametrize("place", Place)
def test_from_every_place_an_entry_ends_and_leaves_nothing_behind(place: Place) -> None:
    outbox = Outbox()
    if place is Place.WAITING:
        one = admitted(outbox)
        outbox.wait(one)
    else:
        one = placed(outbox, place=Place.QUEUED if place is Place.QUEUED else Place.PLACED)
    if place is Place.ASKED:
        asked(outbox, one, 1.0, B1, C1)
        outbox.question(B1)
    ended = outbox.end(one.key)
    assert ended is one
    assert [] == one.nodes
    assert is_empty(outbox)
    assert None is outbox.end(one.key)


@pytest.mark.parametrize("place", [Place.QUEUED, Place.PLACED, Place.ASKED])
def test_an_entry_that_is_taken_back_may_be_placed_elsewhere(place: Place) -> None:
    outbox = Outbox()
    one = placed(outbox, place=Place.QUEUED if place is Place.QUEUED else Place.PLACED)
    beside = placed(outbox, 2)
    if place is Place.ASKED:
        asked(outbox, one, 1.0, B1)
    outbox.unplace(one)
    assert (Place.WAITING, 1, 0, {}) == (one.place, outbox.outstanding(B1), outbox.queued, outbox.inquiries)
    outbox.aim(one, C1)
    one.place = Place.PLACED
    assert [one] == outbox.at_node("c")
    assert [beside] == outbox.at_node("b")


def test_an_entry_between_two_places_can_be_taken_back_again() -> None:
    outbox = Outbox()
    one, two = admitted(outbox, 1), admitted(outbox, 2)
    outbox.unplace(one)
    outbox.wait(two)
    outbox.unplace(one)
    assert 1 == outbox.queued, "another that waits for the topic stays"
    outbox.wait(one)
    outbox.unplace(two)
    assert [one] == outbox.unwait(ORDERS)


def test_the_nodes_that_may_have_an_entry_are_those_it_was_sent_to() -> None:
    outbox = Outbox()
    waiting, queued, sent, one = (
        admitted(outbox),
        placed(outbox, 2, place=Place.QUEUED),
        placed(outbox, 3),
        placed(outbox, 4),
    )
    asked(outbox, one, 1.0, B1, B2, C1)
    assert [[], [], ["b"], ["b", "c"]] == [entry.nodes for entry in (waiting, queued, sent, one)]


def test_an_entry_is_asked_about_until_every_target_has_answered() -> None:
    outbox = Outbox()
    one, two = placed(outbox, 1), placed(outbox, 2)
    asked(outbox, one, 1.0, B1, C1)
    asked(outbox, two, 1.0, B1)
    outbox.answered(one, B1)
    assert {C1: 5} == one.asked
    assert ([two.key], [one.key]) == (outbox.question(B1)[1], outbox.question(C1)[1])
    outbox.answered(one, C1)
    outbox.answered(two, B1)
    assert ({}, {}) == (outbox.inquiries, outbox.unasked)


def test_targets_that_do_not_answer_are_overdue() -> None:
    outbox = Outbox()
    one, two = placed(outbox, 1), placed(outbox, 2)
    asked(outbox, one, 1.0, B1)
    asked(outbox, two, 3.0, C1)
    assert [] == outbox.overdue(5.0, 5.9)
    assert [B1] == outbox.overdue(5.0, 6.0)
    outbox.ask_anew("c", 4.0)
    assert [B1] == outbox.overdue(5.0, 8.9)
    assert [B1, C1] == outbox.overdue(5.0, 9.0)


def test_the_questions_to_a_target_on_one_link_have_one_number_and_ask_each_thing_once() -> None:
    outbox = Outbox()
    one, two, three = (placed(outbox, seq) for seq in (1, 2, 3))
    asked(outbox, one, 1.0, B1, C1)
    asked(outbox, two, 1.0, B1)
    assert [B1, C1] == list(outbox.unasked)
    (first, keys), (other, _) = outbox.question(B1), outbox.question(C1)
    assert ([one.key, two.key], {}) == (keys, outbox.unasked)
    asked(outbox, three, 2.0, B1)
    assert (first, [three.key]) == outbox.question(B1)
    outbox.ask_anew("b", 3.0)
    second, keys = outbox.question(B1)
    assert [one.key, two.key, three.key] == keys
    assert first < other < second


def test_what_is_watched_is_known_until_it_ends() -> None:
    outbox = Outbox()
    one, two = entry(1), entry(2)
    one.request.monitor_ms = 3000
    for made in (one, two):
        outbox.admit(made)
    assert [one.key] == list(outbox.monitored)
    for made in (one, two):
        outbox.end(made.key)
    assert {} == outbox.monitored


class OutboxMachine(RuleBasedStateMachine):
    """An outbox driven as the calling half drives it, with fan-outs' parts in the queues beside the entries."""

    def __init__(self) -> None:
        super().__init__()
        self.outbox = Outbox()
        self.now = 0.0
        self.seq = 0
        self.fans: set[tuple[str, Key]] = set()
        self.ended: set[Key] = set()

    def some(self, data: st.DataObject, *places: Place) -> Entry | None:
        found = [one for one in self.outbox.entries.values() if one.place in places]
        return data.draw(st.sampled_from(found)) if found else None

    @rule(data=st.data(), topic=st.sampled_from([ORDERS, STOCK]), ttl_s=st.floats(0, 20))
    def admit(self, data: st.DataObject, topic: TopicKey, ttl_s: float) -> None:
        self.seq += 1
        one = entry(self.seq, session=data.draw(st.integers(1, 2)), topic=topic, deadline=self.now + ttl_s)
        self.outbox.admit(one)
        self.place(data, one)

    def place(self, data: st.DataObject, one: Entry) -> None:
        """Nobody is ready, or an instance is chosen whose link takes it now or not."""
        place = data.draw(st.sampled_from([Place.WAITING, Place.QUEUED, Place.PLACED]))
        if place is Place.WAITING:
            self.outbox.wait(one)
            return
        self.outbox.aim(one, data.draw(st.sampled_from([B1, B2, C1])))
        one.place = place
        if place is Place.QUEUED:
            self.outbox.queue(one.target[0], one.key)

    @rule(data=st.data(), topic=st.sampled_from([ORDERS, STOCK]))
    def somebody_comes(self, data: st.DataObject, topic: TopicKey) -> None:
        for one in self.outbox.unwait(topic):
            if data.draw(st.booleans()):
                self.place(data, one)
            else:
                self.end(one)

    @rule(data=st.data(), node=st.sampled_from("bc"))
    def link_takes_one(self, data: st.DataObject, node: str) -> None:
        queue = self.outbox.queues.get(node)
        if queue is not None:
            key = next(iter(queue))
            self.outbox.unqueue(node, key)
            if (node, key) in self.fans:
                self.fans.remove((node, key))
            else:
                self.outbox.entries[key].place = Place.PLACED

    @rule(node=st.sampled_from("bc"))
    def fan_out(self, node: str) -> None:
        self.seq += 1
        self.outbox.queue(node, (9, self.seq))
        self.fans.add((node, (9, self.seq)))

    @rule(data=st.data())
    @precondition(lambda self: self.fans)
    def fan_out_ends(self, data: st.DataObject) -> None:
        node, key = data.draw(st.sampled_from(sorted(self.fans)))
        self.outbox.unqueue(node, key)
        self.fans.remove((node, key))

    @rule(node=st.sampled_from("bc"), data=st.data())
    def link_is_lost(self, node: str, data: st.DataObject) -> None:
        for one in self.outbox.at_node(node):
            assert node == one.target[0]
            is_asked = one.place is Place.PLACED and data.draw(st.booleans())
            self.outbox.unplace(one)
            if is_asked:
                targets = data.draw(st.lists(st.sampled_from([B1, B2, C1]), min_size=1, unique=True))
                self.outbox.ask(one, dict.fromkeys(targets, 5), self.now)
            else:
                self.place(data, one)
        self.outbox.ask_anew(node, self.now)

    @rule(data=st.data())
    def is_asked_and_answered(self, data: st.DataObject) -> None:
        one = self.some(data, Place.ASKED)
        if one is None:
            return
        target = data.draw(st.sampled_from(list(one.asked)))
        known = self.outbox.inquiries[target].number
        number, keys = self.outbox.question(target)
        assert number == known or (not known and number == self.outbox.question_no and one.key in keys)
        if len(one.asked) > 1 and data.draw(st.booleans()):
            self.outbox.answered(one, target)
        else:
            self.outbox.unplace(one)
            self.place(data, one)

    @rule(data=st.data())
    def ends(self, data: st.DataObject) -> None:
        one = self.some(data, *Place)
        if one is not None:
            self.end(one)

    def end(self, one: Entry) -> None:
        assert one is self.outbox.end(one.key)
        assert None is self.outbox.end(one.key)
        self.ended.add(one.key)

    @rule(seconds=st.floats(0, 8))
    def time_passes(self, seconds: float) -> None:
        self.now += seconds
        for key in self.outbox.wheel.due(self.now):
            assert key not in self.ended, "what ended is never due"
            self.end(self.outbox.entries[key])
        for target in self.outbox.overdue(5.0, self.now):
            for key in list(self.outbox.inquiries[target].keys):
                self.end(self.outbox.entries[key])

    @rule()
    def is_copied(self) -> None:
        self.outbox = copied(self.outbox)

    @invariant()
    def every_entry_is_where_it_says_and_nowhere_else(self) -> None:
        outbox = self.outbox
        for key, one in outbox.entries.items():
            aimed = one.place in (Place.QUEUED, Place.PLACED)
            assert key == one.key
            assert (key in outbox.waiting.get(one.topic, {})) == (one.place is Place.WAITING)
            assert (key in outbox.queues.get(one.target[0], {})) == (one.place is Place.QUEUED)
            assert bool(one.asked) == (one.place is Place.ASKED)
            assert sorted(one.asked) == sorted(t for t, inquiry in outbox.inquiries.items() if key in inquiry.keys)
            assert [one.target] * aimed == [target for target, keys in outbox.by_target.items() if key in keys]

    @invariant()
    def tables_hold_nothing_else(self) -> None:
        outbox = self.outbox
        held = [key for table in (outbox.by_target, outbox.waiting) for keys in table.values() for key in keys]
        asked = {key for inquiry in outbox.inquiries.values() for key in inquiry.keys}
        assert not self.ended & {*held, *asked}
        assert len(held) + len(asked) == len(outbox.entries)
        queued = {(node, key) for node, keys in outbox.queues.items() for key in keys}
        entries = {(one.target[0], one.key) for one in outbox.entries.values() if one.place is Place.QUEUED}
        assert self.fans | entries == queued

    @invariant()
    def no_table_is_left_empty(self) -> None:
        outbox = self.outbox
        for keys in (*outbox.by_target.values(), *outbox.waiting.values(), *outbox.queues.values()):
            assert keys
        for target, inquiry in outbox.inquiries.items():
            assert inquiry.keys
            assert set(inquiry.unasked) <= set(inquiry.keys)
            assert not inquiry.unasked or target in outbox.unasked
        assert set(outbox.unasked) <= set(outbox.inquiries)

    @invariant()
    def what_waits_is_counted(self) -> None:
        outbox = self.outbox
        held = sum(map(len, outbox.waiting.values())) + sum(map(len, outbox.queues.values()))
        assert held == outbox.queued

    def teardown(self) -> None:
        for one in list(self.outbox.entries.values()):
            self.end(one)
        for node, key in self.fans:
            self.outbox.unqueue(node, key)
        assert is_empty(self.outbox)


TestOutboxMachine = OutboxMachine.TestCase


def test_what_waits_for_the_link_to_a_node_is_counted_for_that_node_alone() -> None:
    outbox = Outbox()
    placed(outbox, 1)
    placed(outbox, 2, place=Place.QUEUED)
    outbox.hold("b", placed(outbox, 3).key)
    outbox.hold("c", placed(outbox, 4, C1).key)
    outbox.ask(admitted(outbox, 5), {B2: 1, C1: 1}, 0.0)
    assert (3, 2, 0) == (outbox.unsent("b"), outbox.unsent("c"), outbox.unsent("d"))
