"""The neighbour cache under a fake clock: each arrow of RFC 4861's state diagram."""

from __future__ import annotations

import math

import pytest

from ztnode.netstack.clock import Clock
from ztnode.netstack.config import NeighbourConfig
from ztnode.netstack.frame import Frame
from ztnode.netstack.neighbour_cache import SOLICIT_INTERVALS, Neighbour, NeighbourCache, Reachability, permanent

A, B = b"\x0a\0\0\x01", b"\x0a\0\0\x02"
MAC, OTHER = b"\x02\0\0\0\0\x01", b"\x02\0\0\0\0\x02"
FRAME = (bytes(6) + b"rest of the header", b"payload")


class Rig:
    """A cache with everything it calls recorded."""

    def __init__(self, config: NeighbourConfig | None = None) -> None:
        self.clock = Clock(100.0)
        self.solicited: list[tuple[float, bytes, bytes | None]] = []
        self.sent: list[bytes] = []
        self.failed: list[tuple[bytes, int]] = []
        self.counters: dict[str, int] = {}
        self.cache = NeighbourCache(
            self.clock,
            config or NeighbourConfig(),
            random=lambda count: b"\x80" * count,
            solicit=lambda address, mac: self.solicited.append((round(self.clock.now - 100, 3), address, mac)),
            output=lambda frames: self.sent.extend(b"".join(frame) for frame in frames),
            failed=self._failed,
            counters=self.counters,
        )

    def _failed(self, neighbour: Neighbour, pending: list[Frame]) -> None:
        self.failed.append((neighbour.address, len(pending)))

    def run(self, seconds: float) -> None:
        """Let time pass, timer by timer."""
        end = self.clock.now + seconds
        while (due := self.cache.next_timer()) is not None and due <= end:
            self.clock.now = max(self.clock.now, due)
            self.cache.handle_timer()
        self.clock.now = end

    def state_of(self, address: bytes) -> Reachability:
        """The entry's own, not what time has made of it."""
        entry = self.cache.get(address)
        assert entry is not None
        return entry.state

    def known(self, address: bytes = A) -> Neighbour:
        """An entry that is REACHABLE."""
        neighbour = self.cache.lookup(address)
        self.cache.send(neighbour, [FRAME])
        self.cache.answered(address, MAC, solicited=True, override=True)
        assert neighbour.state is Reachability.REACHABLE
        self.sent.clear()
        self.solicited.clear()
        return neighbour


class Watcher:
    def __init__(self) -> None:
        self.calls = 0

    def refresh(self) -> None:
        self.calls += 1


def test_first_frame_waits_for_the_answer() -> None:
    rig = Rig()
    neighbour = rig.cache.lookup(A)
    watcher = Watcher()
    neighbour.watchers.add(watcher)
    assert rig.cache.next_timer() is None
    rig.cache.send(neighbour, [FRAME])
    assert rig.solicited == [(0, A, None)]
    assert rig.sent == []
    rig.run(0.06)
    rig.cache.answered(A, MAC, solicited=True, override=True)
    assert rig.sent == [MAC + b"rest of the headerpayload"]
    assert neighbour.state is Reachability.REACHABLE
    assert watcher.calls == 1
    assert rig.cache.next_timer() is None


def test_nobody_answers() -> None:
    rig = Rig()
    neighbour = rig.cache.lookup(A)
    rig.cache.send(neighbour, [FRAME])
    rig.run(10)
    assert [at for at, _, _ in rig.solicited] == [0, 0.05, 0.15, 0.35, 0.75, 1.5]
    assert rig.failed == [(A, 1)]
    assert rig.cache.get(A) is None
    # The next frame begins anew.
    rig.cache.send(rig.cache.lookup(A), [FRAME])
    assert len(rig.solicited) == 7


def test_gives_up_within_three_seconds() -> None:
    assert sum(SOLICIT_INTERVALS) < 3


def test_reachable_becomes_stale_then_is_probed_and_confirmed() -> None:
    rig = Rig()
    neighbour = rig.known()
    rig.run(15)
    rig.cache.send(neighbour, [FRAME])
    assert rig.state_of(A) is Reachability.REACHABLE
    rig.run(20)
    assert rig.cache.snapshot() == [(A, MAC, Reachability.STALE)]
    rig.cache.send(neighbour, [FRAME])
    assert rig.state_of(A) is Reachability.DELAY
    assert len(rig.sent) == 2
    assert rig.solicited == []
    rig.run(5)
    assert rig.state_of(A) is Reachability.PROBE
    assert [mac for _, _, mac in rig.solicited] == [MAC]  # unicast
    rig.cache.answered(A, MAC, solicited=True, override=False)
    assert rig.state_of(A) is Reachability.REACHABLE
    assert rig.cache.next_timer() is None


