"""Connections that their owners closed, and that we bring to their end: bounded in number and in what they hold."""

from __future__ import annotations

from collections.abc import Callable

from ztnode.netstack.tcp.ending import finish
from ztnode.netstack.tcp.tcb import ControlBlock
from ztnode.netstack.tcp.tcp_config import TcpConfig


class Orphans:
    """``count`` is told the reason whenever one is refused or dropped."""

    def __init__(self, config: TcpConfig, count: Callable[[str], None]) -> None:
        self._config = config
        self._count = count
        self.delivering: set[ControlBlock] = set()
        """With something for the peer still to acknowledge."""
        self.in_fin_wait_2: dict[ControlBlock, None] = {}
        """Those that wait for the peer's FIN alone, oldest first."""

    def adopt(self, tcb: ControlBlock) -> bool:
        """Take one more; False when there are too many already, or they hold too much."""
        held = len(tcb.snd.buffer) + sum(len(orphan.snd.buffer) for orphan in self.delivering)
        if len(self.delivering) >= self._config.orphans_max or held > self._config.orphan_bytes_max:
            self._count("orphans_full")
            return False
        self.delivering.add(tcb)
        return True

    def waits_for_fin(self, tcb: ControlBlock) -> None:
        """One entered FIN-WAIT-2; the one that has waited longest makes room for it."""
        self.delivering.discard(tcb)
        self.in_fin_wait_2[tcb] = None
        if len(self.in_fin_wait_2) > self._config.orphans_max:
            self._count("fin_wait_2_full")
            finish(next(iter(self.in_fin_wait_2)), None)

    def remove(self, tcb: ControlBlock) -> None:
        """It is closed."""
        self.delivering.discard(tcb)
        self.in_fin_wait_2.pop(tcb, None)
