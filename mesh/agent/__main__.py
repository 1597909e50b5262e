"""``python -m mesh.agent [--config PATH]``: the agent's process, which ``mesh agent`` becomes. Nothing else patches."""

from gevent import monkey

monkey.patch_all(os=False, signal=False, subprocess=False)

if __name__ == "__main__":
    import sys

    from mesh.agent.start import main

    sys.exit(main(sys.argv[1:]))
