"""ztnode call: one HTTP request over the overlay."""

from __future__ import annotations

import base64
import contextlib
import errno
import http.client
import io
import os
import selectors
import shutil
import ssl
import stat
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO
from urllib.parse import SplitResult, urljoin, urlsplit

import click

import ztclient
from ztnode import __version__
from ztnode.cli.common import (
    EXISTING_FILE,
    FILE,
    NODE_SECONDS,
    SECONDS,
    Failure,
    Parameter,
    describe,
    example,
    json_option,
    node_option_with_patience,
    print_json,
    standard_output,
)
from ztnode.cli.printable import printable
from ztnode.cli.progress import Progress, shown_when_long

CHUNK = 1 << 18
MAX_IN_MEMORY = 8 << 20
"""Bytes of a body without a length that are kept in memory; more go to a temporary file."""
MAX_REDIRECTIONS = 50


class Url(Parameter[SplitResult]):
    """An http or https URL."""

    name = "url"

    def convert(
        self, value: str | SplitResult, param: click.Parameter | None, ctx: click.Context | None
    ) -> SplitResult:
        """See click.ParamType."""
        if isinstance(value, SplitResult):
            return value
        try:
            url = urlsplit(value if "://" in value else f"http://{value}")
            host, _port = url.hostname, url.port
        except ValueError as error:
            self.fail(f"{value!r} is not a URL: {error}", param, ctx)
        if "://" not in value and "." not in (host or "") and ":" not in (host or ""):
            host = None  # hardly meant for one
        if url.scheme not in ("http", "https") or not host:
            self.fail(f"{value!r} is not a URL such as http://10.121.15.99:5380/", param, ctx)
        if url.username is not None:
            self.fail("a user name in the URL is not sent; give -H 'Authorization: …'", param, ctx)
        # urlsplit takes line breaks and tabs out without a word; such a URL is a mistake.
        if not value.isascii() or any(character <= " " for character in value):
            self.fail(f"{value!r} has characters that a URL spells as %XX", param, ctx)
        return url


@click.command(
    short_help="Make one HTTP request over the overlay.",
    epilog=example(
        "ztnode call http://10.121.15.99:5380/",
        "ztnode call -L 10.121.15.99:5380",
        "ztnode call -X PUT -H 'Content-Type: application/json' -d @state.json http://10.121.15.99:5380/api",
    ),
)
@click.argument("url", type=Url())
@click.option("-X", "--request", "method", metavar="METHOD", help="The method. [default: GET, or POST with -d]")
@click.option(
    "-H",
    "--header",
    "headers",
    multiple=True,
    metavar="NAME:VALUE",
    help="A header; may be given several times. 'NAME:' leaves one of ours out, 'NAME;' sends an empty one.",
)
@click.option(
    "-d",
    "--data",
    "--data-binary",
    "data",
    multiple=True,
    metavar="DATA|@FILE",
    help="The body; @FILE sends what a file, pipe or device gives, as it is, @- stdin. Several are joined with '&'.",
)
@click.option("-I", "--head", "head_only", is_flag=True, help="Ask for the head alone (HEAD), and print it.")
@click.option("-u", "--user", metavar="NAME:PASSWORD", help="Basic authentication; without a password it is asked for.")
@click.option("-A", "--user-agent", metavar="TEXT", help="In place of ztnode's own name.")
@click.option(
    "-o", "--output", type=FILE, metavar="FILE", help="Write the body to FILE, which appears when it is whole."
)
@click.option("-i", "--include", is_flag=True, help="Print the status line and headers before the body.")
@click.option("-L", "--location", is_flag=True, help="Follow redirections.")
@click.option("-s", "-S", "--silent", "--show-error", is_flag=True, expose_value=False, hidden=True)
@click.option("-v", "--verbose", is_flag=True, help="Show both heads on stderr.")
@click.option("-f", "--fail", is_flag=True, help="Exit 1 on an HTTP status of 400 or more.")
@click.option("-k", "--insecure", is_flag=True, help="Do not check the certificate (https).")
@click.option("--cacert", type=EXISTING_FILE, metavar="FILE", help="Trust this authority, PEM (https).")
@click.option(
    "--timeout",
    type=SECONDS,
    metavar="S",
    default=30.0,
    show_default=True,
    help="Seconds for each step.",
)
@click.option(
    "--stack",
    type=click.Choice(["zerotier", "libzt"]),
    default="zerotier",
    show_default=True,
    expose_value=False,
    help="The network stack; libzt is another name for the same one.",
)
@json_option
@node_option_with_patience(lambda _arguments: NODE_SECONDS)
def call(
    node: ztclient.Node,
    url: SplitResult,
    method: str | None,
    headers: tuple[str, ...],
    data: tuple[str, ...],
    head_only: bool,
    user: str | None,
    user_agent: str | None,
    output: Path | None,
    include: bool,
    location: bool,
    verbose: bool,
    fail: bool,
    insecure: bool,
    cacert: Path | None,
    timeout: float,
    as_json: bool,
) -> None:
    """Make one HTTP request to URL (http or https) over the overlay and print the answer's body. Options are curl's, as
    far as there are such; docs/OPERATING.md says what differs."""
    if head_only and data:
        raise click.UsageError("-I asks for a head, and -d sends a body: give one of them")
    fields = _fields(headers, user, user_agent)
    started = time.perf_counter()
    with contextlib.ExitStack() as files:
        body = _body(data, files) if data else None
        usual = "HEAD" if head_only else "GET" if body is None else "POST"
        request = _Request(method or usual, url, fields, body, keeps_method=method is not None)
        heads = b""
        for _ in range(MAX_REDIRECTIONS + 1):
            shown = request.url.geturl()
            connection = _connection(node, request.url, timeout, insecure, cacert)
            files.callback(connection.close)
            with _told(shown):
                _connect(connection, request.url.hostname or "")
                response = _exchange(connection, request, verbose)
            heads += _head(response) if include or head_only else b""
            following = _redirected(request, response) if location else None
            if following is None:
                break
            connection.close()
            request = following
        else:
            raise Failure(f"{shown}: more than {MAX_REDIRECTIONS} redirections")
        with _told(shown):
            if as_json:
                _print_as_json(shown, response, output, started)
            else:
                _deliver(shown, response, output, heads)
        if fail and response.status >= 400:
            raise Failure(f"{shown}: HTTP {response.status} {response.reason}")


