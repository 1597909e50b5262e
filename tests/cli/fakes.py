"""A client without an agent, for commands that only translate; what a real agent makes of them is `test_commands`."""

from collections.abc import Callable, Mapping
from types import TracebackType
from typing import Any, Self

from mesh.client.api import Receipt, Reply
from mesh.types import MessageId

__all__ = ["LINK", "STATUS", "FakeClient"]

LINK: dict[str, Any] = {
    "peer": "n2",
    "phase": "open",
    "kind": "persistent",
    "dialled": True,
    "kept_by": ["us"],
    "topics": [{"topic": "words", "hot": True, "pin": None, "rate": 12.34}],
    "condition": "alive",
    "rtt_ms": 0.31,
    "heard_s": 0.1,
    "age_s": 75.0,
    "leases": 0,
    "records_in": 10,
    "records_out": 11,
    "bytes_in": 2048,
    "bytes_out": 100,
}

STATUS: dict[str, Any] = {
    "node": "n1",
    "fleet": "default",
    "incarnation": 1_800_000_000_000,
    "endpoint": "127.0.0.1:7441",
    "draining": False,
    "apps": [
        {
            "name": "web",
            "namespace": "",
            "pid": 7,
            "session": "ab",
            "attached": True,
            "outstanding_records": 1,
            "outstanding_bytes": 64,
            "serves": [{"topic": "words", "server": "w[1]"}],
        }
    ],
    "links": 1,
    "links_max": 256,
    "outstanding": 1,
    "waiting": 0,
    "remembered": 0,
    "policy": {"default": "allow", "rules": 0, "refused": {}},
    "totals": {"calls": 5, "casts": 4, "fanouts": 3, "served": 2, "outcomes": {}},
    "spool": {
        "state": "open",
        "problem": "",
        "records": 2,
        "bytes": 300,
        "oldest_s": 3.0,
        "in_memory": 2,
        "dead": 1,
        "records_max": 1_000_000,
        "bytes_max": 1 << 30,
    },
    "pid": 42,
    "descriptors": 30,
    "descriptors_max": 20_000,
    "loop_lag_ms": 0.5,
    "security": {"curve": False},
    "refused": [],
    "matchmaker": {
        "kind": "sqlite",
        "reachable": True,
        "away_s": 0.0,
        "problem": "",
        "registered": 2,
        "to_register": 2,
        "watched": 1,
    },
    "health": {"status": "passing", "why": "3 links"},
    "topology": {"edges": 2, "keeper": True, "problem": ""},
    "socket": "/run/mesh/agent.sock",
    "preset": "local",
}


class FakeClient:
    """Remembers what was asked; ``reports`` (or ``answer``) and ``outcome`` are what it answers, an outcome that is an
    error is raised.

    It is its own ``connect``.
    """

    node = "n1"

    def __init__(
        self,
        outcome: object = None,
        reports: Mapping[str, object] | None = None,
        answer: Callable[[str, dict[str, str]], object] | None = None,
    ) -> None:
        self.outcome = outcome
        self.answer = answer
        self.reports = reports or {}
        self.connected: dict[str, Any] = {}
        self.asked: list[tuple[Any, ...]] = []

    def __call__(self, app: str, **options: Any) -> Self:
        self.connected = {"app": app, **options}
        return self

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        pass

    def _end(self, *asked: Any) -> Any:
        self.asked.append(asked)
        if isinstance(self.outcome, Exception):
            raise self.outcome
        return self.outcome

    def call(self, topic: str, body: bytes = b"", **options: Any) -> Reply:
        reply: Reply = self._end("call", topic, body, options)
        return reply

    def cast(self, topic: str, body: bytes = b"", **options: Any) -> MessageId:
        id: MessageId = self._end("cast", topic, body, options)
        return id

    def fanout(self, topic: str, body: bytes = b"", **options: Any) -> Receipt:
        receipt: Receipt = self._end("fanout", topic, body, options)
        return receipt

    def query(self, what: str, *, timeout_s: float, **arguments: str) -> object:
        return self.answer(what, arguments) if self.answer else self.reports[what]


Connect = Callable[..., FakeClient]
