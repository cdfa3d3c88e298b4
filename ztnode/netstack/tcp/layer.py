"""The TCP layer: demultiplexing, listeners, port numbers, timers, resets for segments that nobody owns."""

from __future__ import annotations

import contextlib
import errno
import struct
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Final

from ztnode.netstack.ephemeral import choose_port
from ztnode.netstack.frame import Frame
from ztnode.netstack.tcp.ack_delays import AckDelays
from ztnode.netstack.tcp.ahead import Ahead, Place
from ztnode.netstack.tcp.arrival import batch_end
from ztnode.netstack.tcp.arrival import segment as segment_arrived
from ztnode.netstack.tcp.connection import TcpConnection
from ztnode.netstack.tcp.connection_info import TcpFigures, summarize
from ztnode.netstack.tcp.connection_key import ConnectionKey, addresses_of
from ztnode.netstack.tcp.connection_table import ConnectionTable
from ztnode.netstack.tcp.ending import fail
from ztnode.netstack.tcp.framing import reset_for
from ztnode.netstack.tcp.held_syns import HeldSyn, HeldSyns
from ztnode.netstack.tcp.ip_service import FlowSource, IpFlow
from ztnode.netstack.tcp.isn import InitialSequence
from ztnode.netstack.tcp.listener import TcpListener
from ztnode.netstack.tcp.listener_table import ListenerTable
from ztnode.netstack.tcp.opening import CONNECT_TIMEOUT, active_open, passive_open
from ztnode.netstack.tcp.orphans import Orphans
from ztnode.netstack.tcp.output import alone, flush
from ztnode.netstack.tcp.receive_memory import ReceiveMemory
from ztnode.netstack.tcp.reports import in_flight, path_mtu_changed, unreachable
from ztnode.netstack.tcp.rtt import MIN_RTO
from ztnode.netstack.tcp.send_memory import SendMemory
from ztnode.netstack.tcp.sequence import MASK
from ztnode.netstack.tcp.tcb import ControlBlock
from ztnode.netstack.tcp.tcp_config import TcpConfig
from ztnode.netstack.tcp.time_wait import TIME_WAIT, TimeWaitEntry, TimeWaitTable, Verdict
from ztnode.netstack.tcp.timer_heap import TimerHeap
from ztnode.netstack.tcp.timers import handle_timer, next_deadline
from ztnode.os_error import os_error
from ztnode.token_bucket import TokenBucket
from ztnode.wire import tcp as wire
from ztnode.wire.checksum import MODULUS, NATIVE_FACTOR, batch_sums, pseudo_sum, region_sum
from ztnode.wire.ipv4 import PROTOCOL_TCP
from ztnode.wire.wire_error import WireError

_PADDING: Final = (b"", b"\0\0\0", b"\0\0", b"\0")
"""By the length modulo four."""
_PORTS_SEQUENCE: Final = struct.Struct("!HHI")
_HEADER_LENGTH: Final = wire.HEADER_LENGTH
_RESETS_PER_SECOND: Final = 200
"""Answers to segments for nobody: enough for every honest mistake, too few for a reflector."""


