"""`why`: what agents' flight recorders tell of one message, after the fact."""

import json
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from mesh.cli.exits import Exit
from mesh.cli.options import connected, json_option, socket_option, timeout_option

if TYPE_CHECKING:
    from mesh.core.recording import Recording
    from mesh.sim.story import Story
    from mesh.types import MessageId

__all__ = ["why"]

WAYS = {"←": "from", "→": "to", "✕": "lost"}


def _read_id(context: click.Context, parameter: click.Parameter, text: str) -> "MessageId":
    """Read ``NODE/SESSION/SEQ``, as errors and logs show it."""
    from mesh.types import MessageId

    node, _, rest = text.rpartition("/")[0].rpartition("/")
    try:
        return MessageId(node, int(rest, 16), int(text.rpartition("/")[2]))
    except ValueError:
        raise click.BadParameter(f"{text!r} is no message id: they look like web1/5f3a9c0d11e2b4a7/42") from None


@click.command(short_help="What became of one message, from the agents' flight recorders.")
@click.argument("message_id", metavar="MESSAGE_ID", callback=_read_id)
@click.argument("files", nargs=-1, type=click.Path(path_type=Path, dir_okay=False))
@timeout_option(60.0, "How long to wait for the agent to write its recording.")
@json_option
@socket_option
def why(message_id: "MessageId", files: tuple[Path, ...], timeout_s: float, as_json: bool, socket: str | None) -> int:
    """Tell what became of a message: which agent held it, where it went, whether it ran, how it ended.

    MESSAGE_ID stands in brackets at the end of every error. Without FILES the local agent writes down what it was told
    lately; its recording may be read by its own user. FILES are recordings from `mesh recorder dump` on several
    machines, or that agents wrote when they broke; all are shown, one after the other.
    """
    from mesh.cli.replay import load

    if not files:
        with connected(socket, timeout_s=timeout_s) as client:
            files = (Path(client.query("recorder_dump", timeout_s=timeout_s)["path"]),)
    recordings = [(path, load(path)) for path in files]
    stories = [_story(path, recording, message_id) for path, recording in recordings]
    if as_json:
        told = [_as_json(recording, one) for (_, recording), one in zip(recordings, stories, strict=True)]
        click.echo(json.dumps(told, indent=2))
    else:
        for (_, recording), one in zip(recordings, stories, strict=True):
            click.echo("\n".join(_lines(recording, one)))
        _say_where_else(message_id, stories)
    return Exit.OK if any(one.passages or one.at_first for one in stories) else Exit.FAILED


def _story(path: Path, recording: "Recording", message_id: "MessageId") -> "Story":
    from mesh.sim.story import story

    try:
        return story(recording, message_id)
    except ValueError as error:
        raise click.ClickException(f"{path}: {error}") from None


def _lines(recording: "Recording", one: "Story") -> list[str]:
    """Return a story, with the times of the agent's own clock."""
    began = recording.header.written_unix_ms / 1000 - one.length_s
    start = f"from {_clock(began)}{', when its reactor began,' if one.from_start else ''}"
    lines = [f"{one.node}, {start} to {_clock(began + one.length_s)} of its clock: {one.verdict}"]
    if one.at_first:
        lines.append(f"  {_clock(began)}  at first: {one.at_first}")
    lines += [f"  {_clock(began + p.at_s)}  {p.way} {p.whom}: {p.what}" for p in one.passages]
    if not one.whole:
        lines.append("  the replay went another way than the agent from here on: use the version that wrote this")
    return lines


def _clock(unix_s: float) -> str:
    return f"{time.strftime('%H:%M:%S', time.localtime(unix_s))}.{int(unix_s % 1 * 1000):03}"


def _say_where_else(message_id: "MessageId", stories: "list[Story]") -> None:
    """Name the agents that have a part in it and were not asked."""
    asked = [one.node for one in stories]
    nodes = dict.fromkeys([message_id.node, *(peer for one in stories for peer in one.peers)])
    for node in nodes:
        if node not in asked:
            click.echo(f"{node} knows more: `mesh recorder dump FILE` there, then `mesh why {message_id} FILES`")
        elif not any(one.at_first or one.passages for one in stories if one.node == node):
            click.echo(
                f"{node} had it before its recording begins: another reactor, or longer ago than it reaches back"
            )


def _as_json(recording: "Recording", one: "Story") -> dict[str, Any]:
    began = recording.header.written_unix_ms / 1000 - one.length_s
    return {
        "node": one.node,
        "incarnation": one.incarnation,
        "from": round(began, 3),
        "from_start": one.from_start,
        "until": round(began + one.length_s, 3),
        "at_first": one.at_first,
        "passages": [
            {"at": round(began + p.at_s, 6), "way": WAYS[p.way], "whom": p.whom, "what": p.what} for p in one.passages
        ],
        "handed_to": one.handed_to,
        "ran": one.ran,
        "ended": one.ended,
        "whole": one.whole,
        "verdict": one.verdict,
    }
