"""The way of a batch through a node: datagrams in, frames to the stack; frames of the stack in, datagrams out; and one
timer for all layers."""

from __future__ import annotations

import asyncio
import time
from collections import defaultdict
from collections.abc import Callable, Sequence
from typing import Final, Protocol

from ztnode.hookspecs import Datagrams
from ztnode.node.assembly import Parts
from ztnode.node.figures import DatagramFigures
from ztnode.node.lanes import Lanes
from ztnode.node.ports import Ports
from ztnode.node.wall_clock import wall_clock
from ztnode.ring import Record
from ztnode.worker.protocol import LANE, LaneUsed

CROWD: Final = 128
"""Datagrams of one batch that mean that more come than are read."""
FAVOR_INTERVAL: Final = 2.0
"""Seconds between two looks at whose datagrams strangers' should not hold up."""
MAX_FAVORED: Final = 32
"""Of those; each costs the transport a socket."""
TIMER_SLACK: Final = 0.001
"""Seconds by which a timer may come late, so that a batch rarely has to arm it anew."""
TRAFFIC_SLACK: Final = 0.02
"""The same for what a batch of datagrams or frames brings about. All layers are asked so long after it, and not after
each batch: that was a sixth of what a small frame cost. What they wait for is tenths of a second away, or more."""
_NEVER: Final = float("inf")


class _Layer(Protocol):
    """What is asked after each batch."""

    def next_timer(self) -> float | None: ...


