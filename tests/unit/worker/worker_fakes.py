"""An overlay connection without an overlay: the half that its owner sees, with the other half in the test's hands."""

from __future__ import annotations

from typing import cast

from ztnode.netstack.tcp.connection import TcpConnection
from ztnode.netstack.tcp.send_memory import LEAST
from ztnode.worker.handoff_server import Answer
from ztnode.worker.moderation import Moderation
from ztnode.worker.poller import Poller
from ztnode.worker.splice import Splice
from ztnode.worker.tcp_pair import PairStock


class FakeDial:
    """A connection that a client asked for; the test calls ``answer``."""

    def __init__(self, request: bytes, answer: Answer) -> None:
        self.request = request
        self.answer = answer
        self.cancelled = False

    def on_ready(self) -> None:
        """Not yet."""

    def cancel(self) -> None:
        self.cancelled = True


class FakeConnection:
    """What ``Splice`` uses of a ``TcpConnection``."""

    def __init__(self, send_buffer: int = 1 << 20) -> None:
        self.error: OSError | None = None
        self.established = True
        self.owner: object = None
        self.local = ("10.0.0.1", 40000)
        self.remote = ("10.0.0.2", 80)
        self.sent = bytearray()
        self.reads = 0
        self.shut = self.closed_by_owner = self.aborted = False
        self._send_buffer = send_buffer
        self._unsent = 0
        self._received: list[bytes] = []
        self._fin = False

    @property
    def overlay(self) -> TcpConnection:
        """Itself, for what wants the real one."""
        return cast(TcpConnection, self)

    # What the test does
    def arrive(self, data: bytes) -> None:
        self._received.append(data)

    def arrive_fin(self) -> None:
        self._fin = True

    def acknowledge(self) -> None:
        self._unsent = 0

    # What the splice does
    @property
    def readable(self) -> int:
        return sum(map(len, self._received))

    @property
    def eof(self) -> bool:
        return self._fin and not self._received

    @property
    def brief(self) -> bool:
        return self.error is None and not self._fin

    def drained(self) -> bool:
        return not self._unsent and self._send_buffer >= LEAST

    @property
    def writable(self) -> int:
        return self._send_buffer - self._unsent

    def read(self, limit: int) -> list[memoryview]:
        views = []
        while limit and self._received:
            head = self._received.pop(0)
            if len(head) > limit:
                self._received.insert(0, head[limit:])
                head = head[:limit]
            limit -= len(head)
            self.reads += len(head)
            views.append(memoryview(head))
        return views

    def set_aside(self, size: int) -> None:
        self.aside = size

    def write(self, data: bytes) -> None:
        if self.shut:
            raise BrokenPipeError
        if self.error is not None:
            raise self.error
        self.sent += data
        self._unsent += len(data)

    def shutdown(self) -> None:
        self.shut = True

    def close(self) -> None:
        self.closed_by_owner = True

    def abort(self) -> None:
        self.aborted = True


class FakeHost:
    """The loop, turned by hand."""

    def __init__(self) -> None:
        self.poller = Poller()
        self.now = 100.0
        self.pairs = PairStock()
        self.counters = {"udp_bad_record": 0, "udp_unsendable": 0}
        self.moderation = Moderation()
        self.congested = False
        self.live: set[Splice] = set()
        self.draining: set[Splice] = set()

    def expect_data(self) -> None:
        """There will be much."""

    def splice_started(self, splice: Splice) -> None:
        self.live.add(splice)

    def splice_ended(self, splice: Splice) -> None:
        self.live.remove(splice)
        self.draining.discard(splice)

    def splice_draining(self, splice: Splice) -> None:
        self.draining.add(splice)

    def turn(self, rounds: int = 3) -> int:
        """Dispatch what is ready; how many events there were."""
        count = 0
        for _ in range(rounds):
            events = self.poller.wait(0.002)
            self.poller.dispatch(events)
            count += len(events)
        return count
