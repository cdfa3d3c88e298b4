"""A single-producer, single-consumer queue of variable-length records in memory that two processes share.

Layout: one page of indices, then ``capacity`` bytes of records::

    0     head      u64   bytes ever published          written by the producer alone
    128   tail      u64   bytes ever released           written by the consumer alone
    256   sleeping  u64   1: ring the data doorbell     set by the consumer, cleared by whoever acts on it
    384   waiting   u64   1: ring the space doorbell    set by the producer, cleared by whoever acts on it
    512   capacity  u64   fixed at creation
    4096  records: tag u32, length u32, payload, padding to 8 bytes; native byte order

The four moving words lie 128 bytes apart, so that no two share a cache line (nor the pair of lines that current
processors prefetch together). A record never wraps: what is left before the end of the area is filled by a record with
the tag ``0xFFFFFFFF``, which carries nothing.

Memory ordering. Each index is an aligned 8-byte word that CPython stores and loads through ``memoryview.cast("Q")``
with one 8-byte copy, which compilers turn into one move: no reader sees half of it. What remains is order:

1. The payload must be visible before ``head`` moves, and must have been read before ``tail`` moves.
   x86 keeps stores in order among themselves and loads likewise; ARM keeps neither.
2. A consumer that goes to sleep stores ``sleeping`` and then loads ``head``; a producer stores ``head`` and then loads
   ``sleeping``. If both loads overtook both stores, each would miss the other and the wake-up would be lost. x86 does
   let a load overtake an older store, ARM too.

A consumer that finds ``sleeping`` set has stored it, and passed a fence, in an earlier turn: whoever stores ``head``
from then on loads it set, and rings. So one that is woken by other things needs no fence each time.

Both need a fence, and Python has one in disguise: a lock that is released and taken again is an atomic
read-modify-write with release semantics followed by one with acquire semantics; nothing may move across the pair in
either direction, on x86 (locked instructions), on ARMv8 (release followed by acquire is kept in order) and under any
pthread implementation. It costs about 0.1 µs and is paid a few times per batch, never per record.
"""

from __future__ import annotations

import contextlib
import errno
import mmap
import os
import threading
from collections.abc import Iterable, Sequence
from typing import Final, TypeAlias

Buffer: TypeAlias = bytes | bytearray | memoryview
Record: TypeAlias = tuple[int, Sequence[Buffer]]

DATA_OFFSET: Final = 4096
RECORD_HEADER: Final = 8
PADDING_TAG: Final = 0xFFFFFFFF
"""Tag of the filler before the end of the area; not for users."""
MIN_CAPACITY: Final = 4096
MAX_CAPACITY: Final = 1 << 30
FD_COUNT: Final = 5

_HEAD: Final = 0
_TAIL: Final = 128 // 8
_SLEEPING: Final = 256 // 8
_WAITING: Final = 384 // 8
_CAPACITY: Final = 512 // 8


class RingCorrupt(Exception):
    """The shared memory holds what no producer of ours writes. There is no way to resynchronise: end the process."""


