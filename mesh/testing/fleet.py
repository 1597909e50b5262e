"""A fleet of agents in this process, in a time of its own, for the unit tests of apps.

The agents are the real core and the clients are real, with all their checks; the network, the matchmaker and the clock
are the simulator's. Time goes on only while somebody waits for the mesh, and then it jumps from one thing that happens
to the next. The seed decides every delay, and what `Fleet.draw` draws.
"""

import threading
from collections.abc import Callable, Iterator
from contextlib import AbstractAsyncContextManager, contextmanager
from types import TracebackType
from typing import TYPE_CHECKING

from msgspec import structs

from mesh.client import aio
from mesh.client.api import CONNECT_TIMEOUT_S, Message, check_name, new_session
from mesh.client.connection import Connection
from mesh.client.desk import Desk
from mesh.client.events import Event, Id
from mesh.client.loop import Engine
from mesh.client.serving import Stage
from mesh.client.session import Session
from mesh.client.sync import Client
from mesh.core.context import NodeOptions
from mesh.core.effects import Stop
from mesh.core.records import Request
from mesh.core.rng import Rng
from mesh.sim import faults as sim
from mesh.sim.disk import Disk
from mesh.sim.world import NetworkOptions, World
from mesh.spool.base import DeadOptions
from mesh.spool.memory import MemorySpool
from mesh.testing.app import App, Sent, is_assertion
from mesh.testing.faults import FAULTS, Fault
from mesh.testing.inline import Inline
from mesh.testing.loop import INSTANT_S, Driver, Looped
from mesh.testing.plan import Plan
from mesh.types import name_problem, node_id_problem

if TYPE_CHECKING:
    import asyncio
    import os

__all__ = ["Fleet"]

WAIT_S_MAX = 4_000.0
"""How long somebody may wait who names no end, by the fleet's time: longer than any call."""

RESTART_S = 0.05
"""How soon an agent that stopped by itself is started again."""

NETWORK = NetworkOptions((0.00001, 0.00005), (0.00001, 0.00001), (0.00001, 0.00005), disk_delay_s=(0.00001, 0.00005))
"""Quick enough that what takes no time in a test is over within an instant."""


