"""What the layers of one stack share. ``Stack`` makes it and hands it to each of them."""

from __future__ import annotations

from collections.abc import Callable

from ztnode.netstack.clock import Clock
from ztnode.netstack.config import StackConfig
from ztnode.netstack.flow_table import FlowTable
from ztnode.netstack.ip_output import IpOutput
from ztnode.netstack.port import Port


class Host:
    """One host on its virtual Ethernets: clock, configuration, random source, counters, ports, flows, IP output."""

    def __init__(self, config: StackConfig, random: Callable[[int], bytes], now: float) -> None:
        self.config = config
        self.random = random
        self.clock = Clock(now)
        self.counters: dict[str, int] = {}
        """Drops and odd events of everything but TCP, by reason."""
        self.ports: dict[int, Port] = {}
        self.flows = FlowTable(self.clock, self.ports)
        self.output = IpOutput(random)

    def count(self, what: str, amount: int = 1) -> None:
        """Count a drop or an odd event."""
        self.counters[what] = self.counters.get(what, 0) + amount
