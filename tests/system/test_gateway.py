"""Members reach a network behind another node's host through that node, over the real overlay."""

from __future__ import annotations

import contextlib
import errno
import hashlib
import http.server
import socket
import threading
from collections.abc import Iterator

import pytest

import ztclient
from tests.system.harness import Handler, Overlay, content, until
from ztclient.controller import Controller

HOST, OTHER = "127.55.0.1", "127.66.0.1"


@pytest.fixture(scope="module")
def server() -> Iterator[int]:
    """A web server on an address of this host that is named for itself; its port."""
    with http.server.ThreadingHTTPServer((HOST, 0), Handler) as server:
        threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True).start()
        yield server.server_address[1]
        server.shutdown()


@pytest.fixture(scope="module")
def led(overlay: Overlay) -> Iterator[ztclient.Gateway]:
    """alpha leads to 127.55.0.0/24, and the network's routes, which come later, to more."""
    controller = Controller(overlay.network.controller.node)
    routes = [(route.target, route.via) for route in controller.network(overlay.nwid).routes]
    with contextlib.closing(overlay.alpha.node.gateway(["127.55.0.0/24"])) as states:
        assert next(states).unrouted == ("127.55.0.0/24",)
        more = [(target, overlay.ip) for target in ("127.55.0.0/24", f"{OTHER}/32", "0.0.0.0/0")]
        controller.update_network(overlay.nwid, routes=[*routes, *more])
        try:
            for state in states:
                if not state.unrouted:
                    break
            known = overlay.beta.node.watch(overlay.nwid, timeout=30)
            next(network for network in known if any(route.via for route in network.routes))
            yield state
        finally:
            controller.update_network(overlay.nwid, routes=routes)
            overlay.beta.node.join(overlay.nwid, allow_default=False)


def test_a_member_reaches_it(overlay: Overlay, led: ztclient.Gateway, server: int) -> None:
    assert ztclient.GatewayRoute(overlay.nwid, "127.55.0.0/24", overlay.ip) in led.routes
    connection = ztclient.HTTPConnection(HOST, server, node=overlay.beta.node, timeout=30)
    connection.request("GET", f"/{4 << 20}")
    body = connection.getresponse().read()
    assert hashlib.sha256(body).digest() == hashlib.sha256(content(4 << 20)).digest()
    connection.close()
    with socket.create_server((HOST, 0)) as probe:
        port = probe.getsockname()[1]
    with pytest.raises(ConnectionRefusedError):
        overlay.beta.node.dial(HOST, port, 30)
    until(lambda: overlay.alpha.node.status().workers[0].counters.get("gateway_refused"))


def test_default_routes_are_for_who_asks(overlay: Overlay, led: ztclient.Gateway) -> None:
    with pytest.raises(OSError) as raised:
        overlay.beta.node.dial("203.0.113.1", 80, 30)
    assert raised.value.errno == errno.ENETUNREACH
    assert overlay.beta.node.join(overlay.nwid, allow_default=True).allow_default
    # Now the way leads to alpha, who does not lead on.
    with pytest.raises(OSError) as raised:
        overlay.beta.node.dial("203.0.113.1", 80, 30)
    assert raised.value.errno == errno.EHOSTUNREACH


def reaches(overlay: Overlay, port: int) -> bool:
    try:
        overlay.beta.node.dial(OTHER, port, 30).close()
    except OSError:
        return False
    return True


def test_it_ends_with_its_call(overlay: Overlay, led: ztclient.Gateway, server: int) -> None:
    # A second gateway of the node beside the first, and gone again.
    states = overlay.alpha.node.gateway([f"{OTHER}/32"])
    next(states)
    with socket.create_server((OTHER, 0)) as listener:
        port = listener.getsockname()[1]
        until(lambda: reaches(overlay, port))  # its workers are told, not asked
        states.close()

        def refused() -> bool:
            try:
                overlay.beta.node.dial(OTHER, port, 30).close()
            except OSError as error:
                return error.errno == errno.EHOSTUNREACH
            return False

        until(refused)
    overlay.beta.node.dial(HOST, server, 30).close()
