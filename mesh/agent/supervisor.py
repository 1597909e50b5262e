"""The supervisor: holds what must outlive a crash, keeps one reactor running, and does nothing else.

It holds the locks and both listeners, draws incarnations, and forks the reactor from memory in which everything is
imported. Apps and peers that connect while there is no reactor wait in the listeners' queues for the next one. It has
one loop over two descriptors: the signals that came, and the reactor's pulse.

What a reactor owes it: a byte by `process.pulse` at least every quarter of ``watchdog_s``, `READY` once when it serves;
on SIGTERM to drain and exit 0, however often it comes (the service manager may send one too). How it ends is
in `exits`. It must not close or unlink the listeners; it accepts from them, or gives ZeroMQ a dup.
"""

import logging
import math
import os
import select
import signal
import socket
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

from msgspec import Struct

from mesh.agent.exits import Exit, Refused
from mesh.agent.incarnation import draw_incarnation, has_run
from mesh.agent.listeners import AppListener, check_path, listen_http, listen_links
from mesh.agent.locks import hold, make_directory
from mesh.agent.pacing import Restarts, Silence
from mesh.agent.process import READY, SIGNALS, drop_hub, fork_reactor, pulse
from mesh.agent.systemd import Systemd
from mesh.agent.unpatched import poll

__all__ = [
    "REACTOR_ENDED",
    "REACTOR_HUNG",
    "REACTOR_NOT_STARTED",
    "REACTOR_READY",
    "REACTOR_STARTED",
    "STALE_SOCKET_REPLACED",
    "SUPERVISOR_LISTENING",
    "SUPERVISOR_REFUSED",
    "SUPERVISOR_STOPPED",
    "SUPERVISOR_STOPPING",
    "SYSTEMD_UNREACHABLE",
    "Inherited",
    "SupervisorOptions",
    "supervise",
]

SUPERVISOR_REFUSED = "supervisor_refused"
SUPERVISOR_LISTENING = "supervisor_listening"
SUPERVISOR_STOPPING = "supervisor_stopping"
SUPERVISOR_STOPPED = "supervisor_stopped"
STALE_SOCKET_REPLACED = "stale_socket_replaced"
SYSTEMD_UNREACHABLE = "systemd_unreachable"
REACTOR_STARTED = "reactor_started"
REACTOR_READY = "reactor_ready"
REACTOR_ENDED = "reactor_ended"
REACTOR_HUNG = "reactor_hung"
REACTOR_NOT_STARTED = "reactor_not_started"

_TURNS_PER_LIMIT = 8
_READ_BYTES = 65_536
_POLLIN = select.POLLIN

Note = Callable[..., None]


class SupervisorOptions(Struct, frozen=True, kw_only=True):
    """What the supervisor is told. Directories are made when missing; those that are there stay as they are."""

    data_dir: Path
    """Where locks and the incarnation live; made with mode 0700. One agent uses it at a time."""

    socket_path: Path
    """Where apps connect, at most 107 bytes; a lock file stands beside it."""

    socket_group: str = ""
    """Group of the socket and of its directory, if that is made here; empty: the process's own."""

    socket_mode: int = 0o660
    """Permissions of the socket: who may write may connect."""

    socket_dir_mode: int = 0o750
    """Permissions of the socket's directory, if it is made here."""

    socket_backlog: int = 1024
    """Apps that may wait to be accepted, as while a reactor is replaced; the kernel's ``somaxconn`` caps it."""

    link_hosts: tuple[str, ...] = ("127.0.0.1",)
    """Addresses, not names, on which peers are listened for: IPv4, IPv6 or both."""

    link_port: int = 0
    """The port on all of them; 0 picks a free one."""

    link_backlog: int = 1024
    """Peers that may wait to be accepted."""

    http_address: tuple[str, int] | None = None
    """Where the page is listened for, with port 0 on a free one; None: nowhere."""

    http_backlog: int = 64
    """Readers that may wait to be accepted."""

    watchdog_s: float = 10.0
    """A reactor silent for so long is killed: twice the dead time of a link. Less takes a busy one for a hung one."""

    start_s: float = 30.0
    """The same, before the reactor has said that it is ready."""

    reactor_lock_s: float = 10.0
    """How long a new reactor waits for the lock of one that a killed supervisor left, before it gives up."""

    young_s: float = 0.5
    """A reactor that ends before it has served so long counts as failing. One that ends later may be killed, or die of
    its work, again and again: to be away longer would help nobody."""

    backoff_first_s: float = 0.1
    """What a life and the wait after it last at the second short one in a row; it doubles with each that follows."""

    backoff_max_s: float = 2.0
    """The most that they last: below ``resume_grace_s``, so that peers wait for one that is killed again and again."""

    same_signal_s: float = 0.5
    """How soon after the first signal to stop a second one still means the same."""


