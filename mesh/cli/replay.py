"""Showing a replay: each input, each decision, and whether the state came out as it was recorded."""

import json
from collections import Counter
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import click
from msgspec import structs, to_builtins

from mesh.cli.exits import Exit
from mesh.core.effects import Effect, Note
from mesh.core.recording import FAILURE_CHARS_MAX, RECORDING_BYTES_MAX, Recording, read
from mesh.core.records import Record
from mesh.sim.replay import Outcome, Step, replay

__all__ = ["load", "show_replay"]


def load(path: Path) -> Recording:
    """Return the recording in a file; raises ClickException that says what is wrong with it."""
    try:
        if path.stat().st_size > RECORDING_BYTES_MAX:
            raise ValueError(f"this is no recording: it has more than {RECORDING_BYTES_MAX} bytes")
        return read(path.read_bytes())
    except (OSError, ValueError) as error:
        raise click.ClickException(f"{path}: {getattr(error, 'strerror', None) or error}") from None


def show_replay(path: Path, from_s: float, until_s: float, *, trace: bool, as_json: bool) -> int:
    """Replay a file, print what lies between two times, and say how it ended; return the exit status.

    ``trace``: every input and every field, also where nothing was decided.
    """
    recording = load(path)
    header = recording.header
    if not as_json:
        click.echo(
            f"node {header.node}, incarnation {header.incarnation}, agent {header.version}, written because it was "
            f"{'asked for' if header.reason == 'asked' else header.failure or header.reason}; "
            f"bodies {'as they were' if header.bodies else 'left out'}"
        )
    inputs, outcomes, raised = 0, [], ""
    try:
        for each in replay(recording):
            if isinstance(each, Outcome):
                outcomes.append(each)
                continue
            inputs, raised = inputs + 1, each.raised
            if from_s <= each.at_s <= until_s and (trace or each.says_something):
                click.echo(json.dumps(_as_json(each)) if as_json else "\n".join(_lines(each, trace)))
    except ValueError as error:
        raise click.ClickException(f"{path}: {error}") from None
    text, status = _verdict(recording, outcomes, raised)
    if as_json:
        same = [outcome.same for outcome in outcomes]
        click.echo(json.dumps({"inputs": inputs, "states_same": same, "raised": raised, "verdict": text}))
    else:
        click.echo(f"{inputs} inputs in {len(recording.segments)} segments: {text}")
    return status


def _verdict(recording: Recording, outcomes: list[Outcome], raised: str) -> tuple[str, Exit]:
    """Return how it ended, in words, and the exit status."""
    wrong = next((outcome for outcome in outcomes if not outcome.same), None)
    if wrong is not None:
        text = f"the state after segment {wrong.segment} is {wrong.replayed}, and {wrong.recorded} was recorded"
        return f"{text}: it diverged there; replay it with the agent's own version", Exit.FAILED
    if raised:
        if raised[:FAILURE_CHARS_MAX] == recording.header.failure:
            return f"it breaks as it was recorded: {raised}", Exit.OK
        return f"it raises {raised}, which is not what was recorded", Exit.FAILED
    if recording.header.failure:
        return f"it does not raise what was recorded, {recording.header.failure}", Exit.FAILED
    if not outcomes:
        return "there was no state to compare with", Exit.OK
    return f"the same state as recorded, {outcomes[-1].replayed}, and at each of {len(outcomes)} checks", Exit.OK


# One step


def _lines(step: Step, trace: bool) -> Iterator[str]:
    facts = " ".join(f"{name}={value}" for name, value in step.facts.items())
    words = (f"{step.at_s:12.6f}", step.entry, step.whom, _told(step.told, trace), facts)
    yield "  ".join(word for word in words if word)
    for whom, records in step.said:
        yield f"{'':12}  → {whom}  {_told(records, trace)}"
    for effect in step.effects:
        yield f"{'':12}  → {_effect(effect)}"
    if step.raised:
        yield f"{'':12}  raises {step.raised}"


def _told(records: Iterable[Record], trace: bool) -> str:
    """Return records in words: every field, or how many of each kind."""
    if trace:
        return " ".join(map(_record, records))
    counts = Counter(type(record).__name__ for record in records)
    return " ".join(name if count == 1 else f"{name}×{count}" for name, count in counts.items())


def _record(record: Record) -> str:
    fields = structs.asdict(record).items()
    words = (f"{name}={f'{len(value)} bytes' if isinstance(value, bytes) else repr(value)}" for name, value in fields)
    return f"{type(record).__name__}({', '.join(words)})"


def _effect(effect: Effect) -> str:
    if isinstance(effect, Note):
        return " ".join((f"notes {effect.name}", *(f"{name}={value!r}" for name, value in effect.facts.items())))
    fields = ", ".join(f"{name}={value!r}" for name, value in structs.asdict(effect).items())
    return f"{type(effect).__name__}({fields})"


def _as_json(step: Step) -> dict[str, Any]:
    return {
        "segment": step.segment,
        "at_s": round(step.at_s, 6),
        "entry": step.entry,
        "whom": step.whom,
        "told": [_plain(record) for record in step.told],
        "facts": to_builtins(step.facts),
        "said": [{"to": whom, "records": [_plain(record) for record in records]} for whom, records in step.said],
        "effects": [_plain(effect) for effect in step.effects],
        "raised": step.raised,
    }


def _plain(value: Record | Effect) -> dict[str, Any]:
    """Return a record or effect by field names; bytes as their number, for they may be secret."""
    fields = structs.asdict(value).items()
    plain = {name: len(field) if isinstance(field, bytes) else to_builtins(field) for name, field in fields}
    return {"type": type(value).__name__, **plain}
