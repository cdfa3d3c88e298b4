"""A process of its own around PyTCP, the other TCP in pure Python, over a TUN device that it makes.

    python -m tests.bench.pytcp_driver MTU       (in a network namespace of its own, PyTCP on the module path, as root)

Prints {"event": "ready"}, then obeys standard input, a JSON object a line; the peer is that of ``bench_netstack``:
    {"do": "download", "size": n}   -> {"event": "done", "bytes": n, "seconds": s}
    {"do": "upload", "size": n}     -> {"event": "done", "bytes": n, "seconds": s}
"""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import inspect
import json
import os
import struct
import subprocess
import sys
import time
from typing import Any

import pmd_pytcp.socket as pytcp
from pmd_net_addr import Ip4IfAddr
from pmd_pytcp import stack
from pmd_pytcp.lib.interface_layer import InterfaceLayer
from pmd_pytcp.socket import AddressFamily, SocketType

from tests.bench.bench_netstack import PORT
from tests.netns.tapharness import KERNEL4, OURS4

DEVICE = "tun0"
CHUNK = 1 << 16

_TUNSETIFF = 0x400454CA
_IFF_TUN = 0x0001  # with the four bytes of packet information, which PyTCP expects


async def result(value: Any) -> Any:
    """PyTCP's calls are coroutines in some releases and plain functions in others."""
    return await value if inspect.isawaitable(value) else value


def make_device(mtu: int) -> int:
    """The TUN device's descriptor; the kernel has KERNEL4 on it."""
    fd = os.open("/dev/net/tun", os.O_RDWR)
    fcntl.ioctl(fd, _TUNSETIFF, struct.pack("16sH22x", DEVICE.encode(), _IFF_TUN))
    for command in (
        ("addr", "add", f"{KERNEL4}/24", "dev", DEVICE),
        ("link", "set", DEVICE, "mtu", str(mtu), "txqueuelen", "10000", "up"),
    ):
        subprocess.run(["ip", *command], check=True)
    return fd


async def opened(order: bytes, amount: int) -> Any:
    """A connection on which the peer knows what to do."""
    sock = pytcp.socket(AddressFamily.INET4, SocketType.STREAM)
    await result(sock.connect((KERNEL4, PORT)))
    await result(sock.send(order + amount.to_bytes(8, "big")))
    return sock


async def download(size: int) -> int:
    """Bytes that came."""
    sock = await opened(b"G", size)
    received = 0
    while received < size and (data := await result(sock.recv(CHUNK))):
        received += len(data)
    await result(sock.close())
    return received


async def upload(size: int) -> int:
    """Bytes that the kernel's reader has when it says so."""
    sock = await opened(b"S", size)
    block, left = bytes(CHUNK), size
    while left > 0:
        left -= await result(sock.send(block[:left] if left < CHUNK else block))
    answer = await result(sock.recv(4))
    await result(sock.close())
    return size if answer == b"done" else 0


async def main() -> None:
    """Until the end of standard input."""
    mtu = int(sys.argv[1])
    # What PyTCP prints is no event of ours.
    events = os.fdopen(os.dup(1), "w", buffering=1)
    os.dup2(2, 1)
    with contextlib.redirect_stdout(sys.stderr):
        fd = make_device(mtu)
        await result(stack.init())
        await result(
            stack.add_interface(
                fd=fd,
                layer=InterfaceLayer.L3,
                mtu=mtu,
                interface_name=DEVICE,
                ip4_host=Ip4IfAddr(f"{OURS4}/24"),
                ip4_dhcp=False,
                ip6_support=False,
            )
        )
        await result(stack.start())
        await asyncio.sleep(1)
        events.write(json.dumps({"event": "ready"}) + "\n")
        while line := await asyncio.to_thread(sys.stdin.readline):
            command = json.loads(line)
            work = download if command["do"] == "download" else upload
            started = time.perf_counter()
            done = await work(command["size"])
            events.write(json.dumps({"event": "done", "bytes": done, "seconds": time.perf_counter() - started}) + "\n")
    os._exit(0)


if __name__ == "__main__":
    asyncio.run(main())
