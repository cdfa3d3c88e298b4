"""One stack worker as the node sees it: a process, two rings and a control channel."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import signal
import socket
import subprocess
from collections.abc import Callable, Sequence
from typing import Final, TypeAlias

from ztnode.ring import Record, RingCorrupt
from ztnode.worker import protocol
from ztnode.worker.launch import launch

READ_BYTES: Final = 512 << 10
"""Frames taken from a worker before the event loop has its turn."""
READY_SECONDS: Final = 30.0
"""A worker is ready after 0.2 s; a machine that needs longer than this for it is out of service."""
MAX_UNREAD: Final = 1 << 20
"""Bytes of what it was told that may wait for a worker before it is told no more than it must."""

_log = logging.getLogger(__name__)

FramesHandler: TypeAlias = Callable[[list[tuple[int, memoryview]]], None]


class WorkerGone(ConnectionResetError):
    """The worker ended before it answered."""


class _Channel(asyncio.Protocol):
    """The node's end of the control channel."""

    def __init__(self, process: WorkerProcess) -> None:
        self._process = process
        self._stream = protocol.MessageStream()

    def data_received(self, data: bytes) -> None:
        try:
            for message in self._stream.feed(data):
                self._process.received(message)
        except protocol.ProtocolError as error:
            self._process.kill(f"it sent what is no control message: {error}")

    def connection_lost(self, _exc: Exception | None) -> None:
        self._process.channel_lost()


