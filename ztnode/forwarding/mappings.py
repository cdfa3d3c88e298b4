"""Mappings at work: each accepts on one side, dials on the other, and has the two joined."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import socket
from collections.abc import Sequence
from typing import TYPE_CHECKING, Final

from ztclient.loopback import reset_on_close
from ztnode.forwarding.datagram_mappings import UdpExposing, UdpForwarding
from ztnode.forwarding.local import Crowd, connect, listen, next_connection
from ztnode.forwarding.mapping import Expose, Forward, LocalAddress, TcpAddress
from ztnode.forwarding.overlay import Overlay
from ztnode.forwarding.reports import Report, Reports
from ztnode.forwarding.shares import Shares
from ztnode.node.api import Handoff
from ztnode.proxy.proxy_protocol import build_version_1, build_version_2

if TYPE_CHECKING:
    from ztnode.forwarding.reverse_proxy import ReverseProxy

DIAL_SECONDS: Final = 30.0
WAITING: Final = 256
"""Connections of one mapping that wait for their other half; more stay in the kernel's or the overlay's queue."""
CLIENTS: Final = 1024
"""Connections of one mapping whose requests this process reads; of one peer, a quarter of them."""
AGAIN_SECONDS: Final = 2.0
"""Before a node tries again to listen where it could not."""
PROXY_PROTOCOLS: Final = {1: build_version_1, 2: build_version_2}


class Mappings:
    """Any number of forwards and exposes. ``open`` once, then ``run`` until cancelled; ``close`` in any case."""

    def __init__(
        self,
        overlay: Overlay,
        forwards: Sequence[Forward],
        exposes: Sequence[Expose],
        report: Report,
        *,
        proxy_protocol: int | None = None,
        forwarded_for: bool = False,
        patient: bool = False,
    ) -> None:
        """``report`` gets one line for a person on what goes wrong, the same one not too often. ``proxy_protocol``:
        tell servers behind exposes who the peer is, by the PROXY protocol of this version (1 or 2).
        ``forwarded_for``: tell HTTP servers behind exposes, in each request. ``patient``: wait
        for overlay addresses that are not there yet, instead of raising."""
        reports = Reports(report)
        self._forwards = [
            UdpForwarding(overlay, mapping, reports.tell) if mapping.udp else _Forwarding(overlay, mapping, reports)
            for mapping in forwards
        ]
        self._exposes = [
            UdpExposing(overlay, mapping, reports.tell, patient=patient)
            if mapping.udp
            else _Exposing(overlay, mapping, reports, proxy_protocol, forwarded_for, patient=patient)
            for mapping in exposes
        ]

    async def open(self) -> list[str]:
        """Listen everywhere; a line on each mapping. Raises OSError with one line for a person."""
        lines = [forwarding.open() for forwarding in self._forwards]
        for exposing in self._exposes:
            lines.append(await exposing.open())
        return lines

    async def run(self) -> None:
        """Carry connections until cancelled. Raises OSError when one of the mappings cannot go on."""
        running = [*(each.run() for each in self._forwards), *(each.run() for each in self._exposes)]
        tasks = [asyncio.create_task(each) for each in running]
        try:
            done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_EXCEPTION)
            for task in done:
                task.result()
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    async def close(self) -> None:
        """Listen nowhere any more. Connections that stand go on."""
        for forwarding in self._forwards:
            forwarding.close()
        for exposing in self._exposes:
            if isinstance(exposing, UdpExposing):
                exposing.close()
            else:
                await exposing.close()


class _Forwarding:
    def __init__(self, overlay: Overlay, mapping: Forward, reports: Reports) -> None:
        self._overlay = overlay
        self._mapping = mapping
        self._reports = reports
        self._listener: socket.socket | None = None

    def open(self) -> str:
        local: LocalAddress = self._mapping.local
        self._listener = listen(local)
        if isinstance(local, TcpAddress):
            local = TcpAddress(*self._listener.getsockname()[:2])
        return f"forwarding {local} to {self._mapping.remote}"

    def close(self) -> None:
        if self._listener is not None:
            self._listener.close()

    async def run(self) -> None:
        listener = self._listener
        assert listener is not None
        async with Crowd(WAITING) as crowd:
            while True:
                await crowd.take(lambda: next_connection(listener), self._carry)

    async def _carry(self, near: socket.socket) -> None:
        remote = self._mapping.remote
        with near:
            try:
                await self._overlay.connect(remote.host, remote.port, DIAL_SECONDS, near)
            except OSError as error:
                reset_on_close(near)
                self._reports.tell(f"{remote}: {error.strerror or error}")


class _Exposing:
    def __init__(
        self,
        overlay: Overlay,
        mapping: Expose,
        reports: Reports,
        proxy_protocol: int | None,
        forwarded_for: bool,
        *,
        patient: bool,
    ) -> None:
        self._overlay = overlay
        self._mapping = mapping
        self._reports = reports
        self._header = None if proxy_protocol is None else PROXY_PROTOCOLS[proxy_protocol]
        self._http = _http(mapping.local, forwarded_for)
        self._shares = Shares(CLIENTS // 4)
        self._patient = patient
        self._listener: int | None = None

    async def open(self) -> str:
        where = self._mapping.overlay
        try:
            self._listener, bound = await self._overlay.listen(where.host or None, where.port)
        except OSError as error:
            if not self._patient or error.errno not in (errno.EADDRNOTAVAIL, errno.ENETDOWN):
                raise
            return f"exposing {self._mapping.local} at {where} as soon as this node has that address"
        host = "" if bound[0] in ("0.0.0.0", "::") else bound[0]
        return f"exposing {self._mapping.local} at {TcpAddress(host, bound[1])}"

    async def close(self) -> None:
        if self._listener is not None:
            await self._overlay.close_listener(self._listener)
            self._listener = None

    async def run(self) -> None:
        probing = asyncio.create_task(self._probe())
        try:
            async with Crowd(WAITING if self._http is None else CLIENTS) as crowd:
                while True:
                    try:
                        await self._listen(crowd)
                    except OSError as error:
                        if not self._patient:
                            raise
                        self._reports.tell(f"{self._mapping.overlay}: {error.strerror or error}")
                    await asyncio.sleep(AGAIN_SECONDS)
        finally:
            probing.cancel()

    async def _listen(self, crowd: Crowd) -> None:
        if self._listener is None:
            await self.open()
        if (listener := self._listener) is None:
            return
        try:
            while True:
                await crowd.take(lambda: self._overlay.accept(listener), self._carry)
        except OSError:
            self._listener = None
            await self._overlay.close_listener(listener)
            raise

    async def _probe(self) -> None:
        """Whether there is a server at all is better said now than at the first connection."""
        try:
            (await connect(self._mapping.local)).close()
        except OSError as error:
            self._reports.tell(f"{error.strerror or error}: there is no server yet")

    async def _carry(self, handoff: Handoff) -> None:
        if self._http is not None:
            await self._converse(self._http, handoff)
            return
        try:
            far = await connect(self._mapping.local)
        except OSError as error:
            await self._overlay.drop(handoff)
            self._reports.tell(error.strerror or str(error))
            return
        with far:
            try:
                if self._header is not None:
                    header = self._header(handoff.remote, handoff.local)
                    await asyncio.get_running_loop().sock_sendall(far, header)
                await self._overlay.join(handoff, far)
            except OSError as error:
                with contextlib.suppress(OSError):
                    await self._overlay.drop(handoff)
                self._reports.tell(f"{self._mapping.local}: {error.strerror or error}")

    async def _converse(self, http: ReverseProxy, handoff: Handoff) -> None:
        from ztnode.forwarding.http_service import converse

        with self._shares.one(handoff.remote[0]) as room:
            try:
                if room:
                    await converse(http, await self._overlay.fetch(handoff), handoff.remote[0])
                else:
                    await self._overlay.drop(handoff)
            except OSError as error:
                self._reports.tell(f"{self._mapping.local}: {error.strerror or error}")


def _http(server: LocalAddress, forwarded_for: bool) -> ReverseProxy | None:
    if not forwarded_for:
        return None
    from ztnode.forwarding.reverse_proxy import ReverseProxy, Upstream

    return ReverseProxy(Upstream(server))
