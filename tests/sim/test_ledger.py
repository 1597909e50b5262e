"""The ledger finds what is not true, and nothing else."""

import pytest

from mesh.client.events import Id, Outcome
from mesh.core.records import Failure, Flag, Kind, Receipt, Reply, Request, Status
from mesh.sim.ledger import SILENT, Ledger, body_of, name_of

ID = ("a", 1, 0)


class Book:
    """A ledger with one message in it, and what it found."""

    def __init__(self, kind: Kind = Kind.CALL, flags: int = 0, *, strict: bool = False) -> None:
        self.found: list[str] = []
        self.ledger = Ledger(self.found.append, strict=strict)
        self.request = Request(int(kind), 0, "orders", "", 1000, body_of(7, 20), flags, node="a", session=1, dispatch=1)
        self.ledger.sent(ID, self.request, 1.0, 1.0)

    def runs(self, *sessions: int) -> "Book":
        for session in sessions:
            self.ledger.begun(session, ID)
            self.ledger.ended(session, ID)
        return self

    def ends(self, outcome: Outcome) -> list[str]:
        self.ledger.outcome(ID, outcome)
        return self.found


def failure(status: Status, id: Id = ID) -> Failure:
    return Failure(*id, int(status), "why")


def reply(number: int = 7) -> Reply:
    return Reply(*ID, body_of(number, 20))


def test_what_ends_as_it_should_is_no_finding() -> None:
    assert [] == Book().runs(5).ends(reply())
    assert [] == Book().runs(5).ends(failure(Status.REMOTE_ERROR))
    assert [] == Book().runs(5).ends(failure(Status.INDETERMINATE))
    assert [] == Book().ends(failure(Status.EXPIRED))
    assert [] == Book(Kind.CAST).runs(5, 6).ends(None)
    assert [] == Book(Kind.FANOUT).runs(5, 6).ends(Receipt(*ID, 3, 2, 0, 1))
    assert [] == Book(flags=Flag.IDEMPOTENT).runs(5, 6).ends(reply())


@pytest.mark.parametrize("status", ["UNROUTABLE", "OVERLOADED", "EXPIRED", "REJECTED", "AGENT_UNAVAILABLE"])
def test_what_is_said_not_to_have_run_did_not_and_does_not(status: str) -> None:
    assert 1 == len(Book().runs(5).ends(failure(Status[status])))
    book = Book()
    assert [] == book.ends(failure(Status[status]))
    assert [f"call a/1#0 to 'orders' runs in 5 after it ended as {status}: why"] == book.runs(5).found


def test_an_outcome_says_only_what_happened() -> None:
    assert 1 == len(Book().ends(reply()))
    assert 1 == len(Book().runs(5).ends(reply(8)))
    assert 1 == len(Book(Kind.CAST).ends(None))
    assert 1 == len(Book(Kind.FANOUT).runs(5).ends(None))
    assert 1 == len(Book().ends(failure(Status.REMOTE_ERROR)))
    assert 1 == len(Book().ends(failure(Status.CANCELLED)))
    assert 1 == len(Book(Kind.FANOUT).runs(5).ends(Receipt(*ID, 2, 2, 0, 0)))
    assert 1 == len(Book(Kind.FANOUT).runs(5).ends(Receipt(*ID, 3, 1, 1, 0)))


def test_what_ends_twice_is_found() -> None:
    book = Book().runs(5)
    book.ends(reply())
    assert ["call a/1#0 to 'orders' ended twice: ['Reply', 'Reply']"] == book.ends(reply())


def test_what_must_not_run_twice_does_not() -> None:
    assert ["call a/1#0 to 'orders' must not run twice: in [5] and in 6"] == Book().runs(5, 6).found
    assert 1 == len(Book(Kind.CAST, Flag.ONCE).runs(5, 6).found)
    assert [] == Book(Kind.CAST).runs(5, 6).found
    assert 1 == len(Book(Kind.CAST, strict=True).runs(5, 6).found)
    assert ["cast a/1#0 to 'orders' ran twice in one session, 5"] == Book(Kind.CAST).runs(5, 5).found


def test_bodies_arrive_as_they_were_sent_and_nothing_comes_that_nobody_sent() -> None:
    book = Book()
    book.ledger.delivered(5, book.request)
    assert [] == book.found
    book.ledger.delivered(5, Request(0, 0, "orders", "", 1000, b"other", node="a", session=1, dispatch=1))
    book.ledger.delivered(5, Request(0, 9, "orders", "", 1000, b"", node="a", session=1, dispatch=1))
    assert ["call a/1#0 to 'orders' came to 5 with another body", "('a', 1, 9) came to 5, and nobody sent it"] == (
        book.found
    )


def test_what_only_one_instance_serves_comes_in_order_unless_it_was_sent_again() -> None:
    found: list[str] = []
    ledger = Ledger(found.append)
    ledger.single["orders"] = None
    ledger.ordered_bytes_max = 10
    requests = [Request(0, seq, "orders", "", 1000, b"", node="a", session=1, dispatch=1) for seq in range(4)]
    for request in requests:
        ledger.sent(("a", 1, request.seq), request, 1.0, 1.0)
    requests[1].dispatch = 2
    requests[2].flags = int(Flag.RESUMED)
    for seq in (3, 1, 2):
        ledger.delivered(5, requests[seq])
    assert [] == found
    ledger.lost(2)
    ledger.outcome(("a", 1, 0), failure(Status.INDETERMINATE))
    ledger.lost(1)
    assert [False, True, True, True] == [message.again for message in ledger.messages.values()]
    ledger.delivered(5, requests[0])
    assert ["call a/1#0 to 'orders' came to 5 after 3, which was sent later"] == found


