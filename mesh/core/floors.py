"""Settled floors: how everybody who remembers requests of a session learns that it may forget them.

A session's floor, below which all its seqs are settled, rides on its next request. A session that asks for nothing more
is asked: by its own agent, which keeps its outcomes, by the agents that keep ids of it, by the apps that keep answers
for it. Each asks the next on the way to the session, over links that are there: none is opened for it, and what is not
heard in time is forgotten when it expires.
"""

from mesh.core.context import SEQS_MAX, Context
from mesh.core.ranges import expand
from mesh.core.records import Floor, FloorAsk
from mesh.core.session import App

__all__ = ["Floors"]

WANTED_MAX = 10_000
"""Sessions of which apps of this node may want the floor at once; the next may ask again later."""


class Floors:
    """Both halves of a node, where they forget."""

    def __init__(self, context: Context) -> None:
        self.context = context
        self.state = context.state
        self.options = context.options

    def sweep(self, now: float) -> None:
        """Ask whose floor was not heard for a while, where anything is kept that it may free."""
        self.state.floors_wanted.clear()
        for app in self.state.apps.values():
            if app.outcomes:
                self.context.tell(app, FloorAsk(self.context.node, app.session))
        for (node, session), caller in self.state.inbox.callers.items():
            if caller.handed and now - caller.heard_at >= self.options.outbox.floor_pull_s:
                self.context.answer(node, FloorAsk(node, session))

    def wanted(self, app: App, ask: FloorAsk, now: float) -> None:
        """An app that serves wants the floor of a session that called it."""
        key = (ask.node, ask.session)
        if key not in self.state.floors_wanted and len(self.state.floors_wanted) < WANTED_MAX:
            self.state.floors_wanted[key] = {}
            self.context.answer(ask.node, FloorAsk(ask.node, ask.session))
        if key in self.state.floors_wanted:
            self.state.floors_wanted[key][app.session] = None

    def ask(self, node: str, ask: FloorAsk) -> None:
        """A node wants the floor of a session of ours: only the app itself knows it."""
        app = self.state.apps.get(ask.session)
        if app is not None and ask.node == self.context.node:
            self.context.tell(app, FloorAsk(node, app.session))

    def told(self, app: App, floor: Floor, now: float) -> None:
        """An app says how far it has settled, because ``floor.node`` asked."""
        app.raise_floor(floor.floor)
        for seq in expand(floor.settled, SEQS_MAX):
            app.forget(seq)
        app.is_floor_asked = False
        answer = Floor(self.context.node, app.session, floor.floor, floor.settled)
        if floor.node == self.context.node:
            self.heard(self.context.node, answer)
        else:
            self.context.answer(floor.node, answer)

    def heard(self, node: str, floor: Floor) -> None:
        """A node says how far a session of its own has settled."""
        inbox = self.state.inbox
        caller = inbox.callers.get((node, floor.session))
        if caller is not None:
            inbox.raise_floor(caller, floor.floor)
            for seq in expand(floor.settled, SEQS_MAX):
                inbox.settle(caller, seq)
        for session in self.state.floors_wanted.pop((node, floor.session), ()):
            app = self.state.apps.get(session)
            if app is not None:
                self.context.tell(app, Floor(node, floor.session, floor.floor, floor.settled))
