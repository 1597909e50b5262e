"""One rule of delivery switched off, each by a context manager, to see that somebody notices.

They replace methods of the core and the client's session by name, so that the product has no switches for tests
inside; a method that is renamed fails here at once. `MUTATIONS` has them by name.
"""

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import Any
from unittest import mock

from mesh.client import calling as client_calling
from mesh.client import serving as client_serving
from mesh.core import (
    answering,
    app_hop,
    calling,
    codec,
    floors,
    inbox,
    link,
    link_hop,
    outbox,
    peers,
    pool,
    recovery,
    sending,
    serving,
)
from mesh.core.records import Answer, Serve, Unserve, Verdict

__all__ = ["MUTATIONS"]

MUTATIONS: dict[str, Callable[[], AbstractContextManager[None]]] = {}
"""By name: what to do in a ``with`` statement to have that rule off inside it."""


def _replacing(owner: Any, name: str) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """Make a mutation of a function ``(original, *arguments)`` that stands in for ``owner.name``."""

    def mutation(stand_in: Callable[..., Any]) -> Callable[..., Any]:
        @contextmanager
        def switched_off() -> Iterator[None]:
            original = getattr(owner, name)

            def instead(*arguments: Any, **named: Any) -> Any:
                return stand_in(original, *arguments, **named)

            with mock.patch.object(owner, name, instead):
                yield

        MUTATIONS[stand_in.__name__] = switched_off
        return stand_in

    return mutation


# Identity and links


@_replacing(peers.Peers, "_welcome")
def replaced_links_are_still_read(original: Any, self: peers.Peers, new: link.Link, now: float) -> Any:
    self.peer(new.peer).link = None
    return original(self, new, now)


@_replacing(link.Seen, "admits")
def the_past_is_admitted(original: Any, self: link.Seen, incarnation: int, link_no: int) -> bool:
    return True


@_replacing(peers, "judge_hello")
def glare_is_not_settled(original: Any, *arguments: Any, **named: Any) -> link.Judgement:
    judgement: link.Judgement = original(*arguments, **named)
    return link.ACCEPT if judgement.ruling is link.Ruling.HOLD else judgement


@contextmanager
def a_losing_dial_is_used() -> Iterator[None]:
    """Glare is not settled, and the dial that lost is drained, not dropped."""
    with MUTATIONS["glare_is_not_settled"](), MUTATIONS["replaced_links_are_still_read"]():
        yield


MUTATIONS["a_losing_dial_is_used"] = a_losing_dial_is_used


@_replacing(link_hop.LinkHop, "data")
def gaps_between_batches_are_ignored(original: Any, self: link_hop.LinkHop, conn: int, data: bytes, now: float) -> None:
    known = self.state.peers.links.get(conn)
    if known is not None:
        known.counter_in = codec.decode(data).counter
    original(self, conn, data, now)


@_replacing(link.Link, "take")
def windows_are_never_widened(original: Any, self: link.Link, weight: int) -> None:
    """What has left the queues makes no room for more."""


@_replacing(link.Link, "charge")
def requests_are_charged_twice(original: Any, self: link.Link, weight: int) -> None:
    original(self, weight)
    original(self, weight)


@contextmanager
def windows_go_on_after_a_welcome() -> Iterator[None]:
    """What was sent on the link before counts on the next one."""
    sent: dict[tuple[str, str], int] = {}
    close, opened = peers.Peers._close, peers.Peers._opened

    def closing(self: peers.Peers, old: link.Link, *rest: Any) -> Any:
        if old.sent_records:
            sent[self.identity.node, old.peer] = old.sent_records
        return close(self, old, *rest)

    def opening(self: peers.Peers, new: link.Link, *rest: Any) -> Any:
        change = opened(self, new, *rest)
        new.sent_records = sent.get((self.identity.node, new.peer), 0)
        return change

    with mock.patch.object(peers.Peers, "_close", closing), mock.patch.object(peers.Peers, "_opened", opening):
        yield


MUTATIONS["windows_go_on_after_a_welcome"] = windows_go_on_after_a_welcome


@_replacing(outbox.Outbox, "admit")
def requests_never_expire(original: Any, self: outbox.Outbox, entry: Any) -> None:
    self.entries[entry.key] = entry


@_replacing(pool.Pool, "_evict")
def leased_links_are_evicted(original: Any, self: pool.Pool, count: int) -> list[pool.Action]:
    is_open = [slot for slot in self.slots.values() if slot.state is pool.State.OPEN]
    for slot in is_open[: max(0, count)]:
        slot.state = pool.State.CLOSING
    return [pool.Close(slot.node, "evicted") for slot in is_open[: max(0, count)]]


# The calling agent died, or its app's socket did


@_replacing(sending.Sending, "_is_told")
def reach_is_not_told(original: Any, self: sending.Sending, key: Any, target: Any, incarnation: int) -> bool:
    """The app does not learn where its requests go."""
    return True


@_replacing(calling.Calling, "is_replay")
def replays_are_taken_for_new(original: Any, self: calling.Calling, app: Any, key: Any, request: Any) -> bool:
    return False


@_replacing(client_calling.Calling, "resume")
def requests_are_not_replayed(original: Any, self: client_calling.Calling, new_agent: bool) -> Any:
    reached = original(self, new_agent)
    self.queue = [seq for seq in self.queue if not self.pending[seq].first_on]
    return reached


@_replacing(calling.Calling, "_tell")
def outcomes_are_not_kept(original: Any, self: calling.Calling, app: Any, seq: int, outcome: Any) -> None:
    original(self, app, seq, outcome)
    app.outcomes.pop(seq, None)


