"""The table of faults: how many requests, how they ended, and how long those in flight took to end."""

import math
from collections.abc import Sequence

from tests.system.faults.ledger import Row

__all__ = ["FAULT_ROW", "histogram", "percentile", "table"]

FAULT_ROW = "fault_row"
"""By this name a test's report carries a row to the table at the end."""

EDGES_MS = (10, 25, 50, 100, 250, 500, 1_000, 2_500, 5_000, 10_000)


def percentile(values: Sequence[float], share: float) -> float:
    """Return the smallest value that at least this share of all do not exceed."""
    return sorted(values)[max(0, math.ceil(share * len(values)) - 1)]


def histogram(row: Row) -> str:
    """Return how many took how long, without the empty ends."""
    counts = dict.fromkeys([*(f"<{edge}" for edge in EDGES_MS), f">={EDGES_MS[-1]}"], 0)
    for value in row.recovery_s:
        label = next((f"<{edge}" for edge in EDGES_MS if value * 1000 < edge), f">={EDGES_MS[-1]}")
        counts[label] += 1
    shown = " ".join(f"{label}:{count}" for label, count in counts.items() if count)
    return f"{row.fault}, {row.kind}: {shown or 'none in flight'} (ms)"


def _cells(row: Row) -> list[str]:
    if row.recovery_s:
        times = [f"{value * 1000:.0f}" for value in (*_key_values(row.recovery_s), max(row.recovery_s))]
    else:
        times = ["-", "-", "-"]
    target = ""
    if row.target_s and row.recovery_s:
        met = percentile(row.recovery_s, 0.99) < row.target_s
        target = f"{row.target_s * 1000:.0f} {'met' if met else 'missed'}"
    counts = (row.rounds, row.ended, row.failed, row.twice, row.indeterminate, len(row.recovery_s))
    return [row.fault, row.kind, *map(str, counts), *times, target]


def _key_values(values: Sequence[float]) -> tuple[float, float]:
    return percentile(values, 0.5), percentile(values, 0.99)


HEADINGS = (
    *("fault", "what", "rounds", "ended", "failed", "twice", "indet."),
    *("in flight", "p50 ms", "p99 ms", "max ms", "target p99 ms"),
)


def table(rows: Sequence[Row]) -> str:
    """Return the whole as text, words to the left and numbers to the right."""
    lines = [list(HEADINGS), *map(_cells, rows)]
    widths = [max(len(line[at]) for line in lines) for at in range(len(HEADINGS))]
    return "\n".join(
        "  ".join(
            cell.ljust(width) if at < 2 else cell.rjust(width)
            for at, (cell, width) in enumerate(zip(line, widths, strict=True))
        ).rstrip()
        for line in lines
    )
