"""One link: its table, its judgements, its window, and two real ends joined by a wire."""

import itertools

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule
from msgspec import structs

from mesh.core.link import (
    TRANSITIONS,
    Event,
    Link,
    LinkOptions,
    Phase,
    Ruling,
    Seen,
    advance,
    goodbye,
    judge_hello,
    judge_welcome,
    stay,
)
from mesh.core.liveness import Liveness, LivenessOptions
from mesh.core.records import PROTOCOL_MINOR, Goodbye, Hello, Record, Refuse, RefuseReason, Request, Welcome

HELLO = Hello(0, PROTOCOL_MINOR, "fleet", "a", 7, 3, "b", "host", 1, 1000, 5000, 1, 1, 1, 1, 1)
WELCOME = Welcome(PROTOCOL_MINOR, "fleet", "b", 9, 2, 1000, 5000, 1, 1, 1, 1, 1)


def link_in(phase: Phase, *, dialled: bool = True, incarnation: int = 0) -> Link:
    return Link(1, dialled, phase, "", 0.0, Liveness(0.0, 0.0), LivenessOptions(), incarnation=incarnation)


# The table


@pytest.mark.parametrize(("phase", "event"), list(itertools.product(Phase, Event)))
def test_an_event_moves_a_link_as_the_table_says_or_is_our_own_defect(phase: Phase, event: Event) -> None:
    link = link_in(phase)
    if (phase, event) in TRANSITIONS:
        advance(link, event, 5.0)
        assert (TRANSITIONS[phase, event], 5.0) == (link.phase, link.since)
    else:
        with pytest.raises(AssertionError, match=f"{event.name} in {phase.name}"):
            advance(link, event, 5.0)
        assert (phase, 0.0) == (link.phase, link.since)


@pytest.mark.parametrize("phase", [phase for phase in Phase if phase is not Phase.CLOSED])
def test_a_connection_may_be_lost_at_any_time(phase: Phase) -> None:
    assert Phase.CLOSED is TRANSITIONS[phase, Event.LOST]


def test_what_is_closed_stays_closed_and_what_goes_on_goes_back_only_for_one_who_stays() -> None:
    back = [event for (before, event), after in TRANSITIONS.items() if before >= after]
    assert [Event.STAY] == back
    assert Phase.CLOSED not in [phase for phase, _ in TRANSITIONS]


def test_every_phase_is_reached_from_one_of_the_two_ways_in() -> None:
    reached = {Phase.DIALLING, Phase.UNPROVEN}
    for _ in Phase:
        reached |= {after for (before, _), after in TRANSITIONS.items() if before in reached}
    assert set(Phase) == reached


def test_a_goodbye_that_the_other_end_does_not_take_may_be_said_again() -> None:
    link = link_in(Phase.OPEN)
    assert not stay(link, 1.0), "nothing was said"
    goodbye(link, "idle", 2.0)
    assert stay(link, 3.0)
    assert (Phase.OPEN, 3.0) == (link.phase, link.since)
    goodbye(link, "drained", 4.0, final=True)
    assert [Goodbye("idle"), Goodbye("drained", True)] == link.out
    link.goodbye_heard = True
    assert not stay(link, 5.0), "both have said it"


def test_only_an_open_link_takes_something_new() -> None:
    assert [Phase.OPEN] == [phase for phase in Phase if link_in(phase).usable]


@pytest.mark.parametrize(("here", "there"), list(itertools.product([False, True], repeat=2)))
def test_a_link_is_persistent_while_either_end_wants_it(here: bool, there: bool) -> None:
    link = link_in(Phase.OPEN)
    link.keep_here, link.keep_there = here, there
    assert (here or there) is link.persistent


def test_goodbye_is_said_once_and_ends_only_what_is_open() -> None:
    link = link_in(Phase.OPEN)
    goodbye(link, "idle", 3.0)
    goodbye(link, "again", 4.0)
    assert ([Goodbye("idle")], Phase.LEAVING, 3.0) == (link.out, link.phase, link.since)
    leaving = link_in(Phase.LEAVING)
    goodbye(leaving, "answer", 3.0)
    assert ([Goodbye("answer")], Phase.LEAVING, 0.0) == (leaving.out, leaving.phase, leaving.since)


# The window


