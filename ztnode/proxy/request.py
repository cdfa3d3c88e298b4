"""What a client of a proxy asks for, and why it may not get it. The protocols differ only in how they say so."""

from __future__ import annotations

import contextlib
import enum
import errno
import ipaddress
import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final, TypeAlias

MAX_NAME: Final = 253
"""Characters of a host name (RFC 1035, section 2.3.4, without the closing dot)."""

_NAME: Final = re.compile(r"(?!-)[A-Za-z0-9_-]{1,63}(?:\.[A-Za-z0-9_-]{1,63})*\.?")

CheckPassword: TypeAlias = Callable[[str, str], bool]
"""Whether a user name and a password are right."""


class BadHandshake(Exception):
    """The client does not speak the protocol that it began with. Its connection ends; nobody else notices."""


class Command(enum.Enum):
    """What is to be done with the address."""

    CONNECT = "connect"
    """Dial it and join the two connections."""
    ASSOCIATE = "associate"
    """Carry datagrams for as long as the connection stands (RFC 1928, section 7)."""
    FETCH = "fetch"
    """Dial it for one HTTP request in absolute form, and perhaps more of them afterwards."""


class Refusal(enum.Enum):
    """Why a request was not fulfilled, as far as any of the protocols can tell."""

    GENERAL = "general failure"
    NOT_ALLOWED = "not allowed: no network leads there, and the host dials such addresses only with --direct"
    NETWORK_UNREACHABLE = "network unreachable"
    HOST_UNREACHABLE = "host unreachable"
    REFUSED = "connection refused"
    TIMED_OUT = "timed out"
    UNSUPPORTED_COMMAND = "command not supported"
    UNSUPPORTED_ADDRESS = "address type not supported"

    @classmethod
    def from_error(cls, error: OSError) -> Refusal:
        """The nearest word for what a dial raised."""
        return _BY_ERRNO.get(error.errno or 0, cls.TIMED_OUT if isinstance(error, TimeoutError) else cls.GENERAL)


_BY_ERRNO: Final = {
    errno.ECONNREFUSED: Refusal.REFUSED,
    errno.ENETUNREACH: Refusal.NETWORK_UNREACHABLE,
    errno.EHOSTUNREACH: Refusal.HOST_UNREACHABLE,
    errno.ETIMEDOUT: Refusal.TIMED_OUT,
    errno.EACCES: Refusal.NOT_ALLOWED,
    errno.EPERM: Refusal.NOT_ALLOWED,
}


@dataclass(frozen=True, slots=True)
class Request:
    """``host``: a numeric address in its usual form, or a name; ``port``: 0 only where a client associates."""

    command: Command
    host: str
    port: int


def checked_host(text: str) -> str:
    """A host as a client wrote it: a numeric address in its usual form, or a name. Raises BadHandshake for what is
    neither, so that nothing of the kind reaches a resolver, a log line or a terminal."""
    if "%" not in text:  # a scope names an interface of somebody's host, and may be any text
        with contextlib.suppress(ValueError):
            return str(ipaddress.ip_address(text))
    if len(text) > MAX_NAME + 1 or not _NAME.fullmatch(text):
        raise BadHandshake("neither an address nor a host name")
    return text.rstrip(".").lower()
