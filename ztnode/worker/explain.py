"""Errors as a person can act on them."""

from __future__ import annotations

import errno
import os
from typing import Final

from ztnode.wire.endpoint import format_endpoint

_TEXTS: Final = {
    errno.ECONNREFUSED: "{target} refused the connection: nothing listens on that port",
    errno.ECONNRESET: "{target} reset the connection",
    errno.ETIMEDOUT: "no answer from {target} within {timeout:g} s",
    errno.EHOSTUNREACH: "{target} does not answer on the network, or a gateway to it refuses this: is that host online "
    "and authorized?",
    errno.ENETUNREACH: "no joined network has a route to {target}",
    errno.ENETDOWN: "the network of {target} is not up (not joined, or not authorized yet)",
    errno.EADDRNOTAVAIL: "{target} is not an address of this node",
    errno.EADDRINUSE: "{target} is already in use",
    errno.EACCES: "{target} may not be reached: an administrator of the network forbids it",
}


def explain(number: int, host: str | None, port: int | None, timeout: float = 0.0) -> str:
    """One line for ``errno`` ``number`` about ``host`` (None: any address) and ``port``."""
    target = host or "any address"
    if port is not None:
        target = format_endpoint((target, port))
    text = _TEXTS.get(number)
    return text.format(target=target, timeout=timeout) if text else f"{target}: {os.strerror(number)}"
