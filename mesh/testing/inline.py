"""What carries a `mesh.Client` in a test: no thread and no socket.

Whoever waits makes things happen, one after the other, until what it waits for is there; handlers run in between, on
top of its stack. So a handler may call others, and may not wait for what only the test below it will do.
"""

import os
import threading
from collections import deque
from collections.abc import Callable
from concurrent.futures import Future
from typing import TYPE_CHECKING, Any

from mesh.client.api import Message
from mesh.client.engine import Ticket
from mesh.client.events import Delivered, Event, Id
from mesh.client.session import Session
from mesh.client.workers import Handler, Pool
from mesh.testing.app import App

if TYPE_CHECKING:
    from mesh.testing.fleet import Fleet

__all__ = ["Inline"]


class Inline:
    """A `Carrier` in whose ``wait`` the world goes on."""

    def __init__(self, fleet: "Fleet", node: str, session: Session, dispatch: Callable[[list[Event]], None]) -> None:
        self.pid = os.getpid()
        self.session = session
        self.unattended: Callable[[], bool] = lambda: False
        self.hurried: Callable[[], bool] = lambda: False
        self.is_stopped = False
        self.is_reader = False
        self.app: App = fleet.add(node, session, dispatch)
        self.fleet = fleet

    @property
    def lock(self) -> threading.RLock:
        """One for the whole fleet: threads of a test may share it."""
        return self.fleet.lock

    def now(self) -> float:
        """Return the fleet's time."""
        return self.fleet.now

    def start(self) -> None:
        """Connect."""
        self.app.process.dial()

    def wait(self, ticket: Ticket, until: float) -> None:
        """Make things happen until the ticket is done, or it is ``until``."""
        self.fleet.go_on(lambda: ticket.done or self.is_stopped, until)

    def wait_until(self, predicate: Callable[[], bool], until: float) -> bool:
        """Make things happen until the predicate is true, or it is ``until``; return whether it is."""
        if until == float("inf") and not (predicate() or self.is_stopped):
            raise RuntimeError(
                "client.run() waits until the client is closed, and nothing in a test closes it meanwhile: leave it "
                "out, for handlers run whenever the test waits for the mesh"
            )
        self.fleet.go_on(lambda: predicate() or self.is_stopped, until)
        return predicate()

    def notice(self) -> None:
        """Whoever waits looks after each thing that happens."""

    def finish(self, ticket: Ticket, outcome: object = None) -> None:
        """What the ticket waits for is there."""
        ticket.outcome = outcome
        ticket.done = True

    def pump(self, *, patiently: bool = False) -> None:
        """Write what is queued; outside of handlers, all that it sets off at once happens."""
        with self.lock:
            self.app.write()
            self.fleet.settle()

    nudge = pump

    def ring(self) -> None:
        """There is nobody to wake."""

    def future(self) -> Future[Any]:
        """Return a future that makes things happen when it is asked."""
        future: Future[Any] = Future()

        def asked(get: Callable[[float], Any]) -> Callable[[float | None], Any]:
            def wait(timeout: float | None = None) -> Any:
                until = float("inf") if timeout is None else self.now() + timeout
                self.fleet.go_on(lambda: future.done() or self.is_stopped, until)
                return get(0)

            return wait

        vars(future).update(result=asked(future.result), exception=asked(future.exception))
        return future

    def workers(self, topic: str, handler: Handler, workers: int, *, expose_tracebacks: bool) -> "Work":
        """Return what runs the handler of a topic."""
        return Work(self, topic, handler, workers, expose_tracebacks)

    def stop(self) -> None:
        """End at once."""
        with self.lock:
            self.is_stopped = True
            self.session.close()
            self.app.close()


class Work:
    """The handler of one topic. It runs in the middle of what happens, at most ``workers`` times, each on top of the
    other: a handler that waits goes on when those above it have ended."""

    def __init__(self, carrier: Inline, topic: str, handler: Handler, workers: int, expose_tracebacks: bool) -> None:
        self.topic = topic
        self._carrier = carrier
        self._handler = handler
        self._workers = workers
        self._pool = Pool(carrier, topic, self._handle, workers, expose_tracebacks=expose_tracebacks)
        self._backlog: deque[Delivered] = deque()
        self._busy = 0
        self._raised: BaseException | None = None

    def put(self, delivered: Delivered) -> None:
        """Have a request handled, as soon as the process runs."""
        carrier = self._carrier
        self._backlog.append(delivered)
        carrier.app.world.at(carrier.now(), lambda: carrier.app.process.run(self._advance))

    def _advance(self) -> None:
        while self._backlog and self._busy < self._workers:
            self._busy += 1
            try:
                with self._carrier.fleet.handling():
                    self._pool.run(self._backlog.popleft(), self._carrier.now())
            finally:
                self._busy -= 1
            if self._raised is not None:
                raised, self._raised = self._raised, None
                raise raised

    def _handle(self, message: Message) -> Any:
        """Run the handler; what is no Exception, as Ctrl-C or a test's own end, is for the test and not its caller."""
        try:
            return self._handler(message)
        except BaseException as error:
            self._carrier.fleet.raised(message, error)
            if not isinstance(error, Exception):
                self._raised = error
            raise

    def hurries(self) -> bool:
        """Nothing waits for a reader here."""
        return False

    def cancel(self, id: Id) -> None:
        """Tell the handler of a request that its caller gave it up."""
        self._pool.cancel(id)

    def is_running(self, message: Message | None) -> bool:
        """Return whether a handler here is at this message."""
        return self._pool.is_running(message)

    def stop(self) -> None:
        """Begin nothing more."""
        self._backlog.clear()
