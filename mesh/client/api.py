"""The values that both shells take and give: messages, replies, receipts, and outcomes as exceptions.

What an app hands over is checked here, before a seq is spent on it: a name, header or body that the agent would
refuse raises `Rejected` with what is wrong.
"""

import errno
import functools
import inspect
import math
import os
import re
import secrets
import time
import traceback as tracebacks
from collections.abc import Callable, Mapping
from typing import Literal

from msgspec import Struct, field

from mesh.client.connection import Connection
from mesh.client.events import Aimed, Outcome, Refused
from mesh.client.legs import Leg, legs_of
from mesh.client.session import Session
from mesh.core import records
from mesh.core.records import AppWelcome, Failure, Flag, Kind, RefuseReason, Request, Status
from mesh.errors import (
    AgentUnavailable,
    Cancelled,
    Expired,
    Indeterminate,
    MeshError,
    OutcomeError,
    Overloaded,
    ProtocolError,
    Rejected,
    RemoteError,
    Unroutable,
)
from mesh.types import MessageId, Topic, name_problem

__all__ = [
    "CALL_TIMEOUT_S",
    "CAST_TTL_S",
    "CLOSE_TIMEOUT_S",
    "CONNECT_TIMEOUT_S",
    "FAREWELL_S",
    "HELD_TIMEOUT_S",
    "IN_HANDLER",
    "PREFETCH",
    "WORKERS",
    "Message",
    "Receipt",
    "Reply",
    "aimed_receipt",
    "answer_of",
    "check_handler",
    "check_name",
    "default_server",
    "error_of",
    "failure_of",
    "flags_of",
    "message_of",
    "new_session",
    "no_agent",
    "no_welcome",
    "receipt_of",
    "refusal_of",
    "reply_of",
    "request_of",
    "until_of",
    "value_of",
]

HEADERS_MAX = 64
HEADER_KEY_CHARS_MAX = 256
HEADER_VALUE_CHARS_MAX = 16_384
TEXT_CHARS_MAX = 16_384
ERROR_TYPE_CHARS_MAX = 255

CALL_TIMEOUT_S = 10.0
CAST_TTL_S = 300.0
CONNECT_TIMEOUT_S = 5.0
HELD_TIMEOUT_S = 10.0
CLOSE_TIMEOUT_S = 10.0
FAREWELL_S = 2.5  # a little more than the agent's close_grace_s
WORKERS = 16
PREFETCH = 256
"""What both shells take where the app says nothing."""

IN_HANDLER = "a handler cannot end the client that runs it, which waits for it: return first, or have another do it"

KIND_NAMES: tuple[Literal["call", "cast", "fanout"], ...] = ("call", "cast", "fanout")


class Message(Struct, eq=False):
    """A request as its handler sees it. ``deadline`` is on its ``clock``, which is that of ``time.monotonic``.

    ``cancelled`` becomes True while it is handled if its caller gives it up; ``server`` is as the caller addressed it.
    """

    body: bytes
    headers: Mapping[str, str]
    topic: str
    server: str
    kind: Literal["call", "cast", "fanout"]
    id: MessageId
    deadline: float
    cancelled: bool = False
    clock: Callable[[], float] = time.monotonic

    @property
    def remaining_s(self) -> float:
        """Seconds until its caller waits no longer; negative after that."""
        return self.deadline - self.clock()


class Reply(Struct):
    """What a call brought back; a handler may return one, to send headers with its body. ``legs``: where the time of a
    traced call went."""

    body: bytes = b""
    headers: Mapping[str, str] = field(default_factory=dict)
    id: MessageId | None = None
    legs: tuple[Leg, ...] = ()


class Receipt(Struct):
    """What became of a fan-out: instances asked, and how many of them finished, failed, or are unknown (yet)."""

    asked: int
    finished: int = 0
    failed: int = 0
    unknown: int = 0
    id: MessageId | None = None


# What goes out


@functools.lru_cache(maxsize=4096)
def _parse_topic(text: str) -> Topic:
    if not isinstance(text, str):
        raise TypeError(f"a topic is str, not {type(text).__name__}")
    try:
        return Topic.parse(text)
    except ValueError as error:
        raise Rejected(str(error)) from None


def check_name(kind: str, name: str) -> str:
    """Return the name; raises Rejected if it is none of this kind (topic, server, namespace, …)."""
    problem = name_problem(kind, name)
    if problem:
        raise Rejected(problem)
    return name


def _check_body(body: bytes | bytearray | memoryview, limits: AppWelcome) -> bytes:
    if not isinstance(body, bytes):
        if not isinstance(body, bytearray | memoryview):
            raise TypeError(f"a body is bytes, not {type(body).__name__}; encode it first")
        body = bytes(body)
    if len(body) > limits.body_bytes_max:
        text = f"a body of {len(body)} bytes is over body_bytes_max = {limits.body_bytes_max}"
        raise Rejected(text, where=limits.node)
    return body


