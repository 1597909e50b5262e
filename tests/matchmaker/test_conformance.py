"""What every matchmaker keeps: the same tests over memory, SQLite and a real Consul."""

import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor

import pytest
from msgspec.structs import replace

from mesh.core.catalogue import AgentEntry, Health, Snapshot
from mesh.matchmaker.base import Matchmaker, MatchmakerError
from mesh.types import InstanceKey, TopicKey
from tests.matchmaker.worlds import (
    ORDERS,
    ConsulWorld,
    MemoryWorld,
    SqliteWorld,
    World,
    agent,
    eventually,
    instance,
    until,
)

LONG_S = 60.0
KINDS = [
    pytest.param("memory", marks=pytest.mark.io),
    pytest.param("sqlite", marks=pytest.mark.io),
    pytest.param("consul", marks=pytest.mark.system),
]


def build(kind: str, request: pytest.FixtureRequest, consul_ttl_s: float) -> Iterator[World]:
    makers: dict[str, Callable[[], World]] = {
        "memory": MemoryWorld,
        "sqlite": lambda: SqliteWorld(request.getfixturevalue("tmp_path")),
        "consul": lambda: ConsulWorld(request.getfixturevalue("consul"), consul_ttl_s),
    }
    world = makers[kind]()
    yield world
    world.close()


@pytest.fixture(params=KINDS)
def world(request: pytest.FixtureRequest) -> Iterator[World]:
    yield from build(request.param, request, LONG_S)


@pytest.fixture(params=KINDS)
def brief(request: pytest.FixtureRequest) -> Iterator[World]:
    """A world whose TTL a test can wait for."""
    yield from build(request.param, request, 3.0)


@pytest.fixture
def threads() -> Iterator[ThreadPoolExecutor]:
    with ThreadPoolExecutor(16) as pool:
        yield pool


def count(wanted: int) -> Callable[[Snapshot], bool]:
    return lambda seen: len(seen.instances) == wanted


def healths(*wanted: Health) -> Callable[[Snapshot], bool]:
    return lambda seen: [found.health for found in seen.instances] == list(wanted)


def serving(matchmaker: Matchmaker, sessions: int = 1, at: AgentEntry | None = None) -> Snapshot:
    """Register an agent and instances of `ORDERS` on it."""
    at = at or agent()
    matchmaker.register(at)
    for session in range(1, sessions + 1):
        matchmaker.register(instance(at, session))
    return until(matchmaker, count(sessions))


def waiting(threads: ThreadPoolExecutor, matchmaker: Matchmaker, seen: Snapshot) -> Future[Snapshot]:
    """Start a watch, and return when it has begun to wait."""
    begun = threading.Event()

    def watch() -> Snapshot:
        begun.set()
        return matchmaker.watch(seen.topic, seen.index, LONG_S)

    watching = threads.submit(watch)
    assert begun.wait(LONG_S)
    time.sleep(0.3)
    assert not watching.done()
    return watching


def test_an_instance_is_found_with_all_that_was_said_of_it(world: World) -> None:
    at = AgentEntry("Nöde.7", "fd00::7", 7007, (1 << 63) - 1, "k" * 40, "zone a", ("fanout_router", "a b,c"))
    entry = instance(at, (1 << 63) - 1, topic=TopicKey("Shop/EU", "Orders.v2:x"), server="srv@#._:9")
    matchmaker = world.matchmaker()
    matchmaker.register(at)
    matchmaker.register(entry)
    assert (entry,) == until(world.matchmaker(), count(1), entry.topic_key).instances
    assert [at] == list(world.matchmaker().agents())


def test_nobody_serves_a_topic_that_nobody_registered(world: World) -> None:
    matchmaker = world.matchmaker()
    assert () == matchmaker.watch(ORDERS, 0, 0).instances
    assert [] == list(matchmaker.agents())


def test_instances_come_sorted_by_key(world: World) -> None:
    matchmaker = world.matchmaker()
    for at in (agent("b"), agent("a", 7001)):
        matchmaker.register(at)
        for session, server in ((2, "y"), (1, "y"), (3, "x")):
            matchmaker.register(instance(at, session, server=server))
    keys = [found.key for found in until(matchmaker, count(6)).instances]
    assert [InstanceKey(node, *rest) for node in "ab" for rest in (("x", 3), ("y", 1), ("y", 2))] == keys


