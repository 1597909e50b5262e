"""Makes a failing plan small: fewer faults, messages, apps and nodes, as long as the same thing is found.

Delta debugging (Zeller, Hildebrandt, "Simplifying and isolating failure-inducing input", IEEE TSE 2002): ever smaller
parts are left out, and what is found without them stays out. Two findings are the same when their words are, without
names and numbers.
"""

import re
from collections.abc import Callable
from itertools import chain

from msgspec import structs

from mesh.sim.plan import Plan
from mesh.sim.run import Result, play

__all__ = ["parts", "shrink", "signature"]

PLAYS_MAX = 400
"""How often a plan is played at most to make it small."""


def signature(result: Result) -> str:
    """Return what was found first, in words without names and numbers; empty when nothing was."""
    if not result.findings:
        return ""
    words = result.findings[0].split(" ", 1)[1].splitlines()[-1]
    return re.sub(r"[^ ]*[0-9/'\[{(][^ ]*", "…", words)


class _Shrinker:
    """The smallest plan so far that still shows what was found."""

    def __init__(self, plan: Plan, wanted: str, played: Callable[[Plan], Result]) -> None:
        self.plan = plan
        self.wanted = wanted
        self.played = played
        self.plays_left = PLAYS_MAX

    def adopt(self, plan: Plan) -> bool:
        """Go on with this plan if the same is found in it."""
        if self.plays_left <= 0 or plan == self.plan:
            return False
        self.plays_left -= 1
        if signature(self.played(plan)) != self.wanted:
            return False
        self.plan = plan
        return True

    def thin(self, name: str) -> None:
        """Leave out of one of the plan's lists what can be left out, in ever smaller parts."""
        size = (len(getattr(self.plan, name)) + 1) // 2
        while size:
            start = 0
            while start < len(items := getattr(self.plan, name)):
                if not self.adopt(structs.replace(self.plan, **{name: items[:start] + items[start + size :]})):
                    start += size
            size //= 2

    def drop_apps(self) -> None:
        """Leave out apps that nothing needs; those after them move up."""
        for number in reversed(range(len(self.plan.apps))):
            if len(self.plan.apps) > 1:
                self.adopt(_without_app(self.plan, number))

    def drop_nodes(self) -> None:
        """Leave out nodes where no app is."""
        used = [app.node for app in self.plan.apps]
        for node in self.plan.nodes:
            if node not in used and len(self.plan.nodes) > 1:
                nodes = tuple(other for other in self.plan.nodes if other != node)
                faults = tuple(fault for fault in self.plan.faults if node not in (fault.one, fault.other))
                self.adopt(structs.replace(self.plan, nodes=nodes, faults=faults))


def _without_app(plan: Plan, number: int) -> Plan:
    """Return a plan without one app and what it sends."""

    def moved(app: int) -> int:
        return app - (app > number)

    steps = tuple(
        structs.replace(step, app=moved(step.app), server_of=moved(step.server_of))
        for step in plan.steps
        if number not in (step.app, step.server_of)
    )
    faults = tuple(structs.replace(fault, app=moved(fault.app)) for fault in plan.faults)
    return structs.replace(plan, apps=plan.apps[:number] + plan.apps[number + 1 :], steps=steps, faults=faults)


def shrink(plan: Plan, played: Callable[[Plan], Result] = play) -> Plan:
    """Return a smaller plan in which the same is found; the plan itself if nothing is, or nothing can be left out."""
    result = played(plan)
    if not result.findings:
        return plan
    shrinker = _Shrinker(plan, signature(result), played)
    found_at = float(result.findings[0].split(" ", 1)[0])
    shrinker.adopt(structs.replace(plan, steps=tuple(step for step in plan.steps if step.at <= found_at)))
    before = None
    while before != shrinker.plan:
        before = shrinker.plan
        for name in ("faults", "steps"):
            shrinker.thin(name)
        shrinker.drop_apps()
        shrinker.drop_nodes()
    shrinker.adopt(structs.replace(shrinker.plan, clocks={}))
    return shrinker.plan


def parts(plan: Plan) -> str:
    """Return how large a plan is, in words."""
    services = list(chain.from_iterable(app.services for app in plan.apps))
    return (
        f"{len(plan.nodes)} nodes, {len(plan.apps)} apps with {len(services)} services, {len(plan.steps)} messages, "
        f"{len(plan.faults)} faults"
    )
