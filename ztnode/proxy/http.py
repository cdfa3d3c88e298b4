"""What a proxy reads of requests in HTTP/1.1: CONNECT (RFC 9110, section 9.3.6) and requests in absolute form (RFC
9112, section 3.2.2), one after the other on one connection, each for whichever host it names.

Requests are read as far as needed to know where the next one begins: a message whose length two readers could see
differently is refused (RFC 9112, section 6.3), for that is how requests are smuggled. ``ztnode.proxy.answers`` reads
where answers end.
"""

from __future__ import annotations

import base64
import binascii
import functools
import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

from ztnode.proxy.request import BadHandshake, CheckPassword, Command, Refusal, Request, checked_host
from ztnode.wire.buffer import Buffer

MAX_HEAD: Final = 64 * 1024
"""Bytes of a request line and its fields."""
_MAX_CHUNK_LINE: Final = 1024
REMEMBERED: Final = 1024
"""A client says the same fields again and again; blocks of so many bytes are remembered, a few dozen of them."""
HEAD_END: Final = b"\r\n\r\n"
_REQUEST_LINE: Final = re.compile(rb"([!#$%&'*+.^_`|~0-9A-Za-z-]+) ([\x21-\x7e]+) (HTTP/1\.[01])")
_FIELD: Final = re.compile(rb"([!#$%&'*+.^_`|~0-9A-Za-z-]+):[ \t]*([^\x00-\x08\x0a-\x1f\x7f]*)")
_ABSOLUTE: Final = re.compile(rb"(?i:http)://([^/?#@]*)(/[^#]*|\?[^#]*|)")
_AUTHORITY: Final = re.compile(r"(?:\[([0-9A-Fa-f:.]+)\]|([^\[\]:]+))(?::([0-9]{0,5}))?")
_CHUNK_LINE: Final = re.compile(rb"([0-9A-Fa-f]{1,15})[ \t]*(?:;[^\x00-\x08\x0a-\x1f\x7f]*)?")
_FOR_THE_PROXY: Final = frozenset(
    (b"proxy-connection", b"proxy-authorization", b"proxy-authenticate", b"keep-alive", b"host", b"te")
)
_STATUS: Final = {
    Refusal.GENERAL: (502, "Bad Gateway"),
    Refusal.NOT_ALLOWED: (403, "Forbidden"),
    Refusal.NETWORK_UNREACHABLE: (502, "Bad Gateway"),
    Refusal.HOST_UNREACHABLE: (502, "Bad Gateway"),
    Refusal.REFUSED: (502, "Bad Gateway"),
    Refusal.TIMED_OUT: (504, "Gateway Timeout"),
    Refusal.UNSUPPORTED_COMMAND: (501, "Not Implemented"),
    Refusal.UNSUPPORTED_ADDRESS: (501, "Not Implemented"),
}


class BadRequest(BadHandshake):
    """A request that gets an answer of its own: ``answer`` is that answer, whole."""

    def __init__(self, status: int, reason: str, detail: str, *fields: str) -> None:
        super().__init__(detail)
        self.answer = build_answer(status, reason, detail, *fields)


def build_answer(status: int, reason: str, detail: str, *fields: str) -> bytes:
    """An answer of the proxy itself, after which the connection ends."""
    body = f"ztnode: {detail}\n".encode()
    head = [
        f"HTTP/1.1 {status} {reason}",
        *fields,
        "Content-Type: text/plain; charset=utf-8",
        f"Content-Length: {len(body)}",
        "Connection: close",
    ]
    return "\r\n".join(head).encode("ascii") + HEAD_END + body


@dataclass(frozen=True, slots=True)
class Head:
    """A request as it arrived. ``length``: bytes, the empty line included; ``fields`` with their names as written."""

    method: bytes
    target: bytes
    version: bytes
    fields: tuple[tuple[bytes, bytes], ...]
    length: int

    def values(self, name: bytes) -> list[bytes]:
        """All values of the field ``name`` (lower case)."""
        return [value for key, value in self.fields if key.lower() == name]

    def tokens(self, name: bytes) -> list[bytes]:
        """The comma-separated values of a field, in lower case."""
        return [token.strip().lower() for value in self.values(name) for token in value.split(b",") if token.strip()]


