"""Multicast and broadcast between two real nodes: mDNS with the zeroconf package, SSDP's way, and each by hand."""

from __future__ import annotations

import contextlib
import socket
from collections.abc import Iterator

import pytest
import zeroconf

import ztclient
import ztclient.sockets
from tests.system.harness import Overlay, ipv4

SERVICE = "_ztnode._tcp.local."


@pytest.fixture
def ours(overlay: Overlay) -> str:
    """beta's address."""
    return ipv4(overlay.beta, overlay.nwid)


@contextlib.contextmanager
def datagrams(of: ztclient.Node) -> Iterator[socket.socket]:
    """A UDP socket as ``ztclient.socket`` makes it, on one node of several in this process."""

    class OfNode(ztclient.sockets.UdpSocket):
        node = staticmethod(lambda: of)

    with OfNode(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        sock.settimeout(20)
        yield sock


def test_a_service_registered_on_one_node_is_found_on_the_other(overlay: Overlay, ours: str) -> None:
    info = zeroconf.ServiceInfo(
        SERVICE,
        f"printer.{SERVICE}",
        addresses=[socket.inet_aton(overlay.ip)],
        port=631,
        properties={"paper": "A4"},
        server="alpha.local.",
    )
    # The sockets are made while it is patched, and stay what they are.
    with ztclient.patch(overlay.alpha.node):
        there = zeroconf.Zeroconf(interfaces=[overlay.ip])
    with ztclient.patch(overlay.beta.node):
        here = zeroconf.Zeroconf(interfaces=[ours])
    with contextlib.closing(there), contextlib.closing(here):
        there.register_service(info)
        found = here.get_service_info(SERVICE, f"printer.{SERVICE}", timeout=20_000)
        assert found is not None
        assert found.parsed_addresses() == [overlay.ip] and found.port == 631
        assert found.properties == {b"paper": b"A4"}


def test_ssdp_search(overlay: Overlay, ours: str) -> None:
    """A device bound to the group, as many are; the answer comes as unicast."""
    group = ("239.255.255.250", 1900)
    with datagrams(overlay.alpha.node) as device, datagrams(overlay.beta.node) as search:
        device.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        device.bind(group)
        membership = socket.inet_aton(group[0]) + socket.inet_aton(overlay.ip)
        device.setsockopt(socket.IPPROTO_IP, socket.IP_ADD_MEMBERSHIP, membership)
        search.setsockopt(socket.IPPROTO_IP, socket.IP_MULTICAST_TTL, 2)
        search.sendto(b"M-SEARCH * HTTP/1.1\r\n\r\n", group)
        data, address = device.recvfrom(1000)
        assert data.startswith(b"M-SEARCH") and address[0] == ours
        device.sendto(b"HTTP/1.1 200 OK\r\n\r\n", address)
        assert search.recvfrom(1000) == (b"HTTP/1.1 200 OK\r\n\r\n", (overlay.ip, 1900))


def test_broadcast(overlay: Overlay, ours: str) -> None:
    with overlay.alpha.node.open_udp() as server, overlay.beta.node.open_udp() as client:
        server.settimeout(20)
        port = server.getsockname()[1]
        with pytest.raises(PermissionError):
            client.sendto(b"x", ("255.255.255.255", port))
        client.setsockopt(socket.SOL_SOCKET, socket.SO_BROADCAST, 1)
        client.sendto(b"to all", ("255.255.255.255", port))
        assert server.recvfrom(100) == (b"to all", (ours, client.getsockname()[1]))
