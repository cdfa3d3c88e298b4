"""Our node against libzt, a ZeroTier core that this project did not write, on our own root and controller."""

from __future__ import annotations

import errno
import hashlib
import random
import socket
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

import ztclient
from tests.interop.processes import Site, Talker
from tests.system.harness import identities
from ztclient.controller import Controller
from ztnode.embedded import EmbeddedNetwork

LIBZT_PORT = 29994
HTTP_PORT = 5380
DOWNLOAD = 16 << 20
UPLOAD = 4 << 20
TIMEOUT = 60.0


@dataclass
class Meeting:
    """A node of ours and a libzt server on one private network."""

    node: ztclient.Node
    libzt: Talker
    libzt_ip: str
    body: bytes


def applicant(controller: Controller, nwid: str) -> str:
    """The address of the first node that waits for authorization."""
    deadline = time.monotonic() + TIMEOUT
    while time.monotonic() < deadline:
        for member in controller.members(nwid):
            if not member.authorized:
                return member.address
        time.sleep(0.1)
    pytest.fail(f"nobody asked for membership within {TIMEOUT:.0f} s")


def until_reachable(node: ztclient.Node, address: str) -> None:
    """Wait until libzt answers ARP: it looks every five seconds for what it should subscribe to."""
    deadline = time.monotonic() + TIMEOUT
    while True:
        try:
            node.create_connection((address, HTTP_PORT), timeout=TIMEOUT).close()
            return
        except OSError as error:
            if error.errno != errno.EHOSTUNREACH or time.monotonic() > deadline:
                raise


@pytest.fixture(scope="module")
def meeting(site: Site, libzt: Callable[[str, Path, int], Talker], folder: Path) -> Iterator[Meeting]:
    """``ztnode serve --root --controller``, ``ztnode serve`` as a member, and libzt, all authorized and joined."""
    body = random.Random(16).randbytes(DOWNLOAD)
    (folder / "body").write_bytes(body)
    directory = folder / "network"
    directory.mkdir()
    with EmbeddedNetwork(directory, host=site.address, prefix=site.prefix, identities=identities()) as network:
        nwid = network.create(private=True)
        controller = Controller(network.controller.node)
        member = network.add("member", prefix=site.prefix)
        peer = libzt("libzt", network.planet, LIBZT_PORT)
        controller.authorize(nwid, member.wait_online().address)
        peer.tell(do="join", nwid=nwid)
        member.node.join(nwid, wait=TIMEOUT)
        controller.authorize(nwid, applicant(controller, nwid))
        address = peer.expect("joined", TIMEOUT)["addresses"][0]
        peer.do("serving", do="serve", port=HTTP_PORT, body=str(folder / "body"))
        until_reachable(member.node, address)
        yield Meeting(member.node, peer, address, body)


@pytest.mark.timeout(240)
def test_bytes_pass_whole_both_ways(meeting: Meeting) -> None:
    """16 MB from libzt and 4 MB to it over one TCP connection: the SHA-256 agrees. A closed port refuses."""
    connection = ztclient.HTTPConnection(meeting.libzt_ip, HTTP_PORT, timeout=TIMEOUT, node=meeting.node)
    connection.request("GET", "/")
    response = connection.getresponse()
    assert response.status == 200
    received = response.read()
    assert len(received) == DOWNLOAD
    assert hashlib.sha256(received).digest() == hashlib.sha256(meeting.body).digest()

    upload = meeting.body[:UPLOAD]
    connection.request("PUT", "/", body=upload)
    assert connection.getresponse().read().decode() == hashlib.sha256(upload).hexdigest()
    connection.close()

    with pytest.raises(ConnectionRefusedError):
        meeting.node.create_connection((meeting.libzt_ip, HTTP_PORT + 1), timeout=TIMEOUT)


@pytest.mark.timeout(240)
def test_libzt_fetches_from_our_node(meeting: Meeting) -> None:
    """libzt as the client: our stack listens, accepts and sends."""
    nwid = meeting.node.networks()[0].nwid
    ip = meeting.node.ips(nwid)[0]
    body = meeting.body[:UPLOAD]
    with meeting.node.listen(ip, HTTP_PORT) as listener:
        meeting.libzt.tell(do="get", host=ip, port=HTTP_PORT)
        connection, _ = listener.accept()
        with connection:
            connection.settimeout(TIMEOUT)
            head = b""
            while b"\r\n\r\n" not in head:
                head += connection.recv(4096)
            connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % len(body) + body)
            connection.shutdown(socket.SHUT_WR)
            got = meeting.libzt.expect("got", TIMEOUT)
    assert got["sha256"] == hashlib.sha256(body).hexdigest()
