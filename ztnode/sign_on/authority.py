"""Where members of the networks that this node controls hand in what they got from their OpenID Connect provider.

The "central endpoint" of the reference: it takes a POST of ``id_token`` and ``state`` (or ``state=refresh`` and
``extra_nonce`` when a log-in is renewed), which there a web service beside the controller answers. Cheap checks first:
nothing is fetched and no signature looked at unless the token names a log-in that the controller offered.
"""

from __future__ import annotations

import asyncio
import base64
import json
import logging
from typing import TYPE_CHECKING, Final, Protocol

from ztnode.controller import ControllerError
from ztnode.controller.documents import ControlledMember, ControlledNetwork
from ztnode.sign_on.sign_on_error import SignOnError
from ztnode.sign_on.small_web_server import Answer, Request, SmallWebServer
from ztnode.wire.address import format_address, format_nwid

if TYPE_CHECKING:
    from ztnode.sign_on.openid import Claims, Provider

log = logging.getLogger(__name__)

PATH: Final = "/sso"
MAX_PROVIDERS: Final = 64
MAX_CHECKS: Final = 4
"""Tokens that are looked at side by side."""


class SignOnAdministration(Protocol):
    """What this needs of the controller."""

    def network(self, nwid: int) -> ControlledNetwork:
        """One network. Raises KeyError."""

    def offered(self, nonce: str, state: str) -> tuple[int, int] | None:
        """The network and member that a log-in was offered to, or (``state`` "refresh") is logged in by it."""

    def logged_in(self, nwid: int, address: int, nonce: str, subject: str, expiry: int) -> ControlledMember:
        """``expiry``: Unix seconds. Raises KeyError, ControllerError."""


class Authority:
    """Listens for as long as the node runs."""

    def __init__(self, administration: SignOnAdministration) -> None:
        self._administration = administration
        self._web = SmallWebServer(self._answer)
        self._providers: dict[str, Provider] = {}
        self._checks = asyncio.Semaphore(MAX_CHECKS)

    async def open(self, host: str, port: int) -> int:
        """Listen; the port. Raises OSError."""
        await self._web.open([host], port)
        assert self._web.port is not None
        return self._web.port

    async def close(self) -> None:
        """Listen no more."""
        await self._web.close()
        self._web.abort()

    async def _answer(self, request: Request) -> Answer:
        if request.path != PATH:
            return _error(404, "there is nothing here")
        if request.method != "POST":
            return _error(405, "log-ins are handed in by POST")
        fields = request.fields
        id_token, state = fields.get("id_token", ""), fields.get("state", "")
        renewal = state == "refresh"
        nonce = fields.get("extra_nonce", "") if renewal else _nonce(id_token)
        key = self._administration.offered(nonce, state)
        if key is None:
            return _error(403, "this log-in was not offered, or is too old; start again")
        try:
            network = self._administration.network(key[0])
            async with self._checks:
                claims = await asyncio.to_thread(self._verify, network, id_token, None if renewal else nonce)
            self._administration.logged_in(*key, nonce, claims.subject, claims.expiry)
        except OSError as error:
            return _error(503, f"it cannot be kept: {error.strerror or error}")
        except KeyError:
            return _error(403, "the network or its member is gone")
        except (SignOnError, ControllerError) as error:
            log.info("network %s: %s was not logged in: %s", format_nwid(key[0]), format_address(key[1]), error)
            return _error(403, str(error))
        return Answer(200, "application/json", json.dumps({"networkId": format_nwid(key[0])}))

    def _verify(self, network: ControlledNetwork, id_token: str, nonce: str | None) -> Claims:
        """In a thread."""
        try:
            from ztnode.sign_on.openid import Provider
        except ImportError as error:
            raise SignOnError(f"{error.name} is not installed at the controller: pip install 'ztnode[sso]'") from None
        issuer = network.sso.issuer
        provider = self._providers.get(issuer)
        if provider is None:
            provider = Provider(issuer)
            while len(self._providers) >= MAX_PROVIDERS:
                self._providers.pop(next(iter(self._providers)), None)
            self._providers[issuer] = provider
        return provider.verify(id_token, network.sso.client_id, nonce)


def _nonce(id_token: str) -> str:
    """What the token claims, unverified: whose log-in it says it is."""
    try:
        part = id_token.split(".")[1]
        claims = json.loads(base64.urlsafe_b64decode(part + "=" * (-len(part) % 4)))
        return str(claims["nonce"])
    except (ValueError, LookupError, TypeError, RecursionError):
        return ""


def _error(status: int, text: str) -> Answer:
    return Answer(status, "application/json", json.dumps({"errorMessage": text}))
