"""The session, without I/O: what it writes and tells for what it hears, on the wire's own bytes."""

from typing import Any

import msgspec
import pytest

from mesh.client.calling import GRACE_S, REACHED_SLACK, TURN_RECORDS
from mesh.client.calling import Calling as CallingState
from mesh.client.connection import (
    BACKOFF_GROWTH,
    BACKOFF_MAX_S,
    HELLO_TIMEOUT_S,
    SILENT_BEATS,
    TRANSITIONS,
    Connection,
    Phase,
)
from mesh.client.events import (
    Aimed,
    CancelAsked,
    Delivered,
    Ended,
    Event,
    Held,
    Leaving,
    Lost,
    Opened,
    Parted,
    Refused,
    Reported,
    ServingTold,
)
from mesh.client.serving import FLOOR_PULL_S, MARGIN_S, SWEEP_S, Stage
from mesh.client.session import FINAL, SEQS_MAX, Session
from mesh.core.codec import decode, encode
from mesh.core.records import (
    Accepted,
    Answer,
    AppHello,
    AppWelcome,
    Ask,
    Cancel,
    Chunk,
    ChunkAck,
    Failure,
    Flag,
    Floor,
    FloorAsk,
    GiveBack,
    Goodbye,
    Hello,
    Keep,
    Kind,
    Ping,
    Pong,
    Query,
    Reach,
    Receipt,
    Record,
    Refuse,
    RefuseReason,
    Reply,
    Report,
    Request,
    Serve,
    Serving,
    Settled,
    Status,
    Targets,
    Unserve,
    Verdict,
)
from mesh.errors import Overloaded, SessionClosed

ID = 77
CALLER = ("other", 5)
T0 = 1_000.0
BEAT_S = 1.0


def welcome(**changes: Any) -> AppWelcome:
    fields: dict[str, Any] = {
        "protocol": 0,
        "fleet": "default",
        "node": "here",
        "incarnation": 3,
        "heartbeat_ms": round(BEAT_S * 1000),
        "body_bytes_max": 10_000,
        "chunk_bytes": 100,
        "chunks_in_flight": 2,
        "outstanding_records": 10_000,
        "outstanding_bytes": 1 << 20,
        "session_window": 65_536,
        "call_timeout_ms_max": 3_600_000,
        "resume_grace_ms": 5_000,
    }
    return AppWelcome(**{**fields, **changes})


class Agent:
    """The other end of one session, by hand. ``connect`` opens a connection as far as the welcome."""

    def __init__(self, **options: Any) -> None:
        self.session = Session(ID, "web", connection=Connection(seed=1), **options)
        self.counter_in = self.counter_out = 0

    def dial(self, now: float = T0) -> list[Record]:
        self.session.connected(now)
        self.counter_in = self.counter_out = 0
        return self.heard(now)

    def connect(self, now: float = T0, **changes: Any) -> list[Record]:
        """Return what the session says right after the welcome."""
        (hello,) = self.dial(now)
        assert isinstance(hello, AppHello)
        (opened,) = self.say(welcome(**changes), now=now)
        assert isinstance(opened, Opened)
        return self.heard(now)

    def heard(self, now: float = T0) -> list[Record]:
        """Return what the session writes."""
        records: list[Record] = []
        while self.session.wants_write:
            for data in self.session.take(now):
                batch = decode(data)
                assert self.counter_in == batch.counter
                self.counter_in += 1
                records += batch.records
        assert [] == self.session.take(now)
        return records

    def say(self, *records: Record, now: float = T0) -> list[Event]:
        """Return what the session makes of it."""
        data = encode(self.counter_out, records)
        self.counter_out += 1
        return self.session.received(data, now)

    def ask(
        self, kind: Kind = Kind.CALL, body: bytes = b"", timeout_s: float = 10.0, flags: int = 0, now: float = T0
    ) -> int:
        """Have the app ask for something, unwritten; returns its seq."""
        return self.session.submit(Request(int(kind), 0, "topic", "", 0, body, flags), timeout_s, now)

    def serve(self) -> None:
        """Have the app serve the topic."""
        self.session.serve("topic", "one", 4, 16)
        self.heard()
        self.say(Serving("topic", "one", True))


@pytest.fixture
def agent() -> Agent:
    made = Agent()
    assert [] == made.connect()
    return made


@pytest.fixture
def serving(agent: Agent) -> Agent:
    agent.serve()
    return agent


def asked(seq: int = 0, kind: Kind = Kind.CALL, timeout_ms: int = 5_000, **changes: Any) -> Request:
    """A request of another session, as an agent hands it over."""
    return Request(
        int(kind), seq, "topic", "", timeout_ms, **{"body": b"x", "node": CALLER[0], "session": CALLER[1], **changes}
    )


def id_of(seq: int) -> tuple[str, int, int]:
    return (*CALLER, seq)


def reply(seq: int, body: bytes = b"y") -> Reply:
    return Reply(*id_of(seq), body)


def ended(seq: int, body: bytes = b"done") -> Reply:
    """The reply to a call of our own."""
    return Reply("here", ID, seq, body)


# The connection


def test_the_first_word_is_hello_and_each_connection_has_a_greater_number() -> None:
    agent = Agent(namespace="ns", fleet="f")
    assert [AppHello(0, 0, ID, 1, "web", "ns", "f")] == agent.dial()
    agent.session.disconnected("gone", T0)
    assert [AppHello(0, 0, ID, 2, "web", "ns", "f")] == agent.dial()


def test_only_the_transitions_in_the_table_are_taken() -> None:
    connection = Connection(1)
    with pytest.raises(AssertionError):
        connection.welcomed(welcome())
    connection.close()
    connection.close()
    assert () == TRANSITIONS[connection.phase]


def test_a_welcome_opens_and_tells_the_limits(agent: Agent) -> None:
    assert Phase.OPEN is agent.session.phase
    assert "here" == agent.session.limits.node
    assert "" == agent.session.away()


def test_a_welcome_of_a_draining_agent_takes_no_requests() -> None:
    agent = Agent()
    agent.ask()
    assert [] == agent.connect(draining=True)
    assert Phase.DRAINING is agent.session.phase
    assert "drains" in agent.session.away()


