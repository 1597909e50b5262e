"""The commands: each is a thin layer over the client, so that `mesh call` starts as fast as it can.

A module of commands imports click and the client at most; rich, the configuration and the agent's libraries are
imported by the command that needs them. `exits` holds what every command exits with, `main` the group.
"""
