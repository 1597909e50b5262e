"""A check of the checkers: each of these defects, put into the core or the session, is found within so many seeds."""

from collections.abc import Callable
from typing import Any
from unittest import mock

import pytest

from mesh.client import calling as client_calling
from mesh.client import serving as client_serving
from mesh.core import calling, inbox, link, outbox, pool, recovery, sending, serving, session
from mesh.core.chunks import Chunker
from mesh.core.directory import Directory
from mesh.core.records import Failure, Status
from mesh.sim.plan import draw
from mesh.sim.run import play

Instead = Callable[..., Any]

KILLS = ("kill", "kill-twice", "cut", "socket-error")


class Mutation:
    """A defect: ``owner.name`` is replaced by what ``instead`` makes of the original; found within ``seeds``, of runs
    with any faults or with ``only`` these."""

    def __init__(self, label: str, owner: Any, name: str, seeds: int, instead: Instead, *only: str) -> None:
        self.label, self.owner, self.name, self.seeds, self.instead = label, owner, name, seeds, instead
        self.only = only

    def put_in(self) -> Any:
        return mock.patch.object(self.owner, self.name, self.instead(self.owner.__dict__[self.name]))


def nothing(original: Instead) -> Instead:
    """Do nothing in its place."""
    return lambda *arguments, **named: None


def always(value: object) -> Callable[[Instead], Instead]:
    """Say this in its place."""
    return lambda original: lambda *arguments, **named: value


def twice(original: Instead) -> Instead:
    """Do it twice."""

    def instead(*arguments: Any, **named: Any) -> Any:
        original(*arguments, **named)
        return original(*arguments, **named)

    return instead


def forgetful_offer(original: Instead) -> Instead:
    """Forget at each request that it may have come before."""

    def instead(self: serving.Serving, node: str, request: Any, link: Any, now: float) -> None:
        known = self.state.inbox.callers.get((node, request.session))
        if known is not None and request.seq in known.handed:
            self._erase(known.handed[request.seq], now)
        original(self, node, request, link, now)

    return instead


def forgetful_session(original: Instead) -> Instead:
    """Forget at each request that it may have run."""

    def instead(self: client_serving.Serving, request: Any, now: float) -> Any:
        known = self.callers.get((request.node, request.session))
        if known is not None:
            known.works.pop(request.seq, None)
        return original(self, request, now)

    return instead


def never_expiring(original: Instead) -> Instead:
    """Admit an entry without its deadline."""

    def instead(self: outbox.Outbox, entry: Any) -> None:
        self.entries[entry.key] = entry

    return instead


def hasty_question(original: Instead) -> Instead:
    """Take what was sent and lost for what never left."""

    def instead(self: sending.Sending, entry: Any, targets: Any, now: float) -> None:
        self.state.outbox.wait(entry)

    return instead


def passing_floor(original: Instead) -> Instead:
    """Raise the floor over what has not ended."""

    def instead(self: client_calling.Calling, seq: int, outcome: Any) -> Any:
        events = original(self, seq, outcome)
        self.floor = max(self.floor, seq + 1)
        return events

    return instead


def untrue_end(original: Instead) -> Instead:
    """Say of what is late that it did not run."""

    def instead(self: recovery.Recovery, entry: Any) -> Failure:
        failure: Failure = original(self, entry)
        failure.status = int(Status.EXPIRED)
        return failure

    return instead


def never(original: Instead) -> Instead:
    """Say of whatever is asked about that it never came."""

    def instead(self: Any, ask: Any) -> list[Any]:
        records = original(self, ask)
        records[-1].verdicts = [0] * len(ask.ids)
        return [records[-1]]

    return instead


def unordered(original: Instead) -> Instead:
    """Take the newest first."""

    def instead(self: inbox.Fifo) -> Any:
        self.items[self.head :] = sorted(self.items[self.head :], reverse=True)
        return original(self)

    return instead


MUTATIONS = [
    Mutation("the agent forgets what it handed out", serving.Serving, "offer", 60, forgetful_offer),
    Mutation("the session forgets what it ran", client_serving.Serving, "take_in", 60, forgetful_session),
    Mutation("a replay is taken for new", calling.Calling, "is_replay", 60, always(False)),
    Mutation("nothing is replayed", client_calling.Calling, "resume", 60, always([]), *KILLS),
    Mutation("requests never expire", outbox.Outbox, "admit", 60, never_expiring),
    Mutation("what left is placed again unasked", sending.Sending, "ask", 60, hasty_question, *KILLS),
    Mutation(
        "everything may run twice", outbox.Entry, "repeatable", 60, lambda original: property(always(True)(original))
    ),
    Mutation("apps are asked, and say never", client_serving.Serving, "ask", 60, never, *KILLS),
    Mutation("the app is not told whom its requests reach", sending.Sending, "_reach", 60, nothing, *KILLS),
    Mutation("floors pass what has not ended", client_calling.Calling, "end", 60, passing_floor),
    Mutation("outcomes below the floor are kept", session.App, "raise_floor", 60, nothing),
    Mutation("what ran is said to have expired", recovery.Recovery, "_late", 60, untrue_end),
    Mutation(
        "what was written is said to have expired", client_calling, "_verdict", 60, always((Status.EXPIRED, "late"))
    ),
    Mutation("a lease is taken twice", pool.Pool, "lease", 60, twice),
    Mutation("there is always room for a link", pool.Pool, "has_room", 60, always(True)),
    Mutation("queues have no limit", inbox.Service, "full", 60, always(None)),
    Mutation("workers have no limit", inbox.Service, "may_begin", 60, always(True)),
    Mutation("windows are never widened", link.Link, "take", 60, nothing),
    Mutation("acknowledged chunks bring no more", Chunker, "acked", 60, always([])),
    Mutation("who gave work back is passed over for ever", Directory, "tick", 60, always(([], []))),
    Mutation("nobody learns who came or went", calling.Calling, "topic_changed", 60, always([])),
    Mutation("what an app was handed is lost with its socket", serving.Serving, "resumed", 60, nothing),
    Mutation("what is given back is not placed again", recovery.Recovery, "give_back", 60, always([])),
    Mutation("queues are not in order", inbox.Fifo, "peek", 60, unordered),
]


def seeds_until_found(mutation: Mutation, first: int = 0) -> int:
    """Return how many seeds it takes to find a defect; ``mutation.seeds`` + 1 if they do not suffice."""
    with mutation.put_in():
        for number in range(mutation.seeds):
            if play(draw(first + number, mutation.only)).findings:
                return number + 1
    return mutation.seeds + 1


@pytest.mark.parametrize("mutation", MUTATIONS, ids=[mutation.label for mutation in MUTATIONS])
def test_this_defect_is_found_in_time(mutation: Mutation) -> None:
    assert seeds_until_found(mutation) <= mutation.seeds