def test_a_window_is_spent_by_records_and_by_bytes() -> None:
    link = link_in(Phase.OPEN)
    link.credit_records, link.credit_bytes = 2, 300
    assert link.has_credit
    link.charge(299)
    assert link.has_credit
    link.charge(1)
    assert not link.has_credit
    link.credit_records = 3
    assert not link.has_credit
    link.credit_bytes = 301
    assert link.has_credit


def test_a_window_is_told_anew_when_a_quarter_of_its_records_was_taken_up() -> None:
    options = LinkOptions(credit_records=16, credit_bytes=1 << 20)
    link = link_in(Phase.OPEN)
    link.granted_records, link.granted_bytes = 16, 1 << 20
    told = []
    for _ in range(10):
        link.take(1)
        told.append(link.grant(options))
    assert [None, None, None, (20, (1 << 20) + 4), None, None, None, (24, (1 << 20) + 8), None, None] == told


def test_a_window_is_told_anew_when_a_quarter_of_its_bytes_was_taken_up() -> None:
    options = LinkOptions(credit_records=1024, credit_bytes=1 << 20)
    link = link_in(Phase.OPEN)
    link.granted_records, link.granted_bytes = 1024, 1 << 20
    link.take((1 << 18) - 1)
    assert link.grant(options) is None
    link.take(1)
    assert (1026, (1 << 20) + (1 << 18)) == link.grant(options)


# The past


@pytest.mark.parametrize(
    ("numbers", "admitted"),
    [((7, 3), True), ((7, 4), True), ((8, 0), True), ((7, 2), False), ((6, 9), False), ((0, 0), False)],
)
def test_only_a_lesser_pair_of_numbers_is_of_the_past(numbers: tuple[int, int], admitted: bool) -> None:
    assert admitted is Seen(7, 3).admits(*numbers)


# Judgement of a HELLO


def ruling(
    hello: Hello,
    *,
    node: str = "b",
    fleet: str = "fleet",
    seen: tuple[int, int] = (0, 0),
    incumbent: int | None = None,
    own_dial: Phase | None = None,
) -> tuple[Ruling, Refuse | None]:
    judgement = judge_hello(
        hello,
        node=node,
        fleet=fleet,
        incarnation=9,
        seen=Seen(*seen),
        incumbent=None if incumbent is None else link_in(Phase.OPEN, incarnation=incumbent),
        own_dial=None if own_dial is None else link_in(own_dial),
    )
    return judgement.ruling, judgement.refuse


REFUSED = [
    ({"protocol_min": PROTOCOL_MINOR + 1}, RefuseReason.PROTOCOL, 0, "b speaks protocol 1.0 to 1.0, you want 1.1"),
    ({"fleet": "other"}, RefuseReason.FLEET, 0, "b is of fleet 'fleet', you are of 'other'"),
    ({"meant": "c"}, RefuseReason.NOT_ME, 0, "you meant 'c', this is 'b'"),
    ({"node": "b"}, RefuseReason.DUPLICATE_NODE, 9, "node id 'b': this one, and the one at host:1"),
    ({"node": "b", "incarnation": 12}, RefuseReason.DUPLICATE_NODE, 12, "two agents have the node id 'b'"),
    ({"incarnation": 6}, RefuseReason.STALE_INCARNATION, 7, "'a' was seen as incarnation 7, you are 6"),
    ({"link_no": 2}, RefuseReason.STALE_CONNECTION, 0, "link 3 of 'a' came after link 2"),
    ({"probe": True}, RefuseReason.REACHED, 0, "this is 'b'"),
]


@pytest.mark.parametrize(("fields", "reason", "greater", "text"), REFUSED, ids=lambda value: str(value)[:25])
def test_a_hello_is_refused_with_its_reason(fields: dict[str, int], reason: int, greater: int, text: str) -> None:
    decided, refuse = ruling(structs.replace(HELLO, **fields), seen=(7, 3))
    assert Ruling.REFUSE is decided
    assert refuse is not None
    assert (reason, greater) == (refuse.reason, refuse.greater)
    assert text in refuse.text


def test_the_reasons_are_looked_for_in_their_order() -> None:
    """A stranger learns that it is one before it learns anything of whom this node knows."""
    fields = {"protocol_min": 1, "fleet": "other", "meant": "c", "incarnation": 6, "link_no": 2}
    reasons = []
    for name in [*fields, ""]:
        _, refuse = ruling(structs.replace(HELLO, **fields), seen=(7, 3))
        reasons.append(refuse.reason if refuse else None)
        if name:
            fields[name] = getattr(HELLO, name)
    expected = ["PROTOCOL", "FLEET", "NOT_ME", "STALE_INCARNATION", "STALE_CONNECTION"]
    assert [*(RefuseReason[name] for name in expected), None] == reasons


