"""`config`: check a file, show what is in effect and why, print the reference of all options."""

import json
import sys
from pathlib import Path
from typing import Any

import click
import msgspec

from mesh.cli.exits import Exit
from mesh.cli.options import config_option, json_option
from mesh.errors import ConfigError

__all__ = ["config"]


@click.group()
def config() -> None:
    """Check and explain the agent's configuration."""


@config.command()
@click.argument("file", type=click.Path(path_type=Path))
@json_option
def check(file: Path, as_json: bool) -> int:
    """Check FILE as an agent on this machine would read it; exit with 1 and every problem if it could not start.

    With --json a good file's open files are told too: what LimitNOFILE of the agent's unit has to be at least.
    """
    from mesh.config import load

    try:
        needed = load(file).descriptors_needed
    except ConfigError as error:
        if not as_json:
            raise
        click.echo(json.dumps({"file": str(file), "ok": False, "problems": error.problems}, indent=2))
        return Exit.FAILED
    if as_json:
        found = {"file": str(file), "ok": True, "problems": [], "descriptors_needed": needed}
        click.echo(json.dumps(found, indent=2))
    else:
        click.echo(f"{file}: ok")
    return Exit.OK


@config.command()
@config_option
@json_option
def show(path: Path | None, as_json: bool) -> None:
    """Show each option that is in effect, and where its value came from; secrets are left out."""
    from mesh.config import explain, load

    rows = explain(load(path))
    if as_json:
        listed = [{"section": r.section, "option": r.key, "value": r.value, "origin": r.origin} for r in rows]
        click.echo(json.dumps(msgspec.to_builtins(listed), indent=2))
        return
    from rich.markup import escape

    from mesh.cli.tables import console, rows_table

    shown, section = [], ""
    for row in rows:
        if row.section != section:
            section = row.section
            shown += [("", "", ""), (f"[bold]{escape(f'[{section}]')}[/]", "", "")]
        origin = f"[dim]{escape(row.origin)}[/]" if row.origin == "default" else escape(row.origin)
        shown.append((row.key, escape(_as_toml(row.value)), origin))
    console().print(rows_table(("OPTION", "VALUE", "FROM"), shown))


@config.command()
def reference() -> None:
    """Print the reference of all options in Markdown: type, default, bounds, meaning and trade-off."""
    from mesh.config.reference import reference as page

    sys.stdout.write(page())


def _as_toml(value: Any) -> str:
    """Return a value as it would be written in a file."""
    if isinstance(value, msgspec.Struct):
        value = {name: inner for name, inner in msgspec.to_builtins(value).items() if inner}
    if isinstance(value, dict):
        return "{ " + ", ".join(f"{key} = {_as_toml(inner)}" for key, inner in value.items()) + " }" if value else "{}"
    if isinstance(value, tuple | list):
        return f"[{', '.join(_as_toml(item) for item in value)}]"
    return json.dumps(value, ensure_ascii=False)
