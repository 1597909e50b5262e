"""`demo`: three agents, workers on two of them, and an app on the third that has words counted while one is killed."""

import contextlib
import json
import os
import signal
import threading
import time
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING

import click

from mesh.cli.demo_work import TIMEOUT_S, Job, in_turns, read_texts
from mesh.cli.exits import Exit
from mesh.cli.wordcount import TALLY, WORDS, count_words, split
from mesh.errors import MeshError

if TYPE_CHECKING:
    from rich.console import Console

    from mesh.cli.demo_view import Stage
    from mesh.client.sync import Client

__all__ = ["demo"]

SENDER, WORKERS = "anna", ("bert", "carl")
VICTIM = "carl"

PIECES_ABOUT = 120
COLD_CALLS, COLD_PAUSE_S = 3, 0.7
WORK_S = 10.0
COOLING_MAX_S = 20.0
LOOK_S = 0.2

Settings = Mapping[str, Mapping[str, object]]

SETTINGS: Settings = {
    "agent": {"fleet": "demo"},
    # Hot, cold again after some six quiet seconds, closed after eight: each is seen for a moment.
    "heat": {"half_life_s": 1.0, "dwell_s": 2.0},
    "links": {"idle_close_s": 8.0},
}

NEXT = """\
What to try next:

    mesh agent                       an agent of your own (leave it running, go on in another terminal)
    mesh serve upper -- tr a-z A-Z   a service, out of any command
    mesh call upper hello            an app
    mesh links --watch               what the agent talks to, and why
    mesh run -- python app.py        a private agent for one program
    mesh bench                       how fast it is on this machine
"""


@click.command(short_help="Watch three agents do real work.")
@click.argument("files", nargs=-1, type=click.Path(exists=True, dir_okay=False, path_type=Path))
@click.option("--consul", is_flag=True, help="Find each other through a real Consul, and print its UI's address.")
@click.option("--keep", is_flag=True, help="Leave everything running at the end, until Ctrl-C.")
def demo(files: tuple[Path, ...], consul: bool, keep: bool) -> int:
    """Watch three agents do real work: count the words of FILES (by default our own source) while one is killed.

    Takes half a minute, uses loopback and a temporary directory only, and exits with 0 if not a word was lost.
    """
    from mesh.cli.demo_view import Stage, shown
    from mesh.cli.private import private_directory, unwinding
    from mesh.cli.tables import console

    texts = read_texts(files or sorted(Path(__file__).resolve().parents[1].rglob("*.py")))
    out = console()
    with unwinding(), private_directory() as directory, ExitStack() as stack:
        stage = Stage(out)
        with shown(stage):
            settings = _with_consul(stage, directory, stack) if consul else SETTINGS
            show = _Show(stage, directory, settings, stack)
            counted = show.run(texts)
        expected = sum(map(count_words, texts))
        out.print(_verdict(counted, expected), highlight=False)
        out.print(f"\n{NEXT}", markup=False)
        if keep:
            _keep(out, directory, settings)
    return Exit.OK if counted == (expected, expected) else Exit.FAILED


def _keep(out: "Console", directory: Path, settings: Settings) -> None:
    """Leave everything as it is until Ctrl-C, and say how to look at it."""
    out.print("Left running until Ctrl-C. In another terminal:")
    out.print(f"    export MESH_SOCKET={directory}/{SENDER}.sock", soft_wrap=True)
    if "matchmaker.consul" in settings:
        out.print(f"Consul's UI: {settings['matchmaker.consul']['address']}/ui/", soft_wrap=True)
    with contextlib.suppress(KeyboardInterrupt):
        signal.pause()


def _verdict(counted: tuple[int, int], expected: int) -> str:
    """Return the totals, one beside the other."""

    def line(what: str, count: int) -> str:
        return f"{what:<30}{count:>12,} words"

    equal = "[green]equal[/]" if counted == (expected, expected) else "[red]NOT EQUAL[/]"
    lines = (line("counted by calls", counted[0]), line("counted by casts", counted[1]))
    return "\n".join(("", *lines, f"{line('counted here, without a mesh', expected)}   {equal}"))


def _with_consul(stage: "Stage", directory: Path, stack: ExitStack) -> Settings:
    """Start a Consul; return the settings of agents that use it."""
    from mesh.cli.demo_consul import consul_server

    stage.enter("starting Consul")
    address = stack.enter_context(consul_server(directory))
    stage.say(f"its UI: {address}/ui/")
    return {
        **SETTINGS,
        "matchmaker": {"kind": "consul"},
        "matchmaker.consul": {"address": address},
    }


