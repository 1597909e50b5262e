"""The pool keeps its budget, never closes a leased link, and lets whoever waits have a link in turn."""

import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from mesh.core.pool import YOUNG_SHARE, Action, Close, Dial, Pool, PoolOptions, State, backoff_s
from mesh.core.rng import Rng
from tests.core.builders import ORDERS, STOCK, copied

OPTIONS = PoolOptions(links_max=2)
"""Two links, idle for 60 s, redials from 0.05 s to 5 s."""


def pool_with(*opened: str, now: float = 0.0) -> Pool:
    """A pool with links to these nodes, opened by them a second after each other."""
    pool = Pool()
    for node in opened:
        pool.opened(node, now)
        now += 1.0
    return pool


def close(pool: Pool, node: str, now: float, options: PoolOptions = OPTIONS, *, broken: bool = False) -> list[Action]:
    return pool.closed(node, options, now, Rng(1), broken=broken)


def wait(pool: Pool, node: str, now: float) -> list[Action]:
    """Something comes to be outstanding at a node, and wants a link."""
    pool.lease(node, now)
    return pool.want(node, OPTIONS, now)


# Wanting and dialling


def test_a_wanted_link_is_dialled_once() -> None:
    pool = Pool()
    assert [Dial("b")] == pool.want("b", OPTIONS, 0.0)
    assert [] == pool.want("b", OPTIONS, 0.0)
    pool.opened("b", 1.0)
    assert [] == pool.want("b", OPTIONS, 1.0)
    assert 1 == pool.taken


def test_a_link_that_stays_is_open_and_idle_from_then_on() -> None:
    pool = pool_with("b")
    assert [Close("b", "idle")] == pool.tick(OPTIONS, 60.0)
    pool.want("b", OPTIONS, 60.0)
    pool.stayed("b", 60.1)
    assert (State.OPEN, False, 1) == (pool.slot("b").state, pool.slot("b").wanted, pool.taken)
    assert [] == pool.tick(OPTIONS, 120.0)
    assert [Close("b", "idle")] == pool.tick(OPTIONS, 120.2)


def test_the_place_is_taken_when_the_dial_is_decided() -> None:
    pool = Pool()
    dials = [action for node in "bcd" for action in wait(pool, node, 0.0)]
    assert [Dial("b"), Dial("c")] == dials
    assert (2, True) == (pool.taken, pool.slot("d").wanted)


def test_whoever_waits_longest_is_dialled_first() -> None:
    pool = Pool()
    for now, node in enumerate("bcdef"):
        wait(pool, node, float(now))
    assert [Dial("d")] == close(pool, "c", 10.0, broken=True)
    assert [Dial("e")] == close(pool, "b", 10.0, broken=True)


def test_new_work_for_who_waits_does_not_send_it_to_the_end() -> None:
    pool = Pool()
    for now, node in enumerate("bcde"):
        wait(pool, node, float(now))
    wait(pool, "d", 9.0)
    assert [Dial("d")] == close(pool, "b", 10.0)


def test_a_link_wanted_while_it_closes_is_dialled_when_it_is_closed() -> None:
    pool = pool_with("b")
    pool.closing("b")
    pool.lease("b", 5.0)
    assert [] == pool.want("b", OPTIONS, 5.0)
    assert [Dial("b")] == close(pool, "b", 6.0)


def test_a_link_that_nobody_waits_for_any_more_is_not_dialled() -> None:
    pool = pool_with("b", "c")
    pool.lease("b", 0.0)
    pool.lease("c", 0.0)
    wait(pool, "d", 5.0)
    pool.release("d", 6.0)
    assert [] == close(pool, "b", 7.0)
    assert None is pool.due


def test_it_is_dialled_as_long_as_one_of_several_waits() -> None:
    pool = pool_with("b", "c")
    pool.lease("b", 0.0)
    pool.lease("c", 0.0)
    wait(pool, "d", 5.0)
    wait(pool, "d", 5.0)
    pool.release("d", 6.0)
    assert [Dial("d")] == close(pool, "b", 7.0)


def test_a_link_that_the_other_end_opened_ends_the_wait() -> None:
    pool = pool_with("b", "c")
    wait(pool, "d", 5.0)
    close(pool, "b", 6.0)
    pool.opened("d", 6.0)
    assert [] == close(pool, "c", 7.0)
    assert 1 == pool.taken


