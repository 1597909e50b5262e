"""ZAP: any key may come but a revoked one, and what is asked in any other way may not."""

import pytest
import zmq.utils.z85

from mesh.security.zap import ADMITTED, DOMAIN, Question, decode, encode, judge

RAW = bytes(range(32))
KEY = zmq.utils.z85.encode(RAW).decode()
FRAMES = (b"1.0", b"7", DOMAIN, b"192.0.2.1", b"", b"CURVE", RAW)
ASKED = Question(b"7", DOMAIN, "192.0.2.1", b"CURVE", RAW)


def test_a_key_that_is_not_revoked_is_let_in_under_its_own_name() -> None:
    question = decode(FRAMES)
    assert ASKED == question
    assert [b"1.0", b"7", b"200", b"", KEY.encode(), b""] == encode(ASKED, judge(ASKED, ()))


def test_a_revoked_key_is_refused() -> None:
    verdict = judge(ASKED, (KEY,))
    assert (400, "its key was revoked", "") == (verdict.status, verdict.text, verdict.user)


@pytest.mark.parametrize(
    "frames",
    [
        (b"1.0", b"7", b"elsewhere", b"192.0.2.1", b"", b"CURVE", RAW),
        (b"1.0", b"7", DOMAIN, b"192.0.2.1", b"", b"NULL"),
        (b"1.0", b"7", DOMAIN, b"\xff", b"", b"PLAIN", b"name", b"password"),
        (b"1.0", b"7", DOMAIN, b"192.0.2.1", b"", b"CURVE", RAW[:31]),
    ],
)
def test_who_shows_no_key_to_this_port_is_refused(frames: tuple[bytes, ...]) -> None:
    question = decode(frames)
    assert question is not None
    assert ADMITTED != judge(question, ()).status


@pytest.mark.parametrize("frames", [(), (b"1.0",), (b"2.0", *FRAMES[1:])])
def test_what_is_no_question_of_this_version_is_not_answered(frames: tuple[bytes, ...]) -> None:
    assert decode(frames) is None