class _Show:
    """The demo's parts, in the order of `run`."""

    def __init__(self, stage: "Stage", directory: Path, settings: Settings, stack: ExitStack) -> None:
        from mesh.cli.private import PrivateAgent
        from mesh.cli.programs import Program
        from mesh.client.sync import connect

        self.stage = stage
        self.stack = stack
        stage.enter(f"starting three agents: {SENDER}, {', '.join(WORKERS)}")
        self.agents = {
            node: stack.enter_context(PrivateAgent(directory, node, settings)) for node in (SENDER, *WORKERS)
        }
        for agent in self.agents.values():
            agent.wait_ready()
        workers = [
            stack.enter_context(Program("mesh.cli.wordcount", str(self.agents[node].socket), node)) for node in WORKERS
        ]
        for worker in workers:
            worker.read()
        stage.say(f"workers serve on {' and '.join(WORKERS)}, the app is on {SENDER}")
        self.looks: dict[str, Client] = {
            node: stack.enter_context(connect("demo-view", socket=agent.socket)) for node, agent in self.agents.items()
        }
        self.app = stack.enter_context(connect("demo", socket=self.agents[SENDER].socket))
        self.stopped = threading.Event()
        looking = threading.Thread(target=self._look_on, daemon=True)
        looking.start()
        stack.callback(looking.join)
        stack.callback(self.stopped.set)

    def run(self, texts: Sequence[bytes]) -> tuple[int, int]:
        """Return how many words were counted by calls, and by casts."""
        self._tell_all()
        self._cold()
        counted = self._work(texts)
        self._cool_down()
        return counted

    def _look_on(self) -> None:
        """Keep the stage informed of all links."""
        while not self.stopped.wait(LOOK_S):
            for node, client in self.looks.items():
                try:
                    links = client.query("links", timeout_s=0.5)
                except MeshError:
                    links = []
                self.stage.see(node, links)

    def _tell_all(self) -> None:
        """Wait until both workers are known; then a fan-out reaches both."""
        self.stage.enter("a fan-out tells every worker to begin anew")
        for node in WORKERS:
            self.app.call(f"{TALLY}@{node}", timeout_s=TIMEOUT_S, wait=True)
        receipt = self.app.fanout(TALLY, confirm=True, ttl_s=TIMEOUT_S)
        self.stage.say(f"receipt: asked {receipt.asked}, finished {receipt.finished}")

    def _cold(self) -> None:
        self.stage.enter("a few calls now and then: the topic is cold, its links are ephemeral")
        for _ in range(COLD_CALLS):
            reply = self.app.call(WORDS, b"to be or not to be", timeout_s=TIMEOUT_S)
            self.stage.say(f"call: “to be or not to be” has {reply.body.decode()} words")
            time.sleep(COLD_PAUSE_S)

    def _work(self, texts: Sequence[bytes]) -> tuple[int, int]:
        """Send everything over some seconds, and kill a reactor half way."""
        calls = [Job(self.app, text) for text in texts]
        pieces = split(texts, PIECES_ABOUT)
        casts = [Job(self.app, piece, f"{number}") for number, piece in enumerate(pieces)]
        jobs = in_turns(calls, casts)
        size = sum(map(len, texts))
        sent = f"{len(calls)} files as calls, and again as {len(casts)} casts"
        self.stage.enter(f"{sent}, {2 * size:,} bytes in all: it gets hot")
        self.stage.total = len(jobs)
        began, watching = time.monotonic(), None
        under_way: list[Job] = []
        for number, job in enumerate(jobs):
            time.sleep(max(0.0, began + WORK_S * number / len(jobs) - time.monotonic()))
            if number == len(jobs) // 2:
                watching = self._kill()
            job.send()
            under_way = [each for each in (*under_way, job) if not each.is_done]
            self.stage.done = number + 1 - len(under_way)
        by_calls = sum(int(reply.body) for reply in [job.finish() for job in calls] if reply)
        for job in casts:
            job.finish()
        self.stage.done = len(jobs)
        if watching:
            watching.join(TIMEOUT_S)
        again = sum(job.attempts - 1 for job in jobs)
        self.stage.say(f"all {len(jobs)} have ended; the app had to send {again} of them again")
        tallies: dict[str, int] = {}
        for node in WORKERS:
            told = json.loads(self.app.call(f"{TALLY}@{node}", timeout_s=TIMEOUT_S, wait=True).body)
            self.stage.say(f"{node} counted {sum(told.values()):,} words in {len(told)} pieces")
            tallies |= told
        return by_calls, sum(tallies.values())

    def _kill(self) -> threading.Thread:
        """Kill the victim's reactor; return a thread that tells when there is another."""
        look = self.looks[VICTIM]
        pid = look.query("status")["pid"]
        self.stage.say(f"half way: SIGKILL to the reactor of {VICTIM}, pid {pid}", style="red")
        killed_at = time.monotonic()
        os.kill(pid, signal.SIGKILL)

        def await_another() -> None:
            while time.monotonic() < killed_at + TIMEOUT_S:
                try:
                    new = look.query("status", timeout_s=0.5).get("pid", pid)
                except MeshError:
                    new = pid
                if new != pid:
                    elapsed_ms = (time.monotonic() - killed_at) * 1000
                    text = f"its supervisor has replaced it by pid {new}; that one answered after {elapsed_ms:.0f} ms"
                    self.stage.say(text, style="green")
                    return
                time.sleep(0.005)

        thread = threading.Thread(target=await_another, daemon=True)
        thread.start()
        return thread

    def _cool_down(self) -> None:
        """Watch heartbeats on idle links, and the links becoming cold and closing."""
        self.stage.enter("nothing to do: heartbeats pass on the hot links until they are cold, then they close")
        look = self.looks[SENDER]
        before = sum(link["records_in"] for link in look.query("links") if link["kind"] == "persistent")
        time.sleep(1.0)
        after = sum(link["records_in"] for link in look.query("links") if link["kind"] == "persistent")
        self.stage.say(f"{after - before} heartbeats and answers to them came to {SENDER} in a second")
        until = time.monotonic() + COOLING_MAX_S
        while time.monotonic() < until and look.query("links"):
            time.sleep(LOOK_S)
        time.sleep(2 * LOOK_S)