@dataclass(frozen=True, slots=True)
class _Request:
    method: str
    url: SplitResult
    fields: list[tuple[str, str]]
    body: _Body | None
    keeps_method: bool
    """Whoever named the method means it, for what a redirection leads to, too."""

    @property
    def target(self) -> str:
        return (self.url.path or "/") + (f"?{self.url.query}" if self.url.query else "")


@dataclass(frozen=True, slots=True)
class _Body:
    """A body of known ``length`` in bytes, which may be read several times: ``file`` can be wound back."""

    file: IO[bytes]
    length: int

    def pieces(self) -> Iterator[bytes]:
        """Exactly ``length`` bytes: what follows them on the connection would be taken for another request. Raises
        Failure when the file has become shorter."""
        self.file.seek(0)
        left = self.length
        while left:
            piece = self.file.read(min(CHUNK, left))
            if not piece:
                raise Failure("the file with the body became shorter while it was sent")
            left -= len(piece)
            yield piece


@contextlib.contextmanager
def _told(shown: str) -> Iterator[None]:
    """What goes wrong with a request, as a person reads it."""
    try:
        yield
    except http.client.HTTPException as error:
        raise Failure(f"{shown}: no proper HTTP answer ({type(error).__name__}: {describe(error)})") from None
    except ssl.SSLError as error:
        raise Failure(f"{shown}: TLS failed: {error.reason or describe(error)}{_hint(error)}") from None
    except BrokenPipeError:
        raise  # of standard output
    except OSError as error:
        raise Failure(f"{shown}: {describe(error)}") from None


def _connection(
    node: ztclient.Node, url: SplitResult, timeout: float, insecure: bool, cacert: Path | None
) -> http.client.HTTPConnection:
    assert url.hostname is not None
    if url.scheme == "http":
        if insecure or cacert is not None:
            raise click.UsageError("-k and --cacert are for https")
        return ztclient.HTTPConnection(url.hostname, url.port, timeout=timeout, node=node)
    try:
        context = ssl.create_default_context(cafile=None if cacert is None else str(cacert))
    except ssl.SSLError:
        raise Failure(f"{cacert} holds no certificates in PEM form") from None
    if insecure:
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
    return ztclient.HTTPSConnection(url.hostname, url.port, timeout=timeout, context=context, node=node)


def _fields(headers: Sequence[str], user: str | None, user_agent: str | None) -> list[tuple[str, str]]:
    """The headers of a request: ours as curl has them, but for those that ``headers`` gives or leaves out."""
    ours = [("User-Agent", user_agent or f"ztnode/{__version__}"), ("Accept", "*/*")]
    if user is not None:
        name, colon, password = user.partition(":")
        if not colon:
            password = click.prompt(f"password of {name}", hide_input=True, err=True)
        ours.append(("Authorization", "Basic " + base64.b64encode(f"{name}:{password}".encode()).decode()))
    given, named = [], set()
    for text in headers:
        name, mark, value = text.partition(":")
        if not mark and text.rstrip().endswith(";"):
            name, mark, value = text.rstrip()[:-1], ";", ""
        name, value = name.strip(), value.strip()
        if not mark or not name:
            raise click.UsageError(f"{text!r} is not a header such as 'Accept: text/plain'")
        named.add(name.lower())
        if value or mark == ";":
            given.append((name, value))
    return [field for field in ours if field[0].lower() not in named] + given


