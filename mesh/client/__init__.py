"""What applications import: one session without I/O, under a shell for threads and one for asyncio.

``session`` (made of ``calling`` and ``serving``) decides everything and touches nothing; ``sync`` and ``aio`` move
its bytes. This package needs the standard library and msgspec, and of mesh only the records, errors and types.
"""
