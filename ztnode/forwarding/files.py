"""A folder by HTTP: GET and HEAD, ranges (RFC 9110, section 14), validators, index.html or a list of what is there.

Nothing outside the folder is reached, by ``..`` or by a symbolic link, nothing but regular files is read, and what is
hidden (``.git``, ``.env``) stays so unless asked for.
"""

from __future__ import annotations

import email.utils
import errno
import html
import itertools
import mimetypes
import os
import re
import stat
import urllib.parse
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import h11

from ztnode.forwarding.http_stream import HEAD_SECONDS, HttpStream, answer, refuse_garbage

PIECE: Final = 64 * 1024
"""Read and held at a time for one client."""
MAX_LISTED: Final = 10_000
"""Entries of one list."""
INDEX: Final = "index.html"
_PUBLIC: Final = b".well-known"
"""The name with a dot in front that is there to be read (RFC 8615)."""
_RANGE: Final = re.compile(rb"bytes=([0-9]{0,18})-([0-9]{0,18})")
_CHARSET: Final = frozenset(("application/javascript", "application/json", "application/xml"))


@dataclass(frozen=True, slots=True)
class _Problem(Exception):
    status: int
    reason: str
    fields: tuple[tuple[str, str], ...] = ()


class Files:
    """One folder."""

    def __init__(self, root: Path, *, hidden: bool = False) -> None:
        """``hidden``: names with a dot in front are served too. Raises OSError where there is no folder."""
        self._hidden = hidden
        self._root = root.resolve(strict=True)
        if not self._root.is_dir():
            raise NotADirectoryError(errno.ENOTDIR, f"{root} is no folder")

    async def serve(self, client: HttpStream, _peer: str) -> None:
        """All that one client asks. Raises OSError, TimeoutError, h11.ProtocolError: the client's doing."""
        try:
            while (request := await client.next_request(HEAD_SECONDS)) is not None:
                await self._answer(client, request)
                # What comes with a request to a folder is not read: the connection ends with it.
                if client.http.our_state is h11.DONE and isinstance(client.http.next_event(), h11.EndOfMessage):
                    client.http.start_next_cycle()
                    continue
                await client.linger()
                return
        except h11.RemoteProtocolError as error:
            await refuse_garbage(client, error)
            raise

    async def _answer(self, client: HttpStream, request: h11.Request) -> None:
        bare = request.method == b"HEAD"
        try:
            if request.method not in (b"GET", b"HEAD"):
                raise _Problem(405, "Method Not Allowed", (("Allow", "GET, HEAD"),))
            found = self._find(*_path_of(request.target))
            if isinstance(found, bytes):
                await _send_text(client, found, bare=bare)
            else:
                await _send_file(client, request, found, bare=bare)
        except _Problem as problem:
            text = f"{problem.status} {problem.reason}"
            await answer(client, problem.status, problem.reason, text, *problem.fields, bare=bare)

    def _find(self, path: bytes, query: str) -> Path | bytes:
        """The file that is meant, or a page that lists a folder. Raises _Problem."""
        parts = [part for part in path.split(b"/") if part not in (b"", b".")]
        if b".." in parts or b"\0" in path or not all(map(self._is_shown, parts)):
            raise _Problem(404, "Not Found")
        found = self._inside(self._root.joinpath(*map(os.fsdecode, parts)))
        if not found.is_dir():
            if path.rpartition(b"/")[2] in (b"", b"."):  # a folder is asked for
                raise _Problem(404, "Not Found")
            return found
        if not path.endswith(b"/"):
            raise _Problem(301, "Moved Permanently", (("Location", _quoted(path) + "/" + query),))
        index = found / INDEX
        return self._inside(index) if os.path.lexists(index) else self._listing(path, found)

    def _is_shown(self, name: bytes) -> bool:
        return self._hidden or not name.startswith(b".") or name == _PUBLIC

    def _inside(self, path: Path) -> Path:
        """Where it really is, if that is in the folder."""
        try:
            real = path.resolve(strict=True)
        except (OSError, RuntimeError):  # a circle of links is the latter before Python 3.13
            raise _Problem(404, "Not Found") from None
        if not real.is_relative_to(self._root):
            raise _Problem(404, "Not Found")
        return real

    def _listing(self, path: bytes, directory: Path) -> bytes:
        try:
            with os.scandir(os.fsencode(directory)) as found:
                shown = (entry for entry in found if self._is_shown(entry.name))
                names = [
                    entry.name + (b"/" if _is_folder(entry) else b"") for entry in itertools.islice(shown, MAX_LISTED)
                ]
                cut = next(shown, None) is not None
        except OSError:
            raise _Problem(403, "Forbidden") from None
        return _page(path, names, cut=cut)


def _is_folder(entry: os.DirEntry[bytes]) -> bool:
    try:
        return entry.is_dir()
    except OSError:  # a link that leads round in circles, or to where we may not look
        return False


def _page(path: bytes, names: list[bytes], *, cut: bool) -> bytes:
    title = html.escape(path.decode(errors="replace"))
    up = [] if not path.strip(b"/") else ['<li><a href="../">../</a></li>']
    rows = [
        f'<li><a href="./{urllib.parse.quote(name)}">{html.escape(name.decode(errors="replace"))}</a></li>'
        for name in sorted(names)
    ]
    rest = [f"<p>There are more than these {len(names)}.</p>"] if cut else []
    lines = ("<!doctype html>", '<meta charset="utf-8">', f"<title>{title}</title>", f"<h1>{title}</h1>")
    return "\n".join((*lines, "<ul>", *up, *rows, "</ul>", *rest, "")).encode()


