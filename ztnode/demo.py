"""What ``ztnode demo`` does: a network of one's own on this machine, and a page that goes over it from node to node."""

from __future__ import annotations

import hashlib
import http.server
import os
import threading
import time
from collections.abc import Generator, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import ztclient
from ztnode.embedded import EmbeddedError, EmbeddedNetwork

PORT: Final = 5380
PAGE: Final = b"<!doctype html><title>ztnode</title><p>This page came over a ZeroTier network.\n"
BULK: Final = 16 << 20
"""Bytes of the second download."""
JOIN_TIMEOUT: Final = 15.0
REQUEST_TIMEOUT: Final = 10.0


@dataclass(frozen=True, slots=True)
class Step:
    """Something that was done: when, in seconds since the start, how long it took, and what came of it."""

    at: float
    seconds: float
    what: str
    result: str


class _Page(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    bulk = os.urandom(1 << 20) * (BULK >> 20)

    def do_GET(self) -> None:
        """``/`` is a page, ``/bulk`` many bytes."""
        body = self.bulk if self.path == "/bulk" else PAGE
        self.send_response(200)
        self.send_header("Content-Type", "text/html" if body is PAGE else "application/octet-stream")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: object) -> None:
        """The demo tells its own story."""


class _Clock:
    def __init__(self) -> None:
        self._start = self._last = time.perf_counter()

    def step(self, what: str, result: str) -> Step:
        """What was done since the last step."""
        now = time.perf_counter()
        taken, self._last = now - self._last, now
        return Step(round(now - self._start, 3), round(taken, 4), what, result)


def demo(directory: Path) -> Generator[Step, None, None]:
    """Run the demo in an empty directory, a step at a time; closing the iterator ends all that it started.

    Raises EmbeddedError when a node does not do what it should, OSError when a connection fails.
    """
    clock = _Clock()
    with EmbeddedNetwork(directory) as network:
        root = network.controller.node.status()
        yield clock.step("start a root and network controller", f"node {root.address}")
        nwid = network.create(name="demo")
        yield clock.step("create a network", nwid)
        serving, fetching = network.add_all("alpha", "beta")
        addresses = [member.wait_online().address for member in (serving, fetching)]
        yield clock.step("start two nodes with new identities", f"{' and '.join(addresses)} are online")
        ips = [_join(member.node, nwid) for member in (serving, fetching)]
        yield clock.step("join both to the network", f"they are {' and '.join(ips)}")
        with ztclient.HTTPServer((ips[0], PORT), _Page, node=serving.node) as server:
            thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True)
            thread.start()
            url = f"http://{ips[0]}:{PORT}/"
            yield clock.step("serve a page on one", url)
            try:
                yield from _fetch(clock, ips[0], fetching.node, url)
            finally:
                server.shutdown()
                thread.join()
    yield clock.step("stop everything", "no process is left")


def _join(node: ztclient.Node, nwid: str) -> str:
    for address in node.join(nwid, JOIN_TIMEOUT).addresses:
        if ":" not in address:
            return address.partition("/")[0]
    raise EmbeddedError(f"the controller gave {node.status().address} no IPv4 address")


def _fetch(clock: _Clock, ip: str, node: ztclient.Node, url: str) -> Iterator[Step]:
    connection = ztclient.HTTPConnection(ip, PORT, timeout=REQUEST_TIMEOUT, node=node)
    connection.connect()
    yield clock.step("connect from the other", _link(node))
    connection.request("GET", "/")
    response = connection.getresponse()
    page = response.read()
    if page != PAGE:
        raise EmbeddedError(f"{url} gave another page than was served")
    yield clock.step(
        "fetch the page", f"{response.status} {response.reason}, {len(page)} bytes: {page.decode().strip()}"
    )
    started = time.perf_counter()
    connection.request("GET", "/bulk")
    response = connection.getresponse()
    digest = hashlib.sha256()
    while part := response.read(1 << 18):
        digest.update(part)
    rate = BULK / 1e6 / (time.perf_counter() - started)
    connection.close()
    if digest.digest() != hashlib.sha256(_Page.bulk).digest():
        raise EmbeddedError("the bytes that arrived are not those that were sent")
    yield clock.step(f"fetch {BULK >> 20} MiB", f"{rate:.0f} MB/s, the SHA-256 agrees")


def _link(node: ztclient.Node) -> str:
    leaves = [peer for peer in node.peers() if peer.role == "leaf"]
    return "direct path" if any(peer.direct for peer in leaves) else "relayed by the root so far"