@pytest.mark.parametrize(
    "records", [(Hello(*(0, 0, "f", "n", 1, 1, "m", "h", 1, 1, 1, 1, 1, 1, 1, 1)),), (Keep(True),), (welcome(),)]
)
def test_a_record_that_an_agent_may_not_send_ends_the_connection(agent: Agent, records: tuple[Record, ...]) -> None:
    (lost,) = agent.say(*records)
    assert isinstance(lost, Lost)
    assert "protocol" in lost.reason


def test_before_the_welcome_nothing_else_counts() -> None:
    agent = Agent()
    agent.dial()
    (lost,) = agent.say(Ping(1))
    assert isinstance(lost, Lost)


def test_a_welcome_in_a_protocol_that_was_not_offered_ends_the_connection() -> None:
    agent = Agent()
    agent.dial()
    (lost,) = agent.say(welcome(protocol=9))
    assert isinstance(lost, Lost)
    assert "1.9" in lost.reason


def test_a_gap_between_batches_ends_the_connection(agent: Agent) -> None:
    agent.counter_out += 1
    (lost,) = agent.say(Ping(1))
    assert isinstance(lost, Lost)
    assert "batch 2 came where 1 was due" in lost.reason


def test_bytes_that_are_no_batch_end_the_connection(agent: Agent) -> None:
    (lost,) = agent.session.received(b"\xff\xff", T0)
    assert isinstance(lost, Lost)


def test_events_before_the_bad_record_of_a_batch_are_told(agent: Agent) -> None:
    seq = agent.ask()
    agent.heard()
    events = agent.say(ended(seq), Keep(True))
    assert [Ended, Lost] == [type(event) for event in events]


def test_bytes_of_a_connection_that_is_over_mean_nothing(agent: Agent) -> None:
    agent.session.disconnected("gone", T0)
    assert [] == agent.session.received(encode(1, [Ping(1)]), T0)


@pytest.mark.parametrize("reason", list(RefuseReason))
def test_a_refusal_is_told_and_some_are_final(reason: RefuseReason) -> None:
    agent = Agent()
    agent.dial()
    refused, lost = agent.say(Refuse(int(reason), "no", retry_after_ms=2_000, limit="apps"))
    assert Refused(int(reason), "no", reason in FINAL, "apps", 2.0) == refused
    assert Lost("refused: no") == lost
    agent.session.disconnected("refused: no", T0)
    assert T0 + 2.0 == agent.session.connection.redial_at
    assert "refused: no" in agent.session.away()


def test_a_final_refusal_ends_calls_and_what_no_agent_has_seen(agent: Agent) -> None:
    written_call, written_cast = agent.ask(), agent.ask(Kind.CAST)
    agent.heard()
    agent.session.disconnected("gone", T0)
    new_call, new_cast = agent.ask(), agent.ask(Kind.CAST)
    agent.dial()
    refused, lost, *ends = agent.say(Refuse(int(RefuseReason.FLEET), "of another fleet"))
    assert [Refused, Lost] == [type(refused), type(lost)]
    outcomes = {end.seq: end.outcome for end in ends if isinstance(end, Ended)}
    assert {
        written_call: Status.INDETERMINATE,
        new_call: Status.AGENT_UNAVAILABLE,
        new_cast: Status.AGENT_UNAVAILABLE,
    } == {seq: outcome.status for seq, outcome in outcomes.items() if isinstance(outcome, Failure)}
    assert {"the agent at its socket refused this app: of another fleet"} == {
        outcome.text for outcome in outcomes.values() if isinstance(outcome, Failure)
    }
    agent.session.disconnected("refused", T0)
    again = agent.connect()
    assert [(written_cast, Flag.RESUMED)] == [(r.seq, r.flags) for r in again if isinstance(r, Request)]


def test_a_refusal_without_text_names_its_reason() -> None:
    agent = Agent()
    agent.dial()
    refused, _ = agent.say(Refuse(77, ""))
    assert Refused(77, "reason 77", False) == refused


def test_a_refusal_later_on_is_not_final(agent: Agent) -> None:
    refused, _ = agent.say(Refuse(int(RefuseReason.MALFORMED), "bad batch"))
    assert Refused(int(RefuseReason.MALFORMED), "bad batch", False) == refused


def test_redials_pause_longer_each_time_with_jitter_up_to_a_second() -> None:
    session = Session(ID, "web", connection=Connection(seed=7))
    pauses = []
    for _ in range(40):
        session.disconnected("nobody there", T0)
        pauses.append(session.connection.redial_at - T0)
    bounds = [0.005 * BACKOFF_GROWTH**n for n in range(24)]
    assert all(bound / 2 <= pause <= bound for bound, pause in zip(bounds, pauses, strict=False))
    assert all(BACKOFF_MAX_S / 2 <= pause <= BACKOFF_MAX_S for pause in pauses[24:])
    assert len(pauses) == len(set(pauses))


def test_a_welcome_makes_the_next_redial_quick_again() -> None:
    agent = Agent()
    for _ in range(10):
        agent.session.disconnected("nobody there", T0)
    agent.connect()
    agent.session.disconnected("gone", T0)
    assert agent.session.connection.redial_at - T0 <= 0.005


def test_an_agent_that_does_not_answer_the_hello_is_given_up() -> None:
    agent = Agent()
    agent.dial()
    assert T0 + HELLO_TIMEOUT_S == agent.session.deadline()
    assert [] == agent.session.tick(T0 + 1)
    (lost,) = agent.session.tick(T0 + HELLO_TIMEOUT_S)
    assert isinstance(lost, Lost)


def test_goodbye_of_the_agent_drains_and_keeps_requests_for_the_next(serving: Agent) -> None:
    serving.say(asked(1))
    assert [Leaving("upgrade")] == serving.say(Goodbye("upgrade"))
    assert [] == serving.say(Goodbye("upgrade"))
    seq = serving.ask()
    serving.session.begin(id_of(1), T0)
    serving.session.answer(reply(1), 0.0)
    assert [reply(1)] == serving.heard()
    serving.session.disconnected("drained", T0)
    told = serving.connect(incarnation=4)
    (request,) = [record for record in told if isinstance(record, Request)]
    assert (seq, 0) == (request.seq, request.flags)


