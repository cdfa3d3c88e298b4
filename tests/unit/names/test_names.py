"""Which names are whose, who is asked, and what bad answers get."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import threading
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import cast

import dns.message
import dns.rcode
import dns.rrset
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.unit.fake_node import NWID, configured
from ztclient import records
from ztclient.forms import host_name
from ztclient.loopback import socket_pair
from ztnode.names import Resolver, racing
from ztnode.names.answer import Kind
from ztnode.names.message import Truncated, Unusable, build, parse
from ztnode.node.api import DEFAULT_STREAM, DialError, Handoff, NetworkInfo, NodeApi, StreamOptions
from ztnode.node.handoffs import claim
from ztnode.wire.computed_ipv6 import rfc4193_address, sixplane_address

SERVER, SECOND = "10.121.0.53", "10.121.0.54"
OTHER = 0x1111111111222222
Zone = Callable[[dns.message.Message], bytes | None]


def answering(query: dns.message.Message, *lines: str) -> bytes:
    answer = dns.message.make_response(query)
    for line in lines:
        owner, ttl, *record = line.split(maxsplit=4)
        answer.answer.append(dns.rrset.from_text(owner, int(ttl), *record))
    return answer.to_wire()


def zone(**names: str) -> Zone:
    """A server that knows ``name="kind value"`` of lab.example."""

    def answer(query: dns.message.Message) -> bytes:
        question = query.question[0]
        owner = question.name.to_text()
        known = [value for name, value in names.items() if owner == f"{name}.lab.example."]
        response = dns.message.make_response(query)
        if not known:
            response.set_rcode(dns.rcode.NXDOMAIN)
        for value in known:
            for each in value.split(","):
                kind, data = each.split()
                if kind in (question.rdtype.name, "CNAME"):
                    response.answer.append(dns.rrset.from_text(owner, 60, "IN", kind, data))
        return response.to_wire()

    return answer


class Net:
    """A NodeApi as far as names go, whose overlay has name servers of the test's making."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.infos = [configured(NWID)]
        self.servers: dict[str, Zone] = {SERVER: zone()}
        self.by_tcp: dict[str, Zone] = {}
        self.asked: list[tuple[str, str, str]] = []
        self.dialled: list[tuple[str, int, int | None]] = []
        self.reachable: dict[str, float] = {}
        self.cancelled: list[str] = []
        self._offers: dict[bytes, socket.socket] = {}

    def networks(self) -> Sequence[NetworkInfo]:
        return self.infos

    async def open_udp(self, host: str | None, port: int, *, nwid: int | None = None, reuse: bool = False) -> Handoff:
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)

        def run() -> None:
            with ours:
                while record := ours.recv(records.MAX_RECORD):
                    _, ip, to, start = records.parse(record)
                    query = dns.message.from_wire(record[start:])
                    self.asked.append((ip, query.question[0].name.to_text(), query.question[0].rdtype.name))
                    if ip not in self.servers:
                        ours.send(records.failure(ip, to, 111))
                    elif (answer := self.servers[ip](query)) is not None:
                        with contextlib.suppress(OSError):
                            ours.send(records.header(records.DATAGRAM, "10.121.9.9", to) + answer[:2] + b"forged")
                            ours.send(records.header(records.DATAGRAM, ip, to) + answer)

        threading.Thread(target=run, daemon=True).start()
        return self._offer(theirs, "udp")

    async def dial(
        self,
        host: str,
        port: int,
        *,
        nwid: int | None = None,
        timeout: float = 30.0,
        options: StreamOptions = DEFAULT_STREAM,
    ) -> Handoff:
        self.dialled.append((host, port, nwid))
        if port == 53:
            ours, theirs = socket_pair()

            def run() -> None:
                with ours:
                    query = dns.message.from_wire(ours.recv(65536)[2:])
                    answer = self.by_tcp[host](query) or b""
                    ours.sendall(len(answer).to_bytes(2, "big") + answer)

            threading.Thread(target=run, daemon=True).start()
            return self._offer(theirs, host)
        try:
            await asyncio.sleep(self.reachable.get(host, 0.0))
        except asyncio.CancelledError:
            self.cancelled.append(host)
            raise
        if host not in self.reachable:
            raise DialError(111, f"{host} refused")
        return self._offer(socket_pair()[0], host)

    def _offer(self, given: socket.socket, name: str) -> Handoff:
        """A hand-off socket for one connection, as a worker has it."""
        path = self.directory / f"{len(self._offers)}-{id(given)}.sock"
        listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        listener.bind(str(path))
        listener.listen()
        token = id(given).to_bytes(16, "big")
        self._offers[token] = given

        def run() -> None:
            with listener, given:
                channel, _ = listener.accept()
                with channel:
                    channel.recv(32)
                    socket.send_fds(channel, [b"\0"], [given.fileno()])

        threading.Thread(target=run, daemon=True).start()
        return Handoff(str(path), token, ("10.121.15.1", 1), (name, 1))

    def resolver(self, hosts: Path | None = None) -> Resolver:
        return Resolver(cast(NodeApi, self), hosts)


