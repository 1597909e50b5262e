"""Small frozen values that every layer speaks: topics, endpoints, message identity.

Names travel in records, in the catalogue and on command lines, so their rules stand here once:

* a node id: 1-128 bytes of UTF-8, printable, without ``/`` or white space;
* a topic or namespace: 1-255 bytes, letters, digits and ``_ . : -`` and ``/`` (a namespace may be empty);
* a server: 1-255 bytes, as a topic and also ``@ #``.
"""

import re
from typing import NamedTuple

__all__ = [
    "NAME_BYTES_MAX",
    "NODE_ID_BYTES_MAX",
    "Endpoint",
    "InstanceKey",
    "MessageId",
    "Topic",
    "TopicKey",
    "name_problem",
    "node_id_problem",
]

NODE_ID_BYTES_MAX = 128
NAME_BYTES_MAX = 255

_NAME = re.compile(r"[A-Za-z0-9_.:/-]+")
_SERVER = re.compile(r"[A-Za-z0-9_.:/@#-]+")
_NODE = re.compile(r"[^\s/\x00-\x1f\x7f]+")


def name_problem(kind: str, name: str) -> str | None:
    """Return what is wrong with a name, or None; ``kind``: topic, server, namespace, or what else is named so."""
    if not name:
        return None if kind == "namespace" else f"a {kind} must not be empty"
    if len(name.encode()) > NAME_BYTES_MAX:
        return f"{kind} {name[:32]!r}… is longer than {NAME_BYTES_MAX} bytes"
    pattern, extra = (_SERVER, " @ #") if kind == "server" else (_NAME, "")
    if not pattern.fullmatch(name):
        return f"{kind} {name!r} may hold only letters, digits and _ . : / -{extra}"
    return None


def node_id_problem(node: str) -> str | None:
    """Return what is wrong with a node id, or None."""
    if not node:
        return "a node id must not be empty"
    if len(node.encode(errors="replace")) > NODE_ID_BYTES_MAX:
        return f"node id {node[:32]!r}… is longer than {NODE_ID_BYTES_MAX} bytes"
    if not _NODE.fullmatch(node) or not node.isprintable():
        return f"node id {node!r} must be printable and hold neither white space nor a slash"
    return None


class TopicKey(NamedTuple):
    """The name of a service inside its namespace: what is looked up, watched and measured."""

    namespace: str
    topic: str

    def __str__(self) -> str:
        return f"{self.namespace}|{self.topic}" if self.namespace else self.topic


class Topic(NamedTuple):
    """What a message is addressed to: a service, or with ``server`` one of its instances."""

    name: str
    server: str = ""

    @classmethod
    def parse(cls, text: str) -> "Topic":
        """Split ``name@server`` at the first ``@``; raises ValueError that says what is wrong."""
        name, at, server = text.partition("@")
        problem = name_problem("topic", name) or (name_problem("server", server) if at else None)
        if problem:
            raise ValueError(problem)
        return cls(name, server)

    def __str__(self) -> str:
        return f"{self.name}@{self.server}" if self.server else self.name


class Endpoint(NamedTuple):
    """Where an agent's link port is reached, and the public key expected there: Z85, empty without CURVE."""

    host: str
    port: int
    public_key: str = ""

    def __str__(self) -> str:
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"


class InstanceKey(NamedTuple):
    """One app serving one topic; sorts in the order that round robin walks."""

    node: str
    server: str
    session: int


class MessageId(NamedTuple):
    """Identity of a message from end to end; it does not change when the message is sent again."""

    node: str
    session: int
    seq: int

    def __str__(self) -> str:
        return f"{self.node}/{self.session:x}/{self.seq}"
