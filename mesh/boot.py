"""Time that neither a step of the clock nor a crash changes: seconds since boot, and which boot that was."""

import time
from pathlib import Path

__all__ = ["boot_id", "since_boot"]


def boot_id() -> str:
    """Return the name of this boot of the machine; no two have the same."""
    return Path("/proc/sys/kernel/random/boot_id").read_text().strip()


def since_boot() -> float:
    """Return the seconds since then, suspension included."""
    return time.clock_gettime(time.CLOCK_BOOTTIME)