def _body(data: Sequence[str], files: contextlib.ExitStack) -> _Body:
    if len(data) == 1:
        return _one_body(data[0], files)
    kept = files.enter_context(tempfile.SpooledTemporaryFile(MAX_IN_MEMORY))  # noqa: SIM115 - closed by ``files``
    for number, each in enumerate(data):
        kept.write(b"&" if number else b"")
        for piece in _one_body(each, files).pieces():
            kept.write(piece)
    return _Body(kept, kept.tell())


def _one_body(data: str, files: contextlib.ExitStack) -> _Body:
    if not data.startswith("@"):
        content = data.encode()
        return _Body(io.BytesIO(content), len(content))
    source: IO[bytes] = sys.stdin.buffer
    if data != "@-":
        source = files.enter_context(open(data[1:], "rb"))  # noqa: SIM115, PTH123 - closed by ``files``
    if (size := _size(source)) and source.seekable() and source.tell() == 0:
        return _Body(source, size)
    # Pipes, devices and the files of /proc do not know how much they will give: read it first, beyond a bound on disk.
    kept = files.enter_context(tempfile.SpooledTemporaryFile(MAX_IN_MEMORY))  # noqa: SIM115 - closed by ``files``
    shutil.copyfileobj(source, kept)
    return _Body(kept, kept.tell())


def _size(source: IO[bytes]) -> int:
    """Of a regular file; 0 for everything that is none, or does not say."""
    try:
        status = os.fstat(source.fileno())
    except (OSError, ValueError):
        return 0
    return status.st_size if stat.S_ISREG(status.st_mode) else 0


def _connect(connection: http.client.HTTPConnection, host: str) -> None:
    """A host that does not answer has until the time-out. Raises OSError."""
    with shown_when_long(f"waiting for {host} to answer"):
        connection.connect()


def _exchange(connection: http.client.HTTPConnection, request: _Request, verbose: bool) -> http.client.HTTPResponse:
    """Send the request; the head of its answer, also of one that comes before all is sent."""
    chunked = _send_head(connection, request, verbose)
    early: OSError | None = None
    if request.body is not None:
        try:
            _upload(connection, _chunks(request.body.pieces()) if chunked else request.body.pieces())
        except (BrokenPipeError, ConnectionResetError) as error:
            early = error  # the server has had enough of it: perhaps it says why
    try:
        response = connection.getresponse()
    except (OSError, http.client.HTTPException):
        if early is not None:
            raise ConnectionResetError(early.errno, describe(early)) from None
        raise
    if verbose:
        for line in _head(response).decode("latin-1").splitlines():
            click.echo(f"< {printable(line)}", err=True)
    return response


def _send_head(connection: http.client.HTTPConnection, request: _Request, verbose: bool) -> bool:
    """Everything before the body; whether that is to be sent in chunks."""
    given = {name.lower(): value for name, value in request.fields}
    fields = list(request.fields)
    chunked = given.get("transfer-encoding", "").lower() == "chunked"
    if "transfer-encoding" in given and (not chunked or "content-length" in given):
        raise click.UsageError("of transfer codings only chunked can be sent, and without a Content-Length")
    length = 0 if request.body is None else request.body.length
    if given.get("content-length", str(length)).strip() != str(length):
        raise click.UsageError(f"the body has {length} bytes, whatever the header says")
    if request.body is not None:
        if not chunked and "content-length" not in given:
            fields.insert(0, ("Content-Length", str(length)))
        if "content-type" not in given:
            fields.insert(0, ("Content-Type", "application/x-www-form-urlencoded"))
    connection.putrequest(request.method, request.target, skip_host="host" in given, skip_accept_encoding=True)
    for name, value in fields:
        connection.putheader(name, value)
    connection.endheaders()
    if verbose:
        host = [] if "host" in given else [("Host", request.url.netloc)]
        click.echo(f"> {printable(f'{request.method} {request.target} HTTP/1.1')}", err=True)
        for name, value in [*host, *fields]:
            click.echo(f"> {printable(f'{name}: {value}')}", err=True)
        click.echo(">", err=True)
    return chunked


def _chunks(pieces: Iterator[bytes]) -> Iterator[bytes]:
    for piece in pieces:
        yield b"%x\r\n%b\r\n" % (len(piece), piece)
    yield b"0\r\n\r\n"


