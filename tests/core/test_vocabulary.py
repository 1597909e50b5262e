"""The closed lists are part of the wire: a number never changes its meaning."""

from mesh.core.vocabulary import Flag, Kind, RefuseReason, Status, Verdict


def test_the_numbers_are_those_of_the_protocol() -> None:
    assert [0, 1, 2] == [Kind.CALL, Kind.CAST, Kind.FANOUT]
    assert [1, 2, 4, 8, 16, 32, 64, 128] == list(Flag)
    assert list(range(1, 9)) == list(Status)
    assert list(range(1, 12)) == list(RefuseReason)
    assert [0, 1, 2] == [Verdict.NEVER, Verdict.RUNNING, Verdict.LOST]


def test_flags_combine_as_plain_numbers() -> None:
    assert 5 == Flag.IDEMPOTENT | Flag.CONFIRM
    assert not 4 & Flag.WAIT
