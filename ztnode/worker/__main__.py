"""A stack worker process; the node starts it as ``python -m ztnode.worker`` and hands it its descriptors."""

from __future__ import annotations

import contextlib
import gc
import os
import signal
import socket
import sys
import time
from typing import Final, NoReturn

from ztnode.descriptors import raise_descriptor_limit
from ztnode.netstack import Stack, StackConfig, TcpConfig
from ztnode.ring import Ring
from ztnode.worker import protocol
from ztnode.worker.watchdog import Watchdog
from ztnode.worker.worker import ChannelClosed, Worker

USAGE: Final = "python -m ztnode.worker CONTROL-FD RING-IN-FDS RING-OUT-FDS"


def main() -> NoReturn:
    """Run until the node ends it: exit code 0 in good order, 1 with the reason told on the control channel."""
    # Ctrl-C, a closed terminal and a service manager reach the whole process group; they are for the node, which then
    # ends its workers.
    for ignored in (signal.SIGINT, signal.SIGHUP, signal.SIGTERM):
        signal.signal(ignored, signal.SIG_IGN)
    try:
        control_fd, ring_in, ring_out = sys.argv[1:]
        control = socket.socket(fileno=int(control_fd))
        rings = [Ring.attach([int(fd) for fd in fds.split(",")]) for fds in (ring_in, ring_out)]
    except (ValueError, OSError):
        sys.exit(f"This is started by `ztnode serve`: {USAGE}")
    control.set_inheritable(False)
    raise_descriptor_limit()
    begin = _first_message(control)
    if not isinstance(begin, protocol.Begin):
        os._exit(0)  # the node ended before it needed a worker, which may use nothing of its state then
    _name_process(f"ztnode-worker{begin.index}")
    ports = begin.first_port, begin.last_port
    # All workers are one host on the link: one of them alone announces its addresses.
    config = StackConfig(
        tcp=TcpConfig(congestion=begin.congestion, ephemeral_ports=ports),
        udp_ports=ports,
        announce=begin.index == 0,
        siblings=begin.workers > 1,
    )
    try:
        _run(control, rings[0], rings[1], begin.path, config)
    except ChannelClosed:
        # The node is gone, and with it everything that this process is for. Clients are reset by the kernel.
        with contextlib.suppress(OSError):
            os.unlink(begin.path)  # noqa: PTH108 - pathlib costs start-up time
        os._exit(0)
    except Exception as error:
        _tell(control, error)
        os._exit(1)
    sys.exit(0)


def _first_message(control: socket.socket) -> protocol.Message | None:
    """Waited for, and no byte of the second one read; None: the node is gone."""
    stream = protocol.MessageStream()
    wanted = protocol.LENGTH_BYTES
    while True:
        data = control.recv(wanted, socket.MSG_WAITALL)
        if len(data) < wanted:
            return None
        if messages := stream.feed(data):
            return messages[0]
        wanted = int.from_bytes(data, "big")


def _run(control: socket.socket, ring_in: Ring, ring_out: Ring, path: str, config: StackConfig) -> None:
    now = time.monotonic()
    stack = Stack(random=os.urandom, now=now, config=config)
    worker = Worker(control=control, ring_in=ring_in, ring_out=ring_out, stack=stack, path=path, now=now)
    # What exists by now lives as long as the process: keep the garbage collector from looking at it in every run.
    gc.collect()
    gc.freeze()
    Watchdog(control, path, lambda: worker.round_number).start()
    worker.announce()
    worker.run()


def _name_process(name: str) -> None:
    with contextlib.suppress(OSError), open("/proc/self/comm", "w") as file:  # noqa: PTH123 - see above
        file.write(name)


def _tell(control: socket.socket, error: Exception) -> None:
    """The reason in one line, with the place of a mistake of ours."""
    place = error.__traceback__
    while place is not None and place.tb_next is not None:
        place = place.tb_next
    where = f" ({place.tb_frame.f_code.co_filename}:{place.tb_lineno})" if place is not None else ""
    reason = f"{type(error).__name__}: {error}{where}"[: protocol.MAX_TEXT]
    with contextlib.suppress(OSError):
        control.setblocking(True)
        control.settimeout(0.2)
        control.sendall(protocol.build(protocol.Dying(reason)))


if __name__ == "__main__":
    main()
