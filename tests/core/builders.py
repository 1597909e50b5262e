"""Values for the tests of the core, with every field that a test does not care about filled in."""

from typing import TypeVar

from msgspec import msgpack

from mesh.core.catalogue import AgentEntry, Health, Instance, Snapshot
from mesh.core.directory import Group
from mesh.core.records import Kind, Reply, Request
from mesh.types import TopicKey

__all__ = ["ORDERS", "STOCK", "agent", "copied", "group", "instance", "reply", "request", "snapshot"]

ORDERS = TopicKey("", "orders")
STOCK = TopicKey("", "stock")

State = TypeVar("State")


def agent(node: str = "b", incarnation: int = 1) -> AgentEntry:
    return AgentEntry(node, f"{node}.example", 7700, incarnation)


def instance(
    node: str = "b",
    session: int = 1,
    server: str = "",
    topic: TopicKey = ORDERS,
    health: Health = Health.PASSING,
    incarnation: int = 1,
) -> Instance:
    return Instance(
        topic.namespace, topic.topic, server or f"{node}-{session}", session, agent(node, incarnation), health
    )


def group(*instances: Instance) -> Group:
    made = Group()
    for one in sorted(instances, key=lambda one: one.key):
        made.add(one)
    return made


def snapshot(*instances: Instance, topic: TopicKey = ORDERS) -> Snapshot:
    return Snapshot(topic, 1, tuple(sorted(instances, key=lambda one: one.key)))


def request(
    seq: int = 1,
    *,
    kind: Kind = Kind.CALL,
    node: str = "a",
    session: int = 7,
    flags: int = 0,
    body: bytes = b"",
    topic: str = "orders",
    floor: int = 0,
) -> Request:
    return Request(
        kind=int(kind),
        seq=seq,
        topic=topic,
        server="",
        timeout_ms=10_000,
        body=body,
        flags=flags,
        node=node,
        session=session,
        floor=floor,
    )


def reply(seq: int = 1, body: bytes = b"", *, node: str = "a", session: int = 7) -> Reply:
    return Reply(node, session, seq, body)


def copied(state: State) -> State:
    """Encode and decode a machine's state, as a node is copied."""
    return msgpack.decode(msgpack.encode(state), type=type(state))