@pytest.fixture
def net(tmp_path: Path) -> Net:
    return Net(tmp_path)


def ips(net: Net, name: str, family: int = 0, **how: object) -> list[str] | None:
    async def main() -> list[str] | None:
        found = await net.resolver(**how).resolve(name, family=family)  # type: ignore[arg-type]
        return None if found is None else [each.ip for each in found]

    return asyncio.run(main())


def test_names_of_a_domain_are_asked_over_the_network(net: Net) -> None:
    net.servers[SERVER] = zone(db="A 10.121.15.7,AAAA fd9a:d07d:109:3a69:e399:9377:8cde:1")
    assert ips(net, "DB.Lab.Example.") == ["fd9a:d07d:109:3a69:e399:9377:8cde:1", "10.121.15.7"]
    assert ips(net, "db.lab.example", 4) == ["10.121.15.7"]
    assert ips(net, "db") == ["fd9a:d07d:109:3a69:e399:9377:8cde:1", "10.121.15.7"]  # the search domain


def test_no_foreign_name_is_asked_for(net: Net) -> None:
    for name in ("example.com", "xlab.example", "lab.example.com", "localhost", "a.localhost"):
        assert ips(net, name) is None
    assert net.asked == []
    assert ips(net, "printer") is None  # asked for in the search domain, where there is none: the host may know it
    assert {name for _, name, _ in net.asked} == {"printer.lab.example."}


def test_what_there_is_not(net: Net) -> None:
    net.servers[SERVER] = zone(four="A 10.121.15.7", elsewhere="A 127.0.0.1", away="A 192.168.7.7")
    for name, number in (
        ("none.lab.example", socket.EAI_NONAME),
        ("elsewhere.lab.example", socket.EAI_NODATA),  # nobody is sent to the host's own networks
        ("away.lab.example", socket.EAI_NODATA),
    ):
        with pytest.raises(socket.gaierror) as caught:
            ips(net, name)
        assert caught.value.errno == number, name
    with pytest.raises(socket.gaierror) as caught:
        ips(net, "four.lab.example", 6)
    assert caught.value.errno == socket.EAI_NODATA


def test_the_second_server_answers_for_one_that_cannot(net: Net) -> None:
    net.infos = [replace(net.infos[0], dns_servers=("10.121.0.52", SERVER, SECOND))]
    net.servers[SERVER] = lambda query: answering(query)[:2] + b"\x81\x82" + answering(query)[4:]  # SERVFAIL
    net.servers[SECOND] = zone(db="A 10.121.15.7")
    assert ips(net, "db.lab.example", 4) == ["10.121.15.7"]
    net.servers = {}
    with pytest.raises(socket.gaierror, match="refused") as caught:
        ips(net, "db.lab.example")
    assert caught.value.errno == socket.EAI_AGAIN


def test_a_long_answer_comes_by_tcp(net: Net) -> None:
    def short(query: dns.message.Message) -> bytes:
        answer = bytearray(answering(query))
        answer[2] |= 2  # truncated
        return bytes(answer)

    net.servers[SERVER] = short
    many = ",".join(f"A 10.121.15.{number}" for number in range(1, 100))
    net.by_tcp[SERVER] = zone(db=many)
    assert ips(net, "db.lab.example", 4) == [f"10.121.15.{number}" for number in range(1, 17)]
    assert net.dialled == [(SERVER, 53, NWID)]


def test_aliases_stay_on_the_overlay(net: Net) -> None:
    net.servers[SERVER] = zone(
        www="CNAME db.lab.example.", db="A 10.121.15.7", out="CNAME example.com.", a="CNAME a.lab.example."
    )
    assert ips(net, "www.lab.example", 4) == ["10.121.15.7"]
    for name in ("out.lab.example", "a.lab.example"):
        with pytest.raises(socket.gaierror):
            ips(net, name, 4)
    assert {name for _, name, _ in net.asked if not name.endswith("lab.example.")} == set()


