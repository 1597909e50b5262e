"""What happened to links is values: they compare by what they say."""

from mesh.core.changes import Closed, Opened, Refused
from mesh.core.records import Refuse, RefuseReason


def test_changes_say_whose_connection_it_was_and_what_became_of_it() -> None:
    refuse = Refuse(int(RefuseReason.BUSY), "links_max is reached")
    assert Opened("b", 1) == Opened("b", 1)
    assert Closed("b", 1, "lost") != Closed("b", 1, "lost", was_dial=True)
    assert not Refused("b", 1, refuse, by_us=True).was_dial