class Fleet:
    """Agents on ``nodes``, which are names, and the apps that `connect` to them: all of one thread's, or all of one
    event loop's.

    ``sent`` has every message that an app has sent. A fleet whose ``seed`` is the same does the same.
    """

    def __init__(self, nodes: tuple[str, ...] | list[str] = ("node1", "node2"), *, seed: int = 0) -> None:
        self.nodes = check_nodes(nodes)
        if not isinstance(seed, int):
            raise TypeError(f"the seed of a fleet is a whole number, not {seed!r}")
        self.sent: list[Sent] = []
        self.lock = threading.RLock()
        self.world = World(seed, NETWORK, traced=False)
        self.world.on_stop = self._stopped
        self.rng = Rng(seed)
        self.driver: Driver | None = None
        self._ids = Rng(seed + 1)
        self.apps: list[App] = []
        self._by_id: dict[Id, Sent] = {}
        self._plan = Plan(self)
        self._is_closed = False
        self._depth = 0
        self.world.disks = {name: Disk(MemorySpool(DeadOptions(), lambda: self.world.now)) for name in nodes}
        for name in nodes:
            self.restart(name)
        self.world.run(self.world.now + INSTANT_S)

    # Apps

    def connect(
        self,
        app: str = "app",
        *,
        namespace: str = "",
        fleet: str = "",
        socket: "str | os.PathLike[str] | None" = None,
        token_file: "str | os.PathLike[str] | None" = None,
        connect_timeout_s: float = CONNECT_TIMEOUT_S,
        wait_for_room: bool = True,
        node: str = "",
    ) -> Client:
        """Connect an app, as `mesh.connect` does, to the agent of ``node``; without one apps take the nodes in turn.

        Its handlers run in the thread that waits. ``socket`` and ``token_file`` are not used: this may stand for
        `mesh.connect` itself.
        """
        if self.driver is not None:
            raise RuntimeError("this fleet is an event loop's: connect to it with `await fleet.connect_aio(...)`")
        place = self._place(node)

        def make() -> Desk:
            return Desk(
                self._session(app, namespace, fleet, place),
                lambda session, dispatch: Inline(self, place, session, dispatch),
                wait_for_room=wait_for_room,
            )

        client = Client(make)
        self.apps[-1].end = client._desk.stop
        client.await_welcome(connect_timeout_s)
        return client

    async def connect_aio(
        self,
        app: str = "app",
        *,
        namespace: str = "",
        fleet: str = "",
        socket: "str | os.PathLike[str] | None" = None,
        token_file: "str | os.PathLike[str] | None" = None,
        connect_timeout_s: float = CONNECT_TIMEOUT_S,
        wait_for_room: bool = True,
        node: str = "",
    ) -> aio.Client:
        """Connect an app, as `mesh.aio.connect` does, in the running event loop."""
        if self.apps and self.driver is None:
            raise RuntimeError("this fleet is a thread's: connect to it with `fleet.connect(...)`")
        place, driver = self._place(node), self._drive()
        engine = Engine(
            self._session(app, namespace, fleet, place),
            lambda session, after: Looped(driver, self.add(place, session, after)),
        )
        driver.engines.append(engine)
        self.apps[-1].end = engine.stop
        client = aio.Client(engine, wait_for_room=wait_for_room)
        await client.await_welcome(connect_timeout_s)
        return client

    def _place(self, node: str) -> str:
        self._check_open()
        if node and node not in self.nodes:
            raise ValueError(f"there is no node {node!r} in this fleet, only {', '.join(self.nodes)}")
        return node or self.nodes[len(self.apps) % len(self.nodes)]

    def _session(self, app: str, namespace: str, fleet: str, place: str) -> Session:
        session = new_session(
            check_name("name of an app", app), check_name("namespace", namespace) if namespace else "", fleet, place
        )
        session.id = (self._ids.u64() >> 2) + 1
        session.connection = Connection(self._ids.u64())
        return session

    def add(self, node: str, session: Session, dispatch: Callable[[list[Event]], None]) -> App:
        """Add an app whose events ``dispatch`` is told."""
        app = App(self.world, node, session, dispatch, self._was_sent, self._handled)
        self.apps.append(app)
        return app

    def _check_open(self) -> None:
        if self._is_closed:
            raise RuntimeError("this fleet is closed: make another, or do this before it is")

    def close(self, *, check: bool = True) -> None:
        """End every client at once: whoever still waits gets SessionClosed. Their event loop may be closed already.

        Unless ``check`` is False, raises what should have made the test fail and did not: the AssertionError of a
        handler that is in the `errors` of a message, or one for a fault that was asked for and met nothing.
        """
        if self._is_closed:
            return
        self._is_closed = True
        is_here = self.driver is None or self.driver.is_here()
        for app in self.apps:
            if is_here:
                app.end()
            else:  # nobody is left in that loop who could be told
                app.session.close()
                app.close()
        if check:
            self._check()

    def _check(self) -> None:
        if self.driver is not None and self.driver.raised is not None:
            raise self.driver.raised
        for sent in self.sent:
            for error in filter(is_assertion, sent.errors):
                error.add_note(
                    f"raised by a handler of {sent.topic!r}, for a {sent.kind} of {sent.app!r}; a test that expects it "
                    "takes it out of the message's `errors`"
                )
                raise error
        unmet = self._plan.unmet()
        if unmet:
            raise AssertionError(unmet)

    def __enter__(self) -> "Fleet":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close(check=error is None)

    # What was sent

    def _was_sent(self, id: Id, sent: Sent) -> None:
        self._by_id[id] = sent
        self.sent.append(sent)

    def _handled(self, app: App, request: Request, stage: Stage) -> None:
        """A handler has begun a request, or ended it and its answer is about to leave."""
        sent = self._by_id.get((request.node, request.session, request.seq))
        if stage is Stage.RUNNING and sent is not None:
            sent.runs += 1
            sent.ran_by.append((app.session.app, app.node))
        elif stage is Stage.ENDED:
            self._plan.meet(app, request)

    def raised(self, message: Message, error: BaseException) -> None:
        """A handler has raised."""
        node, session, seq = message.id
        sent = self._by_id.get((node, session, seq))
        if sent is not None:
            sent.errors.append(error)

    # Time

    @property
    def now(self) -> float:
        """The fleet's time, in seconds: what `Message.deadline` is measured by."""
        return self.world.now

    def sleep(self, duration_s: float) -> None:
        """Let the fleet's time go on, in a test or in a handler; it takes none of the clock on the wall."""
        check_duration("a sleep", duration_s)
        until = self.now + duration_s
        self.go_on(lambda: False, until)

    async def sleep_aio(self, duration_s: float) -> None:
        """Let the fleet's time go on, as `sleep` does, in a test or a handler of asyncio."""
        check_duration("a sleep", duration_s)
        await self._drive().sleep(duration_s)

    def timeout_aio(self, duration_s: float | None) -> "AbstractAsyncContextManager[asyncio.Timeout]":
        """Stand for `asyncio.timeout`, by the fleet's time; that goes on while what is inside waits for the mesh."""
        if duration_s is not None:
            check_duration("a timeout", duration_s)
        return self._drive().timeout(duration_s)

    def _drive(self) -> Driver:
        """Return what makes things happen in the running event loop."""
        if self.driver is None:
            self.driver = Driver(self)
        self.driver.check()
        return self.driver

    def go_on(self, is_done: Callable[[], bool], until: float) -> None:
        """Make things happen until the predicate is true, or it is ``until``."""
        last = until if until < float("inf") else self.now + WAIT_S_MAX
        while True:
            with self.lock:
                if is_done():
                    return
                if self.world.next_at() > last or self.now >= last:
                    self.world.now = max(self.now, last)
                    break
                self.world.step()
        if last < until:
            raise RuntimeError(f"nothing that happened within {WAIT_S_MAX:g} s of the fleet's time ended this wait")

    def settle(self) -> None:
        """Have all happen that is due at once, unless a handler is running: it waits when it wants to."""
        last = self.now + INSTANT_S
        while not self._depth and self.world.next_at() <= last:
            self.world.step()

    @contextmanager
    def handling(self) -> Iterator[None]:
        """A handler runs inside."""
        self._depth += 1
        try:
            yield
        finally:
            self._depth -= 1

    # What goes wrong

    def fault(self, name: str, topic: str, *, for_s: float | None = None, optional: bool = False) -> Fault:
        """Have a fault of `FAULTS` meet the next message of a topic that is handled, for ``for_s``; return it.

        It has the outcomes that may follow for a call. It strikes when a handler has ended and before its answer
        leaves, or at once if it says so. One that has met nothing when the fleet is closed makes `close` raise, unless
        it is ``optional``.
        """
        self._check_open()
        fault = FAULTS.get(name)
        if fault is None:
            raise ValueError(f"there is no fault {name!r}, only: {', '.join(FAULTS)}")
        problem = name_problem("topic", topic)
        if problem:
            raise ValueError(problem)
        if for_s is not None:
            if fault.for_s is None:
                raise ValueError(f"{name!r} is not undone after a time: for_s={for_s!r} means nothing to it")
            check_duration(f"{name!r}", for_s)
        if fault.kind in sim.BETWEEN and len(self.nodes) < 2:
            raise ValueError(f"{name!r} meets the way between two machines: this fleet has only {self.nodes[0]}")
        fault = structs.replace(fault, for_s=fault.for_s if for_s is None else for_s)
        if fault.in_mid_call:
            self._plan.ask(fault, topic, optional=optional)
            return fault
        servers = self.servers(topic)
        if not servers:
            raise ValueError(f"nobody serves {topic!r} here, whom {name!r} could meet{self._served()}")
        for app in servers:
            self._plan.strike(fault, app, app.node)
        self.settle()
        return fault

    def draw(self, topic: str) -> Fault:
        """Have a fault that the seed chooses, of those that can happen here, meet the next message of a topic; return
        it. It need not strike."""
        self._check_open()
        if not self.servers(topic):
            raise ValueError(f"nobody serves {topic!r} here, whom a fault could meet{self._served()}")
        faults = [fault for fault in FAULTS.values() if self._can_happen(fault, topic)]
        fault = faults[self.rng.below(len(faults))]
        share = self.rng.uniform(0.1, 2.0)
        for_s = None if fault.for_s is None else fault.for_s * share
        return self.fault(fault.name, topic, for_s=for_s, optional=True)

    def _can_happen(self, fault: Fault, topic: str) -> bool:
        nodes = {app.node for app in self.apps if app.process.is_alive}
        return fault.kind not in sim.BETWEEN or len(nodes) > 1

    def _served(self) -> str:
        """Return, for the end of an error, what is served."""
        topics = {topic: None for app in self.apps if app.process.is_alive for topic in app.session.serving.services}
        return f": only {', '.join(topics)}" if topics else ": serve it first"

    def servers(self, topic: str) -> list[App]:
        """Return the apps that serve a topic now."""
        return [app for app in self.apps if app.process.is_alive and topic in app.session.serving.services]

    # The simulator's stage

    def app(self, number: int) -> App:
        """Return an app by its number."""
        return self.apps[number]

    def until(self, fault: sim.Fault, undo: Callable[[], None]) -> None:
        """Undo a fault when its time is over."""
        self.world.at(self.now + fault.for_s, undo)

    def restart(self, name: str) -> None:
        """Start an agent, unless it runs; what it had on its disk is there."""
        if name not in self.world.agents:
            self.world.start(name, NodeOptions())

    def replace(self, number: int) -> None:
        """No process takes the place of one that died: a test connects it."""

    def _stopped(self, name: str, stop: Stop) -> None:
        self.world.at(self.now + RESTART_S, lambda: self.restart(name))


def check_nodes(nodes: object) -> tuple[str, ...]:
    """Return the names of a fleet's nodes; raises TypeError or ValueError that says what is wrong with them."""
    if not isinstance(nodes, tuple | list) or not all(isinstance(name, str) for name in nodes):
        raise TypeError(
            f"the nodes of a fleet are a tuple of names, as in Fleet(nodes=('node1', 'node2')), not {nodes!r}"
        )
    if not nodes or len({*nodes}) < len(nodes):
        raise ValueError(f"a fleet has one node or more, each once, not {nodes!r}")
    for problem in filter(None, map(node_id_problem, nodes)):
        raise ValueError(problem)
    return tuple(nodes)


def check_duration(what: str, duration_s: float) -> None:
    """Raise ValueError if something cannot last so long."""
    if not 0 <= duration_s < float("inf"):
        raise ValueError(f"{what} lasts 0 s or more, not {duration_s!r}")
