"""Records in words, for traces that people read."""

from enum import IntEnum
from zlib import crc32

from msgspec import NODEFAULT, structs

from mesh.core.records import Kind, Record, RefuseReason, Status, Verdict

__all__ = ["describe"]

ITEMS_MAX = 4
"""Items of a list that are written out."""

_NUMBERS: dict[str, type[IntEnum]] = {
    "kind": Kind,
    "status": Status,
    "verdicts": Verdict,
    "reason": RefuseReason,
}


def describe(record: Record) -> str:
    """Return a record's name and the fields that say something; bodies are counted and summed."""
    words = [type(record).__name__]
    for spec in structs.fields(record):
        value = getattr(record, spec.name)
        if spec.default is NODEFAULT or value != spec.default:
            words.append(f"{spec.name}={_value(spec.name, value)}")
    return " ".join(words)


def _value(name: str, value: object) -> str:
    if isinstance(value, bytes):
        return f"{len(value)}B:{crc32(value):08x}"
    if isinstance(value, list):
        shown = ",".join(_value(name, item) for item in value[:ITEMS_MAX])
        return f"[{shown}{f',… {len(value)}' if len(value) > ITEMS_MAX else ''}]"
    if isinstance(value, int) and name in _NUMBERS:
        return _NUMBERS[name](value).name
    return repr(value) if isinstance(value, str) and " " in value else str(value)
