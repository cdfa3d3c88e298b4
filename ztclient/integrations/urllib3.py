"""urllib3 over the overlay, from its release 2.2 on.

from ztclient.integrations.urllib3 import PoolManager

with PoolManager() as http:
    print(http.request("GET", "http://10.121.15.99:5380/").status)
"""

from __future__ import annotations

import socket
import ssl
from typing import Any

import urllib3
import urllib3.connection
from urllib3.exceptions import ConnectTimeoutError, NameResolutionError, NewConnectionError
from urllib3.util import ssl_

from ztclient.default_timeout import DEFAULT_TIMEOUT
from ztclient.node import Node
from ztclient.web import as_node


class HTTPConnection(urllib3.connection.HTTPConnection):
    """A connection of a pool; ``node`` is the class attribute that names the node."""

    node: Node | str | None = None

    def connect(self) -> None:
        """Dial. Raises ConnectTimeoutError, NameResolutionError, NewConnectionError."""
        self.sock = dial(self, self.node)


class HTTPSConnection(urllib3.connection.HTTPSConnection):
    """A connection of a pool; ``node`` is the class attribute that names the node."""

    node: Node | str | None = None

    def connect(self) -> None:
        """Dial, and shake hands. Raises as HTTPConnection.connect, and SSLError."""
        self.sock = plain = dial(self, self.node)
        try:
            self.sock = self._over_tls(plain)
        except BaseException:
            plain.close()
            raise

    def _over_tls(self, plain: socket.socket) -> ssl.SSLSocket:
        requirement = ssl_.resolve_cert_reqs(self.cert_reqs)
        context = self.ssl_context
        if context is None:
            context = ssl_.create_urllib3_context(
                ssl_version=ssl_.resolve_ssl_version(self.ssl_version) if self.ssl_version else None,
                ssl_minimum_version=self.ssl_minimum_version,
                ssl_maximum_version=self.ssl_maximum_version,
                cert_reqs=requirement,
            )
            if not (self.ca_certs or self.ca_cert_dir or self.ca_cert_data):
                context.load_default_certs()
        by_name = requirement != ssl.CERT_NONE and not self.assert_fingerprint and self.assert_hostname is not False
        context.check_hostname = False  # verify_mode can be none only then
        context.verify_mode = requirement
        context.check_hostname = by_name
        wrapped = ssl_.ssl_wrap_socket(
            sock=plain,
            keyfile=self.key_file,
            certfile=self.cert_file,
            key_password=self.key_password,
            ca_certs=self.ca_certs,
            ca_cert_dir=self.ca_cert_dir,
            ca_cert_data=self.ca_cert_data,
            server_hostname=(self.assert_hostname or self.server_hostname or self.host).rstrip(".").strip("[]"),
            ssl_context=context,
        )
        if self.assert_fingerprint:
            ssl_.assert_fingerprint(wrapped.getpeercert(binary_form=True), self.assert_fingerprint)
        self.is_verified = requirement == ssl.CERT_REQUIRED or bool(self.assert_fingerprint)
        assert isinstance(wrapped, ssl.SSLSocket)
        return wrapped


class PoolManager(urllib3.PoolManager):
    """``urllib3.PoolManager`` over the overlay. ``node``: a Node or its address; left out, it is found."""

    def __init__(self, *args: Any, node: Node | str | None = None, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.pool_classes_by_scheme = {
            "http": type(
                "OverlayHTTPConnectionPool",
                (urllib3.HTTPConnectionPool,),
                {"ConnectionCls": type("HTTPConnection", (HTTPConnection,), {"node": node})},
            ),
            "https": type(
                "OverlayHTTPSConnectionPool",
                (urllib3.HTTPSConnectionPool,),
                {"ConnectionCls": type("HTTPSConnection", (HTTPSConnection,), {"node": node})},
            ),
        }


def dial(connection: Any, node: Node | str | None) -> socket.socket:
    """A connected socket for a connection of urllib3. Raises its exceptions."""
    timeout = connection.timeout
    if timeout is not None and not isinstance(timeout, int | float):
        timeout = DEFAULT_TIMEOUT
    host = connection.host.strip("[]")
    try:
        connected = as_node(node).create_connection((host, connection.port), timeout, connection.source_address)
    except socket.gaierror as error:
        raise NameResolutionError(connection.host, connection, error) from error
    except TimeoutError as error:
        message = f"Connection to {connection.host} timed out. (connect timeout={connection.timeout})"
        raise ConnectTimeoutError(connection, message) from error
    except OSError as error:
        raise NewConnectionError(connection, f"Failed to establish a new connection: {error}") from error
    for option in connection.socket_options or ():
        connected.setsockopt(*option)
    return connected
