"""A running node, and sockets over its networks."""

from __future__ import annotations

import errno
import math
import os
import socket
import time
from collections.abc import Callable, Generator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ztclient import channel, dialling, discovery, model
from ztclient.errors import AuthenticationError, Error, JoinTimeoutError
from ztclient.forms import network_id, numeric_ip, without_brackets

if TYPE_CHECKING:
    from ztclient.listener import Listener
    from ztclient.v1 import node_pb2 as pb

DEFAULT_TIMEOUT: Any = getattr(socket, "_GLOBAL_DEFAULT_TIMEOUT", object())
"""Stands for ``socket.getdefaulttimeout()``, the very object that ``http.client`` passes on."""

PATIENCE = 120.0
"""Seconds that a dial without a timeout may take, about what a kernel takes."""

LONGEST = 3600.0
"""Seconds that the node dials at most; a longer timeout is cut to this."""

SLACK = 2.0
"""Seconds that the node gets beyond a timeout to say in its own words what went wrong."""


class Node:
    """A running ztnode. Making one connects to nothing; it can be shared by threads and used after a fork."""

    def __init__(
        self,
        address: str | None = None,
        *,
        state: str | os.PathLike[str] | None = None,
        token: str | None = None,
        ca_file: str | None = None,
        cert_file: str | None = None,
        key_file: str | None = None,
    ) -> None:
        """Name the node by ``address`` or ``state`` (its state directory), or let it be found: see ztclient.discovery.

        The rest matters for TCP addresses: a bearer ``token``, and PEM files for TLS. Left out, they come from
        ZTNODE_TOKEN (or the file ZTNODE_TOKEN_FILE), ZTNODE_CA_FILE, ZTNODE_CERT_FILE and ZTNODE_KEY_FILE.

        Raises ValueError for a malformed address, NodeUnavailableError when no node is found, OSError when a token file
        cannot be read.
        """
        self._address = discovery.find(address, state)
        if self._address.scheme == "unix":
            self._credentials = channel.Credentials()
        else:
            self._credentials = channel.Credentials(
                token=_checked(token or _token_from(os.environ)),
                ca_file=ca_file or os.environ.get("ZTNODE_CA_FILE"),
                cert_file=cert_file or os.environ.get("ZTNODE_CERT_FILE"),
                key_file=key_file or os.environ.get("ZTNODE_KEY_FILE"),
            )

    def __repr__(self) -> str:
        return f"ztclient.Node({str(self._address)!r})"

    @property
    def address(self) -> str:
        """Where the node is reached, in a form of ztclient.discovery."""
        return str(self._address)

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
        address = _numeric(ip)
        request = pb.WhoisRequest(ip=address, network_id="" if nwid is None else network_id(nwid))
        return model.whois(address, control.call(control.stub.Whois, request))

    def join(
        self,
        nwid: str | int,
        wait: float | None = None,
        *,
        on_change: Callable[[model.Network], None] | None = None,
    ) -> model.Network:
        """Join a network (nothing happens where it is joined already).

        ``wait``: seconds to wait until the network can be used; None: do not wait, give its state so far. ``on_change``
        is called with each state on the way. Raises JoinTimeoutError with what is missing, Error when there is no such
        network, ValueError for a malformed id.
        """
        from ztclient.v1 import node_pb2 as pb

        control = self.control
        answer: pb.JoinResponse = control.call(control.stub.Join, pb.JoinRequest(network_id=network_id(nwid)))
        network = model.network(answer.network)
        if wait is None or network.ready:
            return network
        deadline = time.monotonic() + wait
        try:
            for network in self.watch(nwid, timeout=max(wait, 0.001)):
                if on_change is not None:
                    on_change(network)
                if network.ready:
                    return network
                if network.state == "not_found":
                    raise Error(errno.ENOENT, network.detail or f"there is no network {network.nwid}")
                if network.state == "left":
                    raise Error(errno.ECANCELED, f"network {network.nwid} was left meanwhile")
        except TimeoutError:
            if time.monotonic() < deadline - SLACK:
                raise
        reason = network.detail or network.state.replace("_", " ")
        raise JoinTimeoutError(errno.ETIMEDOUT, f"network {network.nwid} is not ready after {wait:g} s: {reason}")

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
    ) -> socket.socket:
        """A connected socket, blocking, to a numeric address on the overlay.

        ``timeout``: seconds until it stands (None: 120). ``nwid``: by this network alone. ``delay``: small writes may
        wait on the overlay to be joined (Nagle); otherwise they leave at once. Raises ConnectionRefusedError,
        TimeoutError, OSError (EHOSTUNREACH, ENETUNREACH...), socket.gaierror for a name, OverflowError for a bad port.
        """
        from ztclient.times import duration
        from ztclient.v1 import node_pb2 as pb

        patience = PATIENCE if timeout is None else min(max(timeout, 0.001), LONGEST)
        request = pb.DialRequest(
            ip=_numeric(ip),
            port=_port(port),
            network_id="" if nwid is None else network_id(nwid),
            timeout=duration(patience),
            delay=delay,
        )
        return dialling.dial(self.control, request, patience + SLACK)

    def listen(
        self,
        ip: str = "",
        port: int = 0,
        *,
        backlog: int = 128,
        nwid: str | int | None = None,
        delay: bool = False,
    ) -> Listener:
        """Listen for TCP connections on a managed address (empty: on all), port 0: any free one.

        ``delay``, of accepted connections, as in :meth:`dial`. The listener is closed with its object or with this
        process. Raises OSError (EADDRINUSE, EADDRNOTAVAIL...).
        """
        from ztclient.listener import Listener

        return Listener(
            self.control,
            _numeric(ip) if ip else "",
            _port(port),
            backlog=backlog,
            nwid=None if nwid is None else network_id(nwid),
            delay=delay,
        )

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
        nwid = None if source_address is None else self._network_of(source_address)
        host, port = address
        connected = self.dial(host or "", int(port), timeout, nwid=nwid)
        connected.settimeout(timeout)
        return connected

    def _network_of(self, source_address: tuple[str, int]) -> str | None:
        ip, port = source_address
        if port:
            raise OSError(errno.EADDRNOTAVAIL, "the source port on the overlay cannot be chosen: give 0")
        if ip in ("", "0.0.0.0", "::"):
            return None
        wanted = _numeric(ip)
        for address in self.addresses():
            if address.ip == wanted:
                return address.nwid
        raise OSError(errno.EADDRNOTAVAIL, f"{ip} is not a managed address of this node")


def _numeric(host: str) -> str:
    try:
        return numeric_ip(without_brackets(host))
    except ValueError:
        raise socket.gaierror(
            socket.EAI_NONAME, f"{host!r} is not a numeric IP address; names are not resolved on the overlay"
        ) from None


def _port(port: int) -> int:
    if not 0 <= port <= 65535:
        raise OverflowError("port must be 0-65535")
    return port


def _checked(token: str | None) -> str | None:
    if token is not None and not (token.isascii() and token.isprintable()):
        raise AuthenticationError(errno.EACCES, "the token is not one line of printable characters")
    return token


def _token_from(environ: Mapping[str, str]) -> str | None:
    if environ.get("ZTNODE_TOKEN"):
        return environ["ZTNODE_TOKEN"]
    path = environ.get("ZTNODE_TOKEN_FILE")
    if not path:
        return None
    token = Path(path).read_text(encoding="utf-8").strip()
    if not token:
        raise AuthenticationError(errno.EACCES, f"the token file {path} is empty")
    return token
