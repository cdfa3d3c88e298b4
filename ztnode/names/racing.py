"""From a name to a connection: its addresses are tried so that a family that does not work holds up nobody (RFC 8305).

The name of a host with one address costs nothing beside asking for it.
"""

from __future__ import annotations

import asyncio
import itertools
import socket
from collections.abc import Iterable, Sequence
from typing import Final

from ztnode.names.resolver import Found, Resolver
from ztnode.node.api import DEFAULT_STREAM, DialError, Handoff, NodeApi, StreamOptions
from ztnode.node.handoffs import drop

ATTEMPT_DELAY: Final = 0.25
"""Seconds after which the next address is tried beside those before (RFC 8305, section 8)."""
MAX_ADDRESSES: Final = 8
PATIENCE: Final = 10.0
"""Seconds for a name to be found where nobody says how long."""


async def within(
    timeout: float, resolver: Resolver, name: str, nwid: int | None = None, family: int = 0
) -> list[Found] | None:
    """As ``Resolver.resolve``, for ``timeout`` seconds at most (socket.gaierror, EAI_AGAIN)."""
    try:
        async with asyncio.timeout(timeout):
            return await resolver.resolve(name, nwid, family)
    except TimeoutError:
        raise socket.gaierror(socket.EAI_AGAIN, f"no name server could say in time what {name} is") from None


async def first(resolver: Resolver, name: str, nwid: int | None = None) -> Found:
    """The preferred address of a name of the overlay. Raises socket.gaierror, ValueError."""
    return _ours(name, await within(PATIENCE, resolver, name, nwid))[0]


def _ours(name: str, found: list[Found] | None) -> list[Found]:
    if found is None:
        raise socket.gaierror(socket.EAI_NONAME, f"{name} is no name of the overlay")
    return found


async def dial(
    node: NodeApi,
    resolver: Resolver,
    name: str,
    port: int,
    *,
    nwid: int | None = None,
    timeout: float = 30.0,
    options: StreamOptions = DEFAULT_STREAM,
) -> Handoff:
    """A connection to the first address of a name that answers, within ``timeout`` seconds, the asking included.
    Raises DialError, socket.gaierror (EAI_NONAME for a name that is not the overlay's), ValueError."""
    loop = asyncio.get_running_loop()
    deadline = loop.time() + timeout
    found = _ours(name, await within(timeout, resolver, name, nwid))
    left = max(deadline - loop.time(), 0.001)
    if len(found) == 1:
        return await node.dial(found[0].ip, port, nwid=found[0].nwid, timeout=left, options=options)
    return await _race(node, _in_turn(found)[:MAX_ADDRESSES], port, left, options)


def _in_turn(found: Sequence[Found]) -> list[Found]:
    """The families by turns, as they come: the family of the first begins (RFC 8305, section 4)."""
    first = ":" in found[0].ip
    ours = [each for each in found if (":" in each.ip) == first]
    others = [each for each in found if (":" in each.ip) != first]
    return [each for pair in itertools.zip_longest(ours, others) for each in pair if each is not None]


async def _race(node: NodeApi, found: Sequence[Found], port: int, timeout: float, options: StreamOptions) -> Handoff:
    waiting = list(found)
    tasks: dict[asyncio.Task[Handoff], Found] = {}
    failures: dict[Found, Exception] = {}
    winner: asyncio.Task[Handoff] | None = None
    loop = asyncio.get_running_loop()
    deadline = loop.time() + timeout
    try:
        while winner is None and (waiting or len(failures) < len(tasks)):
            if waiting:
                one = waiting.pop(0)
                left = max(deadline - loop.time(), 0.001)
                tasks[asyncio.ensure_future(node.dial(one.ip, port, nwid=one.nwid, timeout=left, options=options))] = (
                    one
                )
            running = [task for task, one in tasks.items() if one not in failures]
            done, _ = await asyncio.wait(
                running, timeout=ATTEMPT_DELAY if waiting else None, return_when=asyncio.FIRST_COMPLETED
            )
            for task in done:
                if (error := task.exception()) is None:
                    winner = winner or task
                elif isinstance(error, Exception):
                    failures[tasks[task]] = error
    finally:
        await _end(task for task in tasks if task is not winner)
    if winner is not None:
        return winner.result()
    raise next((failures[one] for one in found), DialError(0, "no address"))


async def _end(losers: Iterable[asyncio.Task[Handoff]]) -> None:
    """What came too late is reset rather than left to expire."""
    for task in list(losers):
        task.cancel()
        outcome = (await asyncio.gather(task, return_exceptions=True))[0]
        if isinstance(outcome, Handoff):
            await drop(outcome)