@_replacing(client_calling.Calling, "end")
def floors_pass_what_is_not_settled(original: Any, self: client_calling.Calling, seq: int, outcome: Any) -> Any:
    events = original(self, seq, outcome)
    self.floor = self.next_seq
    return events


# The link was lost, or the serving agent died


@_replacing(recovery.Recovery, "link_lost")
def lost_links_are_not_noticed(original: Any, self: recovery.Recovery, node: str, now: float, *, idle: bool) -> Any:
    return []


@_replacing(recovery.Recovery, "link_lost")
def what_had_left_is_placed_again_unasked(
    original: Any, self: recovery.Recovery, node: str, now: float, *, idle: bool
) -> Any:
    with mock.patch.object(outbox.Entry, "repeatable", True):
        return original(self, node, now, idle=idle)


@_replacing(recovery.Recovery, "_judge")
def one_never_is_enough(
    original: Any, self: recovery.Recovery, entry: Any, target: Any, verdict: int, now: float
) -> Any:
    if verdict == Verdict.NEVER:
        self.sending.unplace(entry, now)
        return self.calling.replace(entry, now)
    return original(self, entry, target, verdict, now)


@_replacing(recovery.Recovery, "answer")
def stale_answers_are_taken(original: Any, self: recovery.Recovery, node: str, answer: Answer, now: float) -> Any:
    inquiry = self.state.outbox.inquiries.get((node, answer.target))
    if inquiry is not None:
        answer.incarnation, answer.number = self.state.peers.identity.incarnation, inquiry.number
    return original(self, node, answer, now)


@_replacing(answering.Answering, "ask")
def agents_say_never_of_what_others_saw(original: Any, self: Any, node: str, ask: Any, now: float) -> None:
    ask.reached = self.state.peers.identity.incarnation
    original(self, node, ask, now)


@_replacing(serving.Serving, "resumed")
def questions_for_apps_that_are_away_are_lost(original: Any, self: serving.Serving, app: Any, now: float) -> None:
    self.state.questions.pop(app.session, None)
    original(self, app, now)


@_replacing(inbox.Inbox, "end")
def agents_forget_what_has_ended(original: Any, self: inbox.Inbox, handed: Any, answer: Any, options: Any) -> None:
    original(self, handed, answer, options)
    caller = self.callers[handed.request.node, handed.request.session]
    if handed.request.seq in caller.handed:
        self._drop(caller, handed)


@_replacing(client_serving.Serving, "_end")
def apps_forget_what_has_ended(original: Any, self: client_serving.Serving, id: Any, work: Any, answer: Any) -> None:
    original(self, id, work, None)
    if self.callers[id[0], id[1]].works.pop(id[2], None) is not None:
        self.ids -= 1


@_replacing(client_serving.Serving, "resume")
def answers_are_not_said_again(original: Any, self: client_serving.Serving) -> list[Any]:
    return [record for record in original(self) if isinstance(record, Serve | Unserve)]


@_replacing(client_serving.Serving, "take_in")
def apps_take_copies_for_new(original: Any, self: client_serving.Serving, request: Any, now: float, place: str) -> Any:
    caller = self.callers.get((request.node, request.session))
    known = caller.works.pop(request.seq, None) if caller is not None else None
    result = original(self, request, now, place)
    if known is not None:
        self.ids -= 1
    return result


@_replacing(client_serving.Serving, "ask")
def running_is_called_never(original: Any, self: client_serving.Serving, ask: Any) -> Any:
    records = original(self, ask)
    records[0].verdicts = [int(Verdict.NEVER)] * len(ask.ids)
    return records


@_replacing(app_hop.AppHop, "closed")
def a_closed_socket_is_a_death(original: Any, self: app_hop.AppHop, conn: int, now: float, *, dead: bool) -> None:
    original(self, conn, now, dead=True)


@_replacing(serving.Serving, "lose")
def what_died_with_its_app_is_not_told(
    original: Any, self: serving.Serving, app: Any, service: Any, now: float
) -> None:
    """Whoever waits for it waits on."""


@_replacing(app_hop.AppHop, "_answer")
def what_an_app_says_that_it_runs_is_not_kept(original: Any, self: app_hop.AppHop, app: Any, *rest: Any) -> None:
    original(self, app, *rest)
    app.adopted.clear()


@_replacing(outbox.Outbox, "overdue")
def questions_wait_for_ever(original: Any, self: outbox.Outbox, grace_s: float, now: float) -> list[Any]:
    return []


# What is remembered is forgotten


@_replacing(floors.Floors, "told")
def exceptions_of_the_floor_are_lost(original: Any, self: floors.Floors, app: Any, floor: Any, now: float) -> None:
    floor.settled.clear()
    original(self, app, floor, now)


@_replacing(inbox.Inbox, "expired")
def ids_never_expire(original: Any, self: inbox.Inbox, now: float) -> list[Any]:
    return []


@_replacing(sending.Sending, "release")
def what_has_ended_keeps_its_lease(original: Any, self: sending.Sending, node: str, now: float) -> None:
    """The link stays in use for ever."""


# Work that comes back


@_replacing(inbox.Inbox, "erase")
def what_is_given_back_is_remembered(original: Any, self: inbox.Inbox, handed: Any) -> None:
    """The id stays, as though the request were still here."""


@_replacing(inbox.Service, "may_begin")
def more_is_handed_than_can_begin(original: Any, self: inbox.Service, *_: Any) -> bool:
    return True


@_replacing(serving.Serving, "cancel")
def what_is_cancelled_stays(original: Any, self: serving.Serving, node: str, cancel: Any, now: float) -> None:
    """Its place in the queue is not freed, its handler not told."""
