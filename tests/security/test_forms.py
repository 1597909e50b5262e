"""Keys as text: each line says what it is, and a file of another kind is none."""

import pytest

from mesh.security.forms import read_lines, write_line
from mesh.security.keys import FleetKey, Request

ASKED = Request("n1", "k" * 40)


def test_what_is_written_is_read_again() -> None:
    assert [ASKED, ASKED] == read_lines("request", write_line("request", ASKED) * 2 + "\n", Request)
    assert [b"\x00raw"] == read_lines("certificate", write_line("certificate", b"\x00raw"), bytes)


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("", "has 0 lines, and must have from 1 to 64"),
        (write_line("request", ASKED) * 65, "has 65 lines"),
        (write_line("fleet", FleetKey("prod", b"k" * 32)), "line 1 is no 'heartmesh request …'"),
        (write_line("request", ASKED) + "heartmesh request\n", "line 2 is no 'heartmesh request …'"),
        ("heartmesh request ???\n", "line 1 is damaged"),
        ("heartmesh request AAAA\n", "line 1 is damaged"),
    ],
)
def test_what_is_no_such_text_is_refused_with_its_line(text: str, why: str) -> None:
    with pytest.raises(ValueError) as raised:
        read_lines("request", text, Request)
    assert str(raised.value).startswith(why)