class DataPath:
    """``Parts`` at work on the event loop."""

    def __init__(self, parts: Parts, ports: Ports, turn_ended: Callable[[], None]) -> None:
        """``turn_ended`` is called when all is sent, where the layers have something to tell."""
        self._vl1 = parts.vl1
        self._vl2 = parts.vl2
        self._controller = parts.controller
        self._layers: tuple[_Layer, ...] = (parts.vl1, parts.vl2)
        if parts.controller is not None:
            self._layers += (parts.controller,)
        self._tells_always = parts.controller is not None
        """Whether something may be to tell that the layers' events do not show."""
        self._documents = parts.documents
        self._transport = parts.transport
        self._lease = parts.lease
        self._ports = ports
        self._turn_ended = turn_ended
        self.to_stack: Callable[[Sequence[Record]], None] = lambda _records: None
        """Takes frames for the stack, each with the number of its port."""
        self.lanes: Lanes | None = None
        """Whose frames pass the stack worker alone; None: nobody's."""
        self._loop = asyncio.get_running_loop()
        self._timer: asyncio.TimerHandle | None = None
        self._timer_at = _NEVER
        self._favor_at = 0.0
        self._received = self._bytes_received = self._sent = self._bytes_sent = 0
        self.send_drops = 0
        """Datagrams that the transport did not take."""
        self._closed = False

    def figures(self) -> DatagramFigures:
        """What was counted."""
        return DatagramFigures(self._received, self._bytes_received, self._sent, self._bytes_sent)

    def close(self) -> None:
        """Let no timer wake the layers any more."""
        self._closed = True
        if self._timer is not None:
            self._timer.cancel()

    # A batch in, a batch out

    def lane_used(self, used: LaneUsed) -> None:
        """A lane has carried something."""
        assert self.lanes is not None
        self._received += used.datagrams_received
        self._bytes_received += used.datagram_octets_received
        self._sent += used.datagrams_sent
        self._bytes_sent += used.datagram_octets_sent
        self.send_drops += used.dropped
        now = time.monotonic()
        self.lanes.used(used, now)
        self._move(now)
        self._look_soon(now)

    def receive(self, datagrams: Datagrams) -> None:
        """Take what the transport has read."""
        now = time.monotonic()
        crowd = len(datagrams) >= CROWD
        refused = self._vl1.refused if crowd else 0
        self._received += len(datagrams)
        for data, _ in datagrams:
            self._bytes_received += len(data)
        self._vl1.receive(datagrams, now)
        self._move(now)
        self._look_soon(now)
        if now >= self._favor_at:
            self._favor_at = now + FAVOR_INTERVAL
            self._transport.favor(self._vl1.favored_endpoints(MAX_FAVORED, now))
        if crowd and self._vl1.refused - refused > len(datagrams) // 2:
            # There are more than we can look at, and most are good for nothing: a quarter of the time must do.
            self._transport.let_others_wait(3 * (time.monotonic() - now))

    def send_frames(self, records: list[tuple[int, memoryview]]) -> None:
        """Take frames of the stack, as (number of the port, Ethernet frame); the views are good during the call."""
        now = time.monotonic()
        lanes = self.lanes
        if lanes is not None:
            if lanes.counters["given"] and (returned := [record for record in records if record[0] & LANE]):
                records = [record for record in records if not record[0] & LANE]
                if datagrams := lanes.returned(returned):
                    self.receive(datagrams)
            if now >= lanes.next_look:
                lanes.look(now)
        nwids = self._ports.nwid_of
        if len(nwids) == 1:
            ((index, nwid),) = nwids.items()
            self._vl2.send_frames(nwid, [frame for tag, frame in records if tag == index], now)
        else:
            by_port: defaultdict[int, list[memoryview]] = defaultdict(list)
            for tag, frame in records:
                by_port[tag].append(frame)
            for tag, frames in by_port.items():
                if tag in nwids:
                    self._vl2.send_frames(nwids[tag], frames, now)
        self._move(now)
        self._look_soon(now)

    def pump(self, now: float) -> None:
        """Move what each layer has for the next until nothing is left, then arm the timer."""
        self._move(now)
        self._arm(now)

    def _move(self, now: float) -> None:
        # There is more than one turn where this node talks to itself, as a member of a network that it controls.
        while messages := self._vl1.messages():
            self._vl2.receive(messages, now)
            if self._controller is not None:
                self._controller.receive(messages, now, wall_clock())
        for nwid, frames in self._vl2.frames():
            index = self._ports.index_of.get(nwid)
            if index is not None:
                self.to_stack([(index, frame) for frame in frames])
        self.flush()
        if self._vl1.has_news or self._vl2.has_news or self._tells_always:
            self._turn_ended()

    def flush(self) -> None:
        """Send what is ready."""
        lease = self._lease
        if lease is not None and not lease.is_held():
            self._vl1.to_send()  # not a word more: another node may be this one by now
            return
        if self._controller is not None:
            # An address that was promised must not be forgotten: on the disk first, then on the wire.
            self._documents.keep(self._controller.changed_documents())
        send = self._transport.send
        for endpoint, datagrams in self._vl1.to_send():
            # Keeping the documents may take seconds, and the process may have been frozen.
            if lease is not None and not lease.is_held():
                return
            self._sent += len(datagrams)
            self._bytes_sent += sum(map(len, datagrams))
            self.send_drops += send(endpoint, datagrams)

    # The timer

    def _arm(self, now: float) -> None:
        due = _NEVER
        for layer in self._layers:
            at = layer.next_timer()
            if at is not None and at < due:
                due = at
        if due >= self._timer_at - TIMER_SLACK and self._timer is not None:
            return  # an early alarm finds nothing due and arms itself for the right time
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        self._timer_at = due
        if due != _NEVER and not self._closed:
            self._timer = self._loop.call_later(max(0.0, due - now) + TIMER_SLACK, self._alarm)

    def _look_soon(self, now: float) -> None:
        """Arm the timer for when the layers are to be asked after a batch."""
        if self._timer_at > now + TRAFFIC_SLACK:
            if self._timer is not None:
                self._timer.cancel()
                self._timer = None
            self._timer_at = now + TRAFFIC_SLACK
            if not self._closed:
                self._timer = self._loop.call_later(TRAFFIC_SLACK, self._alarm)

    def _alarm(self) -> None:
        self._timer = None
        self._timer_at = _NEVER
        now = time.monotonic()
        self._vl1.handle_timer(now)
        self._vl2.handle_timer(now)
        if self._controller is not None:
            self._controller.handle_timer(now, wall_clock())
        if self.lanes:
            self.lanes.check()
        self.pump(now)
