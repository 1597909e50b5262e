"""The table of exit statuses."""

import pytest

from mesh import errors
from mesh.cli.exits import MEANINGS, Exit, advice_of, exit_of, table

STATUSES = {
    errors.RemoteError("it broke"): 1,
    errors.Unroutable("nobody"): 3,
    errors.Overloaded("full", limit="links_max"): 4,
    errors.Expired("late"): 5,
    errors.Indeterminate("lost"): 6,
    errors.Rejected("too large"): 7,
    errors.AgentUnavailable("none"): 8,
    errors.Cancelled("given up"): 130,
    errors.SessionClosed("closed"): 1,
    errors.ProtocolError("nonsense"): 1,
    errors.ConfigError(["wrong"]): 1,
}


@pytest.mark.parametrize(("error", "status"), STATUSES.items(), ids=lambda value: type(value).__name__)
def test_each_error_has_its_status(error: Exception, status: int) -> None:
    assert status == exit_of(error)


def test_no_two_outcomes_share_a_status() -> None:
    outcomes = [error for error in STATUSES if isinstance(error, errors.OutcomeError)]
    assert len(outcomes) == len({exit_of(error) for error in outcomes})


def test_every_outcome_is_in_the_table() -> None:
    kinds = {kind for name in errors.__all__ if issubclass(kind := getattr(errors, name), errors.OutcomeError)}
    assert kinds - {errors.OutcomeError} == {type(e) for e in STATUSES if isinstance(e, errors.OutcomeError)}


def test_every_status_has_a_meaning_and_a_line() -> None:
    assert list(Exit) == list(MEANINGS)
    assert len(Exit) == len(table().splitlines())


def test_what_may_be_sent_again_is_advised_and_what_may_run_twice_is_warned_of() -> None:
    assert "safe" in advice_of(errors.Expired("late"))
    assert "twice" in advice_of(errors.Indeterminate("lost"))
    assert "" == advice_of(ValueError("none of ours"))
