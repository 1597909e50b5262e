"""What the memory matchmaker adds to the contract: TTLs by the clock it is given, and none but that."""

from mesh.core.catalogue import Health
from mesh.matchmaker.memory import Catalogue, MemoryMatchmaker
from tests.matchmaker.worlds import ORDERS, agent, instance


def test_a_ttl_runs_by_the_given_clock_to_the_second() -> None:
    now = [100.0]
    matchmaker = MemoryMatchmaker("one", Catalogue(lambda: now[0], ttl_s=10))
    matchmaker.register(agent())
    matchmaker.register(instance(agent()))
    now[0] += 9.9
    assert 1 == len(matchmaker.watch(ORDERS, 0, 0).instances)
    assert matchmaker.renew(agent(), Health.PASSING, "")
    now[0] += 0.2
    assert () == matchmaker.watch(ORDERS, 0, 0).instances
    assert not matchmaker.renew(instance(agent()), Health.PASSING, "")
    assert [agent()] == list(matchmaker.agents())


def test_one_catalogue_holds_several_fleets() -> None:
    catalogue = Catalogue()
    for fleet in ("one", "two"):
        MemoryMatchmaker(fleet, catalogue).register(agent(fleet))
    assert ["one"] == [found.node for found in MemoryMatchmaker("one", catalogue).agents()]
    catalogue.clear()
    assert [] == list(MemoryMatchmaker("one", catalogue).agents())
