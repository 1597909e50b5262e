"""The ZAP handler: answers, on the reactor's loop, whether a key may connect to the link port.

It is bound before any socket is: without one that answers, the link port lets nobody in.
"""

from collections.abc import Callable, Container

import zmq
from gevent import get_hub

from mesh.agent.zeromq import NOBLOCK, POLLIN, READS_PER_TURN, Context, events_of, watch
from mesh.security import zap

__all__ = ["Zap"]


class Zap:
    """The handler of one context. ``revoked``: public keys that are refused; ``refused`` is told why and from where."""

    def __init__(self, context: Context, refused: Callable[[str, str], None]) -> None:
        self.revoked: Container[str] = ()
        self.refused = refused
        self.loop = get_hub().loop
        self.socket = context.socket(zmq.ROUTER)
        self.socket.setsockopt(zmq.LINGER, 0)
        self.socket.bind(zap.ADDRESS)
        self.watcher = watch(self.socket, self.read)

    def read(self) -> None:
        """Answer what is asked."""
        for _ in range(READS_PER_TURN):
            if not events_of(self.socket) & POLLIN:
                return
            asker, empty, *frames = self.socket.recv_multipart(NOBLOCK)
            question = zap.decode(frames)
            if question is None:
                continue
            verdict = zap.judge(question, self.revoked)
            if verdict.status != zap.ADMITTED:
                self.refused(verdict.text, question.address)
            self.socket.send_multipart([asker, empty, *zap.encode(question, verdict)], NOBLOCK)
        self.loop.run_callback(self.read)

    def close(self) -> None:
        """Answer no more."""
        self.watcher.stop()
        self.watcher.close()
        self.socket.close(0)
