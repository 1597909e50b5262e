"""What the records' types say, as values: examples of each record, and what is just beyond each bound."""

from collections.abc import Iterator
from typing import Any, get_args

from hypothesis import strategies as st
from msgspec import inspect

from mesh.core import records
from mesh.core.records import BODY_INLINE_MAX, Record

RECORDS: tuple[type, ...] = get_args(Record)
"""Every record, in the order of the union."""


def fields(record: type) -> tuple[inspect.Field, ...]:
    info = inspect.type_info(record)
    assert isinstance(info, inspect.StructType)
    return info.fields


def tag(record: type) -> int:
    info = inspect.type_info(record)
    assert isinstance(info, inspect.StructType)
    assert isinstance(info.tag, int)
    return info.tag


def least(kind: inspect.Type) -> Any:
    """The smallest value of a type."""
    match kind:
        case inspect.BoolType():
            return False
        case inspect.IntType():
            return kind.ge
        case inspect.StrType():
            return ""
        case inspect.BytesType():
            return b""
        case inspect.ListType():
            return []
        case inspect.UnionType():
            return None
        case inspect.TupleType():
            return [least(item) for item in kind.item_types]
    raise AssertionError(f"no record may have a field of {kind}")


def greatest(kind: inspect.Type) -> Any:
    """The largest value of a type: every bound is reached, at the top level."""
    match kind:
        case inspect.BoolType():
            return True
        case inspect.IntType():
            return kind.le
        case inspect.StrType():
            return "ü" * (kind.max_length or 0)
        case inspect.BytesType():
            return b"x" * min(kind.max_length or 0, BODY_INLINE_MAX)
        case inspect.ListType():
            return [greatest(kind.item_type)] * (kind.max_length or 0)
        case inspect.TupleType():
            return [greatest(item) for item in kind.item_types]
        case inspect.DictType():
            return {f"{number:0256}": "" for number in range(kind.max_length or 0)}
        case inspect.UnionType():
            return greatest(given(kind))
    raise AssertionError(f"no record may have a field of {kind}")


def beyond(kind: inspect.Type) -> Iterator[Any]:
    """Values of the right form that each break one bound, also of what is inside."""
    match kind:
        case inspect.IntType():
            assert kind.ge is not None
            assert kind.le is not None
            yield from (kind.ge - 1, kind.le + 1)
        case inspect.StrType():
            yield "x" * ((kind.max_length or 0) + 1)
        case inspect.BytesType():
            yield b"x" * (min(kind.max_length or 0, BODY_INLINE_MAX) + 1)
        case inspect.ListType():
            yield [least(kind.item_type)] * ((kind.max_length or 0) + 1)
            yield from ([item] for item in beyond(kind.item_type))
        case inspect.TupleType():
            lowest = [least(item) for item in kind.item_types]
            yield from (lowest[:-1], [*lowest, 0])
            for place, item in enumerate(kind.item_types):
                yield from ([*lowest[:place], bad, *lowest[place + 1 :]] for bad in beyond(item))
        case inspect.DictType():
            yield {str(number): "" for number in range((kind.max_length or 0) + 1)}
            yield from ({bad: ""} for bad in beyond(kind.key_type))
            yield from ({"key": bad} for bad in beyond(kind.value_type))
        case inspect.UnionType():
            yield from beyond(given(kind))


def wrong(kind: inspect.Type) -> list[Any]:
    """Values of other types."""
    values: list[Any] = [None, True, 1, -1, 1.5, "text", b"bytes", [1], {"key": 1}, {1: "value"}, [[1, 2, 3]]]
    right: dict[type[inspect.Type], tuple[Any, ...]] = {
        inspect.BoolType: (True,),
        inspect.IntType: (1,),
        inspect.StrType: ("text",),
        inspect.BytesType: (b"bytes",),
        inspect.ListType: ([1],) if isinstance(kind, inspect.ListType) and is_int(kind.item_type) else (),
        inspect.UnionType: (None,),
    }
    good = right[type(kind)]
    return [value for value in values if not any(type(value) is type(one) and value == one for one in good)]


def is_int(kind: inspect.Type) -> bool:
    return isinstance(kind, inspect.IntType)


def given(kind: inspect.UnionType) -> inspect.Type:
    """What a field holds that may hold nothing."""
    (value,) = [part for part in kind.types if not isinstance(part, inspect.NoneType)]
    return value


def minimal(record: type) -> list[Any]:
    """The shortest form of a record on the wire: its tag, and the smallest value of each field without a default."""
    return [tag(record), *(least(field.type) for field in fields(record) if field.required)]


def complete(record: type) -> list[Any]:
    """A record with all of its fields, each the smallest."""
    return [tag(record), *(least(field.type) for field in fields(record))]


def values(kind: inspect.Type) -> st.SearchStrategy[Any]:
    """Small values within the bounds of a type, and its extremes."""
    match kind:
        case inspect.BoolType():
            return st.booleans()
        case inspect.IntType():
            return st.integers(kind.ge, kind.le)
        case inspect.StrType():
            return st.text(max_size=min(20, kind.max_length or 0))
        case inspect.BytesType():
            return st.binary(max_size=40)
        case inspect.ListType():
            return st.lists(values(kind.item_type), max_size=3)
        case inspect.TupleType():
            return st.tuples(*map(values, kind.item_types))
        case inspect.DictType():
            return st.dictionaries(values(kind.key_type), values(kind.value_type), max_size=3)
        case inspect.UnionType():
            return st.none() | values(given(kind))
    raise AssertionError(f"no record may have a field of {kind}")


def of(record: type) -> st.SearchStrategy[Any]:
    """Valid records of one type."""
    return st.builds(record, *(values(field.type) for field in fields(record)))


def any_record() -> st.SearchStrategy[Any]:
    """Valid records of all types."""
    return st.sampled_from(RECORDS).flatmap(of)


def names() -> list[str]:
    """What `records` exports that is a record."""
    return [name for name in records.__all__ if getattr(records, name) in RECORDS]