def test_a_place_is_given_back_once_however_often_a_link_ends() -> None:
    pool = pool_with("b", "c")
    close(pool, "b", 1.0)
    close(pool, "b", 1.0)
    assert 1 == pool.taken


# Failing and redialling


def test_the_first_redial_is_at_once_and_the_next_pauses() -> None:
    pool = Pool()
    wait(pool, "b", 0.0)
    close(pool, "b", 1.0, broken=True)
    assert [Dial("b")] == pool.want("b", OPTIONS, 1.0)
    close(pool, "b", 2.0, broken=True)
    assert [] == pool.want("b", OPTIONS, 2.0)
    due = pool.due
    assert due is not None
    assert 2.025 <= due <= 2.05
    assert [] == pool.tick(OPTIONS, 2.02)
    assert [Dial("b")] == pool.tick(OPTIONS, due)
    assert None is pool.due


def test_a_link_that_opened_forgets_the_failures_before_it() -> None:
    pool = Pool()
    wait(pool, "b", 0.0)
    for now in (1.0, 2.0, 3.0):
        close(pool, "b", now, broken=True)
        pool.want("b", OPTIONS, now + 0.9)
    pool.opened("b", 4.0)
    assert [Dial("b")] == [*close(pool, "b", 5.0), *pool.want("b", OPTIONS, 5.0)]
    assert [Dial("b")] == [*close(pool, "b", 6.0, broken=True), *pool.want("b", OPTIONS, 6.0)], "as the first of all"


def test_who_waits_only_for_room_asks_for_no_wake_up() -> None:
    """Its pause is over, room comes by an event: a timer in the past would make its node tick without end."""
    pool = pool_with("b", "c")
    pool.lease("b", 1.0)
    pool.lease("c", 1.0)
    pool.slot("d").failures = 3
    pool.slot("d").retry_at = 5.0
    wait(pool, "d", 4.0)
    assert 5.0 == pool.due
    assert [] == pool.tick(OPTIONS, 5.0)
    assert None is pool.due
    assert [Dial("d")] == close(pool, "b", 6.0)


@pytest.mark.parametrize(
    ("failures", "ceiling_s"), [(1, 0.0), (2, 0.05), (3, 0.1), (4, 0.2), (8, 3.2), (9, 5.0), (5_000, 5.0)]
)
def test_pauses_double_up_to_their_limit_and_are_jittered_by_half(failures: int, ceiling_s: float) -> None:
    rng = Rng(3)
    pauses = [backoff_s(failures, OPTIONS, rng) for _ in range(200)]
    assert all(ceiling_s / 2 <= pause <= ceiling_s for pause in pauses)
    assert ceiling_s == 0 or max(pauses) - min(pauses) > ceiling_s / 3


def test_a_peer_is_forgotten_when_nothing_is_left_to_remember() -> None:
    pool = Pool()
    wait(pool, "b", 0.0)
    close(pool, "b", 1.0, broken=True)
    pool.tick(OPTIONS, 100.0)
    assert ["b"] == list(pool.slots), "it is leased"
    pool.release("b", 100.0)
    pool.slot("b").retry_at = 100.0
    pool.tick(OPTIONS, 104.9)
    assert ["b"] == list(pool.slots), "its failures count for a while"
    pool.tick(OPTIONS, 105.0)
    assert {} == pool.slots


# Idle links


def test_a_link_is_closed_when_it_was_idle_long_enough() -> None:
    pool = pool_with("b")
    pool.lease("b", 10.0)
    assert [] == pool.tick(OPTIONS, 200.0), "something is outstanding"
    pool.release("b", 200.0)
    assert [] == pool.tick(OPTIONS, 259.9)
    assert [Close("b", "idle")] == pool.tick(OPTIONS, 260.0)
    assert [] == pool.tick(OPTIONS, 261.0), "it is said once"


def test_a_persistent_link_is_never_idle() -> None:
    pool = pool_with("b")
    pool.slot("b").persistent = True
    assert [] == pool.tick(OPTIONS, 1e6)


def test_a_link_that_was_lost_is_no_longer_persistent() -> None:
    pool = pool_with("b")
    pool.slot("b").persistent = True
    close(pool, "b", 1.0)
    assert not pool.slot("b").persistent


