"""`keys`: a fleet's signing key, the nodes' key pairs, certificates and revocations; see docs/security.md."""

import json
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from mesh.cli.options import config_option, json_option

if TYPE_CHECKING:
    from mesh.config import Config

__all__ = ["keys"]

DAYS = 365.0

_directory = click.Path(file_okay=False, path_type=Path)
_fleet_argument = click.argument("fleet_directory", type=_directory)
_node_argument = click.argument("directory", type=_directory, required=False)


@click.group(short_help="Keys, certificates and revocations.")
def keys() -> None:
    """Make, sign, change and revoke the keys that secure the links between agents.

    The operator keeps a FLEET_DIRECTORY with what signs; it never goes to a node. Each node has a DIRECTORY of its own,
    by default the one that its agent reads.
    """


@keys.command("init-fleet", short_help="Make a fleet's signing key.")
@_fleet_argument
@click.option("--fleet", default="default", show_default=True, metavar="NAME", help="The fleet that it signs for.")
def init_fleet(fleet_directory: Path, fleet: str) -> None:
    """Make FLEET_DIRECTORY with the signing key of a fleet; keep it where you deploy from, and a copy offline."""
    from mesh.security import store

    store.make_fleet(fleet_directory, fleet)
    click.echo(f"{fleet_directory}: the signing key of fleet {fleet}; who has it can add nodes")


@keys.command(short_help="Make a node's key pair, and what is to be signed.")
@_node_argument
@click.option("--node", metavar="NODE", help="The node that it is for; without it this machine's.")
@config_option
def generate(directory: Path | None, node: str | None, path: Path | None) -> None:
    """Make a node's key pair in DIRECTORY, and a request to be signed by `mesh keys sign`."""
    from mesh.security import store

    config = _config(path) if directory is None or node is None else None
    directory, node = _place(directory, config), node or str(config and config.node_id)
    store.make_node(directory, node)
    _say_request(directory, node)


@keys.command(short_help="Make a node's next key pair; the present one stays until that is signed.")
@_node_argument
@config_option
def rotate(directory: Path | None, path: Path | None) -> None:
    """Make a node's next key pair in DIRECTORY, and a request to be signed by `mesh keys sign`.

    The agent goes on with the present pair. With the new certificate in place `mesh reload` changes over; peers accept
    both until the old certificate expires or is revoked.
    """
    from mesh.security import store

    directory = _place(directory, _config(path) if directory is None else None)
    _say_request(directory, store.renew_node(directory).node)


def _say_request(directory: Path, node: str) -> None:
    from mesh.security import store

    click.echo(f"{directory / store.REQUEST}: the key of node {node}; have it signed:")
    click.echo(f"    mesh keys sign FLEET_DIRECTORY {directory / store.REQUEST}")


@keys.command(short_help="Sign for a node's key.")
@_fleet_argument
@click.argument("request", type=click.Path(exists=True, dir_okay=False, path_type=Path))
@click.option("--node", metavar="NODE", help="Sign only if the request is of this node.")
@click.option(
    "--days", type=click.FloatRange(min=0, max=36_500), default=DAYS, show_default=True, help="How long it is valid."
)
@click.option("--role", "roles", multiple=True, metavar="ROLE", help="A role to certify; may be repeated.")
@click.option("--out", type=_directory, help="Where what the node needs is put; without it beside the request.")
def sign(
    fleet_directory: Path, request: Path, node: str | None, days: float, roles: tuple[str, ...], out: Path | None
) -> None:
    """Certify that the key in REQUEST is its node's; look at it with `mesh keys show REQUEST` first.

    Three files come of it, none of them secret: node.certificate, fleet.public and revoked. They belong into the node's
    directory; its agent takes them by `mesh reload`, or when it starts. No other host is touched.
    """
    from mesh.security import store
    from mesh.security.certificates import moment

    asked = store.read_request(request)
    if node not in (None, asked.node):
        raise click.UsageError(f"{request} is of node {asked.node!r}, not of {node!r}")
    out = out or request.parent
    told = store.certify(fleet_directory, asked, out, days=days, roles=roles, unix_s=time.time())
    until = moment(told.valid_until)
    click.echo(f"{out / store.CERTIFICATE}: node {told.node} of fleet {told.fleet}, valid until {until}")


@keys.command(short_help="Revoke the keys of a node, or one key.")
@_fleet_argument
@click.argument("whom", metavar="NODE|PUBLIC_KEY")
def revoke(fleet_directory: Path, whom: str) -> None:
    """Revoke every key that was signed for NODE and has not expired, or the one PUBLIC_KEY.

    Copy FLEET_DIRECTORY/revoked into each node's directory, and have each agent `mesh reload`: it ends the links of
    revoked keys at once and lets them in no more.
    """
    from mesh.security import store

    revocations, new = store.revoke(fleet_directory, whom, time.time())
    for key in new:
        click.echo(f"revoked {key}")
    click.echo(f"{fleet_directory / 'revoked'}: number {revocations.number}, {len(revocations.keys)} keys")


@keys.command(short_help="What a directory or a file of keys holds.")
@click.argument("where", type=click.Path(path_type=Path), required=False)
@config_option
@json_option
def show(where: Path | None, path: Path | None, as_json: bool) -> None:
    """Show what WHERE holds: a node's directory (by default this machine's), a fleet's, or a request. No secrets."""
    report = _report(_place(where, _config(path) if where is None else None))
    if as_json:
        click.echo(json.dumps(report, indent=2))
        return
    for name, value in report.items():
        for line in value if isinstance(value, list) else [value]:
            click.echo(f"{name}: {line}")


def _report(where: Path) -> dict[str, Any]:
    from mesh.security import store
    from mesh.security.certificates import Certificate, moment, peek

    def said(told: Certificate) -> str:
        left = f"valid from {moment(told.valid_from)} until {moment(told.valid_until)}"
        return f"node {told.node} of fleet {told.fleet}, key {told.public_key}, {left}, roles {list(told.roles)}"

    if where.is_file():
        request = store.read_request(where)
        return {"request": f"node {request.node}, key {request.public_key}"}
    if store.is_fleet(where):
        secret, revocations, issued = store.load_fleet(where)
        about = {"fleet": secret.fleet, "revocations": revocations.number, "revoked": list(revocations.keys)}
        return {**about, "issued": [said(each) for each in issued]}
    secrets, shown = store.load_node(where)
    told = peek(shown) if shown is not None else None
    pairs = [each.public_key + (" (in use)" if told and told.public_key == each.public_key else "") for each in secrets]
    return {"key": pairs, "certificate": said(told) if told else "none: have node.request signed by `mesh keys sign`"}


def _config(path: Path | None) -> "Config":
    from mesh.config import load

    return load(path)


def _place(directory: Path | None, config: "Config | None") -> Path:
    if directory is not None:
        return directory
    assert config is not None
    return Path(config.security.keys_dir)
