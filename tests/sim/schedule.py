"""One schedule of the small world, told move by move; what comes after is left to a search of every order."""

from mesh.core.node import Node
from mesh.sim.exhaustive import Scenario, Search, explore, play, settled
from mesh.sim.small import Kind, Move, Small, moves
from mesh.sim.steps import Hand, step

__all__ = ["Schedule"]


class Schedule:
    """A scenario's world, and the moves to make in it. Moves that cannot be made now are an error of the test."""

    def __init__(self, scenario: Scenario) -> None:
        self.scenario = scenario
        self.world: Small = play(scenario)

    def make(self, kind: Kind, who: str, by: str = "", fault: str = "", *, torn: bool = False) -> None:
        """Make the one move of this kind; ``by`` may be left out where there is one only."""
        ready = moves(self.world, self.scenario.faults, pruned=False)
        fit = [m for m in ready if (m.kind, m.who, m.fault, m.torn) == (kind, who, fault, torn) and by in ("", m.by)]
        assert 1 == len(fit), f"{Move(kind, who, by, fault)} is {len(fit)} of {[str(m) for m in ready]}"
        self.world = step(self.world, fit[0], self.scenario.options)

    def reads(self, *ends: str) -> None:
        """Have agents read the next of a link, each as ``a`` or, where it has several, as ``a a1:2``."""
        for end in ends:
            who, _, by = end.partition(" ")
            self.make(Kind.READ, who, by)

    def hears(self, *ends: str) -> None:
        """Have agents hear the next of an app."""
        for end in ends:
            who, _, by = end.partition(" ")
            self.make(Kind.HEAR, who, by)

    def told(self, *apps: str) -> None:
        """Have apps take in the next of what their agent tells."""
        for end in apps:
            who, _, by = end.partition(" ")
            self.make(Kind.TOLD, who, by)

    def ends(self, app: str, by: str = "") -> None:
        self.make(Kind.END, app, by)

    def starts(self, node: str) -> None:
        self.make(Kind.START, node)

    def dials(self, app: str) -> None:
        self.make(Kind.DIAL, app)

    def fault(self, fault: str, who: str, by: str = "", *, torn: bool = False) -> None:
        self.make(Kind.FAULT, who, by, fault, torn=torn)

    def settle(self, *, ends: bool = False) -> None:
        """Let everything happen that needs neither time nor a fault; ``ends``: handlers end too."""
        self.world = settled(self.world, self.scenario.options, ends=ends)

    def wait(self, seconds: int) -> None:
        """Let time pass, and whatever then happens by itself."""
        for _ in range(seconds):
            hand = Hand(self.world.fork(), self.scenario.options)
            hand.tick(self.world.now + 1)
            self.world = hand.put_back()
            self.settle()

    def quits(self, app: str) -> None:
        """End an app's process."""
        hand = Hand(self.world.fork(), self.scenario.options)
        hand.exit(app)
        self.world = hand.put_back()
        self.settle()

    def node(self, name: str) -> Node:
        """Return a node, as it is now."""
        return Hand(self.world.fork(), self.scenario.options).node(name)

    def rest(self, states_max: int = 20_000) -> Search:
        """Search every order of what comes after, with the faults that are left."""
        return explore(self.world, self.scenario, states_max=states_max)
