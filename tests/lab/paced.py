"""A download that is read slowly and notes when nothing came: ``python -m tests.lab.paced IP PORT SIZE RATE PATIENCE
[STATE]``, by the kernel or by the node with this state directory. Prints a JSON object with the bytes, the seconds, and
each gap of more than 0.3 s as (when, how long)."""

from __future__ import annotations

import json
import socket
import sys
import time
from typing import Final

import ztclient

GAP: Final = 0.3


def download(sock: socket.socket, size: int, rate: float) -> dict[str, object]:
    """Fetch; raises OSError when nothing comes for longer than the socket's time-out."""
    started = time.monotonic()
    sock.sendall(f"GET /{size} HTTP/1.1\r\nHost: lab\r\n\r\n".encode())
    head, total, gaps, stalled = b"", 0, [], 0.0
    while total < size:
        asked = time.monotonic()
        data = sock.recv(1 << 18)
        waited = time.monotonic() - asked
        if not data:
            raise OSError(f"the stream ended after {total} of {size} bytes")
        if waited > GAP:
            stalled += waited
            gaps.append((round(asked - started, 2), round(waited, 2)))
        if b"\r\n\r\n" not in head:
            head += data
            total = len(head.partition(b"\r\n\r\n")[2])
        else:
            total += len(data)
        if rate:
            time.sleep(max(0.0, min(0.2, total / rate - (time.monotonic() - started - stalled))))
    seconds = time.monotonic() - started
    stall = max((gap for _, gap in gaps), default=0.0)
    return {"bytes": total, "seconds": round(seconds, 3), "gaps": gaps, "stall": stall}


def main() -> None:
    """See the module."""
    ip, port, size, rate, patience, *state = sys.argv[1:]
    began = time.monotonic()
    where = (ip, int(port))
    if state:
        sock: socket.socket = ztclient.Node(state=state[0]).create_connection(where, float(patience))
    else:
        sock = socket.create_connection(where, float(patience))
    connect = time.monotonic() - began
    with sock:
        sock.settimeout(float(patience))
        print(json.dumps({"connect": round(connect, 3), **download(sock, int(size), float(rate))}), flush=True)


if __name__ == "__main__":
    main()
