"""A guide, done as it is written: its files are made, its commands typed into one shell, what they print is compared.

A block of code whose first line is a comment with a file's name is that file. In a ``console`` block ``$`` begins a
command and ``>`` goes on with it; the lines after it are what it prints. There ``…`` stands for anything, and a line of
its own for any lines. What a command that ends in ``&`` prints is not looked at.
"""

import re
import subprocess
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import NamedTuple

__all__ = ["Command", "commands", "files", "follow"]

BLOCK = re.compile(r"^```(\w+)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
NAMED = re.compile(r"# ([\w.-]+)\n")
END = "— the command has ended —"


class Command(NamedTuple):
    """What is typed, and what is printed then."""

    typed: str
    printed: tuple[str, ...]


def files(page: str) -> dict[str, str]:
    """Return the files of a page, by name."""
    named = [(NAMED.match(body), body) for _, body in BLOCK.findall(page)]
    return {match[1]: body for match, body in named if match}


def commands(page: str) -> Iterator[Command]:
    """Yield the commands of a page, in order."""
    for kind, body in BLOCK.findall(page):
        if kind == "console":
            for part in re.split(r"^\$ ", body, flags=re.MULTILINE)[1:]:
                lines = part.splitlines()
                typed = 1 + next((at for at, line in enumerate(lines[1:]) if not line.startswith(">")), len(lines) - 1)
                rest = [line.removeprefix(">").removeprefix(" ") for line in lines[1:typed]]
                yield Command("\n".join([lines[0], *rest]), tuple(lines[typed:]))


def follow(page: str, directory: Path, environment: Mapping[str, str]) -> list[str]:
    """Do in an empty directory what a page says; returns what went otherwise than it says."""
    for name, body in files(page).items():
        (directory / name).write_text(body, encoding="utf-8")
    with subprocess.Popen(
        ["bash", "--norc"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        cwd=directory,
        env=dict(environment),
        text=True,
        bufsize=1,
    ) as shell:
        assert shell.stdin
        try:
            return [problem for command in commands(page) for problem in _type(shell, command)]
        finally:
            shell.stdin.write("kill $(jobs -p) 2>/dev/null; wait; exit\n")
            shell.stdin.close()


def _type(shell: "subprocess.Popen[str]", command: Command) -> Iterator[str]:
    """Type one command; yield what it printed where that is not what was to be printed."""
    assert shell.stdin
    assert shell.stdout
    is_behind = command.typed.endswith("&")
    typed = f"{command.typed[:-1]} >>behind.log 2>&1 &" if is_behind and "2>" not in command.typed else command.typed
    shell.stdin.write(f"{typed}\nlast=$?; printf '\\n%s\\n' '{END}'; (exit $last)\n")
    lines = list(iter(lambda: shell.stdout.readline().rstrip(), END))  # type: ignore[union-attr]
    printed = "\n".join(lines).strip("\n")
    if not is_behind and not _pattern(command.printed).fullmatch(printed):
        yield f"$ {command.typed}\nprinted\n{printed}\nand was to print\n" + "\n".join(command.printed)


def _pattern(lines: tuple[str, ...]) -> re.Pattern[str]:
    """Return what fits the lines of a guide, where ``…`` stands for anything within a line."""
    parts = [r"(?s:.*)" if line == "…" else re.escape(line).replace("…", ".*") for line in lines]
    return re.compile("\n".join(parts))
