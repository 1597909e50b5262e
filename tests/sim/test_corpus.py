"""Seeds that found something once find nothing any more, and a fixed share of others does not either."""

from pathlib import Path

import pytest

from mesh.sim.plan import draw
from mesh.sim.run import play

SEEDS = Path(__file__).parent / "corpus" / "seeds.txt"
SHARE, AT_ONCE = 240, 20


def corpus() -> list[int]:
    lines = SEEDS.read_text(encoding="utf-8").splitlines()
    return [int(line.split()[0]) for line in lines if line and not line.startswith("#")]


@pytest.mark.parametrize("seed", corpus())
def test_a_seed_that_found_something_once_finds_nothing(seed: int) -> None:
    assert [] == play(draw(seed)).findings


@pytest.mark.parametrize("first", range(1_000_000, 1_000_000 + SHARE, AT_ONCE))
def test_whatever_a_seed_decides_every_promise_is_kept(first: int) -> None:
    results = [play(draw(seed)) for seed in range(first, first + AT_ONCE)]
    assert {} == {result.seed: result.findings for result in results if result.findings}
