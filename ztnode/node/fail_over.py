"""Several transports as one: the first that brings answers is used, and the ones before it are tried all the while.

As the reference does with its TCP relay (OneService.cpp, ``nodeWirePacketSendFunction``, ``phyOnDatagram``), for any
number of transports, and with three differences: only what peers have sealed counts, and a better way is taken when a
peer has answered by it what it was asked, for a wall may let in what it does not let out; a way that has worked is
given up within seconds, for connections wait; and a way that is left is listened to for a while, for peers go on
sending there until they know the new one.
"""

from __future__ import annotations

import asyncio
import functools
import logging
import socket
import time
from collections.abc import Callable, Coroutine, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from ztnode.hookspecs import Counts, Datagrams, LendsSockets, MayBeDown, TellsPeersApart, Transport
from ztnode.vl1.scope import Scope, scope_of
from ztnode.wire.endpoint import Endpoint

log = logging.getLogger(__name__)

AFTER: Final = 60.0
"""Seconds without an answer from the internet until the next transport is taken (ZT_TCP_FALLBACK_AFTER), where the one
in use never brought any."""
ASK_AFTER: Final = 2.0
"""Seconds without a word from the internet in which something was sent there by a way that has worked, after which
roots and peers are asked at each look: one that is gone is no reason to change, and neither are a few packets lost."""
SILENT_AFTER: Final = 5.0
"""The same until the next transport is taken."""
DEAF_ASK_AFTER: Final = 8.0
"""The two for a way by which peers are heard and nothing is answered: a wall may let in what it does not let out. A
busy path is asked every 3 s (``path_mtu.CHECK_INTERVAL``)."""
DEAF_AFTER: Final = 14.0
DOWN_AFTER: Final = 10.0
"""The same for one that says itself that it is down."""
LINGER: Final = 12.0
"""Seconds for which a transport that is left still receives."""
MAX_TRIAL: Final = 300.0
"""Seconds, at most, for which a better way that worked for a moment only must bring answers before packets go by it
alone: LINGER at first, and twice as long each time that it fails all the same. One that was in use for longer than this
at a stretch is trusted at once."""
LOOK_EVERY: Final = 1.0
"""Seconds, while there is something to wait for: a look wakes a node that has nothing else to do."""
MAX_ASKED: Final = 4096


@dataclass(slots=True)
class _Way:
    name: str
    transport: Transport
    is_open: bool = False
    is_refused: bool = False


