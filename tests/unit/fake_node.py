"""A NodeApi without an overlay, behind a real ControlServer.

What it "dials" are real TCP servers on loopback, and its hand-off is a real Unix socket that passes descriptors as a
stack worker's does. It runs on uvloop in a thread.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import os
import socket
import threading
from collections.abc import AsyncIterator, Coroutine, Mapping, Sequence
from dataclasses import replace
from functools import partial
from ipaddress import ip_address
from pathlib import Path
from typing import Any, TypeVar, cast

import uvloop

from ztclient import records
from ztclient.aio.handoff import readable
from ztclient.loopback import reset_on_close
from ztnode.control.control_server import ControlServer, node_service
from ztnode.control.tcp_options import TcpOptions
from ztnode.names import Resolver
from ztnode.node import snapshots
from ztnode.node.api import (
    DEFAULT_STREAM,
    ConnectionInfo,
    DialError,
    GatewayInfo,
    Handoff,
    JoinState,
    MoonInfo,
    NetworkInfo,
    NetworkRules,
    NodeStatus,
    PathInfo,
    PeerInfo,
    RouteInfo,
    StreamOptions,
    Whois,
    WorkerInfo,
)
from ztnode.node.gateways import Gateways
from ztnode.proxy.http import AnotherTarget, BadRequest, RequestStream
from ztnode.wire.rules import Rule, RuleType
from ztnode.wire.wire_error import WireError
from ztnode.wire.world import World
from ztnode.worker.handoff_server import ASK, JOINED, REQUEST
from ztnode.worker.loan import MAX_MESSAGE, Return, build_return, parse_loan, split

T = TypeVar("T")

NWID = 0x9AD07D01093A69E3
IP = "10.121.15.1"


def configured(nwid: int) -> NetworkInfo:
    """A network as it looks once joined."""
    return NetworkInfo(
        nwid=nwid,
        name="lab",
        state=JoinState.OK,
        detail="ok",
        mac=0x5E1C2D3A4B5F,
        mtu=2800,
        addresses=(f"{IP}/16", "fd9a:d07d:109:3a69:e399:9377:8cde:7190/88"),
        routes=(RouteInfo("10.121.0.0/16", None), RouteInfo("10.9.0.0/24", "10.121.0.1", 5)),
        dns_domain="lab.example",
        dns_servers=("10.121.0.53",),
        private=True,
        broadcast=True,
        revision=7,
        authentication_url="",
        from_cache=False,
    )


def asking(nwid: int, state: JoinState = JoinState.REQUESTING, detail: str = "asking the controller") -> NetworkInfo:
    """A network that is not configured yet."""
    return replace(
        configured(nwid),
        name="",
        state=state,
        detail=detail,
        mtu=0,
        addresses=(),
        routes=(),
        dns_domain="",
        dns_servers=(),
    )


def borrow(server: socket.socket, client: socket.socket, way_back: socket.socket) -> None:
    """What a worker's ``RequestSplice`` does, by two threads, for clients that behave."""

    def answer() -> None:
        while data := server.recv(65536):
            client.sendall(data)

    with server, client, way_back:
        way_back.setblocking(True)
        message = split(way_back.recv(MAX_MESSAGE))
        assert message is not None
        loan = parse_loan(message)
        credentials = loan.credentials
        requests = RequestStream(None if credentials is None else lambda *shown: shown == credentials)
        answers = threading.Thread(target=answer, daemon=True)
        answers.start()
        data = loan.data
        given_back = None
        try:
            while data:
                for _request, piece in requests.receive(data, (loan.host, loan.port)):
                    server.sendall(piece)
                data = client.recv(65536)
        except (AnotherTarget, BadRequest) as error:
            rest = requests.rest
            given_back = Return(False, rest) if rest is not None else Return(True, cast(BadRequest, error).answer)
        server.shutdown(socket.SHUT_WR)
        answers.join()
        if given_back is not None:
            socket.send_fds(way_back, [build_return(given_back)], [client.fileno()])


