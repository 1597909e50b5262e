"""Who may be sent to: what the matchmaker says, corrected by what this node knows better."""

from hypothesis import given
from hypothesis import strategies as st

from mesh.core.catalogue import Health, Instance
from mesh.core.directory import Directory, DirectoryOptions, View
from mesh.core.records import GiveBack, Status
from mesh.types import TopicKey
from tests.core.builders import ORDERS, STOCK, copied, instance, snapshot

OPTIONS = DirectoryOptions()
"""Absent for 60 s, 100 watches, idle after 300 s."""

B, C, D = instance("b"), instance("c"), instance("d")
HERE = instance("me")


def watching(*listed: Instance, now: float = 0.0) -> tuple[Directory, View]:
    """A directory of node `me` that has been told of these instances of a topic."""
    directory = Directory("me")
    view, _ = directory.use(ORDERS, OPTIONS, now)
    assert view is not None
    directory.snapshot(snapshot(*listed), OPTIONS, now)
    return directory, view


def ready(view: View, server: str = "") -> list[Instance]:
    found = view.group(server)
    assert [one.key for one in found.instances] == found.keys
    return found.instances


def replace(one: Instance, health: Health) -> Instance:
    return instance(one.agent.node, one.session, health=health)


# Snapshots


def test_who_is_listed_is_ready_in_the_order_of_keys() -> None:
    _, view = watching(D, B, C)
    assert [B, C, D] == ready(view)


def test_a_server_is_found_by_its_name() -> None:
    _, view = watching(B, C)
    assert [C] == ready(view, "c-1")
    assert [] == ready(view, "nobody")


def test_a_warning_is_still_ready_and_a_draining_or_failing_one_is_not() -> None:
    _, view = watching(
        replace(B, Health.WARNING), replace(C, Health.MAINTENANCE), replace(D, Health.CRITICAL), instance("e")
    )
    assert ["b", "e"] == [one.agent.node for one in ready(view)]


def test_what_the_matchmaker_says_of_this_node_is_not_believed() -> None:
    """It may be of an incarnation before; the apps of this node are known here."""
    _, view = watching(HERE, B)
    assert [B] == ready(view)


def test_a_snapshot_of_a_topic_that_is_of_no_interest_is_dropped() -> None:
    directory, _ = watching(B)
    assert (None, False) == directory.snapshot(snapshot(topic=STOCK), OPTIONS, 1.0)


def test_an_empty_snapshot_after_a_full_one_is_believed_only_the_second_time() -> None:
    directory, view = watching(B, C)
    assert (view, True) == directory.snapshot(snapshot(), OPTIONS, 1.0)
    assert [B, C] == ready(view), "until then nothing changes"
    assert (view, False) == directory.snapshot(snapshot(), OPTIONS, 2.0)
    assert [] == ready(view)


def test_a_doubt_ends_with_a_snapshot_that_has_somebody() -> None:
    directory, view = watching(B)
    directory.snapshot(snapshot(), OPTIONS, 1.0)
    assert (view, False) == directory.snapshot(snapshot(B), OPTIONS, 2.0)
    assert (view, True) == directory.snapshot(snapshot(), OPTIONS, 3.0), "and the next empty one is doubted anew"


def test_the_first_snapshot_may_be_empty_and_so_may_one_after_an_empty_one() -> None:
    directory, view = watching()
    assert view.known
    assert (view, False) == directory.snapshot(snapshot(), OPTIONS, 1.0)


def test_an_emptiness_that_was_announced_is_believed_at_once() -> None:
    directory, view = watching(replace(B, Health.MAINTENANCE))
    assert (view, False) == directory.snapshot(snapshot(), OPTIONS, 1.0)


def test_a_topic_that_lost_some_of_its_instances_is_believed_at_once() -> None:
    directory, view = watching(B, C)
    assert (view, False) == directory.snapshot(snapshot(C), OPTIONS, 1.0)
    assert [C] == ready(view)


# Absent, departed, expected


def test_an_app_of_this_node_that_is_listed_and_not_back_yet_is_waited_for() -> None:
    directory, view = watching(HERE)
    assert directory.expected(view, "", patient=False)
    directory.tick(OPTIONS, 60.0)
    assert not directory.expected(view, "", patient=False)
    directory, view = watching(replace(HERE, Health.MAINTENANCE))
    assert not directory.expected(view, "", patient=False)


def test_what_the_matchmaker_lists_of_this_node_and_is_here_or_was_waited_for_already_changes_nothing() -> None:
    directory, view = watching(HERE)
    directory.snapshot(snapshot(HERE), OPTIONS, 30.0)
    assert {HERE.key: 60.0} == view.absent
    directory.add_local(HERE, 31.0)
    directory.snapshot(snapshot(HERE), OPTIONS, 32.0)
    assert ({}, [HERE]) == (view.absent, ready(view))