def parse_head(data: bytes | bytearray | memoryview) -> Head | None:
    """The request head that ``data`` begins with; None while it has not ended. Raises BadRequest."""
    text = bytes(data[: MAX_HEAD + len(HEAD_END)])
    end = text.find(HEAD_END)
    if end < 0:
        if len(text) > MAX_HEAD:
            raise BadRequest(431, "Request Header Fields Too Large", f"a head longer than {MAX_HEAD} bytes")
        return None
    line, _, block = text[:end].partition(b"\r\n")
    request = _REQUEST_LINE.fullmatch(line)
    if request is None:
        raise BadRequest(400, "Bad Request", "not an HTTP/1.1 request line")
    fields = parse_fields(block) if len(block) <= REMEMBERED else parse_fields.__wrapped__(block)
    return Head(request[1], request[2], request[3], fields, end + len(HEAD_END))


@functools.lru_cache(64)
def parse_fields(block: bytes) -> tuple[tuple[bytes, bytes], ...]:
    """Names, as written, and values of the lines of a head after its first. Raises BadRequest."""
    fields = []
    for line in block.split(b"\r\n") if block else ():
        field = _FIELD.fullmatch(line)
        if field is None:
            raise BadRequest(400, "Bad Request", "a header line that is not one")
        fields.append((field[1], field[2].rstrip(b" \t")))
    return tuple(fields)


@functools.lru_cache(256)
def parse_authority(text: str, default_port: int | None) -> tuple[str, int]:
    """``host:port`` with IPv6 addresses in brackets; an empty port is the default one (RFC 3986, section 6.2.3). Raises
    BadRequest."""
    match = _AUTHORITY.fullmatch(text)
    port = int(match[3]) if match is not None and match[3] else default_port
    if match is None or port is None or not 0 < port < 65536:
        raise BadRequest(400, "Bad Request", "not a host and a port")
    try:
        return checked_host(match[1] or match[2]), port
    except BadHandshake as error:
        raise BadRequest(400, "Bad Request", str(error)) from None


def check_authorization(head: Head, check_password: CheckPassword | None) -> tuple[str, str] | None:
    """The name and the password in ``Proxy-Authorization`` (RFC 7617) that are right; None where none are needed.
    Raises BadRequest with a challenge."""
    if check_password is None:
        return None
    for value in head.values(b"proxy-authorization"):
        scheme, _, credentials = value.partition(b" ")
        if scheme.lower() != b"basic":
            continue
        try:
            name, separator, password = base64.b64decode(credentials.strip(), validate=True).decode().partition(":")
        except (binascii.Error, UnicodeDecodeError):
            continue
        if separator and check_password(name, password):
            return name, password
    challenge = 'Proxy-Authenticate: Basic realm="ztnode", charset="UTF-8"'
    raise BadRequest(407, "Proxy Authentication Required", "this proxy wants a user name and a password", challenge)


class HttpHandshake:
    """The first request on a connection."""

    def __init__(self, check_password: CheckPassword | None) -> None:
        self._check_password = check_password
        self.request: Request | None = None
        self.refused: Refusal | None = None

    def step(self, data: bytes) -> tuple[int, bytes]:
        """How many bytes of ``data`` were understood (0: more are needed, or it is a request to fetch: then
        ``RequestStream`` gets them), and what to answer. Raises BadRequest."""
        head = parse_head(data)
        if head is None:
            return 0, b""
        check_authorization(head, self._check_password)
        if head.method != b"CONNECT":
            self.request = target_of(head)
            return 0, b""
        if head.values(b"content-length") or head.values(b"transfer-encoding"):
            raise BadRequest(400, "Bad Request", "CONNECT has no body")
        self.request = Request(Command.CONNECT, *parse_authority(head.target.decode("ascii"), None))
        return head.length, b""

    def succeeded(self, host: str, port: int) -> bytes:
        """The answer to CONNECT that was fulfilled; a fetched resource answers for itself."""
        del host, port
        if self.request is not None and self.request.command is Command.FETCH:
            return b""
        return b"HTTP/1.1 200 Connection established\r\n\r\n"

    def failed(self, failure: Refusal) -> bytes:
        """The answer to a request that was not fulfilled."""
        status, reason = _STATUS[failure]
        return build_answer(status, reason, failure.value)


def target_of(head: Head) -> Request:
    """Whom a request in absolute form is for. Raises BadRequest for whatever ``RequestStream`` would not pass on: what
    one reader sends back and the other takes again would go round for ever."""
    if head.method == b"CONNECT":
        raise BadRequest(400, "Bad Request", "CONNECT wants a host and a port, and nothing else")
    request = _split_target(head.target)[0]
    _pass(head)
    return request


