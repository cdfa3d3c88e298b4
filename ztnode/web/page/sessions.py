"""Who is logged in, and how often somebody may try. The caller says what time it is (monotonic seconds)."""

from __future__ import annotations

import hmac
import ipaddress
import secrets
from collections import OrderedDict
from dataclasses import dataclass
from typing import Final

from ztnode.token_bucket import TokenBucket

IDLE_SECONDS: Final = 30 * 60.0
"""Without a click; what a page fetches by itself is none."""
WHOLE_SECONDS: Final = 12 * 3600.0
MAX_SESSIONS: Final = 64
"""At a time; one more ends the one that was idle longest."""
ATTEMPTS: Final = 10
"""Log-ins that one address may try at once, and in a minute in the long run."""
MAX_ADDRESSES: Final = 1024
"""Whose attempts are counted; one more is counted in place of who came first."""


@dataclass(slots=True)
class Session:
    """``csrf`` is in each form of this session's pages."""

    csrf: str
    began: float
    seen: float

    def is_over(self, now: float) -> bool:
        """Whether nobody may use it any more."""
        return now - self.seen >= IDLE_SECONDS or now - self.began >= WHOLE_SECONDS

    def allows(self, csrf: str) -> bool:
        """Whether a form came from one of its pages; in constant time."""
        return hmac.compare_digest(self.csrf.encode(), csrf.encode(errors="replace"))


class Sessions:
    """Sessions by the random id (256 bits) that the browser has as a cookie."""

    def __init__(self) -> None:
        self._open: OrderedDict[str, Session] = OrderedDict()  # idle longest first

    def open(self, now: float) -> str:
        """A new session's id."""
        for name in [name for name, session in self._open.items() if session.is_over(now)]:
            del self._open[name]
        while len(self._open) >= MAX_SESSIONS:
            self._open.popitem(last=False)
        name = secrets.token_urlsafe(32)
        self._open[name] = Session(secrets.token_urlsafe(16), now, now)
        return name

    def find(self, name: str, now: float, *, by_hand: bool = True) -> Session | None:
        """The session, which goes on for that, if this was done ``by_hand``; None where there is none, or no more."""
        session = self._open.get(name)
        if session is None:
            return None
        if session.is_over(now):
            del self._open[name]
            return None
        if by_hand:
            session.seen = now
            self._open.move_to_end(name)
        return session

    def close(self, name: str) -> None:
        """Log out."""
        self._open.pop(name, None)


class Attempts:
    """How often an address has tried to log in."""

    def __init__(self) -> None:
        self._made: OrderedDict[str, TokenBucket] = OrderedDict()

    def admit(self, host: str, now: float) -> bool:
        """Whether ``host`` (numeric) may try once more; if so, that counts."""
        key = _share(host)
        bucket = self._made.get(key)
        if bucket is None:
            while len(self._made) >= MAX_ADDRESSES:
                self._made.popitem(last=False)
            bucket = self._made[key] = TokenBucket(ATTEMPTS / 60, ATTEMPTS)
        return bucket.admit(now)

    def forget(self, host: str) -> None:
        """It has shown that it may."""
        self._made.pop(_share(host), None)


def _share(host: str) -> str:
    """Whoever has an address of IPv6 has the /64 around it."""
    try:
        address = ipaddress.ip_address(host.partition("%")[0])
    except ValueError:
        return host
    return str(ipaddress.ip_network((address, 64), strict=False)) if address.version == 6 else host
