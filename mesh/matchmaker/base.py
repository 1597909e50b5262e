"""The four verbs of a matchmaker.

A matchmaker only finds; links judge who is alive. A verb does its work once and returns, or raises
`MatchmakerError`: trying again, and for how long, is the caller's. Verbs may block (Consul's ``watch`` is a long
poll) and may be called from several threads or greenlets at once.
"""

from collections.abc import Sequence
from typing import Protocol

from mesh.core.catalogue import AgentEntry, Health, Instance, Snapshot
from mesh.errors import MeshError
from mesh.types import TopicKey

__all__ = ["Entry", "Matchmaker", "MatchmakerError"]

Entry = AgentEntry | Instance


class MatchmakerError(MeshError):
    """The matchmaker could not be reached, or answered what cannot be used: the text says which, where, what to do."""


class Matchmaker(Protocol):
    """Where agents and instances of one fleet are registered and looked up."""

    def register(self, entry: Entry) -> None:
        """Store an entry, or update it in place: the same agent or instance is one entry for ever. Passing at first."""

    def renew(self, entry: Entry, health: Health, text: str) -> bool:
        """Refresh the entry's TTL with its health and the reason for it. False: it is unknown there, register again."""

    def withdraw(self, entry: Entry) -> None:
        """Remove an entry; one that is not there is no error."""

    def watch(self, topic: TopicKey, index: int, wait_s: float) -> Snapshot:
        """Return who serves the topic: at once if that differs from ``index`` (0: always), else on change or after
        ``wait_s``. An instance is in it when both its own entry and its agent's are within their TTL."""

    def agents(self) -> Sequence[AgentEntry]:
        """Return the agents of the fleet that are within their TTL."""

    def close(self) -> None:
        """Let go of connections; a ``watch`` that waits ends soon, with MatchmakerError."""
