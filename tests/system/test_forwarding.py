"""Ports that a node carries itself, and its proxy, over the real overlay."""

from __future__ import annotations

import contextlib
import socket
import threading
from collections.abc import Iterator

import pytest

from tests.system.harness import PORT, Overlay, content, ipv4, until
from ztclient.controller import Controller
from ztnode.embedded import EmbeddedMember, free_port

UDP_PORT = free_port()
"""Of loopback, for the carrier's forward of datagrams."""


@pytest.fixture(scope="module")
def server() -> Iterator[socket.socket]:
    """A server of this machine that the node exposes."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        listener.settimeout(30)
        yield listener


@pytest.fixture(scope="module")
def carrier(overlay: Overlay, server: socket.socket) -> Iterator[tuple[EmbeddedMember, str, int, int]]:
    """A node with a forward, an expose and a proxy of its own: itself, its address and the two ports."""
    forward, proxy = free_port(), free_port()
    member = overlay.network.add(
        "carrier",
        *("--join", overlay.nwid, "-L", f"{forward}:{overlay.ip}:{PORT}"),
        *("-L", f"udp:{UDP_PORT}:{overlay.ip}:9090", "-R", f"udp:9091:127.0.0.1:{server.getsockname()[1]}"),
        *("-R", f"7070:127.0.0.1:{server.getsockname()[1]}", "--proxy-protocol", "1", "--proxy", str(proxy)),
    )
    try:
        member.wait_online()
        yield member, ipv4(member, overlay.nwid), forward, proxy
    finally:
        overlay.network.members.pop("carrier").stop()


def page(connected: socket.socket, target: str) -> bytes:
    """The body that GET ``target`` brings, to the end of the stream."""
    connected.settimeout(30)
    connected.sendall(f"GET {target} HTTP/1.0\r\n\r\n".encode())
    data = bytearray()
    while part := connected.recv(1 << 16):
        data += part
    return bytes(data).partition(b"\r\n\r\n")[2]


def test_the_forward(carrier: tuple[EmbeddedMember, str, int, int]) -> None:
    with socket.create_connection(("127.0.0.1", carrier[2]), 30) as connected:
        assert page(connected, "/3000000") == content(3_000_000)


def test_the_proxy_by_connect_and_in_absolute_form(
    overlay: Overlay, carrier: tuple[EmbeddedMember, str, int, int]
) -> None:
    with socket.create_connection(("127.0.0.1", carrier[3]), 30) as connected:
        connected.sendall(f"CONNECT {overlay.ip}:{PORT} HTTP/1.1\r\n\r\n".encode())
        answer = b""
        while not answer.endswith(b"\r\n\r\n"):
            answer += connected.recv(1)
        assert answer.startswith(b"HTTP/1.1 200")
        assert page(connected, "/3000000") == content(3_000_000)
    with socket.create_connection(("127.0.0.1", carrier[3]), 30) as connected:
        assert page(connected, f"http://{overlay.ip}:{PORT}/100000") == content(100_000)
    # No network has a route to it, and the node was not told to let the host dial.
    with socket.create_connection(("127.0.0.1", carrier[3]), 30) as connected:
        assert b"not allowed" in page(connected, "http://192.0.2.1/")


def test_datagrams_both_ways(
    overlay: Overlay, carrier: tuple[EmbeddedMember, str, int, int], server: socket.socket
) -> None:
    """From two senders each way, whose answers are not mixed up."""
    with contextlib.ExitStack() as stack:
        far = stack.enter_context(overlay.alpha.node.open_udp(overlay.ip, 9090))
        near = stack.enter_context(socket.socket(socket.AF_INET, socket.SOCK_DGRAM))
        near.bind(server.getsockname())
        locals_ = [stack.enter_context(socket.socket(socket.AF_INET, socket.SOCK_DGRAM)) for _ in range(2)]
        remotes = [stack.enter_context(overlay.beta.node.open_udp()) for _ in range(2)]
        for each in (far, near, *locals_, *remotes):
            each.settimeout(30)
        for senders, target, listener in ((locals_, ("127.0.0.1", UDP_PORT), far), (remotes, (carrier[1], 9091), near)):
            for number, sender in enumerate(senders):
                sender.sendto(b"question %d" % number, target)
            seen = dict(listener.recvfrom(100) for _ in senders)
            assert set(seen) == {b"question 0", b"question 1"}
            for question, where in seen.items():
                listener.sendto(b"answer to " + question, where)
            for number, sender in enumerate(senders):
                assert sender.recvfrom(100)[0] == b"answer to question %d" % number


def test_the_expose_names_the_peer_and_passes_its_reset_on(
    overlay: Overlay, carrier: tuple[EmbeddedMember, str, int, int], server: socket.socket
) -> None:
    connected = overlay.beta.node.dial(carrier[1], 7070, 30)
    peers: list[socket.socket] = []

    def accept() -> None:
        while not peers:
            accepted, _ = server.accept()
            accepted.settimeout(30)
            # The node looks at its start whether there is a server.
            if accepted.recv(1, socket.MSG_PEEK):
                peers.append(accepted)

    waiting = threading.Thread(target=accept)
    waiting.start()
    connected.sendall(b"question")
    waiting.join(30)
    (far,) = peers
    source = ipv4(overlay.beta, overlay.nwid)
    expected = f"PROXY TCP4 {source} {carrier[1]} ".encode()
    received = b""
    while not received.endswith(b"question"):
        received += far.recv(1000)
    assert received.startswith(expected)
    far.sendall(b"answer")
    assert connected.recv(100) == b"answer"
    connected.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
    connected.close()
    with far, pytest.raises(ConnectionResetError):
        far.recv(1)


def test_whois_names_the_member_behind_an_address(
    overlay: Overlay, carrier: tuple[EmbeddedMember, str, int, int]
) -> None:
    address = overlay.beta.node.status().address
    found = carrier[0].node.whois(ipv4(overlay.beta, overlay.nwid))
    assert (found.address, found.nwid, found.name) == (address, overlay.nwid, "")
    assert found.public_identity == overlay.beta.node.status().public_identity
    assert found.peer is not None
    own = carrier[0].node.whois(carrier[1])
    assert own.address == carrier[0].node.status().address
    controller = overlay.network.controller.node
    Controller(controller).update_member(overlay.nwid, address, name="beta's")
    controller.join(overlay.nwid, 30)
    try:
        own_ip = controller.ips(overlay.nwid)[0]

        def found_each_other() -> bool:
            # They have 2.5 s for it each time, and everything else that is tested may need the processor meanwhile.
            with contextlib.suppress(OSError):
                of_controller = overlay.beta.node.whois(own_ip)
                of_beta = controller.whois(ipv4(overlay.beta, overlay.nwid))
                return (of_controller.address, of_beta.name) == (controller.status().address, "beta's")
            return False

        until(found_each_other)
    finally:
        controller.leave(overlay.nwid)
