"""The page of commands says what the program does."""

from pathlib import Path

from mesh.cli.exits import table
from mesh.cli.main import commands

PAGE = (Path(__file__).resolve().parents[2] / "docs" / "commands.md").read_text(encoding="utf-8")


def test_every_exit_status_is_on_the_page() -> None:
    rows = [line.strip().split(maxsplit=1) for line in table().splitlines()]
    assert [] == [row for row in rows if f"| {row[0]} | {row[1]} |" not in PAGE]


def test_every_command_is_on_the_page() -> None:
    assert [] == [name for name in commands.commands if name not in PAGE]
