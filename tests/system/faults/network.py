"""Faults of the network between agents: silence, resets, ends that vanish, and lines that are slow."""

import time
from collections.abc import Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from tests.consul_server import free_port
from tests.system.agents import until
from tests.system.faults.ledger import CALLS, IDEMPOTENT
from tests.system.faults.load_app import CallOptions
from tests.system.faults.namespaces import Network
from tests.system.faults.proxy import Behaviour, Proxy
from tests.system.faults.stage import Result, Stage

__all__ = ["blackholes", "resets", "silent_lines", "slow_lines"]

NODES = ("a", "b", "c")
DEAD_AFTER_S = 1.0
BLACKHOLE_S = 2.5
"""Longer than the dead time, shorter than ``resume_grace_s``: what was lost may still be asked about."""


def _links(stage: Stage) -> int:
    """Return to how many of the others the caller's agent has an open link."""
    return sum(stage.agents["a"].link_to(node) is not None for node in stage.nodes[1:])


def _healed(stage: Stage) -> None:
    stage.recovered()
    until(lambda: _links(stage) == len(stage.nodes) - 1, "all links are open again")
    stage.calm()


def _lag_s(stage: Stage) -> float:
    """Return the greatest lag that an agent has measured of itself just now."""
    return max(float(agent.query("status")["loop_lag_ms"]) for agent in stage.agents.values()) / 1000


def blackholes(directory: Path, seed: int, rounds: int) -> Result:
    """Packets from and to a node are dropped in the network between namespaces, both ways or only towards it."""
    with Network(NODES) as network:
        each = {node: {"agent": {"bind": [network.address(node)]}} for node in NODES}
        prefixes = {node: network.prefix(node) for node in NODES}
        with Stage(directory, seed, each=each, prefixes=prefixes) as stage:
            for number in range(rounds):
                node = NODES[number % 3]
                drop, how = ((network.drop, "both ways"), (network.drop_to, "one way"))[number // 3 % 2]
                drop(node)
                stage.fault(f"blackhole around {'caller' if node == 'a' else 'server'}, {how}")
                try:
                    time.sleep(BLACKHOLE_S)
                finally:
                    network.carry(node)
                if node != "a":
                    stage.hope(DEAD_AFTER_S + 0.1 + _lag_s(stage), IDEMPOTENT)
                _healed(stage)
    return stage.result()


def _proxied(proxy: Proxy) -> Mapping[str, Mapping[str, Mapping[str, Any]]]:
    """Return options by which each agent is reached through the proxy."""
    ports = {node: free_port() for node in NODES}
    return {node: {"agent": {"link_port": port, "advertise_port": proxy.add(port)}} for node, port in ports.items()}


def silent_lines(directory: Path, seed: int, rounds: int) -> Result:
    """All lines carry nothing, and later what was sent meanwhile; or an end vanishes and the other is not told."""
    with Proxy() as proxy, Stage(directory, seed, each=_proxied(proxy)) as stage:
        for number in range(rounds):
            if number % 3 == 0:
                with proxy.behaving(Behaviour(held=True)):
                    stage.fault("all lines held")
                    time.sleep(BLACKHOLE_S)
            else:
                end = ("dialler", "acceptor")[number % 3 - 1]
                assert proxy.abandon(end), "there were links"
                stage.fault(f"half-open, {end} gone")
                stage.hope(DEAD_AFTER_S + 0.1 + _lag_s(stage), CALLS, IDEMPOTENT)
            _healed(stage)
    return stage.result()


def resets(directory: Path, seed: int, rounds: int) -> Result:
    """RST to both ends of all links at once."""
    with Proxy() as proxy, Stage(directory, seed, each=_proxied(proxy)) as stage:
        for _ in range(rounds):
            assert proxy.reset(), "there were links"
            stage.fault("RST of all links")
            _healed(stage)
    return stage.result()


SLOW: Mapping[str, Behaviour] = {
    "lines with 100 ms each way": Behaviour(delay_s=0.1),
    "lines of 16 KiB/s": Behaviour(bytes_per_s=16 << 10),
}


def slow_lines(directory: Path, seed: int, rounds: int) -> Result:
    """Lines that are slow, or carry little, lose nothing and no link."""
    with ExitStack() as stack:
        proxy = stack.enter_context(Proxy())
        options: dict[str, Any] = {"call": CallOptions(pause_s=0.02), "heartbeat": {"dead_after_s": 5.0}}
        stage = stack.enter_context(Stage(directory, seed, each=_proxied(proxy), **options))
        for number in range(rounds):
            name, behaviour = list(SLOW.items())[number % len(SLOW)]
            lost = _lost_links(stage)
            with proxy.behaving(behaviour):
                stage.fault(name)
                time.sleep(BLACKHOLE_S)
                stage.recovered()
            assert lost == _lost_links(stage), "a slow line is no lost one"
            _healed(stage)
    return stage.result()


def _lost_links(stage: Stage) -> int:
    return sum(len(agent.noted("link_lost")) for agent in stage.agents.values())
