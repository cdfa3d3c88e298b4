"""A whole network on loopback, made once for the tests that only use it."""

from __future__ import annotations

import contextlib
import shutil
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator

import pytest

import ztclient
import ztclient.controller
from tests.integrations.others import process
from tests.system.harness import Overlay, absent_ipv6, overlay_in
from ztnode.embedded import free_port


@pytest.fixture(scope="session")
def overlay(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Overlay]:
    """The network, up and joined, with a web server on alpha."""
    with overlay_in(tmp_path_factory.mktemp("overlay")) as made:
        yield made


@pytest.fixture(scope="session")
def dns_domain(overlay: Overlay) -> Iterator[str]:
    """The network's DNS domain, whose server on alpha is a real one, dnsmasq. ``web`` is alpha; ``both`` has an IPv6
    address too, where nobody is; ``many`` has more addresses than a datagram holds."""
    if shutil.which("dnsmasq") is None:
        pytest.skip("dnsmasq is not installed")
    with contextlib.ExitStack() as stack:
        port = free_port()
        names = [f"--host-record=web.lab.example,{overlay.ip}"]
        names.append(f"--host-record=both.lab.example,{overlay.ip},{absent_ipv6(overlay.nwid)}")
        names += [f"--host-record=many.lab.example,10.121.15.{number}" for number in range(1, 120)]
        command = ["dnsmasq", "--keep-in-foreground", "--conf-file=/dev/null", "--no-resolv", "--no-hosts"]
        command += ["--listen-address=127.0.0.1", "--bind-interfaces", f"--port={port}", "--domain=lab.example"]
        command += ["--local=/lab.example/", "--cname=www.lab.example,web.lab.example", "--pid-file", "--user="]
        stack.enter_context(process([*command, *names], port))
        relay = stack.enter_context(overlay.alpha.node.open_udp(overlay.ip, 53))
        threading.Thread(target=_relay_datagrams, args=(relay, port), daemon=True).start()
        expose = [sys.executable, "-m", "ztnode", "expose", "--state", str(overlay.alpha.state)]
        expose += ["-R", f"{overlay.ip}:53:127.0.0.1:{port}"]
        by_tcp = subprocess.Popen(expose, stderr=subprocess.PIPE)
        stack.enter_context(by_tcp)
        stack.callback(by_tcp.terminate)
        assert by_tcp.stderr is not None and b"53" in by_tcp.stderr.readline()
        controller = ztclient.controller.Controller(overlay.network.controller.node)
        controller.update_network(overlay.nwid, dns=("lab.example", [overlay.ip]), rfc4193=True)
        for network in overlay.beta.node.watch(overlay.nwid, timeout=30):
            if network.dns_domain and any(":" in address for address in network.addresses):
                break
        yield "lab.example"


def _relay_datagrams(relay: ztclient.DatagramSocket, port: int) -> None:
    """Questions of the overlay to the server on loopback, and the answers back."""
    with contextlib.suppress(OSError), socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as local:
        local.connect(("127.0.0.1", port))
        local.settimeout(5)
        while True:
            question, source = relay.recvfrom(4096)
            with contextlib.suppress(OSError):
                local.send(question)
                relay.sendto(local.recv(4096), source)