def test_the_longest_domain_owns_a_name(net: Net) -> None:
    inner = replace(configured(OTHER), dns_domain="eu.lab.example", dns_servers=(SECOND,))
    net.infos.append(inner)
    net.servers[SECOND] = lambda query: answering(query, f"{query.question[0].name} 60 IN A 10.121.15.8")
    assert ips(net, "db.eu.lab.example", 4) == ["10.121.15.8"]
    assert {server for server, *_ in net.asked} == {SECOND}


def test_one_question_for_all_who_ask(net: Net) -> None:
    net.servers[SERVER] = zone(db="A 10.121.15.7")

    async def main() -> None:
        resolver = net.resolver()
        await asyncio.gather(*(resolver.resolve("db.lab.example", family=4) for _ in range(50)))
        await resolver.resolve("db.lab.example", family=4)
        with pytest.raises(socket.gaierror):
            await resolver.resolve("none.lab.example", family=4)

    asyncio.run(main())
    assert len(net.asked) == 2


def test_computed_addresses(net: Net) -> None:
    six = sixplane_address(OTHER, 0x778CDE7190)
    net.infos.append(replace(configured(OTHER), dns_domain="", addresses=(str(six),)))
    assert ips(net, "99937780cd.zt") == [
        str(rfc4193_address(NWID, 0x99937780CD).ip),
        str(sixplane_address(OTHER, 0x99937780CD).ip),
    ]
    assert ips(net, f"99937780cd.{OTHER:016x}.zt") == [str(sixplane_address(OTHER, 0x99937780CD).ip)]
    with pytest.raises(socket.gaierror):
        ips(net, "nonsense.zt")
    assert net.asked == []


def test_the_hosts_file_comes_first_and_is_read_again(net: Net, tmp_path: Path) -> None:
    hosts = tmp_path / "hosts"
    assert ips(net, "web.example.com", hosts=hosts) is None
    hosts.write_text("10.121.15.9 web.example.com web # a server\n::1 bad\nnonsense line\n10.121.15.10 web\n")
    assert ips(net, "web.example.com", hosts=hosts) == ["10.121.15.9"]
    assert ips(net, "web", hosts=hosts) == ["10.121.15.9", "10.121.15.10"]
    assert net.asked == []


@given(st.data())
def test_bad_bytes_are_unusable_or_no_answer(data: st.DataObject) -> None:
    query = build("db.lab.example", Kind.A, 7)
    good = bytearray(zone(db="A 10.121.15.7,A 10.121.15.8")(dns.message.from_wire(query)) or b"")
    for _ in range(data.draw(st.integers(0, 4))):
        good[data.draw(st.integers(0, len(good) - 1))] = data.draw(st.integers(0, 255))
    cut = bytes(good[: data.draw(st.integers(0, len(good)))]) + data.draw(st.binary(max_size=20))
    with contextlib.suppress(Unusable, Truncated):
        answer = parse(cut, query)
        assert answer is None or len(answer.addresses) <= 16


def test_forms_of_names() -> None:
    assert host_name("Bücher.Example.") == "xn--bcher-kva.example"
    for bad in ("", ".", "a..b", "-a", "1.2.3", "0x7f.0x1", "a b", "a\n", "x" * 64, "a." * 130, "10.1", "ü" * 300):
        with pytest.raises(ValueError, match="neither"):
            host_name(bad)


def test_a_family_that_does_not_answer_holds_up_nobody(net: Net) -> None:
    dead, live = "fd9a:d07d:109:3a69:e399:9377:8cde:1", "10.121.15.7"
    net.servers[SERVER] = zone(db=f"A {live},AAAA {dead}")
    net.reachable = {dead: 60.0, live: 0.0}

    async def main() -> None:
        node, resolver = cast(NodeApi, net), net.resolver()
        async with asyncio.timeout(20):
            handoff = await racing.dial(node, resolver, "db.lab.example", 80)
            assert handoff.remote[0] == live and net.cancelled == [dead]
            net.reachable = {live: 0.0}  # the first refuses: the next is tried at once
            assert (await racing.dial(node, resolver, "db.lab.example", 80)).remote[0] == live
            net.reachable = {dead: 0.3, live: 0.05}  # both stand in the end; the loser is reset
            (await claim(await racing.dial(node, resolver, "db.lab.example", 80))).close()
            net.reachable = {}
            with pytest.raises(DialError, match=f"{dead} refused"):
                await racing.dial(node, resolver, "db.lab.example", 80)
            with pytest.raises(socket.gaierror, match="no name of the overlay"):
                await racing.dial(node, resolver, "example.com", 80)

    asyncio.run(main())
    assert {nwid for *_, nwid in net.dialled} == {NWID}
