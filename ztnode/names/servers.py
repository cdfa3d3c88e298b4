"""Asking a network's name servers over the network: by UDP, each query from a port of its own, and by TCP what is too
long for that (RFC 7766)."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import ipaddress
import secrets
from collections.abc import Sequence
from typing import Final

from ztclient import records
from ztnode.names.answer import Answer, Kind
from ztnode.names.message import Truncated, Unusable, build, parse
from ztnode.node.api import NodeApi
from ztnode.node.handoffs import claim, claim_records

PORT: Final = 53
TRY_SECONDS: Final = 2.0
"""For one server to answer."""
ROUNDS: Final = 2
"""How often each server is asked."""


class Silent(OSError):
    """No server gave an answer that can be used."""


async def ask(node: NodeApi, nwid: int, servers: Sequence[str], name: str, kind: Kind) -> Answer:
    """What the first server that knows says. Raises Silent with one line for a person."""
    reasons: dict[str, str] = {}
    for _ in range(ROUNDS):
        for server in servers:
            try:
                async with asyncio.timeout(TRY_SECONDS):
                    return await _ask_one(node, nwid, server, name, kind)
            except TimeoutError:
                reasons[server] = "no answer"
            except Unusable as error:
                reasons[server] = str(error)
            except OSError as error:
                reasons[server] = error.strerror or str(error)
        # What a server refuses once it refuses again.
        servers = [server for server in servers if reasons[server] == "no answer"]
    told = "; ".join(f"{server}: {reason}" for server, reason in reasons.items())
    raise Silent(errno.EAGAIN, f"no name server could say what {name} is ({told})")


async def _ask_one(node: NodeApi, nwid: int, server: str, name: str, kind: Kind) -> Answer:
    query = build(name, kind, secrets.randbits(16))
    try:
        return await _by_udp(node, nwid, server, query)
    except Truncated:
        return await _by_tcp(node, nwid, server, query)


async def _by_udp(node: NodeApi, nwid: int, server: str, query: bytes) -> Answer:
    loop = asyncio.get_running_loop()
    with await claim_records(await node.open_udp(None, 0, nwid=nwid)) as relay:
        await loop.sock_sendall(relay, records.header(records.DATAGRAM, server, PORT) + query)
        while record := await loop.sock_recv(relay, records.MAX_RECORD):
            kind, ip, port, start = records.parse(record)
            if ipaddress.ip_address(ip) != ipaddress.ip_address(server) or port != PORT:
                continue
            if kind == records.FAILURE:
                raise OSError(records.error_number(record, start), "refused")
            if (answer := parse(record[start:], query)) is not None:
                return answer
    raise OSError(errno.ENETDOWN, "the network or its worker is gone")


async def _by_tcp(node: NodeApi, nwid: int, server: str, query: bytes) -> Answer:
    loop = asyncio.get_running_loop()
    with await claim(await node.dial(server, PORT, nwid=nwid, timeout=TRY_SECONDS)) as connected:
        await loop.sock_sendall(connected, len(query).to_bytes(2, "big") + query)
        received = bytearray()
        while len(received) < 2 or len(received) < 2 + int.from_bytes(received[:2], "big"):
            data = await loop.sock_recv(connected, 65537 - len(received))
            if not data:
                raise Unusable("the answer by TCP was cut short")
            received += data
    with contextlib.suppress(Truncated):
        if (answer := parse(bytes(received[2:]), query)) is not None:
            return answer
    raise Unusable("no answer to what was asked by TCP")
