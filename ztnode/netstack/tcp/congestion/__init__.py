"""Congestion control: one small file per algorithm behind one base."""

from __future__ import annotations

from typing import Final

from ztnode.netstack.tcp.congestion.base import CongestionControl
from ztnode.netstack.tcp.congestion.bbr import Bbr
from ztnode.netstack.tcp.congestion.cubic import Cubic
from ztnode.netstack.tcp.congestion.newreno import NewReno

ALGORITHMS: Final[dict[str, type[CongestionControl]]] = {"cubic": Cubic, "newreno": NewReno, "bbr": Bbr}

__all__ = ["ALGORITHMS", "Bbr", "CongestionControl", "Cubic", "NewReno"]