class FakeNode:
    """See the module. ``overlay`` maps what clients dial to where it really is."""

    def __init__(self, handoff_path: Path) -> None:
        self.handoff_path = handoff_path
        self.overlay: dict[tuple[str, int], tuple[str, int]] = {}
        self.known: dict[int, NetworkInfo] = {NWID: configured(NWID)}
        self.on_join = configured
        self.orbited: dict[int, MoonInfo] = {}
        self.traffic: dict[int, tuple[int, int]] = {}
        self.failing: Exception | None = None
        self.dials: list[tuple[str, int, int | None, float]] = []
        self.options: list[StreamOptions] = []
        """Of each dial and listener."""
        self.backlogs: list[int] = []
        self.joined = 0
        self.led_to: Sequence[str] = ()
        self._gateways = Gateways(self._lead)
        self.configured: list[tuple[str, str | None, str | None, int]] = []
        self.dialling = 0
        self.direct_dials = False
        self.asked: list[tuple[str, int, int]] = []
        """What the worker itself was asked for: host, port, network."""
        self.waiting: dict[bytes, socket.socket] = {}
        self.listeners: dict[int, socket.socket] = {}
        self.watchers: list[asyncio.Queue[NetworkInfo]] = []
        self.capturing = 0
        self._next = 1
        self._server: asyncio.Server | None = None

    # --- the worker's part

    async def open(self) -> None:
        listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        listener.bind(str(self.handoff_path))
        self.handoff_path.chmod(0o600)
        listener.listen()
        listener.setblocking(False)
        self._handoff = listener
        self._task = asyncio.create_task(self._hand_over())

    async def close(self) -> None:
        self._task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await self._task
        self._handoff.close()
        self.handoff_path.unlink()
        for sock in [*self.waiting.values(), *self.listeners.values()]:
            sock.close()

    async def _hand_over(self) -> None:
        loop = asyncio.get_running_loop()
        async with asyncio.TaskGroup() as channels:
            while True:
                channel, _ = await loop.sock_accept(self._handoff)
                channels.create_task(self._serve(channel))

    async def _serve(self, channel: socket.socket) -> None:
        """One thing that a token stands for, or connections for as long as they are asked for."""
        with channel, contextlib.suppress(OSError):  # a client that does not wait for its answer
            asked = True
            while asked:
                await readable(channel)
                message, descriptors, _, _ = socket.recv_fds(channel, 64, 2)
                ends = [socket.socket(fileno=each) for each in descriptors]
                asked = message.startswith(ASK)
                if asked:
                    asked = await self._dial_directly(channel, message[16:], ends)
                elif (connected := self.waiting.pop(message, None)) is None:
                    for end in ends:
                        end.close()
                elif ends:
                    self._join(channel, connected, *ends)
                else:
                    self._give(channel, connected)

    async def _dial_directly(self, channel: socket.socket, request: bytes, ends: list[socket.socket]) -> bool:
        """Whether there was an answer: as the real one, a channel that brought none is closed."""
        length, _, packed, port, nwid, _, _ = REQUEST.unpack(request)
        host = str(ip_address(packed[:length]))
        self.asked.append((host, port, nwid))
        real = self.overlay.get((host, port))
        if real is None:
            for end in ends:
                end.close()
            if host == "198.51.100.1":
                await asyncio.sleep(1)
        elif ends:
            self._join(channel, socket.create_connection(real, 30), *ends)
        else:
            with socket.create_connection(real, 30) as connected:
                socket.send_fds(channel, [f"\0{IP} 50000".encode()], [connected.fileno()])
        return real is not None

    def _join(
        self,
        channel: socket.socket,
        connected: socket.socket,
        brought: socket.socket,
        way_back: socket.socket | None = None,
    ) -> None:
        """What a worker's splice does, by two threads."""

        def copy(source: socket.socket, sink: socket.socket) -> None:
            try:
                while data := source.recv(65536):
                    sink.sendall(data)
                sink.shutdown(socket.SHUT_WR)
            except OSError:
                for each in (source, sink):
                    reset_on_close(each)
                    with contextlib.suppress(OSError):
                        each.shutdown(socket.SHUT_RD)

        def both() -> None:
            with connected, brought:
                other = threading.Thread(target=copy, args=(connected, brought), daemon=True)
                other.start()
                copy(brought, connected)
                other.join()

        for each in (connected, brought):
            each.setblocking(True)
        self.joined += 1
        target = both if way_back is None else partial(borrow, connected, brought, way_back)
        threading.Thread(target=target, daemon=True).start()
        with contextlib.suppress(OSError):  # who does not wait to hear it has gone
            channel.send(JOINED)

    def _give(self, channel: socket.socket, connected: socket.socket) -> None:
        with connected:
            socket.send_fds(channel, [b"\0"], [connected.fileno()])

    def _offer(self, connected: socket.socket, local: tuple[str, int], remote: tuple[str, int]) -> Handoff:
        token = os.urandom(16)
        self.waiting[token] = connected
        return Handoff(str(self.handoff_path), token, local, remote)

    # --- NodeApi

    def status(self) -> NodeStatus:
        if self.failing is not None:
            raise self.failing
        return NodeStatus(
            address=0x778CDE7190,
            public_identity="778cde7190:0:" + "ab" * 64,
            online=True,
            version="0.2.0",
            uptime=12.5,
            planet_id=149604618,
            planet_timestamp=1567191349589,
            listening=("0.0.0.0:9993",),
            surface_addresses=("203.0.113.7:9993",),
            workers=(WorkerInfo(0, 4711, 3, 1, {"frames": 12}),),
            counters={"packets_in": 2**40, "drop_forged": 3},
        )

    def networks(self) -> Sequence[NetworkInfo]:
        return list(self.known.values())

    def network(self, nwid: int) -> NetworkInfo | None:
        return self.known.get(nwid)

    def peers(self) -> Sequence[PeerInfo]:
        return [
            PeerInfo(0x99937780CD, "leaf", "", -1.0, False, ()),
            PeerInfo(0x3A46F1BF30, "planet", "1.14.1", 21.5, True, (PathInfo("198.51.100.2:9993", True, 1.0, -1.0),)),
        ]

    def peer(self, address: int) -> PeerInfo | None:
        return next((peer for peer in self.peers() if peer.address == address), None)

    def peer_traffic(self, address: int) -> tuple[int, int] | None:
        return self.traffic.get(address)

    def network_traffic(self, nwid: int) -> tuple[int, int] | None:
        return self.traffic.get(nwid)

    def moons(self) -> Sequence[MoonInfo]:
        return list(self.orbited.values())

    async def orbit(self, moon: int, seed: int) -> MoonInfo:
        return self.orbited.setdefault(moon, MoonInfo(moon, seed, 0, ()))

    async def orbit_world(self, data: bytes) -> MoonInfo:
        try:
            info = snapshots.moon(World.parse(data))
        except WireError as error:
            raise ValueError(f"this is no moon file: {error}") from None
        self.orbited[info.id] = info
        return info

    async def deorbit(self, moon: int) -> None:
        del self.orbited[moon]

    async def set_network(self, nwid: int, settings: Mapping[str, bool]) -> NetworkInfo:
        info = self.known[nwid]
        changes: dict[str, Any] = {**settings}
        self.change(replace(info, settings=replace(info.settings, **changes)))
        return self.known[nwid]

    async def join(self, nwid: int, auth_token: str = "", *, allow_default: bool | None = None) -> NetworkInfo:
        if self.failing is not None:
            raise self.failing
        self.change(self.known.get(nwid) or self.on_join(nwid))
        return self.known[nwid]

    def _lead(self, targets: Sequence[str], _flows: int) -> None:
        self.led_to = targets

    def open_gateway(self, targets: Sequence[str], excepted: Sequence[str] = (), *, flows: int = 0) -> int:
        return self._gateways.open(targets, excepted, flows)

    def gateway(self, gateway: int) -> GatewayInfo:
        return self._gateways.describe(gateway, self.networks())

    def close_gateway(self, gateway: int) -> None:
        self._gateways.close(gateway)

    async def leave(self, nwid: int) -> None:
        left = replace(self.known.pop(nwid), state=JoinState.LEFT)
        for queue in self.watchers:
            queue.put_nowait(left)

    def change(self, info: NetworkInfo) -> None:
        self.known[info.nwid] = info
        for queue in self.watchers:
            queue.put_nowait(info)

    async def watch(self) -> AsyncIterator[NetworkInfo]:
        queue: asyncio.Queue[NetworkInfo] = asyncio.Queue()
        for info in self.known.values():
            queue.put_nowait(info)
        self.watchers.append(queue)
        try:
            while True:
                yield await queue.get()
        finally:
            self.watchers.remove(queue)

    async def watch_online(self) -> AsyncIterator[bool]:
        yield True

    async def watch_identity(self) -> AsyncIterator[str]:
        yield ""

    async def dial(
        self,
        host: str,
        port: int,
        *,
        nwid: int | None = None,
        timeout: float = 30.0,
        options: StreamOptions = DEFAULT_STREAM,
    ) -> Handoff:
        self.options.append(options)
        self.dials.append((host, port, nwid, timeout))
        self.dialling += 1
        try:
            return await self._dial(host, port, timeout)
        finally:
            self.dialling -= 1

    async def _dial(self, host: str, port: int, timeout: float) -> Handoff:
        if host.startswith("192.0.2."):
            raise DialError(errno.EHOSTUNREACH, f"no answer to ARP for {host}")
        if host == "198.51.100.1":
            await asyncio.sleep(timeout)
            raise DialError(errno.ETIMEDOUT, f"{host} port {port} did not answer within {timeout:g} s")
        if not host.startswith(("10.121.", "fd")):
            raise DialError(errno.ENETUNREACH, f"no joined network has a route to {host}")
        real = self.overlay.get((host, port))
        if real is None:
            raise DialError(errno.ECONNREFUSED, f"{host} port {port} refused the connection")
        connected = socket.socket()
        connected.setblocking(False)
        await asyncio.get_running_loop().sock_connect(connected, real)
        return self._offer(connected, (IP, 50000), (host, port))

    async def listen(
        self,
        host: str | None,
        port: int,
        *,
        nwid: int | None = None,
        backlog: int = 128,
        options: StreamOptions = DEFAULT_STREAM,
    ) -> tuple[int, tuple[str, int]]:
        self.options.append(options)
        if host not in (None, IP):
            raise DialError(errno.EADDRNOTAVAIL, f"{host} is not a managed address of this node")
        listener = socket.socket()
        listener.setblocking(False)
        listener.bind(("127.0.0.1", 0))
        listener.listen(backlog)
        self.backlogs.append(backlog)
        bound = (host or "0.0.0.0", port or 40000)
        if bound in self.overlay:
            raise DialError(errno.EADDRINUSE, f"port {port} is in use")
        number, self._next = self._next, self._next + 1
        self.listeners[number] = listener
        self.overlay[bound] = listener.getsockname()
        return number, bound

    async def whois(self, ip: str, *, nwid: int | None = None) -> Whois:
        if ip.startswith("192.0.2."):
            raise DialError(errno.EHOSTUNREACH, f"no answer to ARP for {ip}")
        if ip != "10.121.15.99":
            return Whois(ip, "10.121.0.1", NWID, 0x32BAE9D3F1F2, 0x99937780CD, "", None, "")
        return Whois(ip, None, NWID, 0x32BAE9D3F1F2, 0x3A46F1BF30, "3a46f1bf30:0:" + "cd" * 64, self.peers()[1], "bo")

    def rules(self, nwid: int) -> NetworkRules | None:
        if nwid != NWID:
            return None
        match_ = Rule(RuleType.MATCH_ETHERTYPE, 0x0806)
        accept = Rule(RuleType.ACTION_ACCEPT)
        return NetworkRules((match_, Rule(RuleType.ACTION_DROP), accept), ((7, (accept,)),), ((100, 3),))

    async def connections(self) -> Sequence[ConnectionInfo]:
        figures = {
            **dict.fromkeys(("mss", "cwnd", "send_window", "unsent", "unacked", "receive_window", "retransmits"), 1000),
            "timeouts": 1,
            "rtt": 0.0125,
            "rttvar": 0.001,
            "rto": 0.2,
            "ssthresh": 1 << 31,
            "pacing_rate": 0.0,
            "state": "ESTABLISHED",
            "congestion": "cubic",
            "phase": "OPEN",
            "index": 0,
            "local": [IP, 50000],
        }
        ports = range(1500, 0, -1)
        return [ConnectionInfo(0, {**figures, "remote": ["10.121.15.99", port]}) for port in ports]

    def attended(self, listener: int) -> Handoff | None:
        return None

    async def accept(self, listener: int) -> Handoff:
        sock = self.listeners[listener]
        try:
            connected, _peer = await asyncio.get_running_loop().sock_accept(sock)
        except OSError:
            raise DialError(errno.ECONNABORTED, "the listener was closed") from None
        return self._offer(connected, (IP, 80), ("10.121.15.99", 41000))

    async def close_listener(self, listener: int) -> None:
        sock = self.listeners.pop(listener)
        real = sock.getsockname()
        self.overlay = {bound: where for bound, where in self.overlay.items() if where != real}
        sock.close()

    async def configure_udp(
        self, token: bytes, option: str, *, address: str | None = None, source: str | None = None, value: int = 0
    ) -> None:
        """Write it down; the group 224.0.0.9 is refused."""
        if address == "224.0.0.9":
            raise DialError(errno.EPERM, "the network carries no multicast")
        self.configured.append((option, address, source, value))

    async def open_udp(self, host: str | None, port: int, *, nwid: int | None = None, reuse: bool = False) -> Handoff:
        """A UDP socket that says back what it is sent, and that to port 9 nobody listens."""
        if host not in (None, IP):
            raise DialError(errno.EADDRNOTAVAIL, f"{host} is not a managed address of this node")
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)

        def echo() -> None:
            with ours:
                while record := ours.recv(records.MAX_RECORD):
                    _, ip, to, _ = records.parse(record)
                    if ip == "255.255.255.255":
                        ours.send(records.failure(ip, to, errno.EACCES, records.REFUSED))
                    else:
                        ours.send(records.failure(ip, to, errno.ECONNREFUSED) if to == 9 else record)

        threading.Thread(target=echo, daemon=True).start()
        return self._offer(theirs, (host or "0.0.0.0", port or 40000), ("", 0))

    async def ping(self, host: str, *, nwid: int | None = None, size: int = 56, timeout: float = 3.0) -> float:
        if host.startswith("192.0.2."):
            raise DialError(errno.EHOSTUNREACH, f"no answer to ARP for {host}")
        if host == "198.51.100.1":
            raise DialError(errno.ETIMEDOUT, f"{host} did not answer within {timeout:g} s")
        return size / 1e4

    async def capture(self, nwid: int, *, snaplen: int = 65535) -> AsyncIterator[bytes]:
        self.capturing += 1
        try:
            yield b"\x0a\x0d\x0d\x0a" + snaplen.to_bytes(4, "little")
            yield nwid.to_bytes(8, "big")
            await asyncio.Event().wait()
        finally:
            self.capturing -= 1