def _split_target(target: bytes) -> tuple[Request, bytes, bytes]:
    """Whom it is for, and the authority and the path as the server gets them. Raises BadRequest."""
    return (_split_short_target if len(target) <= REMEMBERED else _split_short_target.__wrapped__)(target)


@functools.lru_cache(64)
def _split_short_target(target: bytes) -> tuple[Request, bytes, bytes]:
    match = _ABSOLUTE.fullmatch(target.partition(b"#")[0])
    if match is None:
        raise BadRequest(400, "Bad Request", "this is a proxy: it wants CONNECT, or GET http://host/ in full")
    request = Request(Command.FETCH, *parse_authority(match[1].decode("ascii"), 80))
    return request, match[1], match[2] if match[2].startswith(b"/") else b"/" + match[2]


class Length:
    """A body of known length."""

    def __init__(self, length: int) -> None:
        self.left = length

    def measure(self, data: bytearray | Buffer) -> int:
        """How many bytes of ``data`` belong to the body."""
        taken = min(self.left, len(data))
        self.left -= taken
        return taken

    @property
    def done(self) -> bool:
        """Whether that was all of it."""
        return not self.left


class Chunked:
    """A chunked body (RFC 9112, section 7.1) with its trailers, which pass through as they are."""

    def __init__(self) -> None:
        self._chunk = 0
        self._within = False
        """Whether the line end after a chunk's data is to come."""
        self._last = False
        self.done = False

    def measure(self, data: bytearray) -> int:
        """How many bytes of ``data`` belong to the body. Raises BadRequest."""
        position = 0
        while not self.done:
            taken = min(self._chunk, len(data) - position)
            position += taken
            self._chunk -= taken
            if self._chunk:
                break
            end = data.find(b"\r\n", position, position + _MAX_CHUNK_LINE)
            if end < 0:
                if len(data) - position >= _MAX_CHUNK_LINE:
                    raise BadRequest(400, "Bad Request", "a chunk's head longer than 1,024 bytes")
                break
            line = bytes(data[position:end])
            if self._within:
                self._end_chunk(line)
            elif self._last:
                self._end_trailer(line)
            else:
                self._begin_chunk(line)
            position = end + 2
        return position

    def _begin_chunk(self, line: bytes) -> None:
        size = _CHUNK_LINE.fullmatch(line)
        if size is None:
            raise BadRequest(400, "Bad Request", "a chunk without a size")
        self._chunk = int(size[1], 16)
        self._last = not self._chunk
        self._within = not self._last

    def _end_chunk(self, line: bytes) -> None:
        # Readers that take a line feed alone for the end of a line would see the next chunk begin elsewhere.
        if line:
            raise BadRequest(400, "Bad Request", "a chunk that is longer than its size")
        self._within = False

    def _end_trailer(self, line: bytes) -> None:
        if line and not _FIELD.fullmatch(line):
            raise BadRequest(400, "Bad Request", "a trailer that is no header line")
        self.done = not line


def _body_of(head: Head) -> int | None:
    """How many bytes of body a request has (RFC 9112, section 6.3); None: it comes in chunks. Raises BadRequest."""
    lengths = head.values(b"content-length")
    codings = head.tokens(b"transfer-encoding")
    if codings:
        if lengths or head.version == b"HTTP/1.0":
            raise BadRequest(400, "Bad Request", "two notions of where the request ends")
        if codings != [b"chunked"]:
            raise BadRequest(501, "Not Implemented", "a transfer coding other than chunked")
        return None
    if not lengths:
        return 0
    if len(lengths) > 1 or not lengths[0].isdigit() or len(lengths[0]) > 18:
        raise BadRequest(400, "Bad Request", "not one length")
    return int(lengths[0])


@dataclass(frozen=True, slots=True)
class _Passed:
    """What the fields of a request come to. ``lines``: those for the server, after Host; ``body`` as ``_body_of`` has
    it; ``upgrade``: what follows is another protocol."""

    lines: bytes
    body: int | None
    upgrade: bool


