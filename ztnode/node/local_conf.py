"""``local.conf``, as the reference reads it (OneService.cpp, ``readLocalSettings`` and ``applyLocalConfig``): the parts
that are acted on here, and the names of those that are not."""

from __future__ import annotations

import ipaddress
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from ipaddress import IPv4Network, IPv6Network, ip_network
from typing import Any, Final, Literal, TypeAlias

from ztnode.wire.endpoint import Endpoint

MIN_MTU: Final = 548
"""Bytes of UDP payload that any IPv4 host takes. (The reference takes none below 1400, ZT_MIN_PHYSMTU.)"""
MAX_MTU: Final = 10100
"""ZT_MAX_PHYSPAYLOAD."""
_MAX_ENTRIES: Final = 256
_MAX_OF_PEER: Final = 32

_Network: TypeAlias = IPv4Network | IPv6Network
_Json: TypeAlias = Mapping[str, Any]

_AS_HERE: Final[dict[str, tuple[Any, ...]]] = {
    "allowSecondaryPort": (False,),
    "cpuPinningEnabled": (False,),
    "defaultBondingPolicy": ("none", ""),
    "enableWebServer": (False,),
    "lowBandwidthMode": (False,),
    "multicoreEnabled": (False,),
    "secondaryPort": (0,),
    "softwareUpdate": ("disable",),
    "softwareUpdateDist": (False,),
    "tertiaryPort": (0,),
}
"""Settings that ask for what a node of ours does anyway, if they have such a value."""


_RELAY_SETTINGS: Final = ("tcpFallbackRelay", "allowTcpFallbackRelay", "forceTcpRelay")
_ACTED_ON: Final = frozenset(("primaryPort", "interfacePrefixBlacklist", "portMappingEnabled", *_RELAY_SETTINGS))


@dataclass(frozen=True, slots=True)
class LocalConf:
    """What it says."""

    mtus: tuple[tuple[_Network, int], ...] = ()
    """The longest UDP payload, bytes, for endpoints in a network."""
    avoided: tuple[_Network, ...] = ()
    """Networks in which there are no paths (``blacklist``)."""
    trusted: tuple[tuple[_Network, int], ...] = ()
    """Networks with a ``trustedPathId``: packets are neither encrypted nor authenticated there."""
    hints: Mapping[int, tuple[Endpoint, ...]] = field(default_factory=dict)
    """Where peers may be (``virtual``, ``try``), by ZeroTier address."""
    avoided_of: Mapping[int, tuple[_Network, ...]] = field(default_factory=dict)
    """Networks in which there are no paths to a peer (``virtual``, ``blacklist``)."""
    port: int | None = None
    """The UDP port (``primaryPort``); 0: any."""
    avoided_interfaces: tuple[str, ...] = ()
    """Beginnings of names of network devices whose addresses are told to nobody (``interfacePrefixBlacklist``)."""
    tcp_relay: Endpoint | None = None
    """What carries packets where UDP does not (``tcpFallbackRelay``)."""
    tcp_relay_use: Literal["auto", "force", "off"] | None = None
    """Whether it does (``allowTcpFallbackRelay``, ``forceTcpRelay``); None: it says nothing about that."""
    port_mapping: bool | None = None
    """Whether routers are asked for a port (``portMappingEnabled``); None: it says nothing about that."""
    unused: tuple[str, ...] = ()
    """What else it says."""


