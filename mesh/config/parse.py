"""From bytes to values: TOML, known names, types and bounds. All problems of a file are found in one reading."""

import difflib
import re
import tomllib
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import NamedTuple

import msgspec
from msgspec import inspect
from msgspec.structs import FieldInfo

from mesh.config.options import LIGHT_SECTIONS, PRESET_DEFAULT, PRESETS, SECTIONS, Key, options_of, unit_of
from mesh.errors import ConfigError

__all__ = ["FILE_BYTES_MAX", "PROBLEMS_MAX", "Document", "Problems", "nearest", "read", "understand"]

FILE_BYTES_MAX = 1 << 20
PROBLEMS_MAX = 100
_SHOWN_CHARS = 64
KEY_PARTS_MAX = 32

# The parser needs memory by the square of a dotted key's parts.
_KEY_PART = r"""(?:"(?:[^"\\\n]|\\.)*"|'[^'\n]*'|[\w-]+)"""
_DEEP_KEY = re.compile(rf"(?<![\w-])(?:{_KEY_PART}[ \t]*\.[ \t]*){{{KEY_PARTS_MAX}}}", re.ASCII)

_KINDS: Mapping[type, str] = {
    bool: "a boolean",
    int: "an integer",
    float: "a float",
    str: "a string",
    list: "a list",
    dict: "a table",
}


class Problems:
    """What is wrong, in the order it was found. Above `PROBLEMS_MAX` it is only said that there is more.

    ``variables`` names those of the environment that options come from.
    """

    def __init__(self) -> None:
        self.texts: list[str] = []
        self.variables: Mapping[Key, str] = {}
        self._about: set[Key] = set()

    @property
    def full(self) -> bool:
        return len(self.texts) > PROBLEMS_MAX

    def add(self, text: str) -> None:
        """Add a problem."""
        if len(self.texts) < PROBLEMS_MAX:
            self.texts.append(text)
        elif not self.full:
            self.texts.append("and more: mend these first")

    def of(self, key: Key, text: str) -> None:
        """Add a problem with one option."""
        section, name = key
        self._about.add(key)
        variable = self.variables.get(key)
        self.add(f"[{section}] {name}{text}" + (f" (from {variable})" if variable else ""))

    def touch(self, keys: Iterable[Key]) -> bool:
        """Return whether one of these options has a problem already."""
        return not self._about.isdisjoint(keys)


class Document(NamedTuple):
    """What a file says: its preset, its values by option, and which sections it has."""

    preset: str = ""
    values: Mapping[Key, object] = {}
    sections: frozenset[str] = frozenset()


def read(path: Path) -> dict[str, object]:
    """Return a TOML file's tables; raises ConfigError if it cannot be read or is not TOML."""
    try:
        with path.open("rb") as file:
            data = file.read(FILE_BYTES_MAX + 1)
    except (OSError, ValueError) as error:
        raise ConfigError([f"cannot be read: {getattr(error, 'strerror', None) or error}"], str(path)) from None
    if len(data) > FILE_BYTES_MAX:
        raise ConfigError([f"is larger than {FILE_BYTES_MAX} bytes"], str(path))
    try:
        text = data.decode()
    except UnicodeDecodeError as error:
        raise ConfigError([f"is not UTF-8 at line {data.count(10, 0, error.start) + 1}"], str(path)) from None
    if deep := _DEEP_KEY.search(text):
        line = text.count("\n", 0, deep.start()) + 1
        raise ConfigError([f"has a key of more than {KEY_PARTS_MAX} parts at line {line}"], str(path))
    try:
        return tomllib.loads(text)
    except RecursionError:
        raise ConfigError(["is not usable TOML: values are nested too deeply"], str(path)) from None
    except ValueError as error:
        raise ConfigError([f"is not usable TOML: {_cut(str(error), 200)}"], str(path)) from None