def _pass(head: Head) -> _Passed:
    """The fields without what was meant for the proxy (RFC 9110, section 7.6.1). Raises BadRequest."""
    named = set(head.tokens(b"connection"))
    # A server that takes no h2c goes on as before, for any client that asks next: not one that has the connection.
    upgrade = b"upgrade" in named and bool(head.values(b"upgrade")) and b"h2c" not in head.tokens(b"upgrade")
    dropped = (_FOR_THE_PROXY | named) - {b"close", b"keep-alive", b"upgrade", b"content-length", b"transfer-encoding"}
    lines = []
    for name, value in head.fields:
        key = name.lower()
        if key not in dropped and key != b"connection" and (upgrade or key != b"upgrade"):
            lines.append(name + b": " + value)
    lines.extend(b"Connection: " + option for option in (b"close",) if option in named)
    if upgrade:
        lines.append(b"Connection: upgrade")
    if b"keep-alive" in named and head.version == b"HTTP/1.0":
        lines.append(b"Connection: keep-alive")
    lines.append(b"Via: " + head.version.removeprefix(b"HTTP/") + b" ztnode")
    return _Passed(b"\r\n".join(lines) + HEAD_END, _body_of(head), upgrade)


class AnotherTarget(Exception):
    """The next request is for somebody else than was asked for."""


class RequestStream:
    """The requests that a client sends one after the other, made ready for the servers that they are for."""

    def __init__(self, check_password: CheckPassword | None) -> None:
        self._check_password = check_password
        self._buffer = bytearray()
        self._body: Length | Chunked | None = None
        self._raw = False
        # Of the last request: what the same fields come to needs no second look, and ``parse_head`` remembers them.
        self._fields: tuple[tuple[bytes, bytes], ...] | None = None
        self._version = b""
        self._passed = _Passed(b"", 0, False)
        self.repeatable = b""
        """The last that was received, where it was one whole request without a body: should the very same bytes come
        next, for the same target, they come to ``repeated``, and ``receive`` need not see them. Clients that keep a
        connection say the same thing again and again. Empty where that is not so."""
        self.repeated = b""

    def receive(self, data: bytes, target: tuple[str, int] | None = None) -> Iterator[tuple[Request | None, bytes]]:
        """Take what the client sent. Yields what goes out, in order: the head of a request with whom it is for, and
        pieces of its body with None. Raises BadRequest, and AnotherTarget for a request that is not for ``target``
        (host, port) where that is given; neither has taken anything of what it complains of."""
        self.repeatable = b""
        self._buffer += data
        while self._buffer:
            if self._raw:
                yield None, self._take(len(self._buffer))
            elif self._body is None:
                head = parse_head(self._buffer)
                if head is None:
                    return
                request, begun = self._begin(head, target)
                alone = head.length == len(data) <= REMEMBERED and not self._buffer
                if alone and self._body is None and not self._raw:
                    self.repeatable, self.repeated = data, begun
                yield request, begun
            else:
                taken = self._body.measure(self._buffer)
                done = self._body.done
                if done:
                    self._body = None
                if taken:
                    yield None, self._take(taken)
                if not done:
                    return

    @property
    def raw(self) -> bool:
        """Whether a request has begun another protocol, so that no more of them are looked for."""
        return self._raw

    @property
    def rest(self) -> bytes | None:
        """What was received and not taken, where a request begins with it; None in the middle of one."""
        return None if self._raw or self._body is not None else bytes(self._buffer)

    def _take(self, size: int) -> bytes:
        taken = bytes(self._buffer[:size])
        del self._buffer[:size]
        return taken

    def _begin(self, head: Head, target: tuple[str, int] | None) -> tuple[Request, bytes]:
        check_authorization(head, self._check_password)
        if head.method == b"CONNECT":
            raise BadRequest(400, "Bad Request", "CONNECT comes first on a connection, or not at all")
        request, authority, path = _split_target(head.target)
        if target is not None and target != (request.host, request.port):
            raise AnotherTarget
        if self._fields is not head.fields or self._version != head.version:
            self._passed = _pass(head)
            self._fields, self._version = head.fields, head.version
        passed = self._passed
        if passed.body != 0:
            self._body = Chunked() if passed.body is None else Length(passed.body)
        # What the two agree on after an upgrade is theirs alone.
        self._raw = passed.upgrade
        del self._buffer[: head.length]
        # In origin form, with the host that the target names (RFC 9112, section 3.2.2).
        return request, b"%b %b %b\r\nHost: %b\r\n%b" % (head.method, path, head.version, authority, passed.lines)
