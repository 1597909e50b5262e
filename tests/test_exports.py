"""What `import mesh` promises: this list, written by hand, and nothing else."""

import sys

import mesh
from mesh import errors

PUBLIC = [
    "AgentUnavailable",
    "Cancelled",
    "Client",
    "ConfigError",
    "Expired",
    "Indeterminate",
    "MeshError",
    "Message",
    "OutcomeError",
    "Overloaded",
    "ProtocolError",
    "Receipt",
    "Rejected",
    "RemoteError",
    "Reply",
    "SessionClosed",
    "Unroutable",
    "connect",
]


def test_the_public_names_are_these() -> None:
    assert sorted(PUBLIC) == sorted(mesh.__all__)


def test_every_public_name_is_public_in_the_module_that_defines_it() -> None:
    for name in PUBLIC:
        home = sys.modules[getattr(mesh, name).__module__]
        assert name in home.__all__, f"{name} is not in {home.__name__}.__all__"


def test_every_error_is_public() -> None:
    assert set() == set(errors.__all__) - set(mesh.__all__)


def test_every_error_descends_from_the_root() -> None:
    assert [] == [name for name in errors.__all__ if not issubclass(getattr(errors, name), errors.MeshError)]
