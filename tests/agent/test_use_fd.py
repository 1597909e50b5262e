"""ZeroMQ and gevent in a forked reactor, on the listener that its supervisor holds."""

import os
import signal
from pathlib import Path

import pytest
import zmq

from tests.agent.supervised import WITHIN_S, Agent

pytestmark = pytest.mark.io


@pytest.mark.parametrize("host", ["127.0.0.1", "::1"])
def test_a_dealer_reaches_the_next_reactor_by_the_same_port(tmp_path: Path, host: str) -> None:
    with Agent(tmp_path, "echo", link_hosts=[host]) as agent, zmq.Context() as context:
        port = agent.expect("supervisor_listening")["links"][0][1]
        dealer = context.socket(zmq.DEALER)
        dealer.setsockopt(zmq.LINGER, 0)
        dealer.setsockopt(zmq.IPV6, 1)
        dealer.setsockopt(zmq.RCVTIMEO, int(WITHIN_S * 1000))
        dealer.connect(f"tcp://[{host}]:{port}" if ":" in host else f"tcp://{host}:{port}")
        for body in (b"one", b"two", b"three"):
            reactor = agent.ready()
            dealer.send(body)
            assert [body, str(reactor["incarnation"]).encode()] == dealer.recv_multipart()
            os.kill(reactor["pid"], signal.SIGKILL)
        dealer.close()
