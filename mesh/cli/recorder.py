"""`recorder`: what the local agent's flight recorder holds and has written."""

import contextlib
import json
import os
import time
from pathlib import Path

import click

from mesh.cli.options import connected, json_option, socket_option, timeout_option

__all__ = ["recorder"]


@click.group(short_help="The agent's flight recorder: what it was told lately.")
def recorder() -> None:
    """The local agent's flight recorder: what the agent was told lately, to be replayed by `mesh sim --replay`."""


@recorder.command(short_help="Have the agent write down what it was told lately.")
@click.argument("file", type=click.Path(path_type=Path, dir_okay=False), required=False)
@timeout_option(60.0, "How long to wait for the agent to write it.")
@json_option
@socket_option
def dump(file: Path | None, timeout_s: float, as_json: bool, socket: str | None) -> None:
    """Have the agent write down what it was told lately, and print where; with FILE, copy it there.

    The agent writes into the directory recordings of its data_dir, where only its own user may read.
    """
    with connected(socket, timeout_s=timeout_s) as client:
        path = Path(client.query("recorder_dump", timeout_s=timeout_s)["path"])
    if file is not None:
        _copy(path, file)
        path = file
    click.echo(json.dumps({"path": str(path)}) if as_json else str(path))


def _copy(path: Path, file: Path) -> None:
    """Copy a recording to a new file that only this user may read; raises ClickException."""
    try:
        data = path.read_bytes()
    except OSError as error:
        text = f"the agent wrote {path}, which you may not read ({error.strerror}): do so as the agent's user"
        raise click.ClickException(text) from None
    try:
        fd = os.open(file, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    except OSError as error:
        raise click.ClickException(f"{file}: {error.strerror}; the agent wrote {path}") from None
    try:
        with open(fd, "wb") as out:
            out.write(data)
    except OSError as error:
        with contextlib.suppress(OSError):
            file.unlink()
        raise click.ClickException(f"{file}: {error.strerror}; the agent wrote {path}") from None


@recorder.command("list", short_help="What the recorder holds, and the recordings on disk.")
@timeout_option(2.0, "How long to wait for the agent.")
@json_option
@socket_option
def list_recordings(timeout_s: float, as_json: bool, socket: str | None) -> None:
    """Show what the recorder holds now, and the recordings that the agent has written."""
    with connected(socket, timeout_s=timeout_s) as client:
        report = client.query("recorder", timeout_s=timeout_s)
    if as_json:
        click.echo(json.dumps(report, indent=2))
        return
    from mesh.cli.tables import console, rows_table

    out = console()
    state = "off" if not report["on"] else "paused: too much is outstanding" if report["paused"] else "on"
    held = f"{report['inputs']:,} inputs of the last {report['since_s']:,.0f} s, {report['bytes'] / (1 << 20):.1f} MiB"
    out.print(f"recorder {state}; {held}", highlight=False)
    rows = [
        (each["name"], f"{each['bytes']:,}", time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(each["written"])))
        for each in report["recordings"]
    ]
    out.print(rows_table(("RECORDING", "BYTES", "WRITTEN"), rows, ("BYTES",)))
    out.print(f"in {report['directory']}", highlight=False, soft_wrap=True)
