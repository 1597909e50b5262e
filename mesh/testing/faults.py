"""What a test may ask for: the simulator's faults, by the names of its kinds, and those that apps fear most, in words.

Each says what happens, to whom, for how long, and how a call may end that it meets: with these outcomes and no other.
"""

from msgspec import Struct

from mesh.client.api import Reply
from mesh.errors import Indeterminate, OutcomeError, Unroutable
from mesh.sim import faults as sim

__all__ = ["FAULTS", "Fault", "Outcome"]

Outcome = type[Reply] | type[OutcomeError]

NOTICED_S = 0.05
"""How long an agent is away that was killed: its supervisor starts the next one about as soon."""

LATE_S = 30.0
"""Later than any call waits that did not ask for it."""


class Fault(Struct):
    """``kind`` is the simulator's; ``whom`` it meets, the ``server`` of a call or its ``caller``: the app, its agent,
    or the way from there to the other's. ``outcomes``: how the call may end, `Reply` among them if it may be answered;
    ``idempotent``: how it may end besides if it is that, and another instance serves. ``for_s``: how long it lasts,
    None if it is over at once or nothing undoes it. ``struck``: whether one that a test asked for has met anything."""

    name: str
    kind: str
    whom: str
    for_s: float | None
    what: str
    outcomes: tuple[Outcome, ...]
    idempotent: tuple[Outcome, ...] = ()
    in_mid_call: bool = True
    struck: bool = False


ANSWERED: tuple[Outcome, ...] = (Reply,)
DOUBTFUL: tuple[Outcome, ...] = (Reply, Indeterminate)

_FEARED = (
    Fault(
        *("the agent dies in mid-call", "kill", "caller", NOTICED_S),
        "The agent of the caller's machine is killed when the handler has ended and before its answer leaves; its "
        "supervisor starts another.",
        DOUBTFUL,
    ),
    Fault(
        *("the server's agent dies in mid-call", "kill", "server", NOTICED_S),
        "The agent of the server's machine is killed when the handler has ended and before its answer leaves; its "
        "supervisor starts another.",
        DOUBTFUL,
    ),
    Fault(
        *("the server dies in mid-call", "die", "server", None),
        "The serving process dies when its handler has done its work and before its answer leaves.",
        (Indeterminate,),
        (Reply,),
    ),
    Fault(
        *("nobody serves", "leave", "server", None),
        "Every app that serves the topic ends in order, with all its topics and before the call, and stays away.",
        (Unroutable,),
        in_mid_call=False,
    ),
    Fault(
        *("the reply is late", "stop-app", "server", LATE_S),
        "The serving process is stopped when its handler has ended and before its answer leaves, and goes on later.",
        DOUBTFUL,
    ),
    Fault(
        *("the link breaks in mid-call", "cut", "server", None),
        "The connection between the two agents is reset before the answer leaves.",
        ANSWERED,
    ),
    Fault(
        *("the network falls silent in mid-call", "silence", "server", LATE_S),
        "The network between the two agents swallows everything, and tells nobody, before the answer leaves.",
        DOUBTFUL,
    ),
    Fault(
        *("the caller loses its agent's socket", "socket-error", "caller", None),
        "The connection between the caller and its agent breaks; what was on its way is lost, both ways.",
        ANSWERED,
    ),
)

_ANSWERED = (
    *("cut", "half-cut", "slow", "noise", "deaf", "lag", "drain", "hang-up", "socket-error", "slow-app", "leave"),
    *("away", "wipe", "empty", "split", "stale", "bad-disk", "clog"),
)
"""Kinds that a call lives through whose handler has ended, by the rules of delivery."""

_MOMENTARY = ("cut", "half-cut", "drain", "hang-up", "socket-error", "die", "leave")
"""Kinds that nothing undoes after a time."""

_TO_CALLERS = ("empty", "stale")
"""Kinds that the caller's agent, and not the server's, feels the most."""


def _of_kind(kind: str) -> Fault:
    whom, what = ("caller" if kind in _TO_CALLERS else "server"), sim.meaning(kind)
    for_s = None if kind in _MOMENTARY else 1.0
    if kind == "die":
        return Fault(kind, kind, whom, for_s, what, (Indeterminate,), (Reply,))
    return Fault(kind, kind, whom, for_s, what, ANSWERED if kind in _ANSWERED else DOUBTFUL)


FAULTS: dict[str, Fault] = {fault.name: fault for fault in (*_FEARED, *map(_of_kind, sim.KINDS))}
"""Every fault by its name."""
