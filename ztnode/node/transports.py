"""Which transports a node uses, from its options, ``local.conf`` and the environment."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final, Literal, TypeAlias

import pluggy

from ztnode import plugins
from ztnode.hookspecs import Transport, UsesProxies
from ztnode.node.fail_over import AFTER, FailOver
from ztnode.node.local_conf import LocalConf
from ztnode.plugins import outer_proxy
from ztnode.wire.endpoint import Endpoint, format_endpoint

RelayUse: TypeAlias = Literal["auto", "force", "off"]
UDP: Final = "udp"
SOCKS5: Final = "socks5"
TCP: Final = "tcp"


@dataclass(frozen=True, slots=True)
class WaysOut:
    """What ``ztnode serve`` was asked for."""

    transports: tuple[str, ...] = ()
    """Names, the preferred one first; none: UDP, and SOCKS5 where that is the outer proxy."""
    relay_use: RelayUse | None = None
    """``auto``: a TCP relay comes after all others; ``force``: there are no others. None: as ``local.conf`` says, or
    ``auto`` on ZeroTier's own planet and where a relay is named."""
    relay: Endpoint | None = None
    """None: that of ``local.conf``, or that of ZeroTier, Inc."""
    after: float = AFTER
    """Seconds without an answer until the next one is taken."""
    outer_proxy: str | None = None
    """URL; None: that of the environment."""


Named: TypeAlias = tuple[str, Transport]


def named_transports(asked: WaysOut, manager: pluggy.PluginManager) -> list[Named]:
    """Those asked for, each with its name for the log; not open yet. Raises PluginError, ValueError or OSError."""
    names = asked.transports
    if not names:
        outer = outer_proxy.proxy_for("", asked.outer_proxy) or ""
        names = (UDP, SOCKS5) if outer.startswith("socks5://") else (UDP,)
    return [_made(name, asked, manager) for name in names]


def joined(
    named: Sequence[Named], asked: WaysOut, local_conf: LocalConf, manager: pluggy.PluginManager, *, foreign: bool
) -> FailOver:
    """The transport of a node: those, and the TCP relay. ``foreign``: its planet is not ZeroTier's. Raises as
    ``named_transports`` does."""
    relay = asked.relay or local_conf.tcp_relay
    use = asked.relay_use or local_conf.tcp_relay_use
    if use is None:
        # A planet of one's own has no business with a relay of ZeroTier, Inc. unless somebody says so.
        use = "off" if foreign and relay is None else "auto"
    if use == "force":
        named = ()
    if use != "off" and not any(is_tcp(name) for name, _ in named):
        named = (*named, _made(TCP if relay is None else f"{TCP}://{format_endpoint(relay)}", asked, manager))
    return FailOver(named, after=asked.after)


def _made(name: str, asked: WaysOut, manager: pluggy.PluginManager) -> Named:
    made: Transport | None = plugins.call(manager, "ztnode_transport", name=name)
    shown = outer_proxy.without_password(name)
    if made is None:
        raise ValueError(f"no plugin offers the transport {shown!r}")
    if isinstance(made, UsesProxies):
        made.use_proxies(functools.partial(outer_proxy.proxy_for, given=asked.outer_proxy))
    return shown, made


def is_tcp(name: str) -> bool:
    """Whether a transport of this name goes by a TCP relay."""
    return name.partition("://")[0] == TCP


def relay_use(names: Sequence[str]) -> RelayUse:
    """What these transports come to."""
    relays = [is_tcp(name) for name in names]
    return "force" if all(relays) else "auto" if any(relays) else "off"
