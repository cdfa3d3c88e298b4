"""The socket options of multicast and broadcast, as requests to the node.

The numbers are those of this system's ``socket`` module; an option that the system does not have is none here either.
"""

from __future__ import annotations

import errno
import os
import socket
import struct
from typing import TYPE_CHECKING, Any, Final

from ztclient.forms import network_id

if TYPE_CHECKING:
    from collections.abc import Sequence

    from ztclient.model import Network
    from ztclient.v1 import node_pb2 as pb


def _options(level: int, names: dict[str, str]) -> dict[tuple[int, int], str]:
    return {(level, getattr(socket, name)): kind for name, kind in names.items() if hasattr(socket, name)}


KNOWN: Final[dict[tuple[int, int], str]] = {
    **_options(
        socket.IPPROTO_IP,
        {
            "IP_ADD_MEMBERSHIP": "join",
            "IP_DROP_MEMBERSHIP": "leave",
            "IP_MULTICAST_IF": "multicast_ip",
            "IP_MULTICAST_TTL": "multicast_hops",
            "IP_MULTICAST_LOOP": "multicast_loop",
        },
    ),
    **_options(
        socket.IPPROTO_IPV6,
        {
            "IPV6_JOIN_GROUP": "join",
            "IPV6_LEAVE_GROUP": "leave",
            "IPV6_MULTICAST_IF": "multicast_ip",
            "IPV6_MULTICAST_HOPS": "multicast_hops",
            "IPV6_MULTICAST_LOOP": "multicast_loop",
        },
    ),
    (socket.SOL_SOCKET, socket.SO_BROADCAST): "broadcast",
}
"""What ConfigureUdpRequest calls an option, by level and number."""
_INTEGER: Final = struct.Struct("@i")
_IPV4: Final = 4
_IPV6: Final = 16


def interface_index(nwid: str | int) -> int:
    """The number that stands for a network where an option of IPv6 wants that of an interface: the same everywhere and
    always."""
    value = int(network_id(nwid), 16)
    return (value ^ value >> 32) & 0x7FFFFFFF or 1


def request(level: int, number: int, value: Any, networks: Sequence[Network]) -> pb.ConfigureUdpRequest:
    """The request that sets an option of ``KNOWN``; its token is the caller's matter. ``networks``: those that are
    joined, one of which an index names.

    Raises OSError: EINVAL for a value of a wrong form, ENODEV for an index of no network.
    """
    from ztclient.v1 import node_pb2 as pb

    kind = KNOWN[level, number]
    if kind in ("join", "leave"):
        group, interface = _membership(level, bytes(value), networks)
        member = pb.GroupMembership(group=group, interface_ip=interface)
        return pb.ConfigureUdpRequest(join=member) if kind == "join" else pb.ConfigureUdpRequest(leave=member)
    if kind == "multicast_ip":
        return pb.ConfigureUdpRequest(multicast_ip=_interface(level, value, networks))
    amount = integer(value)
    if kind == "multicast_hops":
        if not -1 <= amount <= 255:
            raise _invalid()
        return pb.ConfigureUdpRequest(multicast_hops=1 if amount == -1 else amount)
    if kind == "multicast_loop":
        return pb.ConfigureUdpRequest(multicast_loop=bool(amount))
    return pb.ConfigureUdpRequest(broadcast=bool(amount))


def integer(value: Any) -> int:
    """What an option of one number holds: an int, or the bytes of a C int or unsigned char. Raises OSError (EINVAL)."""
    if isinstance(value, int):
        return value
    data = bytes(value)
    if len(data) == 1:
        return data[0]
    if len(data) < _INTEGER.size:
        raise _invalid()
    return int(_INTEGER.unpack_from(data)[0])


def _membership(level: int, value: bytes, networks: Sequence[Network]) -> tuple[str, str]:
    """struct ip_mreq, ip_mreqn or ipv6_mreq: the group, and the address of the interface, empty for any."""
    if level == socket.IPPROTO_IPV6:
        if len(value) != _IPV6 + _INTEGER.size:
            raise _invalid()
        index = _INTEGER.unpack_from(value, _IPV6)[0]
        return socket.inet_ntop(socket.AF_INET6, value[:_IPV6]), _by_index(index, networks, 6)
    if len(value) == _IPV4:  # Python's own documentation has programs that leave the interface out
        return socket.inet_ntoa(value), ""
    if len(value) not in (2 * _IPV4, 2 * _IPV4 + _INTEGER.size):
        raise _invalid()
    return socket.inet_ntoa(value[:_IPV4]), _ipv4_interface(value, networks)


def _interface(level: int, value: Any, networks: Sequence[Network]) -> str:
    if level == socket.IPPROTO_IPV6:
        return _by_index(integer(value), networks, 6)
    data = _INTEGER.pack(value) if isinstance(value, int) else bytes(value)
    if len(data) == _IPV4:
        return "" if not any(data) else socket.inet_ntoa(data)
    if len(data) not in (2 * _IPV4, 2 * _IPV4 + _INTEGER.size):
        raise _invalid()
    return _ipv4_interface(data, networks)


def _ipv4_interface(value: bytes, networks: Sequence[Network]) -> str:
    """The interface of struct ip_mreq or ip_mreqn: an index, if there is one, goes before the address."""
    index = _INTEGER.unpack_from(value, 2 * _IPV4)[0] if len(value) > 2 * _IPV4 else 0
    address = value[_IPV4 : 2 * _IPV4]
    return _by_index(index, networks, 4) or ("" if not any(address) else socket.inet_ntoa(address))


def _by_index(index: int, networks: Sequence[Network], version: int) -> str:
    if not index:
        return ""
    for network in networks:
        if interface_index(network.nwid) == index:
            for address in network.addresses:
                ip = address.partition("/")[0]
                if (6 if ":" in ip else 4) == version:
                    return ip
    raise OSError(errno.ENODEV, os.strerror(errno.ENODEV))


def _invalid() -> OSError:
    return OSError(errno.EINVAL, os.strerror(errno.EINVAL))
