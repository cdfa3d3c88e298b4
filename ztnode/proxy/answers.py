"""Where the answers of a server end (RFC 9112, section 6.3), so that what follows them reaches nobody.

A proxy's client may ask one server after the other on one connection. Whatever a server says beyond its answers the
client would take for the answer of whom it asks next.
"""

from __future__ import annotations

import re
from collections import deque
from typing import Final

from ztnode.proxy.http import HEAD_END, MAX_HEAD, REMEMBERED, BadRequest, Chunked, Length, parse_fields
from ztnode.wire.buffer import Buffer

MAX_OWED: Final = 256
"""Requests that a client may have sent ahead; to read more of them can wait for answers."""
_STATUS_LINE: Final = re.compile(rb"HTTP/1\.[01] ([1-9][0-9][0-9])(?: [^\x00\r\n]*)?")
_CODINGS: Final = b"transfer-encoding"
_LENGTHS: Final = b"content-length"


class AnswerStream:
    """The answers on one connection, which pass through as they come."""

    def __init__(self) -> None:
        self._owed: deque[bool] = deque()  # whether the head alone is the answer
        self._body: Length | Chunked | None = None
        # What has been passed on of a head, or of a chunk's, that is not whole yet.
        self._partial = b""
        self._to_the_end = False
        # The last head that said how long its answer is, and how long that was, head and all.
        self._head = b""
        self._length = -1

    def expect(self, request: bytes) -> None:
        """A request, as it begins, has gone to the server."""
        self._owed.append(request.startswith(b"HEAD "))

    def expect_anything(self) -> None:
        """What follows is another protocol's, or cannot be told apart: it belongs to the client to the very end."""
        self._to_the_end = True
        self._partial = b""

    @property
    def owed(self) -> int:
        """How many answers are to come, the one under way included."""
        return max(1, len(self._owed)) if self._to_the_end else len(self._owed)

    @property
    def under_way(self) -> bool:
        """Whether an answer has begun and not ended."""
        return self._to_the_end or self._body is not None or bool(self._partial)

    def measure(self, data: Buffer) -> int:
        """How many bytes of ``data``, which came next, belong to answers that are owed."""
        if self._to_the_end:
            return len(data)
        left = self._length - len(data)
        if left >= 0 and self._begins_like_the_last(data):
            if left:
                self._body = Length(left)
            else:
                self._owed.popleft()
            return len(data)
        if isinstance(self._body, Length) and self._body.left >= len(data):
            return self._end(self._body, self._body.measure(data))  # as most are: without a look at it
        before = len(self._partial)
        rest = bytearray(self._partial)
        rest += data
        self._partial = b""
        whole = len(rest)
        while rest and self._owed and not self._to_the_end:
            taken = self._take(rest)
            if not taken:
                self._partial = bytes(rest)
                return len(data)
            del rest[:taken]
        return len(data) if self._to_the_end else whole - len(rest) - before

    def _begins_like_the_last(self, data: Buffer) -> bool:
        """Whether ``data`` begins an answer with a head that need not be taken apart again."""
        if self._body is not None or self._partial or not self._owed or self._owed[0]:
            return False
        return bytes(data[: len(self._head)]) == self._head

    def _take(self, data: bytearray) -> int:
        try:
            return self._take_head(data) if self._body is None else self._end(self._body, self._body.measure(data))
        except BadRequest:  # what this is the client may know
            self.expect_anything()
            return len(data)

    def _end(self, body: Length | Chunked, taken: int) -> int:
        if body.done:
            self._body = None
            self._owed.popleft()
        return taken

    def _take_head(self, data: bytearray) -> int:
        end = data.find(HEAD_END, 0, MAX_HEAD)
        if end < 0:
            if len(data) >= MAX_HEAD:
                self.expect_anything()
            return 0
        head = bytes(data[: end + len(HEAD_END)])
        line, _, block = head[:end].partition(b"\r\n")
        status = _STATUS_LINE.fullmatch(line)
        if status is None or status[1] == b"101":
            self.expect_anything()
        elif not status[1].startswith(b"1"):
            self._begin(head, status[1], parse_fields(block))
        return len(head)

    def _begin(self, head: bytes, status: bytes, fields: tuple[tuple[bytes, bytes], ...]) -> None:
        codings = [value.lower() for name, value in fields if name.lower() == _CODINGS]
        lengths = {value for name, value in fields if name.lower() == _LENGTHS}
        if self._owed[0] or status in (b"204", b"304"):
            self._owed.popleft()
        elif codings == [b"chunked"] and not lengths:
            self._body = Chunked()
        elif codings or len(lengths) != 1 or not (text := lengths.pop()).isdigit() or len(text) > 18:
            self.expect_anything()  # the end of the connection is that of the answer
        else:
            length = int(text)
            if len(head) <= REMEMBERED:
                self._head, self._length = head, len(head) + length
            if length:
                self._body = Length(length)
            else:
                self._owed.popleft()
