"""Who listens on which port number."""

from __future__ import annotations

import errno
from collections.abc import Callable
from typing import Final

from ztnode.netstack.ephemeral import choose_port
from ztnode.netstack.tcp.listener import ListenerHost, TcpListener
from ztnode.netstack.tcp.tcp_config import TcpConfig
from ztnode.os_error import os_error

_BACKLOG_MAX: Final = 1024


class ListenerTable:
    """All listeners of one layer, the most particular first among those of one port number."""

    __slots__ = ("_config", "_listeners", "_random")

    def __init__(self, config: TcpConfig, random: Callable[[int], bytes]) -> None:
        self._config = config
        self._random = random
        self._listeners: dict[int, list[TcpListener]] = {}

    def __contains__(self, port: object) -> bool:
        return port in self._listeners

    def open(
        self,
        host: ListenerHost,
        port: int,
        backlog: int,
        port_index: int | None,
        local: bytes | None,
        config: TcpConfig,
    ) -> TcpListener:
        """A new listener; port 0 picks one. Raises OSError (EADDRINUSE, EADDRNOTAVAIL)."""
        if port == 0:
            chosen = choose_port(self._random, self._config.ephemeral_ports, self._listeners)
            if chosen is None:
                raise os_error(errno.EADDRINUSE)
            port = chosen
        elif not 0 < port < 65536:
            raise os_error(errno.EADDRNOTAVAIL)
        others = self._listeners.setdefault(port, [])
        for other in others:
            # As Linux without SO_REUSEADDR: two that could both take a connection are not let beside each other.
            if _overlap(other.port_index, port_index) and _overlap(other.local, local):
                raise os_error(errno.EADDRINUSE)
        listener = TcpListener(host, port, max(1, min(backlog, _BACKLOG_MAX)), port_index, local, config)
        others.append(listener)
        others.sort(key=lambda entry: (entry.local is None, entry.port_index is None))
        return listener

    def find(self, port_index: int, local: bytes, port: int) -> TcpListener | None:
        """Who takes a SYN to this address and port number, that came by this network."""
        for listener in self._listeners.get(port, ()):
            if listener.port_index in (None, port_index) and listener.local in (None, local):
                return listener
        return None

    def of_network(self, port_index: int) -> list[TcpListener]:
        """Those that listen on one network alone."""
        return [entry for entries in self._listeners.values() for entry in entries if entry.port_index == port_index]

    def remove(self, listener: TcpListener) -> None:
        """It was closed."""
        listeners = self._listeners.get(listener.port, [])
        if listener in listeners:
            listeners.remove(listener)
        if not listeners:
            self._listeners.pop(listener.port, None)


def _overlap(one: object, other: object) -> bool:
    """None stands for all."""
    return one is None or other is None or one == other
