"""Written forms: network ids, numeric IP addresses, ports, and a host with its port."""

from __future__ import annotations

import functools
import ipaddress
import re

_HEX_DIGITS = frozenset("0123456789abcdef")


def network_id(nwid: str | int) -> str:
    """A network id as 16 lower-case hexadecimal digits. Raises ValueError with one line for a person."""
    text = f"{nwid:016x}" if isinstance(nwid, int) else nwid.strip().lower()
    if len(text) != 16 or not set(text) <= _HEX_DIGITS:
        raise ValueError(f"{nwid!r} is not a network id: it has 16 hexadecimal digits, such as 9ad07d01093a69e3")
    return text


@functools.lru_cache(256)
def numeric_ip(host: str) -> str:
    """A numeric IP in its usual form. Raises ValueError."""
    return str(ipaddress.ip_address(host))


@functools.lru_cache(256)
def packed_ip(host: str) -> bytes:
    """The 4 or 16 bytes of a numeric IP. Raises ValueError."""
    return ipaddress.ip_address(host).packed


@functools.lru_cache(256)
def ip_of(packed: bytes) -> str:
    """The numeric IP of 4 or 16 bytes. Raises ValueError."""
    return str(ipaddress.ip_address(packed))


_LABEL = re.compile(r"[a-z0-9_]([a-z0-9_-]{0,61}[a-z0-9_])?")


@functools.lru_cache(256)
def host_name(name: str) -> str:
    """A host name in the form in which it is looked up: lower case, international ones in ASCII (IDNA), no dot at the
    end. Raises ValueError."""
    wrong = ValueError(f"{name[:80]!r} is neither a host name nor a numeric IP address")
    if len(name) > 254:
        raise wrong
    text = name.removesuffix(".").lower()
    if not text.isascii():
        try:
            text = text.encode("idna").decode("ascii").lower()
        except UnicodeError:
            raise wrong from None
    labels = text.split(".")
    # A last label of digits, or of 0x and digits, makes it a number to some libraries and a name to others.
    if len(text) > 253 or not all(map(_LABEL.fullmatch, labels)) or re.fullmatch(r"[0-9]+|0x[0-9a-f]*", labels[-1]):
        raise wrong
    return text


def is_numeric(host: str) -> bool:
    """Whether it is a numeric IP."""
    try:
        numeric_ip(host)
    except ValueError:
        return False
    return True


def without_brackets(host: str) -> str:
    """The address in ``[address]``; anything else as it is."""
    return host[1:-1] if host.startswith("[") and host.endswith("]") else host


def format_host_port(host: str, port: int) -> str:
    """``host:port``, an IPv6 address in brackets."""
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def split_host_port(text: str) -> tuple[str, int]:
    """Read ``host:port``, ``[host]:port`` or ``:port`` (the host is empty then). Raises ValueError."""
    host, colon, port = text.rpartition(":")
    if not colon or not port.isascii() or not port.isdigit() or int(port) > 65535:
        raise ValueError(f"{text!r} has no port from 0 to 65535 at its end")
    return without_brackets(host), int(port)
