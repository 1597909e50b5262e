"""What the machine itself contributes: its name, its limits, and where files go when nobody says where."""

import os
import resource
import socket
import stat
from collections.abc import Mapping
from pathlib import Path

from msgspec import Struct

from mesh.client import socketpath
from mesh.config.addresses import Network, read_network

__all__ = ["SOCKET_PATH_BYTES_MAX", "Machine", "path_problem", "socket_place", "state_place", "this_machine"]

SOCKET_PATH_BYTES_MAX = 107
"""What fits into ``sockaddr_un.sun_path`` with its closing zero."""


class Machine(Struct, frozen=True):
    """What a configuration looks at besides its file and the environment."""

    hostname: str
    user_id: int
    home: str
    descriptors_max: int
    network: Network


def this_machine() -> Machine:
    """Ask the system. ``descriptors_max`` is the hard limit, which an agent may raise its own to."""
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    return Machine(
        hostname=socket.gethostname(),
        user_id=os.geteuid(),
        home=os.path.expanduser("~"),
        descriptors_max=hard if hard != resource.RLIM_INFINITY else 1 << 30,
        network=read_network(),
    )


def state_place(fleet: str, environ: Mapping[str, str], machine: Machine) -> tuple[str, str]:
    """Return the directory for what is kept, and how it was found."""
    told = environ.get("XDG_STATE_HOME", "")
    if told.startswith("/"):
        return f"{told}/mesh/{fleet}", "in XDG_STATE_HOME"
    if machine.user_id == 0:
        return f"/var/lib/mesh/{fleet}", "for root"
    return f"{machine.home}/.local/state/mesh/{fleet}", "in the home directory"


def socket_place(environ: Mapping[str, str], user_id: int) -> str:
    """Return the first of the places where apps look that can be used; raises ValueError with why none can."""
    reasons = []
    for path in socketpath.candidates(environ={**environ, "MESH_SOCKET": ""}, user_id=user_id):
        reason = _unusable(Path(path).parent, user_id)
        if reason is None:
            return path
        reasons.append(f"{path}: {reason}")
    raise ValueError(f"no usual place can be used ({'; '.join(reasons)}): set XDG_RUNTIME_DIR, or MESH_SOCKET")


def path_problem(path: str, *, socket: bool = False) -> str | None:
    """Return what is wrong with a path as it is written, or None."""
    if not path.startswith("/"):
        return "must be an absolute path"
    length = len(os.fsencode(path))
    if socket and length > SOCKET_PATH_BYTES_MAX:
        return f"has {length} bytes, and a socket's path may have {SOCKET_PATH_BYTES_MAX}: choose a shorter one"
    return None


def _unusable(directory: Path, user_id: int) -> str | None:
    """Return why no socket can be made in a directory, which may have to be made first in the one above."""
    try:
        found = directory.stat()
    except FileNotFoundError:
        parent = directory.parent
        return None if os.access(parent, os.W_OK | os.X_OK) else f"{parent} is missing or may not be written"
    except (OSError, ValueError) as error:
        return str(getattr(error, "strerror", error))
    if not stat.S_ISDIR(found.st_mode):
        return f"{directory} is not a directory"
    if found.st_uid not in (0, user_id):
        return f"{directory} is another user's"
    return None if os.access(directory, os.W_OK | os.X_OK) else f"{directory} may not be written"