def test_releasing_more_than_was_leased_is_a_bug_of_ours() -> None:
    pool = pool_with("b")
    pool.lease("b", 1.0)
    pool.lease("b", 1.0)
    pool.release("b", 2.0, count=2)
    with pytest.raises(AssertionError, match="b: released more than was leased"):
        pool.release("b", 3.0)


def test_a_link_knows_the_topics_it_carries() -> None:
    pool = pool_with("b")
    pool.lease("b", 1.0, ORDERS)
    pool.lease("b", 2.0, STOCK)
    pool.lease("b", 3.0, ORDERS)
    pool.lease("b", 4.0)
    assert {ORDERS: 3.0, STOCK: 2.0} == pool.slot("b").topics


# Eviction


def test_with_no_room_the_ephemeral_link_idle_for_longest_makes_it() -> None:
    pool = pool_with("b", "c")
    pool.lease("b", 5.0)
    pool.release("b", 6.0)
    assert [Close("c", "evicted: links_max")] == wait(pool, "d", 10.0)
    assert [Dial("d")] == close(pool, "c", 11.0)


def test_persistent_links_go_last_and_the_coldest_of_them_first() -> None:
    options = PoolOptions(links_max=4)
    pool = pool_with("b", "c", "d", "e")
    for node, rate in (("b", 9.0), ("c", 5.0), ("d", 7.0)):
        pool.slot(node).persistent, pool.slot(node).rate = True, rate
    evicted = []
    for node in ("w", "x", "y", "z"):
        pool.lease(node, 10.0)
        evicted += pool.want(node, options, 10.0)
    assert ["e", "c", "d", "b"] == [action.node for action in evicted]


def test_a_leased_link_is_never_evicted_even_if_nothing_else_is_left() -> None:
    pool = pool_with("b", "c")
    pool.lease("b", 1.0)
    pool.lease("c", 1.0)
    assert [] == wait(pool, "d", 10.0)
    assert [] == pool.tick(OPTIONS, 1e6)
    pool.release("c", 1e6)
    assert [Close("c", "evicted: links_max")] == pool.tick(OPTIONS, 1e6)


def test_one_link_is_evicted_for_each_that_waits_and_no_more() -> None:
    pool = pool_with("b", "c")
    assert [Close("b", "evicted: links_max")] == wait(pool, "d", 10.0)
    assert [] == wait(pool, "d", 10.5)
    assert [] == pool.tick(OPTIONS, 11.0), "the one that closes is enough"
    assert [Close("c", "evicted: links_max")] == wait(pool, "e", 11.0)


def test_a_peer_that_dials_us_gets_room_or_makes_it() -> None:
    pool = pool_with("b")
    assert pool.has_room("d", OPTIONS)
    pool = pool_with("b", "c")
    assert pool.has_room("b", OPTIONS), "its link takes its own place"
    assert not pool.has_room("d", OPTIONS)
    assert [Close("b", "evicted: links_max")] == pool.make_room()
    assert [] == pool.make_room(), "one place is being freed already"
    pool = pool_with("b", "c")
    pool.lease("b", 5.0)
    pool.lease("c", 5.0)
    assert [] == pool.make_room(), "a leased link is not evicted"


def test_a_link_that_opens_and_breaks_at_once_is_dialled_with_longer_and_longer_pauses() -> None:
    pool, rng, now = pool_with("b"), Rng(1), 1.0
    pauses = []
    for _ in range(6):
        pool.closed("b", OPTIONS, now, rng, broken=True)
        pauses.append(pool.slots["b"].retry_at - now)
        pool.opened("b", now)
    assert 0.0 == pauses[0]
    assert 4 * pauses[1] < pauses[5]
    pool.closed("b", OPTIONS, now + OPTIONS.redial_max_s * YOUNG_SHARE, rng, broken=True)
    assert 0 == pool.slots["b"].breaks, "one that lived starts anew"
    pool.opened("b", now)
    pool.closed("b", OPTIONS, now, rng, broken=False)
    assert 0 == pool.slots["b"].breaks, "and so does one that was closed in order"


