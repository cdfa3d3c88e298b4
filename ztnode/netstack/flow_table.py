"""The flows of a host, and how each finds its way: next hop, neighbour, path MTU."""

from __future__ import annotations

import errno
from weakref import WeakValueDictionary

from ztnode.netstack.clock import Clock
from ztnode.netstack.flow import Flow
from ztnode.netstack.neighbour_cache import permanent
from ztnode.netstack.path_mtu_cache import PathMtuCache
from ztnode.netstack.port import Port
from ztnode.netstack.routing_table import RoutingTable
from ztnode.os_error import os_error
from ztnode.wire import ipv6


class FlowTable:
    """All flows that somebody holds, with the routes and path MTUs that decide about them.

    ``ports`` is the host's table, which others change.
    """

    def __init__(self, clock: Clock, ports: dict[int, Port]) -> None:
        self.routes = RoutingTable()
        self.path_mtus = PathMtuCache()
        self.version = 0
        """Another one whenever the way that ``find`` gives may be another one."""
        self._clock = clock
        self._ports = ports
        self._flows: WeakValueDictionary[tuple[int, bytes, bytes], Flow] = WeakValueDictionary()
        self._found: tuple[bytes, int | None, Flow] | None = None
        """What ``find`` was asked last, and gave, for as long as it would give the same: who connects mostly connects
        to the same host again."""

    def flow_to(self, port_index: int, local: bytes, remote: bytes) -> Flow | None:
        """The way from one of our addresses to a remote by one port; None when there is none."""
        key = (port_index, local, remote)
        flow = self._flows.get(key)
        # One of a port that is gone has no way any more, however long somebody holds it.
        if flow is None or flow.port is not self._ports.get(port_index):
            port = self._ports.get(port_index)
            if port is None or not (local in port.addresses or port.passes(local)):
                return None
            flow = Flow(port, local, remote)
            if not self._route(flow):
                return None
            self._flows[key] = flow
        elif flow.neighbour is None and not flow.loopback:
            return None
        return flow

    def find(self, remote: bytes, *, port_index: int | None = None, local: bytes | None = None) -> Flow:
        """The best way to a remote address over all ports, or over one, or from one address of ours.

        Raises OSError: ENETUNREACH without a route, EADDRNOTAVAIL when we have no fitting address.
        """
        found = self._found
        if found is not None and found[0] == remote and found[1] == port_index and local is None:
            return found[2]
        port = self._port_for(remote, port_index, local)
        source = local
        if source is None:
            if remote in port.addresses:
                source = remote
            else:
                hop = self.routes.lookup(remote, (port.index,))
                source = port.source_for(hop.gateway if hop is not None and hop.gateway else remote)
        if source is None:
            raise os_error(errno.EADDRNOTAVAIL)
        flow = self.flow_to(port.index, source, remote)
        if flow is None:
            raise os_error(errno.ENETUNREACH)
        if local is None:
            self._found = remote, port_index, flow
        return flow

    def _port_for(self, remote: bytes, port_index: int | None, local: bytes | None) -> Port:
        candidates = [
            port
            for index, port in sorted(self._ports.items())
            if (port_index is None or index == port_index) and (local is None or local in port.addresses)
        ]
        if not candidates:
            raise os_error(errno.ENETUNREACH if local is None else errno.EADDRNOTAVAIL)
        for port in candidates:
            if remote in port.addresses:
                return port
        hop = self.routes.lookup(remote, {port.index for port in candidates})
        if hop is not None:
            return self._ports[hop.port_index]
        for port in candidates:
            if _on_link(port, remote):
                return port
        raise os_error(errno.ENETUNREACH)

    def _route(self, flow: Flow) -> bool:
        """(Re)compute next hop, neighbour and MTU of a flow. False when there is no way."""
        port = flow.port
        ours = flow.local in port.addresses or port.passes(flow.local)
        if self._ports.get(port.index) is not port or not ours:
            flow.route(None, None, port.mtu)
            return False
        if flow.remote in port.addresses:
            flow.route(None, None, port.mtu, loopback=True)
            return True
        mtu = self.path_mtus.get((port.index, flow.remote), port.mtu)
        mac = port.neighbour_mac(flow.remote)
        if mac is not None:
            flow.route(flow.remote, permanent(flow.remote, mac), mtu)
            return True
        hop = self.routes.lookup(flow.remote, (port.index,))
        if hop is None and not _on_link(port, flow.remote):
            flow.route(None, None, mtu)
            return False
        next_hop = flow.remote if hop is None or hop.gateway is None else hop.gateway
        flow.route(next_hop, port.neighbours.lookup(next_hop), mtu)
        return True

    def reroute(self) -> list[Flow]:
        """Ports, addresses or routes changed. Returns the flows that have no way any more."""
        self.version += 1
        self._found = None
        return [flow for flow in list(self._flows.values()) if not self._route(flow)]

    # --- path MTU ---
    def lower_path_mtu(self, port: Port, remote: bytes, mtu: int) -> bool:
        """A validated report says that packets to ``remote`` must be smaller; False when that is nothing new."""
        key = (port.index, remote)
        lowered = self.path_mtus.lower(key, mtu, self.path_mtus.get(key, port.mtu), self._clock.now)
        if lowered is None:
            return False
        self._set_path_mtu(key, lowered)
        return True

    def over(self, port: Port, mac: bytes) -> list[Flow]:
        """The flows by way of a neighbour."""
        return [
            flow
            for flow in list(self._flows.values())
            if flow.port is port and flow.neighbour is not None and flow.neighbour.mac == mac
        ]

    def handle_timer(self, now: float) -> None:
        """Paths that were narrow long ago may try their full size again."""
        for key in self.path_mtus.handle_timer(now):
            if key[0] in self._ports:
                self._set_path_mtu(key, self._ports[key[0]].mtu)

    def _set_path_mtu(self, key: tuple[int, bytes], mtu: int) -> None:
        for flow in list(self._flows.values()):
            if (flow.port_index, flow.remote) == key:
                flow.set_mtu(mtu)


def _on_link(port: Port, remote: bytes) -> bool:
    """Whether an address without a route is on the port's link all the same."""
    if port.neighbour_mac(remote) is not None:
        return any(len(address) == len(remote) for address in port.addresses)
    return len(remote) == 16 and ipv6.is_link_local(remote) and any(len(a) == 16 for a in port.addresses)