def _check_headers(headers: Mapping[str, str]) -> dict[str, str]:
    if len(headers) > HEADERS_MAX:
        raise Rejected(f"{len(headers)} headers are more than {HEADERS_MAX}")
    for key, value in headers.items():
        if not (isinstance(key, str) and isinstance(value, str)):  # type: ignore[redundant-expr]
            raise TypeError(f"header {key!r} and its value must both be str")
        if len(key) > HEADER_KEY_CHARS_MAX or len(value) > HEADER_VALUE_CHARS_MAX:
            limits = f"{HEADER_KEY_CHARS_MAX} and {HEADER_VALUE_CHARS_MAX}"
            raise Rejected(f"header {key[:32]!r} or its value is longer than {limits} characters")
        if _clean(key) != key or _clean(value) != value:
            raise Rejected(f"header {key[:32]!r} or its value is not encodable as UTF-8")
    return dict(headers)


def request_of(
    kind: Kind,
    topic: str,
    body: bytes | bytearray | memoryview,
    timeout_s: float,
    headers: Mapping[str, str] | None,
    flags: int,
    limits: AppWelcome,
    monitor_s: float = 0.0,
    *,
    traced: bool = False,
) -> Request:
    """Check what is asked and make a request of it; raises Rejected, Expired (no time at all) and TypeError."""
    name, server = _parse_topic(topic)
    if not isinstance(body, bytes) or len(body) > limits.body_bytes_max:
        body = _check_body(body, limits)
    checked = _check_headers(headers) if headers else None
    if not isinstance(timeout_s, int | float):
        raise TypeError(f"a timeout is a number of seconds, not {type(timeout_s).__name__}")
    if not timeout_s > 0:
        raise Expired(f"no time: the timeout is {timeout_s} s")
    limit_ms = limits.call_timeout_ms_max if kind == Kind.CALL else records.TIMEOUT_MS_MAX
    if timeout_s * 1000 > limit_ms:
        raise Rejected(
            f"a timeout of {timeout_s} s is over {limit_ms / 1000:g} s, the longest for a {KIND_NAMES[kind]}"
        )
    request = Request(int(kind), 0, name, server, math.ceil(timeout_s * 1000), body, int(flags), 0, checked)
    if monitor_s:
        if not 0 < monitor_s * 1000 <= records.TIMEOUT_MS_MAX:
            raise Rejected(f"monitor_s = {monitor_s} s is not a time within which an app can show that it is alive")
        request.monitor_ms = math.ceil(monitor_s * 1000)
    if traced:
        request.trace = []
    return request


_IDEMPOTENT, _WAIT, _CONFIRM = int(Flag.IDEMPOTENT), int(Flag.WAIT), int(Flag.CONFIRM)
_DURABLE, _ONCE, _ROOM = int(Flag.DURABLE), int(Flag.ONCE), int(Flag.ROOM)
_PROBE = int(Flag.PROBE)  # plain numbers, for operations on enums are slow


def flags_of(
    *,
    idempotent: bool = False,
    wait: bool = False,
    confirm: bool = False,
    durable: bool = False,
    once: bool = False,
    wait_for_room: bool = False,
    probe: bool = False,
) -> int:
    """Return the options of a request as one number."""
    return (
        (_IDEMPOTENT if idempotent else 0)
        | (_WAIT if wait else 0)
        | (_CONFIRM if confirm else 0)
        | (_DURABLE if durable else 0)
        | (_ONCE if once else 0)
        | (_ROOM if wait_for_room else 0)
        | (_PROBE if probe else 0)
    )


def new_session(app: str, namespace: str, fleet: str, place: str, token_file: str = "") -> Session:
    """Return a session with an identity of its own."""
    id = secrets.randbits(62) + 1
    return Session(id, app, namespace, fleet, place, token_file, connection=Connection(secrets.randbits(64)))


def default_server(node: str, session: int) -> str:
    """Return the name of an instance that gave none: unlike that of any other app, and readable."""
    return f"{re.sub(r'[^A-Za-z0-9_.:/@#-]', '-', node)[:200]}:{session:x}"


# What comes back


def reply_of(reply: records.Reply) -> Reply:
    """Return a reply as the caller sees it."""
    id = MessageId(reply.node, reply.session, reply.seq)
    return Reply(reply.body, reply.headers or {}, id, legs_of(reply.trace))


def receipt_of(receipt: records.Receipt) -> Receipt:
    """Return a receipt as the caller sees it."""
    id = MessageId(receipt.node, receipt.session, receipt.seq)
    return Receipt(receipt.asked, receipt.finished, receipt.failed, receipt.unknown, id)


def aimed_receipt(session: Session, aimed: Aimed) -> records.Receipt:
    """Return what is known of a fan-out that was just sent."""
    return records.Receipt(session.limits.node, session.id, aimed.seq, aimed.asked, 0, 0, aimed.asked)


_ERRORS: dict[int, type[OutcomeError]] = {
    Status.UNROUTABLE: Unroutable,
    Status.EXPIRED: Expired,
    Status.INDETERMINATE: Indeterminate,
    Status.AGENT_UNAVAILABLE: AgentUnavailable,
    Status.CANCELLED: Cancelled,
}