def _upload(connection: http.client.HTTPConnection, pieces: Iterator[bytes]) -> None:
    """Send the body, or as much of it as the server takes before it answers. Raises OSError."""
    sock = connection.sock
    if isinstance(sock, ssl.SSLSocket):  # where something to read may be TLS's own
        for piece in pieces:
            sock.sendall(piece)
        return
    with selectors.DefaultSelector() as selector:
        selector.register(sock, selectors.EVENT_READ | selectors.EVENT_WRITE)
        for piece in pieces:
            left = memoryview(piece)
            while left:
                ready = selector.select(sock.gettimeout())
                if not ready:
                    raise TimeoutError(errno.ETIMEDOUT, "the server takes no more of the body")
                if ready[0][1] & selectors.EVENT_READ:
                    return
                left = left[sock.send(left) :]


def _redirected(request: _Request, response: http.client.HTTPResponse) -> _Request | None:
    """What to ask next; None where this is the answer. Raises Failure."""
    where = response.getheader("Location")
    if response.status not in (301, 302, 303, 307, 308) or where is None:
        return None
    try:
        url = Url().convert(urljoin(request.url.geturl(), where), None, None)
    except click.UsageError as error:
        raise Failure(f"{request.url.geturl()}: redirected to what cannot be followed: {error.message}") from None
    fields, method, body = request.fields, request.method, request.body
    if (url.scheme, url.netloc) != (request.url.scheme, request.url.netloc):
        fields = [field for field in fields if field[0].lower() not in ("authorization", "cookie", "host")]
    if response.status == 303 or (response.status in (301, 302) and method == "POST"):
        method, body = method if request.keeps_method or method == "HEAD" else "GET", None
        fields = [field for field in fields if not field[0].lower().startswith(("content-", "transfer-"))]
    return _Request(method, url, fields, body, request.keeps_method)


def _head(response: http.client.HTTPResponse) -> bytes:
    lines = [f"HTTP/{response.version // 10}.{response.version % 10} {response.status} {response.reason}"]
    lines += [f"{name}: {value}" for name, value in response.getheaders()]
    return "".join(f"{line}\r\n" for line in [*lines, ""]).encode("latin-1", "replace")


def _parts(url: str, response: http.client.HTTPResponse) -> Iterator[bytes]:
    """The body, piece by piece. Raises Failure when it ends before it is whole."""
    try:
        while part := response.read(CHUNK):
            yield part
        # read(n) gives a short body without a word; what is missing of a promised length shows here.
        if response.length:
            raise http.client.IncompleteRead(b"", response.length)
    except (OSError, http.client.HTTPException) as error:
        raise Failure(f"{url}: the answer is not whole: {describe(error)}") from None


def _deliver(url: str, response: http.client.HTTPResponse, output: Path | None, heads: bytes) -> None:
    if output is None:
        _copy(url, response, standard_output(), heads)
    else:
        with _whole_file(output) as file:
            _copy(url, response, file, heads)


def _copy(url: str, response: http.client.HTTPResponse, file: IO[bytes], head: bytes) -> None:
    length = response.length
    written = 0
    file.write(head)
    with contextlib.ExitStack() as stack:
        progress: Progress | None = None
        due = time.monotonic() + 1.0
        for part in _parts(url, response):
            file.write(part)
            written += len(part)
            # A spinner would stand in the middle of what is printed.
            if time.monotonic() >= due and not file.isatty():
                text = f"{written / 1e6:.1f} MB" + (f" of {length / 1e6:.1f} MB" if length else "")
                progress = progress or stack.enter_context(Progress("receiving"))
                progress.tick(text)
                due = time.monotonic() + 0.2
    file.flush()


@contextlib.contextmanager
def _whole_file(path: Path) -> Iterator[IO[bytes]]:
    """A file that takes its name when all of it is written; devices and pipes are written as they are."""
    if path.exists() and not path.is_file():
        with path.open("wb") as file:
            yield file
        return
    part = path.with_name(f"{path.name}.part")
    try:
        with part.open("wb") as file:
            yield file
        part.replace(path)
    except BaseException:
        part.unlink(missing_ok=True)
        raise


def _print_as_json(url: str, response: http.client.HTTPResponse, output: Path | None, started: float) -> None:
    answer: dict[str, object] = {
        "status": response.status,
        "reason": response.reason,
        "headers": [list(header) for header in response.getheaders()],
    }
    if output is None:
        body = b"".join(_parts(url, response))
        try:
            answer["body"] = body.decode()
        except UnicodeDecodeError:
            answer["body_base64"] = base64.b64encode(body).decode()
        size = len(body)
    else:
        with _whole_file(output) as file:
            _copy(url, response, file, b"")
            size = file.tell()
        answer["output"] = str(output)
    print_json({**answer, "bytes": size, "seconds": round(time.perf_counter() - started, 6)})


def _hint(error: ssl.SSLError) -> str:
    return " (--cacert FILE or -k)" if isinstance(error, ssl.SSLCertVerificationError) else ""
