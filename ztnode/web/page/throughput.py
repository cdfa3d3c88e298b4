"""What goes in and out, second by second: of the node for some minutes, of networks and peers while somebody looks."""

from __future__ import annotations

from collections import OrderedDict, deque
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Final

PERIOD: Final = 1.0
"""Seconds between two samples."""
KEPT: Final = 300
"""Samples of the node; of what is watched ``KEPT_WATCHED``."""
KEPT_WATCHED: Final = 40
WATCHED_SECONDS: Final = 60.0
"""How long one is sampled after somebody has looked."""
MAX_WATCHED: Final = 256
FRAME_BYTES: Final = 12
"""What a frame's bytes are counted more than it has, on the average: header of the ring, and padding."""


@dataclass(frozen=True, slots=True)
class Chart:
    """Rates, a second: the last, and the highest that is drawn. ``points_in`` and ``points_out`` are those of SVG
    polylines, newest at the right, in a frame of ``width`` and ``height``."""

    rate_in: float
    rate_out: float
    top: float
    seconds: int
    width: int
    height: int
    points_in: str
    points_out: str


class Rates:
    """The last ``kept`` rates of a pair of numbers that grow."""

    def __init__(self, kept: int) -> None:
        self._rates: deque[tuple[float, float]] = deque(maxlen=kept)
        self._kept = kept
        self._before: tuple[float, float, float] | None = None

    def add(self, got: float, sent: float, now: float) -> None:
        """The numbers as they are at ``now``, monotonic seconds."""
        if self._before is not None:
            at, got_before, sent_before = self._before
            seconds = max(now - at, 0.001)
            # What was replaced has counted what was lost with it; nothing runs backwards.
            self._rates.append((max(0.0, got - got_before) / seconds, max(0.0, sent - sent_before) / seconds))
        self._before = now, got, sent

    def chart(self, width: int, height: int, least: float) -> Chart:
        """As it is now; rates below ``least`` are drawn near the bottom and not as mountains."""
        rates = tuple(self._rates)
        top = max((max(pair) for pair in rates), default=0.0)
        last = rates[-1] if rates else (0.0, 0.0)
        lines = (self._line(rates, which, width, height, max(top, least)) for which in (0, 1))
        return Chart(*last, top, len(rates), width, height, *lines)

    def _line(self, rates: tuple[tuple[float, float], ...], which: int, width: int, height: int, scale: float) -> str:
        step = width / (self._kept - 1)
        first = self._kept - len(rates)
        return " ".join(
            f"{(first + number) * step:.0f},{height * (1 - pair[which] / scale):.0f}"
            for number, pair in enumerate(rates)
        )


class Throughput:
    """Of a node, by its counters (``NodeStatus.counters``): bytes between the overlay and the stack."""

    def __init__(self) -> None:
        self._rates = Rates(KEPT)

    def sample(self, counters: Mapping[str, int], now: float) -> None:
        """Take the counters as they are at ``now``, monotonic seconds."""
        self._rates.add(_moved(counters, "to"), _moved(counters, "from"), now)

    def chart(self) -> Chart:
        """As it is now."""
        return self._rates.chart(600, 100, 1024.0)


class Watched:
    """Rates of those that somebody looks at, read by ``traffic``, which is None for one that is gone."""

    def __init__(self, traffic: Callable[[int], tuple[int, int] | None], least: float) -> None:
        """``least``: see ``Rates.chart``."""
        self._traffic = traffic
        self._least = least
        self._rates: OrderedDict[int, tuple[Rates, float]] = OrderedDict()  # looked at longest ago first

    def charts(self, keys: Iterable[int], now: float) -> dict[int, Chart]:
        """By key, as they are now; they are sampled from now on for ``WATCHED_SECONDS``."""
        found = {}
        for key in keys:
            rates, _ = self._rates.pop(key, (Rates(KEPT_WATCHED), now))
            self._rates[key] = rates, now
            found[key] = rates.chart(120, 20, self._least)
        while len(self._rates) > MAX_WATCHED:
            self._rates.popitem(last=False)
        return found

    def sample(self, now: float) -> None:
        """Read all of them."""
        for key, (rates, looked) in list(self._rates.items()):
            traffic = self._traffic(key)
            if traffic is None or now - looked > WATCHED_SECONDS:
                del self._rates[key]
            else:
                rates.add(*traffic, now)


def _moved(counters: Mapping[str, int], way: str) -> float:
    frames = counters.get(f"worker.frames_{way}_worker", 0)
    by_ring = counters.get(f"worker.bytes_{way}_worker", 0) - FRAME_BYTES * frames
    return by_ring + counters.get(f"lanes.bytes_{way}_worker", 0)
