"""What local programs say to a proxy, and what a server behind a port is told: SOCKS5, SOCKS4a, HTTP and PROXY, no I/O.

``ProxyServer`` is one client's handshake, whichever of the three protocols it speaks. Its owner feeds it what arrives,
sends what it has to say, dials the ``request`` that comes out and reports how that went.
"""

from ztnode.proxy.request import Command, Failure, ProtocolError, Request
from ztnode.proxy.server import ProxyServer

__all__ = ["Command", "Failure", "ProtocolError", "ProxyServer", "Request"]
