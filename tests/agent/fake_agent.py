"""A program for the supervisor's tests: ``python -m tests.agent.fake_agent REACTOR OPTIONS``, see `reactors`.

Patched as the agent's own process is, before anything else is imported.
"""

from gevent import monkey

if __name__ == "__main__":
    monkey.patch_all(os=False, signal=False, subprocess=False)

    import sys

    from tests.agent.reactors import main

    sys.exit(main(*sys.argv[1:]))
