"""A TAP device in a network namespace of its own, with the Linux kernel's stack on one side and ours on the other.

Needs root. The namespaces have no name and vanish with the last file descriptor, whatever becomes of the test.
"""

from __future__ import annotations

import contextlib
import ctypes
import fcntl
import functools
import os
import select
import shutil
import struct
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TypeVar

from tests.fault_injector import FaultInjector, Faults, FrameHost, Generator
from ztnode.netstack.config import PortConfig, StackConfig
from ztnode.netstack.frame import Frame
from ztnode.netstack.stack import Stack
from ztnode.wire import pcapng

Result = TypeVar("Result")

_CLONE_NEWNET = 0x40000000
_TUNSETIFF = 0x400454CA
_IFF_TAP = 0x0002
_IFF_NO_PI = 0x1000

OUR_MAC = 0x02AABBCC0001
KERNEL_MAC = "02:aa:bb:cc:00:02"
OURS4, KERNEL4, NOBODY4 = "10.77.0.1", "10.77.0.2", "10.77.0.99"
OURS6, KERNEL6, NOBODY6 = "fd77::1", "fd77::2", "fd77::99"
OURS, KERNEL, NOBODY = {4: OURS4, 6: OURS6}, {4: KERNEL4, 6: KERNEL6}, {4: NOBODY4, 6: NOBODY6}


@functools.cache
def unavailable() -> str | None:
    """Why these tests cannot run here, or None."""
    if sys.platform != "linux" or os.geteuid() != 0:
        return "needs root on Linux, for network namespaces and a TAP device"
    for program in ("ip", "nsenter"):
        if shutil.which(program) is None:
            return f"needs the program {program}"
    try:  # a container's root may lack the capability, or the kernel the device
        namespace = Namespace()
        try:
            Tap(namespace, "tap0", 1500).close()
        finally:
            namespace.close()
    except (OSError, subprocess.CalledProcessError) as error:
        return f"no TAP device in a network namespace of its own: {error}"
    return None


def _libc(name: str, *arguments: int) -> None:
    libc = ctypes.CDLL(None, use_errno=True)
    if getattr(libc, name)(*arguments):
        number = ctypes.get_errno()
        raise OSError(number, f"{name}: {os.strerror(number)}")


class Namespace:
    """A network namespace without a name."""

    def __init__(self) -> None:
        self.fd = -1
        self._in_thread(self._create)

    def _create(self) -> None:
        _libc("unshare", _CLONE_NEWNET)
        self.fd = os.open("/proc/thread-self/ns/net", os.O_RDONLY)

    @staticmethod
    def _in_thread(function: Callable[[], Result]) -> Result:
        results: list[Result] = []
        errors: list[BaseException] = []

        def body() -> None:
            try:
                results.append(function())
            except BaseException as error:
                errors.append(error)

        # A namespace is a property of the thread: one that ends afterwards leaves the test's own alone.
        thread = threading.Thread(target=body)
        thread.start()
        thread.join()
        if errors:
            raise errors[0]
        return results[0]

    def run(self, function: Callable[[], Result]) -> Result:
        """Call in the namespace. Sockets made there stay in it."""

        def body() -> Result:
            _libc("setns", self.fd, _CLONE_NEWNET)
            return function()

        return self._in_thread(body)

    def ip(self, *arguments: str) -> str:
        """Run ``ip`` in the namespace."""
        command = ["nsenter", f"--net=/proc/{os.getpid()}/fd/{self.fd}", "ip", *arguments]
        return subprocess.run(command, check=True, capture_output=True, text=True).stdout

    def sysctl(self, name: str, value: str) -> None:
        """Set a network sysctl: ``ipv4.tcp_sack``."""
        path = Path("/proc/sys/net") / name.replace(".", "/")
        self.run(lambda: path.write_text(value))

    def close(self) -> None:
        os.close(self.fd)


class Tap:
    """A TAP device whose fd is ours."""

    def __init__(self, namespace: Namespace, name: str, mtu: int) -> None:
        self.fd = namespace.run(lambda: self._open(name))
        namespace.sysctl(f"ipv6.conf.{name}.accept_dad", "0")
        namespace.ip("link", "set", name, "address", KERNEL_MAC, "mtu", str(mtu), "txqueuelen", "10000", "up")

    @staticmethod
    def _open(name: str) -> int:
        fd = os.open("/dev/net/tun", os.O_RDWR | os.O_NONBLOCK)
        fcntl.ioctl(fd, _TUNSETIFF, struct.pack("16sH22x", name.encode(), _IFF_TAP | _IFF_NO_PI))
        return fd

    def read(self, limit: int = 64) -> list[memoryview]:
        """Frames that wait, at most ``limit``."""
        frames: list[memoryview] = []
        with contextlib.suppress(BlockingIOError):
            while len(frames) < limit:
                frames.append(memoryview(os.read(self.fd, 65536)))
        return frames

    def write(self, frame: Sequence[bytes | memoryview]) -> None:
        os.writev(self.fd, frame)

    def close(self) -> None:
        os.close(self.fd)


