"""Logs in to the networks that this node has joined: makes the URL, takes what the browser brings back, hands the id
token to the network's controller and renews it in time.

As the reference does it (``service/OneService.cpp``, ``NetworkState``; ``rustybits/zeroidc``), but for this: what a
provider gives is forgotten with the process there as here, yet a log-in that was begun before the controller offered
the next one still counts, and while the provider is out of reach renewing is tried again.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final, Protocol

from ztnode.node.api import JoinState, NetworkInfo
from ztnode.sign_on.sign_on_error import SignOnError
from ztnode.sign_on.small_web_server import Answer, Request, SmallWebServer
from ztnode.wire.address import format_nwid
from ztnode.wire.network_config import SingleSignOn

if TYPE_CHECKING:
    from ztnode.sign_on.openid import Attempt, Tokens

log = logging.getLogger(__name__)

PATH: Final = "/sso"
HOSTS: Final = ("127.0.0.1", "::1")
"""What a browser takes localhost for."""
RENEW_BEFORE: Final = 30.0
"""Seconds before an id token expires when the next one is asked for, as in the reference; of a short life half."""
RETRY_DELAYS: Final = (2.0, 5.0, 15.0, 60.0)
"""Seconds between tries at what failed, the last one again and again."""
MAX_ATTEMPTS: Final = 3
"""Log-ins under way on one network: the controller offers a new one every few minutes."""

_PAGE: Final = """<!doctype html>
<html lang="en"><meta charset="utf-8"><title>{title}</title>
<body style="font-family: sans-serif; margin: 4em auto; max-width: 40em"><h1>{title}</h1><p>{text}</p></body></html>
"""


class SignOnHost(Protocol):
    """What this needs of a node."""

    def watch(self) -> AsyncIterator[NetworkInfo]:
        """Every network as it is now, then again whenever it changes."""

    def show_log_in(self, nwid: int, url: str, detail: str) -> None:
        """Where a person logs in, or why that cannot be yet."""

    def ask_controller(self, nwid: int) -> None:
        """A network's controller may have another answer for us now."""


@dataclass(slots=True)
class _Login:
    """One network's log-ins."""

    offer: SingleSignOn
    """The controller's newest."""
    attempts: dict[str, tuple[SingleSignOn, Attempt]] = field(default_factory=dict)
    """By their state, the newest last."""
    done: SingleSignOn | None = None
    """The offer that was the newest when somebody logged in."""
    preparing: asyncio.Task[None] | None = None
    renewing: asyncio.Task[None] | None = None
    renew_now: asyncio.Event = field(default_factory=asyncio.Event)

    def settle(self) -> None:
        """The controller knows who is here: nobody need log in."""
        self.attempts.clear()
        self.done = self.offer
        if self.preparing is not None:
            self.preparing.cancel()
            self.preparing = None