def test_an_agent_is_found_by_its_node_id(world: World) -> None:
    matchmaker = world.matchmaker()
    for at in (agent("b"), agent("a", 7001)):
        matchmaker.register(at)
    eventually(lambda: len(matchmaker.agents()) == 2, "both are found")
    assert [agent("a", 7001)] == list(matchmaker.agents("a"))
    assert [] == list(matchmaker.agents("c"))
    assert ["a", "b"] == [found.node for found in matchmaker.agents()]


def test_what_another_agent_has_replaced_is_not_renewed_by_the_first_or_is_seen_by_its_node_id(world: World) -> None:
    one, two = world.matchmaker(), world.matchmaker()
    first, second = agent(), agent(port=7999, incarnation=2)
    one.register(first)
    two.register(second)
    eventually(lambda: list(one.agents("node1")) == [second], "the second is found")
    if not isinstance(world, ConsulWorld):
        assert not one.renew(first, Health.PASSING, "")
    assert two.renew(second, Health.PASSING, "")


def test_a_restarted_agent_updates_its_entry(world: World) -> None:
    before, after = agent(), agent(port=7999, incarnation=2)
    serving(world.matchmaker(), at=before)
    restarted = world.matchmaker()
    restarted.register(after)
    restarted.register(instance(after))
    seen = until(restarted, lambda seen: [found.agent for found in seen.instances] == [after])
    assert 1 == len(seen.instances)
    assert [after] == list(restarted.agents())


def test_sessions_that_come_back_to_a_restarted_agent_in_another_order_are_found_once(world: World) -> None:
    at = agent(incarnation=2)
    serving(world.matchmaker(), sessions=2)
    restarted = world.matchmaker()
    restarted.register(at)
    for session in (2, 1):
        restarted.register(instance(at, session))
    seen = until(restarted, lambda seen: [found.agent for found in seen.instances] == [at, at])
    assert [1, 2] == [found.session for found in seen.instances]


def test_registering_the_same_again_changes_nothing(world: World) -> None:
    matchmaker = world.matchmaker()
    seen = serving(matchmaker)
    matchmaker.register(agent())
    matchmaker.register(instance(agent()))
    assert seen == matchmaker.watch(ORDERS, seen.index, 0.5)


def test_a_renewal_is_known_until_the_entry_is_forgotten(world: World) -> None:
    matchmaker = world.matchmaker()
    seen = serving(matchmaker)
    assert matchmaker.renew(agent(), Health.PASSING, "")
    assert matchmaker.renew(instance(agent()), Health.PASSING, "")
    assert seen == matchmaker.watch(ORDERS, seen.index, 0.2)
    world.forget()
    assert not matchmaker.renew(agent(), Health.PASSING, "")
    assert not matchmaker.renew(instance(agent()), Health.MAINTENANCE, "")
    assert seen == serving(matchmaker)


def test_an_entry_that_was_never_registered_is_unknown(world: World) -> None:
    matchmaker = world.matchmaker()
    assert not matchmaker.renew(agent(), Health.PASSING, "")
    assert not matchmaker.renew(instance(agent()), Health.WARNING, "why")


def test_what_is_withdrawn_is_gone_and_may_be_withdrawn_again(world: World) -> None:
    matchmaker = world.matchmaker()
    serving(matchmaker, sessions=2)
    for _ in range(2):
        matchmaker.withdraw(instance(agent(), 1))
    assert [2] == [found.session for found in until(matchmaker, count(1)).instances]
    assert not matchmaker.renew(instance(agent(), 1), Health.PASSING, "")


def test_a_withdrawn_agent_takes_its_instances_with_it(world: World) -> None:
    matchmaker, other = world.matchmaker(), world.matchmaker()
    serving(matchmaker)
    other.register(agent("node2", 7002))
    other.register(instance(agent("node2", 7002)))
    until(other, count(2))
    for _ in range(2):
        matchmaker.withdraw(agent())
    assert ["node2"] == [found.agent.node for found in until(other, count(1)).instances]
    assert ["node2"] == [found.node for found in other.agents()]
    assert not matchmaker.renew(instance(agent()), Health.PASSING, "")


