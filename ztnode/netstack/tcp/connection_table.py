"""Which connections there are, by network and key."""

from __future__ import annotations

from collections.abc import Iterator

from ztnode.netstack.tcp.connection import TcpConnection
from ztnode.netstack.tcp.connection_key import ConnectionKey, reverse_key
from ztnode.netstack.tcp.ip_service import IpFlow
from ztnode.netstack.tcp.tcb import ControlBlock


class ConnectionTable:
    """All that are not closed."""

    __slots__ = ("_networks",)

    def __init__(self) -> None:
        self._networks: dict[int, dict[ConnectionKey, TcpConnection]] = {}

    def __len__(self) -> int:
        return sum(map(len, self._networks.values()))

    def __iter__(self) -> Iterator[TcpConnection]:
        return (connection for table in self._networks.values() for connection in table.values())

    def __contains__(self, place: tuple[int, ConnectionKey]) -> bool:
        port_index, key = place
        return key in self._networks.get(port_index, {})

    def of_network(self, port_index: int) -> dict[ConnectionKey, TcpConnection]:
        """Those of one network, for look-ups without a call; not to be changed."""
        table = self._networks.get(port_index)
        if table is None:
            table = self._networks[port_index] = {}
        return table

    def quoted(self, port_index: int, key: ConnectionKey) -> TcpConnection | None:
        """The connection whose packet an ICMP error quotes: ``key`` has our address first."""
        return self._networks.get(port_index, {}).get(reverse_key(key))

    def over(self, flow: IpFlow) -> list[TcpConnection]:
        """Those that go by one flow."""
        return [entry for entry in self._networks.get(flow.port_index, {}).values() if entry.link.flow is flow]

    def add(self, connection: TcpConnection) -> None:
        """A new one."""
        link = connection.link
        self.of_network(link.flow.port_index)[link.key] = connection

    def remove(self, tcb: ControlBlock) -> None:
        """It is closed."""
        link = tcb.link
        table = self._networks.get(link.flow.port_index, {})
        if table.get(link.key) is tcb:
            del table[link.key]

    def remove_network(self, port_index: int) -> list[TcpConnection]:
        """The network is gone; those that were in it."""
        return list(self._networks.pop(port_index, {}).values())
