"""Blocking files under an event loop: calls in threads, and byte streams with a limit.

A cancelled task does not end its thread. Whoever cleans up after a cancellation must therefore
wait for the call under way, or it would be written on beneath the cleaning.
"""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import aclosing
from typing import Any, TypeVar

from raydiar.errors import MediaTooLarge

BLOCK_BYTES = 2**20  # a thread is woken per block: chunks of a network are too small for that

T = TypeVar("T")


async def in_thread(call: Callable[..., T], *args: Any) -> T:
    """Run a blocking call in a thread; a cancellation is raised when the call has ended."""
    running = asyncio.ensure_future(asyncio.to_thread(call, *args))
    try:
        return await asyncio.shield(running)
    except asyncio.CancelledError:
        await asyncio.wait([running])
        if not running.cancelled():
            running.exception()  # seen; the cancellation is what the caller must know
        raise


async def write_blocks(
    chunks: AsyncIterator[bytes], write: Callable[[bytes], Any], max_bytes: int, label: str
) -> int:
    """Hand a stream of bytes to a blocking `write`, in blocks, at most `max_bytes`.

    Parameters
    ----------
    chunks : async iterator of bytes
        Closed here at the end, and when it is too long or fails.
    write : callable
        Takes bytes; called in a thread.
    max_bytes : int
    label : str
        What the bytes are, in the message.

    Returns
    -------
    num_bytes : int

    Raises
    ------
    MediaTooLarge
        When the stream goes beyond `max_bytes`; less than that has been written.
    """
    num_bytes, block = 0, bytearray()
    async with aclosing(_closable(chunks)) as stream:
        async for chunk in stream:
            num_bytes += len(chunk)
            check_size(num_bytes, max_bytes, label)
            block += chunk
            if len(block) >= BLOCK_BYTES:
                await in_thread(write, bytes(block))
                block.clear()
    if block:
        await in_thread(write, bytes(block))
    return num_bytes


def check_size(num_bytes: int, max_bytes: int, label: str) -> None:
    """Hold a number of bytes to its limit.

    Raises
    ------
    MediaTooLarge
    """
    if num_bytes > max_bytes:
        raise MediaTooLarge(
            f"{label}: larger than {max_bytes} bytes. Send a shorter recording, or compress it."
        )


async def _closable(chunks: AsyncIterator[bytes]):
    """Any asynchronous iterator, in a form that can be closed; request bodies often cannot."""
    try:
        async for chunk in chunks:
            yield chunk
    finally:
        if hasattr(chunks, "aclose"):
            await chunks.aclose()
