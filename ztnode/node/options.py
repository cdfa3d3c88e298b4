"""What ``ztnode serve`` is asked for, as the node takes it."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from ztnode.node.opening import StoreOptions
from ztnode.node.transports import WaysOut
from ztnode.vl1.trusted_paths import TrustedNetwork
from ztnode.wire.identity import Identity
from ztnode.wire.packet import DEFAULT_PHYSICAL_MTU

DEFAULT_PORT: Final = 9993
HOME: Final = "zerotier"
"""The state directory's part that is laid out as a ZeroTier One home."""


@dataclass(frozen=True, slots=True)
class NodeOptions:
    """A node, and what it is to be."""

    state: Path
    planet: str | None = None
    store: str | None = None
    """State store URL; None: the directory ``<state>/zerotier``."""
    port_mapping: bool = True
    """Whether the router before us is asked for a port; ``local.conf`` may say no, too."""
    ways_out: WaysOut = field(default_factory=WaysOut)
    store_key: bytes | None = None
    """Encrypts what is kept there, 32 bytes."""
    pool: int = 0
    """Take one of so many identities that the store keeps for several nodes."""
    standby: bool = True
    """Wait while another node holds the store."""
    identity: Identity | None = None
    """With its secret, in place of one that would be made."""
    port: int = DEFAULT_PORT
    """UDP port, 0: any. That of the last run goes first, and another one is taken when it is in use, unless
    ``port_required``."""
    port_required: bool = False
    workers: int = 1
    lanes: bool = True
    """Whether the stack worker may seal and open the frames of busy peers itself; with several workers it does not."""
    physical_mtu: int = DEFAULT_PHYSICAL_MTU
    """Longest UDP payload that is sent, bytes; ``local.conf`` may say otherwise for some networks, and each path finds
    out by itself if it carries less."""
    congestion: str = "cubic"
    """Congestion control of TCP, a name that ``netstack.tcp.congestion`` knows."""
    root: bool = False
    controller: bool = False
    sso_url: str = ""
    """Where members of the networks that it controls hand in their log-ins; empty: nowhere."""
    networks: tuple[int, ...] = ()
    ephemeral: bool = False
    """The identity ends with the node: controllers are asked to forget it then."""
    trusted_paths: tuple[TrustedNetwork, ...] = ()
    """Beside those of ``local.conf``."""

    def where_state_is(self) -> StoreOptions:
        """The store, and how it is shared."""
        url = self.store or str((self.state / HOME).absolute())
        return StoreOptions(url, self.store_key, self.pool, self.standby)
