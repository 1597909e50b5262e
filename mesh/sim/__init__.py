"""Whole meshes in virtual time: real nodes, a simulated network and matchmaker, one seed."""