class Ring:
    """One direction of a queue. Exactly one process writes, exactly one reads; each calls only its own half.

    The producer uses ``write_many``, ``free``, ``prepare_wait`` and ``space_fd``; the consumer uses
    ``read``, ``release``, ``prepare_sleep`` and ``data_fd``.
    """

    __slots__ = (
        "_capacity",
        "_data",
        "_data_doorbell",
        "_fence",
        "_indices",
        "_map",
        "_mask",
        "_memory_fd",
        "_position",
        "_space_doorbell",
        "_words",
    )

    def __init__(self, memory_fd: int, data_doorbell: tuple[int, int], space_doorbell: tuple[int, int]) -> None:
        size = os.fstat(memory_fd).st_size
        capacity = size - DATA_OFFSET
        if not MIN_CAPACITY <= capacity <= MAX_CAPACITY or capacity & (capacity - 1):
            raise RingCorrupt(f"shared memory of {size} bytes is no ring")
        self._memory_fd = memory_fd
        self._data_doorbell = data_doorbell
        self._space_doorbell = space_doorbell
        self._map = mmap.mmap(memory_fd, size)
        whole = memoryview(self._map)
        self._indices = whole[:DATA_OFFSET].cast("Q")
        self._data = whole[DATA_OFFSET:]
        self._words = self._data.cast("Q")
        self._capacity = capacity
        self._mask = capacity - 1
        # The consumer's position: read() has given out records up to here, and release() frees them.
        self._position = self._indices[_TAIL]
        self._fence = threading.Lock()
        self._fence.acquire()

    @classmethod
    def create(cls, capacity: int) -> Ring:
        """A new, empty ring of at least ``capacity`` bytes (rounded up to a power of two, records' headers included).

        Raises OSError where the system has no memory or descriptors left, ValueError above ``MAX_CAPACITY``.
        """
        rounded = max(MIN_CAPACITY, 1 << (capacity - 1).bit_length())
        if rounded > MAX_CAPACITY:
            raise ValueError(f"a ring holds at most {MAX_CAPACITY} bytes")
        with contextlib.ExitStack() as undo:
            memory_fd = _shared_memory(DATA_OFFSET + rounded)
            undo.callback(os.close, memory_fd)
            data_doorbell = _doorbell()
            undo.callback(_close_all, data_doorbell)
            space_doorbell = _doorbell()
            undo.callback(_close_all, space_doorbell)
            ring = cls(memory_fd, data_doorbell, space_doorbell)
            ring._indices[_CAPACITY] = rounded
            undo.pop_all()
        return ring

    @classmethod
    def attach(cls, fds: Sequence[int]) -> Ring:
        """The ring of another process by the descriptors that its ``fds`` named; takes ownership of them.

        Raises RingCorrupt when they do not lead to a ring, OSError when they are not open.
        """
        if len(fds) != FD_COUNT:
            raise RingCorrupt(f"a ring has {FD_COUNT} descriptors, not {len(fds)}")
        for fd in fds:
            os.set_inheritable(fd, False)
        memory_fd, data_read, data_write, space_read, space_write = fds
        ring = cls(memory_fd, (data_read, data_write), (space_read, space_write))
        if ring._indices[_CAPACITY] != ring._capacity:
            ring.close()
            raise RingCorrupt("the shared memory was not made by Ring.create")
        return ring

    @property
    def fds(self) -> tuple[int, int, int, int, int]:
        """What ``attach`` needs, in its order. An eventfd appears twice: it is read and written by one number."""
        return (self._memory_fd, *self._data_doorbell, *self._space_doorbell)

    @property
    def capacity(self) -> int:
        """Bytes of the record area."""
        return self._capacity

    def close(self) -> None:
        """Unmap and close. Views that read() gave out keep the mapping alive until they go; idempotent."""
        if self._memory_fd < 0:
            return
        _close_all((self._memory_fd, *self._data_doorbell, *self._space_doorbell))
        self._memory_fd = -1
        self._indices.release()
        self._words.release()
        with contextlib.suppress(BufferError):
            self._data.release()
            self._map.close()

    @property
    def written(self) -> int:
        """Bytes that the producer has written since the ring was made, headers and padding included."""
        return self._indices[_HEAD]

    # Producer

    @property
    def free(self) -> int:
        """Bytes not taken. A record takes its payload + 8, rounded up to 8; a wrap may waste up to one record more."""
        return self._capacity - (self._indices[_HEAD] - self._indices[_TAIL])

    def write_many(self, records: Iterable[Record]) -> int:
        """Append records until one does not fit, publish them together and wake the consumer if it may sleep.

        Each record is ``(tag, parts)``: the parts, flat byte buffers, are laid end to end; ``tag`` is below 0xFFFFFFFF.
        Returns how many were taken, always the first ones in order; the caller drops, keeps or counts the rest.
        Raises ValueError for a record above a quarter of the capacity, which might wait for a place for ever.
        """
        indices, data, words, mask, capacity = self._indices, self._data, self._words, self._mask, self._capacity
        start = head = indices[_HEAD]
        limit = indices[_TAIL] + capacity
        # The loads of the indices precede the stores below by control dependency, which every processor keeps.
        written = 0
        for tag, parts in records:
            length = 0
            for part in parts:
                length += len(part)
            room = (length + 15) & ~7
            offset = head & mask
            if offset + room > capacity:
                gap = capacity - offset
                if head + gap + room > limit:
                    self._check_size(room)
                    break
                words[offset >> 3] = PADDING_TAG | (gap - RECORD_HEADER) << 32
                head += gap
                offset = 0
            elif head + room > limit:
                self._check_size(room)
                break
            words[offset >> 3] = tag | length << 32
            offset += 8
            for part in parts:
                end = offset + len(part)
                data[offset:end] = part
                offset = end
            head += room
            written += 1
        if head != start:
            fence = self._fence
            fence.release()
            fence.acquire()
            indices[_HEAD] = head
            fence.release()
            fence.acquire()
            if indices[_SLEEPING]:
                # Clear before ringing: a consumer that goes back to sleep in between is woken once too often,
                # never once too seldom.
                indices[_SLEEPING] = 0
                _ring(self._data_doorbell[1])
        return written

    def _check_size(self, room: int) -> None:
        if room > self._capacity >> 2:
            raise ValueError(f"a record of {room} bytes is too large for a ring of {self._capacity}")

    @property
    def space_fd(self) -> int:
        """Readable when the consumer made room after ``prepare_wait`` said to wait."""
        return self._space_doorbell[0]

    def prepare_wait(self) -> bool:
        """Ask to be woken when there is room. False: half of the ring is free already, do not wait.

        Half a ring takes any legal record, wherever the wrap falls; the wake-up comes with the first room there is.
        """
        indices = self._indices
        indices[_WAITING] = 1
        self._fence.release()
        self._fence.acquire()
        if self._capacity - (indices[_HEAD] - indices[_TAIL]) >= self._capacity >> 1:
            indices[_WAITING] = 0
            return False
        return True

    def clear_space(self) -> None:
        """Silence ``space_fd`` after it woke the producer."""
        _silence(self._space_doorbell[0])

    # Consumer

    @property
    def data_fd(self) -> int:
        """Readable when the producer published after ``prepare_sleep`` said to sleep."""
        return self._data_doorbell[0]

    def read(self, limit: int = 1 << 20) -> list[tuple[int, memoryview]]:
        """The next records, as ``(tag, payload)``, at least one if there is any, stopping at about ``limit`` bytes.

        The payloads are views into the shared memory: they hold their bytes until ``release``. All of one call lie
        in one stretch of memory in rising order. Raises RingCorrupt.
        """
        indices = self._indices
        position = self._position
        available = indices[_HEAD] - position
        if not available:
            return []
        if not 0 < available <= self._capacity or available & 7:
            raise RingCorrupt(f"head lies {available} bytes beyond what was read")
        self._fence.release()
        self._fence.acquire()
        data, words, mask, capacity = self._data, self._words, self._mask, self._capacity
        offset = position & mask
        end = offset + available
        if end > capacity:
            end = capacity
        stop = offset + limit
        if stop > end:
            stop = end
        first = offset
        records: list[tuple[int, memoryview]] = []
        append = records.append
        while True:
            word = words[offset >> 3]
            length = word >> 32
            tag = word & 0xFFFFFFFF
            after = offset + 8 + length
            if after > end:
                raise RingCorrupt(f"a record of {length} bytes at {offset} runs past what was published")
            if tag == PADDING_TAG:
                if after != capacity:
                    raise RingCorrupt(f"padding at {offset} does not end at the end")
                self._position = position + capacity - first
                # Only padding was left before the end: go on at the front, so that "no records" means "empty".
                return records or self.read(limit)
            append((tag, data[offset + 8 : after]))
            offset = (after + 7) & ~7
            if offset >= stop:
                break
        self._position = position + offset - first
        return records

    def release(self) -> None:
        """Give the memory of everything read so far back to the producer, and wake it if it waits for room."""
        indices = self._indices
        if indices[_TAIL] == self._position:
            return
        fence = self._fence
        fence.release()
        fence.acquire()
        indices[_TAIL] = self._position
        fence.release()
        fence.acquire()
        if indices[_WAITING]:
            indices[_WAITING] = 0
            _ring(self._space_doorbell[1])

    def prepare_sleep(self) -> bool:
        """Announce that the consumer is about to wait on ``data_fd``. False: there is data, do not wait."""
        indices = self._indices
        if not indices[_SLEEPING]:
            indices[_SLEEPING] = 1
            self._fence.release()
            self._fence.acquire()
        if indices[_HEAD] != self._position:
            indices[_SLEEPING] = 0
            return False
        return True

    def clear_data(self) -> None:
        """Silence ``data_fd`` after it woke the consumer."""
        _silence(self._data_doorbell[0])


