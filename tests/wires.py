"""A bad wire between two network namespaces, in user space: many kernels come without netem.

    python -m tests.wires NAMESPACE DEVICE NAMESPACE DEVICE [--loss P] [--delay S] [--jitter S] [--duplicate P]
                          [--corrupt P] [--reorder P] [--seed N]

Makes a TAP device in each of two named namespaces and carries Ethernet frames between them, each way with the same
faults, all from one seeded generator. Prints READY when both devices exist; they vanish with the process, which ends
with its standard input or by SIGTERM and then prints what it counted as JSON. Needs root.
"""

from __future__ import annotations

import argparse
import contextlib
import ctypes
import fcntl
import json
import os
import random
import select
import signal
import struct
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

from tests.fault_injector import Faults, FaultyLink

REPOSITORY = Path(__file__).parents[1]
QUEUE = 10000
"""Frames that a device holds for us, so that no burst is lost but by the generator's will."""
BATCH = 64
SLACK = 0.0002
"""Seconds that a frame may be late, so that frames that come one by one do not cost a wake-up each."""

_CLONE_NEWNET = 0x40000000
_TUNSETIFF = 0x400454CA
_IFF_TAP = 0x0002
_IFF_NO_PI = 0x1000


@contextlib.contextmanager
def wire(
    one: tuple[str, str], other: tuple[str, str], faults: Faults, seed: int = 1
) -> Iterator[subprocess.Popen[str]]:
    """A wire between two (namespace, device), in a process of its own, for as long as the block lasts."""
    options = [
        f"--{name}={getattr(faults, name)}" for name in ("loss", "delay", "jitter", "duplicate", "corrupt", "reorder")
    ]
    command = [sys.executable, "-m", "tests.wires", *one, *other, *options, f"--seed={seed}"]
    process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, cwd=REPOSITORY)
    assert process.stdin is not None and process.stdout is not None
    try:
        if process.stdout.readline() != "READY\n":
            raise OSError(f"no wire between {one} and {other}")
        yield process
    finally:
        process.stdin.close()
        process.wait(10)
        process.stdout.close()


def open_tap(namespace: str, device: str) -> int:
    """The descriptor of a new TAP device in a named namespace. Raises OSError."""
    results: list[int | OSError] = []

    def body() -> None:
        try:
            results.append(_open_here(namespace, device))
        except OSError as error:
            results.append(error)

    # A namespace is a property of the thread: one that ends afterwards leaves ours alone.
    thread = threading.Thread(target=body)
    thread.start()
    thread.join()
    if isinstance(results[0], OSError):
        raise results[0]
    return results[0]


def _open_here(namespace: str, device: str) -> int:
    libc = ctypes.CDLL(None, use_errno=True)
    place = os.open(f"/run/netns/{namespace}", os.O_RDONLY)
    try:
        if libc.setns(place, _CLONE_NEWNET):
            number = ctypes.get_errno()
            raise OSError(number, os.strerror(number))
    finally:
        os.close(place)
    fd = os.open("/dev/net/tun", os.O_RDWR | os.O_NONBLOCK)
    fcntl.ioctl(fd, _TUNSETIFF, struct.pack("16sH22x", device.encode(), _IFF_TAP | _IFF_NO_PI))
    return fd


def carry(ends: tuple[int, int], links: tuple[FaultyLink, FaultyLink], until: int) -> None:
    """Carry frames between two TAP descriptors until ``until`` can be read."""
    poll = select.epoll()
    for fd in (*ends, until):
        poll.register(fd, select.EPOLLIN)
    ways = ((ends[0], links[0], ends[1]), (ends[1], links[1], ends[0]))
    ready: set[int] = set()
    while until not in ready:
        now = time.monotonic()
        for source, link, target in ways:
            if source in ready:
                link.push(_read(source), now)
            for frame in link.pull(now):
                with contextlib.suppress(OSError):  # the device is down: the frame is lost, as on a real wire
                    os.write(target, frame)
        due = [timer for link in links if (timer := link.next_timer()) is not None]
        timeout = max(SLACK, min(due) - time.monotonic()) if due else -1
        ready = {fd for fd, _ in poll.poll(timeout)}


def _read(fd: int) -> list[bytes]:
    frames: list[bytes] = []
    with contextlib.suppress(OSError):  # EAGAIN: no more; EIO: the device is down
        while len(frames) < BATCH:
            frames.append(os.read(fd, 65536))
    return frames


def _end_with_input() -> None:
    sys.stdin.read()
    os.kill(os.getpid(), signal.SIGTERM)


def main() -> None:
    """One wire."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("end", nargs=4, metavar="NAMESPACE DEVICE")
    for name in ("loss", "delay", "jitter", "duplicate", "corrupt", "reorder"):
        parser.add_argument(f"--{name}", type=float, default=0.0)
    parser.add_argument("--seed", type=int, default=1)
    options = vars(parser.parse_args())
    first, first_device, second, second_device = options.pop("end")
    generator, faults = random.Random(options.pop("seed")), Faults(**options)
    ends = (open_tap(first, first_device), open_tap(second, second_device))
    for namespace, device in ((first, first_device), (second, second_device)):
        command = ["ip", "-n", namespace, "link", "set", device, "txqueuelen", str(QUEUE), "up"]
        subprocess.run(command, check=True)
    links = (FaultyLink(faults, generator), FaultyLink(faults, generator))
    stop, stopped = os.pipe()
    signal.signal(signal.SIGTERM, lambda _signal, _frame: os.close(stopped))
    threading.Thread(target=_end_with_input, daemon=True).start()
    print("READY", flush=True)
    carry(ends, links, stop)
    with contextlib.suppress(BrokenPipeError):
        print(json.dumps([link.counters for link in links]), flush=True)


if __name__ == "__main__":
    main()
