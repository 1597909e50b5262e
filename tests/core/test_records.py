"""The records: every field is bounded, every bound is enforced, and what came later does not disturb."""

from typing import Any

import msgspec
import pytest
from msgspec import inspect

from mesh.core import codec, records
from mesh.core.records import PROTOCOL_MINOR, SINCE, Flag, Kind, Record, RefuseReason, Request, Status, Verdict
from mesh.errors import ProtocolError
from tests.core.schemas import RECORDS, beyond, complete, fields, greatest, minimal, names, tag, wrong

DECODER: msgspec.msgpack.Decoder[Any] = msgspec.msgpack.Decoder(Record)
EVERY_FIELD = [(record, place) for record in RECORDS for place in range(len(fields(record)))]


def decode(form: list[Any]) -> Any:
    return DECODER.decode(msgspec.msgpack.encode(form))


def with_field(record: type, place: int, value: Any) -> list[Any]:
    form = complete(record)
    form[place + 1] = value
    return form


def label(value: Any) -> str:
    return value.__name__ if isinstance(value, type) else str(value)


def bounded(kind: inspect.Type) -> bool:
    """Whether nothing of this type can grow without a limit."""
    match kind:
        case inspect.BoolType() | inspect.NoneType():
            return True
        case inspect.IntType():
            return kind.ge is not None and kind.le is not None and kind.le < 1 << 63
        case inspect.StrType() | inspect.BytesType():
            return kind.max_length is not None
        case inspect.ListType():
            return kind.max_length is not None and bounded(kind.item_type)
        case inspect.TupleType():
            return all(map(bounded, kind.item_types))
        case inspect.DictType():
            return kind.max_length is not None and bounded(kind.key_type) and bounded(kind.value_type)
        case inspect.UnionType():
            return all(map(bounded, kind.types))
    return False


@pytest.mark.parametrize(("record", "place"), EVERY_FIELD, ids=label)
def test_every_field_has_bounds(record: type, place: int) -> None:
    assert bounded(fields(record)[place].type)


@pytest.mark.parametrize(("record", "place"), EVERY_FIELD, ids=label)
def test_a_value_at_its_bound_is_taken_and_one_beyond_is_not(record: type, place: int) -> None:
    field = fields(record)[place]
    most = greatest(field.type)
    taken = msgspec.to_builtins(getattr(decode(with_field(record, place, most)), field.name), builtin_types=(bytes,))
    assert msgspec.msgpack.encode(most) == msgspec.msgpack.encode(taken)
    for value in beyond(field.type):
        with pytest.raises(ProtocolError):
            codec.decode(msgspec.msgpack.encode((0, [with_field(record, place, value)])))


@pytest.mark.parametrize(("record", "place"), EVERY_FIELD, ids=label)
def test_a_value_of_another_type_is_not_taken(record: type, place: int) -> None:
    for value in wrong(fields(record)[place].type):
        with pytest.raises(msgspec.ValidationError):
            decode(with_field(record, place, value))


@pytest.mark.parametrize("record", RECORDS, ids=label)
def test_fields_with_defaults_come_last_and_may_be_left_out(record: type) -> None:
    required = [field.required for field in fields(record)]
    assert sorted(required, reverse=True) == required
    short = decode(minimal(record))
    assert record is type(short)
    assert [f.default for f in fields(record) if not f.required] == [
        getattr(short, f.name) for f in fields(record) if not f.required
    ]


@pytest.mark.parametrize("record", RECORDS, ids=label)
def test_a_record_without_one_of_its_required_fields_is_not_taken(record: type) -> None:
    form = minimal(record)
    with pytest.raises(msgspec.ValidationError):
        decode(form[:-1])


@pytest.mark.parametrize("record", RECORDS, ids=label)
def test_trailing_fields_of_a_later_version_are_skipped(record: type) -> None:
    assert decode(complete(record)) == decode([*complete(record), {"later": [1, 2]}, None, 7])


def test_every_record_has_a_tag_of_its_own_below_128_so_that_it_takes_one_byte() -> None:
    tags = [tag(record) for record in RECORDS]
    assert sorted(set(tags)) == tags
    assert all(0 < number < 128 for number in tags)


def test_a_tag_that_nobody_knows_is_not_taken() -> None:
    unknown = next(number for number in range(1, 128) if number not in [tag(record) for record in RECORDS])
    forms: list[Any] = [[unknown], [unknown, 1, 2], [], ["1"], [None], {}]
    for form in forms:
        with pytest.raises(msgspec.ValidationError):
            DECODER.decode(msgspec.msgpack.encode(form))


def test_every_record_is_exported_and_part_of_the_union() -> None:
    assert sorted(record.__name__ for record in RECORDS) == sorted(names())
    structs = [value for value in vars(records).values() if isinstance(value, type) and is_own(value)]
    assert [] == [struct for struct in structs if struct not in RECORDS]


def is_own(value: type) -> bool:
    """Whether `records` defines this as a public struct."""
    own = value.__module__ == records.__name__ and not value.__name__.startswith("_")
    return own and issubclass(value, msgspec.Struct)


def test_a_later_record_says_a_minor_version_that_exists() -> None:
    assert all(record in RECORDS and 0 < minor <= PROTOCOL_MINOR for record, minor in SINCE.items())


def test_numbers_of_enumerations_fit_the_fields_that_carry_them() -> None:
    bounds = {field.name: field.type for record in RECORDS for field in fields(record)}
    for name, numbers in {"kind": Kind, "status": Status}.items():
        kind = bounds[name]
        assert isinstance(kind, inspect.IntType)
        assert (min(numbers), max(numbers)) == (kind.ge, kind.le)
    assert all(0 < reason < 1 << 16 for reason in RefuseReason)
    assert [0, 1, 2] == list(Verdict)
    assert [1 << place for place in range(len(Flag))] == list(Flag)


def test_records_need_no_collector_for_they_hold_no_cycles() -> None:
    assert not any(record.__struct_config__.gc for record in RECORDS)  # type: ignore[attr-defined]
    assert Request(0, 0, "t", "", 1, b"") == Request(0, 0, "t", "", 1, b"")
