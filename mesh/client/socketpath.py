"""Where the agent's socket is: one order of look-up for agents and apps. Imports nothing of mesh."""

import os
from collections.abc import Mapping

__all__ = ["RUN_PATH", "candidates"]

RUN_PATH = "/run/mesh/agent.sock"


def candidates(explicit: str | os.PathLike[str] | None = None, environ: Mapping[str, str] = os.environ) -> list[str]:
    """Return the paths to try, in order: the one given, else ``MESH_SOCKET``, else the user's and the system's.

    An agent without a configured path binds the first; an app tries each.
    """
    chosen = os.fspath(explicit) if explicit else environ.get("MESH_SOCKET", "")
    if chosen:
        return [chosen]
    runtime = environ.get("XDG_RUNTIME_DIR", "")
    return ([f"{runtime}/mesh/agent.sock"] if runtime else []) + [RUN_PATH]