def test_the_agent_of_a_node_is_known_by_what_is_listed_there_last() -> None:
    directory, _ = watching(B, C)
    directory.use(STOCK, OPTIONS, 0.0)
    later = instance("b", topic=STOCK, incarnation=9)
    directory.snapshot(snapshot(later, topic=STOCK), OPTIONS, 0.0)
    assert [later.agent, C.agent, None] == [directory.agent(node) for node in ("b", "c", "x")]


def test_nothing_is_known_before_the_first_snapshot_so_somebody_is_expected() -> None:
    directory = Directory("me")
    view, _ = directory.use(ORDERS, OPTIONS, 0.0)
    assert view is not None
    assert directory.expected(view, "", patient=False)
    directory.snapshot(snapshot(), OPTIONS, 0.0)
    assert not directory.expected(view, "", patient=True)


def test_who_vanished_without_a_goodbye_is_expected_until_the_grace_is_over() -> None:
    directory, view = watching(B, C)
    directory.snapshot(snapshot(C), OPTIONS, 10.0)
    assert directory.expected(view, "", patient=False)
    assert directory.expected(view, "b-1", patient=False)
    assert not directory.expected(view, "c-1", patient=False), "others are not meant by that"
    assert ([], []) == directory.tick(OPTIONS, 69.9)
    assert ([], [ORDERS]) == directory.tick(OPTIONS, 70.0), "whoever waits for it can be told"
    assert not directory.expected(view, "", patient=False)


def test_who_left_in_order_is_expected_only_by_the_patient() -> None:
    directory, view = watching(replace(B, Health.MAINTENANCE), C)
    directory.snapshot(snapshot(C), OPTIONS, 10.0)
    assert not directory.expected(view, "b-1", patient=False)
    assert directory.expected(view, "b-1", patient=True)
    assert ([], [ORDERS]) == directory.tick(OPTIONS, 70.0), "whoever waited for it can be told"
    assert not directory.expected(view, "b-1", patient=True)


def test_who_is_about_to_leave_is_expected_back_as_who_has_just_left() -> None:
    """A cast that comes a moment before the last instance is withdrawn waits like one that comes a moment after."""
    directory, view = watching(replace(B, Health.MAINTENANCE))
    assert directory.expected(view, "", patient=True)
    assert not directory.expected(view, "", patient=False)


def test_who_comes_back_is_no_longer_missed() -> None:
    directory, view = watching(B, C)
    directory.snapshot(snapshot(C), OPTIONS, 1.0)
    directory.snapshot(snapshot(B, replace(C, Health.MAINTENANCE)), OPTIONS, 2.0)
    directory.snapshot(snapshot(B), OPTIONS, 3.0)
    directory.snapshot(snapshot(B, C), OPTIONS, 4.0)
    assert {} == view.absent == view.departed
    assert [B, C] == ready(view)


# Apps of this node


def test_an_app_of_this_node_is_ready_at_once_beside_the_others() -> None:
    directory, view = watching(B)
    assert view is directory.add_local(HERE, 1.0)
    assert [B, HERE] == ready(view)


def test_a_local_app_makes_its_topic_known_by_itself() -> None:
    directory = Directory("me")
    view = directory.add_local(HERE, 0.0)
    assert [HERE] == ready(view)
    assert not view.watched


def test_an_app_that_goes_is_absent_or_departed_by_how_it_went() -> None:
    directory, view = watching()
    directory.add_local(HERE, 0.0)
    assert view is directory.remove_local(HERE, OPTIONS, 1.0, orderly=False)
    assert [] == ready(view)
    assert directory.expected(view, "me-1", patient=False)
    directory.add_local(HERE, 2.0)
    assert {} == view.absent
    directory.remove_local(HERE, OPTIONS, 3.0, orderly=True)
    assert not directory.expected(view, "me-1", patient=False)
    assert directory.expected(view, "me-1", patient=True)
    directory.add_local(HERE, 4.0)
    assert {} == view.departed


def test_removing_what_is_not_here_changes_nothing() -> None:
    directory, view = watching(B)
    assert view is directory.remove_local(HERE, OPTIONS, 1.0, orderly=False)
    assert {} == view.absent
    assert None is directory.remove_local(instance("me", topic=STOCK), OPTIONS, 1.0, orderly=False)


# Hidden


