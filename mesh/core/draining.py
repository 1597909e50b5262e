"""An agent drains: it takes nothing new, finishes what runs, gives back what did not start, and then stops or stays so.

Apps stay connected while it drains: what they hold is answered through it, and what they ask they keep for the agent
that comes next, or for this one when it `resume`s. An agent that stops gives back to them what it has not sent.
"""

from mesh.core import notes
from mesh.core.calling import Calling
from mesh.core.context import Context
from mesh.core.durable import is_durable
from mesh.core.effects import CloseApp, Level, Stop
from mesh.core.outbox import Entry, Place
from mesh.core.records import GiveBack, Goodbye, Status
from mesh.core.report import unfinished
from mesh.core.services import Services
from mesh.core.session import App

__all__ = ["Draining"]

FAREWELL_S = 1.0
"""How long links have to answer the last goodbye."""


class Draining:
    """How a node ends."""

    def __init__(self, context: Context, calling: Calling, services: Services) -> None:
        self.context = context
        self.state = context.state
        self.options = context.options
        self.calling = calling
        self.services = services

    def begin(self, now: float, *, stop: bool) -> None:
        """Drain; ``stop``: and end when that is done, or ``drain_s`` is over."""
        state = self.state
        if not state.draining:
            self.context.note(notes.DRAINING, Level.INFO, drain_s=self.options.link.drain_s, stop=int(stop))
            state.draining = True
            self.services.drain(now)
            for app in state.apps.values():
                self.context.tell(app, Goodbye("draining"))
        if stop and not state.stopping:
            state.stopping = state.peers.draining = True
            state.drain_until = now + self.options.link.drain_s

    def resume(self, by: App) -> str:
        """Take work again; return why that cannot be, or nothing. Apps but the one that asks are told by a new
        connection, on which they serve anew."""
        state = self.state
        if state.stopping:
            return "this agent is stopping: start it again"
        if state.draining:
            self.context.note(notes.DRAIN_ENDED, Level.INFO)
            state.draining = False
            for app in state.apps.values():
                if app.conn is not None and app is not by:
                    self.context.effects.append(CloseApp(app.conn, "this agent takes work again"))
        return ""

    def _give_back(self, entry: Entry, now: float) -> None:
        """What has not left is its app's again. What may have run the app repeats to the next agent by itself; what is
        on disk waits there."""
        app = self.state.apps.get(entry.request.session)
        if app is None or app.conn is None or entry.doubtful or is_durable(entry.request):
            return
        self.calling.sending.unplace(entry, now)
        self.state.outbox.end(entry.key)
        app.ended(entry.charged)
        request = entry.request
        id = (self.context.node, request.session, request.seq)
        self.context.tell(app, GiveBack(*id, request.dispatch, int(Status.UNROUTABLE), "this agent ends"))

    def tick(self, now: float) -> None:
        """Stop once nothing is left to do, or time is up."""
        state = self.state
        if not state.stopping:
            return
        for entry in [entry for entry in state.outbox.entries.values() if entry.place in (Place.WAITING, Place.QUEUED)]:
            self._give_back(entry, now)
        left = unfinished(state)
        if (left or state.departing) and now < state.drain_until:
            return
        for link in state.peers.links.values():
            state.peers.leave(link, "draining", now, final=True)
        if state.peers.links and now < state.drain_until + FAREWELL_S:
            state.drain_until = min(state.drain_until, now)
            return
        self.context.note(notes.DRAINED, Level.INFO, left=left)
        for app in state.apps.values():
            if app.conn is not None:
                self.context.effects.append(CloseApp(app.conn, "drained"))
        self.context.effects.append(Stop(0, "drained"))
