"""The books that are kept of faults: each breach of the promise is found, and the table counts as it says."""

from pathlib import Path

import pytest

from tests.system.faults.ledger import CALLS, Fault, gather, problems, rows
from tests.system.faults.table import histogram, percentile, table

KILL = Fault("kill", 10.0, targets_s={CALLS: 0.25})


def books(directory: Path, caller: str, *servers: str) -> list[Fault]:
    for number, text in enumerate((caller, *servers)):
        name = "caller" if number == 0 else f"server{number}"
        (directory / f"{name}.app").write_text("".join(f"{line} \n" for line in text.split("; ")))
    return [KILL]


def found(directory: Path, faults: list[Fault]) -> list[str]:
    requests = gather(directory.glob("*.app")).values()
    return [problem.splitlines()[0].partition(": ")[2] for problem in problems(requests, faults)]


RUN = "9.1 run a.{}.0.1; 9.2 done a.{}.0.1"
BREACHES = {
    "two outcomes": (
        "call",
        "9 begun ID; 9.3 ended ID Reply; 9.4 ended ID Reply; 9.9 closed -",
        [RUN],
        "more than one",
    ),
    "none": ("call", "9 begun ID; 9.9 closed -", [RUN], "no outcome, though its app lived"),
    "a call that ran twice": ("call", "9 begun ID; 9.3 ended ID Reply", [RUN, RUN], "ran twice, and must not"),
    "a cast that is once ran twice": ("once", "9 begun ID; 9.3 ended ID Accepted", [RUN, RUN], "ran twice"),
    "not run, and it ran": ("idempotent", "9 begun ID; 9.3 ended ID Expired late", [RUN], "Expired says not run"),
    "a reply from nobody": ("call", "9 begun ID; 9.3 ended ID Reply", [], "a reply, and nobody ran it"),
    "a lost cast": ("cast", "9 begun ID; 9.3 ended ID Accepted; 9.9 closed -", [], "accepted, and lost"),
    "a receipt that boasts": ("fanout", "9 begun ID; 9.3 ended ID Receipt 2 2 0 0", [RUN], "2 are said to have"),
    "a fan-out that was turned away": (
        "fanout",
        "9 begun ID; 9.3 ended ID Overloaded",
        [],
        "fanout ended as Overloaded",
    ),
    "a failure": ("call", "9 begun ID; 9.3 ended ID Unroutable nobody", [], "call ended as Unroutable"),
    "doubt without need": ("call", "9 begun ID; 9.3 ended ID Indeterminate lost", [RUN], "call ended as Indeterminate"),
}


@pytest.mark.parametrize("case", BREACHES)
def test_a_breach_is_found(case: str, tmp_path: Path) -> None:
    kind, caller, servers, sentence = BREACHES[case]
    faults = books(tmp_path, caller.replace("ID", f"a.{kind}.0.1"), *(run.format(kind, kind) for run in servers))
    assert any(problem.startswith(sentence) for problem in found(tmp_path, faults)), found(tmp_path, faults)


HONEST = {
    "a reply": ("call", "9 begun ID; 9.3 ended ID Reply; 9.9 closed -", [RUN]),
    "a repetition that is allowed": ("idempotent", "9 begun ID; 9.3 ended ID Reply", [RUN, RUN]),
    "a cast of an app that was killed": ("cast", "9 begun ID; 9.3 ended ID Accepted", []),
    "a call of an app that was killed": ("call", "9 begun ID", [RUN]),
    "a fan-out that not all finished": ("fanout", "9 begun ID; 9.3 ended ID Receipt 3 1 1 1", [RUN]),
    "a fan-out to two": ("fanout", "9 begun ID; 9.3 ended ID Receipt 2 2 0 0", [RUN, RUN]),
}


@pytest.mark.parametrize("case", HONEST)
def test_what_is_granted_is_no_breach(case: str, tmp_path: Path) -> None:
    kind, caller, servers = HONEST[case]
    faults = books(tmp_path, caller.replace("ID", f"a.{kind}.0.1"), *(run.format(kind, kind) for run in servers))
    assert [] == found(tmp_path, faults)


def test_an_outcome_that_a_fault_allows_is_none_for_what_may_be_repeated(tmp_path: Path) -> None:
    ends = "; ".join(f"9 begun a.{kind}.0.1; 9.3 ended a.{kind}.0.1 Indeterminate" for kind in ("call", "idempotent"))
    books(tmp_path, ends)
    allowing = Fault("app killed", 9.1, ("Indeterminate",))
    assert ["idempotent ended as Indeterminate (1 times)"] == found(tmp_path, [allowing])


def test_recovery_is_of_what_was_in_flight_at_the_fault_and_the_line_that_was_cut_off_is_left_out(
    tmp_path: Path,
) -> None:
    before, during, after = (
        f"{begun} begun a.call.0.{n}; {ended} ended a.call.0.{n} Reply"
        for n, (begun, ended) in enumerate([(9.0, 9.5), (9.9, 10.2), (10.1, 10.4)])
    )
    books(tmp_path, "; ".join((before, during, after)))
    with (tmp_path / "caller.app").open("a") as log:
        log.write("10.5 begun a.call")
    (row,) = rows(gather(tmp_path.glob("*.app")).values(), [KILL])
    assert (3, 0, 0, 0) == (row.ended, row.failed, row.twice, row.indeterminate)
    assert [0.2] == [round(value, 3) for value in row.recovery_s]
    assert "kill, calls: <250:1 (ms)" == histogram(row)
    assert ["kill", "calls", "1", "3", "0", "0", "0", "1", "200", "200", "200", "250", "met"] == table(
        [row]
    ).splitlines()[1].split()


def test_a_percentile_is_a_value_that_was_measured() -> None:
    assert [2.0, 4.0, 1.0] == [percentile([4.0, 1.0, 3.0, 2.0], share) for share in (0.5, 0.99, 0.0)]
