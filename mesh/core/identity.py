"""Who this node is, and who is at the other end of a link.

That a certificate says. The shell checks what needs libraries and a calendar: the signature, the fleet, the validity,
the revocations. It hands the node what came of that, a `Proof`, before the connection's first message. What needs only
comparing is decided here: whether the certificate is of the node that the connection is with, and of the key that its
handshake used.
"""

from math import inf

from msgspec import Struct

from mesh.core.catalogue import AgentEntry
from mesh.types import Endpoint

__all__ = ["Identity", "Proof", "judge"]


class Identity(Struct, frozen=True):
    """Who this node is. With a public key in its ``endpoint`` all its links are secured. ``successor``: an agent of
    this node ran before, and its apps may be about to come back."""

    node: str
    fleet: str
    incarnation: int
    endpoint: Endpoint
    certificate: bytes = b""
    successor: bool = False

    @property
    def entry(self) -> AgentEntry:
        """What the matchmaker is to tell of it."""
        host, port, public_key = self.endpoint
        return AgentEntry(self.node, host, port, self.incarnation, public_key)


class Proof(Struct, frozen=True):
    """What the shell found of a connection's other end.

    ``key``: the public key of its handshake, Z85. ``node`` and ``certified``: whom its certificate is for, and the key
    in it; ``until``: when that expires, by the node's clock. ``problem``: why the certificate counts for nothing.
    """

    key: str
    node: str = ""
    certified: str = ""
    until: float = inf
    problem: str = ""


def judge(proof: Proof | None, node: str) -> str:
    """Return why whoever showed this is not ``node``, or an empty string if it is."""
    if proof is None:
        return f"{node!r} has shown nothing"
    if proof.problem:
        return f"{node!r} showed {proof.problem}"
    if proof.node != node:
        return f"{node!r} showed a certificate of {proof.node!r}"
    if proof.certified != proof.key:
        return f"{node!r} showed a certificate for another key than the one it connected with"
    return ""