def test_a_hidden_instance_is_passed_over_and_expected_until_its_time() -> None:
    directory, view = watching(B, C)
    directory.hide(ORDERS, B.key, 5.0)
    assert [C] == ready(view)
    assert directory.expected(view, "b-1", patient=False)
    assert ([], []) == directory.tick(OPTIONS, 4.9)
    assert ([], [ORDERS]) == directory.tick(OPTIONS, 5.0)
    assert [B, C] == ready(view)
    assert not directory.expected(view, "b-1", patient=False)


def test_the_catalogue_shows_a_hidden_instance_again_when_it_says_something_new_of_it() -> None:
    directory, view = watching(B, C)
    directory.hide(ORDERS, B.key, 50.0)
    directory.snapshot(snapshot(B, C, D), OPTIONS, 1.0)
    assert [C, D] == ready(view), "the same again is nothing new"
    again = instance("b", incarnation=2)
    directory.snapshot(snapshot(again, C, D), OPTIONS, 2.0)
    assert [again, C, D] == ready(view)


def test_a_hidden_instance_that_vanishes_is_absent_like_any_other() -> None:
    directory, view = watching(B, C)
    directory.hide(ORDERS, B.key, 5.0)
    directory.snapshot(snapshot(C), OPTIONS, 1.0)
    directory.tick(OPTIONS, 6.0)
    assert directory.expected(view, "b-1", patient=False), "its grace goes on"


def test_a_local_instance_can_be_hidden_too() -> None:
    directory, view = watching(B)
    directory.add_local(HERE, 0.0)
    directory.hide(ORDERS, HERE.key, 5.0)
    assert [B] == ready(view)
    assert directory.expected(view, "me-1", patient=False)


def test_hiding_in_a_topic_without_a_view_is_no_error() -> None:
    directory, _ = watching(B)
    directory.hide(STOCK, B.key, 5.0)
    assert [ORDERS] == list(directory.views)


def refusal(text: str = "full") -> GiveBack:
    return GiveBack("a", 1, 1, 1, int(Status.OVERLOADED), text, "queue_records", 100)


def test_who_is_full_is_passed_over_but_by_fan_outs_and_says_when_to_come_back() -> None:
    directory, view = watching(B, C, D)
    assert (None, [B, C, D]) == (view.full(""), view.everybody("").instances)
    directory.hide(ORDERS, B.key, 5.0, refusal("later"))
    directory.hide(ORDERS, C.key, 4.0, refusal("sooner"))
    assert [D] == ready(view)
    assert (refusal("sooner"), 4.0) == view.full("")
    assert (refusal("later"), 5.0) == view.full("b-1")
    assert (None, [D]) == (view.full("d-1"), view.everybody("d-1").instances)
    assert ([B, C, D], [B]) == (view.everybody("").instances, view.everybody("b-1").instances)
    directory.tick(OPTIONS, 4.0)
    assert [C, D] == ready(view)
    directory.hide(ORDERS, B.key, 9.0)
    assert (None, [C, D]) == (view.full(""), view.everybody("").instances), "it is gone, which is not full"


def test_who_was_full_and_leaves_or_is_gone_is_full_no_more() -> None:
    directory, view = watching(B, C)
    directory.hide(ORDERS, B.key, 5.0, refusal())
    directory.hide(ORDERS, C.key, 5.0, refusal())
    directory.snapshot(snapshot(replace(C, Health.MAINTENANCE)), OPTIONS, 1.0)
    assert (None, []) == (view.full("b-1"), view.everybody("").instances)
    directory.hide(ORDERS, C.key, 5.0, refusal())
    assert [] == view.everybody("").instances


# The limit of watches


def topic(n: int) -> TopicKey:
    return TopicKey("", f"topic-{n}")


def test_a_topic_that_is_used_is_watched_once() -> None:
    directory = Directory("me")
    view, dropped = directory.use(ORDERS, OPTIONS, 1.0)
    assert view is not None
    assert view.watched
    assert ([], False) == (dropped, view.known)
    assert (view, []) == directory.use(ORDERS, OPTIONS, 2.0)
    assert 2.0 == view.used_at


def test_a_topic_that_was_only_served_here_begins_to_be_watched_when_it_is_used() -> None:
    directory = Directory("me")
    served = directory.add_local(HERE, 0.0)
    assert (served, []) == directory.use(ORDERS, OPTIONS, 1.0)
    assert served.watched
    assert [HERE] == ready(served)


def test_at_the_limit_the_topic_that_was_not_used_for_longest_makes_room() -> None:
    options = DirectoryOptions(watches_max=3)
    directory = Directory("me")
    for n in range(3):
        directory.use(topic(n), options, float(n))
    directory.use(topic(0), options, 5.0)
    view, dropped = directory.use(topic(3), options, 6.0)
    assert view is not None
    assert [topic(1)] == dropped
    assert [topic(0), topic(2), topic(3)] == sorted(directory.views)


