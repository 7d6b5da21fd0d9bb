"""Streams of bytes."""

from collections.abc import AsyncIterable


async def read_bounded(chunks: AsyncIterable[bytes], max_bytes: int) -> bytes | None:
    """The whole content, or None as soon as it exceeds `max_bytes`: the rest is not read."""
    content = bytearray()
    async for chunk in chunks:
        content += chunk
        if len(content) > max_bytes:
            return None
    return bytes(content)