def understand(tables: Mapping[str, object], problems: Problems) -> Document:
    """Check names, types and bounds; what is wrong goes to ``problems`` and is left out."""
    preset = ""
    values: dict[Key, object] = {}
    sections: dict[str, object] = {}
    for name, value in tables.items():
        if problems.full:
            break
        if name == "preset":
            preset = _preset(value, problems)
        elif name not in SECTIONS:
            _unknown_at_top(name, value, problems)
        elif not isinstance(value, dict):
            problems.add(f"{name} must be a table of options: [{name}]")
        else:
            sections[name] = {key: inner for key, inner in value.items() if f"{name}.{key}" not in SECTIONS}
            sections |= {f"{name}.{key}": inner for key, inner in value.items() if f"{name}.{key}" in SECTIONS}
    for section in SECTIONS:
        if section in sections:
            values |= _section(section, sections[section], problems)
    return Document(preset, values, frozenset(sections))


def nearest(name: str, known: Iterable[str]) -> str | None:
    """Return the known name that was probably meant."""
    return next(iter(difflib.get_close_matches(name[:_SHOWN_CHARS], list(known), n=1)), None)


def _preset(value: object, problems: Problems) -> str:
    if isinstance(value, str) and value in PRESETS:
        return value
    problems.add(f"preset = {_shown(value)}: must be one of {', '.join(PRESETS)}{_meant(value, PRESETS)}")
    return PRESET_DEFAULT


def _unknown_at_top(name: str, value: object, problems: Problems) -> None:
    if isinstance(value, dict):
        hint = _meant(name, SECTIONS, "[{}]") or f"; there are {', '.join(SECTIONS)}"
        problems.add(f"[{_cut(name)}]: unknown section{hint}")
    else:
        problems.add(f"{_cut(name)}: unknown option{_home(name) or _meant(name, ['preset'])}")


def _section(section: str, table: object, problems: Problems) -> dict[Key, object]:
    if not isinstance(table, dict):
        problems.add(f"{section} must be a table of options: [{section}]")
        return {}
    try:
        known = {option.name: option for option in options_of(section)}
    except ModuleNotFoundError:
        return {}  # `load` needs it as well, and says so
    values: dict[Key, object] = {}
    for name, value in table.items():
        key = (section, name)
        if problems.full:
            break
        if name not in known:
            hint = _home(name) or _meant(name, known) or f"; known are {', '.join(known)}"
            problems.of((section, _cut(name)), f": unknown option{hint}")
        elif wrong := list(_wrong(known[name], value)):
            for text in wrong:
                problems.of(key, text)
        else:
            values[key] = msgspec.convert(value, known[name].type)
    return values


def _home(name: str) -> str:
    """Return where an option that stands in the wrong section belongs."""
    for section in LIGHT_SECTIONS:
        if any(option.name == name for option in options_of(section)):
            return f"; it belongs in [{section}]"
    return ""


def _meant(value: object, known: Iterable[str], form: str = "{}") -> str:
    found = nearest(value, known) if isinstance(value, str) else None
    return f"; did you mean {form.format(found)}?" if found else ""


def _wrong(option: FieldInfo, value: object) -> Iterator[str]:
    """Yield what is wrong with a value, each beginning with how it was written."""
    kind = inspect.type_info(option.type)
    unit = unit_of(option.name)
    for where, part, text in _complaints(kind, value, f" {unit}" if unit else ""):
        yield f"{where} = {_shown(part)}: {text}"


