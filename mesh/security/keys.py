"""Key pairs and what is passed around of them: CURVE's for each node, Ed25519's for the fleet.

========================  =======================================================  ======================
form                      holds                                                    may be seen by
========================  =======================================================  ======================
`FleetSecret`             what signs                                               the operator
`FleetKey`                what verifies; several while the fleet's key changes     everybody
`NodeSecret`              a node's CURVE key pair                                  that node's agent
`Request`                 a node's public key, to be signed for                    everybody
========================  =======================================================  ======================
"""

from typing import Annotated

import zmq
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from msgspec import Meta, Struct

__all__ = ["FleetKey", "FleetSecret", "NodeSecret", "Request", "fingerprint", "new_fleet", "new_node"]

Z85Key = Annotated[str, Meta(min_length=40, max_length=40)]
RawKey = Annotated[bytes, Meta(min_length=32, max_length=32)]


class FleetSecret(Struct, frozen=True, array_like=True):
    """A fleet's signing key."""

    fleet: str
    seed: RawKey

    @property
    def signer(self) -> Ed25519PrivateKey:
        return Ed25519PrivateKey.from_private_bytes(self.seed)

    @property
    def public(self) -> "FleetKey":
        """What its signatures are verified by."""
        return FleetKey(self.fleet, self.signer.public_key().public_bytes_raw())


class FleetKey(Struct, frozen=True, array_like=True):
    """A fleet's public key."""

    fleet: str
    key: RawKey


class NodeSecret(Struct, frozen=True, array_like=True):
    """A node's CURVE key pair."""

    public_key: Z85Key
    secret_key: Z85Key


class Request(Struct, frozen=True, array_like=True):
    """Please certify that this key is this node's."""

    node: str
    public_key: Z85Key


def new_fleet(fleet: str) -> FleetSecret:
    """Return a new signing key."""
    return FleetSecret(fleet, Ed25519PrivateKey.generate().private_bytes_raw())


def new_node() -> NodeSecret:
    """Return a new key pair."""
    public, secret = zmq.curve_keypair()
    return NodeSecret(public.decode(), secret.decode())


def fingerprint(public_key: str) -> str:
    """Return enough of a public key for people to tell it from others."""
    return public_key[:8]
