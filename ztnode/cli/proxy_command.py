"""ztnode proxy: SOCKS5, SOCKS4a and HTTP for programs that can be told of a proxy."""

from __future__ import annotations

from pathlib import Path

import click

import ztclient
from ztnode.cli.common import EXISTING_FILE, NODE_SECONDS, example, node_option_with_patience
from ztnode.cli.forward_commands import Where
from ztnode.cli.on_loop import run_until_interrupted
from ztnode.forwarding import LocalAddress, TcpAddress

PROXY_ADDRESS = Where("127.0.0.1", tcp=True)


@click.command(
    short_help="A SOCKS and HTTP proxy onto the overlay.",
    epilog=example(
        "ztnode proxy --listen 127.0.0.1:1080",
        "curl --proxy socks5h://127.0.0.1:1080 http://10.121.15.99:5380/",
        "curl --proxy http://127.0.0.1:1080 http://10.121.15.99:5380/",
    ),
)
@click.option(
    "--listen",
    type=PROXY_ADDRESS,
    default="127.0.0.1:1080",
    show_default=True,
    metavar="[IP:]PORT",
    help="Where; beyond loopback only with credentials.",
)
@click.option(
    "--credentials",
    type=EXISTING_FILE,
    metavar="FILE",
    help="One line NAME:PASSWORD that clients must know. [env: ZTNODE_PROXY_CREDENTIALS, the line itself]",
)
@click.option(
    "--direct", is_flag=True, help="Let the host dial what no managed route leads to, instead of refusing it."
)
@node_option_with_patience(lambda _arguments: NODE_SECONDS)
def proxy(node: ztclient.Node, listen: LocalAddress, credentials: Path | None, direct: bool) -> None:
    """Serve SOCKS5, SOCKS4a, HTTP CONNECT and plain HTTP requests on one port, until Ctrl-C."""
    assert isinstance(listen, TcpAddress)
    import uvloop

    run_until_interrupted(_serve(node, listen, credentials, direct), uvloop.new_event_loop)


async def _serve(node: ztclient.Node, address: TcpAddress, credentials: Path | None, direct: bool) -> None:
    from ztnode.forwarding import admission
    from ztnode.forwarding.client_overlay import ClientOverlay
    from ztnode.forwarding.local import listen
    from ztnode.forwarding.proxy_service import ProxyService

    check_password = admission.load(credentials)
    admission.check_address(address, check_password)
    with listen(address) as listener:
        bound = TcpAddress(*listener.getsockname()[:2])
        click.echo(f"proxy at {bound} for SOCKS5, SOCKS4a and HTTP", err=True)
        await ProxyService(ClientOverlay(node), check_password=check_password, direct=direct).run(listener)
