"""From the command line to the supervisor: everything that a reactor needs is imported here, before the first fork."""

import argparse
import logging
import resource
import sys
import time
from collections.abc import Sequence
from functools import partial
from pathlib import Path

from mesh.agent import birth, logs
from mesh.agent.exits import Exit
from mesh.agent.supervisor import SupervisorOptions, supervise
from mesh.config import Config, load
from mesh.errors import ConfigError

__all__ = ["main", "supervisor_options"]

BACKOFF_MAX_S = 2.0
BACKOFF_SHARE_MAX = 0.4
"""The longest pause between reactors that fail, in seconds and of ``resume_grace_s``: peers and apps wait no longer."""


def main(arguments: Sequence[str]) -> int:
    """Load the configuration and supervise reactors; return the exit status, see `exits`."""
    parser = argparse.ArgumentParser(prog="mesh agent", description="Run this machine's agent.")
    parser.add_argument("--config", type=Path, metavar="PATH", help="TOML file; without it the local preset")
    told = parser.parse_args(arguments)
    try:
        config = load(told.config)
        config.load_keys(time.time())
        config.load_tokens()
    except ConfigError as error:
        sys.stderr.write(f"mesh agent: {error}\n")
        return Exit.CONFIGURATION
    logs.configure(logging.getLevelNamesMapping()[config.agent.log_level.upper()], config.agent.log_format)
    _limit_open_files(config.descriptors_needed)
    return supervise(supervisor_options(config), partial(birth.run, config), logs.make_note(node=config.node_id))


def _limit_open_files(needed: int) -> None:
    """Set this process's soft limit to what its options need; `load` has compared that with the hard one.

    Not more than that: ZeroMQ accepts by itself, and this is what a flood can have until the reactor's next turn.
    """
    resource.setrlimit(resource.RLIMIT_NOFILE, (needed, resource.getrlimit(resource.RLIMIT_NOFILE)[1]))


def supervisor_options(config: Config) -> SupervisorOptions:
    """Return what the supervisor needs to know of a configuration."""
    grace_s = config.node_options.outbox.resume_grace_s
    return SupervisorOptions(
        data_dir=config.data_dir,
        socket_path=config.socket_path,
        socket_group=config.socket_group,
        link_hosts=config.bind,
        link_port=config.link_port,
        http_address=(config.http_address.host, config.http_address.port) if config.http_address else None,
        watchdog_s=config.watchdog_s,
        backoff_max_s=min(BACKOFF_MAX_S, BACKOFF_SHARE_MAX * grace_s),
    )
