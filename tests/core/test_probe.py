"""Of two agents with one node id the same one goes, whoever asks; what is dead keeps nobody out."""

import pytest

from mesh.core.probe import Namesakes, Probes, Ruling
from tests.core.builders import agent, copied

OURS = 50
ELDER, YOUNGER = agent("b", 49), agent("b", 51)


@pytest.mark.parametrize(
    ("entered", "entry", "alive", "expected"),
    [
        (False, ELDER, False, Ruling.ENTER),
        (False, YOUNGER, False, Ruling.ENTER),
        (False, ELDER, True, Ruling.YIELD),
        (False, YOUNGER, True, Ruling.YIELD),
        (True, ELDER, False, Ruling.WAIT),
        (True, YOUNGER, False, Ruling.ENTER),
        (True, ELDER, True, Ruling.YIELD),
        (True, YOUNGER, True, Ruling.ENTER),
    ],
)
def test_what_follows_from_one_answer(entered: bool, entry: object, alive: bool, expected: Ruling) -> None:
    namesakes = Namesakes(entered, 1)
    assert expected is namesakes.answered(entry, OURS, alive=alive)  # type: ignore[arg-type]
    assert (0, expected) == (namesakes.unanswered, namesakes.ruling)


def test_the_gravest_of_several_answers_counts() -> None:
    namesakes = Namesakes(True, 3)
    for entry, alive in ((YOUNGER, True), (ELDER, False), (YOUNGER, False)):
        namesakes.answered(entry, OURS, alive=alive)
    assert (0, Ruling.WAIT) == (namesakes.unanswered, namesakes.ruling)


def test_of_two_that_are_entered_one_goes_and_one_stays_whoever_asks_first() -> None:
    """Each takes the other's living answer, and the incarnations alone decide."""
    rulings = [
        Namesakes(True, 1).answered(agent("b", theirs), ours, alive=True) for ours, theirs in ((50, 51), (51, 50))
    ]
    assert [Ruling.ENTER, Ruling.YIELD] == rulings


def test_probes_are_data() -> None:
    probes = Probes(to_dial={"b": None})
    assert probes == copied(probes)