def _shared_memory(size: int) -> int:
    """A descriptor of ``size`` zero bytes that no name leads to."""
    fd = _nameless_file()
    try:
        os.ftruncate(fd, size)
    except OSError:
        os.close(fd)
        raise
    return fd


def _nameless_file() -> int:
    if hasattr(os, "memfd_create"):
        try:
            return os.memfd_create("ztnode-ring", os.MFD_CLOEXEC)
        except OSError as error:
            _raise_if_exhausted(error)
    import tempfile  # 0.6 MB with all that it loads, for hosts of another kind

    # Memory where there is some: what is in a ring need not go to a disk.
    shared = "/dev/shm" if os.access("/dev/shm", os.W_OK) else None
    fd, path = tempfile.mkstemp(prefix="ztnode-ring-", dir=shared)
    os.unlink(path)  # noqa: PTH108 - pathlib is 10 ms of import time that the worker does without
    return fd


def _raise_if_exhausted(error: OSError) -> None:
    """Whatever else it is, a filter of system calls or an old kernel refuses the call itself: there is another way."""
    if error.errno in (errno.EMFILE, errno.ENFILE, errno.ENOMEM):
        raise error


def _doorbell() -> tuple[int, int]:
    """(read end, write end), both non-blocking; one and the same eventfd on Linux."""
    if hasattr(os, "eventfd"):
        try:
            fd = os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK)
        except OSError as error:
            _raise_if_exhausted(error)
        else:
            return fd, fd
    read_end, write_end = os.pipe()
    os.set_blocking(read_end, False)
    os.set_blocking(write_end, False)
    return read_end, write_end


_ONE: Final = (1).to_bytes(8, "little" if memoryview(b"\1\0").cast("H")[0] == 1 else "big")


def _ring(fd: int) -> None:
    # A full pipe means that the bell has been rung; that the other side is gone its supervisor will notice.
    try:  # noqa: SIM105 - suppress() is three calls more for each frame
        os.write(fd, _ONE)
    except (BlockingIOError, BrokenPipeError):
        pass


def _silence(fd: int) -> None:
    try:  # noqa: SIM105 - as above
        os.read(fd, 4096)
    except BlockingIOError:
        pass


def _close_all(fds: Iterable[int]) -> None:
    for fd in set(fds):
        os.close(fd)
