"""ztnode forward and ztnode expose: local programs that know nothing of the overlay, reached over it."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable
from typing import Any, TypeVar

import click

import ztclient
from ztclient.forms import host_name, is_numeric, numeric_ip, split_host_port
from ztnode.cli.common import NODE_SECONDS, Parameter, example, node_option_with_patience
from ztnode.cli.on_loop import run_until_interrupted
from ztnode.cli.printable import printable
from ztnode.forwarding import Expose, Forward, LocalAddress, TcpAddress, UnixAddress, parse_expose, parse_forward

T = TypeVar("T")


class Where(Parameter[LocalAddress]):
    """``HOST:PORT``, ``[v6]:PORT``, ``PORT`` where there is a default host, or ``unix:PATH`` unless it has to be
    ``tcp``, ``numeric``: then the host is an IP address, or ``remote``: then it is that or a name of the overlay."""

    name = "host:port"

    def __init__(
        self, default_host: str | None, *, numeric: bool = False, tcp: bool = False, remote: bool = False
    ) -> None:
        self._default_host = default_host
        self._numeric = numeric
        self._tcp = tcp or numeric or remote
        self._remote = remote

    def convert(
        self, value: str | LocalAddress, param: click.Parameter | None, ctx: click.Context | None
    ) -> LocalAddress:
        """See click.ParamType."""
        if not isinstance(value, str):
            return value
        scheme, colon, path = value.partition(":")
        if scheme == "unix" and colon and path and not self._tcp:
            return UnixAddress(path)
        try:
            host, port = split_host_port(value if ":" in value else f"{self._default_host or ''}:{value}")
            if not host and self._default_host is None:
                raise ValueError
        except ValueError:
            self.fail(f"{value!r} is not HOST:PORT", param, ctx)
        if self._numeric and host:
            try:
                host = numeric_ip(host)
            except ValueError:
                self.fail(f"{host!r} is not a numeric IP address", param, ctx)
        if self._remote:
            try:
                host = numeric_ip(host) if is_numeric(host) else host_name(host)
            except ValueError as error:
                self.fail(str(error), param, ctx)
        return TcpAddress(host, port)


class ForwardSpec(Parameter[list[Forward]]):
    """The value of ``-L``."""

    name = "forward"

    def convert(
        self, value: str | list[Forward], param: click.Parameter | None, ctx: click.Context | None
    ) -> list[Forward]:
        """See click.ParamType."""
        if not isinstance(value, str):
            return value
        try:
            return parse_forward(value)
        except ValueError as error:
            self.fail(str(error), param, ctx)


class ExposeSpec(Parameter[list[Expose]]):
    """The value of ``-R``."""

    name = "expose"

    def convert(
        self, value: str | list[Expose], param: click.Parameter | None, ctx: click.Context | None
    ) -> list[Expose]:
        """See click.ParamType."""
        if not isinstance(value, str):
            return value
        try:
            return parse_expose(value)
        except ValueError as error:
            self.fail(str(error), param, ctx)


def flat(lists: Iterable[list[T]]) -> list[T]:
    """The entries of all the lists."""
    return list(itertools.chain.from_iterable(lists))


def mapping_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """Add ``-L``, ``-R``, ``--proxy-protocol`` and ``--forwarded-for``: ``forwards`` and ``exposes``, lists of lists,
    ``proxy_protocol``, ``forwarded_for``."""
    for option in (
        click.option(
            "--forwarded-for",
            is_flag=True,
            help="Tell HTTP servers behind -R who the peer is: in X-Forwarded-For of each request, in place of what a "
            "client says there itself.",
        ),
        click.option(
            "--proxy-protocol",
            type=click.Choice(["1", "2"]),
            metavar="1|2",
            help="Tell the servers behind -R who the peer is, by this version of the PROXY protocol.",
        ),
        click.option(
            "-R",
            "--expose",
            "exposes",
            type=ExposeSpec(),
            multiple=True,
            metavar="[udp:][IP:]PORT:HOST:PORT",
            help="Listen on the overlay and carry connections to HOST:PORT here, or to unix:PATH; may be given several "
            "times, with ranges of ports too: -R 8000-8009:127.0.0.1:8000-8009. With udp: datagrams.",
        ),
        click.option(
            "-L",
            "--forward",
            "forwards",
            type=ForwardSpec(),
            multiple=True,
            metavar="[udp:][ADDR:]PORT:IP:PORT",
            help="Listen here, on loopback or ADDR or at unix:PATH, and carry connections over the overlay to IP:PORT; "
            "may be given several times, with ranges of ports too. With udp: datagrams.",
        ),
    ):
        command = option(command)
    return command


@click.command(
    short_help="Carry local ports over the overlay.",
    epilog=example(
        "ztnode forward 8080 10.121.15.99:5380",
        "curl http://127.0.0.1:8080/",
        "ztnode forward -L 5432:10.121.15.7:5432 -L 8000-8009:10.121.15.8:8000-8009",
        "ztnode forward -L udp:5353:10.121.15.7:53",
    ),
)
@click.argument("local", metavar="[[HOST:]PORT", type=Where("127.0.0.1"), required=False)
@click.argument("remote", metavar="HOST:PORT]", type=Where(None, remote=True), required=False)
@mapping_options
@node_option_with_patience(lambda _arguments: NODE_SECONDS)
def forward(
    node: ztclient.Node,
    local: LocalAddress | None,
    remote: LocalAddress | None,
    forwards: tuple[list[Forward], ...],
    exposes: tuple[list[Expose], ...],
    proxy_protocol: str | None,
    forwarded_for: bool,
) -> None:
    """Listen on a local port and carry each connection over the overlay to IP:PORT, until Ctrl-C. -L and -R add more of
    them in the same process; connections that stand go on when it ends."""
    first: list[Forward] = []
    if local is not None:
        if not isinstance(remote, TcpAddress):
            raise click.UsageError("to which IP:PORT?")
        first = [Forward(local, remote)]
    _run(node, [*first, *flat(forwards)], flat(exposes), proxy_protocol, forwarded_for)


@click.command(
    short_help="Offer local servers on the overlay.",
    epilog=example(
        "ztnode expose 80 127.0.0.1:8000",
        "ztnode expose -R 22:127.0.0.1:22 -R 80:unix:/run/web.sock",
        "ztnode expose --forwarded-for 80 127.0.0.1:8000",
    ),
)
@click.argument("overlay", metavar="[[IP:]PORT", type=Where("", numeric=True), required=False)
@click.argument("local", metavar="HOST:PORT]", type=Where(None), required=False)
@mapping_options
@node_option_with_patience(lambda _arguments: NODE_SECONDS)
def expose(
    node: ztclient.Node,
    overlay: LocalAddress | None,
    local: LocalAddress | None,
    forwards: tuple[list[Forward], ...],
    exposes: tuple[list[Expose], ...],
    proxy_protocol: str | None,
    forwarded_for: bool,
) -> None:
    """Listen on the overlay and carry each connection to a local server at HOST:PORT (or unix:PATH), until Ctrl-C. -R
    and -L add more of them in the same process; connections that stand go on when it ends."""
    first: list[Expose] = []
    if isinstance(overlay, TcpAddress):
        if local is None:
            raise click.UsageError("to which HOST:PORT?")
        first = [Expose(overlay, local)]
    _run(node, flat(forwards), [*first, *flat(exposes)], proxy_protocol, forwarded_for)


def refuse_odd_words(proxy_protocol: str | None, forwarded_for: bool, exposes: Iterable[Expose]) -> None:
    """Raises click.UsageError where servers would be told of the peer in two ways, or by HTTP of datagrams."""
    if proxy_protocol is not None and forwarded_for:
        raise click.UsageError("--proxy-protocol or --forwarded-for, not both")
    if forwarded_for and any(expose.udp for expose in exposes):
        raise click.UsageError("--forwarded-for is for HTTP, and -R udp: carries datagrams")


def _run(
    node: ztclient.Node,
    forwards: list[Forward],
    exposes: list[Expose],
    proxy_protocol: str | None,
    forwarded_for: bool,
) -> None:
    if not forwards and not exposes:
        raise click.UsageError("nothing to carry: give two addresses, -L or -R")
    refuse_odd_words(proxy_protocol, forwarded_for, exposes)
    version = None if proxy_protocol is None else int(proxy_protocol)
    run_until_interrupted(_carry(node, forwards, exposes, version, forwarded_for))


async def _carry(
    node: ztclient.Node,
    forwards: list[Forward],
    exposes: list[Expose],
    proxy_protocol: int | None,
    forwarded_for: bool,
) -> None:
    from ztnode.forwarding.client_overlay import ClientOverlay
    from ztnode.forwarding.mappings import Mappings

    mappings = Mappings(
        ClientOverlay(node),
        forwards,
        exposes,
        lambda text: click.echo(f"ztnode: {printable(text)}", err=True),
        proxy_protocol=proxy_protocol,
        forwarded_for=forwarded_for,
    )
    try:
        for line in await mappings.open():
            click.echo(line, err=True)
        await mappings.run()
    finally:
        await mappings.close()
