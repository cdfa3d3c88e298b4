"""Packets of one form sealed and cut, joined and opened together, by numpy: each is a row of a matrix.

The bytes are the same as of ``aes_gmac_siv`` and ``fragment``, packet by packet. What a packet costs there is less AES
than the Python around it; here the tags of all rows are one call, their key streams another (CTR is AES of a counter),
headers and pieces are columns, and GMAC alone is called for each. With a few dozen packets that takes two thirds of
the time, and with a few it takes longer: a call of numpy costs a microsecond. Who moves no data does without
(``checksum.use_numpy``).

A row is what GMAC reads: destination, source and flags, five zeros, and from column 16 on the plaintext.
"""

from __future__ import annotations

import struct
from collections.abc import Sequence
from typing import TYPE_CHECKING, Final, TypeAlias

import numpy as np
import numpy.typing as npt

from ztnode.wire.aes_gmac_siv import AAD_PADDING, NONCE_PADDING, AesGmacSiv
from ztnode.wire.fragment import INDICATOR, OFFSET_DATA, OFFSET_HOPS, OFFSET_INDICATOR, SECOND_OF_TWO
from ztnode.wire.packet import (
    MAX_PACKET_LENGTH,
    MIN_PACKET_LENGTH,
    OFFSET_DESTINATION,
    OFFSET_MAC,
    OFFSET_SOURCE,
    OFFSET_VERB,
)

if TYPE_CHECKING:
    from ztnode.wire.buffer import Buffer