def test_what_an_agent_that_ends_gives_back_is_as_though_never_written(agent: Agent) -> None:
    call, cast, held = agent.ask(), agent.ask(Kind.CAST), agent.ask(Kind.CAST)
    agent.heard()
    agent.say(Accepted([(held, held)]), Goodbye("draining"))
    gone = 99
    for seq in (call, cast, held, gone, call):
        assert [] == agent.say(GiveBack("here", ID, seq, 0, int(Status.UNROUTABLE), "this agent ends"))
    agent.say(GiveBack("here", ID + 1, call, 0, int(Status.UNROUTABLE), ""))
    assert (0, []) == (agent.session.calling.unheld, agent.heard())
    agent.session.disconnected("drained", T0)
    told = agent.connect(incarnation=4)
    assert [(call, 0), (cast, 0), (held, 0)] == [(r.seq, r.flags) for r in told if isinstance(r, Request)]
    assert 1 == agent.session.calling.unheld, "the one that nobody has accepted"
    agent.session.disconnected("gone", T0)
    agent.session.tick(T0 + 60.0)


def test_what_was_given_back_and_no_agent_took_certainly_did_not_run(agent: Agent) -> None:
    seq = agent.ask()
    agent.heard()
    agent.say(Goodbye("draining"), GiveBack("here", ID, seq, 0, int(Status.UNROUTABLE), "this agent ends"))
    (end,) = agent.session.tick(T0 + 10.0)
    assert isinstance(end, Ended)
    assert isinstance(end.outcome, Failure)
    assert Status.AGENT_UNAVAILABLE == end.outcome.status


def test_a_call_that_is_given_up_while_its_body_comes_is_refused_and_never_run(serving: Agent) -> None:
    for kind, answer in [
        (Kind.CALL, Failure(*id_of(1), int(Status.CANCELLED), "its caller gave it up before it began")),
        (Kind.CAST, Failure(*id_of(1), int(Status.CANCELLED), "its caller gave it up before it began")),
        (Kind.FANOUT, Settled(*CALLER, [(1, 1)], 1)),
    ]:
        serving.say(asked(1, kind, body=b"", size=1000, stream=7), Chunk(7, 0, b"x" * 500))
        serving.heard()
        assert [] == serving.say(Cancel(*id_of(1)))
        assert [answer] == serving.heard()
        assert [] == serving.say(Chunk(7, 1, b"x" * 500))
        assert [ChunkAck(7, 2, abort=True)] == serving.heard()
    assert 0 == serving.session.serving.in_hand


def test_our_goodbye_is_answered_and_nothing_more_is_taken(agent: Agent) -> None:
    agent.session.leave()
    assert [Goodbye()] == agent.heard()
    with pytest.raises(SessionClosed):
        agent.ask()
    assert [Parted()] == agent.say(Goodbye("answer"))


def test_a_closed_session_takes_and_tells_nothing(agent: Agent) -> None:
    agent.ask()
    agent.session.close()
    agent.session.disconnected("closed", T0)
    assert Phase.CLOSED is agent.session.phase
    assert not agent.session.wants_write
    with pytest.raises(SessionClosed):
        agent.ask()


# Signs of life


def test_pings_are_answered(agent: Agent) -> None:
    agent.say(Ping(5), Pong(1))
    assert [Pong(5)] == agent.heard()


def test_with_nothing_outstanding_nobody_is_asked_for_a_sign_of_life(agent: Agent) -> None:
    assert None is agent.session.deadline()
    assert [] == agent.session.tick(T0 + 100)
    assert [] == agent.heard(T0 + 100)


def test_a_silent_agent_is_pinged_and_then_given_up(agent: Agent) -> None:
    agent.ask(timeout_s=100)
    agent.heard()
    now = T0
    events: list[Event] = []
    while not events:
        due = agent.session.deadline()
        assert due is not None
        assert now < due <= now + BEAT_S
        now = due
        events = agent.session.tick(now)
    assert [Ping(1)] == agent.heard(now)
    assert SILENT_BEATS * BEAT_S == pytest.approx(now - T0)
    assert isinstance(events[0], Lost)


def test_whatever_the_agent_says_is_a_sign_of_life(agent: Agent) -> None:
    agent.ask(timeout_s=100)
    for beat in range(1, 30):
        assert [] == agent.session.tick(T0 + beat)
        agent.say(Pong(beat), now=T0 + beat)


def test_the_time_that_this_process_slept_is_not_held_against_the_agent(agent: Agent) -> None:
    agent.ask(timeout_s=1_000)
    agent.session.tick(T0 + BEAT_S)
    assert [] == agent.session.tick(T0 + 500)
    assert [] == agent.session.tick(T0 + 501)
    assert [] == agent.session.tick(T0 + 502)
    (lost,) = agent.session.tick(T0 + 503)
    assert isinstance(lost, Lost)


def test_a_long_quiet_before_the_first_request_is_no_silence(agent: Agent) -> None:
    agent.ask(timeout_s=100, now=T0 + 500)
    assert [] == agent.session.tick(T0 + 500)
    assert T0 + 500 + BEAT_S == agent.session.deadline()


# Calling


def test_a_call_is_written_with_its_remaining_time_and_ended_by_its_reply(agent: Agent) -> None:
    seq = agent.ask(body=b"x", timeout_s=10)
    (request,) = agent.heard(T0 + 2.5)
    assert Request(0, seq, "topic", "", 7_500, b"x") == request
    assert [Ended(seq, ended(seq))] == agent.say(ended(seq))
    assert [] == agent.say(ended(seq))


def test_an_outcome_for_another_session_is_not_ours(agent: Agent) -> None:
    seq = agent.ask()
    agent.heard()
    stray = Failure("here", ID + 1, seq, int(Status.EXPIRED), "")
    assert [] == agent.say(Reply("here", ID + 1, seq, b""), stray, Settled("here", ID + 1, [(seq, seq)]))
    failure = Failure("here", ID, seq, int(Status.UNROUTABLE), "nobody")
    assert [Ended(seq, failure)] == agent.say(failure)


def test_the_floor_rides_on_each_request(agent: Agent) -> None:
    for _ in range(4):
        agent.ask()
    agent.heard()
    agent.say(ended(1), ended(2))
    agent.ask()
    assert [0] == [record.floor for record in agent.heard() if isinstance(record, Request)]
    agent.say(ended(0))
    agent.ask()
    assert [3] == [record.floor for record in agent.heard() if isinstance(record, Request)]
    agent.say(ended(5), ended(4), ended(3))
    assert 6 == agent.session.calling.floor


