"""What the checks of an agent and of its apps' services say, and why: in words for whoever sees one turn red.

A service is **critical** when nobody would answer: its app is silent though it is pinged, or as many handlers as it
has workers still run long after their callers' time was over. How long a handler may take only its caller knows, so
no other limit is needed. It **warns** when work waits and none ends, or the queue is full.

An agent is critical when it can serve nobody. What concerns others, lost links among it, only warns: a peer that is
gone must not take those that miss it out of the catalogue.
"""

from typing import Annotated, NamedTuple

from msgspec import Meta, Struct

from mesh.core.catalogue import Health
from mesh.core.inbox import InboxOptions, Service

__all__ = ["HealthOptions", "Verdict", "Vitals", "agent_health", "beat_s", "service_health", "silence"]

PEERS_NAMED_MAX = 5
"""Lost peers that are named; the others are counted."""

DESCRIPTORS_WARN, DESCRIPTORS_FAIL = 0.9, 0.98
CLOCK_BEHIND_S = 60.0
QUEUE_WARN = 0.9


class HealthOptions(Struct, frozen=True):
    """When the check of a topic's instance turns."""

    app_silent_s: Annotated[
        float,
        Meta(
            ge=1,
            le=600,
            description="An app that is silent for so long, though it is pinged each third of it, is critical: its "
            "process was stopped, or its loop is blocked. Work that waits for so long and none of which ends makes it "
            "warn. Shorter finds it sooner and takes a busy machine for a stopped app.",
        ),
    ] = 10.0
    hung_after_s: Annotated[
        float,
        Meta(
            ge=0,
            le=3600,
            description="Handlers that still run so long after their callers' time was over hang; when all workers of "
            "a service do, it is critical, and nothing new is sent to it. Longer forgives callers that have less "
            "patience than the handlers need.",
        ),
    ] = 5.0


class Verdict(NamedTuple):
    """What a check says."""

    health: Health
    text: str = ""


class Vitals(Struct, frozen=True):
    """How an agent is doing: counts, seconds, and the peers to which it lost the link that it wants.

    ``clock_behind_s``: by how much this machine's clock is before the last start of its agent."""

    draining: bool = False
    unfinished: int = 0
    lag_s: float = 0.0
    lag_warn_s: float = 1.0
    lag_fail_s: float = 5.0
    descriptors: int = 0
    descriptors_max: int = 1
    waiting: int = 0
    waiting_max: int = 1
    remembered: int = 0
    remembered_max: int = 1
    links: int = 0
    lost: tuple[str, ...] = ()
    clock_behind_s: float = 0.0


def beat_s(options: HealthOptions) -> float:
    """Return after how much silence an app is pinged."""
    return options.app_silent_s / 3


def silence(heard_at: float, options: HealthOptions, now: float) -> Verdict:
    """Return what an app's silence makes of it."""
    silent_s = now - heard_at
    if silent_s < options.app_silent_s:
        return Verdict(Health.PASSING, "")
    return Verdict(Health.CRITICAL, f"its app is silent for {silent_s:.0f} s: stopped, or its loop is blocked")


def service_health(
    service: Service, heard_at: float, options: HealthOptions, inbox: InboxOptions, now: float
) -> Verdict:
    """Return what the check of an instance says; ``heard_at``: when its app was heard last."""
    heard = silence(heard_at, options, now)
    if heard.health is not Health.PASSING:
        return heard
    hung = sum(now - over_at >= options.hung_after_s for over_at in service.overrun.values())
    if hung >= service.workers:
        text = f"all {service.workers} workers hang: their handlers still run though their callers' time is over"
        return Verdict(Health.CRITICAL, text)
    limit = service.full(inbox, 1)
    if limit:
        return Verdict(Health.WARNING, f"its queue is full: {limit} is reached, {service.queued} wait")
    stalled_s = now - service.paced_at
    if service.queued and stalled_s >= options.app_silent_s:
        return Verdict(Health.WARNING, f"{service.queued} wait, and none has ended for {stalled_s:.0f} s")
    return Verdict(Health.PASSING, "")


def agent_health(vitals: Vitals) -> Verdict:
    """Return what the check of an agent says: the worst that is wrong, and all that is."""
    if vitals.draining:
        return Verdict(Health.MAINTENANCE, f"draining: {vitals.unfinished} unfinished")
    found: list[Verdict] = []
    if vitals.lag_s >= vitals.lag_warn_s:
        health = Health.CRITICAL if vitals.lag_s >= vitals.lag_fail_s else Health.WARNING
        found.append(Verdict(health, f"its loop lags {vitals.lag_s:.1f} s: too much load for this machine"))
    used = vitals.descriptors / vitals.descriptors_max
    if used >= DESCRIPTORS_WARN:
        health = Health.CRITICAL if used >= DESCRIPTORS_FAIL else Health.WARNING
        text = f"{vitals.descriptors} of {vitals.descriptors_max} open files are in use: raise LimitNOFILE"
        found.append(Verdict(health, text))
    for name, count, most in (
        ("waiting_records_max", vitals.waiting, vitals.waiting_max),
        ("ids_max", vitals.remembered, vitals.remembered_max),
    ):
        if count >= QUEUE_WARN * most:
            found.append(Verdict(Health.WARNING, f"{count} of {name} = {most} are taken"))
    if vitals.lost:
        named = ", ".join(vitals.lost[:PEERS_NAMED_MAX])
        more = f" and {len(vitals.lost) - PEERS_NAMED_MAX} more" if len(vitals.lost) > PEERS_NAMED_MAX else ""
        found.append(Verdict(Health.WARNING, f"no link to {named}{more}"))
    if vitals.clock_behind_s >= CLOCK_BEHIND_S:
        text = f"this machine's clock is {vitals.clock_behind_s:.0f} s before the agent's own start: set it right"
        found.append(Verdict(Health.WARNING, text))
    if not found:
        return Verdict(Health.PASSING, f"{vitals.links} links")
    return Verdict(max(verdict.health for verdict in found), "; ".join(verdict.text for verdict in found))
