"""The worker's loop: one round takes what is there and gives out what that calls for.

Each round, whatever woke it: one batch of frames from the node into the stack, every client socket that is ready,
every timer that is due, then one batch of frames from the stack to the node with at most one doorbell. Nothing blocks
but the wait at its top.
"""

from __future__ import annotations

import contextlib
import errno
import gc
import os
import socket
import threading
import time
from functools import partial
from typing import TYPE_CHECKING, Final, Protocol, cast

from ztnode.netstack.config import LOOPED, PortConfig
from ztnode.wire import checksum
from ztnode.wire.address import format_nwid
from ztnode.worker import protocol
from ztnode.worker.accept_channel import attend
from ztnode.worker.control_requests import Requests
from ztnode.worker.direct_dials import DirectDial
from ztnode.worker.gateway import Gateway
from ztnode.worker.give_back import GiveBack
from ztnode.worker.handoff_server import HandoffServer
from ztnode.worker.lanes import Lanes
from ztnode.worker.moderation import Moderation
from ztnode.worker.poller import READ, WRITE, Poller
from ztnode.worker.splice import DRAIN_POLL, Splice
from ztnode.worker.tcp_pair import PairStock

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from ztnode.netstack.stack import Stack
    from ztnode.ring import Record, Ring

    Frames = Sequence[Record]

READ_LIMIT: Final = 256 * 1024
"""Bytes of frames that the stack takes in one round: enough to make its batches pay, little enough that a client's
request does not wait behind a download for more than about a millisecond."""
STATS_SECONDS: Final = 1.0
NUMPY_SECONDS: Final = 0.1
"""From a first client until numpy is loaded, which takes as long and Python's lock five milliseconds at a time: the
first request is over by then, and a download has not got far."""
OPENED_AT_ONCE: Final = 256
"""Connections of which the node is told in one message."""
CONTROL_BACKLOG: Final = 8 << 20
"""Bytes for the node that it may leave unread; a node that stalls longer is as good as dead."""
MAX_BROUGHT: Final = 8
"""Descriptors that the node may send ahead of the messages that they belong to."""
MISSING: Final = -1
"""In place of a descriptor that found no room."""
_OWNER_ROUNDS: Final = 4
_NEVER: Final = float("inf")


class ChannelClosed(Exception):
    """The node is gone."""


class _Owner(Protocol):
    """What the worker puts into the ``owner`` of everything that the stack gives it."""

    def on_ready(self) -> None: ...


class _Owned(Protocol):
    """What ``Stack.ready`` gives, as far as the loop is concerned."""

    owner: _Owner | None


class _Keeper(Protocol):
    """What has timers."""

    @property
    def timed(self) -> object:
        """As good as False: it has none at the moment, and need not be asked."""

    def next_timer(self) -> float | None: ...

    def handle_timer(self, now: float) -> None: ...