def test_what_goes_by_the_disk_keeps_its_order_among_its_like() -> None:
    found: list[str] = []
    ledger = Ledger(found.append)
    ledger.single["orders"], ledger.ordered_bytes_max = None, 10
    durable, once = int(Flag.DURABLE), int(Flag.DURABLE | Flag.ONCE)
    flags = (durable, 0, once, int(Flag.CONFIRM), durable)
    requests = [Request(1, seq, "orders", "", 1000, b"", flag, node="a", session=1) for seq, flag in enumerate(flags)]
    for request in requests:
        ledger.sent(("a", 1, request.seq), request, 1.0, 1.0)
    for seq in (3, 2, 4):
        ledger.delivered(5, requests[seq])
    assert [] == found
    for seq in (0, 1):
        ledger.delivered(5, requests[seq])
    assert ["after 4, which was sent later", "after 3, which was sent later"] == [
        one.split(" to 5 ")[1] for one in found
    ]


def test_who_waits_for_room_is_not_told_that_there_is_none() -> None:
    full = Failure(*ID, int(Status.OVERLOADED), "why", limit="queue_records")
    assert [] == Book().ends(full)
    assert 1 == len(Book(flags=Flag.ROOM).ends(full))
    assert [] == Book(flags=Flag.ROOM).ends(Failure(*ID, int(Status.OVERLOADED), "why", limit="session_window"))


def test_where_nothing_goes_wrong_every_app_shows_signs_of_life() -> None:
    silent = Failure(*ID, int(Status.INDETERMINATE), f"its app at b showed {SILENT} for 1 s")
    assert [] == Book().ends(silent)
    book = Book()
    book.ledger.lively = True
    assert 1 == len(book.ends(silent))


def test_a_durable_cast_that_was_accepted_is_ended_or_a_dead_letter_as_long_as_its_disk_lives() -> None:
    def vanished(book: Book, dead: set[tuple[int, int]], lost_at: float = 0.0, node: str = "a") -> list[Id]:
        return book.ledger.vanished(node, dead, lost_at)

    book = Book(Kind.CAST, Flag.DURABLE)
    assert [] == vanished(book, set())
    book.ledger.held(ID)
    assert [ID] == vanished(book, set()) == vanished(book, {(1, 9)}, 0.9)
    assert [] == vanished(book, {(1, 0)}) == vanished(book, set(), 1.0) == vanished(book, set(), node="b")
    book.ledger.give_up(ID)
    assert [ID] == vanished(book, set())
    assert [] == vanished(book.runs(5), set())
    cancelled = Book(Kind.CAST, Flag.DURABLE)
    cancelled.ledger.held(ID)
    cancelled.ledger.give_up(ID, cancelled=True)
    assert [] == vanished(cancelled, set())


def test_no_more_processes_die_of_a_message_than_may_unless_its_agent_cannot_have_heard_of_one() -> None:
    def after(*deaths: int, nodes: tuple[str, ...] = (), hears: bool = True) -> list[str]:
        book = Book(Kind.CAST)
        book.ledger.attempts_max, book.ledger.hears = 2, lambda id: hears
        for session in deaths:
            book.ledger.begun(session, ID)
            book.ledger.died(session, float(session))
        for killed in nodes:
            book.ledger.killed(killed, ["orders"], 9.0)
        book.ledger.begun(9, ID)
        return book.found

    assert [] == after(5)
    assert ["cast a/1#0 to 'orders' is begun in 9, though 2 processes died of it"] == after(5, 6)
    assert 1 == len(after(5, 6, nodes=("a",)))
    assert [] == after(5, 6, nodes=("b",)) == after(5, 6, hears=False)


def test_a_kill_may_hide_a_death_that_was_just_told_and_any_where_several_nodes_serve() -> None:
    book = Book(Kind.CAST)
    message = book.ledger.messages[ID]
    book.ledger.killed("a", ["orders"], 9.0)
    assert 0 == message.hidden
    book.ledger.killed("a", [], 9.0)
    assert 1 == message.hidden
    book.ledger.begun(5, ID)
    book.ledger.died(5, 9.0)
    book.ledger.killed("a", ["orders"], 9.1)
    assert (1, 2) == (message.deaths, message.hidden)


def test_while_all_live_and_come_back_nobody_to_whom_a_fan_out_went_is_unknown_before_its_time_is_over() -> None:
    def told(now: float, *, patient: bool) -> list[str]:
        book = Book(Kind.FANOUT).runs(5)
        book.ledger.patient, book.ledger.messages[ID].deadline = patient, 9.0
        book.ledger.outcome(ID, Receipt(*ID, 2, 1, 0, 1), now)
        return book.found

    assert [] == told(3.0, patient=False) == told(8.5, patient=True)
    assert 1 == len(told(3.0, patient=True))


def test_it_knows_what_is_open_and_counts_what_ended() -> None:
    book = Book()
    assert [ID] == book.ledger.open()
    book.ledger.held(ID)
    book.ledger.give_up(ID)
    assert [] == book.ledger.open()
    book.runs(5).ends(reply())
    assert {"call Reply": 1} == book.ledger.counts()


def test_bodies_say_whose_they_are_as_far_as_there_is_room() -> None:
    assert (b"", b"\x07", 20) == (body_of(7, 0), body_of(7, 1), len(body_of(7, 20)))
    assert ["Settled", "EXPIRED", "Reply"] == [name_of(end) for end in (None, failure(Status.EXPIRED), reply())]
