"""The scenarios of the exhaustive search, by name."""

from collections.abc import Callable

from msgspec import structs

from mesh.core.pool import PoolOptions
from mesh.core.records import Flag, Kind
from mesh.sim.exhaustive import OPTIONS, Scenario, settled
from mesh.sim.steps import Hand

__all__ = ["SCENARIOS", "glare", "sending", "twins"]

ANY_ONE = ("kill a", "kill b", "cut a b", "error caller", "error server")
"""What fails no request when it comes alone."""

AGENTS = ("kill a", "kill b", "cut a b")
SOCKETS = ("error caller", "error server", "cut a b")
DEATH = ("die server",)
LEAVE = ("leave server", "leave other")
LOSS = ("kill b", *DEATH)
TWINS = ("leave server", "leave twin")


def _three(hand: Hand) -> None:
    """Three agents; a caller at a, who has not called yet, and a server each at b and at c."""
    for name in "abc":
        hand.start(name)
    hand.open("server", "b", 20, serves=True)
    hand.open("other", "c", 30, serves=True)
    hand.open("caller", "a", 10, serves=False)
    _settle(hand)


def _settle(hand: Hand) -> None:
    """Let everything happen that happens by itself."""
    hand.world = settled(hand.put_back(), hand.options)
    hand.nodes.clear()
    hand.apps.clear()


def _warm(hand: Hand) -> None:
    """Have links from a to b and to c, and nothing outstanding there."""
    for _ in range(2):
        hand.send("caller")
    hand.world = settled(hand.put_back(), hand.options, ends=True)
    hand.nodes.clear()
    hand.apps.clear()
    for ledger in (hand.world.sent, hand.world.begun, hand.world.ended):
        ledger.clear()


def sending(
    *flags: int, kind: Kind = Kind.CALL, server: str = "", further: int = 0, warm: bool = False, begun: bool = False
) -> Callable[[Hand], None]:
    """Return what makes three agents, with links (``warm``) or without, and has the caller send a request for each of
    ``flags``, all at once, and ``further`` calls, each when another has ended; ``begun``: handlers run already."""

    def set_up(hand: Hand) -> None:
        _three(hand)
        if warm:
            _warm(hand)
        for flag in flags:
            hand.send("caller", kind, flag, server)
        caller = hand.app("caller")
        caller.further, caller.server = further, server
        if begun:
            _settle(hand)

    return set_up


def _one_node(hand: Hand) -> None:
    for name in "ab":
        hand.start(name)
    hand.open("server", "a", 20, serves=True)
    hand.open("caller", "a", 10, serves=False)
    _settle(hand)
    hand.send("caller")


def twins(hand: Hand) -> None:
    """Have three calls go to two servers of one node."""
    for name in "abc":
        hand.start(name)
    hand.open("server", "b", 20, serves=True)
    hand.open("twin", "b", 25, serves=True)
    hand.open("caller", "a", 10, serves=False)
    _settle(hand)
    for _ in range(3):
        hand.send("caller")


def glare(hand: Hand) -> None:
    """Have two nodes call each other that have no link."""
    for name in "ab":
        hand.start(name)
    hand.open("server", "b", 20, serves=True)
    hand.open("other", "a", 30, serves=True)
    hand.open("caller", "a", 10, serves=False)
    hand.open("second", "b", 40, serves=False)
    _settle(hand)
    hand.send("caller", server="b-server")
    hand.send("second", server="a-other")


def _named(*scenarios: Scenario) -> dict[str, Scenario]:
    return {scenario.name: scenario for scenario in scenarios}


SCENARIOS = _named(
    Scenario("call", "One call to another node, and any one fault.", sending(0), ANY_ONE),
    Scenario("idempotent", "A call that may run twice, and any one fault.", sending(Flag.IDEMPOTENT), ANY_ONE),
    Scenario("cast", "A cast, and any one fault.", sending(0, kind=Kind.CAST), ANY_ONE),
    Scenario("once", "A cast that is not sent twice, and any one fault.", sending(Flag.ONCE, kind=Kind.CAST), ANY_ONE),
    Scenario("fanout", "A fan-out to two nodes, and a lost link.", sending(0, kind=Kind.FANOUT), ("cut a b",)),
    Scenario("again", "A call, another when that has ended, and any one fault.", sending(0, further=1), ANY_ONE),
    Scenario("one-node", "Caller and server on one node.", _one_node, ("kill a", "error caller", "error server")),
    Scenario("death", "Three calls wait or run at two servers, and one dies.", sending(0, 0, 0, begun=True), DEATH),
    Scenario("lost", "A call runs; its server dies, and so does the agent there.", sending(0, begun=True), LOSS, 2),
    Scenario("departure", "Three calls wait or run at two servers; one leaves.", sending(0, 0, 0, begun=True), LEAVE),
    Scenario("cancel", "Two calls, one of which the caller gives up.", sending(0, 0), ("cancel caller",)),
    Scenario("slow", "A call, and six seconds that pass at any moment.", sending(0), ("slow",)),
    Scenario(
        "gap",
        "Two calls on one link, which loses a batch and delivers the next.",
        sending(0, 0, server="b-server", warm=True),
        ("gap a b",),
    ),
    Scenario(
        "budget",
        "Two calls to two nodes from an agent that may have one link, and a lost link.",
        sending(0, 0),
        ("cut a b",),
        options=structs.replace(OPTIONS, pool=PoolOptions(links_max=1)),
    ),
    # These take from a minute to an hour.
    Scenario("calls", "Two calls, each to another node, and any one fault.", sending(0, 0), ANY_ONE),
    Scenario("floors", "Calls to two nodes, one more, and a lost link.", sending(0, 0, further=1), ("cut a b",)),
    Scenario("glare", "Two nodes call each other at once, and a lost link.", glare, ("cut a b",)),
    Scenario("twins", "Three calls to two servers of one node, one of which leaves.", twins, TWINS),
    Scenario("deaths", "Three calls to two servers, and one dies at any moment.", sending(0, 0, 0), DEATH),
    Scenario("departures", "Three calls to two servers, and one leaves at any moment.", sending(0, 0, 0), LEAVE),
    Scenario("agents", "A call, and two faults of agents and links.", sending(0), AGENTS, 2),
    Scenario("sockets", "A call, and two faults of sockets and links.", sending(0), SOCKETS, 2),
    Scenario("any-two", "A call, and any two faults.", sending(0), (*ANY_ONE, *LEAVE, *DEATH), 2),
)
"""By name."""