def test_a_peer_without_room_is_dialled_again_when_it_said_and_not_less_and_less() -> None:
    pool, rng = Pool(), Rng(1)
    wait(pool, "b", 0.0)
    for now in range(1, 9):
        pool.closed("b", OPTIONS, float(now), rng, broken=True, pause_s=0.1)
        assert 0.05 <= pool.slots["b"].retry_at - now <= 0.15
        pool.slots["b"].state = State.DIALLING
    pool.closed("b", OPTIONS, 9.0, rng, broken=True, pause_s=1e9)
    assert pool.slots["b"].retry_at <= 9.0 + 1.5 * OPTIONS.redial_max_s, "what it says is not believed beyond our own"


def test_news_of_a_node_ends_the_pause_before_its_next_dial() -> None:
    pool = Pool()
    assert [] == pool.encourage("b", OPTIONS, 0.0), "nobody wants it"
    wait(pool, "b", 0.0)
    assert [] == pool.encourage("b", OPTIONS, 0.0), "it is being dialled"
    for _ in range(8):
        close(pool, "b", 1.0, broken=True)
        pool.slots["b"].state = State.DIALLING
    close(pool, "b", 1.0, broken=True)
    assert [] == pool.want("b", OPTIONS, 1.1)
    assert [Dial("b")] == pool.encourage("b", OPTIONS, 1.1)


NODES = st.sampled_from(["b", "c", "d", "e", "f", "g"])


