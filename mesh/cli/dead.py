"""Dead letters: durable casts of this machine that ended undelivered. `dead list | show | retry | purge`."""

import base64
import json
import time
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import click

from mesh.cli.exits import Exit
from mesh.cli.options import connected, json_option, socket_option, timeout_option

if TYPE_CHECKING:
    from mesh.client.sync import Client

__all__ = ["dead"]

PAGE = 500
"""Dead letters in one question; the agent allows no more."""

_answer_timeout = timeout_option(10.0, "How long to wait for the agent.")


@click.group(short_help="Durable casts that ended undelivered.")
def dead() -> None:
    """Look at durable casts that ended undelivered, send them again, or forget them.

    They are kept at the machine that sent them, within dead_records_max, dead_bytes_max and dead_age_s.
    """


@dead.command("list", short_help="List them, oldest first.")
@click.option("--limit", type=click.IntRange(min=1), default=100, show_default=True, help="How many to list.")
@click.option("--after", type=click.IntRange(min=0), default=0, metavar="NUMBER", help="List those above this number.")
@json_option
@_answer_timeout
@socket_option
def list_(limit: int, after: int, as_json: bool, timeout_s: float, socket: str | None) -> None:
    """List dead letters, oldest first: when and why each ended, and what it was."""
    letters: list[Any] = []
    more = True
    with connected(socket, timeout_s=timeout_s) as client:
        while more and len(letters) < limit:
            page = min(PAGE, limit - len(letters))
            report = _ask(client, "dead_list", timeout_s, after=str(after), limit=str(page))
            letters += report["dead"]
            more = report["more"]
            after = letters[-1]["number"] if letters else after
    if as_json:
        click.echo(json.dumps({"dead": letters, "more": more}, indent=2))
        return
    from mesh.cli.tables import console, dead_table

    console().print(dead_table(letters))
    if more:
        click.echo(f"there are more: --after {after}")


@dead.command(short_help="Show one, with its body.")
@click.argument("number", type=click.IntRange(min=1))
@json_option
@_answer_timeout
@socket_option
def show(number: int, as_json: bool, timeout_s: float, socket: str | None) -> None:
    """Show the dead letter NUMBER: headers, and the first 64 KiB of its body."""
    with connected(socket, timeout_s=timeout_s) as client:
        letter = _ask(client, "dead_show", timeout_s, number=str(number))
    if as_json:
        click.echo(json.dumps(letter, indent=2))
        return
    body = base64.b64decode(letter.pop("body_base64"))
    headers = letter.pop("headers")
    letter["died_at"] = time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(letter["died_at"]))
    for name, value in (*letter.items(), *((f"header {name}", value) for name, value in headers.items())):
        click.echo(f"{name}: {value}")
    click.echo(f"body: {body.decode(errors='backslashreplace')}")


def _which(context: click.Context, numbers: tuple[int, ...], all_: bool) -> None:
    if bool(numbers) == all_:
        raise click.UsageError("name the letters by NUMBER, or all of them with --all", context)


@dead.command(short_help="Send some again.")
@click.argument("numbers", type=click.IntRange(min=1), nargs=-1, metavar="[NUMBER]...")
@click.option("--all", "all_", is_flag=True, help="All that there are now.")
@json_option
@_answer_timeout
@socket_option
@click.pass_context
def retry(
    context: click.Context,
    numbers: tuple[int, ...],
    all_: bool,
    as_json: bool,
    timeout_s: float,
    socket: str | None,
) -> Exit:
    """Send dead letters again, with all their time before them.

    Each is a new message to whoever gets it: one that may have run before may run twice.
    """
    _which(context, numbers, all_)
    return _each("dead_retry", "retried", numbers, as_json, timeout_s, socket)


@dead.command(short_help="Forget some.")
@click.argument("numbers", type=click.IntRange(min=1), nargs=-1, metavar="[NUMBER]...")
@click.option("--all", "all_", is_flag=True, help="All that there are now.")
@json_option
@_answer_timeout
@socket_option
@click.pass_context
def purge(
    context: click.Context,
    numbers: tuple[int, ...],
    all_: bool,
    as_json: bool,
    timeout_s: float,
    socket: str | None,
) -> Exit:
    """Forget dead letters for good."""
    _which(context, numbers, all_)
    return _each("dead_purge", "purged", numbers, as_json, timeout_s, socket)


def _each(verb: str, done: str, numbers: tuple[int, ...], as_json: bool, timeout_s: float, socket: str | None) -> Exit:
    """Have something done with these, or without any with all; fails if some were not there."""
    count = 0
    with connected(socket, timeout_s=timeout_s) as client:
        pages = _pages(numbers) if numbers else _all(client, timeout_s)
        for page in pages:
            count += _ask(client, verb, timeout_s, numbers=",".join(map(str, page)))[done]
    click.echo(json.dumps({done: count}) if as_json else f"{done} {count}")
    return Exit.OK if not numbers or count == len(set(numbers)) else Exit.FAILED


def _pages(numbers: tuple[int, ...]) -> Iterator[tuple[int, ...]]:
    return (numbers[start : start + PAGE] for start in range(0, len(numbers), PAGE))


def _all(client: "Client", timeout_s: float) -> Iterator[list[int]]:
    """Yield the numbers of all letters, a page at a time."""
    after, more = 0, True
    while more:
        report = _ask(client, "dead_list", timeout_s, after=str(after))
        more = report["more"]
        if report["dead"]:
            after = report["dead"][-1]["number"]
            yield [letter["number"] for letter in report["dead"]]


def _ask(client: "Client", verb: str, timeout_s: float, **arguments: str) -> Any:
    return client.query(verb, timeout_s=timeout_s, **arguments)
