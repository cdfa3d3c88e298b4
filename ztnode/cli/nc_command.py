"""ztnode nc: one connection of the overlay on standard input and output."""

from __future__ import annotations

import contextlib
import os
import socket
import sys
import threading

import click

import ztclient
from ztclient.forms import host_name, is_numeric, without_brackets
from ztnode.cli.common import SECONDS, Failure, describe, example, node_option, standard_output

CHUNK = 1 << 16


@click.command(
    short_help="Read and write one connection.",
    epilog=example(
        "ztnode nc 10.121.15.99 7 < question",
        "ssh -o ProxyCommand='ztnode nc %h %p' user@10.121.15.99",
        "ztnode nc -l 9000 > received",
    ),
)
@click.option(
    "-l", "--listen", is_flag=True, help="Wait for one connection to PORT, on the managed address HOST or all."
)
@click.option("-v", "--verbose", is_flag=True, help="Say on stderr who is connected.")
@click.option(
    "-w", "--wait", type=SECONDS, metavar="S", default=30.0, show_default=True, help="Seconds to connect, without -l."
)
@click.argument("where", metavar="[HOST] PORT", nargs=-1)
@node_option
def nc(node: ztclient.Node, listen: bool, verbose: bool, wait: float, where: tuple[str, ...]) -> None:
    """Connect to PORT of HOST, an address or a name, over the overlay; send standard input, print what comes. The end
    of standard input ends that direction, the peer's end ends the command."""
    if len(where) != 2 and not (listen and len(where) == 1):
        raise click.UsageError("HOST and PORT, or -l and PORT")
    port = int(where[-1]) if where[-1].isascii() and where[-1].isdigit() else -1
    if not (0 if listen else 1) <= port <= 65535:
        raise click.UsageError(f"{where[-1]!r} is not a port")
    try:
        host = "" if len(where) == 1 else without_brackets(where[0])
        if host and not is_numeric(host) and (listen or not host_name(host)):
            raise ValueError(f"{host!r} is not a numeric IP address")
    except ValueError as error:
        raise click.UsageError(str(error)) from None
    if listen:
        connected = _accept(node, host, port, verbose)
    else:
        connected = node.dial(host, port, wait)
        if verbose:
            click.echo(f"connected to {host} port {port}", err=True)
    with connected:
        _carry(connected)


def _accept(node: ztclient.Node, ip: str, port: int, verbose: bool) -> socket.socket:
    with node.listen(ip, port, backlog=1) as listener:
        if verbose or not port:
            bound = listener.getsockname()
            click.echo(f"listening on {bound[0] or '*'} port {bound[1]}", err=True)
        connected, peer = listener.accept()
    if verbose:
        click.echo(f"connection from {peer[0]} port {peer[1]}", err=True)
    return connected


def _carry(connected: socket.socket) -> None:
    # A thread that reads standard input cannot be ended: it goes with the process.
    threading.Thread(target=_send_input, args=(connected,), daemon=True).start()
    output = standard_output()
    while True:
        try:
            data = connected.recv(CHUNK)
        except OSError as error:
            raise Failure(f"the connection failed: {describe(error)}") from None
        if not data:
            return
        output.write(data)
        output.flush()


def _send_input(connected: socket.socket) -> None:
    with contextlib.suppress(OSError):  # what ended the connection is told by who reads from it
        while data := os.read(sys.stdin.fileno(), CHUNK):
            connected.sendall(data)
        connected.shutdown(socket.SHUT_WR)
