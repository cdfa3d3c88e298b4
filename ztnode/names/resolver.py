"""Which names are the overlay's, and their addresses."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import ipaddress
import re
import socket
from collections import OrderedDict
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Final, NamedTuple

from ztclient.forms import host_name
from ztnode.names.answer import Answer, Kind
from ztnode.names.hosts import HostsFile
from ztnode.node.api import NetworkInfo, NodeApi
from ztnode.wire.computed_ipv6 import RFC4193_BITS, SIXPLANE_BITS, rfc4193_address, sixplane_address

TOP: Final = "zt"
"""``<address>.zt`` and ``<address>.<network id>.zt``."""
MAX_CACHED: Final = 1024
MAX_QUESTIONS: Final = 256
"""That wait for a server's answer at once; one more is refused."""
LONGEST_TTL: Final = 300
"""Seconds for which an answer is believed at most; no such name: see below."""
ABSENCE_TTL: Final = 10
ALIASES: Final = 4
"""That lead from one server's answer to the next question."""
PATIENCE: Final = 1.0
"""Seconds that one family's addresses wait for the other's: some servers never answer for AAAA."""
_ZT: Final = re.compile(r"([0-9a-f]{10})(?:\.([0-9a-f]{16}))?")


class Found(NamedTuple):
    """An address of a name, and the network that it is reached by; None: where a route leads to it."""

    ip: str
    nwid: int | None


class _Key(NamedTuple):
    """A question that is asked once, however many want to know. The servers are in it: new ones are asked anew."""

    nwid: int
    servers: tuple[str, ...]
    name: str
    kind: Kind


class Resolver:
    """The names of one node's networks. All methods run on the node's event loop."""

    def __init__(self, node: NodeApi, hosts: Path | None = None) -> None:
        """``hosts``: a file in the form of hosts(5), which comes before the servers."""
        self._node = node
        self._hosts = HostsFile(hosts)
        self._cache: OrderedDict[_Key, tuple[float, Answer]] = OrderedDict()
        self._asking: dict[_Key, asyncio.Task[Answer]] = {}

    async def resolve(self, name: str, nwid: int | None = None, family: int = 0) -> list[Found] | None:
        """The addresses of a name, the preferred first; None for a name that is not the overlay's.

        ``nwid``: of this network alone. ``family``: 4 or 6, 0 for both. Addresses that no network leads to are left
        out: who asked must not be sent to the host's networks. Raises ValueError for what is no name, socket.gaierror
        (EAI_NONAME: no such name, EAI_NODATA: no such address, EAI_AGAIN: nobody could say).
        """
        name = host_name(name)
        if name == "localhost" or name.endswith(".localhost"):
            return None
        networks = [network for network in self._node.networks() if nwid in (None, network.nwid)]
        if name == TOP or name.endswith(f".{TOP}"):
            found = _computed(name.removesuffix(f".{TOP}"), networks)
        elif listed := self._hosts.get(name):
            found = [Found(ip, nwid) for ip in listed]
        elif (owner := _owner(name, networks)) is not None:
            found = await self._ask(owner, name, family, networks)
        elif "." not in name:
            searched = await self._search(name, family, networks)
            if searched is None:
                return None
            found = searched
        else:
            return None
        if not found:
            raise socket.gaierror(socket.EAI_NONAME, f"there is no name {name} on the overlay")
        found = [each for each in found if _leads_to(each, networks) and family in (0, 6 if ":" in each.ip else 4)]
        if not found:
            raise socket.gaierror(socket.EAI_NODATA, f"{name} has no address that a joined network leads to")
        return found

    async def _search(self, name: str, family: int, networks: Sequence[NetworkInfo]) -> list[Found] | None:
        """A name without a dot, in each network's domain; None when it is in none."""
        failure: socket.gaierror | None = None
        for network in networks:
            domain = _domain(network)
            if domain and _servers(network):
                try:
                    if found := await self._ask(network, f"{name}.{domain}", family, networks):
                        return found
                except socket.gaierror as error:
                    failure = failure or error
        if failure is not None:
            raise failure
        return None

    async def _ask(self, network: NetworkInfo, name: str, family: int, networks: Sequence[NetworkInfo]) -> list[Found]:
        """A network's servers; nothing where there is no such name. Raises socket.gaierror."""
        kinds = [kind for kind, number in ((Kind.AAAA, 6), (Kind.A, 4)) if family in (0, number)]
        tasks = [asyncio.ensure_future(self._follow(network, name, kind, networks)) for kind in kinds]
        try:
            await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
            if any(task.done() and task.exception() is None and task.result()[0] for task in tasks):
                await asyncio.wait(tasks, timeout=PATIENCE)
            else:
                await asyncio.wait(tasks)
        finally:
            for task in tasks:
                task.cancel()
            outcomes = await asyncio.gather(*tasks, return_exceptions=True)
        answers = [each for each in outcomes if not isinstance(each, BaseException)]
        found = [Found(ip, network.nwid) for addresses, _ in answers for ip in addresses]
        if found:
            return found
        for outcome in outcomes:
            if isinstance(outcome, OSError):
                raise socket.gaierror(socket.EAI_AGAIN, outcome.strerror or str(outcome)) from None
            if isinstance(outcome, BaseException) and not isinstance(outcome, asyncio.CancelledError):
                raise outcome
        if any(exists for _, exists in answers):
            raise socket.gaierror(socket.EAI_NODATA, f"{name} has no such address")
        return []

    async def _follow(
        self, network: NetworkInfo, name: str, kind: Kind, networks: Sequence[NetworkInfo]
    ) -> tuple[tuple[str, ...], bool]:
        """The addresses of one kind, by aliases too, and whether there is such a name. Raises OSError."""
        for _ in range(ALIASES):
            answer = await self._once(_Key(network.nwid, network.dns_servers, name, kind))
            owner = _owner(answer.canonical, networks)
            if answer.addresses or not answer.exists or answer.canonical == name or owner is None:
                return answer.addresses, answer.exists
            network, name = owner, answer.canonical
        return (), True

    async def _once(self, key: _Key) -> Answer:
        """The answer to a question, asked once for all who want to know it. Raises OSError."""
        now = asyncio.get_running_loop().time
        until, known = self._cache.get(key, (0.0, None))
        if known is not None and now() < until:
            self._cache.move_to_end(key)
            return known
        task = self._asking.get(key)
        if task is None:
            if len(self._asking) >= MAX_QUESTIONS:
                raise OSError(errno.EAGAIN, "too many names are being asked for: try again")
            task = self._asking[key] = asyncio.ensure_future(self._question(key))
            task.add_done_callback(lambda task: self._answered(key, task))
        return await asyncio.shield(task)

    async def _question(self, key: _Key) -> Answer:
        from ztnode.names.servers import ask  # with dnspython, which a network without name servers never needs

        answer = await ask(self._node, key.nwid, key.servers, key.name, key.kind)
        lifetime = min(answer.ttl, LONGEST_TTL) if answer.addresses else min(answer.ttl, ABSENCE_TTL)
        self._cache[key] = asyncio.get_running_loop().time() + lifetime, answer
        self._cache.move_to_end(key)
        if len(self._cache) > MAX_CACHED:
            self._cache.popitem(last=False)
        return answer

    def _answered(self, key: _Key, task: asyncio.Task[Answer]) -> None:
        self._asking.pop(key, None)
        if not task.cancelled():
            task.exception()  # seen: whoever asked may have gone

    async def close(self) -> None:
        """End the questions under way."""
        for task in list(self._asking.values()):
            task.cancel()
            with contextlib.suppress(asyncio.CancelledError, OSError):
                await task


