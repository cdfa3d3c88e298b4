"""ztnode serve-http."""

from __future__ import annotations

import json
import ssl
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

import click

import ztclient
from ztclient.forms import format_host_port
from ztnode.cli.common import EXISTING_FILE, NODE_SECONDS, Failure, example, json_option, node_option_with_patience
from ztnode.cli.forward_commands import Where
from ztnode.cli.on_loop import run_until_interrupted
from ztnode.cli.printable import printable
from ztnode.forwarding import LocalAddress, TcpAddress

if TYPE_CHECKING:
    from ztnode.forwarding.http_service import Answers

PORTS = {"http": 80, "https": 443}


@click.command(
    "serve-http",
    short_help="Offer a folder or a web server on the overlay.",
    epilog=example(
        "ztnode serve-http ./site",
        "ztnode serve-http ./site --listen 10.121.15.7:8080",
        "ztnode serve-http http://127.0.0.1:3000 --cert web.pem --key web.key",
    ),
)
@click.argument("source", metavar="DIR|URL")
@click.option(
    "--listen",
    type=Where("", numeric=True),
    metavar="[IP:]PORT",
    help="Where on the overlay. [default: port 80, with --cert 443, of every managed address]",
)
@click.option("--cert", type=EXISTING_FILE, metavar="FILE", help="Serve HTTPS: certificate chain, PEM.")
@click.option("--key", type=EXISTING_FILE, metavar="FILE", help="Its private key, PEM, if it is not in the same file.")
@click.option("--hidden", is_flag=True, help="Of a folder, serve names with a dot in front too, such as .git.")
@json_option
@node_option_with_patience(lambda _arguments: NODE_SECONDS)
def serve_http(
    node: ztclient.Node,
    source: str,
    listen: LocalAddress | None,
    cert: Path | None,
    key: Path | None,
    hidden: bool,
    as_json: bool,
) -> None:
    """Offer a folder, or the web server at URL, on this node's managed addresses by HTTP or HTTPS, until Ctrl-C.

    Of a folder, files are read and listed, with ranges; what is outside is not reached, by symbolic links either, nor,
    without --hidden, what has a dot in front of its name (.well-known is). A web server gets the requests with the
    peer's address in X-Forwarded-For in place of what a client says there itself."""
    if key is not None and cert is None:
        raise click.UsageError("--key belongs to --cert")
    scheme = "http" if cert is None else "https"
    answers = _answers(source, scheme, hidden=hidden)
    where = listen if isinstance(listen, TcpAddress) else TcpAddress("", PORTS[scheme])
    run_until_interrupted(_serve(node, where, answers, scheme, _context(cert, key), source, as_json))


def _answers(source: str, scheme: str, *, hidden: bool) -> Answers:
    if "://" not in source:
        from ztnode.forwarding.files import Files

        try:
            return Files(Path(source), hidden=hidden)
        except OSError as error:
            raise click.UsageError(f"{source}: {error.strerror or error}") from None
    if hidden:
        raise click.UsageError("--hidden is for a folder")
    from ztnode.forwarding.reverse_proxy import ReverseProxy, Upstream

    try:
        url = urlsplit(source)
        port = url.port
    except ValueError as error:
        raise click.UsageError(f"{source}: {error}") from None
    if url.scheme not in PORTS or not url.hostname or url.username is not None or url.query or url.fragment:
        raise click.UsageError(f"{source!r} is neither a folder nor a URL such as http://127.0.0.1:3000")
    if not (url.path.isascii() and url.path.isprintable()) or " " in url.path:
        raise click.UsageError(f"{source!r}: escape what is no ASCII letter in the path")
    tls = url.hostname if url.scheme == "https" else None
    address = TcpAddress(url.hostname, PORTS[url.scheme] if port is None else port)
    return ReverseProxy(Upstream(address, url.path.rstrip("/"), tls), scheme)


def _context(cert: Path | None, key: Path | None) -> ssl.SSLContext | None:
    if cert is None:
        return None
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    try:
        context.load_cert_chain(cert, key)
    except (OSError, ValueError) as error:
        rest = "with its private key" if key is None else f"and {key} its private key"
        files = f"{cert} should hold a certificate chain {rest}, in PEM form"
        raise Failure(f"{files}: {getattr(error, 'reason', None) or error}") from None
    return context


async def _serve(
    node: ztclient.Node,
    where: TcpAddress,
    answers: Answers,
    scheme: str,
    context: ssl.SSLContext | None,
    source: str,
    as_json: bool,
) -> None:
    from ztnode.forwarding.client_overlay import ClientOverlay
    from ztnode.forwarding.http_service import HttpService

    service = HttpService(
        ClientOverlay(node), answers, lambda text: click.echo(f"ztnode: {printable(text)}", err=True), context
    )
    try:
        host, port = await service.open(where.host or None, where.port)
        hosts = node.ips() if host in ("", "0.0.0.0", "::") else [host]
        shown = [format_host_port(each, port).removesuffix(f":{PORTS[scheme]}") for each in hosts]
        urls = [f"{scheme}://{each}/" for each in shown]
        if as_json:
            click.echo(json.dumps({"source": source, "urls": urls}))
        else:
            click.echo(f"serving {source} at {' '.join(urls) or f'port {port}, once there is an address'}", err=True)
        await service.run()
    finally:
        await service.close()
