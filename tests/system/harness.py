"""What the system tests share: a network's parts, and content whose damage shows."""

from __future__ import annotations

import contextlib
import hashlib
import http.server
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import ztclient
from ztnode.embedded import EmbeddedMember, EmbeddedNetwork
from ztnode.wire.computed_ipv6 import rfc4193_address
from ztnode.wire.identity import Identity

PORT = 5380
JOIN_TIMEOUT = 30.0


@dataclass(frozen=True, slots=True)
class Overlay:
    """Two members of one network: ``alpha`` serves HTTP at ``ip``, ``beta`` is the one to dial from."""

    network: EmbeddedNetwork
    nwid: str
    alpha: EmbeddedMember
    beta: EmbeddedMember
    ip: str


def identities() -> Iterator[Identity]:
    """Identities that zerotier-idtool made once: to make one takes seconds. No two of one network may be the same."""
    pool = Path(__file__).parents[1] / "vectors/vl1/pool.txt"
    return map(Identity.parse_text, pool.read_text().splitlines())


def until(condition: Callable[[], object], seconds: float = 60.0, what: str = "did not come to pass") -> None:
    """Wait for ``condition()`` to hold; how long that takes decides nothing, unless it is for ever."""
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, what
        time.sleep(0.02)


class Handler(http.server.BaseHTTPRequestHandler):
    """GET /N answers N bytes; PUT answers the body's SHA-256."""

    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        body = content(int(self.path.strip("/") or 0))
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def do_PUT(self) -> None:
        digest, left = hashlib.sha256(), int(self.headers["Content-Length"])
        while left and (part := self.rfile.read1(left)):
            digest.update(part)
            left -= len(part)
        body = digest.hexdigest().encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: object) -> None:
        pass


def content(size: int) -> bytes:
    """The body of GET /size: no two blocks alike, so that a lost or doubled one shows."""
    blocks = (hashlib.sha256(index.to_bytes(8, "big")).digest() * 128 for index in range(-(-size // 4096)))
    return b"".join(blocks)[:size]


def ipv4(member: EmbeddedMember, nwid: str) -> str:
    """The member's managed IPv4 address, joining if need be."""
    addresses = member.node.join(nwid, JOIN_TIMEOUT).addresses
    return next(address.partition("/")[0] for address in addresses if ":" not in address)


def absent_ipv6(nwid: str) -> str:
    """The RFC 4193 address of a member that there is not."""
    return str(rfc4193_address(int(nwid, 16), 0x0123456789).ip)


@contextlib.contextmanager
def overlay_in(folder: Path) -> Iterator[Overlay]:
    """A whole network on loopback, up and joined, with a web server on alpha."""
    with EmbeddedNetwork(folder, identities=identities()) as network:
        nwid = network.create()
        alpha, beta = network.add_all("alpha", "beta")
        alpha.wait_online()
        beta.wait_online()
        ip = ipv4(alpha, nwid)
        ipv4(beta, nwid)
        with ztclient.HTTPServer((ip, PORT), Handler, node=alpha.node) as server:
            thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05})
            thread.start()
            yield Overlay(network, nwid, alpha, beta, ip)
            server.shutdown()
            thread.join()
