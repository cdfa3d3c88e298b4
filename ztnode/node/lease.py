"""Who may be the node that a shared store keeps: one at a time, though hosts die, freeze and lose sight of the store.

Two keys. ``lease/holder`` says who holds the lease; it changes when the lease changes hands. ``lease/beat`` counts up
for as long as the holder lives. Nobody's wall clock matters: who waits takes the lease when it has seen both unchanged
for ``TAKEN_AFTER`` by its own clock (as client-go's leader election does), and the holder is silent ``HELD_FOR`` after
it asked the store for the last renewal that was granted, which is earlier whatever the network does. A holder that
froze and wakes up later finds its time over before it sends anything; what it still wants to write is refused by the
store's fence.

Where the store is down for everybody, nobody else can take the lease, so the holder goes on. It knows that only from a
refused connection, or where a store of its own host does not answer; a store that is merely out of reach may well serve
others. Who waits begins to count anew after each call that failed.
"""

from __future__ import annotations

import contextlib
import json
import logging
import os
import socket
import sys
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from ipaddress import ip_address
from pathlib import Path
from typing import Any, Final

from ztnode.hookspecs import LeaseLost, SharedStore

log = logging.getLogger(__name__)

HOLDER: Final = "lease/holder"
BEAT: Final = "lease/beat"
RENEW_EVERY: Final = 1.5
HELD_FOR: Final = 6.0
TAKEN_AFTER: Final = 8.0
"""Seconds, see above. With ``POLL_EVERY`` and the start of a node, a holder that died is followed within 12."""
RETRY_EVERY: Final = 0.25
"""Seconds until a renewal that failed is tried again: with what one may take, twice within ``HELD_FOR``."""
POLL_EVERY: Final = 1.0
PROBE_TIMEOUT: Final = 0.5
MAX_RECORD_BYTES: Final = 4096
LATEST: Final = 253_402_300_799
"""Unix seconds that can be shown, the last of the year 9999: a clock may say anything."""
_TELL_ERRORS: Final[dict[int, tuple[int, int]]] = {
    socket.AF_INET: (socket.IPPROTO_IP, 11),  # IP_RECVERR of linux/in.h
    socket.AF_INET6: (socket.IPPROTO_IPV6, 25),  # IPV6_RECVERR of linux/in6.h
}


class LeaseHeld(OSError):
    """Another node holds the lease, and this one was told not to wait."""


def uptime() -> float:
    """Seconds since the start of the host, those in which it slept included."""
    if hasattr(time, "CLOCK_BOOTTIME"):
        return time.clock_gettime(time.CLOCK_BOOTTIME)
    return time.monotonic()


@dataclass(frozen=True, slots=True)
class Process:
    """A process, named so that those on the same host can see whether it is still there."""

    host: str
    pid: int
    space: str
    """The running kernel and its process numbers: two that have the same can see each other. Empty: unknown."""
    started: str
    """When it started, in the kernel's words."""

    @classmethod
    def current(cls) -> Process:
        """This one."""
        pid = os.getpid()
        return cls(socket.gethostname(), pid, _space(), _started(pid) or "")

    def is_gone(self) -> bool:
        """Whether it certainly is not there any more; False where that cannot be known."""
        if not (self.space and self.started) or self.space != _space():
            return False
        with contextlib.suppress(PermissionError):  # another user's, which /proc may hide and this does not
            try:
                os.kill(self.pid, 0)
            except ProcessLookupError:
                return True
        started = _started(self.pid)
        return started is not None and started != self.started


@dataclass(frozen=True, slots=True)
class Holder:
    """Who holds a lease, as it is written in the store."""

    token: str
    """Random, of one process: its own lease it knows again."""
    since: int
    """Unix seconds."""
    process: Process

    def build(self) -> bytes:
        """As JSON."""
        process = self.process
        return json.dumps(
            {
                "token": self.token,
                "since": self.since,
                "host": process.host,
                "pid": process.pid,
                "space": process.space,
                "started": process.started,
            }
        ).encode()

    @classmethod
    def parse(cls, data: bytes) -> Holder:
        """Raises ValueError."""
        try:
            if len(data) > MAX_RECORD_BYTES:
                raise ValueError
            record = json.loads(data)
            words = [record[key] for key in ("token", "host", "space", "started")]
            if not all(isinstance(word, str) and len(word) < 256 and word.isprintable() for word in words):
                raise ValueError
            token, host, space, started = words
            since, pid = int(record["since"]), int(record["pid"])
            datetime.fromtimestamp(since, UTC)
            if not 0 < pid < 1 << 31:
                raise ValueError
            return cls(token, since, Process(host, pid, space, started))
        except (ValueError, KeyError, TypeError, OverflowError, OSError, RecursionError):
            raise ValueError("not the record of a lease") from None

    def __str__(self) -> str:
        since = datetime.fromtimestamp(self.since, UTC).strftime("%Y-%m-%d %H:%M:%S UTC")
        return f"process {self.process.pid} on {self.process.host} since {since}"