def test_an_equal_or_greater_pair_is_accepted() -> None:
    assert (Ruling.ACCEPT, None) == ruling(HELLO, seen=(7, 3))
    assert (Ruling.ACCEPT, None) == ruling(HELLO, seen=(6, 99), incumbent=7)


def test_a_newcomer_makes_the_incumbent_be_challenged_even_in_glare() -> None:
    assert (Ruling.CHALLENGE, None) == ruling(HELLO, incumbent=6)
    later = structs.replace(HELLO, node="z")
    assert (Ruling.CHALLENGE, None) == ruling(later, incumbent=6, own_dial=Phase.GREETING)


@pytest.mark.parametrize(
    ("peer", "phase", "expected"),
    [
        ("z", Phase.GREETING, Ruling.HOLD),
        ("z", Phase.DIALLING, Ruling.ACCEPT),
        ("a", Phase.GREETING, Ruling.ACCEPT),
        ("a", Phase.DIALLING, Ruling.ACCEPT),
    ],
)
def test_in_glare_the_smaller_holds_once_its_own_hello_is_out(peer: str, phase: Phase, expected: Ruling) -> None:
    assert (expected, None) == ruling(structs.replace(HELLO, node=peer), own_dial=phase)


# Judgement of a WELCOME


def test_a_welcome_of_whom_was_meant_is_taken() -> None:
    assert judge_welcome(WELCOME, meant="b", fleet="fleet", seen=Seen(9, 2)) is None


@pytest.mark.parametrize(
    ("fields", "refuse"),
    [
        ({"node": "c"}, Refuse(int(RefuseReason.NOT_ME), "'c' answered where 'b' was meant")),
        ({"fleet": "x"}, Refuse(int(RefuseReason.FLEET), "'b' is of fleet 'x', this is 'fleet'")),
        (
            {"protocol": PROTOCOL_MINOR + 1},
            Refuse(int(RefuseReason.PROTOCOL), "'b' agreed on protocol 1.1, which was not offered"),
        ),
        (
            {"incarnation": 8},
            Refuse(int(RefuseReason.STALE_INCARNATION), "'b' was seen as incarnation 9, you are 8", 9),
        ),
        ({"link_no": 1}, Refuse(int(RefuseReason.STALE_CONNECTION), "link 2 of 'b' came after link 1")),
    ],
    ids=lambda value: str(value)[:25],
)
def test_a_welcome_is_refused_with_its_reason(fields: dict[str, int], refuse: Refuse) -> None:
    assert refuse == judge_welcome(structs.replace(WELCOME, **fields), meant="b", fleet="fleet", seen=Seen(9, 2))


# Two ends and a wire


class End:
    """One end of a connection: a link, and what is on its way to it (None: the other end has closed)."""

    def __init__(self, name: str, other: str, phase: Phase) -> None:
        self.name = name
        self.other = other
        self.link = link_in(phase, dialled=phase is Phase.DIALLING)
        self.coming: list[Record | None] = []
        self.heard: list[int] = []
        self.fleet = "fleet"

    @property
    def phase(self) -> Phase:
        return self.link.phase