def error_of(failure: Failure) -> OutcomeError:
    """Return the exception that stands for a failure: one for each status."""
    id = MessageId(failure.node, failure.session, failure.seq)
    if failure.status == Status.REMOTE_ERROR:
        return RemoteError(
            failure.text,
            type=failure.error_type or "Exception",
            traceback=failure.traceback,
            where=failure.where,
            message_id=id,
        )
    if failure.status == Status.OVERLOADED:
        return Overloaded(
            failure.text,
            limit=failure.limit,
            retry_after_s=failure.retry_after_ms / 1000,
            where=failure.where,
            message_id=id,
        )
    if failure.status == Status.REJECTED:
        return Rejected(failure.text, rule=failure.rule, where=failure.where, message_id=id)
    return _ERRORS[failure.status](failure.text, where=failure.where, message_id=id)


def no_welcome(why: str, refused: Refused | None, timeout_s: float) -> OutcomeError:
    """Return what `connect` raises when nobody let this app in within its time: the limit that kept it out, if one
    did, or that there is no agent."""
    if refused is not None and refused.limit:
        return Overloaded(refused.text, limit=refused.limit, retry_after_s=refused.retry_after_s)
    return no_agent(why, timeout_s)


def no_agent(why: str, timeout_s: float) -> AgentUnavailable:
    """Return what `connect` raises when there is no agent, or none for this user."""
    if os.strerror(errno.EACCES) in why:
        hint = "this user has to be in the group of the agent's socket"
    else:
        hint = "start one with `mesh agent`, or say where its socket is with MESH_SOCKET"
    return AgentUnavailable(f"{why}, for {timeout_s:g} s: {hint}")


def refusal_of(reason: int, text: str) -> MeshError:
    """Return what `connect` raises when the agent refuses this app for good."""
    if reason in (RefuseReason.PROTOCOL, RefuseReason.MALFORMED):
        return ProtocolError(f"the agent refused this app: {text}")
    return Rejected(f"the agent refused this app: {text}")


def value_of(outcome: Outcome) -> Reply | Receipt | None:
    """Return what a request brought; raises what it ended with otherwise."""
    if type(outcome) is records.Reply:
        return reply_of(outcome)
    if isinstance(outcome, Failure):
        raise error_of(outcome)
    return receipt_of(outcome) if isinstance(outcome, records.Receipt) else None


def until_of(deadline: float, timeout_s: float | None, now: float, *, confirm: bool) -> float:
    """Return how long a cast or fan-out is waited for: as asked, else for its end all its time, or to be held 10 s."""
    if timeout_s is None:
        if confirm:
            return deadline
        timeout_s = HELD_TIMEOUT_S
    return min(deadline, now + timeout_s)


# What a handler gets, and gives


def check_handler(handler: object, *, awaited: bool) -> None:
    """Raise TypeError if this cannot handle messages; ``awaited``: it may be a coroutine function."""
    if not callable(handler):
        raise TypeError(f"a handler is a function that takes a message, not {type(handler).__name__}")
    if not awaited and inspect.iscoroutinefunction(handler):
        name = getattr(handler, "__qualname__", repr(handler))
        raise TypeError(f"{name} is a coroutine function, which a client for threads cannot run: serve with mesh.aio")


def message_of(request: Request, deadline: float, clock: Callable[[], float]) -> Message:
    """Return a request as its handler sees it."""
    return Message(
        request.body,
        request.headers or {},
        request.topic,
        request.server,
        KIND_NAMES[request.kind],
        MessageId(request.node, request.session, request.seq),
        deadline,
        clock=clock,
    )


def answer_of(result: object, id: tuple[str, int, int]) -> records.Reply:
    """Return what a handler's result is on the wire; raises TypeError if it is no body."""
    if isinstance(result, bytes):
        return records.Reply(*id, result)
    if result is None:
        return records.Reply(*id, b"")
    if isinstance(result, Reply):
        return records.Reply(*id, bytes(result.body), _check_headers(result.headers) if result.headers else None)
    if isinstance(result, bytearray | memoryview):
        return records.Reply(*id, bytes(result))
    raise TypeError(f"a handler returns bytes, None or a Reply, not {type(result).__name__}")


def failure_of(error: BaseException, id: tuple[str, int, int], *, expose_traceback: bool) -> Failure:
    """Return what a handler's exception is on the wire: its class and text, the traceback only if allowed."""
    text = error.text if isinstance(error, RemoteError) else str(error)
    trace = "".join(tracebacks.format_exception(error)) if expose_traceback else ""
    return Failure(
        *id,
        int(Status.REMOTE_ERROR),
        _clean(text)[:TEXT_CHARS_MAX],
        error_type=type(error).__name__[:ERROR_TYPE_CHARS_MAX],
        traceback=_clean(trace)[-TEXT_CHARS_MAX:],
    )


def _clean(text: str) -> str:
    """Return text that can be encoded; lone surrogates cannot."""
    return text.encode(errors="replace").decode()
