"""The four verbs of a matchmaker.

A matchmaker only finds; links judge who is alive. A verb does its work once and returns, or raises
`MatchmakerError`: trying again, and for how long, is the caller's. Verbs may block (Consul's ``watch`` is a long
poll) and may be called from several threads or greenlets at once.
"""

import hashlib
from collections.abc import Iterable, Sequence
from typing import Protocol

import msgspec

from mesh.core.catalogue import AgentEntry, Health, Instance, Snapshot
from mesh.errors import MeshError
from mesh.types import InstanceKey, TopicKey

__all__ = ["Entry", "Matchmaker", "MatchmakerError", "snapshot"]

Entry = AgentEntry | Instance


class MatchmakerError(MeshError):
    """The matchmaker could not be reached, or answered what cannot be used: the text says which, where, what to do."""


class Matchmaker(Protocol):
    """Where agents and instances of one fleet are registered and looked up."""

    def register(self, entry: Entry) -> None:
        """Store an entry, or update it in place: the same agent or instance is one entry for ever.

        It is PASSING then, an updated one too: renew it at once if it is not."""

    def renew(self, entry: Entry, health: Health, text: str) -> bool:
        """Refresh the entry's TTL with its health and the reason for it. False: it is unknown there, or another has
        been registered in its place where that shows; register again."""

    def withdraw(self, entry: Entry) -> None:
        """Remove an entry, an agent's with all instances of its node; one that is not there is no error."""

    def watch(self, topic: TopicKey, index: int, wait_s: float) -> Snapshot:
        """Return who serves the topic: at once if that differs from ``index`` (0: always), else on change or after
        ``wait_s``. An instance is in it when both its own entry and its agent's are within their TTL and not CRITICAL;
        its ``agent`` is as it was registered with the instance."""

    def agents(self, node: str = "") -> Sequence[AgentEntry]:
        """Return the agents of the fleet that are within their TTL and not CRITICAL, sorted by node and incarnation:
        all, or those with one node id. Two with one node id are told where both can be registered."""

    def close(self) -> None:
        """Let go of connections; a ``watch`` that waits ends soon, with MatchmakerError, as later verbs do."""


def snapshot(topic: TopicKey, instances: Iterable[Instance]) -> Snapshot:
    """Sort what was found; the index is drawn from it, so equal ones mean that nothing changed, wherever it was read.

    Of two entries for one instance, left by an agent before and after its restart, the later incarnation counts."""
    latest: dict[InstanceKey, Instance] = {}
    for instance in sorted(instances, key=lambda found: found.agent.incarnation):
        latest[instance.key] = instance
    found = tuple(latest[key] for key in sorted(latest))
    digest = hashlib.blake2b(msgspec.msgpack.encode(found), digest_size=8).digest()
    return Snapshot(topic, int.from_bytes(digest) >> 1 or 1, found)