class Joined(RuleBasedStateMachine):
    """Everything that a wire and the two ends may do, in any order."""

    def __init__(self) -> None:
        super().__init__()
        self.dialler, self.accepter = End("z", "b", Phase.DIALLING), End("b", "z", Phase.UNPROVEN)
        self.ends = [self.dialler, self.accepter]
        self.said = 0

    def flush(self, end: End) -> None:
        there = self.accepter if end is self.dialler else self.dialler
        there.coming += end.link.out
        end.link.out.clear()

    def close(self, end: End, event: Event) -> None:
        self.flush(end)
        advance(end.link, event, 0.0)
        (self.accepter if end is self.dialler else self.dialler).coming.append(None)
        end.coming.clear()

    @rule()
    def connect(self) -> None:
        if self.dialler.phase is Phase.DIALLING:
            advance(self.dialler.link, Event.CONNECTED, 0.0)
            self.dialler.link.out.append(structs.replace(HELLO, node="z", fleet=self.dialler.fleet))
            self.flush(self.dialler)

    @rule(number=st.integers(0, 1))
    def move_to_another_fleet(self, number: int) -> None:
        self.ends[number].fleet = "other"

    @rule(number=st.integers(0, 1), hold=st.booleans())
    def arrive(self, number: int, hold: bool) -> None:
        end = self.ends[number]
        if not end.coming or end.phase is Phase.CLOSED:
            return
        record = end.coming.pop(0)
        if record is None:
            advance(end.link, Event.LOST, 0.0)
        elif isinstance(record, Hello):
            end.link.hello = record
            own_dial = Phase.GREETING if hold else None
            self.rule_on(end, *ruling(record, node=end.name, fleet=end.fleet, own_dial=own_dial))
        elif isinstance(record, Welcome):
            refuse = judge_welcome(record, meant=end.other, fleet=end.fleet, seen=Seen())
            if refuse is not None:
                end.link.out.append(refuse)
                self.close(end, Event.REFUSED)
            else:
                advance(end.link, Event.WELCOMED, 0.0)
        elif isinstance(record, Refuse):
            self.close(end, Event.REFUSED)
        elif isinstance(record, Goodbye):
            end.link.goodbye_heard = True
            goodbye(end.link, "answer", 0.0)
            self.flush(end)
        else:
            assert isinstance(record, Request)
            assert end.phase in (Phase.OPEN, Phase.LEAVING)
            end.heard.append(record.seq)

    def rule_on(self, end: End, decided: Ruling, refuse: Refuse | None) -> None:
        if refuse is not None:
            end.link.out.append(refuse)
            self.close(end, Event.REFUSED)
        elif decided is Ruling.HOLD:
            advance(end.link, Event.HELD, 0.0)
        else:
            self.accept(end)

    def accept(self, end: End) -> None:
        advance(end.link, Event.ACCEPTED, 0.0)
        end.link.out.append(structs.replace(WELCOME, fleet=end.fleet))
        self.flush(end)

    @rule()
    def release(self) -> None:
        if self.accepter.phase is Phase.HELD:
            self.accept(self.accepter)

    @rule(number=st.integers(0, 1))
    def ask(self, number: int) -> None:
        end = self.ends[number]
        if end.link.usable:
            self.said += 1
            end.link.out.append(Request(0, self.said, "t", "", 1, b""))
            self.flush(end)

    @rule(number=st.integers(0, 1))
    def leave(self, number: int) -> None:
        end = self.ends[number]
        if end.link.usable:
            goodbye(end.link, "idle", 0.0)
            self.flush(end)

    @rule(number=st.integers(0, 1))
    def part(self, number: int) -> None:
        end = self.ends[number]
        if end.phase is Phase.LEAVING and end.link.goodbye_heard:
            self.close(end, Event.LOST)

    @rule(number=st.integers(0, 1))
    def lose(self, number: int) -> None:
        end = self.ends[number]
        if end.phase is not Phase.CLOSED:
            self.close(end, Event.LOST)

    @invariant()
    def an_end_that_heard_all_agrees_with_the_other(self) -> None:
        """Nothing on its way: both open, both leaving, both closed, or still greeting each other."""
        if self.dialler.coming or self.accepter.coming:
            return
        pair = (self.dialler.phase, self.accepter.phase)
        greeting = [
            (Phase.DIALLING, Phase.UNPROVEN),
            (Phase.GREETING, Phase.HELD),
        ]
        assert pair in greeting or (pair[0] is pair[1] and pair[0] in (Phase.OPEN, Phase.LEAVING, Phase.CLOSED)), pair

    @invariant()
    def what_was_sent_arrives_in_its_order(self) -> None:
        assert all(sorted(end.heard) == end.heard for end in self.ends)

    def teardown(self) -> None:
        """Left alone, both reach OPEN, or both reach CLOSED, or neither has begun."""
        for _ in range(200):
            self.release()
            for number in (0, 1):
                self.arrive(number, hold=False)
                self.part(number)
        self.an_end_that_heard_all_agrees_with_the_other()
        assert self.dialler.phase in (Phase.DIALLING, Phase.OPEN, Phase.CLOSED)


TestJoined = Joined.TestCase
TestJoined.settings = settings(stateful_step_count=30)
