"""What every client of a node shares: which node it is, what the node wants to see, and what it is asked for."""

from __future__ import annotations

import errno
import functools
import os
import socket
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from ztclient import channel, discovery, model
from ztclient.destination import Destination
from ztclient.errors import AuthenticationError, Error, ForeignNameError, JoinTimeoutError
from ztclient.forms import host_name, network_id, numeric_ip, without_brackets

if TYPE_CHECKING:
    from ztclient.v1 import node_pb2 as pb

PATIENCE = 120.0
"""Seconds that a dial without a timeout may take, about what a kernel takes."""

RESOLVE_PATIENCE = 10.0
"""Seconds that a name may take to be found."""

LONGEST = 3600.0
"""Seconds that the node dials at most; a longer timeout is cut to this."""

SLACK = 2.0
"""Seconds that the node gets beyond a timeout to say in its own words what went wrong."""


class NamedNode:
    """A node by its address, with what it wants to see of its callers."""

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
        return f"{type(self).__module__.removesuffix('.node')}.Node({str(self._address)!r})"

    @property
    def address(self) -> str:
        """Where the node is reached, in a form of ztclient.discovery."""
        return str(self._address)


@functools.lru_cache(256)
def dial_request(
    name: str, port: int, timeout: float | None, nwid: str | int | None, *, delay: bool = False, congestion: str = ""
) -> tuple[Destination, float]:
    """What asks for a connection, and how many seconds the node may take over it. ``delay``: small writes may wait
    (Nagle). ``congestion``: the name of its congestion control.

    ``name``: a numeric IP or a host name. Raises socket.gaierror for what is neither, OverflowError for a bad port,
    ValueError for a malformed id.
    """
    patience = PATIENCE if timeout is None else min(max(timeout, 0.001), LONGEST)
    known = "" if nwid is None else network_id(nwid)
    return Destination(host(name), port_number(port), patience, known, delay, congestion), patience + SLACK


def listen_request(
    ip: str, port: int, backlog: int, nwid: str | int | None, *, delay: bool = False, congestion: str = ""
) -> pb.ListenRequest:
    """What asks for a listener. Raises as ``dial_request`` does."""
    from ztclient.v1 import node_pb2 as pb

    return pb.ListenRequest(
        ip=numeric(ip) if ip else "",
        port=port_number(port),
        network_id="" if nwid is None else network_id(nwid),
        backlog=backlog,
        delay=delay,
        congestion=congestion,
    )


def udp_request(ip: str, port: int, nwid: str | int | None, reuse: bool = False) -> pb.OpenUdpRequest:
    """What asks for a UDP socket. Raises as ``dial_request`` does."""
    from ztclient.v1 import node_pb2 as pb

    return pb.OpenUdpRequest(
        ip=numeric(ip) if ip else "",
        port=port_number(port),
        network_id="" if nwid is None else network_id(nwid),
        reuse_address=reuse,
    )


def ping_request(name: str, timeout: float, size: int, nwid: str | int | None) -> pb.PingRequest:
    """What asks for an echo. Raises as ``dial_request`` does, ValueError too for a size that no echo has."""
    from ztclient.times import duration
    from ztclient.v1 import node_pb2 as pb

    if not 0 <= size <= 65000:
        raise ValueError(f"a ping carries 0 to 65000 bytes, not {size}")
    return pb.PingRequest(
        ip=host(name),
        network_id="" if nwid is None else network_id(nwid),
        size=size,
        timeout=duration(min(max(timeout, 0.001), LONGEST)),
    )


def resolve_request(
    name: str, family: int, timeout: float | None, nwid: str | int | None
) -> tuple[pb.ResolveRequest, float]:
    """What asks for the addresses of a name, and how many seconds the node may take over it. ``family``: AF_INET,
    AF_INET6, or 0 for both. Raises as ``dial_request`` does."""
    from ztclient.times import duration
    from ztclient.v1 import node_pb2 as pb

    patience = RESOLVE_PATIENCE if timeout is None else min(max(timeout, 0.001), LONGEST)
    v4, v6 = pb.ADDRESS_FAMILY_IPV4, pb.ADDRESS_FAMILY_IPV6
    wanted = {int(socket.AF_INET): v4, int(socket.AF_INET6): v6}.get(family, pb.ADDRESS_FAMILY_UNSPECIFIED)
    request = pb.ResolveRequest(
        name=host(name),
        network_id="" if nwid is None else network_id(nwid),
        family=wanted,
        timeout=duration(patience),
    )
    return request, patience + SLACK


def resolved(name: str, answer: pb.ResolveResponse) -> list[str]:
    """The addresses in an answer. Raises ForeignNameError."""
    if answer.foreign:
        raise ForeignNameError(socket.EAI_NONAME, f"{name} is no name of the overlay")
    return [address.ip for address in answer.addresses]


def joined(network: model.Network) -> bool:
    """Whether a network that is being joined can be used. Raises Error where it never will be."""
    if network.state == "not_found":
        raise Error(errno.ENOENT, network.detail or f"there is no network {network.nwid}")
    if network.state == "left":
        raise Error(errno.ECANCELED, f"network {network.nwid} was left meanwhile")
    return network.ready


def not_ready(network: model.Network, wait: float) -> JoinTimeoutError:
    """The time to wait for a network is over."""
    reason = network.detail or network.state.replace("_", " ")
    return JoinTimeoutError(errno.ETIMEDOUT, f"network {network.nwid} is not ready after {wait:g} s: {reason}")


def host(text: str) -> str:
    """A numeric IP or a name in its usual form, brackets taken off. Raises socket.gaierror for what is neither."""
    bare = without_brackets(text)
    try:
        return numeric_ip(bare)
    except ValueError:
        pass
    try:
        return host_name(bare)
    except ValueError as error:
        raise socket.gaierror(socket.EAI_NONAME, str(error)) from None


def numeric(host: str) -> str:
    """A numeric IP in its usual form, brackets taken off. Raises socket.gaierror."""
    try:
        return numeric_ip(without_brackets(host))
    except ValueError:
        raise socket.gaierror(socket.EAI_NONAME, f"{host!r} is not a numeric IP address") from None


def port_number(port: int) -> int:
    """The port, if it is one. Raises OverflowError."""
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


def orbit_request(moon: str | bytes, seed: str | None) -> pb.OrbitRequest:
    """What to orbit: a world id with the address of a root that is asked for it, or the bytes of a moon file."""
    from ztclient.v1 import node_pb2 as pb

    if isinstance(moon, bytes):
        return pb.OrbitRequest(world=moon, seed=seed or "")
    return pb.OrbitRequest(moon_id=moon, seed=seed or "")
