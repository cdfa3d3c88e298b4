"""Many datagrams by one system call: recvmmsg(2), which Python's socket module does not have.

Datagrams of unequal size, as a peer's fragments are, come one by one: the kernel coalesces only what is equally long
(UDP_GRO). The C library's function is called by ctypes, on structures that are laid out once.
"""

from __future__ import annotations

import contextlib
import ctypes
import mmap
import os
import socket
import struct
import sys
from collections.abc import Callable
from typing import Final

from ztnode.wire.endpoint import Endpoint

SLOTS: Final = 128
"""Datagrams, or coalesced runs of them, of one call: enough to make a batch of frames in two pieces pay."""
SLOT_BYTES: Final = 1 << 16
"""What UDP_GRO coalesces at most. Of a slot that holds one datagram, one page is ever touched."""
CONTROL_BYTES: Final = socket.CMSG_SPACE(4)
"""For the size of the datagrams in a coalesced run."""
NAME_BYTES: Final = 28
"""sockaddr_in6; sockaddr_in is shorter."""
MAX_NAMES: Final = 4096
"""Socket addresses whose readable form is remembered."""
_SIZE_AT: Final = socket.CMSG_LEN(0)
_INT: Final = struct.Struct("=i")
_PORT: Final = struct.Struct("!H")


class _IoVector(ctypes.Structure):
    _fields_ = (("base", ctypes.c_void_p), ("length", ctypes.c_size_t))


class _Message(ctypes.Structure):
    """struct msghdr of recvmsg(2)."""

    _fields_ = (
        ("name", ctypes.c_void_p),
        ("name_length", ctypes.c_uint32),
        ("vector", ctypes.c_void_p),
        ("vector_length", ctypes.c_size_t),
        ("control", ctypes.c_void_p),
        ("control_length", ctypes.c_size_t),
        ("flags", ctypes.c_int),
    )


class _Header(ctypes.Structure):
    """struct mmsghdr of recvmmsg(2)."""

    _fields_ = (("message", _Message), ("length", ctypes.c_uint32))


