"""The fork: what parent and child agree on, and how the child cuts itself loose.

The parent has one thread, no hub and no ZeroMQ context when it forks; the child leaves only by ``os._exit``, so nothing
of the parent's stack, ``atexit`` or ``finally`` runs twice.
"""

import contextlib
import ctypes
import gc
import os
import signal
import sys
import traceback
from collections.abc import Callable, Iterable
from typing import NoReturn

from gevent._hub_local import get_hub_if_exists

from mesh.agent.exits import Exit

__all__ = ["BEAT", "READY", "SIGNALS", "drop_hub", "fork_reactor", "pulse"]

READY = b"R"
BEAT = b"."

SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGCHLD)
"""What the supervisor handles, and the child must not find handled in the supervisor's way."""

_PR_SET_PDEATHSIG = 1
_PR_SET_NAME = 15
_NAME = ctypes.create_string_buffer(b"mesh-reactor")
_prctl = ctypes.CDLL(None, use_errno=True).prctl
_prctl.argtypes = (ctypes.c_int, *[ctypes.c_ulong] * 4)


def pulse(fd: int, byte: bytes = BEAT) -> None:
    """Say that the reactor turns (``BEAT``) or that it serves from now on (``READY``); never blocks.

    A full pipe means that the supervisor is stopped; it will find enough to read.
    """
    with contextlib.suppress(BlockingIOError):
        os.write(fd, byte)


def drop_hub() -> None:
    """Undo what an import may have done: urllib3 opens a socket when it is imported, and a patched one makes a hub.

    Comes before signals are handled: libev takes SIGCHLD when a hub is made, and leaves its default when it ends.
    """
    hub = get_hub_if_exists()
    if hub is not None:
        hub.destroy(destroy_loop=True)


def fork_reactor(main: Callable[[int], int], close_in_child: Iterable[int]) -> tuple[int, int]:
    """Fork a child that exits with the status that ``main(pulse_fd)`` returns; return its pid and the pulse to read.

    The child is killed when this process dies. It starts with SIGTERM at its default, SIGHUP and SIGINT ignored (a
    terminal sends SIGINT to both, and this process passes it on) and without ``close_in_child``.
    """
    assert get_hub_if_exists() is None, "something patched waited in the supervisor"
    gc.collect()
    gc.freeze()
    sys.stdout.flush()
    sys.stderr.flush()
    parent = os.getpid()
    read_fd, write_fd = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)
    mask = signal.pthread_sigmask(signal.SIG_BLOCK, SIGNALS)
    try:
        pid = os.fork()
        if pid == 0:
            _be_child(lambda: main(write_fd), parent, (read_fd, *close_in_child), mask)
    except OSError:
        os.close(read_fd)
        raise
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, mask)
        os.close(write_fd)
    return pid, read_fd


def _be_child(main: Callable[[], int], parent: int, close: Iterable[int], mask: Iterable[int]) -> NoReturn:
    status: int = Exit.FAILED
    try:
        _die_with(parent)
        signal.set_wakeup_fd(-1)
        for number in SIGNALS:
            ignored = number in (signal.SIGINT, signal.SIGHUP)
            signal.signal(number, signal.SIG_IGN if ignored else signal.SIG_DFL)
        for fd in close:
            os.close(fd)
        signal.pthread_sigmask(signal.SIG_SETMASK, mask)
        status = main()
    except SystemExit as leaving:
        status = leaving.code if isinstance(leaving.code, int) else Exit.FAILED
    except BaseException:  # noqa: BLE001 - there is no caller: this is the bottom of the child's stack
        traceback.print_exc()
    finally:
        try:
            sys.stdout.flush()
            sys.stderr.flush()
        finally:
            os._exit(status & 0xFF)


def _die_with(parent: int) -> None:
    """Have the kernel kill this process when its parent dies, even if that was before it was asked to."""
    if _prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0) != 0:
        raise OSError(ctypes.get_errno(), "the kernel does not offer PR_SET_PDEATHSIG")
    _prctl(_PR_SET_NAME, ctypes.addressof(_NAME), 0, 0, 0)
    if os.getppid() != parent:
        os._exit(Exit.FAILED)
