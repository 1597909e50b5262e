"""How many connections each user has."""

from mesh.core.seats import SeatOptions, Seats

TWO = SeatOptions(user_connections_max=2)


def test_a_user_has_so_many_places_and_others_have_theirs() -> None:
    seats = Seats()
    assert [True, True, False, True] == [
        seats.take(conn, whose, TWO) for conn, whose in enumerate(["ada", "ada", "ada", "bob"])
    ]
    assert {"ada": 2, "bob": 1} == seats.counts


def test_a_place_that_is_left_is_free_and_leaving_twice_frees_one() -> None:
    seats = Seats()
    for conn in (1, 2):
        seats.take(conn, "ada", TWO)
    for conn in (1, 1, 9):
        seats.leave(conn)
    assert [True, False] == [seats.take(conn, "ada", TWO) for conn in (3, 4)]
    for conn in (2, 3):
        seats.leave(conn)
    assert ({}, {}) == (seats.taken, seats.counts)


def test_a_connection_that_turns_out_to_be_another_users_counts_with_that_one() -> None:
    seats = Seats()
    seats.take(1, "uid -1", TWO)
    assert seats.take(1, "uid -1", TWO)
    assert seats.take(1, "ada", TWO)
    assert {"ada": 1} == seats.counts
    for conn in (2, 3):
        seats.take(conn, "bob", TWO)
    assert not seats.take(1, "bob", TWO)
    assert {"bob": 2} == seats.counts
