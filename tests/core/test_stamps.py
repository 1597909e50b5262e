"""Stamps of a traced call: out, through lost attempts, and back."""

from mesh.core.stamps import arrive, depart, receive


def test_each_place_adds_its_stamp_and_the_reply_marks_them_in_reverse() -> None:
    stamps = depart(arrive([], 0, "app", 0.0), 0, 0.001)
    stamps = depart(arrive(stamps, 1, "a", 5.0), 1, 5.0)
    assert [("app", 1, 1000, 0), ("a", 5_000_000, 5_000_000, 0)] == stamps
    receive(stamps, 5.5)
    receive(stamps, 2.0)
    assert [2_000_000, 5_500_000] == [back for _, _, _, back in stamps]
    receive(stamps, 9.0)
    assert [2_000_000, 5_500_000] == [back for _, _, _, back in stamps], "all are marked"


def test_what_a_lost_attempt_left_behind_is_dropped_and_the_wait_goes_on() -> None:
    asking, own, lost = ("app", 1, 2, 0), ("a", 1_000_000, 1_100_000, 0), ("b", 7, 8, 0)
    stamps = [asking, own, lost]
    assert [asking, ("a", 1_000_000, 3_000_000, 0)] == depart(stamps, 1, 3.0)
    assert [asking, ("c", 9_000_000, 0, 0)] == arrive(stamps, 1, "c", 9.0)
    assert [asking, own, lost] == stamps, "whoever has them still reads what was"


def test_a_list_that_nobody_began_stays_without_what_is_missing() -> None:
    assert [] == depart([], 1, 1.0)
    assert [("a", 1_000_000, 0, 0)] == arrive([], 1, "a", 1.0)
