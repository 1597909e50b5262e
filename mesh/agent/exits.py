"""Exit statuses of the agent's two processes, and the refusal to start that leads to one.

========  ==============  ======================================================================
status    of              meaning
========  ==============  ======================================================================
0         both            drained and done; not started again
70        both            a failure inside; the supervisor starts another reactor
75        both            something is held by somebody else, or not there yet; may go better later
77        reactor         start me again at once: with a greater incarnation
78        both            cannot work as configured, or the node id is taken; never started again
128 + n   supervisor      stopped at once by a second signal ``n`` (143 for SIGTERM, 130 for SIGINT)
========  ==============  ======================================================================
"""

import enum

from mesh.errors import MeshError

__all__ = ["Exit", "Refused"]


class Exit(enum.IntEnum):
    """The statuses by name; 70, 75, 77 and 78 are where sysexits.h has them or free there."""

    OK = 0
    FAILED = 70
    UNAVAILABLE = 75
    AGAIN = 77
    CONFIGURATION = 78


class Refused(MeshError):
    """The agent does not start: the text says what was wrong, where, and what to do; ``status`` is its exit status."""

    def __init__(self, status: Exit, text: str) -> None:
        self.status = status
        super().__init__(text)
