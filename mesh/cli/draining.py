"""`drain`: the local agent takes nothing new and finishes what runs, or takes work again."""

import time

import click

from mesh.cli.exits import Exit
from mesh.cli.options import connected, socket_option

__all__ = ["drain"]

LOOK_S = 0.1
"""How often `--wait` asks what is left."""

ANSWER_S = 2.0
"""How long the agent may take for an answer."""


@click.command(short_help="Have the agent take nothing new, or work again.")
@click.option("--wait", is_flag=True, help="Return when all that ran has ended.")
@click.option(
    "--timeout-s",
    type=click.FloatRange(min=0),
    default=30.0,
    show_default=True,
    metavar="SECONDS",
    help="How long to wait for that; the agent goes on draining after it.",
)
@click.option("--resume", is_flag=True, help="End a drain: take work again.")
@socket_option
def drain(wait: bool, timeout_s: float, resume: bool, socket: str | None) -> int:
    """Have the local agent give back what has not begun, withdraw what its apps serve, and finish what runs.

    It stays up so, and its apps stay connected: what they ask waits for --resume, or for the agent that comes after a
    restart. Its services are waited for by callers, as those of an agent that restarts. Only root and the agent's own
    user may say this. To stop an agent in order send it SIGTERM: it drains by itself.
    """
    if resume and wait:
        raise click.UsageError("--wait is for draining, not for --resume")
    with connected(socket, timeout_s=ANSWER_S) as client:
        client.query("resume" if resume else "drain", timeout_s=ANSWER_S)
        until = time.monotonic() + timeout_s
        while wait:
            left = client.query("status", timeout_s=ANSWER_S)["unfinished"]
            if not left:
                break
            if time.monotonic() >= until:
                text = f"mesh: {left} of what runs there has not ended within {timeout_s:g} s; it goes on draining"
                click.echo(text, err=True)
                return Exit.FAILED
            time.sleep(LOOK_S)
    return Exit.OK
