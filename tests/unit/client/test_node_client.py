"""ztclient.Node: what it shows, join and wait, and what it says when something is wrong."""

from __future__ import annotations

import subprocess
import sys
import threading
from dataclasses import replace
from pathlib import Path

import pytest

import ztclient
from tests.unit.fake_node import IP, NWID, RunningNode, asking, configured
from ztnode.control.tcp_options import TcpOptions
from ztnode.node.api import JoinState

OTHER = 0x8056C2E21C000001


def test_status(running_node: RunningNode) -> None:
    status = ztclient.Node().status()
    assert status.address == "778cde7190"
    assert status.online
    assert status.uptime == 12.5
    assert status.counters == {"packets_in": 2**40, "drop_forged": 3}
    assert status.workers[0].connections == 3


def test_networks_and_ips(running_node: RunningNode) -> None:
    node = ztclient.Node()
    (network,) = node.networks()
    assert network == node.network("9ad07d01093a69e3") == node.network(NWID)
    assert (network.nwid, network.name, network.state) == ("9ad07d01093a69e3", "lab", "ok")
    assert network.mac == "5e:1c:2d:3a:4b:5f"
    assert network.routes == (ztclient.Route("10.121.0.0/16", None, 0), ztclient.Route("10.9.0.0/24", "10.121.0.1", 5))
    assert node.ips() == node.ips(NWID) == [IP, "fd9a:d07d:109:3a69:e399:9377:8cde:7190"]
    assert node.addresses()[0] == ztclient.ManagedAddress("9ad07d01093a69e3", IP, 16)


def test_peers_in_order_with_unknowns_as_none(running_node: RunningNode) -> None:
    root, leaf = ztclient.Node().peers()
    assert (root.address, root.role, root.version, root.latency_ms) == ("3a46f1bf30", "planet", "1.14.1", 21.5)
    assert root.paths == (ztclient.Path("198.51.100.2:9993", True, 1.0, None),)
    assert (leaf.role, leaf.latency_ms, leaf.direct) == ("leaf", None, False)


def test_join_without_waiting(running_node: RunningNode) -> None:
    running_node.node.on_join = asking
    network = ztclient.Node().join(OTHER)
    assert (network.nwid, network.state) == ("8056c2e21c000001", "requesting")


def test_join_and_wait_sees_every_state(running_node: RunningNode) -> None:
    running_node.node.on_join = asking
    states: list[str] = []

    def go_on(network: ztclient.Network) -> None:
        states.append(network.state)
        if network.state == "requesting":
            waiting = asking(OTHER, JoinState.WAITING_FOR_AUTHORIZATION, "authorize 778cde7190")
            running_node.call(running_node.node.change, waiting)
        elif network.state == "waiting_for_authorization":
            running_node.call(running_node.node.change, configured(OTHER))

    network = ztclient.Node().join("8056C2E21C000001", wait=5, on_change=go_on)
    assert network.ready
    assert states == ["requesting", "waiting_for_authorization", "ok"]


def test_join_that_is_never_authorized_says_what_to_do(running_node: RunningNode) -> None:
    running_node.node.on_join = lambda nwid: asking(
        nwid, JoinState.WAITING_FOR_AUTHORIZATION, "authorize 778cde7190 on the controller"
    )
    with pytest.raises(ztclient.JoinTimeoutError, match=r"not ready after 0\.3 s: authorize 778cde7190") as caught:
        ztclient.Node().join(OTHER, wait=0.3)
    assert isinstance(caught.value, TimeoutError)


def test_join_of_a_network_that_does_not_exist_fails_at_once(running_node: RunningNode) -> None:
    running_node.node.on_join = lambda nwid: asking(nwid, JoinState.NOT_FOUND, "the controller knows no such network")
    with pytest.raises(ztclient.Error, match="knows no such network"):
        ztclient.Node().join(OTHER, wait=30)


