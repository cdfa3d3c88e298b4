"""A thin client of a running ztnode: sockets and http.client over a ZeroTier network.

    import ztclient

    connection = ztclient.HTTPConnection("10.121.15.99", 5380)
    connection.request("GET", "/")
    print(connection.getresponse().read())

With no further argument the node is found as ``ztclient.discovery`` says. A dialled or accepted connection is a real,
connected ``socket.socket``: timeouts, ``ssl``, ``select``, asyncio and every HTTP library work on it unchanged. It is a
local socket, whose other end the node's stack holds: ``getpeername()`` of a dialled one gives the address on the
overlay, but a loopback address where the node is reached by TCP.
"""

from __future__ import annotations

import importlib
import os
from typing import TYPE_CHECKING, Any, Final

from ztclient.default_timeout import DEFAULT_TIMEOUT
from ztclient.errors import (
    AuthenticationError,
    Error,
    ForeignNameError,
    JoinTimeoutError,
    NodeUnavailableError,
    NotFoundError,
)

if TYPE_CHECKING:
    import socket

    from ztclient.datagrams import DatagramSocket
    from ztclient.launch import run
    from ztclient.listener import Listener
    from ztclient.model import (
        Connection,
        Gateway,
        GatewayRoute,
        ManagedAddress,
        Moon,
        MoonRoot,
        Network,
        NetworkRules,
        Path,
        Peer,
        Route,
        Status,
        Whois,
        Worker,
    )
    from ztclient.node import Node
    from ztclient.patching import patch
    from ztclient.web import HTTPConnection, HTTPSConnection, HTTPServer

# ztclient.socket and its like: see there.
__path__ += [f"{__path__[0]}/standard"]

# It would tell of each fork on the application's stderr. gRPC reads this when it is imported.
os.environ.setdefault("GRPC_VERBOSITY", "ERROR")

__all__ = [
    "AuthenticationError",
    "Connection",
    "DatagramSocket",
    "Error",
    "ForeignNameError",
    "Gateway",
    "GatewayRoute",
    "HTTPConnection",
    "HTTPSConnection",
    "HTTPServer",
    "JoinTimeoutError",
    "Listener",
    "ManagedAddress",
    "Moon",
    "MoonRoot",
    "Network",
    "NetworkRules",
    "Node",
    "NodeUnavailableError",
    "NotFoundError",
    "Path",
    "Peer",
    "Route",
    "Status",
    "Whois",
    "Worker",
    "create_connection",
    "create_server",
    "patch",
    "run",
]


def create_connection(
    address: tuple[str | None, int | str],
    timeout: float | None = DEFAULT_TIMEOUT,
    source_address: tuple[str, int] | None = None,
    *,
    all_errors: bool = False,  # noqa: ARG001 (the original takes it)
    node: Node | str | None = None,
) -> socket.socket:
    """As ``socket.create_connection``: a connected TCP socket, here to a host on the overlay.

    ``timeout``: seconds, for connecting and as the socket's own timeout (left out: ``socket.getdefaulttimeout()``;
    None: none). ``source_address``: a managed IP of the node, which chooses the network, and port 0. ``all_errors``
    changes nothing: the node tries the addresses of a name, side by side. ``node``: a Node or its address; left out,
    it is found.

    Raises what the original raises: ConnectionRefusedError, TimeoutError, OSError (EHOSTUNREACH...), socket.gaierror
    for what is no name of the overlay (see ``Node.resolve``); and NodeUnavailableError, an OSError, without a node.
    """
    chosen = _node(node)
    return chosen.create_connection(address, timeout, source_address)


def create_server(address: tuple[str, int], *, backlog: int | None = None, node: Node | str | None = None) -> Listener:
    """As ``socket.create_server``: a listener on a managed address (empty: on all of them), port 0: any free one."""
    chosen = _node(node)
    return chosen.listen(address[0], address[1], backlog=128 if backlog is None else backlog)


def _node(node: Node | str | None) -> Node:
    from ztclient.node import Node

    return node if isinstance(node, Node) else Node(node)


# Looked up at first use: http.client alone takes longer to import than all the rest, and who needs the forms of
# addresses (the node process does) needs no sockets.
_HOMES: Final = {
    "datagrams": ("DatagramSocket",),
    "launch": ("run",),
    "listener": ("Listener",),
    "model": (
        "Connection",
        "Gateway",
        "GatewayRoute",
        "ManagedAddress",
        "Moon",
        "MoonRoot",
        "Network",
        "NetworkRules",
        "Path",
        "Peer",
        "Route",
        "Status",
        "Whois",
        "Worker",
    ),
    "node": ("Node",),
    "patching": ("patch",),
    "web": ("HTTPConnection", "HTTPSConnection", "HTTPServer"),
}


def __getattr__(name: str) -> Any:
    if name == "socket":
        return importlib.import_module("ztclient.socket")
    for module, names in _HOMES.items():
        if name in names:
            value = getattr(importlib.import_module(f"ztclient.{module}"), name)
            globals()[name] = value
            return value
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
