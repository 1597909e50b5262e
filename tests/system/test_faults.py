"""Real processes, real faults, and the books of the apps: what must end ends once, and as it says it did."""

from pathlib import Path

import pytest

from tests.system.conftest import Table
from tests.system.faults.catalogue import FAULTS
from tests.system.faults.table import histogram

pytestmark = pytest.mark.system

SEED = 1


@pytest.mark.parametrize("name", FAULTS)
def test_the_promise_holds_through(name: str, tmp_path: Path, fault_table: Table) -> None:
    fault = FAULTS[name]
    result = fault.run(tmp_path, SEED, fault.test)
    fault_table(result.rows)
    print(*map(histogram, result.rows), sep="\n")
    if result.problems:
        pytest.fail("\n".join(result.problems))