def test_an_instance_without_its_agent_is_not_found(world: World) -> None:
    matchmaker = world.matchmaker()
    matchmaker.register(instance(agent()))
    until(matchmaker, count(0))
    matchmaker.register(agent())
    until(matchmaker, count(1))


def test_a_watch_without_change_waits_and_returns_the_same(world: World) -> None:
    matchmaker = world.matchmaker()
    seen = serving(matchmaker)
    begun = time.monotonic()
    assert seen == matchmaker.watch(ORDERS, seen.index, 0.5)
    assert time.monotonic() - begun >= 0.5


def test_a_watch_of_nobody_waits_too(world: World) -> None:
    matchmaker = world.matchmaker()
    seen = matchmaker.watch(ORDERS, 0, 0)
    begun = time.monotonic()
    assert seen == matchmaker.watch(ORDERS, seen.index, 0.5)
    assert time.monotonic() - begun >= 0.5


def test_a_watch_returns_at_once_when_the_index_is_not_the_present_one(world: World) -> None:
    matchmaker = world.matchmaker()
    before = matchmaker.watch(ORDERS, 0, 0)
    after = serving(matchmaker)
    assert before.index != after.index
    assert after == matchmaker.watch(ORDERS, before.index, LONG_S)


CHANGES: list[tuple[str, Callable[[Matchmaker], object], list[tuple[int, Health]]]] = [
    (
        "another instance",
        lambda matchmaker: matchmaker.register(instance(agent(), 2)),
        [(1, Health.PASSING), (2, Health.PASSING)],
    ),
    ("a withdrawal", lambda matchmaker: matchmaker.withdraw(instance(agent())), []),
    (
        "a warning",
        lambda matchmaker: matchmaker.renew(instance(agent()), Health.WARNING, "slow"),
        [(1, Health.WARNING)],
    ),
    ("an agent's end", lambda matchmaker: matchmaker.withdraw(agent()), []),
    ("an agent's failure", lambda matchmaker: matchmaker.renew(agent(), Health.CRITICAL, "stuck"), []),
]


@pytest.mark.parametrize(("change", "expected"), [case[1:] for case in CHANGES], ids=[case[0] for case in CHANGES])
def test_a_waiting_watch_of_another_agent_wakes_on(
    world: World,
    threads: ThreadPoolExecutor,
    change: Callable[[Matchmaker], object],
    expected: list[tuple[int, Health]],
) -> None:
    matchmaker, other = world.matchmaker(), world.matchmaker()
    watching = waiting(threads, other, serving(matchmaker))
    change(matchmaker)
    seen = watching.result(LONG_S)
    assert expected == [(found.session, found.health) for found in seen.instances]


def test_ten_watches_at_once_all_wake(world: World, threads: ThreadPoolExecutor) -> None:
    matchmaker = world.matchmaker()
    seen = serving(matchmaker)
    watching = [waiting(threads, matchmaker, seen) for _ in range(10)]
    matchmaker.register(instance(agent(), 2))
    assert [2] * 10 == [len(future.result(LONG_S).instances) for future in watching]


def test_writers_in_several_threads_do_not_disturb_each_other(world: World, threads: ThreadPoolExecutor) -> None:
    matchmaker = world.matchmaker()
    matchmaker.register(agent())

    def live(session: int) -> bool:
        entry = instance(agent(), session)
        matchmaker.register(entry)
        renewed = all(matchmaker.renew(entry, Health.PASSING, "") for _ in range(5))
        if session % 2:
            matchmaker.withdraw(entry)
        return renewed

    assert all(threads.map(live, range(16)))
    assert list(range(0, 16, 2)) == [found.session for found in until(matchmaker, count(8)).instances]


def test_health_is_seen_and_a_critical_instance_is_not(world: World) -> None:
    matchmaker, entry = world.matchmaker(), instance(agent())
    serving(matchmaker)
    for health in (Health.WARNING, Health.MAINTENANCE, Health.WARNING, Health.PASSING, Health.MAINTENANCE):
        assert matchmaker.renew(entry, health, "the reason")
        until(matchmaker, healths(health))
    matchmaker.renew(entry, Health.CRITICAL, "broken")
    until(matchmaker, count(0))
    matchmaker.renew(entry, Health.PASSING, "")
    until(matchmaker, healths(Health.PASSING))


