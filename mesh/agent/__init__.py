"""The shell around the core, in two processes: a supervisor that holds what must outlive a crash, and its reactor.

The only place with gevent and ZeroMQ. Nothing here is imported by applications.
"""
