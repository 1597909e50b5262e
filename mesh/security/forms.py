"""How what this package keeps looks as text: ``heartmesh KIND BASE64``, a line each, MessagePack inside.

One look says what a file holds, and a file of one kind is never taken for another.
"""

import base64
import binascii
from typing import Any

import msgspec

__all__ = ["LINES_MAX", "read_lines", "write_line"]

LINES_MAX = 64
"""Lines of one file: a few fleet keys at most."""


def write_line(kind: str, form: Any) -> str:
    """Return a struct as a line of text; ``bytes`` stand for themselves."""
    data = form if isinstance(form, bytes) else msgspec.msgpack.encode(form)
    return f"heartmesh {kind} {base64.b64encode(data).decode()}\n"


def read_lines(kind: str, text: str, type: Any, most: int = LINES_MAX) -> list[Any]:
    """Return what each line holds, at least one; raises ValueError that says what is wrong with which."""
    lines = [line.split() for line in text.splitlines() if line.strip()]
    if not lines or len(lines) > most:
        raise ValueError(f"has {len(lines)} lines, and must have from 1 to {most}")
    found = []
    for number, words in enumerate(lines, 1):
        if len(words) != 3 or words[:2] != ["heartmesh", kind]:
            raise ValueError(f"line {number} is no 'heartmesh {kind} …'")
        try:
            data = base64.b64decode(words[2], validate=True)
            found.append(data if type is bytes else msgspec.msgpack.decode(data, type=type))
        except (binascii.Error, msgspec.MsgspecError, ValueError) as error:
            raise ValueError(f"line {number} is damaged: {error}") from None
    return found