class MemberSignOn:
    """Runs for as long as the node does; costs nothing while no network asks for a log-in."""

    def __init__(self, node: SignOnHost, port: int) -> None:
        """``port``: of localhost, where the browser comes back to; providers know the URL and compare it."""
        self._node = node
        self._port = port
        self._logins: dict[int, _Login] = {}
        self._web = SmallWebServer(self._came_back)

    async def run(self) -> None:
        """Until cancelled."""
        try:
            async for info in self._node.watch():
                self._consider(info)
        finally:
            for login in self._logins.values():
                _stop(login)
            await self._web.close()
            self._web.abort()

    def _consider(self, info: NetworkInfo) -> None:
        login, offer = self._logins.get(info.nwid), info.sign_on
        if info.state is JoinState.LEFT:
            if login is not None:
                _stop(self._logins.pop(info.nwid))
                self._close_if_idle()
            return
        if info.state is not JoinState.AUTHENTICATION_REQUIRED or offer.version != 1:
            return
        if login is None:
            login = self._logins[info.nwid] = _Login(offer)
        elif offer == login.done or (offer == login.offer and (login.preparing is not None or login.attempts)):
            return
        login.offer = offer
        if login.renewing is not None:
            login.renew_now.set()  # this host slept, perhaps; nobody needs to log in if the provider still renews
        else:
            self._prepare_anew(info.nwid, login)

    # The way there

    def _prepare_anew(self, nwid: int, login: _Login) -> None:
        if login.preparing is not None:
            login.preparing.cancel()
        login.preparing = asyncio.create_task(self._prepare(nwid, login))

    async def _prepare(self, nwid: int, login: _Login) -> None:
        """Have a URL to show."""
        tries = 0
        while True:
            try:
                attempt = await self._begin(login.offer)
                break
            except SignOnError as error:
                self._node.show_log_in(nwid, "", f"cannot log in yet: {error}")
            await asyncio.sleep(RETRY_DELAYS[min(tries, len(RETRY_DELAYS) - 1)])
            tries += 1
        login.attempts.pop(login.offer.state, None)
        login.attempts[login.offer.state] = login.offer, attempt
        while len(login.attempts) > MAX_ATTEMPTS:
            del login.attempts[next(iter(login.attempts))]
        self._node.show_log_in(nwid, attempt.url, "")
        login.preparing = None

    async def _begin(self, offer: SingleSignOn) -> Attempt:
        if self._web.port is None:
            try:
                await self._web.open(HOSTS, self._port)
            except OSError as error:
                reason = f"port {self._port} of localhost, where the browser is to come back, is taken"
                raise SignOnError(f"{reason} ({error.strerror}); choose another with --sso-port") from None
        redirect = f"http://localhost:{self._port}{PATH}"
        return await asyncio.to_thread(_begin, offer, redirect)

    # The way back

    async def _came_back(self, request: Request) -> Answer:
        fields = request.fields
        if request.path != PATH or request.method != "GET":
            return _page(404, "Nothing here", "This is where a log-in to a ZeroTier network ends.")
        found = next(
            ((nwid, login) for nwid, login in self._logins.items() if fields.get("state") in login.attempts), None
        )
        if found is None:
            return _page(400, "Log-in unknown", "It has ended or is too old. Open the newest URL: ztnode networks.")
        nwid, login = found
        if "error" in fields:
            told = f"The provider says: {fields['error']} {fields.get('error_description', '')}"
            return _page(403, "Not logged in", told[:500])
        offer, attempt = login.attempts.pop(fields["state"])
        try:
            tokens = await self._log_in(offer, attempt, fields)
        except (SignOnError, OSError) as error:
            log.warning("network %s: nobody was logged in: %s", format_nwid(nwid), error)
            # A code serves once, and so does the attempt that it came for.
            self._prepare_anew(nwid, login)
            return _page(502, "Not logged in", f"{error}. Try again: ztnode networks shows the URL.")
        log.info("network %s: logged in until %s", format_nwid(nwid), time.ctime(tokens.claims.expiry))
        login.settle()
        if login.renewing is not None:
            login.renewing.cancel()
            login.renewing = None
        self._node.ask_controller(nwid)
        if tokens.refresh is not None:
            login.renewing = asyncio.create_task(self._keep_renewing(nwid, login, offer, attempt, tokens))
        asyncio.get_running_loop().call_soon(self._close_if_idle)
        return _page(200, "Logged in", f"This node may use the network {format_nwid(nwid)}. Close this page.")

    async def _log_in(self, offer: SingleSignOn, attempt: Attempt, fields: dict[str, str]) -> Tokens:
        from ztnode.sign_on.openid import hand_in

        tokens = await asyncio.to_thread(attempt.exchange, fields.get("code", ""))
        # The part of the state before the network's id is what the controller made.
        form = {"id_token": tokens.id_token, "state": fields["state"].partition("_")[0]}
        await asyncio.to_thread(hand_in, offer.central_url, form)
        return tokens

    def _close_if_idle(self) -> None:
        if any(login.attempts or login.preparing for login in self._logins.values()):
            return
        task = asyncio.ensure_future(self._web.close())
        task.add_done_callback(lambda _: None)

    # And on

    async def _keep_renewing(
        self, nwid: int, login: _Login, offer: SingleSignOn, attempt: Attempt, tokens: Tokens
    ) -> None:
        """Until the provider or the controller refuses; then somebody must log in again."""
        tries = 0
        try:
            while tokens.refresh is not None:
                left = tokens.claims.expiry - time.time()
                pause = max(1.0, left - RENEW_BEFORE, min(left / 2, RENEW_BEFORE))
                await _until(login.renew_now, RETRY_DELAYS[min(tries, len(RETRY_DELAYS)) - 1] if tries else pause)
                try:
                    tokens = await asyncio.to_thread(_renew, offer, attempt, tokens.refresh)
                except OSError as error:
                    log.info("network %s: the log-in is renewed later: %s", format_nwid(nwid), error)
                    tries += 1
                    if login.offer != login.done and login.preparing is None and not login.attempts:
                        self._prepare_anew(nwid, login)  # whichever comes first
                else:
                    tries = 0
                    login.settle()
                    self._node.ask_controller(nwid)
        except SignOnError as error:
            log.warning("network %s: the log-in is not renewed: %s", format_nwid(nwid), error)
        login.renewing = None
        if login.offer != login.done:
            self._prepare_anew(nwid, login)


async def _until(event: asyncio.Event, seconds: float) -> None:
    with contextlib.suppress(asyncio.TimeoutError):
        await asyncio.wait_for(event.wait(), seconds)
    event.clear()


def _renew(offer: SingleSignOn, attempt: Attempt, refresh: str) -> Tokens:
    """In a thread. Raises as ``Attempt.renew`` and ``hand_in`` do."""
    from ztnode.sign_on.openid import hand_in

    tokens = attempt.renew(refresh)
    hand_in(offer.central_url, {"id_token": tokens.id_token, "state": "refresh", "extra_nonce": offer.nonce})
    return tokens


def _begin(offer: SingleSignOn, redirect: str) -> Attempt:
    """In a thread: the libraries take a while to be imported, and the provider to answer."""
    try:
        from ztnode.sign_on.openid import Attempt, Provider, check_url
    except ImportError as error:
        raise SignOnError(f"{error.name} is not installed here: pip install 'ztnode[sso]'") from None
    check_url(offer.central_url, "where the controller takes log-ins")
    provider = Provider(offer.issuer_url)
    return Attempt(provider, offer.client_id, offer.provider, redirect, state=offer.state, nonce=offer.nonce)


def _stop(login: _Login) -> None:
    for task in (login.preparing, login.renewing):
        if task is not None:
            task.cancel()


def _page(status: int, title: str, text: str) -> Answer:
    import html  # its table of 2,231 names takes half a megabyte

    return Answer(status, "text/html", _PAGE.format(title=html.escape(title), text=html.escape(text)))
