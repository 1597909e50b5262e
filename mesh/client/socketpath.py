"""Where the agent's socket is: one order of look-up for agents and apps. Imports nothing of mesh."""

import errno
import os
from collections.abc import Mapping

__all__ = ["RUN_PATH", "candidates", "own_directory", "trust"]

RUN_PATH = "/run/mesh/agent.sock"


def own_directory(user_id: int) -> str:
    """Return the directory of a user who has neither a runtime directory nor rights in ``/run``."""
    return f"/tmp/mesh-{user_id}"


def candidates(
    explicit: str | os.PathLike[str] | None = None,
    environ: Mapping[str, str] = os.environ,
    user_id: int | None = None,
) -> list[str]:
    """Return the paths to try, in order: the one given, else ``MESH_SOCKET``, else the user's and the system's.

    An agent without a configured path binds the first that it can; an app tries each. The last, for users without
    rights anywhere else, is in a directory of their own under ``/tmp``.
    """
    chosen = os.fspath(explicit) if explicit else environ.get("MESH_SOCKET", "")
    if chosen:
        return [chosen]
    runtime = environ.get("XDG_RUNTIME_DIR", "")
    user = os.geteuid() if user_id is None else user_id
    paths = [f"{runtime}/mesh/agent.sock"] if runtime else []
    return [*paths, RUN_PATH, *([f"{own_directory(user)}/agent.sock"] if user else [])]


def trust(path: str, user_id: int | None = None) -> None:
    """Raise PermissionError if a socket is where anybody could have put it, and somebody else has."""
    user = os.geteuid() if user_id is None else user_id
    directory = os.path.dirname(path)
    if directory == own_directory(user) and os.lstat(directory).st_uid != user:
        raise PermissionError(errno.EACCES, f"{directory} is another user's", path)
