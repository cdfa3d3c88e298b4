"""The controller's gRPC service, its thin client and its commands, over a real controller and a real server."""

from __future__ import annotations

import asyncio
import json
import os
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest

import ztclient
from ztclient.controller import Controller as Client
from ztclient.controller import subnet
from ztclient.v1 import controller_pb2 as pb
from ztnode.cli.app import run
from ztnode.control.control_server import ControlServer
from ztnode.control.controller_service import ControllerHost, controller_service
from ztnode.controller import Controller
from ztnode.node.administration import Administration
from ztnode.vl1 import Vl1
from ztnode.wire import c25519
from ztnode.wire.config_request import ConfigRequest, RequestMetadata
from ztnode.wire.identity import Identity
from ztnode.wire.packet import VERB_NETWORK_CONFIG_REQUEST

ADDRESS = 0x1122334455
MEMBER = "9ad07d0109"


class Served:
    """A controller that is administered through a Unix socket; its packets go nowhere."""

    def __init__(self, state: Path) -> None:
        self._state = state
        self._ready = threading.Event()
        self._thread = threading.Thread(target=lambda: asyncio.run(self._main()))
        self.packets = 0

    async def _main(self) -> None:
        self._loop, self._stop = asyncio.get_running_loop(), asyncio.Event()
        secret = b"\x01" * c25519.SECRET_LENGTH
        identity = Identity(ADDRESS, c25519.derive_public(secret), secret)
        vl1 = SimpleNamespace(send=self._send, reply_ok=self._send)
        self.controller = Controller(cast(Vl1, vl1), identity, random=os.urandom)
        administration = Administration(self.controller, lambda: administration.publish())
        host = cast(ControllerHost, SimpleNamespace(administration=administration))
        server = ControlServer([controller_service(host)], state=self._state)
        await server.start()
        self._ready.set()
        await self._stop.wait()
        administration.close()
        await server.stop()

    def _send(self, *arguments: Any, **options: Any) -> int:
        self.packets += 1
        return self.packets

    def ask(self, nwid: str, address: str) -> None:
        """A node asks for its configuration."""
        request = ConfigRequest(int(nwid, 16), RequestMetadata(version=(1, 14, 1)).build_dictionary())
        number = int(address, 16)
        peer = SimpleNamespace(address=number, identity=Identity(number, bytes(c25519.PUBLIC_LENGTH)))
        message = (cast(Any, peer), VERB_NETWORK_CONFIG_REQUEST, 1, request.build())
        done = threading.Event()

        def receive() -> None:
            self.controller.receive([message], time.monotonic(), time.time_ns() // 1_000_000)
            done.set()

        self._loop.call_soon_threadsafe(receive)
        assert done.wait(30)

    def __enter__(self) -> Served:
        self._thread.start()
        assert self._ready.wait(10)
        return self

    def __exit__(self, *_: object) -> None:
        self._loop.call_soon_threadsafe(self._stop.set)
        self._thread.join(10)


@pytest.fixture
def served(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Served]:
    monkeypatch.delenv("ZTNODE_ADDRESS", raising=False)
    monkeypatch.setenv("ZTNODE_STATE", str(tmp_path))
    with Served(tmp_path) as running:
        yield running


def test_a_network_from_making_to_deleting(served: Served) -> None:
    client = Client()
    settings = subnet("10.121.15.0/24")
    settings.update({"name": "home", "rfc4193": True})
    made = client.create_network(**settings)
    assert made.nwid.startswith("1122334455") and made.private and made.assign_ipv4 and made.revision == 1
    assert made.pools == (("10.121.15.1", "10.121.15.254"),) and made.routes[0].target == "10.121.15.0/24"
    # What a request leaves out stays: address modes share one object in the controller's documents.
    changed = client.update_network(
        made.nwid, sixplane=True, dns=("home.zt", ["10.121.15.2"]), tags=[(1, 5), (2, None)]
    )
    assert changed.rfc4193 and changed.sixplane and changed.name == "home" and changed.revision == 2
    assert changed.dns_servers == ("10.121.15.2",) and changed.tags == ((1, 5), (2, None))
    emptied = client.update_network(made.nwid, pools=[], rules=[{"type": "ACTION_DROP"}], certificate_window=600)
    assert emptied.pools == () and emptied.rules[0]["type"] == "ACTION_DROP" and emptied.certificate_window == 600
    assert client.networks() == [emptied] and client.network(made.nwid) == emptied
    client.delete_network(made.nwid)
    assert client.networks() == []


def test_a_member_from_knocking_to_leaving(served: Served) -> None:
    client = Client()
    nwid = client.create_network(**subnet("10.121.15.0/24")).nwid
    served.ask(nwid, MEMBER)
    (waiting,) = client.members(nwid)
    assert (waiting.address, waiting.authorized, waiting.online) == (MEMBER, False, True)
    assert waiting.last_seen_age is not None and waiting.last_seen_age < 60 and waiting.last_authorized is None
    client.update_member(nwid, MEMBER, name="printer", addresses=["10.121.15.99"])
    member = client.authorize(nwid, MEMBER)
    assert member.authorized and member.authorized_by == "api" and member.managed_addresses == ("10.121.15.99/24",)
    assert client.network(nwid).authorized_members == 1 and client.member(nwid, MEMBER).version == "1.14.1"
    assert not client.deauthorize(nwid, MEMBER).authorized
    client.delete_member(nwid, MEMBER)
    assert client.members(nwid) == []


RULES = """\
tag department id 100 default 0 enum 0 none enum 7 sales ;
cap ssh id 5 accept ipprotocol tcp dport 22 ; ;
drop not ethertype ipv4 and not ethertype arp ; # the rest
accept;
"""


def test_rules_there_and_back(served: Served, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    def rules(*arguments: str, code: int = 0) -> str:
        assert run(["controller", "rules", nwid, *arguments]) == code
        captured = capsys.readouterr()
        return captured.err if code else captured.out

    client = Client()
    nwid = client.create_network().nwid
    assert rules() == "accept;\n"
    file = tmp_path / "rules.ztrules"
    file.write_text("drop\n  dport ssh\n;\n")
    assert f"{file}:2:9: " in rules("--file", str(file), code=1)
    file.write_text(RULES)
    assert json.loads(rules("--file", str(file), "--check", "--json"))["capabilitiesByName"] == {"ssh": 5}
    assert client.network(nwid).rules_source == "" and rules() == "accept;\n"
    assert "ssh = 5" in rules("--file", str(file))
    network = client.network(nwid)
    assert network.rules_source == RULES == rules() and network.tags == ((100, 0),)
    assert [rule["type"] for rule in network.rules][2:] == ["ACTION_DROP", "ACTION_ACCEPT"]
    assert network.capabilities[0]["rules"][1]["start"] == 22
    member = ["controller", "member", "set", nwid, MEMBER]
    assert run([*member, "--tag", "department=sales", "--tag", "9=1", "--capability", "ssh"]) == 0
    assert client.member(nwid, MEMBER).tags == ((100, 7), (9, 1)) and client.member(nwid, MEMBER).capabilities == (5,)
    for wrong in (
        ["--tag", "department"],
        ["--tag", "department=it"],
        ["--tag", "d=1"],
        ["--tag", "department=sales,vip"],
        ["--capability", "web"],
        ["--tag", "9=1", "--no-tags"],
    ):
        assert run([*member, *wrong]) == 2
    capsys.readouterr()
    file.write_text("tag server id 2 flag 0 web flag 1 ssh flag 2 mail ;\n" + RULES)
    rules("--file", str(file))
    assert run([*member, "--tag", "department=sales", "--tag", "server=web,mail", "--tag", "9=1"]) == 0
    assert client.member(nwid, MEMBER).tags == ((100, 7), (2, 5), (9, 1))
    shown = capsys.readouterr().out
    assert "department=sales, server=web,mail, 9=1\n" in shown and "  ssh\n" in shown
    assert run([*member, "--no-tags", "--no-capabilities"]) == 0
    assert client.member(nwid, MEMBER).tags == () and client.member(nwid, MEMBER).capabilities == ()
    capsys.readouterr()
    capsys.readouterr()
    file.write_text("drop dport 22;")
    assert run(["controller", "rules", nwid, "--file", str(file), "--check"]) == 0
    assert "no statement accepts" in capsys.readouterr().err
    # Somebody else sets other rules and leaves the text.
    client.update_network(nwid, rules=[{"type": "ACTION_DROP"}])
    assert rules().endswith("accept\n\t\tipprotocol tcp\n\t\tdport 22\n\t;\n;\n\ndrop;\n")
    assert run(["controller", "rules", nwid, "--check"]) == 2


def test_errors_say_what_is_wrong(served: Served) -> None:
    client = Client()
    nwid = client.create_network().nwid
    with pytest.raises(ztclient.NotFoundError, match="no network"):
        client.network("1122334455ffffff")
    with pytest.raises(ztclient.NotFoundError, match="no member"):
        client.member(nwid, MEMBER)
    for call in (
        lambda: client.update_network(nwid, mtu=20),
        lambda: client.update_network(nwid, routes=[("10.0.0.0/33", None)]),
        lambda: client.update_network(nwid, rules=[{"type": "NONSENSE"}]),
        lambda: client.create_network("fedcba9876000001"),
        lambda: client.update_member(nwid, MEMBER, addresses=["nowhere"]),
        lambda: client.authorize(nwid, "xyz"),
    ):
        with pytest.raises(ValueError, match=r"mtu|route|rules|id for this controller|IP address|ZeroTier address"):
            call()
    assert client.network(nwid).revision == 1


def test_settings_that_there_are_not_are_refused(served: Served) -> None:
    """A member that is to be deauthorized by a setting would keep its place without a word."""
    client = Client()
    nwid = client.create_network().nwid
    settings: Any = {"authorized": False}
    with pytest.raises(TypeError, match="authorized"):
        client.update_member(nwid, MEMBER, **settings)
    with pytest.raises(TypeError, match="authorized"):
        client.update_network(nwid, **settings)


def test_watching_gives_what_is_and_what_becomes(served: Served) -> None:
    client = Client()
    nwid = client.create_network(name="first").nwid
    control = ztclient.Node().control
    call = control.controller_stub.Watch(pb.ControllerServiceWatchRequest(network_id=nwid), timeout=20)
    changes = iter(call)
    assert next(changes).network.settings.name == "first"
    client.update_network(nwid, name="second")
    assert next(changes).network.settings.name == "second"
    client.authorize(nwid, MEMBER)
    assert next(changes).member.address == MEMBER
    client.delete_member(nwid, MEMBER)
    assert next(changes).member_deleted.address == MEMBER
    client.delete_network(nwid)
    assert next(changes).network_deleted == nwid
    call.cancel()


def test_the_commands(served: Served, capsys: pytest.CaptureFixture[str]) -> None:
    def command(*arguments: str, code: int = 0) -> str:
        assert run(["controller", *arguments]) == code
        captured = capsys.readouterr()
        return captured.out if code == 0 else captured.err

    made = json.loads(command("create", "--name", "home", "--subnet", "10.121.15.0/24", "--json"))
    nwid = made["nwid"]
    assert made["pools"] == [["10.121.15.1", "10.121.15.254"]]
    assert nwid in command("networks") and "home" in command("show", nwid)
    assert json.loads(command("update", nwid, "--public", "--route", "10.9.0.0/16=10.121.15.2", "--json"))[
        "routes"
    ] == [{"target": "10.9.0.0/16", "via": "10.121.15.2"}]
    command("update", nwid, "--private", "--route", "10.121.15.0/24")
    assert "10.121.15.99/24" in command("authorize", nwid, MEMBER, "--ip", "10.121.15.99", "--name", "printer")
    assert "10.9.9.9: in no route" in command("member", "set", nwid, MEMBER, "--ip", "10.9.9.9", "--ip", "10.121.15.99")
    (member,) = json.loads(command("members", nwid, "--json"))
    assert member["name"] == "printer" and member["authorized"] is True
    assert "not authorized" in command("deauthorize", nwid, MEMBER) and "shut out" in command("members", nwid)
    # The British spelling works too, and is not shown.
    assert "not authorized" not in command("authorise", nwid, MEMBER)
    assert "not authorized" in command("deauthorise", nwid, MEMBER)
    assert "authorise" not in command("--help")
    shown = command("member", "set", nwid, MEMBER, "--ephemeral", "--name", "job")
    assert "ephemeral" in shown and "job" in shown and "shut out, ephemeral" in command("members", nwid)
    assert json.loads(command("member", "show", nwid, MEMBER, "--json"))["ephemeral"] is True
    assert "setting" in command("member", "set", nwid, MEMBER, code=2)
    assert (
        json.loads(command("update", nwid, "--ephemeral-members", "--ephemeral-timeout", "3600", "--json"))[
            "ephemeral_timeout"
        ]
        == 3600
    )
    command("forget", nwid, MEMBER)
    assert "no member" in command("forget", nwid, MEMBER, code=1)
    assert "setting" in command("update", nwid, code=2)
    assert "range" in command("create", "--pool", "10.0.0.1", code=2)
    command("delete", nwid)
    assert json.loads(command("networks", "--json")) == []