def _domain(network: NetworkInfo) -> str:
    return network.dns_domain.lower().strip(".")


def _servers(network: NetworkInfo) -> tuple[str, ...]:
    """Those that the user lets us ask."""
    return network.dns_servers if network.settings.allow_dns else ()


def _owner(name: str, networks: Sequence[NetworkInfo]) -> NetworkInfo | None:
    """The network whose DNS domain a name lies in, the longest first."""
    owners = [
        network
        for network in networks
        if (domain := _domain(network)) and _servers(network) and (name == domain or name.endswith(f".{domain}"))
    ]
    return max(owners, key=lambda network: len(_domain(network)), default=None)


def _computed(name: str, networks: Sequence[NetworkInfo]) -> list[Found]:
    """``<address>`` or ``<address>.<network id>``: the addresses that follow from these, on networks that assign
    them."""
    form = _ZT.fullmatch(name)
    if form is None:
        return []
    address, nwid = int(form[1], 16), form[2]
    found = []
    for network in networks:
        if nwid is not None and int(nwid, 16) != network.nwid:
            continue
        own = [ipaddress.ip_interface(each) for each in network.addresses]
        for make, bits in ((rfc4193_address, RFC4193_BITS), (sixplane_address, SIXPLANE_BITS)):
            prefix = ipaddress.ip_network((make(network.nwid, 0).packed, bits), strict=False)
            if any(each.version == 6 and each.ip in prefix for each in own):
                found.append(Found(str(make(network.nwid, address).ip), network.nwid))
    return found


def _leads_to(found: Found, networks: Sequence[NetworkInfo]) -> bool:
    ip = ipaddress.ip_address(found.ip)
    return any(
        ip in target
        for network in networks
        if found.nwid in (None, network.nwid)
        for target in _targets(network)
        if target.version == ip.version
    )


def _targets(network: NetworkInfo) -> Iterator[ipaddress.IPv4Network | ipaddress.IPv6Network]:
    for text in (*network.addresses, *(route.target for route in network.routes)):
        yield ipaddress.ip_network(text, strict=False)
