"""From the command line to the supervisor: everything that a reactor needs is imported here, before the first fork."""

import argparse
import sys
from collections.abc import Sequence
from functools import partial
from pathlib import Path

import structlog

from mesh.agent import reactor
from mesh.agent.exits import Exit
from mesh.agent.supervisor import SupervisorOptions, supervise
from mesh.config import Config, load
from mesh.errors import ConfigError

__all__ = ["main"]


def main(arguments: Sequence[str]) -> int:
    """Load the configuration and supervise reactors; return the exit status, see `exits`."""
    parser = argparse.ArgumentParser(prog="mesh agent", description="Run this machine's agent.")
    parser.add_argument("--config", type=Path, metavar="PATH", help="TOML file; without it the local preset")
    told = parser.parse_args(arguments)
    try:
        config = load(told.config)
    except ConfigError as error:
        sys.stderr.write(f"mesh agent: {error}\n")
        return Exit.CONFIGURATION
    return supervise(_options(config), partial(reactor.run, config), structlog.get_logger("mesh.supervisor").info)


def _options(config: Config) -> SupervisorOptions:
    return SupervisorOptions(
        data_dir=config.data_dir,
        socket_path=config.socket_path,
        socket_group=config.socket_group,
        link_hosts=config.bind,
        link_port=config.link_port,
        watchdog_s=config.watchdog_s,
    )
