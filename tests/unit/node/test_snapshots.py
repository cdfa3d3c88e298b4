"""What the control plane shows of a network."""

from __future__ import annotations

import pytest

from ztnode.control import convert
from ztnode.node import snapshots
from ztnode.vl2.snapshot import NetworkSnapshot, NetworkStatus
from ztnode.wire.network_config import Dns, SingleSignOn


@pytest.mark.parametrize(
    ("issued_at", "received_at", "offset"),
    [
        (1_700_000_000_000, 90.0, -60.0),  # made a minute before, by its clock, and taken ten seconds ago
        (1_700_000_000_000, None, None),
        ((1 << 64) - 1, 90.0, 1e10),  # a controller can say anything
    ],
)
def test_the_controllers_clock(issued_at: int, received_at: float | None, offset: float | None) -> None:
    snapshot = NetworkSnapshot(
        1, NetworkStatus.OK, "", "", 2, 2800, (), (), Dns(), True, True, 32, False, 1, SingleSignOn(), False, (), 0, {},
        issued_at, received_at,
    )  # fmt: skip
    info = snapshots.network(snapshot, 100.0, 1_700_000_070_000)
    assert info.clock_offset == offset
    shown = convert.network(info)
    assert shown.HasField("clock_offset") == (offset is not None)