def test_topics_that_are_in_use_are_not_dropped_for_another_and_those_served_here_give_their_watch_alone() -> None:
    options = DirectoryOptions(watches_max=2)
    directory = Directory("me")
    directory.use(ORDERS, options, 0.0)
    directory.snapshot(snapshot(B), options, 0.0)
    directory.add_local(HERE, 0.0)
    directory.use(topic(1), options, 10.0)
    view, dropped = directory.use(topic(2), options, 10.5)
    assert view is not None
    assert [ORDERS] == dropped
    served = directory.views[ORDERS]
    assert (False, False, [HERE]) == (served.watched, served.known, ready(served))
    assert (None, []) == directory.use(topic(3), options, 10.9)
    assert [topic(1)] == directory.use(topic(3), options, 11.5)[1]


def test_topics_that_are_only_served_here_take_no_watch() -> None:
    options = DirectoryOptions(watches_max=1)
    directory = Directory("me")
    for n in range(5):
        directory.add_local(instance("me", topic=topic(n)), 0.0)
    view, dropped = directory.use(ORDERS, options, 0.0)
    assert view is not None
    assert [] == dropped
    assert (None, []) == directory.use(topic(0), options, 0.5), "to use one of them takes one"


def test_an_idle_topic_is_watched_no_longer_and_forgotten_unless_it_is_served_here() -> None:
    directory, _ = watching(B)
    directory.use(STOCK, OPTIONS, 0.0)
    directory.add_local(instance("me", topic=STOCK), 0.0)
    assert ([], []) == directory.tick(OPTIONS, 299.9)
    assert ([ORDERS, STOCK], []) == directory.tick(OPTIONS, 300.0)
    assert [STOCK] == list(directory.views)


def test_an_idle_topic_that_is_served_here_gives_its_watch_back_and_takes_it_again_when_it_is_called() -> None:
    directory, _ = watching(B)
    directory.add_local(HERE, 0.0)
    assert ([ORDERS], []) == directory.tick(OPTIONS, 300.0)
    assert ([], []) == directory.tick(OPTIONS, 301.0)
    assert [HERE] == ready(directory.views[ORDERS])
    view, _ = directory.use(ORDERS, OPTIONS, 302.0)
    assert view is not None
    assert (True, False) == (view.watched, view.known)
    directory.snapshot(snapshot(B), OPTIONS, 302.0)
    assert [B, HERE] == ready(view)


def test_what_was_served_here_and_never_watched_is_forgotten_without_a_word() -> None:
    directory = Directory("me")
    directory.add_local(HERE, 0.0)
    directory.remove_local(HERE, OPTIONS, 1.0, orderly=True)
    directory.tick(OPTIONS, 100.0)
    assert ([], []) == directory.tick(OPTIONS, 301.0)
    assert {} == directory.views


NODES = ["me", "b", "c", "d"]
LISTED = st.dictionaries(st.sampled_from(NODES), st.sampled_from(Health))
STEPS = st.lists(st.one_of(LISTED, st.sampled_from(NODES), st.floats(0, 40)), max_size=30)


@given(STEPS)
def test_whatever_happens_the_groups_hold_exactly_who_may_be_sent_to(
    steps: list[dict[str, Health] | str | float],
) -> None:
    """Snapshots, instances that are hidden and time, in any order."""
    directory, view = watching()
    directory.add_local(HERE, 0.0)
    now = 0.0
    for step in steps:
        if isinstance(step, dict):
            directory.snapshot(snapshot(*(instance(n, health=h) for n, h in step.items())), OPTIONS, now)
        elif isinstance(step, str):
            directory.hide(ORDERS, instance(step).key, now + 10.0)
        else:
            now += step
            directory.use(ORDERS, OPTIONS, now)
            directory.tick(OPTIONS, now)
            assert all(until > now for past in (view.absent, view.departed, view.hidden) for until in past.values())
        keys = [one.key for one in ready(view)]
        assert sorted(keys) == keys
        assert not set(keys) & set(view.hidden)
        assert not set(view.listed) & {*view.absent, *view.departed}
        assert sorted(one for servers in view.servers.values() for one in servers.keys) == keys
    assert directory == copied(directory)


def test_who_is_struck_is_gone_at_once_and_nobody_is_waited_for() -> None:
    directory, view = watching(B, C)
    directory.hide(ORDERS, B.key, 100.0)
    directory.snapshot(snapshot(B), OPTIONS, 1.0)
    directory.strike(ORDERS, [B.key, C.key])
    assert ([], {}, {}, {}) == (ready(view), view.listed, view.absent, view.hidden)
    assert not directory.expected(view, "", patient=True)
