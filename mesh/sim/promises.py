"""What is promised, and checked in every schedule of the small world: `Broken` says which promise was not kept.

* What must not run twice does not.
* Every request ends once, and what its caller is told is true: "not run" means that no handler began, nor will.
* One fault alone fails no request, but for the death of a serving app, which fails what its workers had in hand.
* Whatever the faults, a request ends when that is known, and not only when its time is over.
* An agent never takes a past incarnation or link of another for the latest, and parts from no link with work on it.
"""

from mesh.client.events import Outcome
from mesh.core.context import State
from mesh.core.records import Failure, Flag, Kind, Request, Status
from mesh.sim.small import Fault, Id, Small

__all__ = ["HARMLESS", "NOT_RUN", "Broken", "Fences", "began", "ended", "fences", "judge", "watch"]

NOT_RUN = (Status.UNROUTABLE, Status.OVERLOADED, Status.EXPIRED, Status.REJECTED, Status.AGENT_UNAVAILABLE)
"""Outcomes that say that no handler began."""

HARMLESS = (Fault.KILL, Fault.CUT, Fault.ERROR, Fault.GAP, Fault.LEAVE)
"""Faults of which one alone fails no request."""

Fences = tuple[int, int, bool]
"""Of a peer: the greatest incarnation and link number that were seen, and whether only we said goodbye to it."""


class Broken(AssertionError):
    """A promise was broken; the text says which."""


def began(world: Small, app: str, id: Id, request: Request) -> None:
    """A handler begins; raises Broken."""
    world.begun[id] = [*world.begun.get(id, ()), app]
    if id in world.ended and world.ended[id] in NOT_RUN:
        raise Broken(f"{id} begins at {app} after its caller was told {Status(world.ended[id]).name}")
    is_call = request.kind == Kind.CALL
    may_repeat = request.flags & Flag.IDEMPOTENT if is_call else not request.flags & Flag.ONCE
    if len(world.begun[id]) > 1 and not may_repeat:
        raise Broken(f"{id} runs twice, at {' and '.join(world.begun[id])}")


def ended(world: Small, id: Id, outcome: Outcome) -> None:
    """A caller is told how its request ended; raises Broken."""
    if id in world.ended:
        raise Broken(f"{id} ends twice")
    status = world.ended[id] = outcome.status if isinstance(outcome, Failure) else 0
    if status in NOT_RUN and id in world.begun:
        raise Broken(f"{id} ran, and its caller was told {Status(status).name}")
    if not status and id not in world.begun:
        raise Broken(f"{id} never ran, and its caller was told that it ended well")


def fences(state: State) -> dict[str, Fences]:
    """Return what a node has seen of each of its peers."""
    found = {}
    for name, peer in state.peers.peers.items():
        link = state.peers.links.get(peer.link or 0)
        is_leaving = link is not None and link.goodbye_sent and not link.goodbye_heard
        found[name] = (peer.seen.incarnation, peer.seen.link_no, is_leaving)
    return found


def watch(name: str, before: dict[str, Fences], state: State) -> None:
    """See that a node's fences only rise, and that it does not part from a link that it needs; raises Broken."""
    after = fences(state)
    for peer, (incarnation, link_no, was_leaving) in before.items():
        seen = after.get(peer, (incarnation, link_no, False))
        if seen[:2] < (incarnation, link_no):
            raise Broken(f"{name} lets {peer}'s past in: {seen[:2]} after {(incarnation, link_no)}")
        if seen[2] and not was_leaving and state.pool.slots[peer].leases:
            raise Broken(f"{name} says goodbye to {peer} with work open there")


def judge(world: Small) -> None:
    """Look at a world in which every request has ended; raises Broken."""
    kinds = [fault.partition(" ")[0] for fault in world.faults]
    failed = {id: status for id, status in world.ended.items() if status not in (0, Status.CANCELLED)}
    what = ", ".join(f"{id} {Status(status).name}" for id, status in failed.items())
    if not failed:
        return
    if len(kinds) <= 1 and all(kind in HARMLESS for kind in kinds):
        raise Broken(f"{what} after {' and '.join(world.faults) or 'no fault'}, which alone fails no request")
    if kinds == [Fault.DIE] and (len(failed) > 1 or Status.INDETERMINATE not in failed.values()):
        raise Broken(f"{what}, though the app that died had one worker")
    if world.now >= world.until and Fault.SLOW not in kinds:
        raise Broken(f"{what}, but only when its time was over")
