"""The topology that Consul's UI draws, computed: from who calls whom to what has to be written, and nothing else.

The UI draws an edge where a proxy of the caller says that it has the called service upstream, and shows the tab only
for services that have a proxy. So every service at an end of an edge gets one proxy in the catalogue, for which
nothing listens; one each, because Consul loses edges that several instances of a proxy declare. An exact intention
allows each edge, so that the UI marks none as open to all.

An intention is ours by its description. Any other is the operator's: it stays, and where it speaks of an edge, ours is
not written; an edge it denies is drawn red.
"""

from collections.abc import Iterable, Mapping, Sequence
from typing import Annotated, Any, NamedTuple

import msgspec
from msgspec import Meta

from mesh.core.edges import EDGES_MAX, Edge
from mesh.matchmaker.names import app_service, is_service, proxy_service, topic_service
from mesh.types import TopicKey

__all__ = [
    "IntentionChange",
    "Pair",
    "Told",
    "decode",
    "encode",
    "intention_changes",
    "pair",
    "proxies",
    "proxy",
    "upstreams",
]

Pair = tuple[str, str]
"""The service that calls, and the one that is called."""

Entry = dict[str, Any]
"""A config entry or a service as Consul's JSON has it: what is not known here must stay in it."""

ADDRESS = "192.0.2.1"
"""Of documentation, routed nowhere: no proxy can be reached by mistake."""

_decoder = msgspec.json.Decoder(Annotated[list[Pair], Meta(max_length=EDGES_MAX)])


class IntentionChange(NamedTuple):
    """What to write of one called service: the whole entry, None to delete it; ``read_at``: the index it had, or 0."""

    service: str
    entry: Entry | None
    read_at: int


class Told(NamedTuple):
    """What all agents told: their edges, how many of them could not be read, and where in Consul's history that is."""

    pairs: list[Pair]
    unread: int
    position: int


def pair(fleet: str, edge: Edge) -> Pair:
    """Return an edge by the names of its services."""
    name = edge.caller
    called = topic_service(fleet, TopicKey(name.namespace, edge.topic))
    if name.is_app:
        return app_service(fleet, name.namespace, name.name), called
    return topic_service(fleet, TopicKey(name.namespace, name.name)), called


def encode(pairs: Iterable[Pair]) -> bytes:
    """Return what one agent writes of its edges."""
    return msgspec.json.encode(sorted(set(pairs)))


def decode(data: bytes) -> list[Pair]:
    """Return what an agent wrote; raises ValueError if it is not that."""
    found: list[Pair] = _decoder.decode(data)
    for name in (name for one in found for name in one):
        if not is_service(name):
            raise ValueError(f"{name[:64]!r} is no service of a topic or an app")
    return found


def proxies(pairs: Iterable[Pair]) -> dict[str, tuple[str, ...]]:
    """Return the services that need a proxy, sorted, each with those it calls."""
    called: dict[str, set[str]] = {}
    for caller, callee in pairs:
        called.setdefault(caller, set()).add(callee)
        called.setdefault(callee, set())
    return {service: tuple(sorted(called[service])) for service in sorted(called)}


def proxy(service: str, calls: Sequence[str]) -> Entry:
    """Return the proxy that says what a service calls, as Consul's catalogue takes it."""
    name = proxy_service(service)
    return {
        "Kind": "connect-proxy",
        "ID": name,
        "Service": name,
        "Address": ADDRESS,
        "Port": 1,
        "Meta": {"heartmesh": "topology"},
        "Proxy": {
            "DestinationServiceName": service,
            "Upstreams": [{"DestinationName": to, "LocalBindSocketPath": f"/heartmesh/{to}"} for to in calls],
        },
    }


def upstreams(found: Sequence[Entry]) -> dict[str, tuple[str, tuple[str, ...]]]:
    """Return, by id, which service each proxy of the catalogue stands for and what that calls."""
    read = {}
    for service in found:
        stands = service.get("Proxy") or {}
        calls = sorted(upstream["DestinationName"] for upstream in stands.get("Upstreams") or ())
        read[service["ID"]] = (stands.get("DestinationServiceName", ""), tuple(calls))
    return read


def intention_changes(found: Sequence[Entry], pairs: Iterable[Pair], fleet: str) -> list[IntentionChange]:
    """Return what to write so that each edge is allowed by name, and nothing of ours is left over."""
    mark = f"heartmesh: seen in fleet {fleet}"
    entries: Mapping[str, Entry] = {entry["Name"]: entry for entry in found}
    callers: dict[str, set[str]] = {}
    for caller, callee in pairs:
        callers.setdefault(callee, set()).add(caller)
    changes = []
    for service in sorted({*entries, *callers}):
        entry = entries.get(service, {})
        sources = entry.get("Sources") or []
        ours = [source for source in sources if source.get("Description") == mark and source.get("Action") == "allow"]
        others = [source for source in sources if source not in ours]
        wanted = callers.get(service, set()) - {source["Name"] for source in others}
        if wanted == {source["Name"] for source in ours}:
            continue
        written = [{"Name": name, "Action": "allow", "Description": mark} for name in sorted(wanted)]
        whole = {key: value for key, value in entry.items() if key not in ("CreateIndex", "ModifyIndex")}
        whole |= {"Kind": "service-intentions", "Name": service, "Sources": [*others, *written]}
        whole.setdefault("Meta", {"heartmesh": fleet})
        is_left = bool(others or written)
        changes.append(IntentionChange(service, whole if is_left else None, entry.get("ModifyIndex", 0)))
    return changes
