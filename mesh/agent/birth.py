"""A reactor's birth: what it needs from files is read, and what cannot be read is said; then it is made and runs."""

import time

from mesh.agent import logs
from mesh.agent.exits import Exit
from mesh.agent.pages import read_token
from mesh.agent.reactor import REACTOR_STOPS, Reactor
from mesh.agent.ruling import first_rules
from mesh.agent.supervisor import Inherited
from mesh.config import Config
from mesh.core.effects import Level
from mesh.errors import ConfigError
from mesh.matchmaker.base import MatchmakerError

__all__ = ["run"]


def run(config: Config, inherited: Inherited) -> int:
    """Be a reactor: return the exit status, see `exits`."""
    note = logs.make_note(node=config.node_id)
    try:
        keys, rules = config.load_keys(time.time()), first_rules(config, inherited.data_dir, note)
        matchmaker, board = config.make_matchmaker(), config.make_topology()
    except (ConfigError, MatchmakerError) as error:
        note(REACTOR_STOPS, Level.ERROR, status=int(Exit.UNAVAILABLE), why=str(error))
        return Exit.UNAVAILABLE
    try:
        token = read_token(config.http.http_token_file) if config.http.http_token_file else ""
    except ValueError as error:
        note(REACTOR_STOPS, Level.ERROR, status=int(Exit.CONFIGURATION), why=str(error))
        return Exit.CONFIGURATION
    return Reactor(config, keys, rules, inherited, matchmaker, board, note).run(token)
