"""The connection that is likely to be asked for next, made while there is nothing else to do.

Whoever connects to one place again and again waits for what makes a connection: three dozen objects, two hashes and a
port number are a third of what is done until its SYN leaves, and nothing of it depends on the moment.
"""

from __future__ import annotations

from typing import NamedTuple

from ztnode.netstack.tcp.connection import TcpConnection
from ztnode.netstack.tcp.ip_service import IpFlow
from ztnode.netstack.tcp.tcp_config import TcpConfig


class Place(NamedTuple):
    """Where a connection goes."""

    flow: IpFlow
    remote_port: int
    config: TcpConfig


class Ahead:
    """At most one, to the place of the last two connections. It has sent nothing and is in no table."""

    __slots__ = ("_connection", "_last", "_repeated")

    def __init__(self) -> None:
        self._last: Place | None = None
        self._repeated = False
        self._connection: TcpConnection | None = None

    @property
    def wanted(self) -> Place | None:
        """For where one may be made now; None: one is there, or nobody goes anywhere again and again."""
        return self._last if self._repeated and self._connection is None else None

    def keep(self, connection: TcpConnection) -> None:
        """Until somebody goes to the ``wanted`` place."""
        self._connection = connection

    def take(self, place: Place) -> TcpConnection | None:
        """A connection is asked for. The one that was made, if it is for this place and nothing has changed since."""
        connection, self._connection = self._connection, None
        last = self._last
        if last is None or place.flow is not last.flow or place[1:] != last[1:]:
            self._last = place
            self._repeated = False
            return None
        self._repeated = True
        # The size of its segments is that of its flow when it was made.
        if connection is not None and connection.link.size.generation == place.flow.generation:
            return connection
        return None

    def forget(self, port_index: int) -> None:
        """Something on this port is gone."""
        if self._last is not None and self._last.flow.port_index == port_index:
            self._last = self._connection = None
