"""Outcomes as exceptions, and what is checked before anything is sent."""

import subprocess
import sys
from typing import Any

import pytest

from mesh import errors
from mesh.client.api import (
    Message,
    Reply,
    answer_of,
    check_handler,
    default_server,
    error_of,
    failure_of,
    no_agent,
    refusal_of,
    request_of,
    value_of,
)
from mesh.client.context import Handling, current, inherited_headers, inherited_timeout_s
from mesh.core import records
from mesh.core.records import AppWelcome, Failure, Kind, RefuseReason, Status
from mesh.types import MessageId, name_problem

ID = ("here", 7, 3)

LIMITS = AppWelcome(0, "default", "here", 1, 200, 8 << 20, 1 << 18, 2, 10_000, 64 << 20, 65_536, 3_600_000, 5_000)

FACTS = {
    Status.REMOTE_ERROR: (errors.RemoteError, True, False),
    Status.UNROUTABLE: (errors.Unroutable, False, True),
    Status.OVERLOADED: (errors.Overloaded, False, True),
    Status.EXPIRED: (errors.Expired, False, True),
    Status.INDETERMINATE: (errors.Indeterminate, True, False),
    Status.REJECTED: (errors.Rejected, False, True),
    Status.AGENT_UNAVAILABLE: (errors.AgentUnavailable, False, True),
    Status.CANCELLED: (errors.Cancelled, True, False),
}


@pytest.mark.parametrize("status", list(Status))
def test_each_status_has_its_own_exception_that_says_whether_it_may_have_run(status: Status) -> None:
    kind, may_have_run, retry_safe = FACTS[status]
    error = error_of(Failure(*ID, int(status), "why", where="there", limit="queue", retry_after_ms=250))
    assert kind is type(error)
    assert (may_have_run, retry_safe) == (error.may_have_run, error.retry_safe)
    assert ("why", "there", MessageId(*ID)) == (error.text, error.where, error.message_id)
    if isinstance(error, errors.Overloaded):
        assert ("queue", 0.25) == (error.limit, error.retry_after_s)


def test_a_failure_without_a_type_is_an_exception() -> None:
    error = error_of(Failure(*ID, int(Status.REMOTE_ERROR), "why"))
    assert "Exception" == error.type  # type: ignore[attr-defined]


def test_outcomes_are_values_or_raised() -> None:
    assert Reply(b"x", {}, MessageId(*ID)) == value_of(records.Reply(*ID, b"x"))
    assert None is value_of(None)
    with pytest.raises(errors.Unroutable):
        value_of(Failure(*ID, int(Status.UNROUTABLE), ""))


def test_what_a_handler_may_return() -> None:
    assert records.Reply(*ID, b"x") == answer_of(b"x", ID)
    assert records.Reply(*ID, b"x") == answer_of(bytearray(b"x"), ID)
    assert records.Reply(*ID, b"x") == answer_of(memoryview(b"x"), ID)
    assert records.Reply(*ID, b"") == answer_of(None, ID)
    assert records.Reply(*ID, b"x", {"a": "b"}) == answer_of(Reply(b"x", {"a": "b"}), ID)
    with pytest.raises(TypeError):
        answer_of(3, ID)
    with pytest.raises(errors.Rejected):
        answer_of(Reply(b"", {"a": "\ud800"}), ID)
    with pytest.raises(TypeError):
        answer_of(Reply(b"", {"a": 1}), ID)  # type: ignore[dict-item]


def test_an_exception_is_told_within_the_bounds_of_the_record() -> None:
    failure = failure_of(ValueError("x" * 100_000 + "\ud800"), ID, expose_traceback=True)
    assert ("ValueError", 16_384) == (failure.error_type, len(failure.text))
    assert "ValueError" in failure_of(ValueError("y"), ID, expose_traceback=True).traceback
    assert "" == failure_of(ValueError("y"), ID, expose_traceback=False).traceback


@pytest.mark.parametrize(
    ("topic", "timeout_s", "told"),
    [(b"t", 1.0, "a topic is str, not bytes"), ("t", "1", "a timeout is a number of seconds, not str")],
)
def test_an_argument_of_another_type_is_named(topic: Any, timeout_s: Any, told: str) -> None:
    with pytest.raises(TypeError, match=told):
        request_of(Kind.CALL, topic, b"", timeout_s, None, 0, LIMITS)


async def coroutine(message: object) -> None: ...


def test_what_cannot_handle_messages_is_refused_before_it_serves() -> None:
    check_handler(coroutine, awaited=True)
    check_handler(print, awaited=False)
    for handler, awaited, told in [(5, True, "not int"), (None, False, "NoneType"), (coroutine, False, "mesh.aio")]:
        with pytest.raises(TypeError, match=told):
            check_handler(handler, awaited=awaited)


def test_an_error_from_further_on_is_told_by_its_own_words() -> None:
    assert "why" == failure_of(errors.RemoteError("why", type="Deep"), ID, expose_traceback=False).text


@pytest.mark.parametrize("node", ["here", "müller's box", "n" * 128])
def test_a_server_without_a_name_gets_one_that_may_be_addressed(node: str) -> None:
    assert None is name_problem("server", default_server(node, (1 << 63) - 1))


def test_refusals_are_errors_of_the_protocol_or_of_the_app() -> None:
    assert isinstance(refusal_of(RefuseReason.PROTOCOL, ""), errors.ProtocolError)
    assert isinstance(refusal_of(RefuseReason.SECURITY, ""), errors.Rejected)


def message(left_s: float, **headers: str) -> Message:
    import time

    return Message(b"", headers, "topic", "", "call", MessageId(*ID), time.monotonic() + left_s)


def test_who_may_not_use_the_socket_is_not_told_to_start_an_agent() -> None:
    assert "group of the agent's socket" in str(no_agent("no agent at /a or /b (Permission denied; No such file)", 5))
    assert "start one with `mesh agent`" in str(no_agent("no agent at /a (No such file or directory)", 5))


def test_outside_a_handler_nothing_is_inherited() -> None:
    assert None is current()
    assert (5.0, None) == (inherited_timeout_s(5.0), inherited_headers(None))


def test_inside_a_handler_time_and_headers_are_inherited() -> None:
    given = message(100.0, traceparent="t", a="b")
    with Handling(given):
        assert given is current()
        assert 5.0 == inherited_timeout_s(5.0)
        assert 100.0 >= inherited_timeout_s(1_000.0)
        assert given.headers == inherited_headers(None)
        assert {"traceparent": "t", "c": "d"} == inherited_headers({"c": "d"})
        assert {"traceparent": "own"} == inherited_headers({"traceparent": "own"})
    with Handling(message(100.0, a="b")):
        assert {"c": "d"} == inherited_headers({"c": "d"})
    with Handling(message(-1.0)), pytest.raises(errors.Expired):
        inherited_timeout_s(5.0)


@pytest.mark.system
def test_importing_mesh_imports_nothing_that_an_app_may_not_want() -> None:
    unwanted = ("asyncio", "gevent", "zmq", "requests", "rich", "click", "eventlet")
    program = f"import mesh, sys; print([name for name in {unwanted!r} if name in sys.modules])"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert "[]" == done.stdout.strip()


def test_aio_and_rpc_come_when_they_are_asked_for() -> None:
    import mesh

    assert "mesh.client.aio" == mesh.aio.__name__
    assert "mesh.client.rpc" == mesh.rpc.__name__
    with pytest.raises(AttributeError, match="nothing"):
        mesh.nothing  # noqa: B018
