"""What local programs say to a proxy, and what a server behind a port is told: SOCKS5, SOCKS4a, HTTP and PROXY, no I/O.

``ProxyServer`` is one client's handshake, whichever of the three protocols it speaks. Its owner feeds it what arrives,
sends what it has to say, dials the ``request`` that comes out and reports how that went.
"""

from ztnode.proxy.proxy_server import ProxyServer
from ztnode.proxy.request import BadHandshake, Command, Refusal, Request

__all__ = ["BadHandshake", "Command", "ProxyServer", "Refusal", "Request"]
