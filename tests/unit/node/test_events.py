"""What VL1 tells, and who is told of it."""

from __future__ import annotations

from unittest.mock import Mock

import pytest

from ztnode.node.events import Events
from ztnode.vl1 import PathMtuFound, PeerPathChanged, PeerReturned
from ztnode.vl1.vl1_events import Event

ADDRESS = 0x0123456789


@pytest.mark.parametrize(
    ("event", "nudged"),
    [
        (PeerReturned(ADDRESS), 1),
        (PeerPathChanged(ADDRESS, ("203.0.113.1", 9993)), 1),
        (PathMtuFound(ADDRESS, 1280), 0),
    ],
)
def test_what_waits_for_a_peer_is_tried_when_it_may_be_reached_again(event: Event, nudged: int) -> None:
    """A connection whose retransmissions were doubled again and again would wait for the next one."""
    parts, memberships = Mock(), Mock()
    parts.vl1.events.return_value = [event]
    parts.vl2.events.return_value = []
    others = {name: Mock() for name in ("host", "roots", "conflicts", "writes", "online")}
    Events(parts, memberships=memberships, administration=None, **others).handle()
    assert memberships.peer_returned.call_args_list == [((ADDRESS,),)] * nudged