def test_casts_are_held_in_ranges_and_settled_in_ranges(agent: Agent) -> None:
    for _ in range(3):
        agent.ask(Kind.CAST)
    assert 0 == agent.session.calling.unheld
    agent.heard()
    assert 3 == agent.session.calling.unheld
    assert 0 == agent.session.calling.first_unheld()
    assert [Held([0, 1])] == agent.say(Accepted([(0, 1)]))
    assert [] == agent.say(Accepted([(0, 1), (40, 41)]))
    assert (1, 2) == (agent.session.calling.unheld, agent.session.calling.first_unheld())
    assert [Ended(0, None), Ended(1, None)] == agent.say(Settled("here", ID, [(0, 1)]))
    assert [Ended(2, None)] == agent.say(Settled("here", ID, [(2, 2)], failed=1))
    assert (0, 3) == (agent.session.calling.unheld, agent.session.calling.first_unheld())


def test_ranges_that_hold_more_than_may_be_outstanding_end_the_connection(agent: Agent) -> None:
    (lost,) = agent.say(Accepted([(0, 1 << 40)]))
    assert isinstance(lost, Lost)


def test_a_fanout_is_aimed_once_it_is_held_and_its_targets_are_known(agent: Agent) -> None:
    one, two = agent.ask(Kind.FANOUT), agent.ask(Kind.FANOUT)
    agent.heard()
    assert [Aimed(one, 3)] == agent.say(Targets(one, [("a", 1), ("b", 2)]), Accepted([(one, one)]))
    assert [] == agent.say(Accepted([(two, two)]))
    assert [Aimed(two, 1)] == agent.say(Targets(two, [("a", 1)]))
    assert [] == agent.say(Targets(two, [("b", 1)]), Targets(99, []))
    receipt = Receipt("here", ID, one, 3, 2, 1, 0)
    assert [Ended(one, receipt)] == agent.say(receipt)
    unasked = Receipt("here", ID, two, 0, 0, 0, 0)
    assert [Ended(two, Receipt("here", ID, two, 2, 0, 0, 0))] == agent.say(unasked)


def test_a_request_over_a_limit_is_overloaded_by_that_name() -> None:
    for limit, body in (("outstanding_records", b""), ("outstanding_bytes", b"x" * 90), ("session_window", b"")):
        agent = Agent()
        agent.connect(**{limit: 2 if limit != "outstanding_bytes" else 400})
        agent.ask(body=body)
        agent.ask(body=b"")
        with pytest.raises(Overloaded) as raised:
            agent.ask(body=body)
        assert limit == raised.value.limit
        assert limit in str(raised.value)


def test_the_window_counts_from_the_oldest_that_has_not_ended() -> None:
    agent = Agent()
    agent.connect(session_window=3)
    for _ in range(3):
        agent.ask()
    agent.heard()
    agent.say(ended(1), ended(2))
    with pytest.raises(Overloaded):
        agent.ask()
    agent.say(ended(0))
    assert 3 == agent.ask()


def test_one_request_may_be_larger_than_the_whole_window_in_bytes() -> None:
    agent = Agent()
    agent.connect(outstanding_bytes=10)
    agent.ask()


def test_a_long_backlog_is_written_in_turns(agent: Agent) -> None:
    for _ in range(TURN_RECORDS + 1):
        agent.ask()
    assert TURN_RECORDS == sum(len(decode(data).records) for data in agent.session.take(T0))
    (data,) = agent.session.take(T0)
    assert 1 == len(decode(data).records)
    assert not agent.session.wants_write


def test_cancelling_tells_the_agent_only_of_what_it_may_know(agent: Agent) -> None:
    one = agent.ask()
    agent.heard()
    two = agent.ask()
    assert agent.session.cancel(one)
    assert not agent.session.cancel(two)
    assert not agent.session.cancel(two)
    assert [Cancel("here", ID, one)] == agent.heard()
    assert [] == agent.say(ended(one))
    assert 2 == agent.session.calling.floor


def test_what_was_written_gets_a_little_longer_and_is_then_indeterminate(agent: Agent) -> None:
    seq = agent.ask(timeout_s=2)
    agent.heard()
    assert [] == agent.session.tick(T0 + 2)
    agent.say(Pong(0), now=T0 + 2)
    assert T0 + 2 + GRACE_S == agent.session.deadline()
    (event,) = agent.session.tick(T0 + 2 + GRACE_S)
    assert isinstance(event, Ended)
    assert isinstance(event.outcome, Failure)
    assert (seq, Status.INDETERMINATE) == (event.seq, event.outcome.status)
    assert Cancel("here", ID, seq) in agent.heard()


def test_a_durable_cast_whose_time_is_over_is_not_cancelled_for_its_agent_keeps_it_as_a_dead_letter(
    agent: Agent,
) -> None:
    seq = agent.ask(kind=Kind.CAST, flags=Flag.DURABLE, timeout_s=2)
    agent.heard()
    agent.session.tick(T0 + 2)
    (event,) = agent.session.tick(T0 + 2 + GRACE_S)
    assert isinstance(event, Ended)
    assert seq == event.seq
    assert [] == [record for record in agent.heard() if isinstance(record, Cancel)]


def test_what_was_never_written_has_certainly_not_run(agent: Agent) -> None:
    agent.ask(timeout_s=1)
    (event,) = agent.session.tick(T0 + 1)
    assert Status.EXPIRED == event.outcome.status  # type: ignore[union-attr]
    agent.session.disconnected("it is gone", T0)
    agent.ask(timeout_s=1)
    (event,) = agent.session.tick(T0 + 1)
    assert Status.AGENT_UNAVAILABLE == event.outcome.status  # type: ignore[union-attr]
    assert "it is gone" in event.outcome.text  # type: ignore[union-attr]


def test_what_was_written_to_an_agent_that_is_gone_is_indeterminate(agent: Agent) -> None:
    agent.ask(timeout_s=1)
    agent.heard()
    agent.session.disconnected("it is gone", T0)
    agent.session.tick(T0 + 1)
    (event,) = agent.session.tick(T0 + 1 + GRACE_S)
    assert Status.INDETERMINATE == event.outcome.status  # type: ignore[union-attr]
    assert "it is gone" in event.outcome.text  # type: ignore[union-attr]
    assert [] == agent.heard()


