"""`call`, `cast`, `fanout`, `rpc`: what they ask of the client, and what they print."""

import json
from typing import Any

import click
import msgspec
import pytest

from mesh.cli.messages import arguments_of
from mesh.client.api import Receipt, Reply
from mesh.types import MessageId
from tests.cli.conftest import Run
from tests.cli.fakes import FakeClient

ID = MessageId("n1", 255, 3)


def test_call_writes_the_body_of_the_reply_as_it_is(run: Run) -> None:
    client = FakeClient(Reply(b"no newline"))
    ran = run("call", "words", "how many?", "--header", "a=b", "--timeout-s", "3", "--wait", client=client)
    assert (0, "no newline", "") == ran
    options = {"timeout_s": 3.0, "headers": {"a": "b"}, "wait": True, "wait_for_room": False, "idempotent": False}
    options["monitor_s"] = 0.0
    assert [("call", "words", b"how many?", options)] == client.asked


def test_call_tells_programs_more(run: Run) -> None:
    ran = run("call", "words", "x", "--json", client=FakeClient(Reply(b"42", {"h": "v"}, ID)))
    told = json.loads(ran.out)
    assert told.pop("elapsed_ms") >= 0
    assert {"body": "42", "headers": {"h": "v"}, "id": "n1/ff/3"} == told


def test_a_body_that_is_no_text_is_told_as_base64(run: Run) -> None:
    told = json.loads(run("call", "words", "x", "--json", client=FakeClient(Reply(b"\xff", id=ID))).out)
    assert "/w==" == told["body_base64"]
    assert "body" not in told


def test_a_durable_cast_returns_when_it_is_on_disk(run: Run) -> None:
    client = FakeClient(ID)
    assert (0, "", "") == run("cast", "words", "x", "--durable", "--ttl-s", "60", client=client)
    assert (0, "", "") == run("cast", "words", "x", "--durable", client=client)
    asked = [(options["durable"], options["confirm"], options["ttl_s"]) for *_, options in client.asked]
    assert [(True, False, 60.0), (True, False, 300.0)] == asked


def test_cast_stays_until_its_handler_has_ended(run: Run) -> None:
    client = FakeClient(ID)
    assert (0, "", "") == run("cast", "words", "x", "--timeout-s", "2", "--once", client=client)
    options = {"ttl_s": 2.0, "headers": {}, "confirm": True, "wait": False, "once": True}
    options |= {"durable": False, "timeout_s": 2.0}
    assert [("cast", "words", b"x", options)] == client.asked
    assert {"id": "n1/ff/3"} == json.loads(run("cast", "words", "x", "--json", client=client).out)


@pytest.mark.parametrize(
    ("receipt", "status"),
    [
        (Receipt(3, finished=3), 0),
        (Receipt(3, finished=1, failed=1, unknown=1), 1),
        (Receipt(3, finished=2, unknown=1), 6),
    ],
)
def test_fanout_exits_by_its_receipt(receipt: Receipt, status: int, run: Run) -> None:
    ran = run("fanout", "words", "x", client=FakeClient(receipt))
    assert status == ran.status
    expected = f"asked 3 · finished {receipt.finished} · failed {receipt.failed} · unknown {receipt.unknown}\n"
    assert expected == ran.out


def test_fanout_tells_programs_its_counts(run: Run) -> None:
    told = json.loads(run("fanout", "words", "x", "--json", client=FakeClient(Receipt(1, finished=1, id=ID))).out)
    assert {"asked": 1, "finished": 1, "failed": 0, "unknown": 0, "id": "n1/ff/3"} == told


def test_rpc_calls_a_method_by_name_and_prints_json(run: Run) -> None:
    client = FakeClient(Reply(msgspec.msgpack.encode({"total": 3, "raw": b"\xff"})))
    ran = run("rpc", "words", "count", "text=to be", "longest=3", client=client)
    assert (0, '{"total":3,"raw":"/w=="}\n', "") == ran
    (_, topic, body, _) = client.asked[0]
    assert "words" == topic
    assert {"method": "count", "params": {"text": "to be", "longest": 3}} == msgspec.msgpack.decode(body)


def test_rpc_says_when_what_serves_the_topic_has_no_typed_methods(run: Run) -> None:
    status, _, complaint = run("rpc", "greet", "count", client=FakeClient(Reply(b"hello world")))
    assert 1 == status
    assert "mesh: BadResult: the reply of 'greet' is not what a typed method returns" in complaint


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("a=3", 3),
        ("a=true", True),
        ('a="3"', "3"),
        ("a=[1, 2]", [1, 2]),
        ("a=plain text", "plain text"),
        ("a=x=y", "x=y"),
        ("a=", ""),
    ],
)
def test_a_value_is_what_its_json_says_or_text(text: str, value: Any) -> None:
    assert {"a": value} == arguments_of((text,))


@pytest.mark.parametrize("text", ["a", "=3", "two words=3"])
def test_what_is_no_argument_is_a_usage_error(text: str) -> None:
    with pytest.raises(click.UsageError, match="KEY=VALUE"):
        arguments_of((text,))
