"""SYNs to addresses that this host passes on: each is held until its owner knows what the other end says to it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from typing import Final

from ztnode.netstack.tcp.connection_key import ConnectionKey
from ztnode.wire import tcp as wire

HELD_MAX: Final = 512
"""SYNs held at a time; another one is dropped, and its sender repeats it."""
HELD_BY_ONE: Final = HELD_MAX // 4
"""Of these from one address: what answers nothing is held for long, and one member is not to keep the others out."""


class HeldSyn:
    """One attempt to connect. Addresses are packed, ports are numbers."""

    __slots__ = ("destination", "destination_port", "header", "key", "port_index", "source", "source_port", "start")

    def __init__(
        self, port_index: int, key: ConnectionKey, destination: bytes, source: bytes, header: wire.Header, start: bytes
    ) -> None:
        self.port_index = port_index
        """The network by which it came."""
        self.key = key
        self.destination = destination
        self.source = source
        self.destination_port = header.destination_port
        self.source_port = header.source_port
        self.header = header
        self.start = start
        """The first bytes of the segment, for a report that quotes it."""


class HeldSyns:
    """Those of one stack. ``foreign`` says whether an address of one network is passed on instead of being ours."""

    __slots__ = ("_count", "_foreign", "_held", "_shares", "fresh")

    def __init__(self, foreign: Callable[[int, bytes], bool], count: Callable[[str], None]) -> None:
        self._foreign = foreign
        self._count = count
        self._held: dict[tuple[int, ConnectionKey], HeldSyn] = {}
        self.fresh: list[HeldSyn] = []
        """What ``take`` would give."""
        self._shares: Counter[tuple[int, bytes]] = Counter()
        """How many each address (of one network) has here."""

    def concerns(self, port_index: int, local: bytes) -> bool:
        """Whether a SYN to this address is for us to hold."""
        return self._foreign(port_index, local)

    def arrived(self, syn: HeldSyn) -> None:
        """Hold it. One that comes again asks for nothing new, but the newest is the one that is answered: its sender
        may have begun anew in the meantime."""
        place = (syn.port_index, syn.key)
        held = self._held.get(place)
        if held is not None:
            held.header, held.start = syn.header, syn.start
        elif len(self._held) >= HELD_MAX:
            self._count("held_syns_full")
        elif self._shares[share := (syn.port_index, syn.source)] >= HELD_BY_ONE:
            self._count("held_syns_share_full")
        else:
            self._held[place] = syn
            self._shares[share] += 1
            self.fresh.append(syn)

    def take(self) -> list[HeldSyn]:
        """Those that came since the last call."""
        fresh, self.fresh = self.fresh, []
        return fresh

    def settle(self, syn: HeldSyn) -> None:
        """It was answered, or is to be forgotten; a repetition would be a new one."""
        held = self._held.pop((syn.port_index, syn.key), None)
        if held is not None:
            share = (held.port_index, held.source)
            self._shares[share] -= 1
            if not self._shares[share]:
                del self._shares[share]

    # --- as a connection's listener ---
    def opened(self, key: ConnectionKey) -> None:
        """See ListenerServices; the connection has its owner already."""

    def failed(self, key: ConnectionKey) -> None:
        """See ListenerServices."""
