"""The simulated matchmaker: what it tells when it is well, and what when it is not."""

from mesh.core.catalogue import AgentEntry, Health, Instance, Snapshot
from mesh.core.effects import Register, Renew, Withdraw
from mesh.sim.matchmaker import Matchmaker
from mesh.types import TopicKey

ORDERS = TopicKey("", "orders")


class Reader:
    """A matchmaker that agent r watches, and what it was told last."""

    def __init__(self) -> None:
        self.told: list[tuple[str, Snapshot]] = []
        self.matchmaker = Matchmaker(lambda name, snapshot: self.told.append((name, snapshot)))
        self.matchmaker.watch("r", ORDERS)

    @property
    def nodes(self) -> list[str]:
        return [instance.agent.node for instance in self.told[-1][1].instances]


def instance(node: str, session: int = 1) -> Instance:
    return Instance("", "orders", f"{node}-{session}", session, AgentEntry(node, node, 7000, 5))


def test_a_watcher_is_told_of_each_change() -> None:
    reader = Reader()
    one = instance("a")
    reader.matchmaker.change("a", Register(one))
    assert ["a"] == reader.nodes
    reader.matchmaker.change("a", Renew(one, Health.MAINTENANCE, "draining"))
    reader.matchmaker.change("b", Renew(instance("b"), Health.PASSING, ""))
    assert ["a"] == reader.nodes
    reader.matchmaker.change("a", Withdraw(one))
    assert ([], 5) == (reader.nodes, len(reader.told))
    reader.matchmaker.unwatch("r", ORDERS)
    reader.matchmaker.change("a", Register(one))
    assert 5 == len(reader.told)


def test_what_is_said_while_it_is_away_is_done_when_it_is_back() -> None:
    reader = Reader()
    reader.matchmaker.change("a", Register(instance("a")))
    reader.matchmaker.is_away = True
    reader.matchmaker.change("b", Register(instance("b")))
    reader.matchmaker.change("a", Withdraw(instance("a")))
    assert ["a"] == reader.nodes
    reader.matchmaker.back()
    assert ["b"] == reader.nodes


def test_what_was_wiped_is_repaired_by_those_who_live() -> None:
    reader = Reader()
    for node in "ab":
        reader.matchmaker.change(node, Register(instance(node)))
    reader.matchmaker.wipe()
    assert [] == reader.nodes
    reader.matchmaker.leave("a")
    reader.matchmaker.repair("a")
    assert [] == reader.nodes
    reader.matchmaker.repair()
    assert ["b"] == reader.nodes


def test_a_reader_that_is_misled_or_frozen_learns_the_truth_later() -> None:
    reader = Reader()
    reader.matchmaker.misled["r"] = ("b",)
    for node in "ab":
        reader.matchmaker.change(node, Register(instance(node)))
    assert ["b"] == reader.nodes
    reader.matchmaker.frozen["r"] = None
    reader.matchmaker.change("b", Withdraw(instance("b")))
    assert ["b"] == reader.nodes
    reader.matchmaker.back()
    assert ["a"] == reader.nodes


def test_the_ttl_of_an_incarnation_leaves_a_later_one_alone() -> None:
    reader = Reader()
    reader.matchmaker.change("a", Register(instance("a")))
    reader.matchmaker.forget("a", 4)
    assert ["a"] == reader.nodes
    reader.matchmaker.forget("a", 5)
    assert [] == reader.nodes
