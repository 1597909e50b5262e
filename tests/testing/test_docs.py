"""What docs/testing.md shows is what the examples run and what the faults say."""

import re
from pathlib import Path

import pytest

from mesh.testing import FAULTS

ROOT = Path(__file__).resolve().parents[2]
PAGE = (ROOT / "docs/testing.md").read_text(encoding="utf-8")
EXAMPLES = "\n".join(path.read_text(encoding="utf-8") for path in sorted((ROOT / "examples/wordcount").glob("*.py")))


@pytest.mark.parametrize("block", re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL))
def test_its_code_is_run_by_the_examples(block: str) -> None:
    assert block in EXAMPLES


def test_its_table_has_the_feared_faults_with_their_outcomes() -> None:
    rows = [[cell.strip() for cell in line.split("|")[1:-1]] for line in PAGE.splitlines() if line.startswith("| ")]
    rows = [row for row in rows if row[0] in FAULTS]
    feared = {name for name in FAULTS if " " in name}
    assert feared == {row[0] for row in rows}
    for name, lasts, outcomes, idempotent in rows:
        fault = FAULTS[name]
        assert lasts in (["a moment", "for good"] if fault.for_s is None else [f"{fault.for_s:g} s"])
        assert (outcomes, idempotent) == (
            ", ".join(f"`{outcome.__name__}`" for outcome in fault.outcomes),
            ", ".join(f"`{outcome.__name__}`" for outcome in fault.idempotent),
        )
