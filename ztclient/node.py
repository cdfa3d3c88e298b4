"""A running node, and sockets over its networks."""

from __future__ import annotations

import errno
import math
import socket
import time
from collections.abc import Callable, Generator, Iterable
from typing import TYPE_CHECKING

from ztclient import channel, dialling, model
from ztclient.default_timeout import DEFAULT_TIMEOUT
from ztclient.forms import network_id
from ztclient.reach import (
    SLACK,
    NamedNode,
    dial_request,
    joined,
    listen_request,
    not_ready,
    numeric,
    orbit_request,
    ping_request,
    resolve_request,
    resolved,
    udp_request,
)

if TYPE_CHECKING:
    from ztclient.datagrams import DatagramSocket
    from ztclient.listener import Listener
    from ztclient.v1 import node_pb2 as pb


class Node(NamedNode):
    """A running ztnode. Making one connects to nothing; it can be shared by threads and used after a fork."""

    @property
    def control(self) -> channel.Control:
        """The channel of this process to the node."""
        return channel.get(self._address, self._credentials)

    def status(self) -> model.Status:
        """The node as a whole."""
        from ztclient.v1 import node_pb2 as pb

        control = self.control
        return model.status(control.call(control.stub.Status, pb.StatusRequest()))

    def networks(self) -> list[model.Network]:
        """All joined networks."""
        from ztclient.v1 import node_pb2 as pb

        control = self.control
        return [model.network(each) for each in control.entries(control.stub.ListNetworks, pb.ListNetworksRequest())]

    def network(self, nwid: str | int) -> model.Network:
        """One joined network. Raises NotFoundError."""
        from ztclient.v1 import node_pb2 as pb

        control = self.control
        answer: pb.GetNetworkResponse = control.call(
            control.stub.GetNetwork, pb.GetNetworkRequest(network_id=network_id(nwid))
        )
        return model.network(answer.network)

    def addresses(self, nwid: str | int | None = None) -> list[model.ManagedAddress]:
        """The managed addresses of the node, on one network or on all, with their prefix lengths."""
        from ztclient.v1 import node_pb2 as pb

        control = self.control
        request = pb.ListAddressesRequest(network_id="" if nwid is None else network_id(nwid))
        return [
            model.ManagedAddress(each.network_id, each.ip, each.prefix_length)
            for each in control.entries(control.stub.ListAddresses, request)
        ]

    def ips(self, nwid: str | int | None = None) -> list[str]:
        """The managed IPs of the node, on one network or on all."""
        return [address.ip for address in self.addresses(nwid)]

    def peers(self) -> list[model.Peer]:
        """The ZeroTier peers that the node knows."""
        from ztclient.v1 import node_pb2 as pb

        control = self.control
        return [model.peer(each) for each in control.entries(control.stub.ListPeers, pb.ListPeersRequest())]

    def connections(self) -> list[model.Connection]:
        """The TCP connections of the overlay with their figures, in the order of their ends."""
        from ztclient.v1 import node_pb2 as pb

        control = self.control
        request = pb.ListConnectionsRequest()
        return [model.connection(each) for each in control.entries(control.stub.ListConnections, request)]

    def whois(self, ip: str, *, nwid: str | int | None = None) -> model.Whois:
        """Who has an address on a network, on ``nwid`` alone or where a route leads to it.

        Raises OSError (EHOSTUNREACH: nobody answers for it, ENETUNREACH...), socket.gaierror for a name.
        """
        from ztclient.v1 import node_pb2 as pb

        control = self.control
        address = numeric(ip)
        request = pb.WhoisRequest(ip=address, network_id="" if nwid is None else network_id(nwid))
        return model.whois(address, control.call(control.stub.Whois, request))

    def rules(self, nwid: str | int) -> model.NetworkRules:
        """The rules of a network's configuration, with this node's capabilities and tags. Raises NotFoundError, OSError
        (ENETDOWN) while the network has no configuration."""
        from ztclient.v1 import node_pb2 as pb

        control = self.control
        return model.network_rules(control.call(control.stub.GetRules, pb.GetRulesRequest(network_id=network_id(nwid))))

    def orbit(self, moon: str | bytes, seed: str | None = None) -> model.Moon:
        """Orbit a moon: its roots become upstreams of the node, over restarts too.

        ``moon``: its world id, for which ``seed``, the address of one of its roots, is asked (None: the id's last 10
        digits, its first root by convention); or the bytes of its file. Gives what is known of it at once: ``moons``
        has it with its roots when it has come. Raises ValueError, OSError where it cannot be kept.
        """

        control = self.control
        answer: pb.OrbitResponse = control.call(control.stub.Orbit, orbit_request(moon, seed))
        return model.moon(answer.moon)

    def deorbit(self, moon: str) -> None:
        """Leave a moon, or give up looking for it. Raises NotFoundError."""
        from ztclient.v1 import node_pb2 as pb

        control = self.control
        control.call(control.stub.Deorbit, pb.DeorbitRequest(moon_id=moon))

    def moons(self) -> list[model.Moon]:
        """The moons that the node orbits or looks for, in the order of their ids."""
        from ztclient.v1 import node_pb2 as pb

        control = self.control
        return [model.moon(each) for each in control.entries(control.stub.ListMoons, pb.ListMoonsRequest())]

    def join(
        self,
        nwid: str | int,
        wait: float | None = None,
        *,
        auth_token: str = "",
        on_change: Callable[[model.Network], None] | None = None,
        allow_default: bool | None = None,
    ) -> model.Network:
        """Join a network (nothing happens where it is joined already).

        ``wait``: seconds to wait until the network can be used; None: do not wait, give its state so far.
        ``auth_token``: what the network's controller may let this node in for. ``on_change`` is called with each state
        on the way. ``allow_default``: whether to follow default routes of the network from now on (None: as before, at
        first not). Raises JoinTimeoutError with what is missing, Error when there is no such network, ValueError for a
        malformed id.
        """
        from ztclient.v1 import node_pb2 as pb

        control = self.control
        request = pb.JoinRequest(network_id=network_id(nwid), auth_token=auth_token, allow_default=allow_default)
        answer: pb.JoinResponse = control.call(control.stub.Join, request)
        network = model.network(answer.network)
        if wait is None or network.ready:
            return network
        deadline = time.monotonic() + wait
        try:
            for network in self.watch(nwid, timeout=max(wait, 0.001)):
                if on_change is not None:
                    on_change(network)
                if joined(network):
                    return network
        except TimeoutError:
            if time.monotonic() < deadline - SLACK:
                raise
        raise not_ready(network, wait)

    def leave(self, nwid: str | int) -> None:
        """Leave a network and forget its configuration. Raises NotFoundError."""
        from ztclient.v1 import node_pb2 as pb

        control = self.control
        control.call(control.stub.Leave, pb.LeaveRequest(network_id=network_id(nwid)))

    def watch(
        self, nwid: str | int | None = None, *, timeout: float | None = None
    ) -> Generator[model.Network, None, None]:
        """Each network as it is now, then again whenever it changes; close the iterator to end it.

        ``timeout``: seconds until it ends in TimeoutError; None: never.
        """
        from ztclient.v1 import node_pb2 as pb

        control = self.control
        with control.translated():
            call = control.stub.WatchNetworks(
                pb.WatchNetworksRequest(network_id="" if nwid is None else network_id(nwid)),
                timeout=timeout,
                metadata=control.metadata,
            )
            try:
                for response in call:
                    yield model.network(response.network)
            finally:
                call.cancel()

    def capture(
        self, nwid: str | int, *, snaplen: int = 65535, timeout: float | None = None
    ) -> Generator[bytes, None, None]:
        """The network's decrypted Ethernet frames as the bytes of a pcapng file; close the iterator to end it.

        ``snaplen``: bytes kept of each frame. ``timeout``: seconds until it ends in TimeoutError; None: never.
        """
        from ztclient.v1 import node_pb2 as pb

        control = self.control
        with control.translated():
            call = control.stub.Capture(
                pb.CaptureRequest(network_id=network_id(nwid), snaplen=snaplen),
                timeout=timeout,
                metadata=control.metadata,
            )
            try:
                for response in call:
                    yield response.pcapng
            finally:
                call.cancel()

    def dial(
        self,
        ip: str,
        port: int,
        timeout: float | None = None,
        *,
        nwid: str | int | None = None,
        delay: bool = False,
        congestion: str = "",
    ) -> socket.socket:
        """A connected socket, blocking, to a host on the overlay: a numeric address, or a name as in :meth:`resolve`.

        ``timeout``: seconds until it stands (None: 120). ``nwid``: by this network alone. ``delay``: small writes may
        wait on the overlay to be joined (Nagle); otherwise they leave at once. ``congestion``: the
        congestion control of what is sent, "cubic", "newreno" or "bbr" (empty: the node's). Raises
        ConnectionRefusedError, TimeoutError, OSError (EHOSTUNREACH, ENETUNREACH...; EINVAL: no such congestion
        control), socket.gaierror (no such name), OverflowError (bad port).
        """
        request, patience = dial_request(ip, port, timeout, nwid, delay=delay, congestion=congestion)
        return dialling.dial(self.control, request, patience)

    def listen(
        self,
        ip: str = "",
        port: int = 0,
        *,
        backlog: int = 128,
        nwid: str | int | None = None,
        delay: bool = False,
        congestion: str = "",
    ) -> Listener:
        """Listen for TCP connections on a managed address (empty: on all), port 0: any free one.

        ``delay`` and ``congestion``, of accepted connections, as in :meth:`dial`. The listener is closed with its
        object or with this process. Raises OSError (EADDRINUSE, EADDRNOTAVAIL...).
        """
        from ztclient.listener import Listener

        return Listener(self.control, listen_request(ip, port, backlog, nwid, delay=delay, congestion=congestion))

    def gateway(
        self, targets: Iterable[str], excepted: Iterable[str] = (), *, flows: int = 0
    ) -> Generator[model.Gateway, None, None]:
        """Make the node the gateway of managed routes to ``targets`` (CIDR) but for those ``excepted``, for as long as
        the iterator is not closed: what members send there goes on by the sockets of the node's host, ``flows`` of
        them at a time at most (0: 4096). Gives how it stands, at once and whenever the networks' routes change.

        Raises ValueError for targets that are no networks.
        """
        from ztclient.v1 import node_pb2 as pb

        control = self.control
        request = pb.GatewayRequest(targets=targets, excepted=excepted, flows=flows)
        with control.translated():
            call = control.stub.Gateway(request, metadata=control.metadata)
            try:
                for response in call:
                    yield model.gateway(response)
            finally:
                call.cancel()

    def open_udp(
        self, ip: str = "", port: int = 0, *, nwid: str | int | None = None, reuse: bool = False
    ) -> DatagramSocket:
        """A UDP socket bound to a managed address or a multicast group (empty: to all addresses), port 0: any free one.
        ``reuse``: others that say so may have the same one. It takes the options of multicast and SO_BROADCAST. Raises
        OSError (EADDRINUSE, EADDRNOTAVAIL...)."""
        from ztclient.datagrams import open_udp

        return open_udp(self.control, udp_request(ip, port, nwid, reuse))

    def ping(self, ip: str, timeout: float = 3.0, *, size: int = 56, nwid: str | int | None = None) -> float:
        """Seconds from an ICMP echo with ``size`` bytes of payload to its reply, waiting ``timeout`` seconds at most.

        Raises TimeoutError, OSError (EHOSTUNREACH, ENETUNREACH...), socket.gaierror (no such name).
        """
        from ztclient import times

        control = self.control
        answer: pb.PingResponse = control.call(
            control.stub.Ping, ping_request(ip, timeout, size, nwid), timeout + SLACK
        )
        return times.seconds(answer.round_trip)

    def resolve(
        self, name: str, family: int = 0, timeout: float | None = None, *, nwid: str | int | None = None
    ) -> list[str]:
        """The addresses (IP) of a name of the overlay, the preferred one first; a numeric address is its own.

        ``family``: ``socket.AF_INET``, ``AF_INET6``, or 0 for both. ``timeout``: seconds (None: 10). Raises
        socket.gaierror: EAI_NONAME, EAI_NODATA, EAI_AGAIN when no name server could say, and ForeignNameError for a
        name that is not the overlay's. The host's resolver is never asked.
        """
        control = self.control
        request, patience = resolve_request(name, family, timeout, nwid)
        return resolved(name, control.call(control.stub.Resolve, request, patience))

    def create_connection(
        self,
        address: tuple[str | None, int | str],
        timeout: float | None = DEFAULT_TIMEOUT,
        source_address: tuple[str, int] | None = None,
    ) -> socket.socket:
        """As ``socket.create_connection``, over the overlay. See ``ztclient.create_connection``."""
        if timeout is DEFAULT_TIMEOUT:
            timeout = socket.getdefaulttimeout()
        if timeout is not None and (timeout < 0 or math.isnan(timeout)):
            raise ValueError("Timeout value out of range")
        if timeout == 0:
            raise BlockingIOError(errno.EINPROGRESS, "a timeout of 0 leaves no time to connect")
        nwid = None if source_address is None else self.network_of(source_address)
        host, port = address
        connected = self.dial(host or "", int(port), timeout, nwid=nwid)
        if timeout is not None:  # it blocks anyway
            connected.settimeout(timeout)
        return connected

    def network_of(self, source_address: tuple[str, int]) -> str | None:
        """The id of the network that a source address chooses; None for the unspecified one. Raises OSError
        (EADDRNOTAVAIL)."""
        ip, port = source_address
        if port:
            raise OSError(errno.EADDRNOTAVAIL, "the source port on the overlay cannot be chosen: give 0")
        if ip in ("", "0.0.0.0", "::"):
            return None
        wanted = numeric(ip)
        for address in self.addresses():
            if address.ip == wanted:
                return address.nwid
        raise OSError(errno.EADDRNOTAVAIL, f"{ip} is not a managed address of this node")