Matrix: TypeAlias = npt.NDArray[np.uint8]
TEXT: Final = 16
"""The column of a row in which the plaintext begins."""
_BLOCK: Final = 16
_IDS: Final = (1 << 64) - 1
_WORD: Final = np.dtype(">u8")
_NO_TOP_BIT: Final = np.uint64(~(1 << 31) & 0xFFFFFFFFFFFFFFFF)
"""Of the 32-bit counter at the end of the tag: so it cannot carry into the nonce."""
_NUMBERS: Final = np.arange(-(-MAX_PACKET_LENGTH // _BLOCK), dtype=np.uint64)
_SECOND: Final = bytes((INDICATOR, SECOND_OF_TWO, 0))


def matrix(memory: Buffer, rows: int) -> Matrix:
    """Memory as so many rows; what is written there later shows."""
    return np.frombuffer(memory, np.uint8).reshape(rows, -1)


def joined(runs: Sequence[Buffer], size: int) -> Matrix:
    """A copy of runs of datagrams of ``size`` bytes, a datagram in each row."""
    return np.concatenate([np.frombuffer(run, np.uint8) for run in runs]).reshape(-1, size)


def piece(length: int, mtu: int) -> int:
    """Bytes of each datagram where a packet of ``length`` plaintext bytes becomes one, or two of one size; else 0."""
    whole = OFFSET_VERB + length
    if whole <= mtu:
        return whole
    size, odd = divmod(whole + OFFSET_DATA, 2)
    return 0 if odd or size > mtu else size


def seal(cipher: AesGmacSiv, packet_id: int, padded: Buffer, count: int, size: int) -> memoryview:
    """The datagrams of ``count`` packets, whose ids begin with ``packet_id``, one behind the other; each has ``size``
    bytes, as ``piece`` gives it. ``padded``: the rows."""
    rows = np.frombuffer(padded, np.uint8).reshape(count, -1)
    ids = _pack_ids(packet_id, count)
    blocks = np.empty((count, 2), np.uint64)
    blocks[:, 0] = np.frombuffer(ids, np.uint64)
    blocks[:, 1] = _macs(cipher, ids, padded, count)
    tags = np.frombuffer(cipher.encrypt_blocks(blocks.tobytes()), np.uint8).reshape(count, _BLOCK)
    length = rows.shape[1] - TEXT
    stream = _key_streams(cipher, tags, length)
    in_head = size - OFFSET_VERB
    out = np.empty((count, size if in_head == length else 2 * size), np.uint8)
    out[:, :OFFSET_DESTINATION] = tags[:, :OFFSET_DESTINATION]
    out[:, OFFSET_DESTINATION:OFFSET_MAC] = rows[:, : OFFSET_MAC - OFFSET_DESTINATION]
    out[:, OFFSET_MAC:OFFSET_VERB] = tags[:, OFFSET_DESTINATION:]
    np.bitwise_xor(rows[:, TEXT : TEXT + in_head], stream[:, :in_head], out=out[:, OFFSET_VERB:size])
    if in_head < length:
        second = out[:, size:]
        second[:, :OFFSET_SOURCE] = out[:, :OFFSET_SOURCE]
        second[:, OFFSET_INDICATOR:OFFSET_DATA] = np.frombuffer(_SECOND, np.uint8)
        np.bitwise_xor(rows[:, TEXT + in_head :], stream[:, in_head:length], out=second[:, OFFSET_DATA:])
    return out.reshape(-1).data


def gather(slots: Matrix, lengths: Sequence[int], whole: bytes, head: bytes) -> tuple[Matrix, Matrix] | None:
    """(tags, rows with the ciphertext) of packets of one form, each in one datagram or in two that follow each other.

    ``slots``: a datagram in each row, of which ``lengths`` (two at least) says how long it is. ``whole``, ``head``: the
    11 bytes that stand behind the id of a packet in one datagram, and of one in two, if it is to be taken. None where
    something else is among them, or they are not of one length.
    """
    first, second = lengths[:2]
    halves = bool(slots[1, OFFSET_INDICATOR] == INDICATOR)
    if halves:
        heads, seconds = slots[::2], slots[1::2]
        count = len(heads)
        length = first + second - OFFSET_DATA
        if (
            len(seconds) != count
            or second <= OFFSET_DATA
            or lengths[::2].count(first) != count
            or lengths[1::2].count(second) != count
            or heads[:, :OFFSET_SOURCE].tobytes() != seconds[:, :OFFSET_SOURCE].tobytes()
            or seconds[:, OFFSET_INDICATOR:OFFSET_HOPS].tobytes() != _SECOND[:2] * count
        ):
            return None
    else:
        heads, count, length = slots, len(slots), first
        if lengths.count(first) != count:
            return None
    constant = head if halves else whole
    if (
        not MIN_PACKET_LENGTH <= length <= MAX_PACKET_LENGTH
        or first < MIN_PACKET_LENGTH
        or heads[:, OFFSET_DESTINATION:OFFSET_MAC].tobytes() != constant * count
    ):
        return None
    rows = np.empty((count, TEXT + length - OFFSET_VERB), np.uint8)
    rows[:, :TEXT] = np.frombuffer(row_head(constant), np.uint8)
    in_head = TEXT + first - OFFSET_VERB
    rows[:, TEXT:in_head] = heads[:, OFFSET_VERB:first]
    if halves:
        rows[:, in_head:] = seconds[:, OFFSET_DATA:second]
    tags = np.empty((count, _BLOCK), np.uint8)
    tags[:, :OFFSET_DESTINATION] = heads[:, :OFFSET_DESTINATION]
    tags[:, OFFSET_DESTINATION:] = heads[:, OFFSET_MAC:OFFSET_VERB]
    return tags, rows


def open_rows(cipher: AesGmacSiv, tags: Matrix, rows: Matrix) -> list[bool]:
    """Decrypt in place what ``gather`` gave; of each row whether it was sealed with these keys."""
    count, width = rows.shape
    mixed = np.frombuffer(cipher.decrypt_blocks(tags.tobytes()), np.uint64).reshape(count, 2)
    text = rows[:, TEXT:]
    np.bitwise_xor(text, _key_streams(cipher, tags, width - TEXT)[:, : width - TEXT], out=text)
    good: list[bool] = (_macs(cipher, mixed[:, 0].tobytes(), rows.reshape(-1).data, count) == mixed[:, 1]).tolist()
    return good


def ids_of(tags: Matrix) -> list[bytes]:
    """The packet ids."""
    ids = tags[:, :OFFSET_DESTINATION].tobytes()
    return [ids[start : start + OFFSET_DESTINATION] for start in range(0, len(ids), OFFSET_DESTINATION)]


def beginnings(rows: Matrix, length: int, taken: Sequence[int]) -> set[bytes]:
    """What the plaintexts of the rows ``taken`` begin with."""
    text = rows[:, TEXT : TEXT + length].tobytes()
    return {text[number * length : (number + 1) * length] for number in taken}


def frames(rows: Matrix, column: int, before: bytes, taken: Sequence[int]) -> list[memoryview]:
    """The plaintexts of the rows ``taken``, from ``column`` of the plaintext on, with ``before`` put before it."""
    width = rows.shape[1]
    start = TEXT + column - len(before)
    rows[:, start : TEXT + column] = np.frombuffer(before, np.uint8)
    view = memoryview(rows.reshape(-1).data).toreadonly()
    return [view[number * width + start : (number + 1) * width] for number in taken]


def row_head(associated: bytes) -> bytes:
    """What stands before the plaintext in a row; ``associated``: destination, source and flags, without hops."""
    return associated + AAD_PADDING


def _pack_ids(first: int, count: int) -> bytes:
    """The ids from ``first`` on, 8 bytes each."""
    return struct.pack(f">{count}Q", *[number & _IDS for number in range(first, first + count)])


def _macs(cipher: AesGmacSiv, ids: bytes, padded: Buffer, count: int) -> npt.NDArray[np.uint64]:
    """The two halves of each row's GMAC, combined, as they lie in memory."""
    view, width, gmac = memoryview(padded), len(padded) // count, cipher.gmac
    starts = zip(range(0, len(ids), 8), range(0, len(padded), width), strict=True)
    macs = b"".join([gmac(ids[at : at + 8] + NONCE_PADDING, b"", view[row : row + width]) for at, row in starts])
    halves = np.frombuffer(macs, np.uint64).reshape(count, 2)
    return np.bitwise_xor(halves[:, 0], halves[:, 1])


def _key_streams(cipher: AesGmacSiv, tags: Matrix, length: int) -> Matrix:
    """For each tag ``length`` bytes or a few more of AES-CTR, whose counter it is."""
    blocks = -(-length // _BLOCK)
    words = tags.view(_WORD)
    low = words[:, 1].astype(np.uint64)
    low &= _NO_TOP_BIT
    last = low[:, np.newaxis] + _NUMBERS[:blocks]
    counters = np.empty((len(tags), blocks, 2), _WORD)
    counters[:, :, 0] = words[:, :1]
    counters[:, :, 1] = last.astype(_WORD)
    return np.frombuffer(cipher.encrypt_blocks(counters.reshape(-1).view(np.uint8).data), np.uint8).reshape(
        len(tags), -1
    )
