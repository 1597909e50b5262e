"""Apps of a fleet of machines call, cast to and fan out to each other, each over the agent of its own machine.

::

    with mesh.connect(app="web") as client:
        reply = client.call("words", b"how many?")

`mesh.aio` is the same for asyncio, `mesh.rpc` adds typed methods; both are imported when they are first used.
"""

from typing import TYPE_CHECKING

from mesh.client.api import Message, Receipt, Reply
from mesh.client.sync import Client, connect
from mesh.errors import (
    AgentUnavailable,
    Cancelled,
    ConfigError,
    Expired,
    Indeterminate,
    MeshError,
    OutcomeError,
    Overloaded,
    ProtocolError,
    Rejected,
    RemoteError,
    SessionClosed,
    Unroutable,
)

if TYPE_CHECKING:
    from mesh.client import aio as aio
    from mesh.client import rpc as rpc

__all__ = [
    "AgentUnavailable",
    "Cancelled",
    "Client",
    "ConfigError",
    "Expired",
    "Indeterminate",
    "MeshError",
    "Message",
    "OutcomeError",
    "Overloaded",
    "ProtocolError",
    "Receipt",
    "Rejected",
    "RemoteError",
    "Reply",
    "SessionClosed",
    "Unroutable",
    "connect",
]


def __getattr__(name: str) -> object:
    """Import ``mesh.aio`` and ``mesh.rpc`` when they are first asked for."""
    if name in ("aio", "rpc"):
        import importlib

        return importlib.import_module(f"mesh.client.{name}")
    raise AttributeError(f"module 'mesh' has no attribute {name!r}")
