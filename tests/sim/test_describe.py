"""Records in words."""

from mesh.core.records import Answer, Failure, Ping, Refuse, Request
from mesh.sim.describe import describe


def test_a_record_is_told_with_the_fields_that_say_something() -> None:
    assert "Ping stamp=7" == describe(Ping(7))
    request = describe(Request(1, 1, "orders", "", 9, b"xy", 2))
    assert "Request kind=CAST seq=1 topic=orders server= timeout_ms=9 body=2B:8fe62899 flags=2" == request
    failure = describe(Failure("a", 1, 2, 4, "too late"))
    assert "Failure node=a session=1 seq=2 status=EXPIRED text='too late'" == failure
    assert "Refuse reason=BUSY text=full" == describe(Refuse(6, "full"))


def test_long_lists_are_cut() -> None:
    answer = Answer("a", 1, 2, 3, [(1, seq) for seq in range(9)], [0, 1, 2, 0, 0, 0, 0, 0, 0])
    assert describe(answer).endswith("ids=[(1, 0),(1, 1),(1, 2),(1, 3),… 9] verdicts=[NEVER,RUNNING,LOST,NEVER,… 9]")
