"""A client in the child of a fork is another app; the parent notices nothing."""

import json
import os
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

pytestmark = pytest.mark.system

ROOT = Path(__file__).resolve().parents[2]

PROGRAM = """
    import json, os, sys, time
    {patch}
    import mesh
    topic = sys.argv[2]

    client = mesh.connect("forked", socket=sys.argv[1])
    client.serve(topic, lambda message: str(os.getpid()).encode())
    parent = os.getpid()
    assert str(parent) == client.call(topic).body.decode()
    futures = [client.call_async(topic) for _ in range(20)]
    read, write = os.pipe()
    child = os.fork()
    if child == 0:
        told = dict(
            session=client.session,
            served_by=int(client.call(topic).body),
            cast=client.cast(topic, confirm=True).session,
            many=[int(f.result(20).body) for f in [client.call_async(topic) for _ in range(20)]],
        )
        client.close()
        os.write(write, json.dumps(told).encode())
        os._exit(0)
    os.close(write)
    while (ended := os.waitpid(child, os.WNOHANG)) == (0, 0):
        time.sleep(0.01)
    told = json.loads(os.fdopen(read).read())
    before = [int(f.result(20).body) for f in futures]
    after = int(client.call(topic).body)
    session = client.session
    client.close()
    print(json.dumps(dict(told, status=ended[1], parent=parent, before=before, after=after, own=session)))
"""

PATCHES = {
    "threads": "pass",
    "gevent": "from gevent import monkey; monkey.patch_all()",
    # Importing eventlet warns that everybody should leave it.
    "eventlet": "import warnings; warnings.simplefilter('ignore'); import eventlet; eventlet.monkey_patch()",
}


@pytest.mark.parametrize("how", sorted(PATCHES))
def test_the_child_gets_a_session_of_its_own_and_the_parent_goes_on(how: str, mesh_socket: Path) -> None:
    program = textwrap.dedent(PROGRAM.format(patch=PATCHES[how]))
    done = subprocess.run(
        [sys.executable, "-c", program, str(mesh_socket), f"fork-{how}"],
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert (0, "") == (done.returncode, done.stderr)
    told = json.loads(done.stdout)
    parent = told["parent"]
    assert 0 == told["status"]
    assert told["session"] != told["own"]
    assert told["session"] == told["cast"]
    assert parent == told["served_by"] == told["after"]
    assert [parent] * 20 == told["many"] == told["before"]