class Inherited(Struct, frozen=True):
    """What a reactor gets from its supervisor.

    All listeners are listening, non-blocking and unpatched: wait for them with an io watcher. ``incarnation``
    is greater than any before it in this data directory, if there was one (``successor``); ``pulse_fd`` goes to
    `process.pulse`.
    """

    app_listener: socket.socket
    link_listeners: tuple[socket.socket, ...]
    pulse_fd: int
    incarnation: int
    data_dir: Path
    http_listener: socket.socket | None = None
    successor: bool = False


def supervise(
    options: SupervisorOptions,
    run_reactor: Callable[[Inherited], int],
    note: Note,
    unix_ms: Callable[[], int] = lambda: time.time_ns() // 1_000_000,
) -> int:
    """Run reactors until one ends for good or a signal ends all; return the exit status, see `exits`.

    ``run_reactor`` runs in the forked child and returns its exit status. Call this from a process with one thread, with
    everything imported that the reactor needs.
    """
    drop_hub()
    try:
        with _hold_all(options, note) as held:
            return _Supervisor(options, run_reactor, note, unix_ms, held).run()
    except Refused as refused:
        note(SUPERVISOR_REFUSED, logging.ERROR, why=str(refused), status=int(refused.status))
        return refused.status


class _Held(Struct, frozen=True):
    """What the supervisor holds for as long as it lives; a reactor must not keep ``private_fds``."""

    app: AppListener
    links: tuple[socket.socket, ...]
    signal_fd: int
    private_fds: tuple[int, ...]
    http: socket.socket | None = None


@contextmanager
def _hold_all(options: SupervisorOptions, note: Note) -> Iterator[_Held]:
    check_path(options.socket_path)
    lock_path = options.socket_path.with_name(options.socket_path.name + ".lock")
    with ExitStack() as stack:
        make_directory(options.data_dir, 0o700, "the data directory")
        data_lock = hold(options.data_dir / "lock", f"the data directory {options.data_dir}")
        stack.callback(os.close, data_lock)
        make_directory(
            options.socket_path.parent, options.socket_dir_mode, "the app socket's directory", options.socket_group
        )
        socket_lock = hold(lock_path, f"the app socket {options.socket_path}")
        stack.callback(os.close, socket_lock)
        links = listen_links(options.link_hosts, options.link_port, options.link_backlog)
        for link in links:
            stack.callback(link.close)
        http = listen_http(*options.http_address, options.http_backlog) if options.http_address else None
        if http is not None:
            stack.callback(http.close)
        app = AppListener(options.socket_path, options.socket_mode, options.socket_group, options.socket_backlog)
        stack.callback(app.close)
        if app.replaced:
            note(STALE_SOCKET_REPLACED, path=str(app.path))
        read_fd, write_fd = stack.enter_context(_signals_as_bytes())
        addresses = [list(link.getsockname()[:2]) for link in links]
        page = {"http": list(http.getsockname()[:2])} if http is not None else {}
        note(SUPERVISOR_LISTENING, pid=os.getpid(), socket=str(app.path), links=addresses, **page)
        yield _Held(app, links, read_fd, (data_lock, socket_lock, read_fd, write_fd), http)


@contextmanager
def _signals_as_bytes() -> Iterator[tuple[int, int]]:
    """Make each of `SIGNALS` one byte in a pipe; yield both ends of it."""
    read_fd, write_fd = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)
    before = {number: signal.signal(number, lambda *_: None) for number in SIGNALS}
    wakeup_before = signal.set_wakeup_fd(write_fd, warn_on_full_buffer=False)
    try:
        yield read_fd, write_fd
    finally:
        signal.set_wakeup_fd(wakeup_before)
        for number, handler in before.items():
            signal.signal(number, handler)
        os.close(read_fd)
        os.close(write_fd)


