"""The worker may not import the client, nor the client the worker: what both must know is compared here."""

from __future__ import annotations

from ztclient import handoff
from ztnode.worker import handoff_server, protocol


def test_both_ends_of_the_hand_off_agree() -> None:
    assert handoff.TOKEN_BYTES == protocol.TOKEN_BYTES
    assert (handoff.JOINED, handoff.EXHAUSTED) == (handoff_server.JOINED, handoff_server.EXHAUSTED)
