"""A fan-out counts every instance once: as finished, failed or unknown, whatever its nodes say."""

from hypothesis import given
from hypothesis import strategies as st

from mesh.core.directory import Group
from mesh.core.fanout import Fan, by_node
from mesh.core.records import Kind, Receipt
from tests.core.builders import copied, group, instance, request

ASKED = {"b": 3, "c": 1}


def fan(asked: dict[str, int] = ASKED) -> Fan:
    return Fan(request(5, kind=Kind.FANOUT), 10.0, 128, dict(asked), sum(asked.values()))


def counts(receipt: Receipt) -> tuple[int, int, int, int]:
    return receipt.asked, receipt.finished, receipt.failed, receipt.unknown


def test_instances_are_counted_by_node_in_key_order() -> None:
    among = group(instance("c", 1), instance("b", 2), instance("b", 1), instance("a", 9))
    assert [("a", 1), ("b", 2), ("c", 1)] == list(by_node(among).items())
    assert {} == by_node(Group())


def test_whoever_has_not_answered_is_unknown() -> None:
    one = fan()
    assert Receipt("a", 7, 5, 4, 0, 0, 4) == one.receipt()
    one.answered("b", 2, 1)
    assert (4, 2, 1, 1) == counts(one.receipt())
    one.answered("c", 1, 0)
    assert (4, 3, 1, 0) == counts(one.receipt())
    assert {} == one.pending


def test_what_a_node_does_not_account_for_is_unknown() -> None:
    one = fan()
    one.answered("b", 1, 1)
    one.answered("c", 0, 0)
    assert (4, 1, 1, 2) == counts(one.receipt())


def test_a_node_answers_once_and_only_if_it_was_asked() -> None:
    one = fan()
    one.answered("c", 1, 0)
    one.answered("c", 1, 0)
    one.answered("stranger", 9, 9)
    assert (4, 1, 0, 3) == counts(one.receipt())


@given(
    st.dictionaries(st.sampled_from("bcdef"), st.integers(1, 5)),
    st.lists(st.tuples(st.sampled_from("bcdefx"), st.integers(0, 9), st.integers(0, 9))),
)
def test_the_counts_always_add_up_to_who_was_asked(asked: dict[str, int], answers: list[tuple[str, int, int]]) -> None:
    """Even when nodes claim more than they have."""
    one = fan(asked)
    for node, finished, failed in answers:
        one.answered(node, finished, failed)
        receipt = one.receipt()
        assert receipt.asked == receipt.finished + receipt.failed + receipt.unknown == sum(asked.values())
        assert min(counts(receipt)) >= 0
    assert one == copied(one)
