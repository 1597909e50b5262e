"""The recorder's ring, its bounds, and what it writes."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from msgspec import msgpack
from msgspec.structs import replace

from mesh.agent import recorder as recorder_module
from mesh.agent.recorder import RECORDER_PAUSED, RECORDING_FAILED, RECORDING_WRITTEN, Recorder
from mesh.config.options import RecorderOptions
from mesh.core.codec import encode
from mesh.core.context import NodeOptions
from mesh.core.identity import Identity
from mesh.core.node import Node
from mesh.core.recording import name_of, read
from mesh.core.records import AppHello, Flag, Ping, Request
from mesh.core.session import Credentials
from mesh.sim.replay import Outcome, replay
from mesh.types import Endpoint

MIB = 1 << 20


class Bench:
    """A recorder, its clock, what it noted, and an app of its node."""

    def __init__(self, directory: Path, **options: Any) -> None:
        self.now = 1.0
        self.notes: list[str] = []
        self.facts: list[dict[str, Any]] = []
        bare = Node(Identity("a", "sim", 1, Endpoint("a.example", 7700)), NodeOptions(), 1, self.now)
        self.recorder = Recorder(
            bare, replace(RecorderOptions(), **options), directory / "recordings", self._note, lambda: self.now
        )
        self.node = self.recorder.node
        self.conn = self.node.app_connected(Credentials(), self.now)
        self.counter = 0
        self.send(AppHello(0, 0, 11, 1, "shell"))

    def _note(self, name: str, level: int, **facts: Any) -> None:
        self.notes.append(name)
        self.facts.append(facts)

    def send(self, *records: Any, buffer: Callable[[bytes], Any] = bytes) -> None:
        self.node.app_data(self.conn, buffer(encode(self.counter, records)), self.now)
        self.counter += 1
        self.turn()

    def turn(self) -> None:
        self.now += 0.001
        self.node.take(self.now)
        self.recorder.settle(self.now)
        self.node.deadline()

    def verdicts(self) -> list[bool]:
        """Write, read and replay what there is."""
        ok, path = self.recorder.asked(in_place)
        assert ok, path
        found = read(Path(path).read_bytes())
        return [each.same for each in replay(found) if isinstance(each, Outcome)]


def in_place(verb: Callable[..., Any], *arguments: Any) -> Any:
    return verb(*arguments)


def request(seq: int, body: bytes = b"") -> Request:
    return Request(0, seq, "orders", "", 3_000_000, body, Flag.WAIT)


def test_what_a_node_was_told_is_replayed_to_its_state(tmp_path: Path) -> None:
    bench = Bench(tmp_path)
    for number in range(50):
        bench.send(request(number, b"x" * number))
        bench.now += 0.5
        bench.node.tick(bench.now)
        bench.turn()
    bench.node.app_closed(bench.conn, bench.now, dead=True)
    bench.turn()
    verdicts = bench.verdicts()
    assert [True] * len(verdicts) == verdicts
    assert len(verdicts) >= 3


def test_bytes_in_a_buffer_that_is_used_again_are_kept(tmp_path: Path) -> None:
    bench = Bench(tmp_path)
    buffers: list[bytearray] = []

    def reused(data: bytes) -> memoryview:
        buffers.append(bytearray(data))
        return memoryview(buffers[-1])

    bench.send(request(1), buffer=reused)
    buffers[0][:] = bytes(len(buffers[0]))
    bench.send(Ping(1))
    assert [True] == bench.verdicts()


def test_a_recorder_that_is_off_stands_aside(tmp_path: Path) -> None:
    bench = Bench(tmp_path, recorder_on=False)
    bench.send(request(1))
    assert isinstance(bench.node, Node)
    assert (0, 0) == (bench.recorder.bytes, bench.recorder.facts()["inputs"])
    ok, why = bench.recorder.asked(in_place)
    assert (False, True) == (ok, "recorder_on" in why)
    bench.recorder.crashed("AssertionError")
    assert not (tmp_path / "recordings").exists()


# The ring's bounds


def test_old_segments_go_when_the_ring_is_over_its_bytes(tmp_path: Path) -> None:
    bench = Bench(tmp_path, recorder_bytes=MIB)
    for _ in range(400):
        bench.send(*[Ping(1)] * 1000)
        assert bench.recorder.bytes <= MIB + 5_000
    assert 2 <= len(bench.recorder.segments) <= 5
    verdicts = bench.verdicts()
    assert [True] * len(verdicts) == verdicts


def test_old_segments_go_when_they_are_over_its_seconds(tmp_path: Path) -> None:
    bench = Bench(tmp_path, recorder_s=60.0)
    for _ in range(200):
        bench.now += 1.0
        bench.send(Ping(1))
    since_s = bench.recorder.facts()["since_s"]
    assert isinstance(since_s, float)
    assert 60.0 <= since_s <= 60.0 + 2 * recorder_module.SEGMENT_S


def test_a_state_is_encoded_for_a_hundredth_of_the_time_at_most(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    bench = Bench(tmp_path, recorder_bytes=MIB)
    spent_s = 0.0

    class Slow:
        @staticmethod
        def encode(value: Any) -> bytes:
            nonlocal spent_s
            if value is bench.recorder._bare.state:
                bench.now += 0.1
                spent_s += 0.1
            return msgpack.encode(value)

    monkeypatch.setattr(recorder_module, "msgpack", Slow)
    began = bench.now
    for _ in range(3000):
        bench.now += 0.05
        bench.send(*[Ping(1)] * 50)
    assert 0.1 <= spent_s <= recorder_module.SHARE * (bench.now - began) + 0.2


def test_recording_pauses_while_too_much_is_outstanding_and_goes_on_afterwards(tmp_path: Path) -> None:
    bench = Bench(tmp_path, recorder_bytes=MIB)
    for number in range(100):
        bench.send(request(number, b"x" * 100_000))
        bench.now += 1.0
    assert [RECORDER_PAUSED] == [name for name in bench.notes if name == RECORDER_PAUSED]
    assert "recorder_bytes = 1048576" in bench.facts[0]["why"]
    assert bench.recorder.facts()["paused"]
    assert bench.recorder.bytes <= MIB
    ok, why = bench.recorder.asked(in_place)
    assert (False, True) == (ok, "nothing is recorded" in why)
    bench.node.app_closed(bench.conn, bench.now, dead=True)
    bench.node.app_died(11, bench.now)
    bench.now += 3600.0
    bench.node.tick(bench.now)
    bench.turn()
    bench.now += 20.0
    bench.turn()
    assert not bench.recorder.facts()["paused"]
    assert [True] == bench.verdicts()[-1:]


# What it writes


def test_a_recording_is_its_users_alone_and_the_oldest_go(tmp_path: Path) -> None:
    bench = Bench(tmp_path, recordings_max=3)
    written = [
        Path(bench.recorder.save(replace(bench.recorder.header("asked"), written_unix_ms=n), [])) for n in range(5)
    ]
    directory = tmp_path / "recordings"
    assert written[2:] == sorted(directory.iterdir())
    assert 0o700 == directory.stat().st_mode & 0o777
    assert {0o600} == {path.stat().st_mode & 0o777 for path in written[2:]}
    told = bench.recorder.facts()["recordings"]
    assert isinstance(told, list)
    assert [path.name for path in written[2:]] == [each["name"] for each in told]


def test_what_broke_the_node_is_the_last_that_was_written(tmp_path: Path) -> None:
    bench = Bench(tmp_path)
    bench.send(Ping(1))
    del bench.recorder._bare.state.apps[11]  # a state that cannot be
    with pytest.raises(KeyError):
        bench.send(Ping(2))
    bench.recorder.crashed("KeyError: 11")
    (path,) = (tmp_path / "recordings").iterdir()
    found = read(path.read_bytes())
    assert ("crash", "KeyError: 11") == (found.header.reason, found.header.failure)
    assert "app_data" == name_of(found.segments[-1].inputs[-1])
    assert RECORDING_WRITTEN == bench.notes[-1]


def test_what_cannot_be_written_is_noted_and_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    bench = Bench(tmp_path)

    def full(*_: Any) -> Any:
        yield b"heartmesh"
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(recorder_module, "write", full)
    ok, why = bench.recorder.asked(in_place)
    assert (False, True) == (ok, "No space left on device" in why)
    assert [RECORDING_FAILED] == bench.notes
    assert [] == list((tmp_path / "recordings").iterdir())


def test_a_directory_that_cannot_be_made_is_noted(tmp_path: Path) -> None:
    bench = Bench(tmp_path)
    (tmp_path / "recordings").write_text("in the way")
    ok, why = bench.recorder.asked(in_place)
    assert (False, True) == (ok, "recordings" in why)


def test_one_recording_is_written_at_a_time(tmp_path: Path) -> None:
    bench = Bench(tmp_path)
    answers = []

    def meanwhile(verb: Callable[..., Any], *arguments: Any) -> Any:
        answers.append(bench.recorder.asked(in_place))
        return verb(*arguments)

    assert bench.recorder.asked(meanwhile)[0]
    assert [(False, "a recording is being written: ask again when it is done")] == answers
    assert bench.recorder.asked(in_place)[0]
