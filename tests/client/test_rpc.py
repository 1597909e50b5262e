"""Typed methods, without a mesh: a client that hands each call to the handler at once."""

import asyncio
from typing import Annotated, Any

import msgspec
import pytest

from mesh import Message, Reply, rpc
from mesh.types import MessageId


class Point(msgspec.Struct):
    x: int
    y: int = 0


@rpc.service
class Service:
    limit = 3

    def add(self, a: int, b: int = 1) -> int:
        return a + b

    def move(self, point: Point, *, by: Annotated[int, msgspec.Meta(gt=0)] = 1) -> Point:
        return Point(point.x + by, point.y)

    def untyped(self, value) -> Any:  # type: ignore[no-untyped-def]
        return value

    async def later(self, text: str) -> str:
        return text.upper()

    def _private(self) -> None: ...


class Direct:
    """A client whose calls run here."""

    def __init__(self, handler: Any) -> None:
        self.handler = handler
        self.options: dict[str, Any] = {}

    def call(self, topic: str, body: bytes, **options: Any) -> Reply:
        self.options = options
        return Reply(self.handler(Message(body, {}, topic, "", "call", MessageId("n", 1, 1), 0.0)))


class Later:
    """The same for asyncio."""

    async def call(self, topic: str, body: bytes) -> Reply:
        return Reply(await Service()(Message(body, {}, topic, "", "call", MessageId("n", 1, 1), 0.0)))  # type: ignore[operator]


def call(method: str, /, **arguments: Any) -> Any:
    return rpc.call(Direct(Service()), "topic", method, arguments)


def test_arguments_are_converted_to_the_hints_and_defaults_are_filled_in() -> None:
    assert 3 == call("add", a=1, b=2)
    assert 2 == call("add", a=1)
    assert {"x": 6, "y": 1} == call("move", point={"x": 1, "y": 1}, by=5)
    assert [1, "a", None] == call("untyped", value=[1, "a", None])


def test_the_result_is_converted_if_its_type_is_told() -> None:
    client = Direct(Service())
    assert Point(2, 0) == rpc.call(client, "topic", "move", {"point": {"x": 1}}, returns=Point)
    with pytest.raises(rpc.BadResult, match="'topic' is not what a typed method returns .Expected `str`"):
        rpc.call(client, "topic", "add", {"a": 1}, returns=str)


def test_a_reply_that_no_typed_method_made_is_told_as_that() -> None:
    with pytest.raises(rpc.BadResult, match="'topic' is not what a typed method returns"):
        rpc.call(Direct(lambda message: b"hello world"), "topic", "add")


@pytest.mark.parametrize(
    ("method", "arguments", "problem"),
    [
        ("add", {"a": "1"}, "Expected `int`"),
        ("add", {}, "missing required field `a`"),
        ("add", {"a": 1, "c": 1}, "unknown field `c`"),
        ("move", {"point": {"x": 1}, "by": 0}, "Expected `int` >= 1"),
    ],
)
def test_arguments_that_do_not_fit_are_a_type_error(method: str, arguments: dict[str, Any], problem: str) -> None:
    with pytest.raises(TypeError, match=problem):
        call(method, **arguments)


@pytest.mark.parametrize("method", ["nothing", "_private", "__init__", "__call__", ""])
def test_only_public_methods_are_there_to_be_called(method: str) -> None:
    with pytest.raises(rpc.MethodNotFound, match="it has add, later, move, untyped"):
        call(method)


def test_a_body_that_is_no_invocation_is_a_type_error() -> None:
    with pytest.raises(TypeError, match="not an invocation"):
        Service()(Message(b"\xc1", {}, "topic", "", "call", MessageId("n", 1, 1), 0.0))  # type: ignore[operator]


def test_functions_may_be_offered_by_their_own_names_or_others() -> None:
    def double(value: int) -> int:
        return 2 * value

    client = Direct(rpc.methods(double, twice=double))
    assert 4 == rpc.call(client, "topic", "double", {"value": 2})
    assert 4 == rpc.call(client, "topic", "twice", {"value": 2})


def test_what_cannot_be_called_by_name_is_refused_when_it_is_offered() -> None:
    def variadic(*values: int) -> None: ...

    with pytest.raises(TypeError, match="'values'"):
        rpc.methods(variadic)
    with pytest.raises(ValueError, match="underscore"):
        rpc.methods(_hidden=lambda: None)
    with pytest.raises(TypeError, match="__call__"):
        rpc.service(type("Own", (), {"__call__": lambda self: None}))


def test_a_proxy_has_the_methods_as_attributes() -> None:
    client = Direct(Service())
    assert 3 == rpc.proxy(client, "topic", timeout_s=2.0).add(a=1, b=2)
    with pytest.raises(TypeError, match="by name"):
        rpc.proxy(client, "topic").add(1, 2)
    assert {"timeout_s": 2.0} == client.options
    with pytest.raises(AttributeError):
        getattr(rpc.proxy(client, "topic"), "_private")  # noqa: B009 - a plain expression would be one of no use


def test_methods_and_clients_may_be_asynchronous() -> None:
    assert "X" == asyncio.run(rpc.call(Later(), "topic", "later", {"text": "x"}))
