"""Asking the default gateway for a port by UPnP (InternetGatewayDevice 1 and 2), with async-upnp-client. miniupnpc is
smaller, and C that reads XML of the local network in the process that holds the keys.

Anybody on the local network may answer a search, and the answers name URLs: only the gateway's own are called.
"""

from __future__ import annotations

import asyncio
import ipaddress
import socket
from typing import Final
from urllib.parse import urlsplit

import aiohttp
from async_upnp_client.client import UpnpRequester, UpnpService
from async_upnp_client.client_factory import UpnpFactory
from async_upnp_client.const import HttpRequest, HttpResponse
from async_upnp_client.exceptions import UpnpActionError, UpnpConnectionError, UpnpError
from async_upnp_client.search import SsdpSearchListener
from async_upnp_client.utils import CaseInsensitiveDict

from ztnode.node.pcp import PortMappingError
from ztnode.wire.endpoint import Endpoint

DEVICE: Final = "urn:schemas-upnp-org:device:InternetGatewayDevice:1"
"""Version 2 answers to it, too."""
SEARCH: Final = 2
"""Seconds for an answer to the search."""
HTTP_TIMEOUT: Final = 3.0
MAX_ANSWER: Final = 1 << 18
DESCRIPTION: Final = "ztnode"
PERMANENT_ONLY: Final = 725
"""OnlyPermanentLeasesSupported."""
NO_SUCH_ENTRY: Final = 714


class Upnp:
    """See ``ztnode.node.pcp.Mapper``."""

    name = "UPnP"

    def __init__(self, gateway: str) -> None:
        self._gateway = gateway
        self._service: UpnpService | None = None

    async def map(self, port: int, lifetime: int) -> tuple[Endpoint, int]:
        """See Mapper. The outer port is the node's own one."""
        try:
            service = self._service = self._service or await self._found()
            try:
                await self._add(service, port, lifetime)
            except UpnpActionError as error:
                if error.error_code != PERMANENT_ONLY:
                    raise
                await self._add(service, port, 0)
            answer = await service.action("GetExternalIPAddress").async_call()
            return (str(ipaddress.IPv4Address(answer["NewExternalIPAddress"])), port), lifetime
        except (UpnpError, KeyError, ValueError, OSError) as error:
            self._service = None
            raise PortMappingError(_reason(error)) from error

    async def unmap(self, port: int) -> None:
        """See Mapper."""
        try:
            if self._service is not None:
                delete = self._service.action("DeletePortMapping")
                await delete.async_call(NewRemoteHost="", NewExternalPort=port, NewProtocol="UDP")
        except (UpnpError, KeyError, ValueError, OSError) as error:
            if not isinstance(error, UpnpActionError) or error.error_code != NO_SUCH_ENTRY:
                raise PortMappingError(_reason(error)) from error

    async def _add(self, service: UpnpService, port: int, lifetime: int) -> None:
        await service.action("AddPortMapping").async_call(
            NewRemoteHost="",
            NewExternalPort=port,
            NewProtocol="UDP",
            NewInternalPort=port,
            NewInternalClient=_own_address(self._gateway),
            NewEnabled=True,
            NewPortMappingDescription=DESCRIPTION,
            NewLeaseDuration=lifetime,
        )

    async def _found(self) -> UpnpService:
        device = await UpnpFactory(_Requester(self._gateway), non_strict=True).async_create_device(
            await self._location()
        )
        for service in device.all_services:
            if service.has_action("AddPortMapping") and service.has_action("GetExternalIPAddress"):
                return service
        raise PortMappingError("the router forwards no ports")

    async def _location(self) -> str:
        found: asyncio.Future[str] = asyncio.get_running_loop().create_future()

        def answered(headers: CaseInsensitiveDict) -> None:
            location = str(headers.get("location", ""))
            if urlsplit(location).hostname == self._gateway and not found.done():
                found.set_result(location)

        async def ask() -> None:
            listener.async_search()

        own = _own_address(self._gateway)
        listener = SsdpSearchListener(
            callback=answered, source=(own, 0), timeout=SEARCH, search_target=DEVICE, async_connect_callback=ask
        )
        await listener.async_start()
        try:
            async with asyncio.timeout(SEARCH):
                return await found
        except TimeoutError:
            raise PortMappingError("no answer") from None
        finally:
            listener.async_stop()


class _Requester(UpnpRequester):
    """HTTP to the gateway alone, and no more of an answer than is sensible."""

    def __init__(self, gateway: str) -> None:
        self._gateway = gateway

    async def async_http_request(self, http_request: HttpRequest) -> HttpResponse:
        """See UpnpRequester."""
        if urlsplit(http_request.url).hostname != self._gateway:
            raise UpnpConnectionError("the router names another host")
        try:
            async with (
                aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=HTTP_TIMEOUT)) as session,
                session.request(
                    http_request.method,
                    http_request.url,
                    headers=http_request.headers,
                    data=http_request.body,
                    allow_redirects=False,
                ) as response,
            ):
                body = bytearray()
                async for chunk in response.content.iter_chunked(1 << 14):
                    body += chunk
                    if len(body) > MAX_ANSWER:
                        raise UpnpConnectionError("the router says too much")
                return HttpResponse(response.status, response.headers, body.decode("utf-8", "replace"))
        except (aiohttp.ClientError, TimeoutError) as error:
            raise UpnpConnectionError(str(error) or "no answer") from error


def _own_address(gateway: str) -> str:
    """The address of this host that the gateway sees."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        sock.connect((gateway, 9))
        return str(sock.getsockname()[0])


def _reason(error: Exception) -> str:
    if isinstance(error, UpnpActionError):
        return f"refused: {error.error_desc or error.error_code}"
    return str(error).splitlines()[0] if str(error) else type(error).__name__
