"""Do every fault many times and print the table.

::

    make faults ARGS="[--seed N] [--rounds N] [--keep DIRECTORY] [NAME ...]"

Without names all faults are done; exits 1 if one broke the promise. ``--keep`` leaves all logs there.
"""

import argparse
import random
import sys
import tempfile
import time
from pathlib import Path

from tests.system.faults.catalogue import FAULTS
from tests.system.faults.ledger import Row
from tests.system.faults.table import histogram, table


def main() -> int:
    """Return the exit status."""
    parser = argparse.ArgumentParser(prog="python -m tests.system.faults")
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"of {', '.join(map(repr, FAULTS))}")
    parser.add_argument("--seed", type=int, default=random.SystemRandom().getrandbits(32))
    parser.add_argument("--rounds", type=int, default=0, help="of each, instead of its own number")
    parser.add_argument("--keep", type=Path, help="an empty or new directory for all logs")
    told = parser.parse_args()
    unknown = [name for name in told.names if name not in FAULTS]
    if unknown:
        parser.error(f"no fault is called {unknown[0]!r}; there are {', '.join(map(repr, FAULTS))}")
    rows: list[Row] = []
    broken = 0
    with tempfile.TemporaryDirectory() as scratch:
        for name in told.names or FAULTS:
            begun = time.monotonic()
            fault = FAULTS[name]
            directory = (told.keep or Path(scratch)) / name.replace(" ", "-")
            try:
                result = fault.run(directory, told.seed, told.rounds or fault.soak)
            except AssertionError as error:
                print(f"{name}: {error}", flush=True)
                broken += 1
                continue
            print(f"{name}, {time.monotonic() - begun:.0f} s", *map(histogram, result.rows), sep="\n  ", flush=True)
            print(*result.problems, sep="\n", flush=True)
            rows += result.rows
            broken += len(result.problems)
    print(f"\n{table(rows)}\n\nseed {told.seed}; the promise was broken in {broken} ways")
    return 1 if broken else 0


if __name__ == "__main__":
    sys.exit(main())
