"""A TCP listener that is spread over the workers.

Each worker has a clone, and gets the connections that the steering gives it. As soon as somebody accepts, one Accept is
kept pending at every clone; what it brings goes to whoever waits longest, or waits here, one connection of each clone
at most, in the order of arrival: so no clone starves, an accept() that is cancelled loses nothing, and each connection
costs two messages however many workers there are. All further connections stay in the clones' own queues.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
from collections import deque
from collections.abc import Awaitable, Callable, Iterator, Sequence
from typing import Final, TypeAlias

from ztnode.node.api import DialError, Handoff
from ztnode.node.worker_process import WorkerGone, WorkerProcess
from ztnode.node.worker_slot import WorkerSlot
from ztnode.wire.endpoint import Endpoint
from ztnode.worker import protocol
from ztnode.worker.handoff_server import OFFER_SECONDS

RENEW_SECONDS: Final = OFFER_SECONDS * 0.4
"""A connection that waits for accept() is offered anew this often; its client has the rest of the time to fetch it."""
RETRY_SECONDS: Final = 0.1
"""After a worker had no room for one more connection that waits for its client."""

Ask: TypeAlias = Callable[[WorkerSlot, protocol.Listen], Awaitable[protocol.Listening]]


class _Spare:
    """A connection that is on offer at its worker and waits for accept()."""

    def __init__(self, process: WorkerProcess, answer: protocol.Accepted) -> None:
        self.process = process
        self.token = answer.token
        self.handoff = Handoff(process.path, answer.token, answer.local, answer.remote)
        self.taken = asyncio.Event()


class SharedListener:
    """A listener as the client knows it, whichever processes serve it at the moment."""

    def __init__(self, request: protocol.Listen, slots: Sequence[WorkerSlot], ids: Iterator[int]) -> None:
        """``slots``: the workers that get a clone; ``ids`` for the requests to them."""
        self.request = request
        self._slots = slots
        self._ids = ids
        self._open: set[WorkerSlot] = set()
        self._waiters: deque[asyncio.Future[_Spare]] = deque()
        self._spares: deque[_Spare] = deque()
        self._feeds: list[asyncio.Task[None]] = []
        self._failure: DialError | None = None

    # The clones

    async def open(self, ask: Ask) -> Endpoint:
        """Listen at all workers; what was bound. Raises what ``ask`` raises for the first that fails; the caller then
        calls ``close``, which undoes the others."""

        async def listen(slot: WorkerSlot) -> Endpoint:
            answer = await ask(slot, self.request)
            # From here on reopen() tells a replacement of this worker about the listener.
            self._open.add(slot)
            return answer.local

        tasks = [asyncio.create_task(listen(slot)) for slot in self._slots]
        try:
            return (await asyncio.gather(*tasks))[0]
        except BaseException:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
            raise

    async def reopen(self, slot: WorkerSlot, process: WorkerProcess) -> None:
        """Listen again at the new process of a worker. Raises DialError when that fails."""
        if slot not in self._open or self._failure is not None:
            return
        with contextlib.suppress(WorkerGone):
            answer = await process.request(self.request)
            if isinstance(answer, protocol.Failed):
                raise DialError(answer.errno, answer.reason)
        if self._failure is not None:
            process.send(protocol.Cancel(self.request.id))  # closed in the meantime

    def close(self, number: int = errno.EINVAL, reason: str = "the listener was closed") -> None:
        """Close all clones; accept() raises DialError(``number``, ``reason``) from now on."""
        self._fail(number, reason)
        for feed in self._feeds:
            feed.cancel()
        for spare in self._spares:
            spare.process.send(protocol.Withdraw(spare.token))
        self._spares.clear()
        for slot in self._open:
            if slot.process is not None:
                slot.process.send(protocol.Cancel(self.request.id))

    # The connections

    async def accept(self) -> Handoff:
        """The next connection. Raises DialError when the listener is closed or its network is gone."""
        if not self._feeds:
            self._feeds = [asyncio.create_task(self._feed(slot)) for slot in self._slots]
        while True:
            spare = await self._next()
            spare.taken.set()
            if spare.process.alive:  # or else the connection was reset while it waited: there is no socket to give
                return spare.handoff

    async def _next(self) -> _Spare:
        if self._spares:
            return self._spares.popleft()
        if self._failure is not None:
            raise DialError(self._failure.errno, self._failure.strerror)
        waiter: asyncio.Future[_Spare] = asyncio.get_running_loop().create_future()
        self._waiters.append(waiter)
        try:
            return await waiter
        except asyncio.CancelledError:
            if waiter.done() and not waiter.cancelled() and waiter.exception() is None:
                self._give(waiter.result(), first=True)  # it had come at the moment of the cancellation
            raise
        finally:
            with contextlib.suppress(ValueError):
                self._waiters.remove(waiter)

    def _give(self, spare: _Spare, *, first: bool = False) -> None:
        """To whoever waits longest, or to whoever comes next."""
        while self._waiters:
            waiter = self._waiters.popleft()
            if not waiter.done():
                waiter.set_result(spare)
                return
        if self._failure is not None:
            spare.process.send(protocol.Withdraw(spare.token))
        elif first:
            self._spares.appendleft(spare)
        else:
            self._spares.append(spare)

    async def _feed(self, slot: WorkerSlot) -> None:
        """Fetch the connections of one clone, one at a time, until the listener is closed."""
        while True:
            try:
                process = await slot.running()
                answer = await process.request(protocol.Accept(next(self._ids), self.request.id))
            except WorkerGone:
                await asyncio.sleep(0)  # the listener is opened again in the next process
                continue
            if isinstance(answer, protocol.Accepted):
                spare = _Spare(process, answer)
                self._give(spare)
                await self._keep(spare)
            elif isinstance(answer, protocol.Failed) and answer.errno in (errno.ENOBUFS, errno.EAGAIN):
                await asyncio.sleep(RETRY_SECONDS)
            elif isinstance(answer, protocol.Failed):
                self._fail(answer.errno, answer.reason)
                return

    async def _keep(self, spare: _Spare) -> None:
        """Until it is taken."""
        while not spare.taken.is_set():
            try:
                async with asyncio.timeout(RENEW_SECONDS):
                    await spare.taken.wait()
            except TimeoutError:
                spare.process.send(protocol.Renew(spare.token))

    def _fail(self, number: int, reason: str) -> None:
        """Nothing will come any more."""
        if self._failure is None:
            self._failure = DialError(number, reason)
        for waiter in self._waiters:
            if not waiter.done():
                waiter.set_exception(DialError(number, reason))
        self._waiters.clear()