class RunningNode:
    """A FakeNode behind a ControlServer, on an event loop in a thread of its own."""

    def __init__(self, state: Path, tcp: TcpOptions | None = None) -> None:
        self.state = state
        self.node = FakeNode(state / "worker-0.sock")
        self.server = ControlServer(
            [node_service(self.node, Resolver(self.node, state / "hosts"))], state=state, tcp=tcp
        )
        self._started = threading.Event()
        self._failure: BaseException | None = None
        self._thread = threading.Thread(target=self._run, daemon=True)

    @property
    def addresses(self) -> list[str]:
        return self.server.addresses

    def __enter__(self) -> RunningNode:
        self._thread.start()
        self._started.wait()
        if self._failure is not None:
            raise self._failure
        return self

    def __exit__(self, *_exception: object) -> None:
        self._loop.call_soon_threadsafe(self._end.set)
        self._thread.join()

    def run(self, coroutine: Coroutine[Any, Any, T]) -> T:
        """Run a coroutine on the node's event loop and give its result."""
        return asyncio.run_coroutine_threadsafe(coroutine, self._loop).result(10)

    def call(self, function: Any, *args: Any) -> None:
        """Call a function on the node's event loop, soon."""
        self._loop.call_soon_threadsafe(function, *args)

    def serve(self, host: str, port: int, real: tuple[str, int]) -> None:
        """Let clients that dial host and port reach the server at ``real``."""
        self.node.overlay[host, port] = real

    def _run(self) -> None:
        uvloop.run(self._main())

    async def _main(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._end = asyncio.Event()
        try:
            await self.node.open()
            await self.server.start()
        except BaseException as error:
            self._failure = error
            return
        finally:
            self._started.set()
        await self._end.wait()
        await self.server.stop(0.2)
        await self.node.close()
