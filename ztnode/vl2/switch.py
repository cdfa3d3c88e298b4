"""VL2: the virtual Ethernet switch, without I/O.

``Vl2`` stands on a ``Vl1`` that it sends through. Its drivers are the messages of VL1 (``receive``), the Ethernet frames of
the stack (``send_frames``) and the clock (``handle_timer`` at ``next_timer``). What comes out for the stack is taken with
``frames``, what the owner should know with ``events``; what goes to peers is in ``Vl1.to_send``.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from typing import TypeAlias

from ztnode.vl1.node import Buffer, Message, Vl1
from ztnode.vl2.events import Event
from ztnode.vl2.snapshot import NetworkSnapshot
from ztnode.wire.identity import Identity
from ztnode.wire.multicast import MulticastGroup

Frame: TypeAlias = tuple[bytes, Buffer]
"""The 14-byte Ethernet header and the payload of a received frame."""


class Vl2:
    """All joined networks of this node."""

    def __init__(
        self,
        vl1: Vl1,
        identity: Identity,
        *,
        random: Callable[[int], bytes],
        now: float,
        wall: int,
        upstream: bool = False,
        authorised: Callable[[int, int], bool] | None = None,
        controller: bool = False,
    ) -> None:
        """``now``: monotonic seconds; ``wall``: Unix time in ms at ``now``.

        ``upstream``: this node is a root and so keeps and answers multicast subscriptions for networks that it is no
        member of. ``authorised(nwid, address)`` does the same for a local controller's members. ``controller``: somebody
        else answers NETWORK_CONFIG_REQUEST; otherwise it is answered with ERROR_UNSUPPORTED_OPERATION here.
        """
        self.counters: Counter[str] = Counter()
        """Frames and packets dropped, by reason, over all networks."""

    def join(self, nwid: int, now: float, *, cached: bytes | None = None, auth_token: str = "") -> None:
        """Join (idempotent). ``cached`` is what ``ConfigStored`` gave last, as kept in ``networks.d/<nwid>.conf``; it is
        used at once if it is a configuration for this node, and ignored otherwise."""
        raise NotImplementedError

    def leave(self, nwid: int, now: float) -> None:
        """Leave and forget. Raises KeyError if not joined."""
        raise NotImplementedError

    def receive(self, messages: Sequence[Message], now: float) -> None:
        """Take what ``Vl1.messages`` gave. Never raises on its content."""
        raise NotImplementedError

    def send_frames(self, nwid: int, frames: Sequence[Buffer], now: float) -> None:
        """Send Ethernet frames (14-byte header and payload) of the stack. Buffers must stay valid until ``Vl1.to_send``
        was called; those kept longer are copied."""
        raise NotImplementedError

    def frames(self) -> list[tuple[int, list[Frame]]]:
        """What arrived for the stack since the last call: (nwid, frames in order)."""
        raise NotImplementedError

    def subscribe(self, nwid: int, group: MulticastGroup, now: float) -> None:
        """Receive this multicast group too, beside those that follow from the managed addresses. KeyError if not joined."""
        raise NotImplementedError

    def provide_config(self, nwid: int, config: bytes | None, now: float) -> None:
        """The answer to ``LocalConfigWanted``: an encoded configuration, or None for "not authorised"."""
        raise NotImplementedError

    def handle_timer(self, now: float) -> None:
        """Do what has become due."""
        raise NotImplementedError

    def next_timer(self) -> float | None:
        """When ``handle_timer`` wants to be called next, in the caller's monotonic seconds."""
        raise NotImplementedError

    def events(self) -> list[Event]:
        """What the owner should know, since the last call."""
        raise NotImplementedError

    def networks(self) -> list[NetworkSnapshot]:
        """All joined networks, in the order of joining."""
        raise NotImplementedError

    def network(self, nwid: int) -> NetworkSnapshot | None:
        """One joined network."""
        raise NotImplementedError
