"""What the demo's app sends: the texts, as calls and as casts, each sent again until it has ended well."""

from collections.abc import Sequence
from concurrent.futures import Future
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from mesh.cli.wordcount import PIECE, PIECES, WORDS
from mesh.errors import OutcomeError

if TYPE_CHECKING:
    from mesh.client.api import Reply
    from mesh.client.sync import Client

__all__ = ["TIMEOUT_S", "Job", "in_turns", "read_texts"]

FILES_MAX = 10_000
TEXT_BYTES_MAX = 64 << 20
ATTEMPTS = 3
TIMEOUT_S = 15.0


def read_texts(files: Sequence[Path]) -> list[bytes]:
    """Return the contents of files; raises UsageError beyond the limits."""
    if len(files) > FILES_MAX:
        raise click.UsageError(f"{len(files)} files are more than {FILES_MAX}: name fewer")
    size = sum(file.stat().st_size for file in files)
    if size > TEXT_BYTES_MAX:
        raise click.UsageError(f"the files hold {size} bytes, more than {TEXT_BYTES_MAX}: name fewer")
    return [file.read_bytes() for file in files]


class Job:
    """One thing to send, as often as it takes. A piece that is counted twice has the same name each time."""

    def __init__(self, client: "Client", body: bytes, piece: str = "") -> None:
        self.body = body
        self.piece = piece
        self.attempts = 0
        self._client = client
        self._future: Future[Any] = Future()

    def send(self) -> None:
        """Send it: a piece as a cast, any other as a call."""
        self.attempts += 1
        client = self._client
        if self.piece:
            headers = {PIECE: self.piece}
            self._future = client.cast_async(PIECES, self.body, headers=headers, ttl_s=TIMEOUT_S, confirm=True)
        else:
            self._future = client.call_async(WORDS, self.body, timeout_s=TIMEOUT_S)

    @property
    def is_done(self) -> bool:
        """Whether it has ended, well or not."""
        return self._future.done()

    def finish(self) -> "Reply | None":
        """Wait for its end, and send it again if that is not good; raises the last OutcomeError."""
        while True:
            try:
                reply: Reply | None = self._future.result(2 * TIMEOUT_S)
                return reply
            except OutcomeError:
                if self.attempts >= ATTEMPTS:
                    raise
                self.send()


def in_turns(first: Sequence[Job], second: Sequence[Job]) -> list[Job]:
    """Return two sequences as one, mixed evenly."""
    places = [(number / len(jobs), job) for jobs in (first, second) for number, job in enumerate(jobs)]
    return [job for _, job in sorted(places, key=lambda place: place[0])]