def test_progress_of_tcp_spares_the_probe() -> None:
    rig = Rig()
    neighbour = rig.known()
    rig.run(60)
    rig.cache.send(neighbour, [FRAME])
    rig.cache.confirm(neighbour)
    rig.run(20)
    assert neighbour.state is Reachability.REACHABLE
    assert rig.solicited == []


def test_a_neighbour_that_went_away_is_given_up() -> None:
    rig = Rig()
    neighbour = rig.known()
    rig.run(60)
    rig.cache.send(neighbour, [FRAME])
    rig.run(5 + 3)
    assert len(rig.solicited) == 3
    assert rig.failed == [(A, 0)]
    assert neighbour.state is Reachability.FAILED


@pytest.mark.parametrize(
    ("mac", "solicited", "override", "state", "kept"),
    [
        (MAC, True, False, Reachability.REACHABLE, MAC),
        (MAC, False, False, Reachability.REACHABLE, MAC),
        (None, True, False, Reachability.REACHABLE, MAC),
        (OTHER, True, False, Reachability.STALE, MAC),  # RFC 4861 section 7.2.5, I: no override, another MAC
        (OTHER, True, True, Reachability.REACHABLE, OTHER),
        (OTHER, False, True, Reachability.STALE, OTHER),
    ],
)
def test_advertisements(mac: bytes | None, solicited: bool, override: bool, state: Reachability, kept: bytes) -> None:
    rig = Rig()
    neighbour = rig.known()
    rig.cache.answered(A, mac, solicited=solicited, override=override)
    assert (neighbour.state, neighbour.mac) == (state, kept)


def test_unexpected_answers_make_no_entry() -> None:
    rig = Rig()
    rig.cache.answered(A, MAC, solicited=True, override=True)
    rig.cache.heard(A, MAC, create=False)
    assert rig.cache.get(A) is None
    rig.cache.heard(A, MAC, create=True)
    assert rig.cache.snapshot() == [(A, MAC, Reachability.STALE)]


def test_hearing_of_another_mac_updates() -> None:
    rig = Rig()
    neighbour = rig.known()
    watcher = Watcher()
    neighbour.watchers.add(watcher)
    rig.cache.heard(A, MAC, create=True)
    assert neighbour.state is Reachability.REACHABLE
    rig.cache.heard(A, OTHER, create=False)
    assert (neighbour.state, neighbour.mac, watcher.calls) == (Reachability.STALE, OTHER, 1)


def test_queue_and_table_are_bounded() -> None:
    rig = Rig(NeighbourConfig(entries=4, pending_frames=3))
    neighbour = rig.cache.lookup(A)
    rig.cache.send(neighbour, [(bytes(6) + bytes((n,)),) for n in range(5)])
    rig.cache.answered(A, MAC, solicited=True, override=True)
    assert rig.sent == [MAC + bytes((n,)) for n in (2, 3, 4)]
    assert rig.counters["neighbour_queue_full"] == 2
    watcher = Watcher()
    neighbour.watchers.add(watcher)
    for number in range(100):
        rig.cache.heard(bytes((10, 0, 1, number)), MAC, create=True)
    assert len(rig.cache.snapshot()) == 4
    assert rig.cache.get(A) is neighbour  # in use by a flow


def test_even_entries_in_use_go_when_all_are() -> None:
    rig = Rig(NeighbourConfig(entries=2))
    watcher = Watcher()
    for number in range(5):
        rig.cache.lookup(bytes((10, 0, 1, number))).watchers.add(watcher)
    assert len(rig.cache.snapshot()) == 2


def test_permanent_entries_never_ask() -> None:
    rig = Rig()
    neighbour = permanent(b"\xe0\0\0\x01", MAC)
    rig.cache.send(neighbour, [FRAME])
    rig.cache.confirm(neighbour)
    assert neighbour.deadline == math.inf
    assert len(rig.sent) == 1
    assert rig.solicited == []
