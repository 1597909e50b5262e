"""Where the commands `heartmesh` and `mesh` begin: with the base install alone they say what is missing."""

import sys

__all__ = ["main"]


def main() -> None:
    """Run the command line, or exit with 1 and the ``pip install`` that brings it."""
    try:
        from mesh.cli.main import main as run
    except ModuleNotFoundError as error:
        missing = (error.name or "mesh").partition(".")[0]
        if missing == "mesh":
            raise
        sys.exit(f"mesh: the commands need more than the client ({missing} is missing): pip install 'heartmesh[agent]'")
    run()
