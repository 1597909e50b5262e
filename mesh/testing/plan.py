"""The faults that a test asked for, until each has met its message; and what is said of one that met none."""

from typing import TYPE_CHECKING

from msgspec import Struct

from mesh.client.api import CLOSE_TIMEOUT_S as LEAVING_S
from mesh.core.records import Request
from mesh.sim import faults as sim
from mesh.testing.app import App
from mesh.testing.faults import Fault

if TYPE_CHECKING:
    from mesh.testing.fleet import Fleet

__all__ = ["FaultError", "Plan"]


class FaultError(BaseException):
    """A fault that a test asked for cannot happen in its fleet.

    No Exception, as Ctrl-C is none: it comes up in the middle of the app under test, whatever that catches.
    """


class Asked(Struct, eq=False):
    """A fault that is to come. ``missed``: why it could not meet the last message of its topic."""

    fault: Fault
    topic: str
    optional: bool
    missed: str = ""


class Plan:
    """What is to go wrong in one fleet."""

    def __init__(self, fleet: "Fleet") -> None:
        self._fleet = fleet
        self._asked: list[Asked] = []

    def ask(self, fault: Fault, topic: str, *, optional: bool) -> None:
        """Have a fault meet the next message of a topic that it can meet."""
        self._asked.append(Asked(fault, topic, optional))

    def meet(self, server: App, request: Request) -> None:
        """A handler has ended a message, and its answer is about to leave: the first fault that can meet it does.

        Raises FaultError if one cannot, and could not meet any other that the same caller sends.
        """
        callers = (app for app in self._fleet.apps if (app.node, app.session.id) == (request.node, request.session))
        caller = next(callers, server)
        for asked in [asked for asked in self._asked if asked.topic == request.topic]:
            one, other = (caller, server) if asked.fault.whom == "caller" else (server, caller)
            if self.strike(asked.fault, one, other.node):
                self._asked.remove(asked)
                return
            self._missed(asked, caller, server)

    def _missed(self, asked: Asked, caller: App, server: App) -> None:
        if not (asked.fault.kind in sim.BETWEEN and caller.node == server.node):
            asked.missed = "what it was to meet was down already when the handler ended"
            return
        asked.missed = (
            f"it meets the way between two machines, and {caller.session.app!r}, which sent to {asked.topic!r}, is on "
            f"{caller.node} as {server.session.app!r} is, which handled it: connect one elsewhere, with node=..."
        )
        elsewhere = any(app.node != caller.node for app in self._fleet.servers(asked.topic))
        if not (elsewhere or asked.optional):
            self._asked.remove(asked)
            raise FaultError(f"the fault {asked.fault.name!r} cannot happen here: {asked.missed}")

    def strike(self, fault: Fault, app: App, other: str) -> bool:
        """Have a fault meet an app, its agent, or the way from there to the other node; return whether it could."""
        fleet = self._fleet
        number, for_s = fleet.apps.index(app), LEAVING_S if fault.for_s is None else fault.for_s
        if sim.strike(fleet, sim.Fault(fault.kind, fleet.now, for_s, app.node, other, number, 0.5)):
            fault.struck = True
            return True
        return False

    def unmet(self) -> str:
        """Return what is wrong with a test that ends now, of the first fault that met nothing though it should have."""
        asked = next((asked for asked in self._asked if not asked.optional), None)
        if asked is None:
            return ""
        why, sent = asked.missed, list(dict.fromkeys(sent.topic for sent in self._fleet.sent))
        if not why and asked.topic in sent:
            why = f"no handler of {asked.topic!r} has ended a message since it was asked for"
        elif not why:
            why = f"nothing was sent to {asked.topic!r}" + (f", only to {', '.join(sent)}" if sent else "")
        return (
            f"the fault {asked.fault.name!r} met nothing: {why} "
            f"(if it need not strike: fleet.fault({asked.fault.name!r}, {asked.topic!r}, optional=True))"
        )
