"""The node's side of the stack workers: start, feed, restart and stop them, and speak to them as to one host."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import itertools
import json
import logging
import os
import secrets
import shutil
import tempfile
from collections.abc import AsyncGenerator, Callable, Coroutine, Sequence
from pathlib import Path
from typing import Final, TypeVar

from ztnode import unix_sockets
from ztnode.netstack.config import LOOPED
from ztnode.netstack.ephemeral import choose_port
from ztnode.node.api import DEFAULT_STREAM, ConnectionInfo, DialError, Handoff, StreamOptions, WorkerInfo
from ztnode.node.packet_capture import PacketCapture
from ztnode.node.shared_listener import SharedListener
from ztnode.node.steering import UNBOUND_LISTENERS, Steering
from ztnode.node.worker_process import WorkerGone, WorkerProcess
from ztnode.node.worker_slot import WorkerSlot
from ztnode.ring import Record
from ztnode.wire import pcapng
from ztnode.wire.address import format_nwid
from ztnode.wire.endpoint import Endpoint, format_endpoint
from ztnode.worker import protocol

MAX_WORKERS: Final = 64
STOP_SECONDS: Final = 0.7
"""What an orderly end may take before force."""
STEADY_SECONDS: Final = 10.0
"""A worker that lived this long did not die of its start: the next one starts at once."""
BACKOFF: Final = (0.0, 0.2, 1.0, 3.0, 10.0)
"""Seconds before the next start after the first, second ... death in quick succession; the last one stays."""
DIAL_ATTEMPTS: Final = 2
"""A dial that a dying worker took along is tried once more; one that kills workers is not tried for ever."""
ANSWER_SECONDS: Final = 5.0
"""How long a worker may take over what it can answer from its own memory."""

_SOCKET_PATH_BYTES: Final = 100
"""sun_path holds 104 bytes on macOS, 108 on Linux."""

_log = logging.getLogger(__name__)
_A = TypeVar("_A", bound=protocol.Answer)


class Supervisor:
    """All stack workers of one node, seen as one host on every joined network. Runs on the node's event loop.

    Networks are known by the port ``index`` that the node gives each (0 … 2³¹-1); where a method takes ``nwid``,
    None means whichever network has a route.
    """

    def __init__(
        self,
        state: Path,
        on_frames: Callable[[list[tuple[int, memoryview]]], None],
        *,
        on_groups: Callable[[int, frozenset[int]], None] = lambda _index, _macs: None,
        workers: int = 1,
        congestion: str = "cubic",
        on_opened: Callable[[float], None] = lambda _seconds: None,
    ) -> None:
        """``state`` is the directory of the hand-off sockets. ``on_frames`` is called with each batch of whole Ethernet
        frames that the stack sends, as (port index, frame); the views are good only during the call. ``on_groups`` is
        told, by the port's index, the MACs of all multicast groups that sockets have joined, whenever they change.
        ``congestion`` names TCP's congestion control. ``on_opened`` is told how many seconds a connection took that a
        client asked a worker for.

        Raises ValueError for a number of workers that is not between 1 and 64.
        """
        if not 1 <= workers <= MAX_WORKERS:
            raise ValueError(f"the number of workers is between 1 and {MAX_WORKERS}, not {workers}")
        self.counters = {"frames_to_worker": 0, "frames_from_worker": 0, "to_worker_dropped": 0, "worker_restarts": 0}
        self._state = state
        self._on_frames = on_frames
        self._on_groups = on_groups
        self._steering = Steering(workers, self.counters)
        self._count = workers
        self._congestion = congestion
        self._on_opened = on_opened
        self._ports: dict[int, protocol.PortUp] = {}
        self._indices: dict[int, int] = {}
        self._gateway: protocol.SetGateway | None = None
        self._listeners: dict[int, SharedListener] = {}
        self._captures: dict[int, set[PacketCapture]] = {}
        self.on_lane_used: Callable[[protocol.LaneUsed], None] = lambda _used: None
        """Told what a lane has carried."""
        self.on_lane_refused: Callable[[protocol.LaneRefused], None] = lambda _refused: None
        """Told of a lane that the worker could not take."""
        self.on_lanes_lost: Callable[[], None] = lambda: None
        """Called when the worker that has the lanes is gone, or frames are to pass here for another reason."""
        self._ids = itertools.count(1)
        self._turn = itertools.count()
        self._stopping = False
        self._past_traffic = 0, 0
        self._short_directory: str | None = None
        self._slots = [WorkerSlot(index, self._socket_path(index)) for index in range(workers)]

    # Life

    async def start(self) -> None:
        """Start every worker's process; ``ready`` comes next. Raises OSError when one cannot be started."""
        await self._for_all(self._spawn)

    async def ready(self) -> None:
        """Wait until every worker serves, and replace it from then on when it ends. Raises OSError when one does not
        come up."""
        await self._for_all(self._bring_up)
        for slot in self._slots:
            slot.task = asyncio.create_task(self._keep_alive(slot), name=f"stack worker {slot.index}")

    async def _for_all(self, step: Callable[[WorkerSlot], Coroutine[None, None, None]]) -> None:
        try:
            async with asyncio.TaskGroup() as group:
                for slot in self._slots:
                    group.create_task(step(slot))
        except* OSError as failed:
            await self.stop()
            raise failed.exceptions[0] from None

    async def stop(self) -> None:
        """End every worker within a second, by force if need be; their connections end with a reset."""
        self._stopping = True
        for listener in self._listeners.values():
            listener.close()
        self._listeners.clear()
        for capture in [capture for captures in self._captures.values() for capture in captures]:
            capture.end()
        processes = [slot.process for slot in self._slots if slot.process is not None]
        for process in processes:
            process.terminate()
        tasks = [slot.task for slot in self._slots if slot.task is not None]
        for slot in self._slots:
            if slot.process is None and slot.task is not None:
                slot.task.cancel()  # it waits to start the next one
        if tasks:
            await asyncio.wait(tasks, timeout=STOP_SECONDS)
        for process in processes:
            process.kill("it did not end when asked to")
        for slot in self._slots:
            if slot.task is None and slot.process is not None:
                await slot.process.wait()
                slot.process = None
        if tasks:
            _, stuck = await asyncio.wait(tasks, timeout=STOP_SECONDS)
            for task in stuck:
                task.cancel()
        for slot in self._slots:
            slot.ready.set()  # whoever waits for a worker learns that there is none
            with contextlib.suppress(OSError):
                os.unlink(slot.path)  # noqa: PTH108 - one that was killed left it behind
        if self._short_directory is not None:
            shutil.rmtree(self._short_directory, ignore_errors=True)

    async def _spawn(self, slot: WorkerSlot) -> None:
        """A new process for the slot, told of everything that the last one knew. Raises OSError."""
        process = WorkerProcess(
            slot.index,
            slot.path,
            self._frames_from_worker,
            lambda: self._lost(slot),
            self._groups_changed,
            self._on_opened,
            lambda used: self.on_lane_used(used),
            lambda refused: self.on_lane_refused(refused),
        )
        await process.start(self._steering.ephemeral(slot.index), self._count, self._congestion)
        slot.process = process
        for port in self._ports.values():
            process.send(port)
        if self._gateway is not None:
            process.send(self._gateway)

    def _lost(self, slot: WorkerSlot) -> None:
        slot.ready.clear()
        self.on_lanes_lost()

    async def _bring_up(self, slot: WorkerSlot) -> None:
        """Wait until the slot's new process serves, with the listeners of the last one. Raises OSError."""
        process = slot.process
        assert process is not None
        try:
            await process.ready()
        except OSError as error:
            process.kill("")
            cause = await process.wait()
            slot.process = None
            raise OSError(f"stack worker {slot.index} does not start: {cause}") from error
        except BaseException:
            process.kill("cancelled")
            raise
        for listener in list(self._listeners.values()):
            try:
                await listener.reopen(slot, process)
            except DialError as error:
                _log.warning("listening on port %d again failed: %s", listener.request.port, error.strerror)
                self._listeners.pop(listener.request.id, None)
                listener.close(error.errno or errno.EIO, f"the listener could not be opened again: {error.strerror}")
        if process.alive:
            slot.ready.set()

    async def _keep_alive(self, slot: WorkerSlot) -> None:
        """Wait for the end of the slot's process and put another in its place, until the node stops."""
        loop = asyncio.get_running_loop()
        deaths = 0
        while slot.process is not None:
            born = loop.time()
            cause = await slot.process.wait()
            pid = slot.process.pid
            if loop.time() - born > STEADY_SECONDS:
                deaths = 0
            groups = slot.process.groups
            self._past_traffic = _sum(self._past_traffic, slot.process.traffic)
            slot.process = None
            slot.ready.clear()
            for index in groups:
                self._groups_changed(index)  # its sockets are gone
            while slot.process is None and not self._stopping:
                delay = BACKOFF[min(deaths, len(BACKOFF) - 1)]
                deaths += 1
                slot.restarts += 1
                self.counters["worker_restarts"] += 1
                again = f"in {delay:g} s" if delay else "now"
                _log.warning(
                    "stack worker %d (pid %d) ended: %s; its connections are reset; a new one starts %s",
                    slot.index,
                    pid,
                    cause,
                    again,
                )
                await asyncio.sleep(delay)
                try:
                    if not self._stopping:
                        await self._spawn(slot)
                        await self._bring_up(slot)
                except OSError as error:
                    cause, pid = str(error), 0

    def _socket_path(self, index: int) -> str:
        path = os.path.realpath(self._state / f"worker-{index}.sock")
        if len(os.fsencode(path)) <= _SOCKET_PATH_BYTES and unix_sockets.refusal(path) is None:
            return path
        if self._short_directory is None:
            self._short_directory = tempfile.mkdtemp(prefix="ztnode-")
        path = os.path.join(self._short_directory, f"worker-{index}.sock")  # noqa: PTH118
        if len(os.fsencode(path)) > _SOCKET_PATH_BYTES:
            shutil.rmtree(self._short_directory, ignore_errors=True)
            self._short_directory = None
            raise OSError(errno.ENAMETOOLONG, f"{path} is too long for a socket: set TMPDIR to a shorter directory")
        return path

    # Networks and frames

    def port_up(
        self,
        index: int,
        *,
        nwid: int,
        mac: int,
        mtu: int,
        addresses: Sequence[str],
        routes: Sequence[tuple[str, str | None]],
        metric: int = 0,
        multicast: bool = True,
        broadcast: bool = True,
    ) -> None:
        """A network is there or has changed: addresses and route targets in CIDR form, gateways or None, with which
        metric it competes with others for a prefix, and whether it carries multicast and broadcasts."""
        message = protocol.PortUp(index, nwid, mac, mtu, tuple(addresses), tuple(routes), metric, multicast, broadcast)
        if self._ports.get(index) != message:
            self._ports[index] = message
            self._indices[nwid] = index
            self._tell_all(message)

    def port_down(self, index: int) -> None:
        """The network is gone: its connections end, with an error."""
        port = self._ports.pop(index, None)
        if port is not None:
            del self._indices[port.nwid]
            for capture in self._captures.get(index, ()):
                capture.end()
            self._tell_all(protocol.PortDown(index))

    def limit_neighbour(self, index: int, mac: int, mtu: int | None) -> None:
        """IP packets of more than ``mtu`` bytes from this neighbour do not get through (None: all do)."""
        if index in self._ports:
            self._tell_all(protocol.LimitNeighbour(index, mac, mtu))

    def neighbour_returned(self, index: int, mac: int) -> None:
        """This neighbour is heard again after a silence: what waits for it is sent again at once."""
        if index in self._ports:
            self._tell_all(protocol.NeighbourReturned(index, mac))

    def set_gateway(self, targets: Sequence[str], flows: int) -> None:
        """Carry on what members send to these networks (CIDR), ``flows`` at a time at most by all workers together."""
        self._gateway = protocol.SetGateway(tuple(targets), -(-flows // self._count))
        self._tell_all(self._gateway)

    def _groups_changed(self, index: int) -> None:
        if index in self._ports:
            processes = (slot.process for slot in self._slots if slot.process is not None)
            self._on_groups(index, frozenset().union(*(process.groups.get(index, ()) for process in processes)))

    @property
    def may_have_lanes(self) -> bool:
        """Whether frames need not pass here: one worker has all of them, and nobody captures."""
        return self._count == 1 and not self._captures and self._slots[0].ready.is_set()

    @property
    def is_behind(self) -> bool:
        """Whether the worker that has the lanes leaves too much unread of what it was told."""
        process = self._slots[0].process
        return process is not None and process.is_behind

    def give_lane(self, lane: protocol.LaneUp, descriptor: int) -> bool:
        """Let the worker have a lane with this socket, a copy of which it gets. False where that cannot be now."""
        process = self._slots[0].process
        return process is not None and process.send_with(lane, descriptor)

    def tell_lane(self, message: protocol.LaneTerms | protocol.LaneSeen | protocol.LaneDown) -> None:
        """Say something about a lane that was given."""
        process = self._slots[0].process
        if process is not None:
            process.send(message)

    def send_frames(self, records: Sequence[Record]) -> None:
        """Deliver Ethernet frames to the stack: (port index, parts of a frame), where the parts are either the whole
        frame or its 14-byte header and the rest. What finds no room is dropped and counted."""
        if self._captures:
            self._capture(records, pcapng.INBOUND)
        if self._count == 1:
            self._send_to(self._slots[0], records)
            return
        self._share_out(records)

    def _share_out(self, records: Sequence[Record]) -> None:
        for slot, share in zip(self._slots, self._steering.split(records), strict=True):
            if share:
                self._send_to(slot, share)

    def _send_to(self, slot: WorkerSlot, records: Sequence[Record]) -> None:
        # One that has no listeners again yet would refuse connections that it is to take; the peers' SYN comes again.
        written = slot.process.send_frames(records) if slot.process is not None and slot.ready.is_set() else 0
        self.counters["frames_to_worker"] += written
        if written < len(records):
            self.counters["to_worker_dropped"] += len(records) - written

    def _frames_from_worker(self, records: list[tuple[int, memoryview]]) -> None:
        self.counters["frames_from_worker"] += len(records)
        if self._captures:
            self._capture([(index, (frame,)) for index, frame in records], pcapng.OUTBOUND)
        if self._count > 1:
            records = self._turn_round(records)
        self._on_frames(records)

    def _turn_round(self, records: list[tuple[int, memoryview]]) -> list[tuple[int, memoryview]]:
        """Give what workers send to this very host to whom it is for; the rest."""
        looped: list[Record] = [(index, (frame,)) for index, frame in records if index >= LOOPED]
        if not looped:
            return records
        self._share_out(looped)
        return [record for record in records if record[0] < LOOPED]

    def _capture(self, records: Sequence[Record], direction: int) -> None:
        for index, captures in self._captures.items():
            frames = [parts for tag, parts in records if tag == index]
            if frames:
                for capture in captures:
                    capture.add(frames, direction)

    # What clients ask for

    async def dial(
        self,
        host: str,
        port: int,
        *,
        nwid: int | None = None,
        timeout: float = 30.0,
        options: StreamOptions = DEFAULT_STREAM,
    ) -> Handoff:
        """Open a TCP connection. Raises DialError."""
        index = self._index(nwid)
        slot = self._slots[next(self._turn) % self._count]
        deadline = asyncio.get_running_loop().time() + timeout
        for attempt in range(DIAL_ATTEMPTS):
            left = deadline - asyncio.get_running_loop().time()
            try:
                # The stack's own time-out comes first and says why; one second is added for a worker that is stuck.
                async with asyncio.timeout(max(left, 0.0) + 1.0):
                    process = await slot.running()
                    message = protocol.Dial(
                        next(self._ids),
                        host,
                        port,
                        index,
                        max(left, 0.001),
                        options.nodelay,
                        options.congestion,
                    )
                    answer = _expect(await process.request(message), protocol.Dialled)
            except TimeoutError as error:
                raise DialError(
                    errno.ETIMEDOUT, f"no answer from {format_endpoint((host, port))} within {timeout:g} s"
                ) from error
            except WorkerGone as error:
                if attempt + 1 == DIAL_ATTEMPTS:
                    raise DialError(errno.ECONNRESET, str(error)) from error
                continue
            return Handoff(slot.path, answer.token, answer.local, answer.remote)
        raise AssertionError("unreachable")

    async def listen(
        self,
        host: str | None,
        port: int,
        *,
        nwid: int | None = None,
        backlog: int = 128,
        options: StreamOptions = DEFAULT_STREAM,
    ) -> tuple[int, Endpoint]:
        """Listen, on all addresses if ``host`` is None; returns a listener id and what was bound. It outlives a worker
        that dies. Raises DialError."""
        request = protocol.Listen(
            next(self._ids),
            host,
            port or self._free_port(),
            self._index(nwid),
            max(1, min(backlog, 1 << 16)),
            secrets.token_bytes(protocol.TOKEN_BYTES),
            options.nodelay,
            options.congestion,
        )
        slots = [self._slots[worker] for worker in self._steering.listening(request.port)]
        listener = self._listeners[request.id] = SharedListener(request, slots, self._ids)
        try:
            return request.id, await listener.open(lambda slot, message: self._ask(slot, message, protocol.Listening))
        except BaseException:
            self._listeners.pop(request.id, None)
            listener.close()
            raise

    def attended(self, listener: int) -> Handoff | None:
        """See NodeApi. Raises KeyError if unknown."""
        request = self._listeners[listener].request
        if self._count > 1:
            return None  # each has connections of its own
        return Handoff(self._slots[0].path, request.token, (request.host or "", request.port), ("", 0))

    async def accept(self, listener: int) -> Handoff:
        """The next connection. Raises DialError when the listener is closed, KeyError if unknown."""
        return await self._listeners[listener].accept()

    async def close_listener(self, listener: int) -> None:
        """Stop listening; connections that nobody accepted are reset. Raises KeyError if unknown."""
        self._listeners.pop(listener).close()

    async def open_udp(self, host: str | None, port: int, *, nwid: int | None = None, reuse: bool = False) -> Handoff:
        """A UDP socket bound to an overlay address (None: all of them), which others that say ``reuse`` may have, too;
        ``worker/udp_pairs.py`` describes what the client gets. Raises DialError."""
        slot = self._slots[self._steering.udp_owner(port) if port else next(self._turn) % self._count]
        request = protocol.OpenUdp(next(self._ids), host, port, self._index(nwid), reuse)
        answer = await self._ask(slot, request, protocol.UdpOpened)
        return Handoff(slot.path, answer.token, answer.local, ("", 0))

    async def configure_udp(
        self, token: bytes, option: str, *, address: str | None = None, source: str | None = None, value: int = 0
    ) -> None:
        """Change the UDP socket that was opened with ``token``: see ``protocol.ConfigureUdp``. Raises DialError."""
        for slot in self._slots:
            request = protocol.ConfigureUdp(next(self._ids), token, option, address, source, value)
            try:
                await self._ask(slot, request, protocol.UdpConfigured)
            except DialError as error:
                if error.errno != errno.EBADF or slot is self._slots[-1]:
                    raise
            else:
                return

    async def ping(self, host: str, *, nwid: int | None = None, size: int = 56, timeout: float = 3.0) -> float:
        """Round-trip time of one ICMP echo with ``size`` bytes of payload, in seconds. Raises DialError, ValueError."""
        if not 0 <= size <= 65000:
            raise ValueError(f"a ping carries 0 to 65000 bytes, not {size}")
        request = protocol.Ping(next(self._ids), host, self._index(nwid), size, timeout)
        return (await self._ask(self._slots[0], request, protocol.Pong, timeout=timeout)).seconds

    async def find_neighbour(
        self, host: str, *, nwid: int | None = None, timeout: float = 3.0
    ) -> protocol.NeighbourFound:
        """Who is asked for packets to ``host``. Raises DialError."""
        request = protocol.FindNeighbour(next(self._ids), host, self._index(nwid), timeout)
        return await self._ask(self._slots[0], request, protocol.NeighbourFound, timeout=timeout)

    async def connections(self) -> list[ConnectionInfo]:
        """The TCP connections of all workers. Raises DialError."""
        found = []
        for slot in self._slots:
            first, more = 0, True
            while more:
                request = protocol.ListConnections(next(self._ids), first)
                answer = await self._ask(slot, request, protocol.ConnectionList)
                found += [ConnectionInfo(slot.index, json.loads(text)) for text in answer.connections]
                first, more = first + len(answer.connections), answer.more and bool(answer.connections)
        return found

    async def capture(self, nwid: int, *, snaplen: int = 65535) -> AsyncGenerator[bytes, None]:
        """The network's Ethernet frames as pcapng, in pieces of whole blocks, from now on and until the network goes.

        Raises KeyError if it is not up. Close the iterator (``aclosing``) to end the capture.
        """
        index = self._indices[nwid]
        capture = PacketCapture(format_nwid(nwid), snaplen=snaplen)
        self._captures.setdefault(index, set()).add(capture)
        self.on_lanes_lost()
        try:
            async for piece in capture.blocks():
                yield piece
        finally:
            self._captures[index].discard(capture)
            if not self._captures[index]:
                del self._captures[index]

    def traffic(self) -> tuple[int, int]:
        """Bytes of Ethernet frames to and from the stack since the node started, with some 12 more for each frame."""
        total = self._past_traffic
        for slot in self._slots:
            if slot.process is not None:
                total = _sum(total, slot.process.traffic)
        return total

    def workers(self) -> tuple[WorkerInfo, ...]:
        """Each worker as of its last report, at most a second old while there is traffic."""
        return tuple(
            WorkerInfo(
                slot.index,
                slot.process.pid if slot.process is not None else 0,
                slot.process.stats.connections if slot.process is not None else 0,
                slot.restarts,
                slot.process.stats.counters if slot.process is not None else {},
                slot.process.stats.gauges if slot.process is not None else {},
            )
            for slot in self._slots
        )

    # Helpers

    def _index(self, nwid: int | None) -> int | None:
        if nwid is None:
            return None
        index = self._indices.get(nwid)
        if index is None:
            raise DialError(errno.ENETDOWN, f"network {format_nwid(nwid)} is not up: not joined, or not authorized yet")
        return index

    def _free_port(self) -> int:
        """A port number for a listener that names none. Raises DialError."""
        taken = {listener.request.port for listener in self._listeners.values()}
        port = choose_port(os.urandom, UNBOUND_LISTENERS, taken)
        if port is None:
            raise DialError(errno.EADDRINUSE, "too many listeners: no port number is free")
        return port

    def _tell_all(self, message: protocol.ToWorker) -> None:
        for slot in self._slots:
            if slot.process is not None:
                slot.process.send(message)

    async def _ask(self, slot: WorkerSlot, request: protocol.Request, kind: type[_A], timeout: float = 0.0) -> _A:
        """One request with a quick answer; as DialError what goes wrong."""
        try:
            async with asyncio.timeout(timeout + ANSWER_SECONDS):
                return _expect(await (await slot.running()).request(request), kind)
        except WorkerGone as error:
            raise DialError(errno.ECONNRESET, f"{error}; try again") from error
        except TimeoutError as error:
            raise DialError(errno.ETIMEDOUT, f"stack worker {slot.index} does not answer") from error


def _sum(one: tuple[int, int], other: tuple[int, int]) -> tuple[int, int]:
    return one[0] + other[0], one[1] + other[1]


def _expect(answer: protocol.Answer, kind: type[_A]) -> _A:
    if isinstance(answer, kind):
        return answer
    if isinstance(answer, protocol.Failed):
        raise DialError(answer.errno, answer.reason)
    raise protocol.ProtocolError(f"a {type(answer).__name__} is no answer to this request")
