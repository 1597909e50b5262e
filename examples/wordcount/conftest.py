"""Gives the tests beside it a fleet of their own."""

from mesh.testing.fixtures import fleet

__all__ = ["fleet"]