class PoolMachine(RuleBasedStateMachine):
    """A pool driven as a node drives it: whoever dials, is dialled, leases and loses its link, in any order."""

    def __init__(self) -> None:
        super().__init__()
        self.options = PoolOptions(links_max=3, idle_close_s=10.0)
        self.pool = Pool()
        self.rng = Rng(5)
        self.now = 0.0
        self.dialling: set[str] = set()
        self.open: set[str] = set()
        self.leaving: set[str] = set()
        self.leases: dict[str, int] = {}

    def carry_out(self, actions: list[Action]) -> None:
        for action in actions:
            node = action.node
            if isinstance(action, Dial):
                assert node not in self.dialling | self.open | self.leaving, "dialled twice"
                assert self.leases.get(node), "dialled for nobody"
                self.dialling.add(node)
            else:
                assert node in self.open, "closed though it was not open"
                assert not self.leases.get(node), "closed under a lease"
                self.open.remove(node)
                self.leaving.add(node)

    @rule(node=NODES)
    def send(self, node: str) -> None:
        self.pool.lease(node, self.now, ORDERS)
        self.leases[node] = self.leases.get(node, 0) + 1
        if node not in self.open:
            self.carry_out(self.pool.want(node, self.options, self.now))

    @rule(data=st.data())
    @precondition(lambda self: any(self.leases.values()))
    def finish(self, data: st.DataObject) -> None:
        node = data.draw(st.sampled_from(sorted(node for node, count in self.leases.items() if count)))
        self.pool.release(node, self.now)
        self.leases[node] -= 1

    @rule(data=st.data(), answered=st.booleans())
    @precondition(lambda self: self.dialling)
    def dial_ends(self, data: st.DataObject, answered: bool) -> None:
        node = data.draw(st.sampled_from(sorted(self.dialling)))
        self.dialling.remove(node)
        if answered:
            self.pool.opened(node, self.now)
            self.open.add(node)
            return
        self.carry_out(self.pool.closed(node, self.options, self.now, self.rng, broken=True))
        self.rewant(node)

    @rule(node=NODES)
    def is_dialled(self, node: str) -> None:
        admitted = self.pool.has_room(node, self.options)
        actions = [] if admitted else self.pool.make_room()
        if admitted and node not in self.open | self.leaving:
            self.dialling.discard(node)
            self.pool.opened(node, self.now)
            self.open.add(node)
        self.carry_out(actions)

    @rule(data=st.data())
    @precondition(lambda self: self.open)
    def hears_goodbye(self, data: st.DataObject) -> None:
        node = data.draw(st.sampled_from(sorted(self.open)))
        self.pool.closing(node)
        self.open.remove(node)
        self.leaving.add(node)

    @rule(data=st.data())
    @precondition(lambda self: self.open | self.leaving)
    def link_ends(self, data: st.DataObject) -> None:
        node = data.draw(st.sampled_from(sorted(self.open | self.leaving)))
        self.open.discard(node)
        self.leaving.discard(node)
        self.carry_out(self.pool.closed(node, self.options, self.now, self.rng, broken=False))
        self.rewant(node)

    def rewant(self, node: str) -> None:
        """What is outstanding at a node whose link is gone wants another."""
        if self.leases.get(node) and node not in self.dialling:
            self.carry_out(self.pool.want(node, self.options, self.now))

    @rule(node=NODES, rate=st.floats(0, 9), persistent=st.booleans())
    def heat(self, node: str, rate: float, persistent: bool) -> None:
        if node in self.open:
            self.pool.slot(node).persistent, self.pool.slot(node).rate = persistent, rate

    @rule(seconds=st.sampled_from([0.01, 0.3, 2.0, 30.0]))
    def time_passes(self, seconds: float) -> None:
        self.now += seconds
        self.carry_out(self.pool.tick(self.options, self.now))
        due = self.pool.due
        assert due is None or due > self.now, "whatever was due is done"

    @rule()
    def is_copied(self) -> None:
        self.pool = copied(self.pool)

    @invariant()
    def the_budget_holds_and_is_counted_right(self) -> None:
        states = [slot.state for slot in self.pool.slots.values() if slot.state is not State.CLOSED]
        assert len(states) == self.pool.taken <= self.options.links_max

    @invariant()
    def the_pool_sees_links_as_they_are(self) -> None:
        for state, nodes in ((State.DIALLING, self.dialling), (State.OPEN, self.open), (State.CLOSING, self.leaving)):
            assert sorted(nodes) == sorted(slot.node for slot in self.pool.slots.values() if slot.state is state)

    @invariant()
    def whoever_waits_is_dialled_or_may_be_later(self) -> None:
        room = self.pool.taken < self.options.links_max
        for node, count in self.leases.items():
            slot = self.pool.slots.get(node)
            assert not count or slot is not None, "leased and forgotten"
            if slot is None:
                continue
            assert count == slot.leases
            assert not slot.wanted or (count and slot.state in (State.CLOSED, State.CLOSING))
            if count and slot.state is State.CLOSED:
                assert slot.wanted
                assert not room or slot.retry_at > 0, "there is room, and nothing to wait for"

    def teardown(self) -> None:
        """When all work ends and links are left alone, nothing stays behind."""
        for node, count in self.leases.items():
            if count:
                self.pool.release(node, self.now, count)
        self.leases.clear()
        for node in sorted(self.dialling | self.leaving):
            self.carry_out(self.pool.closed(node, self.options, self.now, self.rng, broken=True))
        self.dialling.clear()
        self.leaving.clear()
        for node in sorted(self.open):
            self.pool.slot(node).persistent = False
        self.carry_out(self.pool.tick(self.options, self.now + 100.0))
        for node in sorted(self.leaving):
            self.carry_out(self.pool.closed(node, self.options, self.now + 100.0, self.rng, broken=False))
        self.carry_out(self.pool.tick(self.options, self.now + 200.0))
        assert {} == self.pool.slots
        assert 0 == self.pool.taken


TestPoolMachine = PoolMachine.TestCase


@given(st.lists(NODES, min_size=1, max_size=40))
def test_every_waiting_slot_is_served_in_the_order_it_began_to_wait(arrivals: list[str]) -> None:
    """With one place, links that are opened, used once and given up serve the queue first in, first out."""
    options = PoolOptions(links_max=2)
    pool = pool_with("x", "y")
    pool.lease("x", 0.0)
    pool.lease("y", 0.0)
    for now, node in enumerate(arrivals):
        pool.lease(node, float(now))
        assert [] == pool.want(node, options, float(now))
    served, holder = [], "x"
    while actions := close(pool, holder, 100.0, options):
        holder = actions[0].node
        pool.opened(holder, 100.0)
        served.append(holder)
    assert list(dict.fromkeys(arrivals)) == served


def test_links_that_are_told_to_leave_take_their_place_until_they_are_closed() -> None:
    pool = pool_with("b", "c")
    assert [Close("b", "expired", final=True), Close("c", "expired", final=True)] == pool.leave(["b", "c"], "expired")
    assert 2 == pool.taken
    assert [State.CLOSING, State.CLOSING] == [slot.state for slot in pool.slots.values()]