def test_what_is_registered_again_is_passing(world: World) -> None:
    matchmaker, entry = world.matchmaker(), instance(agent())
    serving(matchmaker)
    for health in (Health.MAINTENANCE, Health.CRITICAL):
        matchmaker.renew(entry, health, "")
        matchmaker.register(entry)
        until(matchmaker, healths(Health.PASSING))


def test_an_agent_that_warns_hides_nothing(world: World) -> None:
    matchmaker = world.matchmaker()
    seen = serving(matchmaker)
    matchmaker.renew(agent(), Health.WARNING, "few descriptors")
    assert seen == matchmaker.watch(ORDERS, seen.index, 0.5)
    assert [agent()] == list(matchmaker.agents())


def test_namespaces_and_topics_are_apart(world: World) -> None:
    topics = [ORDERS, TopicKey("eu", "orders"), TopicKey("", "Orders"), TopicKey("EU", "orders"), TopicKey("", "eu")]
    matchmaker = world.matchmaker()
    matchmaker.register(agent())
    for session, topic in enumerate(topics):
        matchmaker.register(instance(agent(), session, topic=topic))
    for session, topic in enumerate(topics):
        assert [session] == [found.session for found in until(matchmaker, count(1), topic).instances]


def test_fleets_are_apart(world: World) -> None:
    one, two = world.matchmaker("one"), world.matchmaker("two")
    serving(one)
    assert () == two.watch(ORDERS, 0, 0.3).instances
    assert [] == list(two.agents())
    serving(two, at=agent(port=7002))
    two.withdraw(agent(port=7002))
    until(two, count(0))
    assert [agent()] == [found.agent for found in one.watch(ORDERS, 0, 0).instances]


def test_an_instance_that_is_not_renewed_is_gone_after_its_ttl_and_can_come_back(brief: World) -> None:
    matchmaker = brief.matchmaker()
    serving(matchmaker, sessions=2)
    brief.lapse((matchmaker, agent()), (matchmaker, instance(agent(), 2)))
    assert [2] == [found.session for found in until(matchmaker, count(1)).instances]
    if not matchmaker.renew(instance(agent(), 1), Health.PASSING, ""):
        matchmaker.register(instance(agent(), 1))
    until(matchmaker, count(2))


def test_a_waiting_watch_wakes_when_a_ttl_passes(brief: World, threads: ThreadPoolExecutor) -> None:
    matchmaker = brief.matchmaker()
    watching = waiting(threads, matchmaker, serving(matchmaker))
    brief.lapse()
    assert () == watching.result(LONG_S).instances


def test_an_agent_that_is_gone_hides_instances_that_are_not(brief: World) -> None:
    matchmaker = brief.matchmaker()
    serving(matchmaker)
    brief.lapse((matchmaker, instance(agent())))
    until(matchmaker, count(0))
    assert [] == list(matchmaker.agents())
    matchmaker.register(agent())
    until(matchmaker, count(1))


def test_closing_ends_watches_that_wait_and_refuses_the_verbs(world: World, threads: ThreadPoolExecutor) -> None:
    matchmaker, other = world.matchmaker(), world.matchmaker()
    seen = serving(matchmaker)
    watching = [waiting(threads, matchmaker, seen) for _ in range(3)]
    matchmaker.close()
    for future in watching:
        with pytest.raises(MatchmakerError, match="closed"):
            future.result(LONG_S)
    verbs: list[Callable[[], object]] = [
        lambda: matchmaker.register(agent()),
        lambda: matchmaker.renew(agent(), Health.PASSING, ""),
        lambda: matchmaker.withdraw(agent()),
        lambda: matchmaker.watch(ORDERS, 0, 0),
        matchmaker.agents,
    ]
    for verb in verbs:
        with pytest.raises(MatchmakerError, match="closed"):
            verb()
    assert seen == other.watch(ORDERS, 0, 0)


def test_an_update_is_seen_with_the_instance_it_was_said_with(world: World) -> None:
    matchmaker = world.matchmaker()
    serving(matchmaker)
    moved = replace(agent(), host="127.0.0.9", zone="b", incarnation=2)
    matchmaker.register(moved)
    assert [agent()] == [found.agent for found in matchmaker.watch(ORDERS, 0, 0).instances]
    matchmaker.register(instance(moved))
    until(matchmaker, lambda seen: [found.agent for found in seen.instances] == [moved])