def test_timers_of_what_has_ended_do_not_gather(agent: Agent) -> None:
    for _ in range(3_000):
        seq = agent.ask(timeout_s=60)
        agent.session.take(T0)
        agent.session.calling.end(seq, None)
    assert len(agent.session.calling.timers) <= 300
    assert None is agent.session.deadline()
    agent.ask(timeout_s=0.001)
    assert [] != agent.session.tick(T0 + 60)
    assert [] == agent.session.calling.timers


def test_a_cancelled_request_whose_time_comes_is_no_event(agent: Agent) -> None:
    one, two = agent.ask(timeout_s=1), agent.ask(timeout_s=2)
    agent.session.cancel(one)
    (event,) = agent.session.tick(T0 + 3)
    assert two == event.seq  # type: ignore[union-attr]


# Calling, over several connections


def test_everything_that_has_not_ended_is_written_again_and_marked(agent: Agent) -> None:
    call, cast, over = agent.ask(body=b"1"), agent.ask(Kind.CAST, b"2"), agent.ask(body=b"3")
    agent.heard()
    agent.say(Accepted([(cast, cast)]), ended(over))
    agent.session.disconnected("gone", T0)
    new = agent.ask(body=b"4")
    requests = agent.connect(incarnation=4)
    assert [
        (call, b"1", Flag.RESUMED),
        (cast, b"2", Flag.RESUMED),
        (new, b"4", 0),
    ] == [(r.seq, r.body, r.flags) for r in requests if isinstance(r, Request)]
    assert [Ended(call, ended(call))] == agent.say(ended(call))
    assert [] == agent.say(Accepted([(cast, cast)]))


def test_what_could_not_be_written_at_all_is_not_marked(agent: Agent) -> None:
    agent.ask(Kind.CAST)
    agent.ask()
    agent.session.take(T0)
    agent.session.cancel(1)
    agent.session.unwritten()
    assert 0 == agent.session.calling.unheld
    agent.session.disconnected("refused the bytes", T0)
    assert [0] == [r.flags for r in agent.connect() if isinstance(r, Request)]


def test_what_the_first_connection_saw_stays_marked_when_the_second_cannot_be_written(agent: Agent) -> None:
    agent.ask()
    agent.heard()
    agent.session.disconnected("gone", T0)
    agent.dial()
    agent.say(welcome())
    agent.session.take(T0)
    agent.session.unwritten()
    agent.session.disconnected("gone", T0)
    assert [Flag.RESUMED] == [r.flags for r in agent.connect() if isinstance(r, Request)]


def test_reached_nodes_are_told_to_a_new_agent_before_the_requests(agent: Agent) -> None:
    agent.ask()
    agent.heard()
    agent.say(Reach("x", 8, 1), Reach("y", 9, 2), Reach("x", 8, 1))
    agent.session.disconnected("killed", T0)
    assert [Reach("x", 8, 1), Reach("y", 9, 2)] == agent.connect(incarnation=4)[:2]


def test_reached_nodes_are_forgotten_when_what_was_asked_then_has_ended(agent: Agent) -> None:
    first = agent.ask()
    agent.heard()
    agent.say(Reach("x", 8))
    agent.session.disconnected("killed", T0)
    second = agent.ask()
    agent.connect(incarnation=4)
    agent.say(Reach("y", 9), ended(first))
    agent.session.disconnected("killed", T0)
    told = agent.connect(incarnation=5)
    assert [Reach("y", 9)] == [record for record in told if isinstance(record, Reach)]
    agent.say(ended(second))
    agent.session.disconnected("killed", T0)
    assert [] == agent.connect(incarnation=6)


def test_the_same_agent_tells_a_node_once_so_it_is_kept_while_that_agent_lives(agent: Agent) -> None:
    first = agent.ask()
    agent.heard()
    agent.say(Reach("x", 8), ended(first))
    agent.session.disconnected("a hiccup", T0)
    assert [Reach("x", 8)] == agent.connect()
    agent.ask()
    agent.heard()
    agent.session.disconnected("killed", T0)
    assert [Reach("x", 8)] == agent.connect(incarnation=4)[:1]


def test_one_that_holds_nothing_any_more_is_forgotten_when_what_was_asked_until_then_has_ended(agent: Agent) -> None:
    first, second = agent.ask(), agent.ask()
    agent.heard()
    agent.say(Reach("x", 8, 1), ended(first), Reach("x", 8, 1, over=True), Reach("z", 8, 1, over=True))
    agent.session.disconnected("a hiccup", T0)
    assert [Reach("x", 8, 1)] == agent.connect()[:1]
    agent.say(ended(second))
    agent.session.disconnected("a hiccup", T0)
    assert [] == agent.connect()


def test_those_of_whom_nothing_is_outstanding_do_not_gather(agent: Agent) -> None:
    for session in range(500):
        agent.say(Reach("x", 8, session), Reach("x", 8, session, over=True))
    assert 1 + REACHED_SLACK >= len(agent.session.calling.reached)


def test_where_a_fan_out_went_is_told_to_a_new_agent_before_it_is_said_again(agent: Agent) -> None:
    seq = agent.ask(kind=Kind.FANOUT)
    agent.heard()
    agent.say(Targets(seq, [("x", 2), ("y", 1)]))
    agent.session.disconnected("killed", T0)
    told = agent.connect(incarnation=4)
    assert ([Targets(seq, [("x", 2), ("y", 1)])], Request) == (told[:1], type(told[1]))


@pytest.mark.parametrize("kind", [Kind.CALL, Kind.CAST])
def test_of_what_processes_died_is_told_to_a_new_agent_before_it_is_said_again(agent: Agent, kind: Kind) -> None:
    seq = agent.ask(kind=kind)
    agent.heard()
    assert [] == agent.say(Targets(seq, [], 2), Targets(seq, [], 1))
    agent.session.disconnected("killed", T0)
    told = agent.connect(incarnation=4)
    assert ([Targets(seq, [], 2)], Request) == (told[:1], type(told[1]))


