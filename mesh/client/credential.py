"""The token by which an agent knows an app that the kernel cannot name: a file, read at each dial."""

import errno
import os
from collections.abc import Mapping

from mesh.core.records import TOKEN_BYTES_MAX
from mesh.errors import ConfigError

__all__ = ["named_file", "read"]


def named_file(explicit: str | os.PathLike[str] | None = None, environ: Mapping[str, str] = os.environ) -> str:
    """Return the token's file: the one given, else that of ``MESH_TOKEN_FILE``, else none; raises ConfigError if it
    cannot be read."""
    path = os.fspath(explicit) if explicit else environ.get("MESH_TOKEN_FILE", "")
    try:
        read(path)
    except OSError as error:
        raise ConfigError([f"the token cannot be read: {error.strerror}"], path) from None
    return path


def read(path: str) -> bytes:
    """Return the token in a file, nothing without one; raises OSError that names the file."""
    if not path:
        return b""
    try:
        with open(path, "rb") as file:
            token = file.read(2 * TOKEN_BYTES_MAX).strip()
    except OSError as error:
        raise OSError(error.errno, f"the token file {path}: {error.strerror}") from None
    if len(token) > TOKEN_BYTES_MAX:
        raise OSError(errno.EFBIG, f"the token file {path}: it holds more than one token of {TOKEN_BYTES_MAX} bytes")
    return token