class FailOver:
    """See ``Transport``, ``TellsPeersApart`` and ``LendsSockets`` in ``ztnode.hookspecs``; over those given, the
    preferred one first."""

    def __init__(
        self,
        transports: Sequence[tuple[str, Transport]],
        *,
        after: float = AFTER,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """``transports``: each with its name for the log, without secrets. ``after``: see AFTER."""
        self._ways = [_Way(name, transport) for name, transport in transports]
        self._first = self._ways[0].transport
        self._after = after
        self._clock = clock
        self._receive: Callable[[Datagrams], None] = lambda _datagrams: None
        self._at = 0
        """Which of them is used; those before it are tried."""
        self._returning: tuple[float, int] | None = None
        """From when packets go by a better one alone, which has brought an answer, and which that is."""
        self._is_tried = False
        """Whether that is still to come."""
        self._trial = 0.0
        """Seconds from such an answer until then."""
        self._better_at = float("-inf")
        """When a better one last brought an answer."""
        self._asked: dict[Endpoint, bool] = {}
        """Where something was sent, and whether that is in the internet."""
        self._unanswered: float | None = None
        """Since when something that was sent into the internet by the way in use is not answered."""
        self._taken_at = float("-inf")
        """When the way in use was taken."""
        self.answers: Callable[[], int] = lambda: 0
        """How many requests peers have answered so far, by their authenticated word, straight."""
        self.answered: Callable[[], float] = lambda: float("-inf")
        """When a peer in the internet last did so, by the clock; -inf: never."""
        self.heard: Callable[[], float] = lambda: float("-inf")
        """When one last said anything authentic, straight."""
        self.ask: Callable[[], None] = lambda: None
        """Called to ask whether anybody in the internet is there."""
        self.on_another: Callable[[], None] = lambda: None
        """Called when another transport is used from now on, too."""
        self._looking: asyncio.TimerHandle | None = None
        self._look_due = float("inf")
        """By the clock; a look that comes much later shows that the process did not run."""
        self._tasks: set[asyncio.Task[None]] = set()

    @property
    def names(self) -> list[str]:
        """Those of all, the preferred one first."""
        return [way.name for way in self._ways]

    @property
    def in_use(self) -> str:
        """The name of the transport in use."""
        return self._ways[self._at].name

    @property
    def counters(self) -> Mapping[str, int]:
        """See Counts: those of all."""
        found: dict[str, int] = {}
        for way in self._ways:
            if isinstance(way.transport, Counts):
                found |= way.transport.counters
        return found

    async def open(self, port: int, receive: Callable[[Datagrams], None]) -> None:
        """See Transport: the first is opened; the others when they are needed, at ports of their own."""
        self._receive = receive
        await self._open(0, port)

    def hand_to(self, receive: Callable[[Datagrams], None]) -> None:
        """From now on ``receive`` takes what comes."""
        self._receive = receive

    def send(self, endpoint: Endpoint, datagrams: Sequence[bytes]) -> int:
        """See Transport."""
        far = self._asked.get(endpoint)
        if far is None:
            far = self._note(endpoint)
        if far and self._unanswered is None:
            self._unanswered = self._clock()
            self._look_later()
        if not far or self._at == 0:
            return self._first.send(endpoint, datagrams)  # what is near is not to be reached from elsewhere
        # By those that brought nothing too: so it shows at once when they work.
        last = self._at if self._returning is None or self._is_tried else self._returning[1]
        return min(way.transport.send(endpoint, datagrams) for way in self._ways[: last + 1] if way.is_open)

    def local_endpoints(self) -> Sequence[Endpoint]:
        """See Transport."""
        return [endpoint for way in self._ways if way.is_open for endpoint in way.transport.local_endpoints()]

    async def close(self) -> None:
        """See Transport."""
        self._receive = lambda _datagrams: None
        if self._looking is not None:
            self._looking.cancel()
        for task in self._tasks:
            task.cancel()
        if self._tasks:
            await asyncio.wait(self._tasks)
        for way in self._ways:
            if way.is_open:
                way.is_open = False
                await way.transport.close()

    def favor(self, endpoints: Sequence[Endpoint]) -> None:
        """See TellsPeersApart."""
        if isinstance(self._first, TellsPeersApart):
            self._first.favor(endpoints)

    def let_others_wait(self, seconds: float) -> None:
        """See TellsPeersApart."""
        if isinstance(self._first, TellsPeersApart):
            self._first.let_others_wait(seconds)

    def lend(self, endpoint: Endpoint) -> socket.socket | None:
        """See LendsSockets: a socket of the first, while that is the one that goes there."""
        if self._is_by_first(endpoint) and isinstance(self._first, LendsSockets):
            return self._first.lend(endpoint)
        return None

    def leads_to(self, endpoint: Endpoint) -> bool:
        """See LendsSockets."""
        return self._is_by_first(endpoint) and isinstance(self._first, LendsSockets) and self._first.leads_to(endpoint)

    def _is_by_first(self, endpoint: Endpoint) -> bool:
        return self._at == 0 or scope_of(endpoint[0]) is not Scope.GLOBAL

    def take_back(self, endpoint: Endpoint) -> None:
        """See LendsSockets."""
        if isinstance(self._first, LendsSockets):
            self._first.take_back(endpoint)

    async def _open(self, index: int, port: int = 0) -> None:
        way = self._ways[index]
        await way.transport.open(port, functools.partial(self._came, index))
        way.is_open = True

    def _note(self, endpoint: Endpoint) -> bool:
        """Whether an endpoint is in the internet, which is remembered."""
        if len(self._asked) >= MAX_ASKED:
            self._asked.clear()  # those that matter are back in seconds
        far = self._asked[endpoint] = scope_of(endpoint[0]) is Scope.GLOBAL
        return far

    def _came(self, index: int, datagrams: Datagrams) -> None:
        if index == self._at:
            self._receive(datagrams)  # whether it means anything, VL1 knows, and ``_look`` asks
            return
        # What is near may answer by a way that leads no farther.
        asked = self._asked
        far = [each for each in datagrams if asked.get(each[1])]
        if len(far) < len(datagrams):
            self._receive([each for each in datagrams if not asked.get(each[1])])
        if not far:
            return
        before = self.answers()
        self._receive(far)
        if index < self._at and self.answers() > before:
            self._better_at = self._clock()
            if self._returning is None or index < self._returning[1]:
                self._returning = self._better_at + self._trial, index
                self._is_tried = self._trial > 0
                self._look_later()

    def _look_later(self) -> None:
        if self._looking is None and len(self._ways) > 1:
            pause = min(LOOK_EVERY, self._after)
            self._look_due = self._clock() + pause
            self._looking = asyncio.get_running_loop().call_later(pause, self._look)

    def _look(self) -> None:
        self._looking = None
        if not self._ways[0].is_open:  # closed meanwhile
            return
        now = self._clock()
        if self._unanswered is not None and self.answered() >= self._unanswered:
            self._unanswered = None
        if now - self._look_due > LOOK_EVERY:
            self._slept(now - self._look_due)
        if self._returning is not None:
            self._try_better(*self._returning, now)
        way = self._ways[self._at]
        if not way.is_open and (self._returning is None or self._is_tried):
            self._look_later()
            if not self._tasks:
                self._run(self._open_later(self._at))
        if self._returning is not None:
            return
        if self._at + 1 >= len(self._ways) or self._unanswered is None:
            return
        self._look_later()
        if self._has_failed(now):
            if self.answered() >= self._taken_at:
                self._distrust(now - self._taken_at)
            self._at += 1
            self._taken_at = now
            self._unanswered = None
            log.info("no answer by %s: packets go by %s too", way.name, self.in_use)
            self._run(self._open_later(self._at))

    def _slept(self, seconds: float) -> None:
        """The process did not run: that it took nothing in meanwhile means nothing, and what came waits to be read."""
        if self._unanswered is not None:
            self._unanswered += seconds
        if self._returning is not None:
            self._returning = self._returning[0] + seconds, self._returning[1]
        self._better_at += seconds

    def _try_better(self, when: float, index: int, now: float) -> None:
        """Look at a better way that has brought an answer; it is to be used alone from ``when`` on. What comes by the
        one that is to be left says nothing about it."""
        silent = now - self._better_at
        self._is_tried = self._is_tried and (now < when or silent > ASK_AFTER)
        if silent > SILENT_AFTER:
            self._returning = None
            if not self._is_tried:
                self._distrust(now - when)
        elif now - when >= LINGER:
            self._go_back(index)
            return
        elif silent > ASK_AFTER:
            self.ask()
        self._look_later()

    def _distrust(self, used: float) -> None:
        """A way that has worked, and that packets went by alone for so many seconds, has failed."""
        self._trial = 0.0 if used > MAX_TRIAL else min(max(LINGER, 2 * self._trial), MAX_TRIAL)

    def _has_failed(self, now: float) -> bool:
        """Whether what is unanswered is so for too long; asks around before it is."""
        if self._unanswered is None:
            return False
        deaf = now - self._unanswered
        transport = self._ways[self._at].transport
        if isinstance(transport, MayBeDown) and not transport.is_up:
            return deaf > min(DOWN_AFTER, self._after)
        if self.answered() < self._taken_at or self.answered() == float("-inf"):  # it has never worked
            return deaf > self._after
        silent = now - max(self._unanswered, self.heard())
        if silent > min(SILENT_AFTER, self._after) or deaf > min(DEAF_AFTER, self._after):
            return True
        if silent > ASK_AFTER or deaf > DEAF_ASK_AFTER:
            self.ask()
        return False

    def _go_back(self, index: int) -> None:
        left, self._at, self._returning, self._unanswered = self._at, index, None, None
        self._taken_at = self.answered()
        log.info("%s brings answers again: %s is left", self.in_use, self._ways[left].name)
        for way in self._ways[index + 1 :]:
            if way.is_open:
                way.is_open = False
                self._run(way.transport.close())

    async def _open_later(self, index: int) -> None:
        way = self._ways[index]
        try:
            await self._open(index)
        except OSError as error:
            if not way.is_refused:
                log.warning("%s cannot be opened: %s", way.name, error.strerror or error)
            way.is_refused = True
        else:
            self.on_another()  # not before: what is sent then is to go by it

    def _run(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
