"""The network controller: decides who is a member and tells each member its signed configuration. Sans-IO.

Driven like every other room: messages of VL1 come in (``receive``), the clock wakes it (``handle_timer``), answers and
pushes leave through the ``Vl1`` that it was given. What must survive a restart is handed out as documents
(``changed_documents``), what an observer should know as events.

Facts: the reference's ``controller/EmbeddedNetworkController.cpp`` (request handling, pushes, revocations) and
``node/Node.cpp`` (``ncSendConfig``: chunks; ``ncSendError``).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

from ztnode.controller.documents import Member, Network
from ztnode.vl1.node import Message, Vl1
from ztnode.wire.identity import Identity


@dataclass(frozen=True, slots=True)
class ControllerLimits:
    """Bounds on what strangers can make the controller keep or do."""

    max_networks: int = 4096
    max_members: int = 16384
    """Members of one network, authorised and not."""
    max_pending: int = 1024
    """Members of one network that no administrator has acted on; the one unheard for longest makes room."""
    min_request_interval: float = 1.0
    """Seconds between two requests of one member that are answered (reference: ZT_NETCONF_MIN_REQUEST_PERIOD)."""


@dataclass(frozen=True, slots=True)
class NetworkChanged:
    """A network was made, changed or (``network`` is None) deleted."""

    nwid: int
    network: Network | None


@dataclass(frozen=True, slots=True)
class MemberChanged:
    """A member appeared, changed, or (``member`` is None) was deleted."""

    nwid: int
    address: int
    member: Member | None


ControllerEvent: TypeAlias = NetworkChanged | MemberChanged


class Controller:
    """All networks that this node's identity controls."""

    def __init__(
        self,
        vl1: Vl1,
        identity: Identity,
        *,
        random: Callable[[int], bytes],
        documents: Mapping[str, bytes] | None = None,
        limits: ControllerLimits | None = None,
    ) -> None:
        """``identity`` has its private keys. ``documents``: what the state store has under ``controller.d/network/``,
        by key. Raises ControllerError that names the key of a document it cannot use: a controller that forgot a
        member would hand its address to another."""
        self.counters: Counter[str] = Counter()

    # Driven by the owner

    def receive(self, messages: Sequence[Message], now: float, wall: int) -> None:
        """Answer what is for the controller among VL1's messages (others pass by). ``now``: monotonic seconds, ``wall``:
        Unix milliseconds. Never raises on their content."""
        raise NotImplementedError

    def handle_timer(self, now: float, wall: int) -> None:
        """Do what has become due."""
        raise NotImplementedError

    def next_timer(self) -> float | None:
        """When ``handle_timer`` wants to be called next."""
        raise NotImplementedError

    def changed_documents(self) -> list[tuple[str, bytes | None]]:
        """State-store keys with their new values (None: delete) since the last call. Write them before ``to_send``:
        an address that was promised must not be forgotten."""
        raise NotImplementedError

    def events(self) -> list[ControllerEvent]:
        """What changed since the last call, for whoever watches."""
        raise NotImplementedError

    # Administration: raises KeyError for an unknown network or member and ControllerError for a bad setting

    def networks(self) -> list[Network]:
        """All networks by id."""
        raise NotImplementedError

    def network(self, nwid: int) -> Network:
        """One network."""
        raise NotImplementedError

    def create_network(self, settings: Mapping[str, Any], now: float, wall: int, *, nwid: int | None = None) -> Network:
        """A new network; ``settings`` as in ``documents.NETWORK_SETTINGS``; ``nwid`` None: a random one of ours.
        ControllerError if the id exists or is not ours."""
        raise NotImplementedError

    def update_network(self, nwid: int, settings: Mapping[str, Any], now: float, wall: int) -> Network:
        """Change settings; members that are online get the new configuration at once."""
        raise NotImplementedError

    def delete_network(self, nwid: int, now: float, wall: int) -> None:
        """Delete the network and all its members; those online are told."""
        raise NotImplementedError

    def members(self, nwid: int) -> list[Member]:
        """All members by address."""
        raise NotImplementedError

    def member(self, nwid: int, address: int) -> Member:
        """One member."""
        raise NotImplementedError

    def online_members(self, nwid: int, now: float) -> Iterable[int]:
        """Addresses heard within the last two configuration refreshes."""
        raise NotImplementedError

    def update_member(self, nwid: int, address: int, settings: Mapping[str, Any], now: float, wall: int) -> Member:
        """Change (or make known in advance) a member; ``settings`` as in ``documents.MEMBER_SETTINGS``, ``authorized``
        among them. Pushed at once if it is online; a deauthorised one's certificate is revoked."""
        raise NotImplementedError

    def delete_member(self, nwid: int, address: int, now: float, wall: int) -> None:
        """Forget a member; its addresses become free. A member that asks again is new."""
        raise NotImplementedError