class ManyDatagrams:
    """Memory for one call, used again by the next: what ``read`` returns are copies."""

    def __init__(self) -> None:
        """Raises OSError where there is no such call, or a filter of system calls refuses it."""
        if sys.platform != "linux" or ctypes.sizeof(ctypes.c_void_p) != 8:  # the views below are of 64-bit structures
            raise OSError("recvmmsg is used on 64-bit Linux alone")
        try:
            self._recvmmsg = ctypes.CDLL(None, use_errno=True).recvmmsg
        except AttributeError as error:
            raise OSError("the C library has no recvmmsg") from error
        self._recvmmsg.argtypes = (ctypes.c_int, ctypes.c_void_p, ctypes.c_uint, ctypes.c_int, ctypes.c_void_p)
        # Pages of a mapping that nothing was written to take no memory.
        data = (ctypes.c_char * (SLOTS * SLOT_BYTES)).from_buffer(mmap.mmap(-1, SLOTS * SLOT_BYTES))
        names, control = (ctypes.create_string_buffer(SLOTS * size) for size in (NAME_BYTES, CONTROL_BYTES))
        vectors, headers = (_IoVector * SLOTS)(), (_Header * SLOTS)()
        for slot in range(SLOTS):
            vectors[slot].base, vectors[slot].length = ctypes.addressof(data) + slot * SLOT_BYTES, SLOT_BYTES
            header = headers[slot].message
            header.name, header.name_length = ctypes.addressof(names) + slot * NAME_BYTES, NAME_BYTES
            header.vector, header.vector_length = ctypes.addressof(vectors[slot]), 1
            header.control = ctypes.addressof(control) + slot * CONTROL_BYTES
            header.control_length = CONTROL_BYTES
        self._kept = vectors  # the headers point to it
        self._headers = memoryview(headers).cast("B")
        self._address = ctypes.addressof(headers)
        self._pristine = bytes(self._headers)
        self._first = self._headers[: ctypes.sizeof(_Header)]
        self._pristine_first = bytes(self._first)
        self._lengths = self._headers.cast("I")[_Header.length.offset // 4 :: ctypes.sizeof(_Header) // 4]
        self.coalesced = self._headers.cast("Q")[_Message.control_length.offset // 8 :: ctypes.sizeof(_Header) // 8]
        """By slot: zero for what is one datagram."""
        self._data, self._names, self._control = (memoryview(each).cast("B") for each in (data, names, control))
        self.slots = self._data
        """Memory of ``SLOTS`` datagrams, ``SLOT_BYTES`` apart."""
        self._filled = 0
        self._endpoints: dict[bytes, Endpoint] = {}
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as probe, contextlib.suppress(BlockingIOError):
            self.read(probe.fileno(), lambda _datagram: None)

    def read(self, descriptor: int, add: Callable[[tuple[bytes, Endpoint]], object]) -> int:
        """Hand each datagram to ``add`` with where it came from. How many slots were filled: fewer than ``SLOTS`` when
        there was no more. Raises OSError, of which BlockingIOError says that there was nothing."""
        count = self._receive(descriptor)
        if count < 0:
            number = ctypes.get_errno()
            raise OSError(number, os.strerror(number))
        self._copy(count, add)
        return count

    def fill(self, descriptor: int) -> int:
        """Read a socket that is connected; what came lies in ``slots`` until the next call. How many were filled: 0 if
        there was nothing, or an ICMP error of an earlier datagram is what there was to read."""
        return max(self._receive(descriptor), 0)

    def lengths(self) -> list[int]:
        """Of the datagrams in ``slots``, bytes; none where some of them were coalesced."""
        return [] if any(self.coalesced[: self._filled].tolist()) else self._lengths[: self._filled].tolist()

    def run_size(self, least: int) -> int:
        """The size of the datagrams in the slots that were filled, if they are ``least`` or more, all of one size, and
        the first were coalesced; else 0."""
        lengths, runs = self._lengths[: self._filled].tolist(), self.coalesced[: self._filled].tolist()
        size = self._size(0) if runs and runs[0] else 0
        if not size or sum(lengths) < least * size or any(length % size for length in lengths):
            return 0
        same = all((self._size(slot) if runs[slot] else length) == size for slot, length in enumerate(lengths))
        return size if same else 0

    def filled(self) -> list[memoryview]:
        """What lies in the slots that were filled."""
        data, lengths = self._data, self._lengths[: self._filled].tolist()
        return [data[slot * SLOT_BYTES : slot * SLOT_BYTES + length] for slot, length in enumerate(lengths)]

    def copies(self, start: int = 0, end: int = SLOTS) -> list[bytes]:
        """The datagrams of the slots that were filled, or some of them."""
        data = self._data
        if self._filled == 1 and not self.coalesced[0]:  # as most that carry a small request
            return [data[: self._lengths[0]].tobytes()][start:end]
        end = min(end, self._filled)
        datagrams: list[bytes] = []
        lengths, runs = self._lengths[start:end].tolist(), self.coalesced[start:end].tolist()
        for slot, length, coalesced in zip(range(start, end), lengths, runs, strict=True):
            at = slot * SLOT_BYTES
            if coalesced:
                size = self._size(slot)
                ends = at + length
                datagrams += [data[first : min(first + size, ends)].tobytes() for first in range(at, ends, size)]
            else:
                datagrams.append(data[at : at + length].tobytes())
        return datagrams

    def _receive(self, descriptor: int) -> int:
        """What recvmmsg returns."""
        # The kernel wrote into as many headers the last time.
        if self._filled == 1:
            self._first[:] = self._pristine_first
        elif self._filled:
            self._headers[:] = self._pristine
        count: int = self._recvmmsg(descriptor, self._address, SLOTS, socket.MSG_DONTWAIT, None)
        self._filled = max(count, 0)
        return count

    def _size(self, slot: int) -> int:
        """Bytes of each datagram in a coalesced run, the last excepted."""
        size: int = _INT.unpack_from(self._control, slot * CONTROL_BYTES + _SIZE_AT)[0]
        return size

    def _copy(self, count: int, add: Callable[[tuple[bytes, Endpoint]], object]) -> None:
        data, names, endpoints = self._data, self._names, self._endpoints
        if count == 1 and not self.coalesced[0]:  # as most that carry a small request
            name = names[:NAME_BYTES].tobytes()
            add((data[: self._lengths[0]].tobytes(), endpoints.get(name) or self._endpoint(name)))
            return
        start = name_at = 0
        for length, coalesced in zip(self._lengths[:count].tolist(), self.coalesced[:count].tolist(), strict=True):
            name = names[name_at : name_at + NAME_BYTES].tobytes()
            endpoint = endpoints.get(name) or self._endpoint(name)
            end = start + length
            if coalesced:
                size = self._size(name_at // NAME_BYTES)
                for first in range(start, end, size):
                    add((data[first : min(first + size, end)].tobytes(), endpoint))
            else:
                add((data[start:end].tobytes(), endpoint))
            start += SLOT_BYTES
            name_at += NAME_BYTES

    def _endpoint(self, name: bytes) -> Endpoint:
        """The readable form of a sockaddr_in or sockaddr_in6, as the socket module has it."""
        (port,) = _PORT.unpack_from(name, 2)
        if int.from_bytes(name[:2], sys.byteorder) == socket.AF_INET6:
            (scope,) = _INT.unpack_from(name, 24)
            host = socket.inet_ntop(socket.AF_INET6, name[8:24])
            if scope:
                host = socket.getnameinfo((host, port, 0, scope), socket.NI_NUMERICHOST | socket.NI_NUMERICSERV)[0]
        else:
            host = socket.inet_ntop(socket.AF_INET, name[4:8])
        endpoint = host, port
        if len(self._endpoints) >= MAX_NAMES:
            self._endpoints.clear()
        self._endpoints[name] = endpoint
        return endpoint
