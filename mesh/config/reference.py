"""``python -m mesh.config.reference``: the table of all options, written from the options themselves."""

import sys
from collections.abc import Iterator

from msgspec import inspect
from msgspec.structs import FieldInfo

from mesh.config.checks import DESCRIPTORS_PER_APP, DESCRIPTORS_PER_LINK
from mesh.config.options import (
    PRESETS,
    SECTIONS,
    default_of,
    options_of,
    structs_of,
    unit_of,
)

__all__ = ["reference"]

_HEAD = f"""# Options

Made by `python -m mesh.config.reference` from the options' own definitions; a test compares.

An agent reads one TOML file: `mesh agent --config FILE`, else the one that the variable `MESH_CONFIG` names, else none.
`mesh config check FILE` reports everything that is wrong with it, `mesh config show` where each value comes from.

A value is the first that is said of it: by the environment (`MESH_NODE_ID`, `MESH_SOCKET`), by the file, by the preset,
by the option's default. The preset is a line at the file's top, `preset = "lan"`:

| preset | for |
|---|---|
| `local` | one machine, without root and without Consul; what holds without a file or without that line |
| `lan` | machines side by side, each with a Consul agent |
| `wan` | the same over slow or far networks |

```toml
preset = "lan"

[agent]
bind = ["eth0"]
zone = "rack-7"

[heat]
pin = {{ billing = "hot" }}

[matchmaker.consul]
token_file = "/etc/heartmesh/consul-token"
```

A few options must fit each other or the machine; `mesh config check` says so and why. An agent may need
{DESCRIPTORS_PER_LINK} × `links_max` + {DESCRIPTORS_PER_APP} × `app_connections_max` + `inbound_unproven_max` +
`watches_max` + `descriptors_reserve` open files: the hard limit must allow them, the soft one is raised by the agent.

Sizes are in bytes and may be written as `65_536`. A default in brackets holds under that preset.
"""

_NAMES = {
    inspect.BoolType: "boolean",
    inspect.IntType: "integer",
    inspect.FloatType: "number",
    inspect.StrType: "string",
}


def reference() -> str:
    """Return the page in Markdown."""
    return "\n".join([_HEAD, *(line for section in SECTIONS for line in _section(section))])


def _section(section: str) -> Iterator[str]:
    yield f"## [{section}]"
    yield ""
    yield " ".join((struct.__doc__ or "").partition("\n")[0] for struct in structs_of(section))
    yield ""
    yield "| option | type | default | bounds | meaning and trade-off |"
    yield "|---|---|---|---|---|"
    for option in options_of(section):
        kind = inspect.type_info(option.type)
        assert isinstance(kind, inspect.Metadata), f"{option.name} has no description"
        meaning = str((kind.extra_json_schema or {})["description"]).replace("|", "\\|")
        unit = unit_of(option.name)
        yield f"| `{option.name}` | {_type(kind)} | {_defaults(section, option)} | {_bounds(kind, unit)} | {meaning} |"
    yield ""


def _type(kind: inspect.Type) -> str:
    if isinstance(kind, inspect.Metadata):
        return _type(kind.type)
    if isinstance(kind, inspect.LiteralType):
        return " or ".join(f"`{value}`" for value in kind.values)
    if isinstance(kind, inspect.VarTupleType):
        return f"list of {_type(kind.item_type)}s"
    if isinstance(kind, inspect.DictType):
        if isinstance(kind.value_type, inspect.StructType):
            return f"tables of {', '.join(f'`{option.name}`' for option in kind.value_type.fields)}"
        return f"table: topic = {_type(kind.value_type)}"
    return _NAMES[type(kind)]


def _defaults(section: str, option: FieldInfo) -> str:
    key, unit = (section, option.name), unit_of(option.name)
    plain = default_of(option, key)
    differing = {preset: default_of(option, key, preset) for preset in PRESETS}
    others = [f"{preset} {_value(value, unit)}" for preset, value in differing.items() if value != plain]
    return _value(plain, unit) + (f" ({', '.join(others)})" if others else "")


def _value(value: object, unit: str) -> str:
    if isinstance(value, str):
        return f"`{value}`" if value else "empty"
    if isinstance(value, tuple | dict):
        return f"`[{', '.join(map(repr, value))}]`".replace("'", '"') if isinstance(value, tuple) else "empty"
    assert isinstance(value, int | float)
    if isinstance(value, bool):
        return str(value).lower()
    return _quantity(value, unit)


def _bounds(kind: inspect.Type, unit: str) -> str:
    if isinstance(kind, inspect.Metadata):
        return _bounds(kind.type, unit)
    if isinstance(kind, inspect.IntType | inspect.FloatType) and kind.ge is not None and kind.le is not None:
        least = _quantity(kind.ge, unit).removesuffix(f" {unit}")
        return f"{least} – {_quantity(kind.le, unit)}"
    if isinstance(kind, inspect.VarTupleType):
        return f"{kind.min_length or 0} – {kind.max_length} items"
    return ""


def _quantity(number: float, unit: str) -> str:
    """Return a number with its unit, bytes in the largest binary one that divides them."""
    if unit == "bytes" and number:
        for size, name in ((1 << 30, "GiB"), (1 << 20, "MiB"), (1 << 10, "KiB")):
            if number % size == 0:
                return f"{number / size:g} {name}"
    return f"{number:.12g} {unit}".strip()


if __name__ == "__main__":
    sys.stdout.write(reference())
