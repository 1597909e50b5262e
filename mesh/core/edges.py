"""Who calls whom, as this agent sees it: measured from what its apps ask for, never declared.

An edge leads from a caller to a topic. An app that serves is its topics, so that chains of services show; an app that
only calls is its name. An edge is there from the first call until the app ends or has not called the topic for
``watch_idle_s``, and while somebody serves the topic, or did lately.
"""

from msgspec import Struct

from mesh.core.context import State
from mesh.core.directory import DirectoryOptions
from mesh.core.health import HealthOptions, Verdict, silence
from mesh.types import TopicKey

__all__ = ["EDGES_MAX", "Caller", "Edge", "callers", "edges", "forget_edges"]

EDGES_MAX = 1_000
"""Edges that one agent tells of; beyond it the first in order."""


class Caller(Struct, frozen=True, order=True):
    """One end of an edge: an app that only calls, by its name, or a topic."""

    namespace: str
    name: str
    is_app: bool = False


class Edge(Struct, frozen=True, order=True):
    """``caller`` calls ``topic``, in one namespace."""

    caller: Caller
    topic: str


def edges(state: State) -> list[Edge]:
    """Return who calls whom here, sorted."""
    found: dict[Edge, None] = {}
    for app in state.apps.values():
        serving = [service.topic for service in app.services.values()]
        names = [Caller(app.namespace, topic) for topic in serving] or [Caller(app.namespace, app.name, True)]
        for topic in app.calls:
            view = state.directory.views.get(TopicKey(app.namespace, topic))
            if view is not None and (view.listed or view.local or view.absent):
                found |= dict.fromkeys(Edge(name, topic) for name in names)
    return sorted(found)[:EDGES_MAX]


def callers(state: State, options: HealthOptions, now: float) -> dict[Caller, Verdict]:
    """Return the apps that only call, by name, with the worst that is to be said of those of one name."""
    found: dict[Caller, Verdict] = {}
    for app in state.apps.values():
        if app.services or not app.calls or app.leaving:
            continue
        verdict = silence(app.heard_at, options, now)
        caller = Caller(app.namespace, app.name, True)
        found[caller] = max(verdict, found.get(caller, verdict))
    return found


def forget_edges(state: State, options: DirectoryOptions, now: float) -> None:
    """Forget calls that are long past."""
    for app in state.apps.values():
        for topic in [topic for topic, at in app.calls.items() if now - at >= options.watch_idle_s]:
            del app.calls[topic]