class WorkerProcess:
    """Lives once: started by ``start``, ended by ``terminate``, ``kill`` or itself, then of no more use."""

    def __init__(
        self,
        index: int,
        path: str,
        on_frames: FramesHandler,
        on_lost: Callable[[], None],
        on_groups: Callable[[int], None],
        on_opened: Callable[[float], None],
        on_lane_used: Callable[[protocol.LaneUsed], None],
        on_lane_refused: Callable[[protocol.LaneRefused], None],
    ) -> None:
        """``on_lost`` is called as soon as the worker answers no more, before ``wait`` returns; ``on_groups`` when
        ``groups`` has changed for the port with this index; ``on_opened`` when a client of its own has a connection,
        with the seconds that it took; ``on_lane_used`` with what a lane has carried; ``on_lane_refused`` when
        it could not take one."""
        self.index = index
        self.path = path
        """Of its hand-off socket."""
        self.stats = protocol.Stats(0, {}, {})
        self.groups: dict[int, frozenset[int]] = {}
        """The MACs of the multicast groups that its sockets have joined, by the index of the port."""
        self._on_frames = on_frames
        self._on_lost = on_lost
        self._on_groups = on_groups
        self._on_opened = on_opened
        self._on_lane_used = on_lane_used
        self._on_lane_refused = on_lane_refused
        self._loop = asyncio.get_running_loop()
        self._process: subprocess.Popen[bytes] | None = None
        self._transport: asyncio.WriteTransport | None = None
        self._answers: dict[int, asyncio.Future[protocol.Answer]] = {}
        self._ready: asyncio.Future[None] = self._loop.create_future()
        self._cause = ""
        self._rings_open = False
        self._traffic = 0, 0
        self._lost = asyncio.Event()

    @property
    def pid(self) -> int:
        """Process id; 0 before there is one."""
        return self._process.pid if self._process is not None else 0

    @property
    def alive(self) -> bool:
        """Whether it can still answer; what it offered can be fetched."""
        return self._transport is not None and not self._lost.is_set()

    async def start(self, ports: tuple[int, int], workers: int, congestion: str) -> None:
        """Let a process begin as this worker, one of ``workers``; ``ports`` is its ephemeral range. Messages may be
        sent at once. Raises OSError."""
        launched = launch()
        self._process, self._to_worker, self._from_worker = launched.process, launched.to_worker, launched.from_worker
        self._rings_open = True
        self._loop.add_reader(self._from_worker.data_fd, self._on_doorbell)
        try:
            transport, _ = await self._loop.create_unix_connection(lambda: _Channel(self), sock=launched.control)
        except BaseException:
            self._close()
            raise
        self._transport = transport
        self.send(protocol.Begin(self.index, workers, self.path, *ports, congestion))
        # Ask to be woken by the first frame.
        self._from_worker.prepare_sleep()

    async def ready(self) -> None:
        """Wait until it serves. Raises OSError when it ends or takes longer than ``READY_SECONDS``."""
        try:
            async with asyncio.timeout(READY_SECONDS):
                await asyncio.shield(self._ready)
        except TimeoutError:
            self.kill(f"it was not ready within {READY_SECONDS:g} s")
            raise

    async def wait(self) -> str:
        """Wait for its end and take away what is left of it; the cause, as a person reads it."""
        assert self._process is not None
        await self._lost.wait()
        code = await asyncio.to_thread(self._process.wait)  # which takes no time: it was killed, too
        self._close()
        if self._cause:
            return self._cause
        if code < 0:
            with contextlib.suppress(ValueError):
                return f"killed by {signal.Signals(-code).name}"
        return f"exit code {code}"

    def kill(self, cause: str) -> None:
        """End it at once, by force; ``cause`` is what ``wait`` will say."""
        self._cause = self._cause or cause
        with contextlib.suppress(ProcessLookupError):
            if self._process is not None:
                self._process.kill()

    def terminate(self) -> None:
        """Ask it to end in good order."""
        self.send(protocol.Stop())

    # Frames

    @property
    def traffic(self) -> tuple[int, int]:
        """Bytes of frames that went to it and that came from it, with some 12 for each frame on the way."""
        if self._rings_open:
            self._traffic = self._to_worker.written, self._from_worker.written
        return self._traffic

    def send_frames(self, records: Sequence[Record]) -> int:
        """How many frames found room; none when the worker has ended."""
        return self._to_worker.write_many(records) if self._rings_open else 0

    def _on_doorbell(self) -> None:
        self._from_worker.clear_data()
        self._read_frames()

    def _read_frames(self) -> None:
        if not self._rings_open:
            return
        ring = self._from_worker
        try:
            records = ring.read(READ_BYTES)
        except RingCorrupt as error:
            self.kill(f"it damaged its ring: {error}")
            return
        try:
            if records:
                self._on_frames(records)
        finally:
            # Release even if handling this batch failed, or the next one could never come.
            ring.release()
            if not ring.prepare_sleep():
                self._loop.call_soon(self._read_frames)

    # Control

    def send(self, message: protocol.ToWorker) -> None:
        """Send a message that has no answer; to a worker that has ended: nothing happens."""
        if self._transport is not None and not self._transport.is_closing():
            self._transport.write(protocol.build(message))

    @property
    def is_behind(self) -> bool:
        """Whether it leaves more unread of what it was told than ``MAX_UNREAD``."""
        return self._transport is not None and self._transport.get_write_buffer_size() > MAX_UNREAD

    def send_with(self, message: protocol.ToWorker, descriptor: int) -> bool:
        """Send a message with a descriptor, which stays the caller's. False where that cannot be now."""
        if self._transport is None or self._transport.is_closing() or self._transport.get_write_buffer_size():
            return False
        data = protocol.build(message)
        channel = self._transport.get_extra_info("socket")
        try:
            with socket.socket(fileno=os.dup(channel.fileno())) as control:
                sent = socket.send_fds(control, [data], [descriptor], socket.MSG_DONTWAIT)
        except OSError:
            return False
        if sent < len(data):
            self._transport.write(data[sent:])
        return True

    async def request(self, message: protocol.Request) -> protocol.Answer:
        """Send and wait for the answer; when this is cancelled, so is the request. Raises WorkerGone."""
        if self._transport is None:
            raise WorkerGone("the stack worker has ended")
        answer: asyncio.Future[protocol.Answer] = self._loop.create_future()
        self._answers[message.id] = answer
        try:
            self.send(message)
            return await answer
        except asyncio.CancelledError:
            self.send(protocol.Cancel(message.id))
            raise
        finally:
            del self._answers[message.id]

    def received(self, message: protocol.Message) -> None:
        """A message from the worker."""
        match message:
            case protocol.Ready():
                if not self._ready.done():
                    self._ready.set_result(None)
            case protocol.Stats():
                self.stats = message
            case protocol.Groups(index, macs):
                self.groups[index] = frozenset(macs)
                self._on_groups(index)
            case protocol.Opened(seconds):
                for each in seconds:
                    self._on_opened(each)
            case protocol.LaneUsed():
                self._on_lane_used(message)
            case protocol.LaneRefused():
                self._on_lane_refused(message)
            case protocol.Trouble():
                _log.warning("stack worker %d: %s", self.index, message.reason)
            case protocol.Dying():
                self._cause = self._cause or message.reason
            case (
                protocol.Dialled()
                | protocol.Listening()
                | protocol.Accepted()
                | protocol.UdpOpened()
                | protocol.UdpConfigured()
                | protocol.Pong()
                | protocol.NeighbourFound()
                | protocol.ConnectionList()
                | protocol.Failed()
            ):
                answer = self._answers.get(message.id)
                # Without one, the request was cancelled while its answer was on the way.
                if answer is not None and not answer.done():
                    answer.set_result(message)
            case _:
                raise protocol.ProtocolError(f"a {type(message).__name__} goes from node to worker")

    def channel_lost(self) -> None:
        """The worker has ended, or will now."""
        if self._lost.is_set():
            return
        self._lost.set()
        if self._transport is not None:
            self._transport.close()
            self._transport = None
        self._on_lost()
        gone = WorkerGone(f"the stack worker ended: {self._cause}" if self._cause else "the stack worker ended")
        for answer in self._answers.values():
            if not answer.done():
                answer.set_exception(gone)
        if not self._ready.done():
            self._ready.set_exception(gone)
            self._ready.exception()  # asked for, so that asyncio does not complain when nobody waits
        self.kill("")

    def _close(self) -> None:
        self.channel_lost()
        if not self._rings_open:
            return
        self._rings_open = False
        self._loop.remove_reader(self._from_worker.data_fd)
        try:
            # What it sent before its end is still delivered: in an orderly end, resets to its peers.
            while records := self._from_worker.read():
                self._on_frames(records)
                self._from_worker.release()
        except RingCorrupt:
            pass
        except Exception as error:
            # A mistake of whoever handles the frames is not to keep the worker from being replaced.
            message = f"the last frames of stack worker {self.index} were not handled"
            self._loop.call_exception_handler({"message": message, "exception": error})
        finally:
            self._traffic = self._to_worker.written, self._from_worker.written
            self._to_worker.close()
            self._from_worker.close()