def parse(data: bytes) -> LocalConf:
    """Raises ValueError, with one line that says what is wrong."""
    try:
        document = json.loads(data)
    except json.JSONDecodeError as error:
        raise ValueError(f"not JSON: {error.msg}, line {error.lineno}, column {error.colno}") from None
    except (ValueError, RecursionError):
        raise ValueError("not JSON") from None
    if not isinstance(document, dict):
        raise ValueError('not a JSON object, as with "physical" in it')
    unused = [key for key in document if key not in ("physical", "virtual", "settings")]
    mtus, avoided, trusted = [], [], []
    for text, entry in _entries(document, "physical"):
        network = _network(text, "physical")
        mtu = entry.get("mtu", 0)
        if mtu:
            if type(mtu) is not int or not MIN_MTU <= mtu <= MAX_MTU:
                raise ValueError(f"physical: {text}: mtu is a number from {MIN_MTU} to {MAX_MTU}")
            mtus.append((network, mtu))
        if entry.get("blacklist") is True:
            avoided.append(network)
        trusted_id = entry.get("trustedPathId", 0)
        if trusted_id:
            if type(trusted_id) is not int or not 0 < trusted_id < 1 << 64:
                raise ValueError(f"physical: {text}: trustedPathId is a number from 1 to 2^64 - 1")
            trusted.append((network, trusted_id))
        unused += [f"physical.{text}.{key}" for key in entry if key not in ("mtu", "blacklist", "trustedPathId")]
    hints, avoided_of = {}, {}
    for text, entry in _entries(document, "virtual"):
        address = _address(text)
        if given := _texts(entry, "try", f"virtual: {text}", _MAX_OF_PEER):
            hints[address] = tuple(_endpoint(each, f"virtual: {text}: try") for each in given)
        if given := _texts(entry, "blacklist", f"virtual: {text}", _MAX_OF_PEER):
            avoided_of[address] = tuple(_network(each, f"virtual: {text}: blacklist") for each in given)
        unused += [f"virtual.{text}.{key}" for key in entry if key not in ("try", "blacklist")]
    settings = _object(document, "settings")
    unused += [f"settings.{key}" for key, value in settings.items() if _is_unused(key, value)]
    return LocalConf(
        mtus=tuple(mtus),
        avoided=tuple(avoided),
        trusted=tuple(trusted),
        hints=hints,
        avoided_of=avoided_of,
        port=_port(settings),
        avoided_interfaces=_texts(settings, "interfacePrefixBlacklist", "settings", _MAX_ENTRIES),
        tcp_relay=_tcp_relay(settings),
        tcp_relay_use=_tcp_relay_use(settings),
        port_mapping=_flag(settings, "portMappingEnabled"),
        unused=tuple(unused),
    )


def _is_unused(key: str, value: Any) -> bool:
    if key in _ACTED_ON:
        return False
    # By type too: 0 is False, and a number where a word belongs is something that somebody meant.
    return not any(type(value) is type(each) and value == each for each in _AS_HERE.get(key, ()))


def _object(document: _Json, key: str) -> _Json:
    found = document.get(key)
    if found is None:
        return {}
    if not isinstance(found, dict) or len(found) > _MAX_ENTRIES:
        raise ValueError(f'"{key}" is no object of at most {_MAX_ENTRIES} entries')
    return found


def _entries(document: _Json, key: str) -> Iterator[tuple[str, _Json]]:
    for text, entry in _object(document, key).items():
        if not isinstance(entry, dict):
            raise ValueError(f"{key}: {text}: not an object")
        yield text, entry


def _texts(entry: _Json, key: str, where: str, limit: int) -> tuple[str, ...]:
    found = entry.get(key)
    if found is None:
        return ()
    if not isinstance(found, list) or len(found) > limit or not all(isinstance(each, str) for each in found):
        raise ValueError(f"{where}: {key} is no list of at most {limit} texts")
    return tuple(filter(None, found))


def _network(text: str, where: str) -> _Network:
    try:
        return ip_network(text, strict=False)
    except ValueError:
        raise ValueError(f"{where}: {text!r} is no network such as 10.0.0.0/8") from None


def _address(text: str) -> int:
    try:
        if len(text) != 10:
            raise ValueError
        return int(bytes.fromhex(text).hex(), 16)
    except ValueError:
        raise ValueError(f"virtual: {text!r} is no ZeroTier address, 10 hexadecimal digits") from None


def _flag(settings: _Json, key: str) -> bool | None:
    value = settings.get(key)
    if value is not None and not isinstance(value, bool):
        raise ValueError(f"settings: {key} is true or false")
    return value


def _tcp_relay(settings: _Json) -> Endpoint | None:
    named = settings.get("tcpFallbackRelay")
    if named is not None and not isinstance(named, str):
        raise ValueError("settings: tcpFallbackRelay is text, IP/PORT")
    return _endpoint(named, "settings: tcpFallbackRelay") if named else None


def _tcp_relay_use(settings: _Json) -> Literal["auto", "force", "off"] | None:
    if _flag(settings, "forceTcpRelay"):
        return "force"
    allowed = _flag(settings, "allowTcpFallbackRelay")
    return None if allowed is None else "auto" if allowed else "off"


def _endpoint(text: str, where: str) -> Endpoint:
    host, _, port = text.partition("/")
    try:
        if not (port.isascii() and port.isdecimal() and 0 < int(port) < 65536):
            raise ValueError
        return str(ipaddress.ip_address(host)), int(port)
    except ValueError:
        raise ValueError(f"{where}: {text!r} is not IP/PORT, such as 192.0.2.1/9993") from None


def _port(settings: _Json) -> int | None:
    port = settings.get("primaryPort")
    if port is not None and (type(port) is not int or not 0 <= port <= 65535):
        raise ValueError("settings: primaryPort is a number from 0 to 65535")
    return port
