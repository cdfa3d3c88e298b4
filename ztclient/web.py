"""``http.client`` and ``http.server`` over the overlay: subclasses that get their sockets from a node."""

from __future__ import annotations

import http.client
import http.server
import socketserver
from collections.abc import Callable
from typing import Any

from ztclient.node import Node


def as_node(node: Node | str | None) -> Node:
    """The node that an argument names: itself, one by its address, or the one that is found without."""
    return node if isinstance(node, Node) else Node(node)


class _OverNode(http.client.HTTPConnection):
    """Takes its sockets from a node.

    http.client keeps the function that makes its sockets in the instance attribute ``_create_connection``; connect(),
    and with it set_tunnel, source_address and TLS, uses whatever stands there.
    """

    def __init__(self, *args: Any, node: Node | str | None = None, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)

        # The node is looked for when it is needed: making a connection object must not fail for want of a node.
        def create_connection(address: Any, timeout: Any, source_address: Any = None) -> Any:
            return as_node(node).create_connection(address, timeout, source_address)

        self._create_connection = create_connection


class HTTPConnection(_OverNode):
    """``http.client.HTTPConnection`` over the overlay. ``node``: a Node or its address; left out, it is found."""


class HTTPSConnection(_OverNode, http.client.HTTPSConnection):
    """``http.client.HTTPSConnection`` over the overlay. ``node``: a Node or its address; left out, it is found.

    The certificate must name the host as it was given, unless the SSL context is told not to check.
    """


class HTTPServer(http.server.ThreadingHTTPServer):
    """``http.server.ThreadingHTTPServer`` that listens on the overlay."""

    def __init__(
        self,
        server_address: tuple[str, int],
        handler: Callable[[Any, Any, socketserver.BaseServer], socketserver.BaseRequestHandler],
        *,
        node: Node | str | None = None,
    ) -> None:
        """``server_address``: a managed IP of the node (empty: all of them) and a port (0: any). Raises OSError."""
        self._node = as_node(node)
        socketserver.BaseServer.__init__(self, server_address, handler)
        listener: Any = self._node.listen(server_address[0], server_address[1], backlog=self.request_queue_size)
        self.socket = listener
        self.server_address = listener.getsockname()
        self.server_name, self.server_port = listener.getsockname()
