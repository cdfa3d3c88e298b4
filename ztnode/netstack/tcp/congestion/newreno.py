"""NewReno: additive increase, multiplicative decrease (RFC 5681, RFC 6582)."""

from __future__ import annotations

from typing import ClassVar

from ztnode.netstack.tcp.congestion.loss_based import LossBased


class NewReno(LossBased):
    """Grows by one segment per window (with byte counting, RFC 3465), halves on loss."""

    name: ClassVar[str] = "newreno"

    __slots__ = ("_credit",)

    def __init__(self, mss: int) -> None:
        super().__init__(mss)
        self._credit = 0

    def _avoid(self, acked: int, now: float, srtt: float) -> None:
        self._credit += acked
        if self._credit >= self.cwnd:
            self._credit -= self.cwnd
            self.cwnd += self.mss

    def _reduced(self, flight: int) -> int:
        self._credit = 0
        return flight // 2