class Harness:
    """Our stack (port 0) on one end of the TAP, the kernel's on the other; driven by ``run``."""

    def __init__(
        self,
        *,
        mtu: int = 1500,
        faults: tuple[Faults, Faults] | None = None,
        generator: Generator | None = None,
        config: StackConfig | None = None,
        capture: Path | None = None,
    ) -> None:
        self.namespace = Namespace()
        self.namespace.ip("link", "set", "lo", "up")
        self.tap = Tap(self.namespace, "tap0", mtu)
        self.namespace.ip("address", "add", f"{KERNEL4}/24", "dev", "tap0")
        self.namespace.ip("-6", "address", "add", f"{KERNEL6}/64", "dev", "tap0", "nodad")
        self._await_addresses()
        # The kernel must not forget or limit what the tests are about.
        self.namespace.sysctl("ipv4.icmp_ratelimit", "0")
        self.namespace.sysctl("ipv6.icmp.ratelimit", "0")
        now = time.monotonic()
        self.stack = Stack(random=os.urandom, now=now, config=config)
        self.stack.add_port(0, PortConfig(OUR_MAC, mtu, (f"{OURS4}/24", f"{OURS6}/64")), now)
        self.host: FrameHost = self.stack
        if faults is not None and generator is not None:
            self.host = FaultInjector(self.stack, faults[0], faults[1], generator)
        self._capture = capture.open("wb") if capture is not None else None
        if self._capture is not None:
            self._capture.write(pcapng.file_start("ztnode tests", ["tap0"]))
        self.frames_in = self.frames_out = 0

    def _await_addresses(self) -> None:
        """The kernel completes IPv6 addresses in the background; what arrives before is lost."""
        deadline = time.monotonic() + 5
        while time.monotonic() < deadline:
            if KERNEL6 in self.namespace.ip("-6", "route", "show", "table", "local") and "tentative" not in (
                self.namespace.ip("-6", "address", "show", "dev", "tap0")
            ):
                return
            time.sleep(0.01)
        raise TimeoutError("the kernel does not complete its IPv6 addresses")

    def step(self, timeout: float = 0.05) -> None:
        """Send what the caller's last doing brought about, wait for frames or the next timer (at most ``timeout``
        seconds), and let the stack work. What it received is good until the next step."""
        self.flush()
        due = self.host.next_timer()
        if due is not None:
            timeout = min(timeout, max(0.0, due - time.monotonic()))
        select.select([self.tap.fd], [], [], timeout)
        frames = self.tap.read()
        now = time.monotonic()
        if frames:
            self.frames_in += len(frames)
            self._record(pcapng.INBOUND, [(frame,) for frame in frames])
            self.host.receive(0, frames, now)
        due = self.host.next_timer()
        if due is not None and due <= now:
            self.host.handle_timer(now)

    def flush(self) -> None:
        """Send what is to send."""
        out = self.host.to_send(time.monotonic())
        self.host.copy_unread()
        if out:
            self.frames_out += len(out)
            self._record(pcapng.OUTBOUND, [frame for _, frame in out])
            for _, frame in out:
                self.tap.write(frame)

    def _record(self, direction: int, frames: Sequence[Frame]) -> None:
        if self._capture is not None:
            stamp = time.time_ns()
            for frame in frames:
                self._capture.write(pcapng.enhanced_packet(0, stamp, frame, direction=direction))

    def run(self, until: Callable[[], object], timeout: float = 10.0, tick: float = 0.05) -> None:
        """Work until the condition, asked at least every ``tick`` seconds, holds. Raises TimeoutError."""
        deadline = time.monotonic() + timeout
        while not until():
            if time.monotonic() > deadline:
                raise TimeoutError(f"nothing came of it within {timeout} s; drops: {self.stack.counters}")
            self.step(tick)
        self.flush()

    def close(self) -> None:
        self.tap.close()
        self.namespace.close()
        if self._capture is not None:
            self._capture.close()


@contextlib.contextmanager
def harness(**options: object) -> Iterator[Harness]:
    """A harness for a ``with`` block; arguments as for ``Harness``."""
    instance = Harness(**options)  # type: ignore[arg-type]
    try:
        yield instance
    finally:
        instance.close()
