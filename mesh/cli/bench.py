"""`bench`: what the way over two agents costs, beside plain ZeroMQ over as many hops, on this machine, now.

Absolute figures change with the machine and with what else runs on it; their ratios to the floor hold. So all are
measured in turns, several rounds, and a ratio is the median of the rounds' ratios.
"""

import contextlib
import json
import os
import platform
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import click

from mesh.cli.options import json_option

__all__ = ["CURVE_METHOD", "METHOD", "Rounds", "bench", "report_of"]

METHOD = (
    "two agents and two apps, a process each, on this machine; 64-byte bodies; the sync client",
    "call: one at a time · calls/s: {in_flight} in flight · casts/s: counted at the receiver",
    "floor: pyzmq REQ → 2 × C zmq_proxy (ipc, tcp, ipc) → REP, one at a time",
    "relay: Unix socket → 2 bare relays in Python (gevent, pyzmq over tcp) → Unix socket, one at a time",
    "{rounds} rounds, the measures in turns; each figure and each ratio is the median over the rounds",
)

CURVE_METHOD = "the link is secured; beside it, in the same turns, one between two more agents that is not"

RELAY_RATIO_MAX = 4.0
CALLS_TIMES_RELAY_MIN = 1.0
"""What a sound shape keeps: p50 at most so many times the bare relay's, calls/s × the relay's p50 at least so much."""

Rounds = Sequence[Mapping[str, Mapping[str, float]]]
"""For each round the answers of ``floor``, ``relay``, ``latency``, ``calls`` and ``casts``; with CURVE those of ``plain
latency`` and ``plain calls`` too."""

_MEASURES = ("floor", "relay", "latency", "calls", "casts")
_CURVE_MEASURES = ("floor", "relay", "latency", "plain latency", "calls", "plain calls", "casts")


@click.command(short_help="Measure calls and casts beside plain ZeroMQ.")
@click.option(
    "--seconds", type=click.FloatRange(2, 600), default=20.0, show_default=True, help="How long to measure, in all."
)
@click.option("--rounds", type=click.IntRange(1, 100), default=5, show_default=True, help="How often each is measured.")
@click.option(
    "--curve", is_flag=True, help="Secure the link, with keys made for it, and measure one without beside it."
)
@json_option
def bench(seconds: float, rounds: int, curve: bool, as_json: bool) -> None:
    """Measure calls and casts between two private agents, beside plain ZeroMQ over as many hops.

    An idle machine gives figures that can be compared; with other work on it, mind the ratios only.
    """
    report = report_of(_measure(seconds, rounds, curve=curve), {**_machine(), "CURVE": "on" if curve else "off"})
    if as_json:
        click.echo(json.dumps(report, indent=2))
    else:
        _print(report)


def _measure(seconds: float, rounds: int, *, curve: bool) -> Rounds:
    """Start everything, warm it up, and measure in turns with a progress bar."""
    from rich.console import Console
    from rich.progress import track

    from mesh.cli.private import private_directory, unwinding

    measures = _CURVE_MEASURES if curve else _MEASURES
    each_s = seconds / (rounds * len(measures))
    results: list[dict[str, dict[str, float]]] = [{} for _ in range(rounds)]
    with unwinding(), private_directory() as directory, ExitStack() as stack:
        ask = _start(directory, stack, curve=curve)
        for what in measures:
            ask(what, each_s / 2)
        order = [(result, what) for result in results for what in measures]
        for result, what in track(order, "measuring", console=Console(stderr=True), transient=True):
            result[what] = ask(what, each_s)
    return results


def _start(directory: Path, stack: ExitStack, *, curve: bool) -> Callable[[str, float], dict[str, float]]:
    """Start agents, apps and the floor; return what measures one thing for so many seconds."""
    from mesh.cli.private import PrivateAgent, free_port
    from mesh.cli.programs import Program

    def start(role: str, *addresses: str) -> Program:
        program = stack.enter_context(Program("mesh.cli.bench_programs", role, *addresses))
        program.read()
        return program

    def start_mesh(place: Path, *, secured: bool) -> Program:
        """Start two agents and what serves at one of them; return what calls at the other."""
        place.mkdir(exist_ok=True)
        settings = {node: _secured(place, node) if secured else {} for node in ("near", "far")}
        agents = [stack.enter_context(PrivateAgent(place, node, settings[node])) for node in settings]
        for agent in agents:
            agent.wait_ready()
        start("server", str(agents[1].socket))
        return start("caller", str(agents[0].socket))

    front, middle, back = f"ipc://{directory}/front", f"tcp://127.0.0.1:{free_port()}", f"ipc://{directory}/back"
    start("rep", back)
    start("proxy", middle, back)
    start("proxy", front, middle)
    near, far, between = f"{directory}/near.relay", f"{directory}/far.relay", f"tcp://127.0.0.1:{free_port()}"
    start("relay", far, between, "far")
    start("relay", near, between, "near")
    start("echo", far)
    others = {"floor": start("req", front), "relay": start("ping", near)}
    caller = start_mesh(directory, secured=curve)
    plain = start_mesh(directory / "plain", secured=False) if curve else caller

    def ask(what: str, seconds: float) -> dict[str, float]:
        program, question = (others[what], "latency") if what in others else (caller, what)
        if what.startswith("plain "):
            program, question = plain, what.removeprefix("plain ")
        answer: dict[str, float] = json.loads(program.ask(json.dumps({"what": question, "seconds": seconds})))
        return answer

    return ask


