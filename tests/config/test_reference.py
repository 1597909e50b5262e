"""The page of options is made from the options."""

import tomllib
from pathlib import Path

from mesh.config.options import SECTIONS, options_of
from mesh.config.reference import reference
from tests.config.machines import configure

PAGE = Path(__file__).resolve().parents[2] / "docs" / "options.md"


def test_the_page_is_current() -> None:
    made = "python -m mesh.config.reference > docs/options.md"
    assert reference() == PAGE.read_text(encoding="utf-8"), f"options have changed: {made}"


def test_the_page_has_a_row_for_every_option() -> None:
    rows = [
        line.split("`")[1] for line in reference().splitlines() if line.startswith("| `") and line.count(" | ") == 4
    ]
    assert [option.name for section in SECTIONS for option in options_of(section)] == rows


def test_the_page_shows_units_bounds_and_the_presets_that_differ() -> None:
    assert "| `heartbeat_s` | number | 1 s (local 0.2 s, wan 5 s) | 0.05 – 60 s | " in reference()
    assert "| `chunk_bytes` | integer | 256 KiB | 1 KiB – 1 MiB | " in reference()


def test_the_pages_example_is_a_configuration(tmp_path: Path) -> None:
    example = reference().partition("```toml\n")[2].partition("```")[0]
    assert "lan" == tomllib.loads(example)["preset"]
    assert ("192.0.2.7", "2001:db8::7") == configure(tmp_path, example).bind
