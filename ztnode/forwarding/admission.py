"""Who may use a proxy: everybody of this machine, or whoever has the name and the password."""

from __future__ import annotations

import contextlib
import hmac
import ipaddress
import os
import stat
from pathlib import Path
from typing import Final

from ztnode.forwarding.mapping import TcpAddress
from ztnode.proxy.request import CheckPassword

VARIABLE: Final = "ZTNODE_PROXY_CREDENTIALS"


def load(path: Path | None) -> CheckPassword | None:
    """What checks the name and password, one line ``NAME:PASSWORD`` in the file at ``path`` or else in the environment;
    None where there is neither. Raises OSError, also for a file that others can read, and ValueError."""
    if path is None:
        text, where = os.environ.get(VARIABLE), VARIABLE
        if text is None:
            return None
    else:
        with path.open(encoding="utf-8") as file:
            if stat.S_IMODE(os.fstat(file.fileno()).st_mode) & 0o077:
                raise PermissionError(f"{path} can be read by others: chmod 600 it")
            text, where = file.read(4096), str(path)
    name, colon, password = text.removesuffix("\n").removesuffix("\r").partition(":")
    # 255 bytes are the most that SOCKS5 carries.
    if not colon or not password or "\n" in password or max(len(name.encode()), len(password.encode())) > 255:
        raise ValueError(f"{where} holds no line of the form NAME:PASSWORD")
    expected = name.encode(), password.encode()

    def check(given_name: str, given_password: str) -> bool:
        # Both are compared whatever the first says, in a time that tells nothing.
        right = hmac.compare_digest(given_name.encode(), expected[0])
        return hmac.compare_digest(given_password.encode(), expected[1]) and right

    return check


def check_address(address: TcpAddress, check_password: CheckPassword | None) -> None:
    """Raises ValueError for a proxy that others could use without a password."""
    local = address.host == "localhost"
    with contextlib.suppress(ValueError):
        local = ipaddress.ip_address(address.host).is_loopback
    if not local and check_password is None:
        raise ValueError(
            f"a proxy at {address} would be open to others: listen on 127.0.0.1, or give a NAME:PASSWORD "
            f"(--credentials FILE, or {VARIABLE})"
        )