class Worker:
    """One stack and everything that hangs on it."""

    def __init__(
        self, *, control: socket.socket, ring_in: Ring, ring_out: Ring, stack: Stack, path: str, now: float
    ) -> None:
        """Raises OSError when the hand-off socket ``path`` cannot be made."""
        self.poller = Poller()
        self.stack = stack
        self.now = now
        self.counters = {"ring_stalls": 0, "udp_bad_record": 0, "udp_unsendable": 0, "unknown_port": 0}
        self.pairs = PairStock()
        self.give_back = GiveBack()
        self.moderation = Moderation()
        self.handoff = HandoffServer(
            path,
            self.poller,
            lambda: self.now,
            lambda line: self.send(protocol.Trouble(line)),
            partial(DirectDial, self),
            self._attend,
        )
        self.gateway = Gateway(self)
        self.round_number = 0
        """Odd while the loop waits; for the watchdog."""
        self._path = path
        self._requests = Requests(self)
        self._lanes = Lanes(self, self.send)
        self._borrowed = False
        """Whether the stack was given frames that are not the ring's."""
        self._keepers: tuple[_Keeper, ...] = (stack, self.handoff, self._requests, self.moderation, self._lanes)
        """Asked in each round, so the gateway is not among them before there is one."""
        self._control = control
        self._control_in = protocol.MessageStream()
        self._control_out = bytearray()
        self._brought: list[int] = []
        self._ring_in = ring_in
        self._ring_out = ring_out
        self._blocked: Frames = ()
        self._changed: Sequence[_Owned] = ()
        self._ready = cast("Callable[[], Sequence[_Owned]]", stack.ready)
        self._ports: dict[int, int] = {}
        self._splices: set[Splice] = set()
        self._draining: set[Splice] = set()
        self._due = 0.0
        """When a timer is due, as of the last look."""
        self._numpy_asked_for = False
        self._running = True
        self._stats_due = 0.0
        self._opened: list[float] = []
        self._stats_sent: protocol.Stats | None = None
        control.setblocking(False)
        self.poller.register(control.fileno(), READ, self._on_control)
        # A doorbell that is one descriptor is an eventfd: it may ring for ever without being read.
        _, bell, written, _, _ = ring_in.fds
        if bell != written or not self.poller.wake_by(bell):
            self.poller.register(bell, READ, lambda _mask: ring_in.clear_data())
        self.poller.register(ring_out.space_fd, READ, lambda _mask: ring_out.clear_space())

    # The loop

    def announce(self) -> None:
        """Tell the node that what it and its clients send from now on will be read."""
        self.send(protocol.Ready(self._path))

    def run(self) -> None:
        """Until the node says Stop. Raises ChannelClosed, RingCorrupt, ProtocolError, OSError."""
        poller, stack, ring_in = self.poller, self.stack, self._ring_in
        while self._running:
            timeout = self._timeout()
            self.round_number += 1
            events = poller.wait(timeout)
            self.round_number += 1
            self.now = now = time.monotonic()
            # The views go to the stack and nowhere else: it copies what it keeps in copy_unread(), before release().
            records = ring_in.read(READ_LIMIT)
            if records:
                self._receive(records, now)
            if events:
                poller.dispatch(events)
            if self._due <= now or self._draining:
                self._handle_timers(now)
            elif not self._stats_due:
                # Something woke the loop: what it counted is due in a second, unless nothing changed.
                self._stats_due = now + STATS_SECONDS
            self._serve_owners(now)
            if stack.groups_changed:
                self._tell_groups()
            if records:
                stack.copy_unread()
                ring_in.release()
            elif self._borrowed:
                self._borrowed = False
                stack.copy_unread()
            elif self.pairs.due:
                # A client asked for something, which is under way, and clients come fast: there is time now, and the
                # timer that would see to it may be put off again and again.
                stack.make_ahead(now)
        self._end()

    def _timeout(self) -> float:
        """Seconds to wait for events, negative: for ever. Timers are looked at here and nowhere else, once a round."""
        self._due = due = self._next_timer()
        if self._changed or not self._ring_in.prepare_sleep():
            return 0.0
        if due == _NEVER:
            return -1.0
        # The kernel rounds up to milliseconds; a negative rest means now.
        return max(0.0, due - time.monotonic())

    def _next_timer(self) -> float:
        tcp, give_back = self.stack.tcp, self.give_back
        held = tcp.unread.total + tcp.unacked.total
        if not give_back.least <= held <= give_back.peak:
            give_back.held(held, self.now)
        due = self._stats_due or _NEVER
        for keeper in self._keepers:
            if keeper.timed:
                timer = keeper.next_timer()
                if timer is not None and timer < due:
                    due = timer
        if give_back.due and give_back.due < due:
            due = give_back.due
        timer = self.pairs.due
        if timer and timer < due:
            due = timer
        return min(due, self.now + DRAIN_POLL) if self._draining else due

    def _receive(self, records: list[tuple[int, memoryview]], now: float) -> None:
        if len(records) == 1:
            ((index, frame),) = records
            if index & ~LOOPED in self._ports:
                self.stack.receive(index, (frame,), now)
                return
        ports = {index for index, _ in records}
        for index in ports:
            if index & ~LOOPED not in self._ports:
                self.counters["unknown_port"] += sum(tag == index for tag, _ in records)
            elif len(ports) == 1:
                self.stack.receive(index, [frame for _, frame in records], now)
            else:
                self.stack.receive(index, [frame for tag, frame in records if tag == index], now)

    def _serve_owners(self, now: float) -> None:
        """Tell owners what changed and send what comes of it. Rarely more than once: what the stack sends to itself
        changes something at once. What is left after a few turns comes first in the next round."""
        ready = self._ready
        changed = self._changed or ready()
        for _ in range(_OWNER_ROUNDS):
            for item in changed:
                owner = item.owner
                if owner is not None:
                    owner.on_ready()
            self._transmit(now)
            changed = ready()
            if not changed:
                break
        self._changed = changed

    def _transmit(self, now: float) -> None:
        if self._blocked:
            self._blocked = self._push(self._blocked)
            if self._blocked:
                return
        frames = self.stack.to_send(now)
        if frames and self._lanes.by_head:
            frames = self._lanes.send(frames, now)
        if not frames:
            return
        left = self._push(frames)
        if left:
            # The node is slower than the stack: hold the stack back rather than drop. Copies, because the parts may
            # be views that end with this round.
            self.counters["ring_stalls"] += 1
            self._blocked = [(index, (b"".join(parts),)) for index, parts in left]

    def _push(self, frames: Frames) -> Frames:
        """Write to the ring; what is left has to wait until ``Ring.space_fd`` says that there is room."""
        ring = self._ring_out
        while frames:
            frames = frames[ring.write_many(frames) :]
            if frames and ring.prepare_wait():
                break
        return frames

    def take_frames(self, index: int, frames: Sequence[memoryview]) -> None:
        """See ``lanes.Loop``."""
        if index in self._ports:
            self._borrowed = True
            self.stack.receive(index, frames, self.now)

    def to_node(self, records: Frames) -> int:
        """See ``lanes.Loop``."""
        return self._ring_out.write_many(records)

    def _tell_groups(self) -> None:
        for index, macs in self.stack.regrouped():
            self.send(protocol.Groups(index, tuple(sorted(int.from_bytes(mac, "big") for mac in macs))))

    def _handle_timers(self, now: float) -> None:
        for keeper in self._keepers:
            due = keeper.next_timer()
            if due is not None and due <= now:
                keeper.handle_timer(now)
        if self.pairs.due and self.pairs.due <= now:
            self.pairs.refill()
            self.stack.make_ahead(now)
        if self.give_back.due and self.give_back.due <= now:
            self.give_back.handle_timer(self.stack.tcp.unread.total + self.stack.tcp.unacked.total)
        for splice in list(self._draining):
            splice.handle_timer(now)
        if not self._stats_due:
            self._stats_due = now + STATS_SECONDS
        elif self._stats_due <= now:
            self._stats_due = 0.0
            self._send_stats()

    # What hangs on the loop

    @property
    def congested(self) -> bool:
        """Whether the node does not keep up with the frames of the stack."""
        return bool(self._blocked)

    def port_index(self, nwid: int) -> int:
        """The stack's port on a network. Raises ValueError."""
        for index, found in self._ports.items():
            if found == nwid:
                return index
        raise ValueError("not on that network")

    def expect_data(self) -> None:
        """There will be much: load what sums long packets quickly."""
        if not self._numpy_asked_for:
            self._numpy_asked_for = True
            loading = threading.Timer(NUMPY_SECONDS, _load_numpy)
            loading.daemon = True
            loading.start()

    def _attend(self, request: bytes, client: socket.socket, brought: Sequence[int]) -> None:
        """Let a client have its listener's connections brought. Raises OSError, ValueError."""
        attend(self, self._requests.attended.get(request[: protocol.TOKEN_BYTES]), request, client, brought)

    def splice_started(self, splice: Splice) -> None:
        """One more client."""
        self.expect_data()
        self._splices.add(splice)
        self.pairs.clients = len(self._splices)

    def splice_ended(self, splice: Splice) -> None:
        """One less."""
        self._splices.discard(splice)
        self.pairs.clients = len(self._splices)
        self._draining.discard(splice)

    def splice_draining(self, splice: Splice) -> None:
        """Call its timer until it is done."""
        self._draining.add(splice)

    def opened(self, seconds: float) -> None:
        """A connection that a client asked for took so long: a figure, which need not wake the node for itself."""
        self._opened.append(seconds)
        if len(self._opened) >= OPENED_AT_ONCE:
            self._tell_opened()

    def _tell_opened(self) -> None:
        self.send(protocol.Opened(tuple(self._opened)))
        self._opened.clear()

    def send(self, message: protocol.ToNode) -> None:
        """Send to the node. Raises OSError when the node leaves too much unread."""
        data = protocol.build(message)
        if not self._control_out:
            with contextlib.suppress(BlockingIOError, BrokenPipeError, ConnectionResetError):
                data = data[self._control.send(data) :]
        if data:
            if len(self._control_out) > CONTROL_BACKLOG:
                raise OSError("the node does not read the control channel")
            if not self._control_out:
                self.poller.modify(self._control.fileno(), READ | WRITE)
            self._control_out += data

    def _on_control(self, mask: int) -> None:
        if mask & WRITE and self._control_out:
            with contextlib.suppress(BlockingIOError, BrokenPipeError, ConnectionResetError):
                del self._control_out[: self._control.send(self._control_out)]
            if not self._control_out:
                self.poller.modify(self._control.fileno(), READ)
        if not mask & ~WRITE:
            return
        try:
            data, descriptors, flags, _ = socket.recv_fds(self._control, 1 << 16, MAX_BROUGHT)
        except BlockingIOError:
            return
        except OSError as error:
            raise ChannelClosed from error
        if not data:
            raise ChannelClosed
        for descriptor in descriptors:
            os.set_inheritable(descriptor, False)
        self._brought += descriptors
        if flags & socket.MSG_CTRUNC and not descriptors:
            # This process has as many as it may have. What one call reads has those of one message at the most.
            self._brought.append(MISSING)
        for message in self._control_in.feed(data):
            self._handle(message)

    def _handle(self, message: protocol.Message) -> None:
        match message:
            case protocol.Stop():
                self.stop()
            case protocol.PortUp():
                self._port_up(message)
            case protocol.PortDown():
                if self._ports.pop(message.index, None) is not None:
                    self.stack.remove_port(message.index, self.now)
            case protocol.LimitNeighbour(index, mac, mtu):
                self.stack.limit_neighbour(index, mac, mtu, self.now)
            case protocol.NeighbourReturned(index, mac):
                self.stack.neighbour_returned(index, mac, self.now)
            case protocol.LaneUp():
                self._lane_up(message)
            case protocol.LaneTerms() | protocol.LaneSeen() | protocol.LaneDown():
                self._lanes.told(message)
            case protocol.SetGateway(targets, flows):
                self._set_gateway(targets, flows)
            case protocol.Cancel():
                self._requests.cancel(message.id)
            case protocol.Renew():
                self.handoff.renew(message.token)
            case protocol.Withdraw():
                self.handoff.withdraw(message.token)
            case (
                protocol.Dial()
                | protocol.Listen()
                | protocol.Accept()
                | protocol.OpenUdp()
                | protocol.ConfigureUdp()
                | protocol.Ping()
                | protocol.FindNeighbour()
                | protocol.ListConnections()
            ):
                self._requests.handle(message)
            case _:
                raise protocol.ProtocolError(f"a {type(message).__name__} goes from worker to node")

    def _port_up(self, message: protocol.PortUp) -> None:
        config = PortConfig(
            mac=message.mac,
            mtu=message.mtu,
            addresses=message.addresses,
            routes=message.routes,
            metric=message.metric,
            multicast=message.multicast,
            broadcast=message.broadcast,
        )
        try:
            if message.index in self._ports:
                self.stack.update_port(message.index, config, self.now)
            else:
                self.stack.add_port(message.index, config, self.now)
        except ValueError as error:
            # A controller can send anything; one bad network is not to take the others' connections along.
            self.send(protocol.Trouble(f"network {format_nwid(message.nwid)} cannot be used as configured: {error}"))
        else:
            self._ports[message.index] = message.nwid

        self.gateway.ports_changed()

    def _lane_up(self, message: protocol.LaneUp) -> None:
        if not self._brought:
            raise protocol.ProtocolError("a LaneUp came without its socket")
        descriptor = self._brought.pop(0)
        try:
            if descriptor == MISSING:
                raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))
            self._lanes.up(message, descriptor)
        except (OSError, ValueError) as error:
            self.send(protocol.LaneRefused(message.id, str(error)))

    def _set_gateway(self, targets: tuple[str, ...], flows: int) -> None:
        if self.gateway not in self._keepers:
            self._keepers += (self.gateway,)
        try:
            self.gateway.set(targets, flows)
        except ValueError as error:
            self.send(protocol.Trouble(f"the gateway cannot be opened: {error}"))

    def _send_stats(self) -> None:
        counters = self.stack.counters | self.stack.tcp.counters
        counters.update(self.handoff.counters)
        counters.update(self.counters)
        counters.update(self.gateway.counters)
        counters.update(self._lanes.counters)
        counters["unread_bytes"] = self.stack.tcp.unread.total
        counters["unacked_bytes"] = self.stack.tcp.unacked.total
        counters["windows_withdrawn"] = self.stack.tcp.unread.pushed_back
        tcp = self.stack.tcp.figures()
        counters["retransmits"] = tcp.retransmits
        gauges = {f"tcp_{state.name.lower()}": count for state, count in tcp.states.items()}
        gauges["rtt_count"] = len(tcp.round_trips)
        gauges["rtt_sum"] = round(sum(tcp.round_trips) * 1e6)
        gauges["rtt_max"] = round(max(tcp.round_trips, default=0.0) * 1e6)
        if self._opened:
            self._tell_opened()
        stats = protocol.Stats(len(self._splices), counters, gauges)
        if stats != self._stats_sent:
            self._stats_sent = stats
            self.send(stats)

    # The end

    def stop(self) -> None:
        """End the loop after this round."""
        self._running = False

    def _end(self) -> None:
        """Peers and clients learn at once, by a reset."""
        self._requests.close()
        self.gateway.close()
        self.handoff.close()
        self.pairs.close()
        for splice in list(self._splices):
            splice.reset()
        self._transmit(self.now)


def _load_numpy() -> None:
    """By a thread, when the first client comes: it is a third of a worker's start and half of its memory. What is there
    by then is not for the garbage collector either."""
    checksum.use_numpy()
    gc.freeze()
