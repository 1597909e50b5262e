"""An agent that takes its keys as they are, whatever is wrong with them, and trusts whom the fleet trusts.

``python tests/system/attacker.py --config PATH``
"""

import sys
from pathlib import Path

import mesh.agent.__main__  # noqa: F401 - patches
from mesh.agent.start import main
from mesh.config import Config
from mesh.security import store
from mesh.security.certificates import Certificate, Revocations, peek

__all__: list[str] = []


def load_keys(config: Config, unix_s: float) -> store.NodeKeys:
    """Return what is there."""
    directory = Path(config.security.keys_dir)
    (secret, *_), shown = store.load_node(directory)
    assert shown is not None
    trusted = store.trusted(directory, config.fleet)
    try:
        told = peek(shown)
    except ValueError:
        told = Certificate(config.fleet, config.node_id, secret.public_key, 0, 1 << 40)
    return store.NodeKeys(secret, shown, told, trusted, Revocations(config.fleet, 0, ()))


if __name__ == "__main__":
    Config.load_keys = load_keys  # type: ignore[method-assign, assignment]
    sys.exit(main(sys.argv[1:]))
