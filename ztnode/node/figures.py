"""What a node has counted, for its metrics. ``NodeStatus`` has the rest."""

from __future__ import annotations

import contextlib
import errno
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final, TypeAlias

from ztnode.histogram import Histogram
from ztnode.node.api import DialError
from ztnode.vl1 import Peer, Traffic
from ztnode.vl2 import NetworkFigures

DIAL_BOUNDS: Final = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0)
"""Seconds."""


TraceDial: TypeAlias = Callable[[str, int, "int | None"], contextlib.AbstractContextManager[None]]
"""What goes around a dial to a host, a port and, where it was said, a network."""


def untraced(_host: str, _port: int, _nwid: int | None) -> contextlib.AbstractContextManager[None]:
    """Where nobody wants to see each dial."""
    return contextlib.nullcontext()


class Dials:
    """How long connections took to be opened, and why others were not."""

    def __init__(self) -> None:
        self.traced: TraceDial = untraced
        self.opened = Histogram(DIAL_BOUNDS)
        self.failed: Counter[str] = Counter()
        """By the name of the error, as ECONNREFUSED."""

    def failure(self, error: DialError) -> None:
        """One was not opened."""
        self.failed[errno.errorcode.get(error.errno or 0, "other")] += 1


@dataclass(frozen=True, slots=True)
class DatagramFigures:
    """What the transport has carried: datagrams, and the bytes in them."""

    received: int
    bytes_received: int
    sent: int
    bytes_sent: int


@dataclass(frozen=True, slots=True)
class ControllerFigures:
    """A controller's. ``waiting``: members that wait to be told of a change. ``reads``: how often something was looked
    up for administrators, ``changes``: how often documents have changed (``controller/database.py``)."""

    networks: int
    members: int
    waiting: int
    counters: Counter[str]
    reads: Counter[str]
    changes: Counter[str]


@dataclass(frozen=True, slots=True)
class NodeFigures:
    """Of one moment, but for the peers, which are as they are when they are looked at."""

    traffic: Traffic
    peers: Sequence[Peer]
    datagrams: DatagramFigures
    networks: Sequence[NetworkFigures]
    dials: Dials
    controller: ControllerFigures | None
