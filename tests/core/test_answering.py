"""The serving agent says what became of requests, by itself or by its apps."""

from mesh.core.answering import QUESTIONS_MAX
from mesh.core.node import Node
from mesh.core.outbox import OutboxOptions
from mesh.core.records import Answer, Ask, Reply, Verdict
from mesh.sim.world import World
from tests.core.fabric import App, echo, fleet, link, options, server


def out(world: World) -> list[object]:
    return list(link(world, "b", "a").out)


def ask(node: Node, *seqs: int, reached: int = 1002, target: int = 10) -> None:
    node.answering.ask("a", Ask("a", 1001, 5, target, reached, [(1, seq) for seq in seqs]), 3.0)


def test_of_what_it_was_sent_this_incarnation_knows_everything() -> None:
    world = fleet("ab")
    app = server(world, workers=2)
    caller = App(world, "a", 1)
    ended, running = caller.call("orders", b"one"), caller.call("orders")
    world.run(2.0)
    app.say(echo(app.asked[0]))
    world.run(3.0)
    node = world.agents["b"].node
    ask(node, ended, running, 99)
    node.answering.ask("c", Ask("a", 1001, 5, 10, 1002, [(1, 0)]), 3.0)
    verdicts = [int(Verdict.RUNNING), int(Verdict.RUNNING), int(Verdict.NEVER)]
    assert [
        Reply("a", 1, ended, b"one"),
        Answer("a", 1001, 5, 10, [(1, ended), (1, running), (1, 99)], verdicts),
    ] == out(world)


def test_what_an_earlier_incarnation_was_sent_only_the_app_knows() -> None:
    world = fleet("ab", options(outbox=OutboxOptions(resume_grace_s=2.0)))
    app = server(world)
    node = world.agents["b"].node
    ask(node, 1, reached=7)
    assert [Ask] == [type(record) for record in node.state.apps[10].out if isinstance(record, Ask)]
    app.close()
    world.run(3.0)
    ask(node, 2, reached=7)
    ask(node, 3, reached=7, target=77)
    app.come_back()
    world.run(4.0)
    assert [2] == [record.ids[0][1] for record in app.of(Ask)][-1:]
    assert [77] == list(node.state.questions)
    world.run(6.0)
    assert {} == node.state.questions


def test_questions_for_apps_that_are_away_are_bounded() -> None:
    world = fleet("b")
    node = world.agents["b"].node
    for target in range(QUESTIONS_MAX + 10):
        ask(node, 1, reached=7, target=target)
    assert QUESTIONS_MAX == len(node.state.questions)


def test_what_went_to_another_app_than_the_one_that_is_asked_about_never_came_to_that_one() -> None:
    world = fleet("ab")
    server(world)
    caller = App(world, "a", 1)
    seq = caller.call("orders")
    world.run(2.0)
    node = world.agents["b"].node
    ask(node, seq, target=11)
    assert [Answer("a", 1001, 5, 11, [(1, seq)], [int(Verdict.NEVER)])] == out(world)


def test_what_this_incarnation_remembers_is_there_whichever_it_was_sent_to() -> None:
    world = fleet("ab")
    app = server(world)
    caller = App(world, "a", 1)
    seq = caller.call("orders")
    world.run(2.0)
    node = world.agents["b"].node
    ask(node, seq, 99, reached=7)
    assert [Answer("a", 1001, 5, 10, [(1, seq)], [int(Verdict.RUNNING)])] == out(world)
    world.run(2.1)
    ask(node, seq, reached=7)
    assert [[(1, 99)]] == [record.ids for record in [*app.of(Ask), *node.state.apps[10].out] if isinstance(record, Ask)]


def test_an_app_is_asked_itself_whether_it_works_at_what_it_was_handed() -> None:
    world = fleet("ab")
    app = server(world, workers=1)
    caller = App(world, "a", 1)
    running, waiting = caller.call("orders"), caller.call("orders")
    world.run(2.0)
    node = world.agents["b"].node
    ids = [(1, running), (1, waiting), (1, 99)]
    node.answering.ask("a", Ask("a", 1001, 0, 10, 0, ids, alive=True), 3.0)
    assert [Answer("a", 1001, 0, 10, [(1, waiting)], [int(Verdict.RUNNING)])] == out(world)
    world.run(2.1)
    assert [[(1, running)]] == [ask.ids for ask in [*app.of(Ask), *node.state.apps[10].out] if isinstance(ask, Ask)]
    app.close()
    world.run(3.0)
    node.answering.ask("a", Ask("a", 1001, 0, 11, 0, ids, alive=True), 3.0)
    assert [] == out(world)
