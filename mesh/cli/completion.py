"""`completion`: what a shell needs to complete our commands, options and topics."""

import click

__all__ = ["completion"]


@click.command(short_help="Print a shell completion script.")
@click.argument("shell", type=click.Choice(["bash", "zsh", "fish"]), metavar="SHELL")
@click.pass_context
def completion(context: click.Context, shell: str) -> None:
    """Print the completion script of SHELL (bash, zsh or fish) for this command, by the name it was called with.

    \b
    bash:  mesh completion bash > ~/.local/share/bash-completion/completions/mesh
    zsh:   mesh completion zsh > a file named _mesh in a directory of $fpath
    fish:  mesh completion fish > ~/.config/fish/completions/mesh.fish
    """
    from click.shell_completion import get_completion_class

    root = context.find_root()
    name = root.info_name or "mesh"
    kind = get_completion_class(shell)
    assert kind is not None
    click.echo(kind(root.command, {}, name, f"_{name.upper()}_COMPLETE").source())
