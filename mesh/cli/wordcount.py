"""The demo's workers: ``python -m mesh.cli.wordcount SOCKET SERVER`` counts words until its standard input ends.

Three topics: ``words`` answers a call with the number of words in its body; ``pieces`` takes casts and remembers how
many words each held, by the name in its header, so that a piece that comes twice counts once; ``tally`` answers with
what was remembered, and forgets it when a fan-out says so.
"""

import json
import re
import sys
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from mesh.client.api import Message

__all__ = ["PIECE", "PIECES", "TALLY", "WORDS", "Tally", "count_words", "main", "split"]

WORDS, PIECES, TALLY = "words", "pieces", "tally"

PIECE = "piece"
"""The header that names a piece."""

_WORD = re.compile(rb"\w+")


def count_words(text: bytes) -> int:
    """Return how many runs of letters, digits and underscores (as bytes) there are."""
    return sum(1 for _ in _WORD.finditer(text))


def split(texts: Iterable[bytes], count: int) -> list[bytes]:
    """Cut texts at line ends into about ``count`` pieces of much the same size."""
    texts = list(texts)
    size = max(1, sum(map(len, texts)) // count)
    pieces = []
    for text in texts:
        start = 0
        while start < len(text):
            end = text.find(b"\n", start + size)
            end = len(text) if end < 0 else end + 1
            pieces.append(text[start:end])
            start = end
    return pieces


class Tally:
    """What one worker has counted, by the name of the piece."""

    def __init__(self) -> None:
        self.counts: dict[str, int] = {}

    def add(self, message: "Message") -> None:
        """Count a piece."""
        self.counts[message.headers[PIECE]] = count_words(message.body)

    def tell(self, message: "Message") -> bytes:
        """Answer a call with what was counted; begin anew at a fan-out."""
        if message.kind == "fanout":
            self.counts.clear()
            return b""
        return json.dumps(dict(self.counts)).encode()


def main(arguments: Sequence[str]) -> None:
    """Be a worker."""
    from mesh.client.sync import connect

    socket, server = arguments
    tally = Tally()
    with connect("counter", socket=socket) as client:
        client.serve(WORDS, lambda message: str(count_words(message.body)).encode(), server=server)
        client.serve(PIECES, tally.add, server=server, workers=1)
        client.serve(TALLY, tally.tell, server=server, workers=1)
        sys.stdout.write("ready\n")
        sys.stdout.flush()
        sys.stdin.read()


if __name__ == "__main__":
    main(sys.argv[1:])
