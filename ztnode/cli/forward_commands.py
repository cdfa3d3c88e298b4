"""ztnode forward and ztnode expose: local programs that know nothing of the overlay, reached over it."""

from __future__ import annotations

import contextlib
import socket
import threading
from collections.abc import Callable

import click

import ztclient
from ztclient.forms import numeric_ip, split_host_port
from ztclient.loopback import reset_on_close, tuned
from ztnode.cli.common import Parameter, describe, example, node_option

CHUNK = 1 << 18

HostPort = tuple[str, int]


class HostAndPort(Parameter[HostPort]):
    """``HOST:PORT``, ``[v6]:PORT`` or ``PORT``. With ``numeric`` the host is an IP address."""

    name = "host:port"

    def __init__(self, default_host: str | None, *, numeric: bool = False) -> None:
        self._default_host = default_host
        self._numeric = numeric

    def convert(self, value: str | HostPort, param: click.Parameter | None, ctx: click.Context | None) -> HostPort:
        """See click.ParamType."""
        if isinstance(value, tuple):
            return value
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
        return host, port


@click.command(
    short_help="Carry a local port over the overlay.",
    epilog=example("ztnode forward 8080 10.121.15.99:5380", "curl http://127.0.0.1:8080/"),
)
@click.argument("local", metavar="[HOST:]PORT", type=HostAndPort("127.0.0.1"))
@click.argument("remote", metavar="IP:PORT", type=HostAndPort(None, numeric=True))
@node_option
def forward(node: ztclient.Node, local: HostPort, remote: HostPort) -> None:
    """Listen on a local port and carry each connection over the overlay to IP:PORT, until Ctrl-C."""
    family = socket.AF_INET6 if ":" in local[0] else socket.AF_INET
    with socket.create_server(local, family=family) as listener:
        bound = listener.getsockname()
        click.echo(f"forwarding {bound[0]} port {bound[1]} to {remote[0]} port {remote[1]}", err=True)
        while True:
            near, _peer = listener.accept()
            _start(near, lambda: node.create_connection(remote), remote)


@click.command(short_help="Offer a local server on the overlay.", epilog=example("ztnode expose 80 127.0.0.1:8000"))
@click.argument("overlay", metavar="[IP:]PORT", type=HostAndPort("", numeric=True))
@click.argument("local", metavar="HOST:PORT", type=HostAndPort(None))
@node_option
def expose(node: ztclient.Node, overlay: HostPort, local: HostPort) -> None:
    """Listen on the overlay and carry each connection to a local server at HOST:PORT, until Ctrl-C."""
    with node.listen(*overlay) as listener:
        bound = listener.getsockname()
        click.echo(f"exposing {local[0]} port {local[1]} at {bound[0] or '*'} port {bound[1]}", err=True)
        while True:
            near, _peer = listener.accept()
            _start(near, lambda: socket.create_connection(local, 10), local)


def _start(near: socket.socket, dial: Callable[[], socket.socket], target: HostPort) -> None:
    threading.Thread(target=_carry, args=(near, dial, target), daemon=True).start()


def _carry(near: socket.socket, dial: Callable[[], socket.socket], target: HostPort) -> None:
    """One connection from its first byte to its last, half-close and reset included."""
    try:
        far = dial()
    except OSError as error:
        click.echo(f"ztnode: {target[0]} port {target[1]}: {describe(error)}", err=True)
        reset_on_close(near)
        near.close()
        return
    for each in (near, far):
        tuned(each)
    # Both are needed again: the other direction may still run when one is through.
    with near, far:
        other = threading.Thread(target=_copy, args=(far, near), daemon=True)
        other.start()
        _copy(near, far)
        other.join()


def _copy(source: socket.socket, sink: socket.socket) -> None:
    try:
        while data := source.recv(CHUNK):
            sink.sendall(data)
        sink.shutdown(socket.SHUT_WR)
    except OSError:
        # A reset goes on as a reset. Waking both makes the other direction end too.
        for each in (source, sink):
            reset_on_close(each)
            with contextlib.suppress(OSError):
                each.shutdown(socket.SHUT_RD)
