"""Options that several commands have, each written once, and what is made of their values."""

import contextlib
import os
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

if TYPE_CHECKING:
    from mesh.client.sync import Client

__all__ = [
    "APP",
    "BODY_BYTES_MAX",
    "body_argument",
    "config_option",
    "connected",
    "header_option",
    "headers_of",
    "json_option",
    "namespace_option",
    "read_body",
    "socket_option",
    "timeout_option",
    "topic_argument",
    "watch_option",
]

APP = "mesh-cli"
"""The name by which agents see the commands."""

BODY_BYTES_MAX = 1 << 30
"""The most that is read from standard input; an agent's ``body_bytes_max`` is smaller, and never larger."""

Decorator = Callable[[Callable[..., Any]], Callable[..., Any]]

socket_option: Decorator = click.option(
    "--socket",
    metavar="PATH",
    help="The agent's socket; without it MESH_SOCKET, the user's runtime directory and /run are tried.",
)
config_option: Decorator = click.option(
    "--config",
    "path",
    type=click.Path(path_type=Path),
    metavar="FILE",
    help="The agent's TOML file; without it the one in MESH_CONFIG, else the local preset.",
)
namespace_option: Decorator = click.option(
    "--namespace", default="", metavar="NAME", help="The namespace of the topic; empty by default."
)
header_option: Decorator = click.option(
    "--header", "headers", multiple=True, metavar="KEY=VALUE", help="A header of the message; may be repeated."
)
json_option: Decorator = click.option("--json", "as_json", is_flag=True, help="Print JSON, for programs.")
watch_option: Decorator = click.option("--watch", is_flag=True, help="Show it anew every second, until Ctrl-C.")


def timeout_option(default_s: float, what: str) -> Decorator:
    """Return ``--timeout-s`` with a default."""
    return click.option(
        "--timeout-s",
        type=click.FloatRange(min=0, min_open=True),
        default=default_s,
        show_default=True,
        metavar="SECONDS",
        help=what,
    )


def topic_argument(name: str = "topic", **settings: Any) -> Decorator:
    """Return an argument that the shell completes with the topics that the agent knows."""
    return click.argument(name, shell_complete=_complete_topic, **settings)


body_argument: Decorator = click.argument("body", required=False)


def _complete_topic(context: click.Context, _: click.Parameter, begun: str) -> list[str]:
    """Return the topics that begin so; a completion never complains, and never waits long."""
    from mesh.errors import MeshError

    with contextlib.suppress(MeshError, OSError), connected(context.params.get("socket"), timeout_s=0.3) as client:
        known = {str(row["topic"]) for row in client.query("topics", timeout_s=0.3)}
        return sorted(topic for topic in known if topic.startswith(begun))
    return []


@contextlib.contextmanager
def connected(socket: str | None, *, namespace: str = "", timeout_s: float) -> "Iterator[Client]":
    """Connect to the agent for as long as the context lasts; raises AgentUnavailable."""
    from mesh.client.api import CONNECT_TIMEOUT_S
    from mesh.client.sync import connect

    timeout_s = min(timeout_s, CONNECT_TIMEOUT_S)
    with connect(APP, namespace=namespace, socket=socket, connect_timeout_s=timeout_s) as client:
        yield client


def headers_of(texts: tuple[str, ...]) -> dict[str, str]:
    """Return the headers that were given as ``key=value``; raises UsageError."""
    headers: dict[str, str] = {}
    for text in texts:
        key, equals, value = text.partition("=")
        if not key or not equals:
            raise click.UsageError(f"--header {text!r} is not KEY=VALUE")
        headers[key] = value
    return headers


def read_body(argument: str | None) -> bytes:
    """Return the body: the argument, else standard input unless that is a terminal, else nothing."""
    if argument is not None and argument != "-":
        return os.fsencode(argument)
    if argument is None and sys.stdin.isatty():
        return b""
    body = sys.stdin.buffer.read(BODY_BYTES_MAX + 1)
    if len(body) > BODY_BYTES_MAX:
        raise click.UsageError(f"standard input holds more than {BODY_BYTES_MAX} bytes, and no body may")
    return body
