"""A host on virtual Ethernets: neighbours, routes, IP, ICMP, UDP and TCP, driven by its owner (sans-IO).

The names below are the contract. They are looked up at first use, so that who needs a constant of this package alone
(the node process does) does not load the whole stack.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from ztnode.netstack.config import LOOPED, NeighbourConfig, PortConfig, StackConfig
    from ztnode.netstack.echo import EchoReply, EchoSocket
    from ztnode.netstack.frame import Frame
    from ztnode.netstack.stack import Socket, Stack
    from ztnode.netstack.tcp.connection import TcpConnection
    from ztnode.netstack.tcp.listener import TcpListener
    from ztnode.netstack.tcp.tcp_config import TcpConfig
    from ztnode.netstack.udp import UdpSocket

__all__ = [
    "LOOPED",
    "EchoReply",
    "EchoSocket",
    "Frame",
    "NeighbourConfig",
    "PortConfig",
    "Socket",
    "Stack",
    "StackConfig",
    "TcpConfig",
    "TcpConnection",
    "TcpListener",
    "UdpSocket",
]

_HOMES: Final = {
    "config": ("LOOPED", "NeighbourConfig", "PortConfig", "StackConfig"),
    "echo": ("EchoReply", "EchoSocket"),
    "frame": ("Frame",),
    "stack": ("Socket", "Stack"),
    "tcp.tcp_config": ("TcpConfig",),
    "tcp.connection": ("TcpConnection",),
    "tcp.listener": ("TcpListener",),
    "udp": ("UdpSocket",),
}


if not TYPE_CHECKING:  # a type checker would take any name for one of ours

    def __getattr__(name: str) -> object:
        for module, names in _HOMES.items():
            if name in names:
                value: object = getattr(import_module(f"{__name__}.{module}"), name)
                globals()[name] = value
                return value
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
