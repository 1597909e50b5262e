"""What every option promises to those who set it."""

import pytest
from msgspec import inspect
from msgspec.structs import FieldInfo, fields

from mesh.config.options import CONSUL, PRESETS, SECTIONS, default_of, options_of, structs_of, unit_of
from mesh.core.context import NodeOptions

EVERY = [(section, option) for section in SECTIONS for option in options_of(section)]
IDS = [f"{section}.{option.name}" for section, option in EVERY]


@pytest.mark.parametrize(("section", "option"), EVERY, ids=IDS)
def test_every_option_has_a_meaning_and_every_number_two_bounds(section: str, option: FieldInfo) -> None:
    kind = inspect.type_info(option.type)
    assert isinstance(kind, inspect.Metadata)
    meaning = (kind.extra_json_schema or {})["description"]
    assert meaning.endswith("."), meaning
    if isinstance(kind.type, inspect.IntType | inspect.FloatType):
        default = default_of(option, (section, option.name))
        assert kind.type.ge is not None
        assert kind.type.le is not None
        assert isinstance(default, int | float)
        assert kind.type.ge <= default <= kind.type.le


def test_no_section_has_two_options_of_one_name() -> None:
    assert len(set(IDS)) == len(IDS)


def test_every_option_of_the_core_is_in_a_section() -> None:
    core = [option.type for option in fields(NodeOptions)]
    held = [struct for section in SECTIONS for struct in structs_of(section)]
    assert [] == [struct for struct in core if struct not in held]


def test_presets_set_options_that_exist() -> None:
    assert [] == [key for values in PRESETS.values() for key in values if ".".join(key) not in IDS]


def test_consuls_options_are_the_matchmakers_own() -> None:
    assert ["ConsulOptions"] == [struct.__name__ for struct in structs_of(CONSUL)]


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("idle_close_s", "s"),
        ("hot_at_per_s", "per second"),
        ("chunk_bytes", "bytes"),
        ("body_bytes_max", "bytes"),
        ("queue_records", "records"),
        ("waiting_records_max", "records"),
        ("links_max", ""),
    ],
)
def test_a_unit_ends_the_name(name: str, expected: str) -> None:
    assert expected == unit_of(name)
