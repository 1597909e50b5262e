"""The demo's word count as an app of its own: what serves it, and what asks and is ready for whatever comes back."""

import mesh
from mesh.cli.wordcount import WORDS, count_words

__all__ = ["ask", "ask_aio", "count", "count_aio"]


def count(message: mesh.Message) -> bytes:
    """Answer a call with the number of words in it."""
    return str(count_words(message.body)).encode()


async def count_aio(message: mesh.Message) -> bytes:
    """Do the same in an event loop."""
    return count(message)


def ask(client: mesh.Client, text: bytes, *, again: bool = False) -> str:
    """Say how many words a text has; ``again``: it may be counted twice, so that the count survives its counter."""
    try:
        reply = client.call(WORDS, text, idempotent=again)
    except mesh.Unroutable:
        return "nobody counts here"
    except mesh.Indeterminate:
        return "counted, perhaps"
    return f"{reply.body.decode()} words"


async def ask_aio(client: mesh.aio.Client, text: bytes) -> str:
    """Do the same in an event loop."""
    try:
        reply = await client.call(WORDS, text)
    except mesh.Unroutable:
        return "nobody counts here"
    except mesh.Indeterminate:
        return "counted, perhaps"
    return f"{reply.body.decode()} words"