def _complaints(kind: inspect.Type, value: object, unit: str) -> Iterator[tuple[str, object, str]]:
    """Yield (where inside the value, what is there, what it must be)."""
    if isinstance(kind, inspect.Metadata):
        yield from _complaints(kind.type, value, unit)
    elif isinstance(kind, inspect.IntType | inspect.FloatType):
        numbers: tuple[type, ...] = (int,) if isinstance(kind, inspect.IntType) else (int, float)
        if type(value) not in numbers:
            wanted = "a number" if float in numbers else "an integer"
            yield "", value, f"must be {wanted}, not {_kind(value)}"
        elif not _least(kind) <= value <= _most(kind):  # type: ignore[operator]
            yield "", value, f"must be from {_plain(_least(kind))} to {_plain(_most(kind))}{unit}"
    elif isinstance(kind, inspect.LiteralType):
        if value not in kind.values:
            choices = [str(choice) for choice in kind.values]
            yield "", value, f"must be one of {', '.join(choices)}{_meant(value, choices)}"
    elif isinstance(kind, inspect.StrType):
        yield from _string(kind, value)
    elif isinstance(kind, inspect.VarTupleType):
        yield from _list(kind, value, unit)
    elif isinstance(kind, inspect.DictType):
        yield from _table(kind, value, unit)
    elif isinstance(kind, inspect.StructType):
        yield from _struct(kind, value)


def _table(kind: inspect.DictType, value: object, unit: str) -> Iterator[tuple[str, object, str]]:
    if not isinstance(value, dict):
        yield "", value, f"must be a table, not {_kind(value)}"
        return
    if kind.max_length is not None and len(value) > kind.max_length:
        yield "", value, f"must have at most {kind.max_length} entries"
        return
    for name, inner in value.items():
        for where, part, text in _complaints(kind.value_type, inner, unit):
            yield f".{_cut(name)}{where}", part, text


def _struct(kind: inspect.StructType, value: object) -> Iterator[tuple[str, object, str]]:
    """Check a table whose options are known, all of them."""
    known = {option.name: option for option in kind.fields}
    if not isinstance(value, dict):
        yield "", value, f"must be a table with {', '.join(known)}, not {_kind(value)}"
        return
    for name, inner in value.items():
        if name not in known:
            hint = _meant(name, known) or f"; known are {', '.join(known)}"
            yield f".{_cut(name)}", inner, f"unknown option{hint}"
            continue
        for where, part, text in _complaints(known[name].type, inner, unit_of(name)):
            yield f".{name}{where}", part, text
    for name, option in known.items():
        if option.required and name not in value:
            yield "", value, f"needs {name}"


def _string(kind: inspect.StrType, value: object) -> Iterator[tuple[str, object, str]]:
    if not isinstance(value, str):
        yield "", value, f"must be a string, not {_kind(value)}"
    elif kind.max_length is not None and len(value) > kind.max_length:
        yield "", value, f"must have at most {kind.max_length} characters"
    elif any(character < " " or character == "\x7f" for character in value):
        yield "", value, "must not hold control characters"


def _list(kind: inspect.VarTupleType, value: object, unit: str) -> Iterator[tuple[str, object, str]]:
    if not isinstance(value, list):
        yield "", value, f"must be a list, not {_kind(value)}"
        return
    if not (kind.min_length or 0) <= len(value) <= (kind.max_length or len(value)):
        yield "", value, f"must have from {kind.min_length or 0} to {kind.max_length} items"
        return
    for number, item in enumerate(value):
        for where, part, text in _complaints(kind.item_type, item, unit):
            yield f"[{number}]{where}", part, text


def _least(kind: inspect.IntType | inspect.FloatType) -> float:
    return float("-inf") if kind.ge is None else kind.ge


def _most(kind: inspect.IntType | inspect.FloatType) -> float:
    return float("inf") if kind.le is None else kind.le


def _kind(value: object) -> str:
    return _KINDS.get(type(value), "a date or time")


def _plain(number: float) -> str:
    return f"{number:.12g}"


def _shown(value: object) -> str:
    """Return a value as it may be put into a sentence, however large it is."""
    if isinstance(value, list | dict):
        return "[…]" if isinstance(value, list) else "{…}"
    if isinstance(value, int) and value.bit_length() > 128:
        return "(a huge number)"
    return _cut(repr(value) if not isinstance(value, bool) else str(value).lower())


def _cut(text: str, most: int = _SHOWN_CHARS) -> str:
    """Return a text's beginning on one line."""
    cut = text if len(text) <= most else text[:most] + "…"
    return "".join(character if character.isprintable() else "\N{REPLACEMENT CHARACTER}" for character in cut)
