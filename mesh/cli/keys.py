"""`keys`: a fleet's signing key, the nodes' key pairs, certificates and revocations; see docs/security.md."""

import json
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from mesh.cli.options import config_option, json_option

if TYPE_CHECKING:
    from mesh.config import Config
    from mesh.matchmaker.consul_revocations import ConsulRevocations

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


_consul_option = click.option(
    "--consul", "address", metavar="ADDRESS", help="Consul's http:// or https:// address, in place of the file's."
)
_token_file_option = click.option(
    "--token-file",
    type=click.Path(path_type=Path),
    metavar="FILE",
    help="The token that may write the key, in place of the agent's; see consul/acl/operator.hcl.",
)


@keys.command(short_help="Revoke the keys of a node, or one key.")
@_fleet_argument
@click.argument("whom", metavar="NODE|PUBLIC_KEY")
@click.option("--publish", "is_published", is_flag=True, help="Then publish the list, as `mesh keys publish` does.")
@config_option
@_consul_option
@_token_file_option
def revoke(
    fleet_directory: Path,
    whom: str,
    is_published: bool,
    path: Path | None,
    address: str | None,
    token_file: Path | None,
) -> None:
    """Revoke every key that was signed for NODE and has not expired, or the one PUBLIC_KEY.

    With --publish every agent that finds the others by Consul ends the links of revoked keys within a second, and lets
    them in no more. Without Consul copy FLEET_DIRECTORY/revoked into each node's directory, and have each agent `mesh
    reload`. New nodes get the list from `mesh keys sign`.
    """
    from mesh.matchmaker.base import MatchmakerError
    from mesh.security import store

    place = _place_of(fleet_directory, path, address, token_file) if is_published else None
    revocations, new = store.revoke(fleet_directory, whom, time.time())
    for key in new:
        click.echo(f"revoked {key}")
    click.echo(f"{fleet_directory / store.REVOKED}: number {revocations.number}, {len(revocations.keys)} keys")
    try:
        if place is not None:
            _post(fleet_directory, place)
    except MatchmakerError as error:
        raise MatchmakerError(f"{error}; the list is written, `mesh keys publish` publishes it") from error


@keys.command(short_help="Have every agent hear of the revocations, by Consul.")
@_fleet_argument
@config_option
@_consul_option
@_token_file_option
def publish(fleet_directory: Path, path: Path | None, address: str | None, token_file: Path | None) -> None:
    """Put FLEET_DIRECTORY/revoked where every agent watches for it: into Consul, once for each datacenter.

    Consul's address, certificates and token are those of the configuration's section [matchmaker.consul]. A list that
    is older than the one that is there is not published.
    """
    _post(fleet_directory, _place_of(fleet_directory, path, address, token_file))


def _place_of(
    fleet_directory: Path, path: Path | None, address: str | None, token_file: Path | None
) -> "ConsulRevocations":
    """Return where a fleet's revocations are posted; raises ConfigError or MatchmakerError."""
    from msgspec import structs

    from mesh.matchmaker.consul_api import ConsulOptions
    from mesh.matchmaker.consul_revocations import ConsulRevocations
    from mesh.security import store

    config = _config(path)
    fleet = store.load_fleet(fleet_directory)[0].fleet
    if config.path is not None and config.fleet != fleet:
        raise click.UsageError(f"{fleet_directory} is of fleet {fleet!r}, {config.path} of {config.fleet!r}")
    told = {"address": address, "token_file": str(token_file) if token_file else None}
    options = structs.replace(
        config.consul or ConsulOptions(), **{name: value for name, value in told.items() if value is not None}
    )
    return ConsulRevocations(fleet, options)


def _post(fleet_directory: Path, place: "ConsulRevocations") -> None:
    """Post a fleet's revocations, unless something later is there; raises ConfigError or MatchmakerError."""
    from mesh.matchmaker.base import MatchmakerError
    from mesh.security import store

    secret, own, _ = store.load_fleet(fleet_directory)
    there = place.read()
    if there.text is not None:
        try:
            posted = store.read_revocations(there.text, secret.fleet, store.trusted(fleet_directory, secret.fleet))
        except ValueError as error:
            click.echo(f"{place}: what is there {error}; it is replaced", err=True)
        else:
            if (posted.number, set(own.keys)) == (own.number, set(posted.keys)):
                click.echo(f"{place}: number {own.number}, {len(own.keys)} keys, was there already")
                return
            if posted.number >= own.number:
                raise click.ClickException(
                    f"{place}: a list with number {posted.number} and {len(posted.keys)} keys is there, which this "
                    f"directory, at number {own.number}, does not know: publish from the directory that it came from"
                )
    if not place.post(store.revocations_text(fleet_directory), there.written):
        raise MatchmakerError(f"{place}: somebody else published meanwhile; try `mesh keys publish` again")
    click.echo(f"{place}: number {own.number}, {len(own.keys)} keys; agents take it within a second")


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
