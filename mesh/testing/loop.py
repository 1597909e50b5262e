"""What carries a `mesh.aio.Client` in a test, on any event loop: no socket and no thread.

The driver makes things happen one loop iteration after another. When nothing is left to be done at once, and somebody
waits for the mesh, the fleet's time jumps to the next thing that is due. It does not jump while a handler waits for
something that is not the mesh's (a file, a thread, another task): then it goes along with the clock on the wall, as it
would in production.
"""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from time import monotonic
from typing import TYPE_CHECKING, Any

from mesh.client.api import Message
from mesh.client.context import current
from mesh.client.loop import Engine
from mesh.testing.app import App

if TYPE_CHECKING:
    from mesh.testing.fleet import Fleet

__all__ = ["INSTANT_S", "Driver", "Looped"]

IDLE_TURNS = 64
"""Iterations of the loop without news after which tasks are taken to wait."""

EVENTS_MAX = 256
"""What happens in one iteration at most."""

INSTANT_S = 0.001
"""What is due so soon happens at once."""


class Driver:
    """Makes the world of a fleet go on in one event loop."""

    def __init__(self, fleet: "Fleet") -> None:
        self.fleet = fleet
        self.loop = asyncio.get_running_loop()
        self.engines: list[Engine] = []
        self.waits: dict[asyncio.Future[Any], Message | None] = {}
        self.lines: dict[Looped, None] = {}
        self._is_due = False
        self._idle = 0
        self._timer: asyncio.TimerHandle | None = None
        self._paced_from: tuple[float, float] | None = None
        self.raised: BaseException | None = None
        self._told: BaseException | None = None

    def is_here(self) -> bool:
        """Whether its loop can still do something, and no other runs here."""
        return not self.loop.is_closed() and asyncio._get_running_loop() in (None, self.loop)

    def check(self) -> None:
        """Raise RuntimeError in another loop than its own, and when that is closed."""
        if not self.is_here():
            raise RuntimeError(
                "this fleet belongs to another event loop: make one for each, that is for each test or asyncio.run"
            )

    # Somebody waits

    async def wait(self, future: asyncio.Future[Any], until: float) -> None:
        """Return when the future is done, or the fleet's time is ``until``.

        Who waits for ever, as `run` does, has no time go on.
        """
        if until == float("inf"):
            self.kick()
            await asyncio.wait((future,))
            return
        alarm: asyncio.Future[None] = self.loop.create_future()

        def ring() -> None:
            if not alarm.done():
                alarm.set_result(None)
                self.kick()

        self.fleet.world.at(until, ring)
        self.waits[alarm] = current()
        self.kick()
        try:
            await asyncio.wait((future, alarm), return_when=asyncio.FIRST_COMPLETED)
        finally:
            del self.waits[alarm]
        if alarm.done():
            alarm.result()

    async def sleep(self, duration_s: float) -> None:
        """Return when so much of the fleet's time has passed."""
        await self.wait(self.loop.create_future(), self.fleet.now + duration_s)

    @asynccontextmanager
    async def timeout(self, duration_s: float | None) -> AsyncIterator[asyncio.Timeout]:
        """Cancel what is done inside, which then raises TimeoutError, when so much of the fleet's time has passed."""
        is_inside = True
        async with asyncio.Timeout(None) as scope:  # the class, for an app may see this in the place of the function

            def ring() -> None:
                if is_inside and scope.when() is None:
                    scope.reschedule(self.loop.time())
                    self.kick()

            if duration_s is not None:
                self.fleet.world.at(self.fleet.now + duration_s, ring)
            try:
                yield scope
            finally:
                is_inside = False

    # Things happen

    def kick(self) -> None:
        """There is something to be done; raises RuntimeError as `check` does."""
        self.check()
        self._idle = 0
        self._schedule()

    def _schedule(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if not self._is_due:
            self._is_due = True
            self.loop.call_soon(self._turn)

    def _turn(self) -> None:
        self._is_due = False
        try:
            if self.raised is not None:
                self.fail(self.raised)
            if self._do_what_is_due():
                self.kick()
            elif self._somebody_waits():
                self._let_time_pass()
        except (KeyboardInterrupt, SystemExit) as error:
            if not self._tell(error):
                raise
        except BaseException as error:  # noqa: BLE001 - the test is told, and not the loop
            self.fail(error)

    def fail(self, error: BaseException) -> None:
        """Have everybody who waits raise what ends the test; if nobody does, who waits next, or the fleet's `close`."""
        if error is not self._told:
            self.raised = None if self._tell(error) else error

    def _tell(self, error: BaseException) -> bool:
        """Have everybody who waits raise this; return whether anybody does."""
        futures: list[asyncio.Future[Any]] = list(self.waits)
        for engine in self.engines:
            futures += [*engine.ends.values(), *engine.holds.values()]
        waiting = [future for future in futures if not future.done()]
        for future in waiting:
            future.set_exception(error)
        if waiting:
            self._told = error
        return bool(waiting)

    def _do_what_is_due(self) -> bool:
        lines, self.lines = self.lines, {}
        for line in lines:
            line.app.write()
        world = self.fleet.world
        if self._paced_from is not None and self._is_busy_elsewhere():
            wall, then = self._paced_from
            world.run(max(world.now, then + monotonic() - wall))
        else:
            self._paced_from = None
        last, count = world.now + INSTANT_S, 0
        while world.next_at() <= last and count < EVENTS_MAX:
            world.step()
            count += 1
        return bool(lines or count)

    def _somebody_waits(self) -> bool:
        return bool(self.waits) or any(engine.ends or engine.holds for engine in self.engines)

    def _let_time_pass(self) -> None:
        world = self.fleet.world
        if self._is_busy_elsewhere():
            if self._paced_from is None:
                self._paced_from = (monotonic(), world.now)
            self._timer = self.loop.call_later(max(0.0, world.next_at() - world.now), self._turn)
            return
        self._idle += 1
        if self._idle > IDLE_TURNS:
            for _ in range(EVENTS_MAX):
                world.step()
                if not self._idle:  # somebody was told something
                    return
        self._schedule()

    def _is_busy_elsewhere(self) -> bool:
        """Whether a handler waits for something, and not for the mesh."""
        handled = [m.id for engine in self.engines for pool in engine.pools.values() for m in pool.awaiting()]
        if not handled:
            return False
        asking = {message.id for message in self.waits.values() if message is not None}
        for engine in self.engines:
            assert isinstance(engine.line, Looped)
            asking |= engine.line.asking([*engine.ends, *engine.holds])
        return any(id not in asking for id in handled)


class Looped:
    """A `Line` of one client."""

    def __init__(self, driver: Driver, app: App) -> None:
        self.driver = driver
        self.app = app
        self._seen = 0
        self._for: dict[int, Message] = {}

    def now(self) -> float:
        """Return the fleet's time."""
        return self.driver.fleet.now

    def open(self) -> None:
        """Connect."""
        self.app.process.dial()
        self.driver.kick()

    def flush_soon(self) -> None:
        """Have what is queued written; note for which message of a handler's it was queued."""
        message, next_seq = current(), self.app.session.calling.next_seq
        if message is not None:
            self._for.update(dict.fromkeys(range(self._seen, next_seq), message))
        self._seen = next_seq
        self.driver.lines[self] = None
        self.driver.kick()

    def asking(self, seqs: list[int]) -> set[Any]:
        """Return the ids of the messages whose handlers wait for any of these."""
        self._for = {seq: self._for[seq] for seq in seqs if seq in self._for}
        return {message.id for message in self._for.values()}

    async def wait(self, future: asyncio.Future[Any], until: float) -> None:
        """Return when the future is done, or it is ``until``."""
        await self.driver.wait(future, until)

    def lose(self, reason: str) -> None:
        """The app has hung up already."""

    def raised(self, message: Message, error: BaseException) -> None:
        """A handler raised: what is no Exception, as a test's own end, is for the test and not its caller."""
        if not isinstance(error, asyncio.CancelledError | GeneratorExit):
            self.driver.fleet.raised(message, error)
            if not isinstance(error, Exception):
                self.driver.fail(error)

    def close(self) -> None:
        """The session was closed."""
        self.app.close()
        if self.driver.is_here():
            self.driver.kick()
