"""Back-pressure: prompts wait until the patches of others are freed."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

FIRST_GUESS = 96.0
"""Bytes of patches that a prompt holds for each pixel of its images, before one has ended. Qwen-VL's are 24 for each
list of images that a session is shown: the fused one, and one for each source."""


class Room:
    """The memory for patches of one process, handed to prompts before they start."""

    def __init__(self, limit: int) -> None:
        """
        Args:
            limit: in bytes. A prompt that alone is larger runs while no other does.
        """
        self._limit = limit
        self._taken = 0
        self._freed = asyncio.Condition()
        self._bytes_a_pixel: float | None = None

    def learn(self, size: int, pixels: int) -> None:
        """Take note of the bytes that a prompt has held; the largest share a pixel is expected of the next ones."""
        if pixels:
            self._bytes_a_pixel = max(self._bytes_a_pixel or 0.0, size / pixels)

    @asynccontextmanager
    async def take(self, pixels: int) -> AsyncIterator[None]:
        """Wait until a prompt with so many pixels fits, and hold its memory."""
        size = int(pixels * (FIRST_GUESS if self._bytes_a_pixel is None else self._bytes_a_pixel))
        async with self._freed:
            await self._freed.wait_for(lambda: not self._taken or self._taken + size <= self._limit)
            self._taken += size
        try:
            yield
        finally:
            async with self._freed:
                self._taken -= size
                self._freed.notify_all()
