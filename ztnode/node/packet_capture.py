"""A capture of one network's Ethernet frames, as they pass between the overlay and the stack."""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import AsyncGenerator, Iterable, Sequence
from typing import Final

from ztnode.ring import Buffer
from ztnode.wire import pcapng

BUFFER_BYTES: Final = 8 << 20
"""What waits for a slow reader; frames beyond that are dropped and counted in the capture itself."""
PIECE_BYTES: Final = 256 << 10


class PacketCapture:
    """Collects frames in pcapng blocks until it is read. ``add`` and reading happen on the same event loop."""

    def __init__(self, name: str, *, snaplen: int) -> None:
        """``name`` of the interface as a person will see it; ``snaplen`` bytes are kept of each frame."""
        self._snaplen = snaplen
        self._pieces: deque[bytes] = deque(
            [pcapng.section_header("ztnode") + pcapng.interface_description(name, snaplen)]
        )
        self._waiting = 0
        self._received = self._dropped = self._reported = 0
        self._ended = False
        self._wake = asyncio.Event()

    def add(self, frames: Iterable[Sequence[Buffer]], direction: int) -> None:
        """A batch of frames, each in parts. ``direction`` is pcapng.INBOUND (from the overlay) or OUTBOUND."""
        now = time.time_ns()
        piece = bytearray()
        for parts in frames:
            self._received += 1
            if self._waiting > BUFFER_BYTES:
                self._dropped += 1
                continue
            frame = b"".join(parts)
            block = pcapng.enhanced_packet(
                0, now, (frame[: self._snaplen],), direction=direction, original_length=len(frame)
            )
            self._waiting += len(block)
            piece += block
            if len(piece) >= PIECE_BYTES:
                self._pieces.append(bytes(piece))
                piece.clear()
        if piece:
            self._pieces.append(bytes(piece))
        self._wake.set()

    def end(self) -> None:
        """No frame will come any more; what is there can still be read."""
        self._ended = True
        self._wake.set()

    async def blocks(self) -> AsyncGenerator[bytes, None]:
        """Everything so far and from now on, in pieces of whole blocks: a reader may stop after any of them."""
        while True:
            while self._pieces:
                piece = self._pieces.popleft()
                self._waiting = max(0, self._waiting - len(piece))
                yield piece
            if self._dropped != self._reported:
                self._reported = self._dropped
                self._pieces.append(
                    pcapng.interface_statistics(0, time.time_ns(), received=self._received, dropped=self._dropped)
                )
            elif self._ended:
                return
            else:
                self._wake.clear()
                await self._wake.wait()
