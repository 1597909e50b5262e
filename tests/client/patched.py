"""``python -m tests.client.patched gevent|eventlet PYTEST-ARGUMENTS``: pytest in a process that is monkey-patched."""

import sys


def patch(library: str) -> None:
    if library == "gevent":
        from gevent import monkey

        monkey.patch_all()
    else:
        import warnings

        warnings.simplefilter("ignore", DeprecationWarning)
        import eventlet

        eventlet.monkey_patch()


if __name__ == "__main__":
    patch(sys.argv[1])
    import pytest

    sys.exit(pytest.main(sys.argv[2:]))