class Lease:
    """One store's lease. ``try_take`` until it is ours, then ``keep`` until ``release``; ``is_held`` may be asked at
    any time by any thread."""

    def __init__(
        self,
        store: SharedStore,
        *,
        token: str,
        clock: Callable[[], float] = uptime,
        wall: Callable[[], float] = time.time,
    ) -> None:
        """``store`` is the lease's alone. ``token``: this process's."""
        self._store = store
        self._token = token
        self._clock = clock
        self._wall = wall
        self._seen: tuple[bytes, bytes | None] | None = None
        self._since = 0.0
        self._record = b""
        self._beats = 0
        self._until = float("-inf")
        self._over = threading.Event()
        self._answers = True
        """Whether the last renewal reached the store."""
        self._thread: threading.Thread | None = None
        self._forgotten: Callable[[], None] = lambda: None
        self._out: Callable[[Exception], None] = lambda _error: None
        self._why_lost = ""
        self._tell_lost: Callable[[str], None] = lambda _why: None

    # Waiting

    def try_take(self) -> Holder | None:
        """None: the lease is ours from now on; else who holds it. Raises OSError; one that names a key if what stands
        there is no lease: nothing is overwritten then."""
        now = self._clock()
        try:
            held = self._store.read(HOLDER)
            beat = self._store.read(BEAT)
        except OSError:
            self._seen = None  # others may be out too: they get as long again from when it is back
            raise
        mine = Holder(self._token, max(0, min(int(self._wall()), LATEST)), Process.current())
        if held is None:
            if self._take(None, mine, now):
                return None
            held = self._store.read(HOLDER)  # somebody was quicker
            return mine if held is None else _holder(held)
        holder = _holder(held)
        if (held, beat) != self._seen:
            self._seen, self._since = (held, beat), now
        ours = holder.token == self._token and holder.process.pid == mine.process.pid
        if ours or holder.process.is_gone() or now - self._since >= TAKEN_AFTER:
            return None if self._take(held, mine, now) else holder
        return holder

    def _take(self, old: bytes | None, mine: Holder, now: float) -> bool:
        record = mine.build()
        try:
            if not self._store.swap(HOLDER, old, record):
                return False
        except (ConnectionError, TimeoutError):
            raise
        except OSError as error:  # full, say: as one that is out it may be well again, and who waits must be there then
            raise ConnectionError(f"it takes no lease: {error}") from None
        self._record = record
        self.fence(self._store)
        self._until = now + HELD_FOR
        return True

    def fence(self, store: SharedStore) -> None:
        """Have another object for the same store refuse writes when the lease, which is ours now, is lost."""
        store.fence(HOLDER, self._record)

    # Holding

    def is_held(self) -> bool:
        """Whether it is certain that nobody else has it."""
        return self._clock() < self._until

    def when_lost(self, tell: Callable[[str], None]) -> None:
        """Have ``tell`` called with one line on why, on another thread or at once, when the lease is lost for good."""
        self._tell_lost = tell
        if self._why_lost:
            tell(self._why_lost)

    def keep(self, forgotten: Callable[[], None], out: Callable[[Exception], None]) -> None:
        """Renew it from now on, on a thread. ``forgotten`` is called there when the store has lost what it had, ``out``
        whenever it does not answer."""
        self._forgotten = forgotten
        self._out = out
        self._thread = threading.Thread(target=self._renew_on, name="ztnode-lease", daemon=True)
        self._thread.start()

    def _renew_on(self) -> None:
        while not self._over.wait(RENEW_EVERY if self._answers else RETRY_EVERY):
            if not self.renew():
                return

    def renew(self) -> bool:
        """Once; False: it is lost for good."""
        asked = self._clock()
        try:
            self._beats += 1
            self._store.write(BEAT, str(self._beats).encode())
            self._answers = True
        except LeaseLost:
            if not self._take_again():
                return False
        except Exception as error:  # a plugin's own fault must not end this thread and leave nobody to say so
            self._answers = False
            asked = self._clock()  # it was down until this moment
            if isinstance(error, ConnectionError | TimeoutError):
                self._out(error)
            if not down_for_everybody(error, self._store.endpoints()):
                if self._clock() < self._until:
                    return True
                return self._lost(f"the store could not be reached for {HELD_FOR:g} s ({error})")
            if self._clock() >= self._until:
                return self._lost("this process stood still, and the store does not answer")
        # A beat that the fence let pass proves that nobody has taken the lease, however late it came.
        self._until = asked + HELD_FOR
        return True

    def _take_again(self) -> bool:
        """A server that lost what it had knows nothing of our lease either; who took it is somebody else."""
        try:
            now_held = self._store.read(HOLDER)
            if now_held is None and self._clock() < self._until and self._store.swap(HOLDER, None, self._record):
                self._forgotten()
                return True
        except OSError:
            return self._clock() < self._until or self._lost("the store could not be reached")
        try:
            return self._lost(f"taken by {Holder.parse(now_held or b'')}")
        except ValueError:
            return self._lost("taken by another node")

    def _lost(self, why: str) -> bool:
        self._until = float("-inf")
        self._why_lost = why
        self._tell_lost(why)
        return False

    def release(self) -> None:
        """Let others have it at once, if it is still ours. Raises nothing."""
        self._over.set()
        if self._thread is not None:
            self._thread.join()
        if self.is_held() and self._answers:
            try:
                self._store.swap(HOLDER, self._record, None)
            except OSError as error:
                log.warning("the store's lease could not be given back (%s): others wait for its end", error)
        self._until = float("-inf")


