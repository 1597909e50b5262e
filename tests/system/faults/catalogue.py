"""All faults, and how often each is done: in a test, and in a soak."""

from collections.abc import Callable, Mapping
from pathlib import Path

from msgspec import Struct

from tests.system.faults import apps, network, processes, surroundings
from tests.system.faults.stage import Result

__all__ = ["FAULTS", "Rounds"]


class Rounds(Struct, frozen=True):
    """What does a fault so many times: it takes a directory, a seed and the rounds."""

    run: Callable[[Path, int, int], Result]
    test: int
    soak: int


FAULTS: Mapping[str, Rounds] = {
    "kills": Rounds(processes.kills, 12, 50),
    "stopped agents": Rounds(processes.stopped_agents, 2, 12),
    "stopped reactors": Rounds(processes.stopped_reactors, 2, 12),
    "blocked loops": Rounds(processes.blocked_loops, 2, 12),
    "rolling restarts": Rounds(processes.rolling_restarts, 1, 5),
    "blackholes": Rounds(network.blackholes, 6, 18),
    "silent lines": Rounds(network.silent_lines, 3, 15),
    "resets": Rounds(network.resets, 3, 15),
    "slow lines": Rounds(network.slow_lines, 2, 4),
    "sleeping handlers": Rounds(apps.sleeping_handlers, 1, 10),
    "deaf apps": Rounds(apps.deaf_apps, 1, 10),
    "deadly handlers": Rounds(apps.deadly_handlers, 5, 50),
    "Consul outages": Rounds(surroundings.consul_outages, 2, 6),
    "full disks": Rounds(surroundings.full_disks, 2, 10),
    "no descriptors": Rounds(surroundings.no_descriptors, 2, 10),
    "crowds": Rounds(surroundings.crowds, 2, 4),
}
