"""TCP connections to the internet from a host that reaches it by a proxy alone: HTTP (CONNECT) or SOCKS5."""

from __future__ import annotations

import os
import socket
from typing import Final
from urllib.parse import urlsplit, urlunsplit

from ztnode.hookspecs import Endpoint

SCHEMES: Final = ("http", "socks5")
_VARIABLES: Final = ("https_proxy", "all_proxy")
NONE: Final = "none"
"""In the place of a URL: no proxy, whatever the environment says."""


def check(url: str) -> str:
    """The URL of a proxy as it is used here. Raises ValueError, in one line and without the password."""
    # curl's word for a proxy that looks names up itself, which all of ours may do.
    parts = urlsplit(url.replace("socks5h://", "socks5://", 1) if "://" in url else f"http://{url}")
    try:
        if parts.scheme not in SCHEMES or not parts.hostname or parts.path not in ("", "/"):
            raise ValueError
        port = parts.port
    except ValueError:
        raise ValueError(
            f"{without_password(url)!r} is no proxy such as http://proxy.example:3128 or socks5://NAME:PASSWORD@HOST"
        ) from None
    default = 1080 if parts.scheme == "socks5" else 8080
    return urlunsplit((parts.scheme, parts.netloc + ("" if port else f":{default}"), "", "", ""))


def without_password(url: str) -> str:
    """A URL that may be shown."""
    scheme, slashes, rest = url.rpartition("://")
    return scheme + slashes + rest.rpartition("@")[2]


def proxy_for(host: str, given: str | None) -> str | None:
    """The proxy by which ``host`` is reached, None: straight. ``given``: that of the user, before which $HTTPS_PROXY,
    $ALL_PROXY (in either case) and $NO_PROXY mean nothing. Raises ValueError."""
    if given is not None:
        return None if given == NONE else check(given)
    if not any(name.lower() in _VARIABLES for name in os.environ):
        return None
    from urllib.request import getproxies_environment, proxy_bypass  # an HTTP client comes along with it

    found = getproxies_environment()
    url = found.get("https") or found.get("all")
    if not url or (host and proxy_bypass(host)):
        return None
    return check(url)


async def connect(to: Endpoint, proxy: str | None) -> socket.socket | None:
    """A connection to ``to`` (its host may be a name) that goes by ``proxy``; None: without one, as the caller likes to
    make it. Raises OSError."""
    if proxy is None:
        return None
    from python_socks import ProxyConnectionError, ProxyError, ProxyTimeoutError
    from python_socks.async_.asyncio import Proxy

    try:
        made: socket.socket = await Proxy.from_url(proxy).connect(dest_host=to[0], dest_port=to[1])
    except (ProxyError, ProxyConnectionError, ProxyTimeoutError) as error:
        raise OSError(f"by the proxy {without_password(proxy)}: {str(error).splitlines()[0]}") from error
    except ValueError as error:  # what it says is no text, or no number
        raise OSError(f"by the proxy {without_password(proxy)}: it does not speak as one") from error
    return made