def down_for_everybody(error: Exception, endpoints: Sequence[tuple[str, int] | str]) -> bool:
    """Whether a store that just failed with ``error`` certainly serves nobody: it said so, or nothing listens at any of
    its endpoints, or one of this very host does not answer, with no network between to blame."""
    if isinstance(error, ConnectionRefusedError):
        return True
    if not isinstance(error, ConnectionError | TimeoutError) or not endpoints:
        return False
    return all(_is_down(endpoint, silent=isinstance(error, TimeoutError)) for endpoint in endpoints)


def _is_down(endpoint: tuple[str, int] | str, *, silent: bool) -> bool:
    if isinstance(endpoint, str):
        return _refuses(socket.AF_UNIX, endpoint) or silent
    try:
        found = socket.getaddrinfo(*endpoint, type=socket.SOCK_STREAM)
    except OSError:
        return False
    # A name may stand for several servers, each of which could serve others.
    return bool(found) and all(
        _refuses(family, address) or (silent and ip_address(address[0]).is_loopback) for family, *_, address in found
    )


def _refuses(family: int, address: Any) -> bool:
    with contextlib.suppress(OSError), socket.socket(family) as probe:
        if sys.platform == "linux" and family != socket.AF_UNIX:
            level, option = _TELL_ERRORS[family]
            probe.setsockopt(level, option, 1)
        probe.settimeout(PROBE_TIMEOUT)
        try:
            probe.connect(address)
        except FileNotFoundError:
            return True
        except ConnectionRefusedError:
            return not _is_walled_off(probe)
    return False


def _is_walled_off(probe: socket.socket) -> bool:
    """Whether a connection was refused by an ICMP message: that comes from a packet filter, and others may pass it.
    Where nothing listens, the server's host says so by TCP."""
    if sys.platform != "linux" or probe.family == socket.AF_UNIX:
        return False
    probe.setblocking(False)
    try:
        probe.recvmsg(1024, 1024, socket.MSG_ERRQUEUE)
    except OSError:
        return False
    return True


def _holder(record: bytes) -> Holder:
    try:
        return Holder.parse(record)
    except ValueError as error:
        raise OSError(f"{HOLDER} in the store is damaged ({error}): remove it if no node uses the store") from None


def _space() -> str:
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
        return f"{boot} {Path('/proc/self/ns/pid').readlink()}"
    except OSError:
        return ""


def _started(pid: int) -> str | None:
    """Field 22 of /proc/PID/stat (proc_pid_stat(5)); empty for a process that ended, None where that is not shown."""
    try:
        state, *rest = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except (OSError, ValueError):
        return None
    return "" if state in "ZX" else rest[18]