def _path_of(target: bytes) -> tuple[bytes, str]:
    """Path of a request target, in origin or absolute form, with the escapes undone, and the query as it stands."""
    if not target.startswith(b"/"):
        _, separator, rest = target.partition(b"://")
        target = b"/" + rest.partition(b"/")[2] if separator else b""
    path, mark, query = target.partition(b"?")
    if not path:
        raise _Problem(400, "Bad Request")
    return urllib.parse.unquote_to_bytes(path), (mark + query).decode("latin-1")


def _quoted(path: bytes) -> str:
    """As a reference of this host: two slashes in front would name another one."""
    return "/" + urllib.parse.quote(path.strip(b"/"))


async def _send_text(client: HttpStream, page: bytes, *, bare: bool) -> None:
    headers = [("Content-Type", "text/html; charset=utf-8"), ("Content-Length", str(len(page)))]
    await client.send(h11.Response(status_code=200, reason="OK", headers=headers))
    if not bare:
        await client.send(h11.Data(data=page))
    await client.send(h11.EndOfMessage())


async def _send_file(client: HttpStream, request: h11.Request, path: Path, *, bare: bool) -> None:
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    except PermissionError:
        raise _Problem(403, "Forbidden") from None
    except OSError:
        raise _Problem(404, "Not Found") from None
    try:
        found = os.fstat(descriptor)
        if not stat.S_ISREG(found.st_mode):
            raise _Problem(403, "Forbidden")
        tag = f'"{found.st_mtime_ns:x}-{found.st_size:x}"'
        modified = email.utils.formatdate(int(found.st_mtime), usegmt=True)
        validators = [("ETag", tag), ("Last-Modified", modified)]
        if _is_fresh(request, tag, found.st_mtime):
            await client.send(h11.Response(status_code=304, reason="Not Modified", headers=validators))
            await client.send(h11.EndOfMessage())
            return
        status, reason, start, stop = _range_of(request, found.st_size, tag, modified)
        headers = [
            *validators,
            ("Content-Type", _type_of(path)),
            ("Accept-Ranges", "bytes"),
            ("Content-Length", str(stop - start)),
        ]
        if status == 206:
            headers.append(("Content-Range", f"bytes {start}-{stop - 1}/{found.st_size}"))
        await client.send(h11.Response(status_code=status, reason=reason, headers=headers))
        while not bare and start < stop:
            piece = os.pread(descriptor, min(PIECE, stop - start), start)
            if not piece:  # it became shorter: the client sees that it does not get all
                raise OSError(errno.EIO, "the file was cut while it was sent")
            await client.send(h11.Data(data=piece))
            start += len(piece)
        await client.send(h11.EndOfMessage())
    finally:
        os.close(descriptor)


def _type_of(path: Path) -> str:
    kind, encoding = mimetypes.guess_type(path.name)
    if encoding is not None:  # a compressed file is sent as the file that it is
        return {"gzip": "application/gzip", "bzip2": "application/x-bzip2"}.get(encoding, "application/octet-stream")
    if kind is None:
        return "application/octet-stream"
    return f"{kind}; charset=utf-8" if kind.startswith("text/") or kind in _CHARSET else kind


def _field(request: h11.Request, name: bytes) -> bytes | None:
    values = [value for key, value in request.headers if key == name]
    return b", ".join(values) if values else None


def _is_fresh(request: h11.Request, tag: str, modified: float) -> bool:
    """Whether the client has what there is already (RFC 9110, section 13.2.2)."""
    known = _field(request, b"if-none-match")
    if known is not None:
        tags = [each.strip().removeprefix(b"W/") for each in known.split(b",")]
        return b"*" in tags or tag.encode() in tags
    since = _field(request, b"if-modified-since")
    if since is None:
        return False
    try:
        return int(modified) <= email.utils.parsedate_to_datetime(since.decode("latin-1")).timestamp()
    except (ValueError, TypeError, OverflowError):
        return False


def _range_of(request: h11.Request, size: int, tag: str, modified: str) -> tuple[int, str, int, int]:
    """Status, and the first byte and the one after the last to send. More ranges than one are answered by the whole."""
    whole = 200, "OK", 0, size
    match = _RANGE.fullmatch((_field(request, b"range") or b"").replace(b" ", b""))
    if match is None or request.method != b"GET" or not (match[1] or match[2]):
        return whole
    condition = _field(request, b"if-range")
    if condition is not None and condition not in (tag.encode(), modified.encode()):
        return whole
    first = int(match[1]) if match[1] else max(0, size - int(match[2]))
    last = min(int(match[2]), size - 1) if match[1] and match[2] else size - 1
    if match[1] and match[2] and int(match[2]) < first:
        return whole  # RFC 9110, section 14.1.1: not a range at all
    if first >= size or last < first:
        raise _Problem(416, "Range Not Satisfiable", (("Content-Range", f"bytes */{size}"),))
    return 206, "Partial Content", first, last + 1
