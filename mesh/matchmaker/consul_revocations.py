"""Where a fleet's revocations are posted: one key in Consul, which the operator writes and every agent watches.

What is in it is signed; here it is bytes.
"""

import base64
from typing import Any, NamedTuple

import msgspec
from msgspec import Struct, field

from mesh.matchmaker.consul_api import ConsulApi, ConsulOptions, Found, read_found, waiting
from mesh.matchmaker.names import fleet_key

__all__ = ["ConsulRevocations", "Posted"]


class Posted(NamedTuple):
    """What is posted, None if nothing is; where in Consul's history it was read, and where it was written."""

    text: bytes | None
    position: int
    written: int


class ConsulRevocations:
    """The key of one fleet. Verbs do their work once, or raise MatchmakerError."""

    def __init__(self, fleet: str, options: ConsulOptions) -> None:
        self.key = f"{fleet_key(fleet)}revoked"
        self._path = f"/v1/kv/{self.key}"
        self._api = ConsulApi(options)

    def read(self, position: int = 0, wait_s: float = 0.0) -> Posted:
        """Return what is posted: at once for position 0, else when it may have changed or after ``wait_s``."""
        params = waiting(position, wait_s)
        found: Posted = self._api.ask(
            f"read {self.key}",
            lambda api: api.http.get(_read, self._path, params, api.prepare_headers()),
            self._rights("read"),
        )
        # An index that went back, as in a Consul that was restored, is begun with anew.
        return found._replace(position=0) if found.position < position else found

    def post(self, text: bytes, written: int) -> bool:
        """Post this in place of what was written at that point, 0: nothing; False: something else is there."""
        answer: Found = self._api.ask(
            f"write {self.key}",
            lambda api: api.http.put(read_found, self._path, [("cas", written)], text, api.prepare_headers()),
            self._rights("write"),
        )
        return answer.body is True

    def close(self) -> None:
        """Let go of connections; a ``read`` that waits ends with MatchmakerError."""
        self._api.close()

    def __str__(self) -> str:
        return f"{self.key} at {self._api}"

    def _rights(self, policy: str) -> str:
        return f'key "{self.key}" {{ policy = "{policy}" }}'


class _Row(Struct):
    """A key as Consul lists it."""

    value: str | None = field(name="Value")
    written: int = field(name="ModifyIndex")


def _read(response: Any) -> Posted:
    """Decode what Consul has at the key. A position of 0 would not wait, so it is at least 1."""
    body, position = read_found(response)
    rows = msgspec.convert(body or [], list[_Row])
    text = base64.b64decode(rows[0].value or "") if rows else None
    return Posted(text, max(position, 1), rows[0].written if rows else 0)