def test_join_that_cannot_be_kept(running_node: RunningNode) -> None:
    running_node.node.failing = OSError(28, "No space left on device", "st/zerotier/networks.d")
    with pytest.raises(OSError, match=r"st/zerotier/networks\.d: No space left on device") as caught:
        ztclient.Node().join(OTHER)
    assert caught.value.errno == 28


def test_leave(running_node: RunningNode) -> None:
    node = ztclient.Node()
    node.leave(NWID)
    assert node.networks() == []
    with pytest.raises(ztclient.NotFoundError, match="ztnode join 9ad07d01093a69e3"):
        node.leave(NWID)
    with pytest.raises(ztclient.NotFoundError):
        node.network(NWID)
    with pytest.raises(ztclient.NotFoundError):
        node.ips(NWID)


@pytest.mark.parametrize(
    "bad", ["", "9ad07d01093a69e", "9ad07d01093a69e3f", "zzd07d01093a69e3", "9ad07d01093a69e_", -1]
)
def test_malformed_network_ids(running_node: RunningNode, bad: str | int) -> None:
    with pytest.raises(ValueError, match="16 hexadecimal digits"):
        ztclient.Node().join(bad)


def test_watch_and_close(running_node: RunningNode) -> None:
    watch = ztclient.Node().watch()
    assert next(watch).state == "ok"
    running_node.call(running_node.node.change, replace(configured(NWID), revision=8))
    assert next(watch).revision == 8
    watch.close()


def test_capture(running_node: RunningNode) -> None:
    capture = ztclient.Node().capture(NWID, snaplen=128)
    assert next(capture) == b"\x0a\x0d\x0d\x0a" + (128).to_bytes(4, "little")
    assert next(capture) == NWID.to_bytes(8, "big")
    capture.close()


def test_a_bug_in_the_node_is_one_line(running_node: RunningNode) -> None:
    running_node.node.failing = RuntimeError("a table is upside down")
    with pytest.raises(ztclient.Error, match=r"the node failed \(RuntimeError: a table is upside down\)"):
        ztclient.Node().status()


def test_wrong_and_missing_tokens(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("ZTNODE_TOKEN", raising=False)
    state = tmp_path / "st"
    state.mkdir(mode=0o700)
    with RunningNode(state, TcpOptions("127.0.0.1:0")) as running:
        address = running.addresses[1]
        for token in (None, "guess", "é", "two\nlines"):
            with pytest.raises(ztclient.AuthenticationError, match="token"):
                ztclient.Node(address, token=token).status()
        with pytest.raises(ztclient.AuthenticationError):
            ztclient.Node(address).create_connection((IP, 80))
        monkeypatch.setenv("ZTNODE_TOKEN_FILE", str(state / "control.token"))
        assert ztclient.Node(address).status().online
        monkeypatch.setenv("ZTNODE_TOKEN", "not this")
        with pytest.raises(ztclient.AuthenticationError):
            ztclient.Node(address).status()


def test_a_restarted_node_is_reached_at_once(tmp_path: Path) -> None:
    state = tmp_path / "st"
    state.mkdir(mode=0o700)
    node = ztclient.Node(state=state)
    with pytest.raises(ztclient.NodeUnavailableError, match="no node answers"):
        node.status()
    for _ in range(2):
        with RunningNode(state):
            assert node.status().online
        with pytest.raises(ztclient.NodeUnavailableError):
            node.status()


def test_a_listener_learns_that_its_node_ended(tmp_path: Path) -> None:
    state = tmp_path / "st"
    state.mkdir(mode=0o700)
    with RunningNode(state):
        listener = ztclient.Node(state=state).listen("", 80)
        result: list[BaseException] = []

        def accept() -> None:
            try:
                listener.accept()
            except OSError as error:
                result.append(error)

        thread = threading.Thread(target=accept)
        thread.start()
    thread.join(5)
    assert len(result) == 1


def test_importing_is_cheap() -> None:
    code = (
        "import sys, ztclient; print(sorted({'grpc', 'http.client', 'google.protobuf', 'asyncio'} & set(sys.modules)))"
    )
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "[]\n"
