"""A world in which node a has a spool, for the tests of durable casts."""

from mesh.core.context import NodeOptions
from mesh.core.durable import Durable, DurableOptions
from mesh.core.records import Accepted, Flag
from mesh.sim.world import World
from mesh.spool.base import DeadOptions
from mesh.spool.memory import MemorySpool
from tests.core.fabric import App, Handler, echo

__all__ = ["Mail", "accepted"]


def accepted(app: App) -> list[int]:
    """The seqs that an app was told are held."""
    return [seq for record in app.of(Accepted) for first, last in record.ranges for seq in range(first, last + 1)]


class Mail:
    """Nodes a, which has a spool, and b; an app of a that casts. ``disk`` outlives the agent."""

    def __init__(
        self,
        durable: DurableOptions | None = None,
        *,
        dead: DeadOptions | None = None,
        options: NodeOptions | None = None,
    ) -> None:
        self.world = World(1)
        self.options = options or NodeOptions(durable=durable or DurableOptions())
        self.disk = MemorySpool(dead or DeadOptions(), lambda: self.world.now)
        self.world.start("a", self.options, self.disk)
        self.world.start("b", self.options)
        self.caller = App(self.world, "a", 10)
        self.run(0.1)

    def run(self, seconds: float) -> None:
        self.world.run(self.world.now + seconds)

    def serve(self, node: str = "b", session: int = 20, handle: Handler = echo, topic: str = "orders") -> App:
        """An app that serves a topic, known to all soon."""
        app = App(self.world, node, session, handle)
        app.serve(topic)
        self.run(0.5)
        return app

    def cast(self, body: bytes = b"", *, topic: str = "orders", flags: int = 0, ttl_s: float = 60.0) -> int:
        return self.caller.cast(topic, body, flags=Flag.DURABLE | flags, timeout_s=ttl_s)

    def kill(self, *, caller: bool = True) -> None:
        """Have the agent die, and its app with it or not."""
        self.disk.close()
        self.world.kill("a")
        if caller:
            self.caller = None  # type: ignore[assignment]

    def restart(self) -> None:
        self.world.start("a", self.options, self.disk)
        self.run(0.1)

    @property
    def durable(self) -> Durable:
        return self.world.agents["a"].node.state.durable

    @property
    def stalled(self) -> bool:
        """Whether anything of a's is on its way to the disk, or in memory."""
        durable = self.durable
        return bool(durable.entries or durable.flight or durable.unwritten or durable.ending or durable.held)

    def dead(self) -> list[tuple[str, str]]:
        return [(letter.reason, letter.text) for letter in self.disk.dead(0, 100)]
