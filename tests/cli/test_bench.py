"""`bench`: what is made of the measures."""

import pytest

from mesh.cli.bench import report_of
from mesh.cli.bench_programs import percentile


def measured(floor: float, call: float, calls: float, casts: float) -> dict[str, dict[str, float]]:
    return {
        "floor": {"p50_us": floor, "p99_us": 2 * floor},
        "relay": {"p50_us": floor / 2, "p99_us": floor},
        "latency": {"p50_us": call, "p99_us": 2 * call},
        "calls": {"per_s": calls},
        "casts": {"per_s": casts},
    }


ROUNDS = [measured(100, 200, 10_000, 1), measured(200, 300, 20_000, 2), measured(100, 300, 5_000, 3)]


def test_figures_are_medians_over_the_rounds() -> None:
    report = report_of(ROUNDS, {"cores": "2"})
    assert (100, 300, 10_000, 2) == tuple(
        report[name] for name in ("floor_p50_us", "call_p50_us", "calls_per_s", "casts_per_s")
    )


def test_ratios_are_medians_of_the_rounds_ratios() -> None:
    report = report_of(ROUNDS, {})
    assert 2.0 == report["p50_over_floor"]
    assert 4.0 == report["p50_over_relay"]
    assert 0.5 == report["calls_times_relay"]


def test_with_curve_its_rate_is_set_beside_the_one_without_round_by_round() -> None:
    plain = [(100, 10_000), (100, 40_000), (300, 10_000)]
    beside = [
        measures | {"plain latency": {"p50_us": p50}, "plain calls": {"per_s": per_s}}
        for measures, (p50, per_s) in zip(ROUNDS, plain, strict=True)
    ]
    report = report_of(beside, {})
    assert (100, 10_000, 0.5, 2.0) == tuple(
        report[name]
        for name in ("plain_call_p50_us", "plain_calls_per_s", "curve_calls_over_plain", "curve_p50_over_plain")
    )
    assert any("the link is secured" in line for line in report["method"])
    assert "plain_calls_per_s" not in report_of(ROUNDS, {})


def test_the_report_says_how_and_where_it_was_measured() -> None:
    report = report_of(ROUNDS, {"cores": "2"})
    assert {"cores": "2"} == report["machine"]
    assert any("64-byte bodies" in line for line in report["method"])
    assert any("3 rounds" in line for line in report["method"])
    assert ROUNDS == report["rounds"]


@pytest.mark.parametrize(("share", "value"), [(0.0, 1), (0.5, 3), (0.99, 4), (1.0, 4)])
def test_a_percentile_is_one_of_the_values(share: float, value: int) -> None:
    assert value == percentile([1, 2, 3, 4], share)
