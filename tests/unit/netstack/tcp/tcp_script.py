"""One TCP layer and a peer that says exactly what the test tells it to (in the manner of packetdrill)."""

from __future__ import annotations

import random
import struct
from collections.abc import Sequence
from typing import Any

from tests.unit.netstack.tcp.tcp_sim import A4, B4, PORT, check_frame
from ztnode.netstack.frame import Frame
from ztnode.netstack.tcp.connection import TcpConnection
from ztnode.netstack.tcp.layer import TcpLayer
from ztnode.netstack.tcp.listener import TcpListener
from ztnode.netstack.tcp.state import State
from ztnode.netstack.tcp.tcp_config import TcpConfig
from ztnode.wire import tcp as wire
from ztnode.wire.checksum import finish, gather_sum
from ztnode.wire.tcp import ACK, FIN, PSH, RST, SYN

__all__ = ["ACK", "FIN", "PSH", "RST", "SYN", "Script", "Sent", "state_of"]

MASK = 0xFFFFFFFF

Segment = tuple[bytes, bytes]
"""(key, bytes) of what the peer says."""
Sent = list[tuple[wire.Header, bytes]]
"""What we say: header and text of each segment."""


def state_of(connection: TcpConnection) -> State:
    """Its state now: a type checker takes what was asserted of ``connection.state`` before for true still."""
    return connection.state


class Script:
    """Sequence numbers of the peer count from its ISN, ours from our ISN: 0 is the SYN, 1 the first byte."""

    def __init__(self, config: TcpConfig | None = None, mtu: int = 1500, peer_isn: int = 5000) -> None:
        self.now = 100.0
        self.frames: list[bytes] = []
        self.port_index, self.local, self.remote, self.generation = PORT, A4, B4, 0
        self.mtu = self.takes = mtu
        ip = struct.pack("!BBHHHBBH4s4s", 0x45, 0, 0, 0, 0x4000, 64, 6, 0, A4, B4)
        self.header = b"\x02" * 12 + b"\x08\x00" + ip
        self.layer = TcpLayer(self, random=random.Random(1).randbytes, now=self.now, config=config)
        self.peer_isn = peer_isn
        self.isn = 0
        self.our_port = 80
        self.peer_port = 9000
        self.ts: int | None = None
        self.connection: TcpConnection | None = None

    # --- what the layer asks ---
    def flow_to(self, port_index: int, local: bytes, remote: bytes) -> Script:
        return self

    def send(self, frames: Sequence[Frame]) -> None:
        self.frames.extend(b"".join(frame) for frame in frames)

    def confirm(self, now: float) -> None:
        pass

    # --- what the test does ---
    def sent(self) -> Sent:
        """What went out since the last call, our numbers relative to our ISN, acknowledgements to the peer's."""
        self.layer.flush(self.now)
        out = []
        for frame in self.frames:
            header, payload = wire.parse(check_frame(frame)[1])
            if header.flags & SYN:
                self.isn = header.sequence
            object.__setattr__(header, "sequence", (header.sequence - self.isn) & MASK)
            if header.flags & ACK:
                object.__setattr__(header, "acknowledgement", (header.acknowledgement - self.peer_isn) & MASK)
            out.append((header, bytes(payload)))
        self.frames.clear()
        return out

    def segment(
        self, flags: int, seq: int, ack: int = 0, payload: bytes = b"", window: int = 65535, **options: Any
    ) -> Segment:
        """One segment of the peer's as (key, bytes)."""
        if "timestamps" not in options and self.ts is not None:
            options["timestamps"] = (self.ts, 0)
        if options.get("sack"):
            options["sack"] = tuple(((a + self.isn) & MASK, (b + self.isn) & MASK) for a, b in options["sack"])
        header = wire.Header(
            self.peer_port,
            self.our_port,
            (seq + self.peer_isn) & MASK,
            (ack + self.isn) & MASK if flags & ACK else 0,
            flags,
            window,
            options=wire.Options(**options),
        )
        data = wire.build(header) + payload
        total = gather_sum([B4, A4, struct.pack("!HH", 6, len(data)), data])
        data = data[:16] + finish(total).to_bytes(2, "big") + data[18:]
        return B4 + A4 + data[:4], data

    def inject(self, *segments: Segment) -> Sent:
        """A batch; returns what we answer."""
        self.layer.receive(PORT, [(key, memoryview(data)) for key, data in segments], self.now)
        self.layer.copy_unread()
        return self.sent()

    def say(self, flags: int, seq: int, ack: int = 0, payload: bytes = b"", **options: Any) -> Sent:
        """Inject one segment."""
        return self.inject(self.segment(flags, seq, ack, payload, **options))

    def wait(self, seconds: float) -> Sent:
        """Let time pass, timer by timer."""
        end = self.now + seconds
        out = self.sent()
        while True:
            due = self.layer.next_timer()
            if due is None or due > end:
                break
            self.now = max(self.now, due)
            self.layer.handle_timer(self.now)
            out += self.sent()
        self.now = end
        self.layer.now = end
        return out

    def connect(self, **options: Any) -> TcpConnection:
        """An active open, SYN not yet answered."""
        self.connection = self.layer.connect(self, self.peer_port, self.now, **options)
        self.our_port = self.connection.link.local_port
        return self.connection

    def established(
        self, *, sack: bool = True, ts: bool = False, window: int = 65535, mss: int = 1000, scale: int | None = None
    ) -> TcpConnection:
        """A connection that we opened; the handshake took 10 ms. Returns it."""
        connection = self.connect()
        self.sent()
        self.now += 0.01
        options: dict[str, Any] = {"mss": mss, "sack_permitted": sack, "window_scale": scale}
        if ts:
            self.ts = 1
            options["timestamps"] = (1, 0)
        self.say(SYN | ACK, 0, 1, window=window, **options)
        assert connection.established
        return connection

    def listen(self, **options: Any) -> TcpListener:
        return self.layer.listen(80, **options)
