"""The TCP layer: demultiplexing, listeners, port numbers, timers, resets for segments that nobody owns."""

from __future__ import annotations

import errno
import heapq
from collections.abc import Callable, Sequence

from ztnode.netstack.ephemeral import choose_port
from ztnode.netstack.rate import TokenBucket
from ztnode.netstack.tcp import arrival, ending, opening, reports, timers
from ztnode.netstack.tcp.config import TcpConfig
from ztnode.netstack.tcp.connection import TcpConnection
from ztnode.netstack.tcp.ending import error_of
from ztnode.netstack.tcp.framing import SegmentWriter, reset_for
from ztnode.netstack.tcp.isn import InitialSequence
from ztnode.netstack.tcp.listener import TcpListener
from ztnode.netstack.tcp.network import ConnectionKey, Flow, Network
from ztnode.netstack.tcp.output import flush
from ztnode.netstack.tcp.state import State
from ztnode.netstack.tcp.timewait import TimeWaitEntry, TimeWaitTable
from ztnode.wire import tcp as wire
from ztnode.wire.checksum import MODULUS, NATIVE_FACTOR, batch_sums, pseudo_sum
from ztnode.wire.errors import WireError

_MASK = 0xFFFFFFFF
_PADDING = (b"", b"\0", b"\0\0", b"\0\0\0")
_PROTOCOL_TCP = 6
_RESETS_PER_SECOND = 200
"""Answers to segments for nobody: enough for every honest mistake, too few for a reflector."""


