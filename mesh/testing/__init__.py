"""An in-process mesh for the unit tests of apps: no agent, no socket, no thread, no sleep (``docs/testing.md``).

::

    with testing.Fleet() as fleet:
        fleet.connect("counter").serve("words", count)
        assert b"2" == fleet.connect("web").call("words", b"to be").body

``pytest_plugins = ["mesh.testing.fixtures"]`` gives pytest's tests such a fleet by the name ``fleet``.
"""

from mesh.testing.app import Sent
from mesh.testing.faults import FAULTS, Fault
from mesh.testing.fleet import Fleet
from mesh.testing.plan import FaultError

__all__ = ["FAULTS", "Fault", "FaultError", "Fleet", "Sent"]
