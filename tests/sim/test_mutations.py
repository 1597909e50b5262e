"""A check of the checkers: each of these defects, put into the core or the session, is found within so many seeds."""

from collections.abc import Callable
from typing import Any
from unittest import mock

import pytest
from msgspec import structs

from mesh.client import calling as client_calling
from mesh.client import serving as client_serving
from mesh.core import (
    calling,
    durable,
    inbox,
    link,
    monitor,
    outbox,
    pool,
    recovery,
    sending,
    serving,
    session,
    spooling,
)
from mesh.core.chunks import Chunker
from mesh.core.directory import Directory
from mesh.core.records import Failure, Flag, Status
from mesh.sim.apps import Manner
from mesh.sim.plan import Plan, draw
from mesh.sim.run import play

Instead = Callable[..., Any]

KILLS = ("kill", "kill-twice", "cut", "socket-error")


class Mutation:
    """A defect: ``owner.name`` is replaced by what ``instead`` makes of the original; found within ``seeds``, of runs
    with any faults or with ``only`` these, in plans that ``made`` makes of theirs."""

    def __init__(
        self,
        label: str,
        owner: Any,
        name: str,
        seeds: int,
        instead: Instead,
        *only: str,
        made: Callable[[Plan], Plan] = lambda plan: plan,
    ) -> None:
        self.label, self.owner, self.name, self.seeds, self.instead = label, owner, name, seeds, instead
        self.only, self.made = only, made

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


def deadly(plan: Plan) -> Plan:
    """Have one node serve, another one call and be killed, and many messages kill whoever begins them."""
    manner = Manner((0.2, 0.6), poison=50)
    server, caller = plan.nodes[0], plan.nodes[-1]
    apps = [structs.replace(app, node=server if app.services else caller, manner=manner) for app in plan.apps]
    callers = [number for number, app in enumerate(apps) if not app.services]
    steps = [structs.replace(step, app=callers[step.app % len(callers)]) for step in plan.steps]
    faults = [structs.replace(fault, one=caller) for fault in plan.faults]
    options = structs.replace(plan.options, outbox=structs.replace(plan.options.outbox, attempts_max=3))
    changes = {"apps": tuple(apps), "steps": tuple(steps), "faults": tuple(faults)}
    return structs.replace(plan, options=options, **changes)


def uncounted(original: Instead) -> Instead:
    """Send a part of a fan-out without the number of instances that are meant."""

    def instead(self: sending.Sending, *arguments: Any) -> Any:
        copy = original(self, *arguments)
        copy.instances = 0
        return copy

    return instead


def forgetful_resume(original: Instead) -> Instead:
    """Say to the next agent only where fan-outs went, not of what processes died."""

    def instead(self: client_calling.Calling, new_agent: bool) -> Any:
        return [record for record in original(self, new_agent) if not getattr(record, "attempts", 0)]

    return instead


def unmarked(original: Instead) -> Instead:
    """Let a durable cast leave before it is on disk how many died of it."""

    def instead(self: durable.Durable, key: Any, sent: tuple[str, int, int]) -> bool:
        is_needed: bool = original(self, key, sent) if sent[0] else False
        return is_needed

    return instead


def roomless(original: Instead) -> Instead:
    """Do not let a call wait for room."""

    def instead(self: calling.Calling, entry: Any, view: Any, now: float) -> None:
        entry.request.flags &= ~Flag.ROOM
        original(self, entry, view, now)

    return instead


def hasty_keep(original: Instead) -> Instead:
    """Accept a durable cast when it comes."""

    def instead(self: spooling.Spooling, app: Any, request: Any, now: float) -> None:
        original(self, app, request, now)
        if self.state.durable.knows((app.session, request.seq)):
            self.calling.accept(app, request.seq)

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
    Mutation("a young agent ends fan-outs with who is there", serving.Serving, "_is_young", 60, always(False), "kill"),
    Mutation("fan-outs do not say how many they count on", sending.Sending, "_fan_copy", 60, uncounted, "kill"),
    Mutation("who comes back to a young agent misses its fan-outs", serving.Serving, "joined", 60, nothing, "kill"),
    Mutation("a fan-out waits for ever for who does not come back", serving.Serving, "gather_no_more", 60, nothing),
    Mutation("attempts are not counted", sending.Sending, "charge", 60, nothing, "kill", made=deadly),
    Mutation(
        "apps do not learn what processes died of", sending.Sending, "_tell_attempts", 60, nothing, "kill", made=deadly
    ),
    Mutation(
        "apps forget what processes died of",
        client_calling.Calling,
        "resume",
        60,
        forgetful_resume,
        "kill",
        made=deadly,
    ),
    Mutation(
        "the disk is not told what processes died of", durable.Durable, "must_mark", 60, unmarked, "kill", made=deadly
    ),
    Mutation("a watched call waits for ever", monitor.Monitor, "_silent", 60, always([]), "stop-app"),
    Mutation("nobody is asked for a sign of life", monitor.Monitor, "heard", 60, nothing, "wipe"),
    Mutation("who waits for room is refused", calling.Calling, "_nobody", 60, roomless),
    Mutation("what a disk does not know is new", calling.Calling, "sought", 60, always({}), "lose-disk"),
    Mutation(
        "durable casts are accepted before they are written", spooling.Spooling, "keep", 60, hasty_keep, "bad-disk"
    ),
    Mutation("queues are not in order", inbox.Fifo, "peek", 60, unordered),
]


def seeds_until_found(mutation: Mutation, first: int = 0) -> int:
    """Return how many seeds it takes to find a defect; ``mutation.seeds`` + 1 if they do not suffice."""
    with mutation.put_in():
        for number in range(mutation.seeds):
            if play(mutation.made(draw(first + number, mutation.only))).findings:
                return number + 1
    return mutation.seeds + 1


@pytest.mark.parametrize("mutation", MUTATIONS, ids=[mutation.label for mutation in MUTATIONS])
def test_this_defect_is_found_in_time(mutation: Mutation) -> None:
    assert seeds_until_found(mutation) <= mutation.seeds