class TcpLayer:
    """All TCP of one stack. The stack calls it; it sends through `Flow.send`."""

    def __init__(
        self, network: Network, *, random: Callable[[int], bytes], now: float, config: TcpConfig | None = None
    ) -> None:
        self.config = config if config is not None else TcpConfig()
        self.now = now
        self.counters: dict[str, int] = {}
        self._network = network
        self._random = random
        self._sequence = InitialSequence(random(32))
        self._tables: dict[int, dict[ConnectionKey, TcpConnection]] = {}
        self._listeners: dict[int, list[TcpListener]] = {}
        self.orphans: set[TcpConnection] = set()
        """Closed by their owners, with something for the peer still to acknowledge."""
        self.orphans_in_fin_wait_2: dict[TcpConnection, None] = {}
        """Those that wait for the peer's FIN alone, oldest first."""
        self._time_wait = TimeWaitTable(self.config.time_wait, self.config.time_wait_max)
        self._time_wait_recent = 0.0
        self._heap: list[tuple[float, int, TcpConnection]] = []
        self._heap_order = 0
        self._dirty: list[TcpConnection] = []
        self._touched: list[TcpConnection] = []
        self._unsettled: dict[TcpConnection, None] = {}
        self._ready: list[TcpConnection | TcpListener] = []
        self._ready_listeners: set[TcpListener] = set()
        self._challenges = TokenBucket(self.config.challenge_acks_per_second, now)
        self._resets = TokenBucket(_RESETS_PER_SECOND, now)

    # ------------------------------------------------------------------ input
    def receive(self, port_index: int, segments: Sequence[tuple[ConnectionKey, memoryview]], now: float) -> None:
        """A batch of TCP segments (TCP header and payload, link padding cut off), in order of arrival.

        The IP layer has checked the IP header and that the destination is ours (unicast). TCP checks the TCP checksum.
        The views must stay valid until `settle()`.
        """
        self.now = now
        pieces: list[memoryview | bytes] = []
        starts: list[int] = []
        good: list[tuple[ConnectionKey, memoryview]] = []
        position = 0
        for item in segments:
            segment = item[1]
            length = len(segment)
            if length < 20:
                self.count("short")
                continue
            good.append(item)
            starts.append(position >> 2)
            pieces.append(segment)
            pad = -length & 3
            if pad:
                pieces.append(_PADDING[pad])
            position += length + pad
        if not good:
            return
        sums = batch_sums(b"".join(pieces), starts)
        table = self._tables.get(port_index, {})
        touched = self._touched
        last_key = None
        connection: TcpConnection | None = None
        timestamps_word = wire.TIMESTAMPS_WORD
        no_options = wire.NO_OPTIONS
        segment_arrived = arrival.segment
        unpack_long = wire.FIXED_TIMESTAMPS.unpack_from
        unpack_short = wire.FIXED.unpack_from
        for (key, segment), total in zip(good, sums, strict=True):
            length = len(segment)
            if key != last_key:
                connection = table.get(key)
                last_key = key
            pseudo = connection.pseudo if connection is not None else _pseudo_of(key)
            if (total * NATIVE_FACTOR + pseudo + length) % MODULUS:
                self.count("bad_checksum")
                continue
            if connection is None:
                self._unowned(port_index, key, segment, now)
                table = self._tables.get(port_index, table)
                last_key = None
                continue
            if length >= 32:
                _, _, seq, ack, offset_flags, window, _, _, word, tsval, tsecr = unpack_long(segment)
                if offset_flags >> 12 == 8 and word == timestamps_word:
                    if not connection.touched:
                        connection.touched = True
                        touched.append(connection)
                    segment_arrived(
                        connection,
                        seq,
                        ack,
                        offset_flags & 0xFF,
                        window,
                        tsval,
                        tsecr,
                        segment[32:] if length > 32 else None,
                        no_options,
                        now,
                    )
                    if connection.state is State.CLOSED or connection.state is State.TIME_WAIT:
                        last_key = None
                    continue
            _, _, seq, ack, offset_flags, window, _, _ = unpack_short(segment)
            header = offset_flags >> 12 << 2
            if header < 20 or header > length:
                self.count("bad_offset")
                continue
            options = no_options
            tsval, tsecr = -1, 0
            if header > 20:
                try:
                    options = wire.parse_options(segment[20:header])
                except WireError:
                    self.count("bad_options")
                    continue
                if options.timestamps is not None:
                    tsval, tsecr = options.timestamps
            if not connection.touched:
                connection.touched = True
                touched.append(connection)
            payload = segment[header:] if length > header else None
            segment_arrived(connection, seq, ack, offset_flags & 0xFF, window, tsval, tsecr, payload, options, now)
            if connection.state is State.CLOSED or connection.state is State.TIME_WAIT:
                last_key = None
        for connection in touched:
            arrival.batch_end(connection, now)
            if connection.rcv.queue.size:
                self._unsettled[connection] = None
        touched.clear()

    def _unowned(self, port_index: int, key: ConnectionKey, segment: memoryview, now: float) -> None:
        """A segment for no connection: TIME-WAIT, a listener, or nobody (RFC 9293 section 3.10.7.1 and .2)."""
        try:
            header, payload = wire.parse(segment)
        except WireError:
            self.count("bad_header")
            return
        entry = self._time_wait.get((port_index, key))
        if entry is not None and not self._time_wait_arrived(port_index, key, entry, header, payload, now):
            return
        if header.source_port == 0:
            self.count("bad_header")
            return
        if header.flags & wire.RST:
            return
        half = (len(key) - 4) // 2
        remote, local = key[:half], key[half : 2 * half]
        if header.flags & (wire.SYN | wire.ACK | wire.FIN) == wire.SYN:
            listener = self._find_listener(port_index, local, header.destination_port)
            if listener is not None:
                self._accept_syn(listener, port_index, key, local, remote, header, now)
                return
        flow = self._network.flow_to(port_index, local, remote, now)
        if flow is None:
            return
        if header.flags & wire.ACK:
            seq, ack, flags = header.acknowledgement, 0, 0
        else:
            length = len(payload) + bool(header.flags & wire.SYN) + bool(header.flags & wire.FIN)
            seq, ack, flags = 0, header.sequence + length, wire.ACK
        self.send_reset(flow, header.destination_port, header.source_port, seq, ack, flags)

    def _time_wait_arrived(
        self,
        port_index: int,
        key: ConnectionKey,
        entry: TimeWaitEntry,
        header: wire.Header,
        payload: memoryview,
        now: float,
    ) -> bool:
        """A segment for TIME-WAIT; True when it is to be treated as if the entry were not there."""
        flags = header.flags
        if flags & wire.RST:
            return False  # RFC 1337: TIME-WAIT is not assassinated
        timestamps = header.options.timestamps
        tsval = timestamps[0] if timestamps is not None else None
        if flags & (wire.SYN | wire.ACK) == wire.SYN and entry.accepts_syn(header.sequence, tsval):
            self._time_wait.remove((port_index, key))
            return True
        if flags & wire.FIN or payload or flags & wire.SYN or header.sequence != entry.rcv_nxt:
            if flags & wire.FIN:
                self._time_wait.restart((port_index, key), now)
            options = b""
            if entry.ts_recent is not None:
                mine = (int(now * 1000) + entry.ts_offset) & _MASK
                options = wire.build_options(wire.Options(timestamps=(mine, entry.ts_recent)))
            if self.challenge_allowed(now):
                writer = SegmentWriter(entry.flow, entry.local_port, entry.remote_port)
                entry.flow.send([writer.control(entry.snd_nxt, entry.rcv_nxt, wire.ACK, 0, options)])
        return False

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
        flow = self._network.flow_to(port_index, local, remote, now)
        if flow is None:
            return
        half_open = listener.half_open
        if len(half_open) >= self.config.syn_queue:
            self.count("syn_queue_full")
            # Without a reset: if it was genuine, its peer says its SYN or its first words again.
            ending.fail(half_open[next(iter(half_open))], error_of(errno.ETIMEDOUT))
        connection = self._create(flow, key, now)
        connection.listener = listener
        half_open[key] = connection
        opening.passive_open(connection, header.sequence, header.window, header.options, now)

    def settle(self) -> None:
        """Copy the received payload that is still unread: the views of the last batches are about to vanish."""
        if self._unsettled:
            for connection in self._unsettled:
                connection.rcv.queue.settle()
            self._unsettled.clear()

    def icmp_error(self, port_index: int, key: ConnectionKey, seq: int, errno: int, hard: bool, now: float) -> None:
        """ICMP said that a segment of ours did not arrive.

        `key` is in the order of the *quoted* packet (our address first). `errno` is EHOSTUNREACH, ENETUNREACH,
        ECONNREFUSED ...; `hard` is RFC 1122 section 4.2.3.9's distinction. `seq` is checked against what is in flight.
        """
        self.now = now
        connection = self._tables.get(port_index, {}).get(_reversed(key))
        if connection is not None:
            reports.unreachable(connection, seq, errno, hard)

    def in_flight(self, port_index: int, key: ConnectionKey, seq: int) -> bool:
        """Whether `seq` is something of ours that is on its way (RFC 5927 section 4.1).

        Only then may an ICMP error that quotes it change anything beyond this connection. `key` as for `icmp_error`.
        """
        connection = self._tables.get(port_index, {}).get(_reversed(key))
        return connection is not None and reports.in_flight(connection, seq)

    def packet_too_big(self, port_index: int, key: ConnectionKey, seq: int, mtu: int, now: float) -> None:
        """ICMP fragmentation needed / packet too big, for a segment of ours (`key` as for `icmp_error`).

        The flow's MTU is already `mtu`.
        """
        self.now = now
        connection = self._tables.get(port_index, {}).get(_reversed(key))
        if connection is not None:
            reports.path_mtu_changed(connection, seq, now)

    def flow_failed(self, flow: Flow, errno: int, now: float) -> None:
        """The next hop of `flow` does not resolve: connections that are still opening fail with `errno`."""
        self.now = now
        table = self._tables.get(flow.port_index, {})
        for connection in [connection for connection in table.values() if connection.flow is flow]:
            reports.unreachable(connection, connection.snd.iss, errno, True)

    def port_removed(self, port_index: int, now: float) -> None:
        """The network is gone: its connections and listeners end with ENETDOWN, nothing is sent."""
        self.now = now
        for connection in list(self._tables.pop(port_index, {}).values()):
            ending.fail(connection, error_of(errno.ENETDOWN))
        self._time_wait.remove_port(port_index)
        for listeners in list(self._listeners.values()):
            for listener in list(listeners):
                if listener.port_index == port_index:
                    listener.error = error_of(errno.ENETDOWN)
                    listener.close()
                    self.notify(listener)

    def address_removed(self, port_index: int, local: bytes, now: float) -> None:
        """One of our addresses is gone: connections from it end with EADDRNOTAVAIL, nothing is sent."""
        self.now = now
        table = self._tables.get(port_index, {})
        for connection in [connection for connection in table.values() if connection.flow.local == local]:
            ending.fail(connection, error_of(errno.EADDRNOTAVAIL))

    # ------------------------------------------------------------------ timers and output
    def next_timer(self) -> float | None:
        """When `handle_timer` is due; not after the earliest deadline, perhaps before it."""
        heap = self._heap
        while heap and heap[0][2].deadline_pushed != heap[0][0]:
            heapq.heappop(heap)
        due = heap[0][0] if heap else None
        expiry = self._time_wait.next_expiry()
        if expiry is not None:
            # Nothing waits for an entry to go: let it be swept with others.
            expiry = max(expiry, self._time_wait_recent + 1.0)
            if due is None or expiry < due:
                due = expiry
        return due

    def handle_timer(self, now: float) -> None:
        """Everything that is due: retransmission, delayed ACKs, probes, TIME-WAIT."""
        self.now = now
        heap = self._heap
        due: list[TcpConnection] = []
        while heap and heap[0][0] <= now:
            at, _, connection = heapq.heappop(heap)
            if connection.deadline_pushed != at:
                continue  # superseded
            connection.deadline_pushed = None
            due.append(connection)
        # Scheduled after the heap was swept: a deadline that only the flush moves would come up for ever otherwise.
        for connection in due:
            timers.handle_timer(connection, now)
            self.want_flush(connection)  # which also enters its next deadline
        if self._time_wait:
            self._time_wait_recent = now
            self._time_wait.expire(now)

    def _schedule(self, connection: TcpConnection) -> None:
        """Put the connection into the timer heap unless it is there early enough.

        A deadline that moves later (every ACK moves the retransmission timeout) costs nothing: the old entry comes
        up, finds nothing due, and is entered again.
        """
        due = timers.next_deadline(connection)
        if due is None:
            return
        pushed = connection.deadline_pushed
        if pushed is None or due < pushed:
            connection.deadline_pushed = due
            self._heap_order += 1
            heap = self._heap
            heapq.heappush(heap, (due, self._heap_order, connection))
            if len(heap) > 1024 and len(heap) > 4 * sum(map(len, self._tables.values())):
                self._heap = [entry for entry in heap if entry[2].deadline_pushed == entry[0]]
                heapq.heapify(self._heap)

    def flush(self, now: float) -> None:
        """Send what the batch called for: new data, retransmissions, one ACK per connection."""
        self.now = now
        while self._dirty:
            dirty, self._dirty = self._dirty, []
            for connection in dirty:
                connection.dirty = False
                flush(connection, now)
                self._schedule(connection)

    def ready(self) -> list[TcpConnection | TcpListener]:
        """Connections and listeners whose properties changed since the last call, each once."""
        ready, self._ready = self._ready, []
        self._ready_listeners.clear()
        for item in ready:
            if isinstance(item, TcpConnection):
                item.noticed = False
        return ready

    # ------------------------------------------------------------------ sockets
    def connect(
        self, flow: Flow, remote_port: int, now: float, *, local_port: int = 0, timeout: float | None = None
    ) -> TcpConnection:
        """Active open; data may be written at once. Raises OSError(EADDRINUSE / EADDRNOTAVAIL)."""
        self.now = now
        if not 0 < remote_port < 65536:
            raise error_of(errno.EADDRNOTAVAIL)
        prefix = flow.remote + flow.local + remote_port.to_bytes(2, "big")
        if local_port == 0:
            chosen = choose_port(self._random, self.config.ephemeral_ports, _Taken(self, flow.port_index, prefix))
            if chosen is None:
                raise error_of(errno.EADDRNOTAVAIL)
            local_port = chosen
        key = prefix + local_port.to_bytes(2, "big")
        if key in self._tables.get(flow.port_index, {}):
            raise error_of(errno.EADDRINUSE)
        if self._time_wait.get((flow.port_index, key)) is not None:
            self._time_wait.remove((flow.port_index, key))
        connection = self._create(flow, key, now)
        opening.active_open(connection, now, timeout if timeout is not None else self.config.connect_timeout)
        return connection

    def listen(
        self, port: int, *, backlog: int = 128, port_index: int | None = None, local: bytes | None = None
    ) -> TcpListener:
        """Passive open on every address, one network, or one address. Port 0 picks one. Raises OSError(EADDRINUSE)."""
        if port == 0:
            chosen = choose_port(self._random, self.config.ephemeral_ports, self._listeners)
            if chosen is None:
                raise error_of(errno.EADDRINUSE)
            port = chosen
        elif not 0 < port < 65536:
            raise error_of(errno.EADDRNOTAVAIL)
        others = self._listeners.setdefault(port, [])
        for other in others:
            if other.port_index == port_index and other.local == local:
                raise error_of(errno.EADDRINUSE)
        listener = TcpListener(self, port, max(1, min(backlog, self.config.backlog_max)), port_index, local)
        others.append(listener)
        # The most particular listener is asked first.
        others.sort(key=lambda entry: (entry.local is None, entry.port_index is None))
        return listener

    def connections(self) -> list[TcpConnection]:
        """All that are not closed, for display."""
        return [connection for table in self._tables.values() for connection in table.values()]

    # ------------------------------------------------------------------ for connections and listeners
    def _create(self, flow: Flow, key: ConnectionKey, now: float) -> TcpConnection:
        connection = TcpConnection(
            self,
            self.config,
            flow,
            key,
            _pseudo_of(key),
            self._sequence.isn(key, now),
            self._sequence.timestamp_offset(flow.local, flow.remote),
        )
        self._tables.setdefault(flow.port_index, {})[key] = connection
        return connection

    def remove(self, connection: TcpConnection) -> None:
        """The connection is closed."""
        connection.deadline_pushed = None
        self.orphans.discard(connection)
        self.orphans_in_fin_wait_2.pop(connection, None)
        table = self._tables.get(connection.flow.port_index)
        if table is not None and table.get(connection.key) is connection:
            del table[connection.key]

    def adopt_orphan(self, connection: TcpConnection) -> bool:
        """The owner closed the connection and we bring it to its end; False when there are too many already, or they
        hold too much."""
        held = len(connection.snd.buffer) + sum(len(orphan.snd.buffer) for orphan in self.orphans)
        if len(self.orphans) >= self.config.orphans_max or held > self.config.orphan_bytes_max:
            self.count("orphans_full")
            return False
        self.orphans.add(connection)
        return True

    def orphan_waits_for_fin(self, connection: TcpConnection) -> None:
        """An orphan entered FIN-WAIT-2; the one that has waited longest makes room for it."""
        self.orphans.discard(connection)
        waiting = self.orphans_in_fin_wait_2
        waiting[connection] = None
        if len(waiting) > self.config.orphans_max:
            self.count("fin_wait_2_full")
            ending.finish(next(iter(waiting)), None)

    def enter_time_wait(self, connection: TcpConnection) -> None:
        """Both directions are closed: a small record takes over."""
        self.remove(connection)
        snd, rcv = connection.snd, connection.rcv
        entry = TimeWaitEntry(
            connection.flow,
            connection.local_port,
            connection.remote_port,
            snd.recovery.nxt,
            rcv.nxt,
            rcv.ts_recent if connection.ts_ok else None,
            connection.timestamp_offset,
            self.now + self.config.time_wait,
        )
        self._time_wait.add((connection.flow.port_index, connection.key), entry)

    def remove_listener(self, listener: TcpListener) -> None:
        """The listener was closed."""
        listeners = self._listeners.get(listener.port, [])
        if listener in listeners:
            listeners.remove(listener)
        if not listeners:
            self._listeners.pop(listener.port, None)

    def _find_listener(self, port_index: int, local: bytes, port: int) -> TcpListener | None:
        for listener in self._listeners.get(port, ()):
            if listener.port_index in (None, port_index) and listener.local in (None, local):
                return listener
        return None

    def send_reset(self, flow: Flow, local_port: int, remote_port: int, seq: int, ack: int, flags: int) -> None:
        """A RST that belongs to no connection, rate-limited."""
        if self._resets.take(self.now):
            self.count("resets_sent")
            flow.send([reset_for(flow, local_port, remote_port, seq, ack, flags)])
        else:
            self.count("resets_suppressed")

    def challenge_allowed(self, now: float) -> bool:
        """RFC 5961 section 7: challenge ACKs are limited."""
        return self._challenges.take(now)

    def want_flush(self, connection: TcpConnection) -> None:
        """The connection has something to send, or a timer that changed."""
        if not connection.dirty:
            connection.dirty = True
            self._dirty.append(connection)

    def notify(self, item: TcpConnection | TcpListener) -> None:
        """The owner should look."""
        if isinstance(item, TcpConnection):
            if item.noticed:
                return
            item.noticed = True
        elif item in self._ready_listeners:
            return
        else:
            self._ready_listeners.add(item)
        self._ready.append(item)

    def count(self, reason: str) -> None:
        """One more of `reason`."""
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
        layer = self._layer
        key = self._prefix + port.to_bytes(2, "big")
        return (
            port in layer._listeners
            or key in layer._tables.get(self._port_index, {})
            or (self._port_index, key) in layer._time_wait
        )


def _pseudo_of(key: ConnectionKey) -> int:
    half = (len(key) - 4) // 2
    return pseudo_sum(key[:half], key[half : 2 * half], _PROTOCOL_TCP)


def _reversed(key: ConnectionKey) -> ConnectionKey:
    half = (len(key) - 4) // 2
    return key[half : 2 * half] + key[:half] + key[-2:] + key[-4:-2]
