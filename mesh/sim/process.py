"""A process with a client session in it, and all that can happen to its connection and to itself.

It dials its node's agent for ever, keeps the session's time, and carries bytes. It can be stopped (`pause`), read
slowly, lose its socket with or without what it wrote, and end. What the session tells goes to ``tell``.
"""

from collections import deque
from collections.abc import Callable

from mesh.client.events import Event
from mesh.client.session import Session
from mesh.sim.world import World

__all__ = ["Process"]


class Process:
    """One app's process, a `Speaker`. ``read_s``: how long it takes over each frame; ``on_write`` is called before it
    writes; ``stopped_at``: since when it is stopped, if it is, and ``up_at``: connected."""

    def __init__(
        self, world: World, node: str, session: Session, tell: Callable[[list[Event]], None], *, read_s: float = 0.0
    ) -> None:
        self.on_write: Callable[[], None] | None = None
        self.world, self.node, self.session, self.tell = world, node, session, tell
        self.unread: deque[Callable[[], None]] = deque()
        self.read_s = read_s
        self.reads_at = 0.0
        self.stopped_at = self.paused_until = self.up_at = 0.0
        self.wakes_at = 0.0
        self.is_up = False
        self.is_alive = True

    def time(self) -> float:
        """Return what its machine's clock says."""
        return self.world.time(self.node)

    # A speaker

    def connected(self, now: float) -> None:
        self.is_up, self.up_at = True, self.world.now
        self.session.connected(now)

    def received(self, data: bytes, now: float) -> None:
        self._read(lambda: self._received(data))

    def disconnected(self, now: float) -> None:
        self._read(self._disconnected)

    def deadline(self) -> float | None:
        """It keeps its own time, for that goes on while there is no agent."""
        return None

    def tick(self, now: float) -> None: ...

    def take(self, now: float) -> list[bytes]:
        frames: list[bytes] = []
        if self.on_write is not None:
            self.on_write()
        while self.is_alive and self.paused_until <= self.world.now and self.session.wants_write:
            frames += self.session.take(now)
        return frames

    def _read(self, entry: Callable[[], None]) -> None:
        """Do what reading brings: now, or in its order when the process runs and gets to it."""
        if not self.unread and self.reads_at <= self.world.now:
            entry()
            return
        self.unread.append(entry)
        if len(self.unread) == 1:
            self.world.at(self.reads_at, self._read_on)

    def _read_on(self) -> None:
        if self.reads_at > self.world.now:
            self.world.at(self.reads_at, self._read_on)
            return
        self.unread.popleft()()
        self.reads_at = max(self.reads_at, self.world.now + self.read_s)
        if self.unread:
            self.world.at(self.reads_at, self._read_on)
        self.world.hear(self.node, self)

    def _received(self, data: bytes) -> None:
        if self.is_up and self.is_alive:
            self._after(self.session.received(data, self.time()))

    def _after(self, events: list[Event]) -> None:
        if events:
            self.tell(events)
        if not self.world.now < self.wakes_at:
            self._wake()

    def _disconnected(self) -> None:
        if self.is_up and self.is_alive:
            self.is_up = False
            self.session.disconnected("the socket is gone", self.time())
            self.tell([])
            self._redial()

    # What it does by itself

    def _redial(self) -> None:
        self.world.at(self.world.when(self.node, self.session.connection.redial_at), self.dial)

    def dial(self) -> None:
        """Connect to the agent, now if there is one, else as soon as there is."""
        if not self.is_alive or self.is_up:
            return
        if self.paused_until > self.world.now:
            self.world.at(self.paused_until, self.dial)
        elif self.node in self.world.agents:
            self.world.attach(self.node, self)
            self._wake()
        else:
            self.session.disconnected("nobody listens", self.time())
            self._redial()

    def _wake(self) -> None:
        """Have the session's deadline kept."""
        due = self.session.deadline()
        if due is None or not self.is_alive:
            return
        due = max(self.world.when(self.node, due), self.world.now + 1e-6, self.paused_until)
        if self.world.now < self.wakes_at <= due:
            return
        self.wakes_at = due

        def wake() -> None:
            if self.wakes_at == due and self.is_alive:
                self.run(lambda: self._after(self.session.tick(self.time())))

        self.world.at(due, wake)

    def run(self, entry: Callable[[], object]) -> None:
        """Do something, when the process runs; then write what the session has to say."""
        if not self.is_alive:
            return
        if self.paused_until > self.world.now:
            self.world.at(self.paused_until, lambda: self.run(entry))
            return
        entry()
        self.world.hear(self.node, self)
        self._wake()

    # What goes wrong

    def pause(self, duration_s: float) -> None:
        """Stop the process: it neither reads nor writes nor works for a while."""
        if self.paused_until <= self.world.now:
            self.stopped_at = self.world.now
        self.paused_until = max(self.paused_until, self.world.now + duration_s)
        self.reads_at = max(self.reads_at, self.paused_until)
        self.world.say(f"app {self.session.id} is stopped for {duration_s:.3f} s")

    def hang_up(self, *, lossy: bool = False) -> None:
        """Lose the socket, if there is one; a new one is opened soon."""
        if self.is_up and self.node in self.world.agents:
            self.world.detach(self.node, self, lossy=lossy)

    def end(self, *, dead: bool = True) -> None:
        """End the process, or, unless it is ``dead``, only what it has to do with the mesh."""
        self.is_alive = False
        self.world.say(f"app {self.session.id} dies")
        if self.is_up and self.node in self.world.agents:
            self.world.detach(self.node, self, dead=dead)
