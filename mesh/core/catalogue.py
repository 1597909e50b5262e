"""What a matchmaker stores and tells: the entries of agents and instances, and snapshots of them."""

import enum

from msgspec import Struct

from mesh.types import Endpoint, InstanceKey, TopicKey

__all__ = ["AgentEntry", "Health", "Instance", "Snapshot"]


class Health(enum.IntEnum):
    """What an entry's check says, in the words Consul uses. ``MAINTENANCE``: it drains and takes nothing new."""

    PASSING = 0
    WARNING = 1
    CRITICAL = 2
    MAINTENANCE = 3


class AgentEntry(Struct, frozen=True):
    """One agent of a fleet. ``public_key`` is a hint for the dial, Z85 text, empty without CURVE."""

    node: str
    host: str
    port: int
    incarnation: int
    public_key: str = ""
    zone: str = ""
    roles: tuple[str, ...] = ()

    @property
    def endpoint(self) -> Endpoint:
        return Endpoint(self.host, self.port, self.public_key)


class Instance(Struct, frozen=True):
    """One app that serves one topic: where it is, and the agent that reaches it."""

    namespace: str
    topic: str
    server: str
    session: int
    agent: AgentEntry
    health: Health = Health.PASSING

    @property
    def topic_key(self) -> TopicKey:
        return TopicKey(self.namespace, self.topic)

    @property
    def key(self) -> InstanceKey:
        return InstanceKey(self.agent.node, self.server, self.session)


class Snapshot(Struct, frozen=True):
    """Who serves a topic, as the matchmaker saw it at ``index``; entries whose TTL ran out are not in it.

    ``index`` is the matchmaker's own, opaque but for equality: it is given back to `watch` to wait for a change.
    ``instances`` are sorted by key.
    """

    topic: TopicKey
    index: int
    instances: tuple[Instance, ...]
