"""What the demo says of links."""

import io

from rich.console import Console

from mesh.cli.demo_view import LinkWatch, Stage, shown
from tests.cli.fakes import LINK

COLD = LINK | {"kind": "ephemeral"}


def told(watch: LinkWatch, *links: object) -> list[str]:
    return [line.partition(" (")[0] for line in watch.look("n1", links)]  # type: ignore[arg-type]


def test_a_links_life_is_told_once_each() -> None:
    watch = LinkWatch()
    assert ["link n1 → n2 opened: ephemeral"] == told(watch, COLD)
    assert [] == told(watch, COLD)
    assert ["link n1 → n2 is hot: persistent and heartbeated"] == told(watch, LINK)
    assert ["link n1 → n2 is cold again: ephemeral"] == told(watch, COLD)
    assert ["link n1 → n2 closed"] == told(watch)
    assert [] == told(watch)


def test_a_link_that_is_younger_than_before_is_another() -> None:
    watch = LinkWatch()
    told(watch, LINK)
    assert ["link n1 → n2 was lost and is open again: ephemeral"] == told(watch, COLD | {"age_s": 0.1})


def test_a_link_that_is_not_open_yet_is_not_told() -> None:
    assert [] == told(LinkWatch(), LINK | {"phase": "greeting"})


def test_nodes_are_kept_apart() -> None:
    watch = LinkWatch()
    told(watch, LINK)
    assert [] == list(watch.look("n3", []))


def test_without_a_terminal_every_event_is_a_line() -> None:
    out = io.StringIO()
    stage = Stage(Console(file=out, width=100))
    with shown(stage):
        stage.enter("it begins [now]")
        stage.see("n1", [LINK])
    lines = [line.split(" s  ", 1)[1] for line in out.getvalue().splitlines()]
    assert ["it begins [now]", "link n1 → n2 opened: persistent (words hot 12.3/s)"] == lines


def test_a_terminal_is_drawn_links_progress_and_events() -> None:
    out = io.StringIO()
    stage = Stage(Console(file=out, width=100, force_terminal=True))
    stage.enter("it begins")
    stage.see("n1", [LINK])
    stage.total, stage.done = 4, 2
    stage.console.print(stage.draw())
    drawn = out.getvalue()
    assert "♥" in drawn
    assert "n1 → n2" in drawn
    assert "it begins" in drawn
