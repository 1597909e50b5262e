"""What an agent reads anew while it runs, on SIGHUP or when an app asks: all of it, or nothing if a part is broken."""

from collections.abc import Callable, Mapping
from typing import Any

from mesh.core.effects import Level
from mesh.errors import ConfigError

__all__ = ["RELOAD_REFUSED", "Reader", "Reloading"]

RELOADED = "reloaded"
RELOAD_REFUSED = "reload_refused"

Reader = Callable[[], Callable[[], str]]
"""Reads, which may block, and raises ConfigError; returns what puts that into effect and says what it came to."""


class Reloading:
    """Reloads by ``readers``, by the name of what each reads. ``run`` runs what blocks, in a thread of its own."""

    def __init__(self, readers: Mapping[str, Reader], run: Callable[..., Any], note: Callable[..., None]) -> None:
        self.readers = readers
        self.run = run
        self.note = note

    def reload(self) -> tuple[bool, dict[str, str] | str]:
        """Return whether everything could be read, and what each part came to, or else what is wrong."""
        try:
            read = {name: self.run(reader) for name, reader in self.readers.items()}
        except ConfigError as error:
            why = f"nothing was changed: {error}"
            self.note(RELOAD_REFUSED, Level.ERROR, why=why)
            return False, why
        told = {name: apply() for name, apply in read.items()}
        self.note(RELOADED, Level.INFO, **told)
        return True, told
