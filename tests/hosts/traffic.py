"""Runs on hosts: ``traffic.py serve`` answers with the host's name; ``traffic.py call FILE`` calls until SIGTERM.

What became of the calls is in FILE as JSON: outcomes by name with their counts, and which hosts answered.
"""

import json
import os
import signal
import socket
import sys
import threading
from collections import Counter
from pathlib import Path

import mesh

THREADS = 4
# Far shorter than any restart, so that each one meets calls, and long enough to leave the machine to its hosts.
PAUSE_S = 0.04


def serve() -> None:
    """Answer until told to stop."""
    client = mesh.connect(app="worker")
    name = socket.gethostname().encode()
    client.serve("work")(lambda _message: name)
    client.run()


def call(path: Path) -> None:
    """Call and count; the file is replaced as a whole, twice a second and at the end."""
    stop = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: stop.set())
    outcomes: Counter[str] = Counter()
    lock = threading.Lock()

    def caller() -> None:
        while not stop.wait(PAUSE_S):
            try:
                outcome = f"from {client.call('work', b'', timeout_s=30, wait=True).body.decode()}"
            except mesh.MeshError as error:
                outcome = f"{type(error).__name__}: {error}"
            with lock:
                outcomes[outcome] += 1

    def write() -> None:
        with lock:
            text = json.dumps(outcomes)
        new = path.with_suffix(".new")
        new.write_text(text)
        os.replace(new, path)

    with mesh.connect(app="caller") as client:
        threads = [threading.Thread(target=caller) for _ in range(THREADS)]
        for thread in threads:
            thread.start()
        while not stop.wait(0.5):
            write()
        for thread in threads:
            thread.join()
    write()


if __name__ == "__main__":
    if sys.argv[1] == "serve":
        serve()
    else:
        call(Path(sys.argv[2]))