class _Reactor:
    """The reactor that runs, as its supervisor sees it."""

    def __init__(self, pid: int, pulse_fd: int, incarnation: int, started_at: float, silence: Silence) -> None:
        self.pid = pid
        self.pulse_fd = pulse_fd
        self.incarnation = incarnation
        self.started_at = started_at
        self.silence = silence
        self.ready_at: float | None = None
        self.audible = True


class _Supervisor:
    """The loop. There is a reactor, or a time for the next one, until there is a status to exit with."""

    def __init__(
        self,
        options: SupervisorOptions,
        run_reactor: Callable[[Inherited], int],
        note: Note,
        unix_ms: Callable[[], int],
        held: _Held,
    ) -> None:
        self._options = options
        self._run_reactor = run_reactor
        self._note = note
        self._unix_ms = unix_ms
        self._held = held
        self._systemd = Systemd(os.environ)
        self._restarts = Restarts(options.young_s, options.backoff_first_s, options.backoff_max_s)
        self._turn_s = min(options.watchdog_s, options.start_s) / _TURNS_PER_LIMIT
        self._poll = poll()
        self._poll.register(held.signal_fd, _POLLIN)
        self._reactor: _Reactor | None = None
        self._ended_at = self._start_at = self._keep_alive_at = time.monotonic()
        self._stopping = False
        self._stopping_since = 0.0
        self._stopped_by = 0
        self._status: int | None = None

    def run(self) -> int:
        """Turn until there is an exit status."""
        before = time.monotonic()
        while self._status is None:
            self._poll.poll(self._wait_ms(before))
            now = time.monotonic()
            self._turn(now, now - before)
            before = now
        self._say("STOPPING=1", f"STATUS=stopped with {self._status}")
        self._note(SUPERVISOR_STOPPED, status=self._status)
        return self._status

    def _turn(self, now: float, elapsed_s: float) -> None:
        self._keep_alive(now)
        self._hear_signals()
        if self._reactor:
            self._hear_pulse(self._reactor, elapsed_s)
            self._reap(self._reactor, now)
        if self._status is None and self._reactor is None and now >= self._start_at:
            self._start(now)

    def _wait_ms(self, now: float) -> int:
        until = [now + self._turn_s]
        if not self._reactor:
            until.append(self._start_at)
        if self._systemd.keep_alive_s:
            until.append(self._keep_alive_at)
        return max(0, math.ceil((min(until) - now) * 1000))

    def _start(self, now: float) -> None:
        """Draw an incarnation and fork; what fails for want of disk or memory is tried again."""
        try:
            successor = has_run(self._options.data_dir)
            incarnation = draw_incarnation(self._options.data_dir, self._unix_ms(), self._note)
            pid, pulse_fd = fork_reactor(
                lambda fd: self._be_reactor(fd, incarnation, successor), self._held.private_fds
            )
        except OSError as error:
            delay_s = self._restarts.delay_s(0.0)
            self._start_at = now + max(delay_s, self._options.backoff_first_s)
            self._note(REACTOR_NOT_STARTED, logging.ERROR, why=str(error), next_in_s=round(self._start_at - now, 3))
            return
        started_at = time.monotonic()
        self._reactor = _Reactor(pid, pulse_fd, incarnation, started_at, Silence(self._turn_s))
        self._poll.register(pulse_fd, _POLLIN)
        waited_ms = round((started_at - self._ended_at) * 1000, 1)
        self._note(REACTOR_STARTED, pid=pid, incarnation=incarnation, after_ms=waited_ms)

    def _be_reactor(self, pulse_fd: int, incarnation: int, successor: bool) -> int:
        """The child's whole life: first the lock, so that two reactors never act at once."""
        data_dir = self._options.data_dir
        try:
            hold(
                data_dir / "reactor.lock",
                f"the data directory {data_dir}",
                self._options.reactor_lock_s,
                waiting=lambda: pulse(pulse_fd),
            )
        except Refused as refused:
            self._note(SUPERVISOR_REFUSED, logging.ERROR, why=str(refused), status=int(refused.status))
            return refused.status
        held = self._held
        inherited = Inherited(held.app.socket, held.links, pulse_fd, incarnation, data_dir, held.http, successor)
        return self._run_reactor(inherited)

    def _hear_signals(self) -> None:
        for number in _read(self._held.signal_fd) or b"":
            if number == signal.SIGHUP:
                self._send(signal.SIGHUP)
            elif number in (signal.SIGTERM, signal.SIGINT):
                self._stop(signal.Signals(number))

    def _stop(self, number: signal.Signals) -> None:
        """The first signal drains, a later one ends the reactor at once. One that follows in a moment is the same:
        whoever ends a whole process group often tells this process and then the group."""
        now = time.monotonic()
        if self._stopping and now - self._stopping_since < self._options.same_signal_s:
            return
        at_once = self._stopping
        if not at_once:
            self._stopping_since = now
        self._stopping = True
        self._note(SUPERVISOR_STOPPING, signal=number.name, at_once=at_once)
        self._say("STOPPING=1", "STATUS=stopping at once" if at_once else "STATUS=draining")
        if at_once:
            self._stopped_by = number
        if self._reactor:
            self._send(signal.SIGKILL if at_once else signal.SIGTERM)
        else:
            self._status = 128 + number if at_once else Exit.OK

    def _send(self, number: signal.Signals) -> None:
        if self._reactor:
            os.kill(self._reactor.pid, number)

    def _hear_pulse(self, reactor: _Reactor, elapsed_s: float) -> None:
        heard = _read(reactor.pulse_fd)
        reactor.silence.turn(elapsed_s, bool(heard))
        if heard == b"":
            self._unhear(reactor)
        if heard and READY in heard and reactor.ready_at is None:
            reactor.ready_at = time.monotonic()
            after_ms = round((reactor.ready_at - reactor.started_at) * 1000, 1)
            self._note(REACTOR_READY, pid=reactor.pid, incarnation=reactor.incarnation, after_ms=after_ms)
            self._say("READY=1", f"STATUS=reactor {reactor.pid} ready, incarnation {reactor.incarnation}")
        limit_s = self._options.start_s if reactor.ready_at is None else self._options.watchdog_s
        if reactor.silence.silent_s >= limit_s:
            self._note(REACTOR_HUNG, logging.ERROR, pid=reactor.pid, silent_s=round(reactor.silence.silent_s, 3))
            reactor.silence = Silence(self._turn_s)
            self._send(signal.SIGKILL)

    def _unhear(self, reactor: _Reactor) -> None:
        """Poll its pulse no more: at its end a poll returns at once."""
        if reactor.audible:
            reactor.audible = False
            self._poll.unregister(reactor.pulse_fd)

    def _reap(self, reactor: _Reactor, now: float) -> None:
        pid, raw = os.waitpid(reactor.pid, os.WNOHANG)
        if not pid:
            return
        self._unhear(reactor)
        os.close(reactor.pulse_fd)
        self._reactor = None
        self._ended_at = now
        status = os.waitstatus_to_exitcode(raw)
        how = signal.Signals(-status).name if status < 0 else f"status {status}"
        self._status = self._verdict(status)
        lived_s = now - reactor.started_at
        then = f"the agent ends with {self._status}"
        if self._status is None:
            served_s = 0.0 if reactor.ready_at is None else now - reactor.ready_at
            delay_s = self._restarts.delay_s(served_s, asked=status == Exit.AGAIN)
            self._start_at = now + delay_s
            then = f"the next one starts in {delay_s:g} s"
            self._say(f"STATUS=reactor {pid} ended with {how}, {then}")
        level = logging.INFO if self._stopping or status in (Exit.OK, Exit.AGAIN) else logging.WARNING
        self._note(REACTOR_ENDED, level, pid=pid, how=how, lived_s=round(lived_s, 3), then=then)

    def _verdict(self, status: int) -> int | None:
        """Return what to exit with after a reactor's exit status (negative: a signal), or None to start another."""
        if self._stopped_by:
            return 128 + self._stopped_by
        if status in (Exit.OK, Exit.CONFIGURATION):
            return status
        if self._stopping:
            return Exit.OK if status in (-signal.SIGTERM, Exit.AGAIN) else Exit.FAILED
        return None

    def _keep_alive(self, now: float) -> None:
        if self._systemd.keep_alive_s and now >= self._keep_alive_at:
            self._keep_alive_at = now + self._systemd.keep_alive_s
            self._systemd.say("WATCHDOG=1")

    def _say(self, *assignments: str) -> None:
        if not self._systemd.say(*assignments):
            self._note(SYSTEMD_UNREACHABLE, logging.WARNING, unsaid=assignments[0])


def _read(fd: int) -> bytes | None:
    """Return what there is, None if nothing, ``b""`` at the end."""
    try:
        return os.read(fd, _READ_BYTES)
    except BlockingIOError:
        return None