class TcpLayer:
    """All TCP of one stack. The stack calls it; it sends through ``IpFlow.send``."""

    def __init__(
        self, flows: FlowSource, *, random: Callable[[int], bytes], now: float, config: TcpConfig | None = None
    ) -> None:
        self.config = config if config is not None else TcpConfig()
        self.now = now
        self.counters: dict[str, int] = {}
        self._past_retransmits = 0
        self.held: HeldSyns | None = None
        """Where SYNs go to addresses that are passed on (``netstack/transit.py``)."""
        self._flows = flows
        self._random = random
        self._sequence = InitialSequence(random(32))
        self._connections = ConnectionTable()
        self._ahead = Ahead()
        self._listeners = ListenerTable(self.config, random)
        self.orphans = Orphans(self.config, self.count)
        self.unread = ReceiveMemory(self.config.unread_bytes_max)
        self.unacked = SendMemory(self.config.unacked_bytes_max)
        self._time_wait = TimeWaitTable(self.config.time_wait_max)
        self._time_wait_recent = 0.0
        self._heap = TimerHeap(self._connections, next_deadline)
        self._ack_delays = AckDelays()
        # Attributes of the services that connections use, without a step between: they are asked for each request.
        self.schedule = self._heap.schedule
        self.delay_ack = self._ack_delays.enter
        self.may_hold = self.unacked.share
        self.wrote = self.unacked.wrote
        self.dirty: list[ControlBlock] = []
        """What ``flush`` would look at."""
        self._touched: list[ControlBlock] = []
        self._unread: list[ControlBlock] = []
        """Those, perhaps more than once, whose unread payload may be borrowed memory."""
        self.fresh: list[TcpConnection | TcpListener] = []
        """What ``ready`` would give."""
        self._challenges = TokenBucket(self.config.challenge_acks_per_second)
        self._resets = TokenBucket(_RESETS_PER_SECOND)

    # --- input ---
    def receive(self, port_index: int, segments: Sequence[tuple[ConnectionKey, memoryview]], now: float) -> None:
        """A batch of TCP segments (TCP header and payload, link padding cut off), in order of arrival.

        The IP layer has checked the IP header and that the destination is ours (unicast). TCP checks the TCP checksum.
        The views must stay valid until ``copy_unread()``.
        """
        self.now = now
        good, sums = self._sums(segments)
        if not good:
            return
        table = self._connections.of_network(port_index)
        touched = self._touched
        last_key = None
        connection: TcpConnection | None = None
        # The usual header, timestamps alone, is read here: a call for every segment would be a good part of the cost.
        timestamps_word = wire.TIMESTAMPS_WORD
        no_options = wire.NO_OPTIONS
        arrived = segment_arrived
        unpack = wire.FIXED_TIMESTAMPS.unpack_from
        for (key, segment), total in zip(good, sums, strict=True):
            length = len(segment)
            if key != last_key:
                connection = table.get(key)
                last_key = key
            pseudo = connection.link.pseudo if connection is not None else _pseudo_of(key)
            if (total * NATIVE_FACTOR + pseudo + length) % MODULUS:
                self.count("bad_checksum")
                continue
            if connection is None:
                self._unowned(port_index, key, segment, now)
                last_key = None
                continue
            if length >= 32:
                seq, ack, offset_flags, window, word, tsval, tsecr = unpack(segment)
                if offset_flags >> 12 == 8 and word == timestamps_word:
                    if not connection.marks.touched:
                        connection.marks.touched = True
                        touched.append(connection)
                    payload = segment[32:] if length > 32 else None
                    flags = offset_flags & 0xFF
                    arrived(connection, seq, ack, flags, window, tsval, tsecr, payload, no_options, now)
                else:
                    self._other_header(connection, segment, now)
            else:
                self._other_header(connection, segment, now)
            if not connection.predicts and connection.closed:
                last_key = None
        for tcb in touched:
            batch_end(tcb, now)
        self._unread += touched
        touched.clear()

    def _sums(
        self, segments: Sequence[tuple[ConnectionKey, memoryview]]
    ) -> tuple[Sequence[tuple[ConnectionKey, memoryview]], list[int]]:
        """(those long enough for a header, the checksum sum of each without its pseudo-header, in machine order)."""
        if len(segments) == 1 and len(segments[0][1]) >= _HEADER_LENGTH:
            return segments, [region_sum(segments[0][1]) * NATIVE_FACTOR]  # an answer
        pieces: list[memoryview | bytes] = []
        starts: list[int] = []
        words = 0
        for _, segment in segments:
            length = len(segment)
            if length < _HEADER_LENGTH:
                return self._sums(self._long_enough(segments))
            starts.append(words)
            pieces.append(segment)
            if length & 3:
                pieces.append(_PADDING[length & 3])
            words += length + 3 >> 2
        return segments, batch_sums(b"".join(pieces), starts)

    def _long_enough(
        self, segments: Sequence[tuple[ConnectionKey, memoryview]]
    ) -> list[tuple[ConnectionKey, memoryview]]:
        """Those with room for a header; the others are counted."""
        good = []
        for item in segments:
            if len(item[1]) >= _HEADER_LENGTH:
                good.append(item)
            else:
                self.count("short")
        return good

    def _other_header(self, connection: TcpConnection, segment: memoryview, now: float) -> None:
        """A segment of a connection with other options than the timestamps alone, or none."""
        _, _, seq, ack, offset_flags, window, _, _ = wire.FIXED.unpack_from(segment)
        header = offset_flags >> 12 << 2
        if header < wire.HEADER_LENGTH or header > len(segment):
            self.count("bad_offset")
            return
        options = wire.NO_OPTIONS
        tsval, tsecr = -1, 0
        if header > wire.HEADER_LENGTH:
            try:
                options = wire.parse_options(segment[wire.HEADER_LENGTH : header])
            except WireError:
                self.count("bad_options")
                return
            if options.timestamps is not None:
                tsval, tsecr = options.timestamps
        if not connection.marks.touched:
            connection.marks.touched = True
            self._touched.append(connection)
        payload = segment[header:] if len(segment) > header else None
        segment_arrived(connection, seq, ack, offset_flags & 0xFF, window, tsval, tsecr, payload, options, now)

    def _unowned(self, port_index: int, key: ConnectionKey, segment: memoryview, now: float) -> None:
        """A segment for no connection: TIME-WAIT, a listener, or nobody (RFC 9293 section 3.10.7.1 and .2)."""
        try:
            header, payload = wire.parse(segment)
        except WireError:
            self.count("bad_header")
            return
        entry = self._time_wait.get((port_index, key))
        if entry is not None:
            verdict = self._time_wait.arrived((port_index, key), header, payload, now)
            if verdict is Verdict.ANSWER and self.challenge_allowed(now):
                entry.flow.send([entry.acknowledgement(now)])
            if verdict is not Verdict.REOPEN:
                return
        if header.source_port == 0:
            self.count("bad_header")
            return
        if header.flags & wire.RST:
            return
        remote, local = addresses_of(key)
        if header.flags & (wire.SYN | wire.ACK | wire.FIN) == wire.SYN:
            if self.held is not None and self.held.concerns(port_index, local):
                self.held.arrived(HeldSyn(port_index, key, local, remote, header, bytes(segment[: wire.HEADER_LENGTH])))
                return
            listener = self._listeners.find(port_index, local, header.destination_port)
            if listener is not None:
                self._accept_syn(listener, port_index, key, local, remote, header, now)
                return
        flow = self._flows.flow_to(port_index, local, remote)
        if flow is None:
            return
        if header.flags & wire.ACK:
            seq, ack, flags = header.acknowledgement, 0, 0
        else:
            length = len(payload) + bool(header.flags & wire.SYN) + bool(header.flags & wire.FIN)
            seq, ack, flags = 0, header.sequence + length, wire.ACK
        self.send_reset(flow, header.destination_port, header.source_port, seq, ack, flags)

    def _accept_syn(
        self,
        listener: TcpListener,
        port_index: int,
        key: ConnectionKey,
        local: bytes,
        remote: bytes,
        header: wire.Header,
        now: float,
    ) -> None:
        if listener.full:
            self.count("accept_queue_full")
            return
        flow = self._flows.flow_to(port_index, local, remote)
        if flow is None:
            return
        half_open = listener.half_open
        if len(half_open) >= self.config.syn_queue:
            self.count("syn_queue_full")
            # No reset is sent: a genuine peer repeats its SYN or its first data.
            fail(half_open[next(iter(half_open))], os_error(errno.ETIMEDOUT))
        connection = self._create(flow, key, now, listener.config)
        connection.listener = listener
        half_open[key] = connection
        passive_open(connection, header.sequence, header.window, header.options, now)

    def accept_held(self, syn: HeldSyn, now: float) -> TcpConnection | None:
        """Answer a held SYN: the connection, whose handshake goes on; None when there is no way back any more."""
        self.now = now
        assert self.held is not None
        self.held.settle(syn)
        flow = self._flows.flow_to(syn.port_index, syn.destination, syn.source)
        if flow is None or (syn.port_index, syn.key) in self._connections:
            return None
        connection = self._create(flow, syn.key, now, self.config)
        connection.listener = self.held
        passive_open(connection, syn.header.sequence, syn.header.window, syn.header.options, now)
        return connection

    def refuse_held(self, syn: HeldSyn, now: float) -> None:
        """Answer a held SYN with a reset, as a port without a listener does."""
        self.now = now
        assert self.held is not None
        self.held.settle(syn)
        flow = self._flows.flow_to(syn.port_index, syn.destination, syn.source)
        if flow is not None:
            self.send_reset(flow, syn.destination_port, syn.source_port, 0, syn.header.sequence + 1 & MASK, wire.ACK)

    def copy_unread(self) -> None:
        """Copy the received payload that is still unread: the views of the last batches are about to vanish."""
        if self._unread:
            for tcb in self._unread:
                rcv = tcb.rcv
                if rcv.queue.size:
                    rcv.queue.copy_unread()
                elif not (rcv.aside or rcv.reassembly.cost):
                    continue  # the owner took it all, as owners mostly do
                if not tcb.closed and self.unread.note(tcb, self.now):
                    self.want_flush(tcb)
            self._unread.clear()

    # --- what the network reports ---
    def icmp_error(self, port_index: int, key: ConnectionKey, seq: int, errno: int, now: float) -> None:
        """ICMP said that a segment of ours did not arrive.

        ``key`` is in the order of the *quoted* packet (our address first). ``errno`` is EHOSTUNREACH, ENETUNREACH,
        ECONNREFUSED ...; ``seq`` is checked against what is in flight.
        """
        self.now = now
        connection = self._connections.quoted(port_index, key)
        if connection is not None:
            unreachable(connection, seq, errno)

    def in_flight(self, port_index: int, key: ConnectionKey, seq: int) -> bool:
        """Whether ``seq`` is something of ours that is on its way (RFC 5927 section 4.1).

        Only then may an ICMP error that quotes it change anything beyond this connection. ``key`` as for
        ``icmp_error``."""
        connection = self._connections.quoted(port_index, key)
        return connection is not None and in_flight(connection, seq)

    def packet_too_big(self, port_index: int, key: ConnectionKey, seq: int, now: float) -> None:
        """ICMP fragmentation needed / packet too big, for a segment of ours (``key`` as for ``icmp_error``).

        The flow's MTU is the lower one already.
        """
        self.now = now
        connection = self._connections.quoted(port_index, key)
        if connection is not None:
            path_mtu_changed(connection, seq, now)

    def expected_segments(self, flow: IpFlow, count: int) -> list[bytes]:
        """What the next segments from the remote begin with (ports and sequence number, 8 bytes), for up to ``count``
        connections over ``flow``: what a report about packets of the remote must quote."""
        return [
            _PORTS_SEQUENCE.pack(connection.link.remote_port, connection.link.local_port, connection.rcv.nxt & MASK)
            for connection in self._connections.over(flow)
            if connection.established
        ][:count]

    def path_returned(self, flow: IpFlow, now: float) -> None:
        """Packets get through on ``flow`` again, after a time in which none did."""
        self.now = now
        for connection in self._connections.over(flow):
            if connection.snd.recovery.path_returned(now):
                self.want_flush(connection)

    def flow_failed(self, flow: IpFlow, errno: int, now: float) -> None:
        """The next hop of ``flow`` does not resolve: connections that are still opening fail with ``errno``."""
        self.now = now
        for connection in self._connections.over(flow):
            unreachable(connection, connection.snd.iss, errno)

    def port_removed(self, port_index: int, now: float) -> None:
        """The network is gone: its connections and listeners end with ENETDOWN, nothing is sent."""
        self.now = now
        self._ahead.forget(port_index)
        for connection in self._connections.remove_network(port_index):
            fail(connection, os_error(errno.ENETDOWN))
        self._time_wait.remove_port(port_index)
        for listener in self._listeners.of_network(port_index):
            listener.error = os_error(errno.ENETDOWN)
            listener.close()
            self.notify_listener(listener)

    def address_removed(self, port_index: int, local: bytes, now: float) -> None:
        """One of our addresses is gone: connections from it end with EADDRNOTAVAIL, nothing is sent."""
        self.now = now
        self._ahead.forget(port_index)
        connections = self._connections.of_network(port_index).values()
        for connection in [entry for entry in connections if entry.link.flow.local == local]:
            fail(connection, os_error(errno.EADDRNOTAVAIL))

    # --- timers and output ---
    def next_timer(self) -> float | None:
        """When ``handle_timer`` is due; not after the earliest deadline, perhaps before it."""
        due = self._heap.next_due(self.now)
        acknowledgement = self._ack_delays.next_due()
        if acknowledgement is not None and (due is None or acknowledgement < due):
            due = acknowledgement
        if self._time_wait.entries and (expiry := self._time_wait.next_expiry()) is not None:
            # Nobody waits for an entry to expire, so several are removed together, at most once a second.
            expiry = max(expiry, self._time_wait_recent + 1.0)
            if due is None or expiry < due:
                due = expiry
        return due

    def handle_timer(self, now: float) -> None:
        """Everything that is due: retransmission, delayed ACKs, probes, TIME-WAIT."""
        self.now = now
        # Scheduled again only after all were taken: a deadline that only the flush moves would be taken for ever.
        for tcb in dict.fromkeys((*self._ack_delays.pop_due(now), *self._heap.pop_due(now))):
            handle_timer(tcb, now)
            self.want_flush(tcb)  # which also enters its next deadline
        if self._time_wait:
            self._time_wait_recent = now
            self._time_wait.expire(now)

    def flush(self, now: float) -> None:
        """Send what the batch called for: new data, retransmissions, one ACK per connection."""
        self.now = now
        soon = now + MIN_RTO
        while self.dirty:
            dirty, self.dirty = self.dirty, []
            flow: IpFlow | None = None
            frames: list[Frame] = []
            for tcb in dirty:
                marks = tcb.marks
                marks.dirty = False
                frame = alone(tcb, now)
                if frame is not None:
                    # Requests of many connections mostly take one way, and leave together.
                    if flow is not tcb.link.flow:
                        if flow is not None:
                            flow.send(frames)
                            frames = []
                        flow = tcb.link.flow
                    frames.append(frame)
                    if (scheduled := marks.scheduled) is not None and scheduled <= soon and not tcb.timers.keepalive:
                        continue  # it is looked at before anything can be due
                else:
                    if flow is not None:
                        flow.send(frames)
                        flow, frames = None, []
                    flush(tcb, now)
                due = next_deadline(tcb)
                if due is not None and ((scheduled := marks.scheduled) is None or due < scheduled):
                    self._heap.schedule(tcb, due)
            if flow is not None:
                flow.send(frames)

    def ready(self) -> list[TcpConnection | TcpListener]:
        """Connections and listeners whose properties changed since the last call, each once."""
        ready, self.fresh = self.fresh, []
        for item in ready:
            item.noticed = False
        return ready

    # --- sockets ---
    def connect(
        self,
        flow: IpFlow,
        remote_port: int,
        now: float,
        *,
        local_port: int = 0,
        timeout: float | None = None,
        congestion: str = "",
    ) -> TcpConnection:
        """Active open; data may be written at once. ``congestion``: the name of its congestion control (empty: as
        configured). Raises OSError(EADDRINUSE / EADDRNOTAVAIL), ValueError for an unknown name."""
        self.now = now
        config = self._with_congestion(congestion)
        if not 0 < remote_port < 65536:
            raise os_error(errno.EADDRNOTAVAIL)
        if local_port == 0:
            connection = self._ahead.take(Place(flow, remote_port, config))
            if connection is None or not self._is_free(flow.port_index, connection.link.key):
                connection = self._make(flow, self._free_key(flow, remote_port), now, config)
        else:
            key = _key(flow, remote_port, local_port)
            if (flow.port_index, key) in self._connections:
                raise os_error(errno.EADDRINUSE)
            self._time_wait.remove((flow.port_index, key))
            connection = self._make(flow, key, now, config)
        self._connections.add(connection)
        active_open(connection, now, timeout if timeout is not None else CONNECT_TIMEOUT)
        return connection

    def make_ahead(self, now: float) -> None:
        """Make what ``connect`` is likely to be asked for next: worth while where there is nothing else to do."""
        place = self._ahead.wanted
        if place is not None:
            with contextlib.suppress(OSError):  # no port is free: ``connect`` will say so
                key = self._free_key(place.flow, place.remote_port)
                self._ahead.keep(self._make(place.flow, key, now, place.config))

    def listen(
        self,
        port: int,
        *,
        backlog: int = 128,
        port_index: int | None = None,
        local: bytes | None = None,
        congestion: str = "",
    ) -> TcpListener:
        """Passive open on every address, one network, or one address. Port 0 picks one. ``congestion``, of what is
        accepted, as in ``connect``. Raises OSError(EADDRINUSE), ValueError."""
        config = self._with_congestion(congestion)
        return self._listeners.open(self, port, backlog, port_index, local, config)

    def connections(self) -> list[TcpConnection]:
        """All that are not closed, for display."""
        return list(self._connections)

    def figures(self) -> TcpFigures:
        """What all connections come to; takes a look at each that is not closed."""
        return summarize(self._connections, len(self._time_wait), self._past_retransmits)

    # --- for connections and listeners ---
    def _with_congestion(self, name: str) -> TcpConfig:
        """Raises ValueError."""
        return replace(self.config, congestion=name) if name and name != self.config.congestion else self.config

    def _free_key(self, flow: IpFlow, remote_port: int) -> ConnectionKey:
        """With a local port at random. Raises OSError(EADDRNOTAVAIL)."""
        prefix = _key(flow, remote_port, 0)[:-2]
        port = choose_port(self._random, self.config.ephemeral_ports, _Taken(self, flow.port_index, prefix))
        if port is None:
            raise os_error(errno.EADDRNOTAVAIL)
        return prefix + port.to_bytes(2, "big")

    def _is_free(self, port_index: int, key: ConnectionKey) -> bool:
        """Whether a new connection of ours may have this key."""
        place = port_index, key
        return not (
            int.from_bytes(key[-2:], "big") in self._listeners
            or place in self._connections
            or place in self._time_wait.entries
        )

    def _create(self, flow: IpFlow, key: ConnectionKey, now: float, config: TcpConfig) -> TcpConnection:
        connection = self._make(flow, key, now, config)
        self._connections.add(connection)
        return connection

    def _make(self, flow: IpFlow, key: ConnectionKey, now: float, config: TcpConfig) -> TcpConnection:
        iss = self._sequence.isn(key, now)
        offset = self._sequence.timestamp_offset(flow.local, flow.remote)
        return TcpConnection(self, config, flow, key, _pseudo_of(key), iss, offset)

    def remove(self, tcb: ControlBlock) -> None:
        """The connection is closed."""
        if not tcb.marks.removed:
            tcb.marks.removed = True
            self._past_retransmits += tcb.snd.recovery.retransmits
        tcb.marks.scheduled = None
        self.orphans.remove(tcb)
        self.unread.remove(tcb)
        self.unacked.remove(tcb)
        self._connections.remove(tcb)

    def adopt_orphan(self, tcb: ControlBlock) -> bool:
        """The owner closed the connection and we bring it to its end; False when there is no room for it."""
        return self.orphans.adopt(tcb)

    def orphan_waits_for_fin(self, tcb: ControlBlock) -> None:
        """An orphan entered FIN-WAIT-2."""
        self.orphans.waits_for_fin(tcb)

    def enter_time_wait(self, tcb: ControlBlock) -> None:
        """Both directions are closed: a small record takes over."""
        self.remove(tcb)
        link, timestamps = tcb.link, tcb.timestamps
        entry = TimeWaitEntry(
            link.flow,
            link.local_port,
            link.remote_port,
            tcb.snd.recovery.nxt,
            tcb.rcv.nxt,
            timestamps.recent if timestamps.on else None,
            timestamps.offset,
            self.now + TIME_WAIT,
        )
        self._time_wait.add((link.flow.port_index, link.key), entry)

    def remove_listener(self, listener: TcpListener) -> None:
        """The listener was closed."""
        self._listeners.remove(listener)

    def send_reset(self, flow: IpFlow, local_port: int, remote_port: int, seq: int, ack: int, flags: int) -> None:
        """A RST that belongs to no connection, rate-limited."""
        if self._resets.admit(self.now):
            self.count("resets_sent")
            flow.send([reset_for(flow, local_port, remote_port, seq, ack, flags)])
        else:
            self.count("resets_suppressed")

    def challenge_allowed(self, now: float) -> bool:
        """RFC 5961 section 7: challenge ACKs are limited."""
        return self._challenges.admit(now)

    def want_flush(self, tcb: ControlBlock) -> None:
        """The connection has something to send, or a timer that changed."""
        if not tcb.marks.dirty:
            tcb.marks.dirty = True
            self.dirty.append(tcb)

    def notify(self, tcb: ControlBlock) -> None:
        """The owner should look."""
        if not tcb.noticed:
            tcb.noticed = True
            self.fresh.append(tcb)  # type: ignore[arg-type]  # all that ``_create`` makes are connections

    def notify_listener(self, listener: TcpListener) -> None:
        """Somebody can be accepted, or the listener failed."""
        if not listener.noticed:
            listener.noticed = True
            self.fresh.append(listener)

    def count(self, reason: str) -> None:
        """One more of ``reason``."""
        self.counters[reason] = self.counters.get(reason, 0) + 1


class _Taken:
    """The local ports that a new connection to one remote address and port cannot have."""

    __slots__ = ("_layer", "_port_index", "_prefix")

    def __init__(self, layer: TcpLayer, port_index: int, prefix: bytes) -> None:
        self._layer = layer
        self._port_index = port_index
        self._prefix = prefix

    def __contains__(self, port: object) -> bool:
        assert isinstance(port, int)
        return not self._layer._is_free(self._port_index, self._prefix + port.to_bytes(2, "big"))


def _key(flow: IpFlow, remote_port: int, local_port: int) -> ConnectionKey:
    """As the other side's segments have it."""
    return flow.remote + flow.local + remote_port.to_bytes(2, "big") + local_port.to_bytes(2, "big")


def _pseudo_of(key: ConnectionKey) -> int:
    source, destination = addresses_of(key)
    return pseudo_sum(source, destination, PROTOCOL_TCP)
