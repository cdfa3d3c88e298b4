"""Which log-ins were offered to which members, and by which one each is logged in. Sans-IO.

As in the reference's ``controller/PostgreSQL.cpp`` (``getSSOAuthInfo``): the nonce, which comes back in the id token,
is random and offered for five minutes; the state is its HMAC, so that who has seen the one cannot make the other.
"""

from __future__ import annotations

import hashlib
import hmac
from collections import OrderedDict
from collections.abc import Callable
from typing import Final, TypeAlias

OFFERED: Final = 5 * 60 * 1000
"""Milliseconds for which a member that asks again is offered the same log-in."""
ACCEPTED: Final = 15 * 60 * 1000
"""Milliseconds after its offer in which a log-in counts: typing a password and a second factor takes a while."""
MAX_OFFERS: Final = 16384
REFRESH: Final = "refresh"
"""The state by which a log-in is renewed."""

Key: TypeAlias = tuple[int, int]
"""(nwid, member address)."""


class SignOns:
    """Bounded: the oldest of too many offers is forgotten."""

    def __init__(self, random: Callable[[int], bytes]) -> None:
        self._random = random
        self._secret = random(32)
        self._offers: OrderedDict[str, tuple[Key, int]] = OrderedDict()
        self._newest: dict[Key, str] = {}
        self._logged_in: dict[str, Key] = {}

    def state(self, nonce: str) -> str:
        """96 hexadecimal digits."""
        return hmac.new(self._secret, nonce.encode(), hashlib.sha384).hexdigest()

    def offer(self, key: Key, wall: int) -> str:
        """The nonce of a log-in for this member. ``wall``: Unix milliseconds."""
        nonce = self._newest.get(key)
        if nonce is not None and nonce in self._offers and wall - self._offers[nonce][1] < OFFERED:
            return nonce
        nonce = self._random(16).hex()
        self._offers[nonce] = key, wall
        self._newest[key] = nonce
        while len(self._offers) > MAX_OFFERS or wall - next(iter(self._offers.values()))[1] >= ACCEPTED:
            forgotten, (of, _) = self._offers.popitem(last=False)
            if self._newest.get(of) == forgotten:
                del self._newest[of]
        return nonce

    def find(self, nonce: str, state: str, wall: int) -> Key | None:
        """Whom this log-in was offered to, or (state REFRESH) who is logged in by it."""
        if state == REFRESH:
            return self._logged_in.get(nonce)
        key, offered = self._offers.get(nonce, (None, 0))
        if key is None or wall - offered >= ACCEPTED or not state.isascii():
            return None
        return key if hmac.compare_digest(self.state(nonce), state) else None

    def settle(self, key: Key, nonce: str, before: str = "") -> None:
        """A member is logged in by this nonce from now on, in place of the one ``before``."""
        if before != nonce:
            self._logged_in.pop(before, None)
        self._logged_in[nonce] = key
        self._offers.pop(nonce, None)
        if self._newest.get(key) == nonce:
            del self._newest[key]

    def forget(self, key: Key, nonce: str) -> None:
        """A member is gone."""
        self._logged_in.pop(nonce, None)
        self._newest.pop(key, None)
        for offered in [offered for offered, (of, _) in self._offers.items() if of == key]:
            del self._offers[offered]
