"""`reload`: the local agent reads its keys, its policy and the tokens of apps anew."""

import json

import click

from mesh.cli.options import connected, json_option, socket_option, timeout_option

__all__ = ["reload"]


@click.command(short_help="Have the agent read its keys, revocations and policy anew.")
@timeout_option(10.0, "How long to wait for the agent to do it.")
@json_option
@socket_option
def reload(timeout_s: float, as_json: bool, socket: str | None) -> None:
    """Have the local agent read its keys, its certificate and the revocations anew, and of its configuration the
    section [policy], as SIGHUP does.

    Links stay, but those to revoked keys, which end at once. With another key pair the reactor is replaced, within
    milliseconds; apps and peers resume. Services that the policy is against now are revoked. If anything cannot be read
    nothing changes, and the exit status is 7.
    """
    with connected(socket, timeout_s=timeout_s) as client:
        report = client.query("reload", timeout_s=timeout_s)
    if as_json:
        click.echo(json.dumps(report, indent=2))
        return
    for what, told in report.items():
        click.echo(f"{what}: {told}")
