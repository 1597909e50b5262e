"""Every schedule of a small world: all orders of what may happen, with up to so many faults, until a promise breaks.

The search is breadth first, so a schedule that is found is a shortest one. A state that was reached before, by another
way, is not searched again: states are compared by a digest of everything that nodes, apps and connections hold. When
every request has ended, what is still on its way is taken in, in one order: nothing may begin that is over.
"""

from collections.abc import Callable
from time import monotonic

from msgspec import Struct, field

from mesh.core.context import NodeOptions
from mesh.core.directory import DirectoryOptions
from mesh.core.liveness import LivenessOptions
from mesh.core.records import Status
from mesh.sim.promises import Broken, judge
from mesh.sim.small import Kind, Move, Small, digest, moves
from mesh.sim.steps import Hand, step

__all__ = ["Found", "Scenario", "Search", "explore", "play", "search", "settled", "told"]

DEPTH_MAX = 200

OPTIONS = NodeOptions(
    liveness=LivenessOptions(heartbeat_s=60.0, dead_after_s=600.0), directory=DirectoryOptions(absent_grace_s=8.0)
)
"""No heartbeats: every loss of a connection is noticed, sooner or later, and silence is not searched."""


class Scenario(Struct, frozen=True):
    """A small world to search. ``set_up`` makes it, in a hand over an empty one; ``faults``: which may happen, of which
    up to ``left`` do."""

    name: str
    text: str
    set_up: Callable[[Hand], None]
    faults: tuple[str, ...]
    left: int = 1
    options: NodeOptions = OPTIONS


class Found(Struct):
    """A schedule that breaks a promise, move by move from the start, and which one."""

    moves: list[Move]
    why: str


class Search(Struct):
    """What a search has seen. ``ends``: how often requests ended how; ``cut_off``: states from
    which nothing more was tried, since so many, or so deep, were allowed."""

    states: int = 0
    moves: int = 0
    depth: int = 0
    leaves: int = 0
    cut_off: int = 0
    elapsed_s: float = 0.0
    found: Found | None = None
    ends: dict[str, int] = field(default_factory=dict)


def settled(world: Small, options: NodeOptions, *, ends: bool = False) -> Small:
    """Return the world when nothing moves any more without time or faults, whatever moves first; ``ends``: handlers
    end too."""
    still = (Kind.TIME,) if ends else (Kind.TIME, Kind.END)
    while ready := [move for move in moves(world, ()) if move.kind not in still]:
        world = step(world, ready[0], options)
    return world


def play(scenario: Scenario) -> Small:
    """Return the world with which a scenario begins."""
    hand = Hand(Small(), scenario.options)
    scenario.set_up(hand)
    world = hand.put_back()
    world.left = scenario.left
    return world


def search(
    scenario: Scenario,
    depth_max: int = DEPTH_MAX,
    states_max: int = 1 << 40,
    progress: Callable[[Search], None] = lambda seen: None,
) -> Search:
    """Try every schedule of a scenario up to ``depth_max`` moves; stop at the first that breaks a promise, or when
    ``states_max`` were seen. ``progress`` is called after each depth."""
    return explore(play(scenario), scenario, depth_max, states_max, progress)


def explore(
    first: Small,
    scenario: Scenario,
    depth_max: int = DEPTH_MAX,
    states_max: int = 1 << 40,
    progress: Callable[[Search], None] = lambda seen: None,
) -> Search:
    """Search on from a world, as `search` does from a scenario's beginning."""
    began, seen = monotonic(), Search()
    frontier: list[tuple[bytes, Small]] = [(digest(first), first)]
    came: dict[bytes, tuple[bytes, Move] | None] = {frontier[0][0]: None}
    while frontier and seen.found is None and seen.depth < depth_max and len(came) < states_max:
        beyond: list[tuple[bytes, Small]] = []
        for name, world in frontier:
            for move in moves(world, scenario.faults):
                seen.moves += 1
                try:
                    after = step(world, move, scenario.options)
                    if after.is_over:
                        judge(after)
                        settled(after, scenario.options, ends=True)
                except Broken as broken:
                    seen.found = Found([*_way(came, name), move], str(broken))
                    break
                key = digest(after)
                if key in came:
                    continue
                came[key] = (name, move)
                if after.is_over:
                    seen.leaves += 1
                    _count(seen, after)
                else:
                    beyond.append((key, after))
            if seen.found is not None:
                break
        frontier = beyond
        seen.depth += 1
        seen.states, seen.elapsed_s = len(came), monotonic() - began
        progress(seen)
    seen.cut_off = len(frontier) if seen.found is None else 0
    return seen


def told(seen: Search) -> list[str]:
    """Return a search in lines for people: the schedule that was found, and how much was seen."""
    lines = []
    if seen.found is not None:
        lines += [f"  {number:3} {move}" for number, move in enumerate(seen.found.moves, 1)]
        lines.append(f"broken: {seen.found.why}")
    ends = ", ".join(f"{count} {name}" for name, count in sorted(seen.ends.items())) or "none"
    lines.append(f"{seen.states} states by {seen.moves} moves, up to {seen.depth} deep, in {seen.elapsed_s:.1f} s")
    lines.append(f"{seen.leaves} states in which all had ended; requests by their end: {ends}")
    if seen.cut_off:
        lines.append(f"cut off: {seen.cut_off} states go on beyond {seen.depth} moves")
    return lines


def _count(seen: Search, world: Small) -> None:
    for status in world.ended.values():
        name = Status(status).name if status else "ended well"
        seen.ends[name] = seen.ends.get(name, 0) + 1


def _way(came: dict[bytes, tuple[bytes, Move] | None], key: bytes) -> list[Move]:
    """Return the moves that led to a state."""
    way: list[Move] = []
    while (last := came[key]) is not None:
        key, move = last
        way.append(move)
    return way[::-1]
