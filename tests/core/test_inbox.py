"""What reached this node is remembered until it is settled or expires, exactly once, and within its limits."""

import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from mesh.core.inbox import SMALL_BYTES, Caller, Fifo, Handed, Id, Inbox, InboxOptions, Service, Stage
from mesh.core.records import Failure, Flag, Kind, Receipt, Reply, Status
from tests.core.builders import copied, reply, request

OPTIONS = InboxOptions(queue_records=3, queue_bytes=1024, answers_bytes=10)


def handed(seq: int = 1, *, kind: Kind = Kind.CALL, flags: int = 0, expires: float = 100.0) -> Handed:
    return Handed(request(seq, kind=kind, flags=flags, body=b"body"), expires, 132, target=3)


def keep(inbox: Inbox, *seqs: int, expires: float = 100.0) -> tuple[Caller, list[Handed]]:
    """Remember requests of the session `("a", 7)`."""
    caller = inbox.caller("a", 7, 0.0)
    kept = [handed(seq, expires=expires) for seq in seqs]
    for one in kept:
        inbox.keep(caller, one)
    return caller, kept


# Queues


@given(st.lists(st.none() | st.integers(0, 200), max_size=60))
def test_a_fifo_gives_back_what_was_put_in_in_its_order(steps: list[int | None]) -> None:
    """A number puts in that many, None takes half of them out."""
    queue, model, number = Fifo(), list[Id](), 0
    for step in steps:
        for _ in range(step or 0):
            number += 1
            queue.push(("a", 7, number))
            model.append(("a", 7, number))
        for _ in range(len(model) // 2 if step is None else 0):
            assert model[0] == queue.peek()
            assert model.pop(0) == queue.pop()
    assert model == queue.items[queue.head :]
    assert queue.head <= max(64, len(model) + 1), "what was taken out does not pile up"
    assert queue == copied(queue)


def test_an_empty_fifo_has_nothing() -> None:
    queue = Fifo()
    assert (None, None) == (queue.peek(), queue.pop())
    queue.push(("a", 7, 1))
    queue.pop()
    assert (None, None) == (queue.peek(), queue.pop())


@pytest.mark.parametrize(
    ("kind", "flags", "expected"),
    [
        (Kind.CALL, 0, True),
        (Kind.CALL, Flag.IDEMPOTENT, False),
        (Kind.CAST, 0, False),
        (Kind.CAST, Flag.ONCE, True),
        (Kind.CAST, Flag.ONCE | Flag.WAIT, True),
        (Kind.FANOUT, 0, False),
        (Kind.FANOUT, Flag.ONCE, False),
    ],
)
def test_only_what_must_not_repeat_waits_for_a_worker(kind: Kind, flags: int, expected: bool) -> None:
    assert expected is handed(kind=kind, flags=flags).is_call


def service(calls: int = 0, casts: int = 0, *, workers: int = 2, prefetch: int = 4) -> Service:
    running = {("a", 7, seq): 100 for seq in range(calls + casts)}
    return Service("orders", "srv", workers, prefetch, running=running, running_bytes=100 * len(running))


@pytest.mark.parametrize(
    ("one", "call", "cast"),
    [
        (service(), True, True),
        (service(calls=1), True, True),
        (service(calls=2), False, True),
        (service(casts=1), True, True),
        (service(casts=2), False, True),
        (service(casts=4), False, False),
        (service(calls=2, casts=2), False, False),
        (service(casts=3, workers=8, prefetch=1), True, True),
    ],
)
def test_calls_are_begun_by_workers_and_casts_are_prefetched(one: Service, call: bool, cast: bool) -> None:
    assert (call, cast) == (one.may_begin(handed(), OPTIONS), one.may_begin(handed(kind=Kind.CAST), OPTIONS))


def test_what_waits_and_what_is_with_the_app_is_counted_in_records_and_bytes() -> None:
    one = Service("orders", "srv", 1, 1)
    first, second = handed(1), handed(2)
    one.enqueue(first, 1.0)
    one.enqueue(second, 1.0)
    one.unqueue(first)
    one.begin(first)
    assert (1, 132, {("a", 7, 1): 132}, 132) == (one.queued, one.queued_bytes, one.running, one.running_bytes)
    one.end(first.id, 2.0)
    one.unqueue(second)
    assert (0, 0, {}, 0) == (one.queued, one.queued_bytes, one.running, one.running_bytes)


def test_bytes_bound_what_is_handed_but_one_body_alone_is() -> None:
    options = InboxOptions(handed_bytes=1024)
    one = Service("orders", "srv", 4, 4)
    large = Handed(request(1), 100.0, 2000)
    assert one.may_begin(large, options)
    one.running, one.running_bytes = {("a", 7, 9): 1}, 1
    assert not one.may_begin(large, options)
    assert one.may_begin(Handed(request(1), 100.0, 1023), options)


@pytest.mark.parametrize(
    ("pace_s", "queued", "still_s", "expected_ms"),
    [
        (0.0, 100, 0.01, 100),
        (0.0, 100, 0.7, 700),
        (0.01, 800, 0.0, 1000),
        (0.01, 8, 0.0, 20),
        (0.01, 8, 2.0, 2000),
        (1.0, 8000, 0.0, 5000),
    ],
)
def test_a_full_queue_hints_at_when_an_eighth_of_it_is_gone(
    pace_s: float, queued: int, still_s: float, expected_ms: int
) -> None:
    one = Service("orders", "srv", 1, 1, queued=queued, pace_s=pace_s, paced_at=10.0)
    assert expected_ms == one.retry_after_ms(10.0 + still_s)


def test_the_pace_is_that_of_ends_while_work_waits() -> None:
    one = Service("orders", "srv", 1, 1)
    waiting = [handed(seq) for seq in range(41)]
    for each in waiting:
        one.enqueue(each, 0.0)
    for number, each in enumerate(waiting):
        one.unqueue(each)
        one.begin(each)
        one.end(each.id, 0.5 * (number + 1))
    assert 0.49 < one.pace_s <= 0.5
    before = one.pace_s
    one.enqueue(waiting[0], 100.0)
    one.unqueue(waiting[0])
    one.begin(waiting[0])
    one.end(waiting[0].id, 200.0)
    assert before == one.pace_s, "nothing waited"


@pytest.mark.parametrize(
    ("queued", "queued_bytes", "expected"),
    [
        (0, 0, None),
        (2, 900, None),
        (2, 924, None),
        (2, 925, "queue_bytes"),
        (3, 0, "queue_records"),
        (3, 2000, "queue_records"),
    ],
)
def test_a_full_queue_names_its_limit(queued: int, queued_bytes: int, expected: str | None) -> None:
    one = Service("orders", "srv", 1, 1, queued=queued, queued_bytes=queued_bytes)
    assert expected == one.full(OPTIONS, 100)


def test_one_request_larger_than_the_queue_may_be_alone_in_it() -> None:
    assert None is Service("orders", "srv", 1, 1).full(OPTIONS, 1_000_000)


# Remembering


def test_what_is_kept_is_found_by_its_identity() -> None:
    inbox = Inbox()
    _, [one] = keep(inbox, 5)
    assert ("a", 7, 5) == one.id
    assert one is inbox.find(("a", 7, 5))
    assert [None, None] == [inbox.find(("a", 7, 6)), inbox.find(("b", 7, 5))]


def test_what_is_settled_above_the_floor_is_forgotten_once_it_has_ended() -> None:
    inbox = Inbox()
    caller, [first, second, third] = keep(inbox, 5, 6, 7)
    inbox.end(first, None, OPTIONS)
    inbox.end(third, None, OPTIONS)
    for seq in (5, 6, 99):
        inbox.settle(caller, seq)
    assert [second, third] == list(caller.handed.values())


def test_a_calling_session_is_one_however_often_it_is_heard() -> None:
    inbox = Inbox()
    caller = inbox.caller("a", 7, 1.0)
    assert caller is inbox.caller("a", 7, 2.0)
    assert 2.0 == caller.heard_at


def test_what_has_ended_is_kept_with_its_answer_for_a_copy_that_comes() -> None:
    inbox = Inbox()
    _, [one] = keep(inbox, 1)
    inbox.end(one, reply(1, b"yes"), OPTIONS)
    assert one is inbox.find(one.id)
    assert (Stage.ENDED, reply(1, b"yes"), 3) == (one.stage, one.answer, inbox.answers_bytes)


@pytest.mark.parametrize(("body", "headers"), [(b"x" * (SMALL_BYTES + 1), None), (b"x", {"a": "b"})])
def test_the_body_of_what_has_ended_is_not_kept(body: bytes, headers: dict[str, str] | None) -> None:
    inbox = Inbox()
    original = request(1, body=body)
    original.headers = headers
    one = Handed(original, 100.0, 1000)
    inbox.keep(inbox.caller("a", 7, 0.0), one)
    inbox.end(one, None, OPTIONS)
    assert (b"", None) == (one.request.body, one.request.headers)
    assert ("a", 7, 1) == one.id
    assert (body, headers) == (original.body, original.headers), "an app's way out may hold it still"


def test_a_small_body_of_what_has_ended_stays_for_it_costs_more_to_be_rid_of_it() -> None:
    inbox = Inbox()
    one = Handed(request(1, body=b"x" * SMALL_BYTES), 100.0, 1000)
    inbox.keep(inbox.caller("a", 7, 0.0), one)
    inbox.end(one, None, OPTIONS)
    assert request(1, body=b"x" * SMALL_BYTES) == one.request


def test_a_reply_for_which_there_is_no_room_is_dropped_and_its_id_is_kept() -> None:
    inbox = Inbox()
    _, [one, two, three] = keep(inbox, 1, 2, 3)
    inbox.end(one, reply(1, b"x" * 6), OPTIONS)
    inbox.end(two, reply(2, b"x" * 5), OPTIONS)
    inbox.end(three, reply(3, b"x" * 4), OPTIONS)
    assert [True, False, True] == [other.answer is not None for other in (one, two, three)]
    assert Stage.ENDED is two.stage
    assert two is inbox.find(two.id)
    assert 10 == inbox.answers_bytes


@pytest.mark.parametrize(
    "answer", [None, Failure("a", 7, 1, int(Status.REMOTE_ERROR), "no"), Receipt("a", 7, 1, 3, 3, 0, 0)]
)
def test_other_answers_are_kept_beside_the_limit(answer: Failure | Receipt | None) -> None:
    inbox = Inbox(answers_bytes=10)
    _, [one] = keep(inbox, 1)
    inbox.end(one, answer, OPTIONS)
    assert (answer, 10) == (one.answer, inbox.answers_bytes)


@pytest.mark.parametrize("floor", [3, 1 << 62], ids=["a step", "a leap"])
def test_below_the_floor_what_has_ended_is_forgotten_and_what_runs_when_it_ends(floor: int) -> None:
    inbox = Inbox()
    caller, [one, two, *rest] = keep(inbox, 1, 2, 1 << 62, (1 << 62) + 1, (1 << 62) + 2, (1 << 62) + 3)
    inbox.end(one, reply(1, b"yes"), OPTIONS)
    inbox.raise_floor(caller, floor)
    assert None is inbox.find(one.id)
    assert two is inbox.find(two.id)
    assert 0 == inbox.answers_bytes
    inbox.end(two, reply(2, b"yes"), OPTIONS)
    assert None is inbox.find(two.id)
    assert 0 == inbox.answers_bytes
    assert len(rest) == len(caller.handed)


def test_ids_are_counted_and_bounded_until_they_are_forgotten() -> None:
    inbox, options = Inbox(), InboxOptions(ids_max=1024)
    caller, works = keep(inbox, *range(1024))
    assert (1024, "ids_max") == (inbox.ids, inbox.full(options))
    inbox.erase(works[0])
    inbox.settle(caller, 1)
    assert (1023, None) == (inbox.ids, inbox.full(options)), "what runs stays"
    inbox.end(works[1], None, options)
    inbox.settle(caller, 1)
    inbox.settle(caller, 5000)
    assert 1022 == inbox.ids
    inbox.expired(1e9)
    assert 0 == inbox.ids


def test_a_floor_never_falls() -> None:
    caller = Caller(floor=5)
    Inbox().raise_floor(caller, 4)
    assert 5 == caller.floor


def test_what_is_given_back_is_as_though_it_had_never_come() -> None:
    inbox = Inbox()
    caller, [one] = keep(inbox, 1)
    inbox.erase(one)
    assert None is inbox.find(one.id)
    assert [] == inbox.expired(1e6)
    again = handed(1, expires=200.0)
    inbox.keep(caller, again)
    assert again is inbox.find(one.id)


def test_what_expires_is_told_once_whatever_stage_it_had() -> None:
    inbox = Inbox()
    _, [one, two] = keep(inbox, 1, 2, expires=10.0)
    keep(inbox, 3, expires=20.0)
    inbox.end(one, reply(1, b"yes"), OPTIONS)
    assert [] == inbox.expired(9.9)
    assert [one, two] == inbox.expired(10.25)
    assert [] == inbox.expired(10.5)
    assert 0 == inbox.answers_bytes
    assert [3] == [other.request.seq for caller in inbox.callers.values() for other in caller.handed.values()]


def test_a_session_is_forgotten_when_it_is_silent_and_nothing_of_it_is_left() -> None:
    inbox = Inbox()
    inbox.caller("quiet", 1, 0.0)
    inbox.caller("lately", 1, 50.0)
    keep(inbox, 1)
    inbox.forget_idle(60.0, 60.0)
    assert [("lately", 1), ("a", 7)] == list(inbox.callers)


class InboxMachine(RuleBasedStateMachine):
    """An inbox driven as the serving half drives it, beside a model of what must be remembered."""

    def __init__(self) -> None:
        super().__init__()
        self.inbox = Inbox()
        self.now = 0.0
        self.model: dict[Id, float] = {}
        self.ended: set[Id] = set()
        self.floors = dict.fromkeys((1, 2), 0)

    def some(self, data: st.DataObject) -> Handed:
        found = self.inbox.find(data.draw(st.sampled_from(sorted(set(self.model) - self.ended))))
        assert found is not None
        return found

    @rule(session=st.integers(1, 2), seq=st.integers(0, 12), ttl_s=st.floats(0, 20))
    def arrives(self, session: int, seq: int, ttl_s: float) -> None:
        caller = self.inbox.caller("a", session, self.now)
        id = ("a", session, seq)
        assert (id in self.model) == (seq in caller.handed)
        if id in self.model or seq < caller.floor:
            return
        one = Handed(request(seq, session=session, body=b"body"), self.now + ttl_s, 132)
        self.inbox.keep(caller, one)
        self.model[id] = one.expires

    @rule(session=st.integers(1, 2), floor=st.integers(0, 13) | st.just(1 << 62))
    def floor_rises(self, session: int, floor: int) -> None:
        if floor == 1 << 62 and self.floors[session] < 13:
            return
        self.inbox.raise_floor(self.inbox.caller("a", session, self.now), floor)
        self.floors[session] = max(self.floors[session], floor)
        self.settle()

    def settle(self) -> None:
        """What has ended below its floor is forgotten."""
        for id in sorted(self.ended):
            if id[2] < self.floors[id[1]]:
                self.ended.remove(id)
                del self.model[id]

    @rule(data=st.data(), size=st.integers(0, 6))
    @precondition(lambda self: set(self.model) - self.ended)
    def ends(self, data: st.DataObject, size: int) -> None:
        one = self.some(data)
        answer = Reply("a", one.request.session, one.request.seq, b"x" * size) if size else None
        self.inbox.end(one, answer, OPTIONS)
        self.ended.add(one.id)
        self.settle()

    @rule(data=st.data())
    @precondition(lambda self: set(self.model) - self.ended)
    def is_given_back(self, data: st.DataObject) -> None:
        one = self.some(data)
        self.inbox.erase(one)
        del self.model[one.id]

    @rule(seconds=st.floats(0, 8))
    def time_passes(self, seconds: float) -> None:
        self.now += seconds
        for one in self.inbox.expired(self.now):
            assert self.model.pop(one.id) <= self.now
            self.ended.discard(one.id)
        assert all(expires > self.now - 0.25 - 1e-9 for expires in self.model.values()), "at most a tick late"

    @rule()
    def is_copied(self) -> None:
        self.inbox = copied(self.inbox)

    @invariant()
    def exactly_what_must_be_is_remembered(self) -> None:
        found = {one.id: one for caller in self.inbox.callers.values() for one in caller.handed.values()}
        assert set(self.model) == set(found)
        assert self.ended == {id for id, one in found.items() if one.stage is Stage.ENDED}
        assert all(self.inbox.find(id) is one for id, one in found.items())

    @invariant()
    def answers_are_counted_and_within_their_limit(self) -> None:
        answers = [one.answer for caller in self.inbox.callers.values() for one in caller.handed.values()]
        held = sum(len(answer.body) for answer in answers if isinstance(answer, Reply))
        assert held == self.inbox.answers_bytes <= OPTIONS.answers_bytes

    def teardown(self) -> None:
        """In the end everything expires and nothing is left."""
        self.inbox.expired(self.now + 100.0)
        self.inbox.forget_idle(60.0, self.now + 100.0)
        assert ({}, 0, None) == (self.inbox.callers, self.inbox.answers_bytes, self.inbox.wheel.deadline())


TestInboxMachine = InboxMachine.TestCase
