"""Names in Consul: services that an ACL prefix covers, that DNS can hold, and that no two topics share by accident.

A **slug** is lower case, ``a-z 0-9 -``, without a hyphen at either end. A name that is its own slug is left as it
is; any other, and any that is not of the default fleet and namespace, ends with eight digits of a hash of the three.
The hash keeps honest names apart; the true names in an entry's Meta decide.
"""

import hashlib
import re

from mesh.types import TopicKey

__all__ = [
    "FLEET_DEFAULT",
    "PREFIX",
    "SERVICE_BYTES_MAX",
    "agent_service",
    "app_service",
    "fleet_key",
    "is_service",
    "proxy_service",
    "service_id",
    "slug",
    "topic_service",
    "topology_node",
]

FLEET_DEFAULT = "default"
PREFIX = "heartmesh-"
SERVICE_BYTES_MAX = 63
"""Bytes of one label in DNS."""

_HASH_DIGITS = 8


def slug(name: str, bytes_max: int = SERVICE_BYTES_MAX, scope: tuple[str, ...] = ()) -> str:
    """Return ``name`` as a slug of at most ``bytes_max`` bytes; a ``scope`` always adds the hash."""
    plain = re.sub(r"[^a-z0-9]+", "-", name.lower()).strip("-")
    if plain == name and len(plain) <= bytes_max and not scope:
        return plain
    digest = hashlib.blake2b("\0".join((*scope, name)).encode(errors="replace")).hexdigest()[:_HASH_DIGITS]
    head = plain[: bytes_max - _HASH_DIGITS - 1].rstrip("-")
    return f"{head}-{digest}" if head else digest


def agent_service(fleet: str) -> str:
    """Return the Consul service that the agents of a fleet are instances of."""
    return _service("agent", fleet, "")


def topic_service(fleet: str, topic: TopicKey) -> str:
    """Return the Consul service that the instances of a topic are instances of."""
    return _service(f"topic-{topic.topic}", fleet, topic.namespace)


def app_service(fleet: str, namespace: str, app: str) -> str:
    """Return the Consul service that the apps of a name, which only call, are instances of."""
    return _service(f"app-{app}", fleet, namespace)


def proxy_service(service: str) -> str:
    """Return the service of the proxy that has the edges of a topic's or app's service in Consul's topology."""
    return PREFIX + slug("proxy-" + service.removeprefix(PREFIX), SERVICE_BYTES_MAX - len(PREFIX))


def is_service(name: str) -> bool:
    """Return whether a name may be that of a topic's or app's service."""
    return bool(re.fullmatch(rf"{PREFIX}(app|topic)-[a-z0-9-]+", name)) and len(name) <= SERVICE_BYTES_MAX


def topology_node(fleet: str) -> str:
    """Return the node of Consul's catalogue, no machine, that has a fleet's proxies."""
    return _service("topology", fleet, "")


def fleet_key(fleet: str) -> str:
    """Return what the keys of a fleet in Consul's KV begin with."""
    return f"heartmesh/{slug(fleet)}/"


def service_id(service: str, node: str, slot: int | None = None) -> str:
    """Return the id of a node's entry in a service: the same for ever, so that a restart is an update."""
    return f"{service}:{slug(node)}" + ("" if slot is None else f":{slot}")


def _service(name: str, fleet: str, namespace: str) -> str:
    scope = () if (fleet, namespace) == (FLEET_DEFAULT, "") else (fleet, namespace)
    return PREFIX + slug(name, SERVICE_BYTES_MAX - len(PREFIX), scope)
