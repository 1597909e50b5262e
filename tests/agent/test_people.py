"""Who is at the other end of a socket, and what they are called."""

import os
import socket
from threading import Event

import gevent
import pytest

from mesh.agent import people as people_module
from mesh.agent.people import People, Person, peer_of
from mesh.core.codec import decode, encode
from mesh.core.records import AppHello, Ping
from mesh.core.session import Credentials, Named
from mesh.security.tokens import Bearer, Tokens, digest_of
from tests.agent.link_ends import until

pytestmark = pytest.mark.io

TOKEN, OTHER = b"0123456789abcdef", b"fedcba9876543210"
WEB = Bearer("web", ("apps",))


def tokens(*held: tuple[bytes, Bearer]) -> Tokens:
    return Tokens(tuple((digest_of(token), bearer) for token, bearer in held))


def people(*held: tuple[bytes, Bearer]) -> People:
    return People(tokens(*held))


def hello(token: bytes = b"") -> memoryview:
    return memoryview(encode(3, [AppHello(0, 0, 7, 1, "app", token=token), Ping(1)]))


def test_the_kernel_says_which_process_user_and_groups() -> None:
    one, other = socket.socketpair(socket.AF_UNIX)
    with one, other:
        found = peer_of(one)
    assert (os.getpid(), os.getuid(), os.getgid()) == (found.pid, found.uid, found.gids[0])
    assert {os.getgid(), *os.getgroups()} == set(found.gids)


def test_somebody_in_very_many_groups_is_in_all_of_them(monkeypatch: pytest.MonkeyPatch) -> None:
    """The process takes on 1000 groups if it may; else the other way of asking must say the same."""
    before = os.getgroups()
    if os.getuid() == 0:
        os.setgroups(list(range(5000, 6000)))
    one, other = socket.socketpair(socket.AF_UNIX)
    try:
        with one, other:
            expected = {os.getgid(), *os.getgroups()}
            assert expected == set(peer_of(one).gids)
            assert 4 * len(os.getgroups()) == len(people_module._all_groups(one))
    finally:
        if os.getuid() == 0:
            os.setgroups(before)


def test_a_socket_that_is_gone_tells_no_groups() -> None:
    one, other = socket.socketpair(socket.AF_UNIX)
    one.close()
    other.close()
    with pytest.raises(OSError, match="does not tell the groups"):
        people_module._all_groups(one)


def test_names_are_looked_up_and_remembered_and_numbers_without_one_are_called_so() -> None:
    one = people()
    person = Person(42, 0, (0, 3_999_999_999))
    assert one.known(person) is None
    expected = Credentials(0, 42, "root", ("root", "#3999999999"))
    assert expected == one.look_up(person)
    assert expected == one.known(person)
    assert one.known(Person(42, 0, (0, 1))) is None
    assert "#3999999998" == one.look_up(Person(42, 3_999_999_998, ())).user
    one.forget()
    assert one.known(person) is None


def test_a_user_whom_the_kernel_cannot_show_is_nobody() -> None:
    one = people()
    assert Credentials(one.nobody, 0) == one.known(Person(0, one.nobody, (one.nobody,)))


def test_names_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(people_module, "NAMES_MAX", 10)
    one = people()
    for number in range(100):
        one.look_up(Person(1, 3_000_000_000 + number, ()))
    assert len(one.users) <= 12


def test_a_directory_service_that_is_slow_holds_nobody_else_up(monkeypatch: pytest.MonkeyPatch) -> None:
    begun, answer = Event(), Event()

    def slow(uid: int) -> str:
        begun.set()
        answer.wait(10)
        return "ada"

    monkeypatch.setattr(people_module, "_user_name", slow)
    one = people()
    asked = gevent.spawn(one.look_up, Person(1, 12_345, ()))
    until(begun.is_set, "the service is asked")
    assert not asked.ready()
    answer.set()
    assert "ada" == asked.get().user


def test_a_token_names_its_bearer_and_goes_no_further() -> None:
    one = people((TOKEN, WEB))
    found = one.look(5, hello(TOKEN))
    assert found is not None
    named, bare = found
    assert Named("web", ("apps",)) == named
    assert (3, [AppHello(0, 0, 7, 1, "app"), Ping(1)]) == (decode(bare).counter, decode(bare).records)
    assert {5: (digest_of(TOKEN), WEB)} == one.bearers
    one.left(5)
    assert {} == one.bearers


def test_a_wrong_token_names_nobody_and_is_refused_also_where_there_are_none() -> None:
    for one in (people((TOKEN, WEB)), people()):
        found = one.look(5, hello(OTHER))
        assert found is not None
        assert "this agent knows no such token" in found[0].problem
        assert b"fedcba" not in found[1]
        assert {} == one.bearers


@pytest.mark.parametrize("data", [hello(), b"\xc1", encode(0, []), encode(0, [Ping(1)])])
def test_a_frame_without_a_token_is_the_nodes_alone(data: bytes) -> None:
    assert people((TOKEN, WEB)).look(5, memoryview(data)) is None


def test_other_tokens_count_from_now_on_and_whoever_was_named_otherwise_is_told_of() -> None:
    one = people((TOKEN, WEB), (OTHER, Bearer("jobs", ())))
    for conn, token in ((1, TOKEN), (2, OTHER), (3, TOKEN)):
        one.look(conn, hello(token))
    one.left(3)
    assert [] == one.use(one.tokens)
    assert [2] == one.use(tokens((TOKEN, WEB), (OTHER, Bearer("jobs", ("more",)))))
    assert [1, 2] == one.use(Tokens())
