"""ztnode call: one HTTP request over the overlay."""

from __future__ import annotations

import base64
import contextlib
import http.client
import os
import ssl
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import IO
from urllib.parse import SplitResult, urlsplit

import click

import ztclient
from ztnode.cli.common import (
    EXISTING_FILE,
    FILE,
    SECONDS,
    Failure,
    Parameter,
    describe,
    example,
    json_option,
    node_option,
    print_json,
    standard_output,
)
from ztnode.cli.progress import Progress

CHUNK = 1 << 18


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
            url = urlsplit(value)
            host, _port = url.hostname, url.port
        except ValueError as error:
            self.fail(f"{value!r} is not a URL: {error}", param, ctx)
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
        "ztnode call -X PUT -H 'Content-Type: application/json' -d @state.json http://10.121.15.99:5380/api",
    ),
)
@click.argument("url", type=Url())
@click.option("-X", "--request", "method", metavar="METHOD", help="The method. [default: GET, or POST with -d]")
@click.option(
    "-H", "--header", "headers", multiple=True, metavar="NAME:VALUE", help="A header; may be given several times."
)
@click.option("-d", "--data", metavar="DATA|@FILE", help="The body; @FILE reads a file, @- stdin.")
@click.option(
    "-o", "--output", type=FILE, metavar="FILE", help="Write the body to FILE, which appears when it is whole."
)
@click.option("-i", "--include", is_flag=True, help="Print the status line and headers before the body.")
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
@node_option
def call(
    node: ztclient.Node,
    url: SplitResult,
    method: str | None,
    headers: tuple[str, ...],
    data: str | None,
    output: Path | None,
    include: bool,
    fail: bool,
    insecure: bool,
    cacert: Path | None,
    timeout: float,
    as_json: bool,
) -> None:
    """Make one HTTP request to URL (http or https, a numeric address) over the overlay and print the answer's body."""
    connection = _connection(node, url, timeout, insecure, cacert)
    target = (url.path or "/") + (f"?{url.query}" if url.query else "")
    shown = url.geturl()
    fields = [_header(text) for text in headers]
    started = time.perf_counter()
    with contextlib.ExitStack() as files:
        body = None if data is None else _body(data, files)
        try:
            files.callback(connection.close)
            _send(connection, method or ("GET" if body is None else "POST"), target, fields, body)
            response = connection.getresponse()
        except http.client.HTTPException as error:
            raise Failure(f"{shown}: no proper HTTP answer ({type(error).__name__}: {describe(error)})") from None
        except ssl.SSLError as error:
            raise Failure(f"{shown}: TLS failed: {error.reason or describe(error)}{_hint(error)}") from None
        except OSError as error:
            raise Failure(f"{shown}: {describe(error)}") from None
        if as_json:
            _print_as_json(shown, response, output, started)
        else:
            head = _head(response) if include else b""
            if output is None:
                _copy(shown, response, standard_output(), head)
            else:
                with _whole_file(output) as file:
                    _copy(shown, response, file, head)
        if fail and response.status >= 400:
            raise Failure(f"{shown}: HTTP {response.status} {response.reason}")


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


def _header(text: str) -> tuple[str, str]:
    name, colon, value = text.partition(":")
    if not colon or not name.strip():
        raise click.UsageError(f"{text!r} is not a header such as 'Accept: text/plain'")
    return name.strip(), value.strip()


def _body(data: str, files: contextlib.ExitStack) -> bytes | IO[bytes]:
    if not data.startswith("@"):
        return data.encode()
    if data == "@-":
        return sys.stdin.buffer.read()
    return files.enter_context(Path(data[1:]).open("rb"))


def _send(
    connection: http.client.HTTPConnection,
    method: str,
    target: str,
    fields: list[tuple[str, str]],
    body: bytes | IO[bytes] | None,
) -> None:
    given = {name.lower() for name, _ in fields}
    connection.putrequest(method, target, skip_host="host" in given, skip_accept_encoding=True)
    if body is not None:
        if "content-type" not in given:
            connection.putheader("Content-Type", "application/x-www-form-urlencoded")
        if not given & {"content-length", "transfer-encoding"}:
            length = len(body) if isinstance(body, bytes) else os.fstat(body.fileno()).st_size
            connection.putheader("Content-Length", str(length))
    for name, value in fields:
        connection.putheader(name, value)
    connection.endheaders(body)


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
