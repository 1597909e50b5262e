"""Typed methods over calls: type hints on one side, keyword arguments on the other, MessagePack between.

::

    @rpc.service
    class Words:
        def count(self, text: str, *, longest: int = 80) -> dict[str, int]: ...

    client.serve("words", Words())                                  # serves
    rpc.call(client, "words", "count", {"text": "to be or not"})    # calls
    words = rpc.proxy(client, "words")
    words.count(text="to be or not")

Arguments are converted to the method's hints and checked against them before it runs; what does not fit reaches the
caller as a `RemoteError` of type ``TypeError``, a method that is not there as ``MethodNotFound``. Names that begin
with an underscore are nobody's to call. A reply that is no result, or of another type than was asked for, is a
`BadResult`. Methods may be coroutines where the service is served by ``mesh.aio``, and with a client of ``mesh.aio``
each call is awaited.
"""

import functools
import inspect
from collections.abc import Awaitable, Callable, Mapping
from typing import Any, TypeVar, get_type_hints

import msgspec

from mesh.client.api import Message, Reply
from mesh.errors import MeshError

__all__ = ["BadResult", "MethodNotFound", "Proxy", "Service", "call", "methods", "proxy", "service"]

T = TypeVar("T")
C = TypeVar("C", bound=type[Any])


class MethodNotFound(MeshError):
    """The service has no such method."""


class BadResult(MeshError, ValueError):
    """The reply holds no result of a typed method, or none of the type that was asked for."""


class _Invocation(msgspec.Struct):
    """What a call's body holds."""

    method: str
    params: dict[str, msgspec.Raw] = {}


_decoder = msgspec.msgpack.Decoder(_Invocation)
_encoder = msgspec.msgpack.Encoder()


class _Method:
    """A function with the form of its arguments, and of its result."""

    def __init__(self, name: str, function: Callable[..., Any]) -> None:
        self.function = function
        hints = get_type_hints(function, include_extras=True)
        fields: list[Any] = []
        for parameter in inspect.signature(function).parameters.values():
            if parameter.kind not in (parameter.POSITIONAL_OR_KEYWORD, parameter.KEYWORD_ONLY):
                raise TypeError(f"{name}: parameter {parameter.name!r} cannot be given by name")
            field: tuple[Any, ...] = (parameter.name, hints.get(parameter.name, Any))
            if parameter.default is not parameter.empty:
                field = (*field, msgspec.field(default_factory=functools.partial(_same, parameter.default)))
            fields.append(field)
        form = msgspec.defstruct(name, fields, kw_only=True, forbid_unknown_fields=True)
        self._names = [field[0] for field in fields]
        self._decoder = msgspec.msgpack.Decoder(form)

    def arguments(self, params: Mapping[str, msgspec.Raw]) -> dict[str, Any]:
        """Convert and check what was sent; raises TypeError that says what does not fit."""
        try:
            given = self._decoder.decode(_encoder.encode(params))
        except msgspec.ValidationError as error:
            raise TypeError(str(error)) from None
        return {name: getattr(given, name) for name in self._names}


def _same(value: T) -> T:
    return value


class Service:
    """A handler for `Client.serve` that calls functions by name."""

    def __init__(self, functions: Mapping[str, Callable[..., Any]]) -> None:
        for name in functions:
            if name.startswith("_") or not name:
                raise ValueError(f"{name!r} cannot be called from outside: it begins with an underscore")
        self._methods = {name: _Method(name, function) for name, function in functions.items()}

    def __call__(self, message: Message) -> Any:
        """Run the method that a message asks for; returns the body of its reply, or what is to be awaited for it."""
        try:
            invocation = _decoder.decode(message.body)
        except msgspec.MsgspecError as error:
            raise TypeError(f"not an invocation: {error}") from None
        method = self._methods.get(invocation.method)
        if method is None:
            known = ", ".join(sorted(self._methods)) or "nothing"
            raise MethodNotFound(f"{message.topic!r} has no method {invocation.method!r}; it has {known}")
        result = method.function(**method.arguments(invocation.params))
        return _encode_later(result) if inspect.isawaitable(result) else _encoder.encode(result)


async def _encode_later(result: Awaitable[Any]) -> bytes:
    return _encoder.encode(await result)


def methods(*functions: Callable[..., Any], **named: Callable[..., Any]) -> Service:
    """Return a handler for these functions, each by its own name or by the one given."""
    return Service({**{function.__name__: function for function in functions}, **named})


def service(cls: C) -> C:
    """Decorate a class: its instances are handlers, and their public methods can be called."""
    if "__call__" in vars(cls):
        raise TypeError(f"{cls.__name__} defines __call__ itself")

    def handle(self: Any, message: Message) -> Any:
        handler = vars(self).get("_mesh_service")
        if handler is None:
            names = [name for name, _ in inspect.getmembers(cls, callable) if not name.startswith("_")]
            handler = self._mesh_service = Service({name: getattr(self, name) for name in names})
        return handler(message)

    cls.__call__ = handle
    return cls


def _finish(reply: Reply, topic: str, returns: Any) -> Any:
    try:
        return msgspec.msgpack.decode(reply.body, type=returns)
    except msgspec.MsgspecError as error:
        raise BadResult(f"the reply of {topic!r} is not what a typed method returns ({error})") from None


async def _finish_later(reply: Awaitable[Reply], topic: str, returns: Any) -> Any:
    return _finish(await reply, topic, returns)


def call(
    client: Any,
    topic: str,
    method: str,
    arguments: Mapping[str, Any] | None = None,
    *,
    returns: Any = Any,
    **options: Any,
) -> Any:
    """Call a method with arguments by name and return its result; with a client of ``mesh.aio``, an awaitable of it.

    ``returns`` is the type that the result is converted to and checked against. ``options`` are those of the client's
    ``call``: ``timeout_s``, ``headers``, ``idempotent``, ``wait``.
    """
    reply = client.call(topic, _encoder.encode({"method": method, "params": arguments or {}}), **options)
    return _finish(reply, topic, returns) if isinstance(reply, Reply) else _finish_later(reply, topic, returns)


class Proxy:
    """The methods of a topic, as attributes."""

    def __init__(self, client: Any, topic: str, options: Mapping[str, Any]) -> None:
        self._client = client
        self._topic = topic
        self._options = options

    def __getattr__(self, name: str) -> Callable[..., Any]:
        if name.startswith("_"):
            raise AttributeError(f"{name!r} begins with an underscore, so it cannot be called")

        def method(*unnamed: object, **arguments: object) -> Any:
            if unnamed:
                raise TypeError(f"{name}() takes its arguments by name: {name}(count=3), not {name}(3)")
            return call(self._client, self._topic, name, arguments, **self._options)

        return method


def proxy(client: Any, topic: str, **options: Any) -> Proxy:
    """Return the methods of ``topic`` as attributes that take arguments by name; ``options`` go to every `call`."""
    return Proxy(client, topic, options)