def test_reached_nodes_are_bounded(agent: Agent, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("mesh.client.calling.REACHED_MAX", 1)
    (lost,) = agent.say(Reach("x", 1), Reach("y", 1))
    assert isinstance(lost, Lost)


def test_questions_are_asked_again_until_they_are_answered(agent: Agent) -> None:
    number = agent.session.query("status", {}, T0)
    assert [Query(number, "status")] == agent.heard()
    agent.session.disconnected("gone", T0)
    agent.session.query("links", {"a": "b"}, T0)
    forgotten = agent.session.query("topics", {}, T0)
    agent.session.forget_query(forgotten)
    assert [Query(number, "status"), Query(number + 1, "links", {"a": "b"})] == agent.connect()
    assert [Reported(number, True, b"{}")] == agent.say(Report(number, True, b"{}"))
    assert [] == agent.say(Report(number, True, b"{}"))


def test_who_asks_how_far_we_are_is_told_the_floor_and_what_ended_above_it(agent: Agent) -> None:
    for _ in range(5):
        agent.ask()
    agent.heard()
    agent.say(ended(0), ended(2), ended(3))
    agent.say(FloorAsk("far", ID))
    assert [Floor("far", ID, 1, [(2, 3)])] == agent.heard()


def test_the_floor_is_told_within_what_one_record_may_settle(agent: Agent) -> None:
    agent.session.calling.next_seq = 3 * SEQS_MAX
    agent.say(FloorAsk("far", ID))
    assert [Floor("far", ID, 0, [(0, SEQS_MAX - 1)])] == agent.heard()


# Serving


def test_a_topic_is_served_once_the_agent_says_so(agent: Agent) -> None:
    agent.session.serve("topic", "one", 4, 16)
    assert [Serve("topic", "one", 4, 16)] == agent.heard()
    assert [ServingTold("topic", True, "")] == agent.say(Serving("topic", "one", True))
    assert [] == agent.say(Serving("unknown", "one", True))


def test_a_topic_that_is_refused_is_not_served(agent: Agent) -> None:
    agent.session.serve("topic", "one", 4, 16)
    assert [ServingTold("topic", False, "taken")] == agent.say(Serving("topic", "one", False, "taken"))
    assert {} == agent.session.serving.services


def test_a_topic_that_an_agent_ends_by_itself_is_offered_to_the_next(serving: Agent) -> None:
    assert [ServingTold("topic", False, "draining")] == serving.say(Serving("topic", "one", False, "draining"))
    serving.session.disconnected("drained", T0)
    assert [Serve("topic", "one", 4, 16)] == serving.connect(incarnation=4)


def test_unserve_ends_when_the_agent_has_handed_its_last(serving: Agent) -> None:
    serving.session.unserve("topic")
    serving.session.unserve("topic")
    serving.session.unserve("nothing")
    assert [Unserve("topic", "one")] == serving.heard()
    serving.session.disconnected("gone", T0)
    assert [Unserve("topic", "one")] == serving.connect(incarnation=4)
    assert [ServingTold("topic", False, "not served")] == serving.say(Serving("topic", "one", False, "not served"))
    assert {} == serving.session.serving.services


def test_a_request_is_delivered_begun_and_answered(serving: Agent) -> None:
    request = asked(3)
    assert [Delivered(request, T0 + 5)] == serving.say(request)
    assert serving.session.begin(id_of(3), T0 + 1)
    assert not serving.session.begin(id_of(3), T0 + 1)
    serving.session.answer(reply(3), 0.0)
    assert [reply(3)] == serving.heard()
    assert 0 == serving.session.serving.in_hand


def test_a_copy_of_a_request_is_not_run_but_answered_again(serving: Agent) -> None:
    serving.say(asked(3))
    assert [] == serving.say(asked(3))
    serving.session.begin(id_of(3), T0)
    assert [] == serving.say(asked(3))
    serving.session.answer(reply(3), 0.0)
    serving.heard()
    assert [] == serving.say(asked(3))
    assert [reply(3)] == serving.heard()


def test_a_copy_of_a_cast_that_has_ended_is_settled_again(serving: Agent) -> None:
    serving.say(asked(3, Kind.CAST))
    serving.session.settle(id_of(3), failed=True)
    assert [Settled(*CALLER, [(3, 3)], 1)] == serving.heard()
    serving.say(asked(3, Kind.CAST))
    assert [Settled(*CALLER, [(3, 3)], 1)] == serving.heard()


def test_casts_are_settled_together_and_those_that_failed_apart(serving: Agent) -> None:
    for seq in (1, 2, 3, 5, 6):
        serving.say(asked(seq, Kind.CAST))
        serving.session.settle(id_of(seq), failed=seq in (3, 5, 6))
    serving.session.settle(id_of(6))
    assert serving.session.wants_write
    assert [Settled(*CALLER, [(1, 2)]), Settled(*CALLER, [(3, 3), (5, 6)], 3)] == serving.heard()


def test_while_the_agent_drains_casts_are_still_settled(serving: Agent) -> None:
    serving.say(asked(1, Kind.CAST), Goodbye())
    assert not serving.session.wants_write
    serving.session.settle(id_of(1))
    assert [Settled(*CALLER, [(1, 1)])] == serving.heard()


def test_callers_are_told_apart(serving: Agent) -> None:
    serving.say(asked(1))
    assert 2 == len(serving.say(asked(1, node="third"), asked(1, session=6)))
    serving.session.answer(Reply("third", 5, 1, b"t"), 0.0)
    assert (3, 2) == (serving.session.serving.ids, serving.session.serving.in_hand)


def test_an_answer_of_nobody_we_know_is_sent_all_the_same(serving: Agent) -> None:
    serving.session.answer(reply(9), 0.0)
    assert [reply(9)] == serving.heard()
    serving.session.settle(id_of(9))
    assert [] == serving.heard()
    assert not serving.session.begin(id_of(9), T0)


def test_what_waited_too_long_for_a_worker_is_expired_unrun(serving: Agent) -> None:
    serving.say(asked(1), asked(2, Kind.FANOUT))
    assert not serving.session.begin(id_of(1), T0 + 5)
    assert not serving.session.begin(id_of(2), T0 + 5)
    failure, settled = serving.heard()
    assert isinstance(failure, Failure)
    assert (Status.EXPIRED, 1) == (failure.status, failure.seq)
    assert Settled(*CALLER, [(2, 2)], 1) == settled
    serving.say(asked(2, Kind.FANOUT))
    assert [Settled(*CALLER, [(2, 2)], 1)] == serving.heard()


def test_a_request_for_a_topic_that_is_not_served_is_refused(agent: Agent) -> None:
    assert [] == agent.say(asked(1))
    (failure,) = agent.heard()
    assert Status.UNROUTABLE == failure.status  # type: ignore[union-attr]


def test_when_no_more_ids_can_be_remembered_work_is_refused(serving: Agent) -> None:
    serving.session.serving.ids_max = 1
    serving.say(asked(1), asked(2))
    (failure,) = serving.heard()
    assert (Status.OVERLOADED, "ids_max") == (failure.status, failure.limit)  # type: ignore[union-attr]


def test_cancel_drops_what_has_not_begun_and_tells_what_has(serving: Agent) -> None:
    serving.say(asked(1), asked(2), asked(3))
    serving.session.begin(id_of(2), T0)
    serving.session.begin(id_of(3), T0)
    serving.session.answer(reply(3), 0.0)
    serving.heard()
    events = serving.say(*(Cancel(*id_of(seq)) for seq in (1, 2, 3, 4)))
    assert [CancelAsked(id_of(2))] == events
    (failure,) = serving.heard()
    assert (Status.CANCELLED, 1) == (failure.status, failure.seq)  # type: ignore[union-attr]
    assert not serving.session.begin(id_of(1), T0)


def test_what_is_below_the_callers_floor_is_forgotten_once_it_has_ended(serving: Agent) -> None:
    for seq in range(4):
        serving.say(asked(seq))
        if seq != 2:
            serving.session.begin(id_of(seq), T0)
            serving.session.answer(reply(seq, b"z" * 10), 0.0)
    state = serving.session.serving
    assert (4, 30) == (state.ids, state.answers_bytes)
    serving.say(asked(9, floor=4))
    assert (2, 0) == (state.ids, state.answers_bytes)
    serving.session.answer(reply(2), 0.0)
    assert 1 == state.ids
    serving.say(Floor(*CALLER, 3, []), Floor(*CALLER, 10, []), Floor("nobody", 1, 1, []))
    serving.session.answer(reply(9), 0.0)
    assert 0 == state.ids


def test_what_a_caller_has_settled_above_its_floor_is_forgotten_too(serving: Agent) -> None:
    for seq in range(6):
        serving.say(asked(seq))
        if seq != 2:
            serving.session.begin(id_of(seq), T0)
            serving.session.answer(reply(seq), 0.0)
    serving.say(Floor(*CALLER, 1, [(2, 3), (5, 1 << 40)]))
    assert [1, 2, 4] == list(serving.session.serving.callers[CALLER].works)


def test_a_caller_that_says_nothing_for_long_is_asked_how_far_it_has_settled(serving: Agent) -> None:
    serving.say(asked(0, timeout_ms=600_000))
    serving.session.begin(id_of(0), T0)
    serving.session.answer(reply(0), 0.0)
    serving.heard()
    now = T0
    while now < T0 + FLOOR_PULL_S - SWEEP_S / 2:
        assert [] == serving.heard()
        now = serving.session.serving.sweep_at
        serving.session.tick(now)
    assert [FloorAsk(*CALLER)] == [record for record in serving.heard() if isinstance(record, FloorAsk)]
    serving.say(Floor(*CALLER, 1, []))
    serving.session.tick(serving.session.serving.sweep_at)
    assert [] == [record for record in serving.heard() if isinstance(record, FloorAsk)]


def test_a_great_leap_of_the_floor_is_no_more_work_than_there_are_ids(serving: Agent) -> None:
    serving.say(asked(0))
    serving.session.answer(reply(0), 0.0)
    serving.say(asked(1 << 60, floor=1 << 60))
    assert 1 == serving.session.serving.ids


def test_a_request_that_its_caller_has_settled_is_not_run(serving: Agent) -> None:
    serving.say(asked(9, floor=9))
    serving.heard()
    assert [] == serving.say(asked(3))
    (failure,) = serving.heard()
    assert Status.CANCELLED == failure.status  # type: ignore[union-attr]


def test_answers_beyond_the_limit_are_dropped_and_a_copy_is_indeterminate(serving: Agent) -> None:
    serving.session.serving.answers_bytes_max = 10
    for seq, body in ((1, b"12345678"), (2, b"123")):
        serving.say(asked(seq))
        serving.session.answer(reply(seq, body), 0.0)
    serving.heard()
    serving.say(asked(1), asked(2))
    again, lost = serving.heard()
    assert reply(1, b"12345678") == again
    assert (Status.INDETERMINATE, "answers_bytes") == (lost.status, lost.limit)  # type: ignore[union-attr]


def test_ids_are_forgotten_a_second_after_their_deadline_but_not_while_they_run(serving: Agent) -> None:
    serving.say(asked(1, timeout_ms=1_000), asked(2, timeout_ms=1_000))
    serving.session.begin(id_of(2), T0)
    serving.session.answer(reply(1), 0.0)
    serving.heard()
    assert T0 + SWEEP_S == serving.session.deadline()
    state = serving.session.serving
    assert [] == serving.session.tick(T0 + 1 + MARGIN_S)
    assert 2 == state.ids
    serving.session.tick(T0 + SWEEP_S)
    assert 1 == state.ids
    serving.session.answer(reply(2), 0.0)
    serving.session.tick(T0 + 2 * SWEEP_S)
    assert (0, {}) == (state.ids, state.callers)
    assert None is serving.session.deadline()


def test_a_callers_floor_is_kept_while_something_of_it_may_still_come(serving: Agent) -> None:
    serving.say(asked(1, timeout_ms=60_000), asked(2, timeout_ms=1_000, floor=2))
    serving.session.answer(reply(1), 0.0)
    serving.session.answer(reply(2), 0.0)
    serving.heard()
    serving.session.tick(T0 + SWEEP_S)
    assert 0 == serving.session.serving.ids
    assert 2 == serving.session.serving.callers[CALLER].floor
    assert T0 + 2 * SWEEP_S == serving.session.deadline()


def test_who_is_asked_what_became_of_ids_says_it_and_answers_again(serving: Agent) -> None:
    serving.say(asked(5, floor=5), asked(6), asked(7))
    serving.session.begin(id_of(6), T0)
    serving.session.answer(reply(7), 0.0)
    serving.heard()
    ids = [(5, 5), (5, 6), (5, 7), (5, 8), (5, 4), (99, 1)]
    serving.say(Ask("other", 3, 12, ID, 2, ids))
    answer, again = serving.heard()
    assert reply(7) == again
    running, never, lost = int(Verdict.RUNNING), int(Verdict.NEVER), int(Verdict.LOST)
    assert Answer("other", 3, 12, ID, ids, [running, running, running, never, lost, never]) == answer
    assert [Delivered(asked(8), T0 + 5)] == serving.say(asked(8))


def test_a_new_connection_hears_every_answer_that_is_kept(serving: Agent) -> None:
    serving.say(asked(1), asked(2), asked(3, Kind.CAST), asked(4, Kind.CAST), asked(5, Kind.CAST, timeout_ms=1))
    serving.session.answer(reply(1), 0.0)
    serving.session.settle(id_of(3))
    serving.heard()
    serving.session.begin(id_of(5), T0 + 1)
    serving.session.disconnected("killed", T0)
    serving.session.settle(id_of(4), failed=True)
    assert [] == serving.heard()
    told = serving.connect(incarnation=4)
    serve, again, expired, *settled = told
    assert Serve("topic", "one", 4, 16) == serve
    assert reply(1) == again
    assert Status.EXPIRED == expired.status  # type: ignore[union-attr]
    assert [Settled(*CALLER, [(3, 3)]), Settled(*CALLER, [(4, 4)], 1)] == settled


def test_calls_that_have_not_begun_go_back_when_the_app_leaves(serving: Agent) -> None:
    serving.say(asked(1), asked(2), asked(3, Kind.CAST))
    serving.session.begin(id_of(2), T0)
    serving.session.leave()
    failure, goodbye = serving.heard()
    assert (Status.UNROUTABLE, 1) == (failure.status, failure.seq)  # type: ignore[union-attr]
    assert Goodbye() == goodbye


def test_a_reply_that_is_too_large_is_told_as_that(serving: Agent) -> None:
    serving.say(asked(1))
    serving.session.answer(reply(1, b"x" * 10_001), 0.0)
    (failure,) = serving.heard()
    assert isinstance(failure, Failure)
    assert (Status.REMOTE_ERROR, "ReplyTooLarge", "body_bytes_max") == (
        failure.status,
        failure.error_type,
        failure.limit,
    )


# Large bodies


def assemble(agent: Agent, records: list[Record]) -> bytes:
    """Acknowledge chunks until the stream is complete; returns its body."""
    body = b""
    while records:
        acks = []
        for chunk in records:
            assert isinstance(chunk, Chunk)
            body += chunk.body
            acks.append(ChunkAck(chunk.stream, chunk.number + 1))
        agent.say(*acks)
        records = agent.heard()
    return body


def test_a_large_request_goes_in_chunks(agent: Agent) -> None:
    body = bytes(range(256)) * 2
    agent.ask(body=body)
    announcement, *chunks = agent.heard()
    assert isinstance(announcement, Request)
    assert (512, b"") == (announcement.size, announcement.body)
    assert 2 == len(chunks)
    assert body == assemble(agent, chunks)


def test_a_large_reply_of_ours_goes_in_chunks(serving: Agent) -> None:
    serving.say(asked(1))
    serving.session.answer(reply(1, b"r" * 450), 0.0)
    announcement, *chunks = serving.heard()
    assert isinstance(announcement, Reply)
    assert (450, b"") == (announcement.size, announcement.body)
    assert b"r" * 450 == assemble(serving, chunks)


def test_a_large_reply_comes_in_chunks(agent: Agent) -> None:
    seq = agent.ask()
    agent.heard()
    assert [] == agent.say(Reply("here", ID, seq, b"", size=6, stream=4), Chunk(4, 0, b"abc"))
    assert [Ended(seq, ended(seq, b"abcdef"))] == agent.say(Chunk(4, 1, b"def"))
    assert [ChunkAck(4, 1), ChunkAck(4, 2)] == agent.heard()


def test_a_large_request_comes_in_chunks_and_its_time_runs_meanwhile(serving: Agent) -> None:
    serving.say(asked(1, size=6, stream=4, body=b""), Chunk(4, 0, b"abc"))
    (event,) = serving.say(Chunk(4, 1, b"def"), now=T0 + 2)
    assert isinstance(event, Delivered)
    assert (b"abcdef", T0 + 5) == (event.request.body, event.deadline)


def test_a_reply_over_the_limit_has_run_and_is_told_as_that(agent: Agent) -> None:
    seq = agent.ask()
    agent.heard()
    (event,) = agent.say(Reply("here", ID, seq, b"", size=10_001, stream=4))
    assert (Status.REMOTE_ERROR, "ReplyTooLarge") == (event.outcome.status, event.outcome.error_type)  # type: ignore[union-attr]
    assert [] == agent.say(Chunk(4, 0, b"abc"))
    assert [ChunkAck(4, 1, abort=True)] == agent.heard()


def test_a_request_over_the_agents_own_limit_ends_the_connection(serving: Agent) -> None:
    (lost,) = serving.say(asked(1, size=10_001, stream=4))
    assert isinstance(lost, Lost)


# State is data


def test_a_session_is_copied_by_an_encode_and_a_decode(serving: Agent) -> None:
    serving.ask(Kind.CAST, b"x" * 300)
    serving.ask(Kind.FANOUT)
    serving.heard()
    serving.ask()
    serving.session.query("status", {}, T0)
    serving.say(
        Reach("x", 1),
        Targets(1, [("x", 2)]),
        asked(1),
        asked(2, Kind.CAST),
        asked(3),
        asked(4, size=6, stream=4, body=b""),
        Chunk(4, 0, b"abc"),
    )
    serving.session.answer(reply(1), 0.0)
    serving.session.settle(id_of(2))
    serving.session.begin(id_of(3), T0)
    data = msgspec.msgpack.encode(serving.session)
    twin = msgspec.msgpack.decode(data, type=Session)
    assert serving.session == twin
    assert serving.session.take(T0) == twin.take(T0)
    assert Stage.RUNNING is twin.serving.callers[CALLER].works[3].stage
    assert serving.session.tick(T0 + 100) == twin.tick(T0 + 100)


def test_a_fresh_half_has_nothing() -> None:
    assert (None, 0) == (CallingState().deadline(), CallingState().first_unheld())
