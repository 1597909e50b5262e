"""An agent's configuration: TOML, presets and a few variables in; one frozen `Config`, or everything that is wrong."""

from mesh.config.compose import Config, Row, explain, load
from mesh.config.options import AgentOptions, MatchmakerOptions, TopologyOptions, WatcherOptions

__all__ = ["AgentOptions", "Config", "MatchmakerOptions", "Row", "TopologyOptions", "WatcherOptions", "explain", "load"]