def _secured(directory: Path, node: str) -> Mapping[str, Mapping[str, object]]:
    """Return the settings of an agent with keys of its own."""
    from mesh.security import store

    fleet, own = directory / "fleet", directory / f"{node}-keys"
    if not store.is_fleet(fleet):
        store.make_fleet(fleet, "default")
    store.certify(fleet, store.make_node(own, node), own, days=1, roles=(), unix_s=time.time())
    return {"security": {"curve": True, "keys_dir": str(own)}}


# What it says


def report_of(rounds: Rounds, machine: Mapping[str, str]) -> dict[str, Any]:
    """Return medians over the rounds, the ratios to the floor among them, and how they were got."""

    def median(of: Callable[[Mapping[str, Mapping[str, float]]], float]) -> float:
        return round(statistics.median(of(each) for each in rounds), 3)

    from mesh.cli.bench_programs import IN_FLIGHT

    secured = "plain calls" in rounds[0]
    beside = {
        "plain_call_p50_us": lambda each: each["plain latency"]["p50_us"],
        "plain_calls_per_s": lambda each: each["plain calls"]["per_s"],
        "curve_p50_over_plain": lambda each: each["latency"]["p50_us"] / each["plain latency"]["p50_us"],
        "curve_calls_over_plain": lambda each: each["calls"]["per_s"] / each["plain calls"]["per_s"],
    }
    return {
        "floor_p50_us": median(lambda each: each["floor"]["p50_us"]),
        "floor_p99_us": median(lambda each: each["floor"]["p99_us"]),
        "relay_p50_us": median(lambda each: each["relay"]["p50_us"]),
        "relay_p99_us": median(lambda each: each["relay"]["p99_us"]),
        "call_p50_us": median(lambda each: each["latency"]["p50_us"]),
        "call_p99_us": median(lambda each: each["latency"]["p99_us"]),
        "calls_per_s": median(lambda each: each["calls"]["per_s"]),
        "casts_per_s": median(lambda each: each["casts"]["per_s"]),
        "p50_over_floor": median(lambda each: each["latency"]["p50_us"] / each["floor"]["p50_us"]),
        "p50_over_relay": median(lambda each: each["latency"]["p50_us"] / each["relay"]["p50_us"]),
        "calls_times_relay": median(lambda each: each["calls"]["per_s"] * each["relay"]["p50_us"] / 1e6),
        **({name: median(of) for name, of in beside.items()} if secured else {}),
        "method": [
            line.format(in_flight=IN_FLIGHT, rounds=len(rounds))
            for line in (*METHOD, *([CURVE_METHOD] if secured else []))
        ],
        "machine": dict(machine),
        "rounds": [dict(each) for each in rounds],
    }


def _print(report: Mapping[str, Any]) -> None:
    from mesh.cli.tables import console, rows_table

    out = console()
    for line in report["method"]:
        out.print(line, style="dim")
    out.print(" · ".join(f"{name} {value}" for name, value in report["machine"].items()), style="dim")
    out.print()
    rows = [
        ("call, one at a time", f"{report['call_p50_us']:.0f} µs", f"{report['call_p99_us']:.0f} µs", ""),
        ("floor, one at a time", f"{report['floor_p50_us']:.0f} µs", f"{report['floor_p99_us']:.0f} µs", ""),
        ("relay, one at a time", f"{report['relay_p50_us']:.0f} µs", f"{report['relay_p99_us']:.0f} µs", ""),
        ("calls", "", "", f"{report['calls_per_s']:,.0f}/s"),
        ("casts", "", "", f"{report['casts_per_s']:,.0f}/s"),
    ]
    secured = "plain_calls_per_s" in report
    if secured:
        rows += [
            ("call without CURVE", f"{report['plain_call_p50_us']:.0f} µs", "", ""),
            ("calls without CURVE", "", "", f"{report['plain_calls_per_s']:,.0f}/s"),
        ]
    out.print(rows_table(("64 B", "P50", "P99", "RATE"), rows, ("P50", "P99", "RATE")))
    out.print()
    p50, calls = report["p50_over_relay"], report["calls_times_relay"]
    shown = _judged(p50, p50 <= RELAY_RATIO_MAX), _judged(calls, calls >= CALLS_TIMES_RELAY_MIN)
    out.print(f"p50 / floor            {report['p50_over_floor']:5.2f}")
    out.print(f"p50 / relay            {shown[0]}   (aim: at most {RELAY_RATIO_MAX})")
    out.print(f"calls/s × relay's p50  {shown[1]}   (aim: at least {CALLS_TIMES_RELAY_MIN})")
    if secured:
        out.print(f"calls/s / without CURVE {report['curve_calls_over_plain']:4.2f}")
        out.print(f"p50 / without CURVE     {report['curve_p50_over_plain']:4.2f}")


def _judged(value: float, is_good: bool) -> str:
    return f"[{'green' if is_good else 'yellow'}]{value:5.2f}[/]"


def _machine() -> dict[str, str]:
    """Return what the figures depend on."""
    from importlib.metadata import version

    import zmq

    model = "unknown CPU"
    with contextlib.suppress(OSError):
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
        model = next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), model)
    return {
        "cpu": model,
        "cores": str(len(os.sched_getaffinity(0))),
        "load": f"{os.getloadavg()[0]:.2f}",
        "python": platform.python_version(),
        "libzmq": zmq.zmq_version(),
        **{name: version(name) for name in ("pyzmq", "gevent", "msgspec")},
    }
