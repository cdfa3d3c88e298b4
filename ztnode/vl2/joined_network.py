"""One joined network: its configuration, its members and what there is to see of it.

The data plane is in ``forwarding.py``, multicast in ``multicaster.py``; this is what decides who may take part.
Source: reference Network.cpp.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Final, TypeVar

from ztnode.vl1 import Message, Peer
from ztnode.vl2.adhoc import adhoc_config, is_adhoc
from ztnode.vl2.config_client import ConfigClient
from ztnode.vl2.forwarding import Forwarding
from ztnode.vl2.membership import MAX_HELD, Membership, Verdict
from ztnode.vl2.multicaster import ANNOUNCE_INTERVAL, Multicaster
from ztnode.vl2.snapshot import NetworkFigures, NetworkSnapshot, NetworkStatus
from ztnode.vl2.vl2_core import Vl2Core
from ztnode.vl2.vl2_events import ConfigStored, NetworkChanged
from ztnode.wire.address import format_address
from ztnode.wire.buffer import Buffer
from ztnode.wire.certificate_of_membership import CertificateOfMembership
from ztnode.wire.config_chunk import FLAG_FAST_PROPAGATE, ConfigChunk, build_accepted
from ztnode.wire.config_request import ConfigRequest, RequestMetadata
from ztnode.wire.credential import CredentialType
from ztnode.wire.mac import mac_of
from ztnode.wire.multicast import MulticastGroup
from ztnode.wire.network_config import (
    DEFAULT_MTU,
    SPECIALIST_ACTIVE_BRIDGE,
    SPECIALIST_ANCHOR,
    SPECIALIST_MULTICAST_REPLICATOR,
    Dns,
    NetworkConfig,
)
from ztnode.wire.network_credentials import NetworkCredentials
from ztnode.wire.packet import (
    ERROR_NEED_MEMBERSHIP_CERTIFICATE,
    VERB_NETWORK_CONFIG,
    VERB_NETWORK_CONFIG_REQUEST,
    VERB_NETWORK_CREDENTIALS,
    VERB_NOP,
)
from ztnode.wire.revocation import Revocation
from ztnode.wire.wire_error import WireError

MAX_MEMBERSHIPS: Final = 16384
MAX_HELD_IN_ALL: Final = 256
"""Frames of all members that wait for a certificate."""
MAX_DEFERRED: Final = 64
CREDENTIALS_INTERVAL: Final = 500.0
"""Seconds after which credentials are shown again to a member that we send to (ZT_PEER_ACTIVITY_TIMEOUT)."""
CREDENTIALS_MIN_INTERVAL: Final = 1.0
"""Seconds that must pass before a member's demand for them counts again (ZT_PEER_CREDENTIALS_REQUEST_RATE_LIMIT)."""
REFUSAL_MIN_INTERVAL: Final = 1.0
HOUSEKEEPING_INTERVAL: Final = 30.0
_DEFERRED_INTERVAL: Final = 0.1
_HELD_LIFETIME: Final = 2.0
_NO_CONFIG: Final = b"\n"
_NEVER: Final = float("-inf")

_C = TypeVar("_C")


@dataclass(frozen=True, slots=True)
class _Deferred:
    """Credentials that wait until their signer is known."""

    sender: Peer
    credentials: NetworkCredentials
    until: float


class JoinedNetwork:
    """Owned by the switch, which hands it every message that concerns it."""

    def __init__(self, core: Vl2Core, nwid: int, now: float, wall: int) -> None:
        self._core = core
        self.nwid = nwid
        self.mac = mac_of(core.address, nwid)
        self.controller = 0 if is_adhoc(nwid) else nwid >> 24
        self.config: NetworkConfig | None = None
        """The configuration in force; None while there is none, or it was taken back."""
        self._wall = wall
        self._from_cache = False
        self._config_changed_at = _NEVER
        self._config_received_at = now
        self._client = ConfigClient(now)
        self._members: dict[int, Membership] = {}
        self._deferred: list[_Deferred] = []
        self._held = 0
        self.auth_token = ""
        """Shown to the controller, which may let us in for it; ``token:`` and the token, empty for none."""
        self._next_housekeeping = now + HOUSEKEEPING_INTERVAL
        self.multicaster = Multicaster(core, nwid, self.mac, self.controller, self.push_credentials, self._members)
        self.forwarding = Forwarding(core, nwid, self.mac, self, self.multicaster)

    # Joining

    def start(self, cached: bytes | None, now: float) -> None:
        """Use what is kept on disk, if anything, and ask the controller."""
        if is_adhoc(self.nwid):
            self._start_adhoc(now)
            return
        config = self._usable(cached)
        if config is not None:
            self._from_cache = True
            self._apply(config, now)
        elif not cached:
            self._core.events.append(ConfigStored(self.nwid, _NO_CONFIG))
        for address in self.contacts():
            self._core.vl1.contact(address, now)
        self._core.events.append(NetworkChanged(self.nwid))
        self.request_config(now)

    def _start_adhoc(self, now: float) -> None:
        config = adhoc_config(self.nwid, self._core.address, self._wall)
        self._client.next_request = float("inf")
        if config is None:
            self._client.refusal = NetworkStatus.NOT_FOUND
        else:
            self._apply(config, now)
        self._core.events += (ConfigStored(self.nwid, _NO_CONFIG), NetworkChanged(self.nwid))

    def _usable(self, cached: bytes | None) -> NetworkConfig | None:
        if not cached or len(cached) < 2:
            return None
        try:
            config = NetworkConfig.parse(cached)
        except WireError:
            self.forwarding.drop("drop_broken_cached_config")
            return None
        return config if self._is_for_us(config) else None

    def contacts(self) -> set[int]:
        """Who VL1 is to stay in contact with for us: the controller, anchors and multicast replicators."""
        config = self.config
        specialists = config.with_role(SPECIALIST_ANCHOR | SPECIALIST_MULTICAST_REPLICATOR) if config else ()
        return {self.controller, *specialists} - {0, self._core.address}

    def _is_for_us(self, config: NetworkConfig) -> bool:
        return config.network_id == self.nwid and config.issued_to == self._core.address

    def request_config(self, now: float) -> None:
        """Ask the controller, now."""
        self._client.requested(self._send_request(now), now)

    def say_goodbye(self, now: float) -> None:
        """Tell the controller that this member ends, so that one of ours forgets it if it is ephemeral."""
        if not is_adhoc(self.nwid):
            self._send_request(now, goodbye=True)

    def _send_request(self, now: float, *, goodbye: bool = False) -> int:
        """The packet's id."""
        core, config = self._core, self.config
        said = RequestMetadata(
            protocol=core.vl1.config.protocol,
            version=core.vl1.config.version,
            os_arch=core.os_arch,
            auth_token=self.auth_token,
            ephemeral=core.ephemeral,
            goodbye=goodbye,
        )
        revision, timestamp = (config.revision, config.timestamp) if config is not None else (0, 0)
        request = ConfigRequest(self.nwid, said.build_dictionary(), revision, timestamp)
        return core.send(self.controller, VERB_NETWORK_CONFIG_REQUEST, request.build(), now, compress=True)

    def ask_again(self, now: float) -> None:
        """The controller may have another answer for us now."""
        if not is_adhoc(self.nwid):
            self._client.ask_again(now)

    def went_online(self, now: float) -> None:
        """Roots can be reached (again): what was said to them before may be lost."""
        if not is_adhoc(self.nwid):
            self._client.went_online(now)
        if self.config is not None:
            self.multicaster.next_announcement = now

    # What the controller says

    def receive_chunk(
        self, peer: Peer, payload: Buffer, now: float, *, in_re: int | None = None, pushed_in: int | None = None
    ) -> None:
        """Take a chunk of a configuration, in OK to the packet ``in_re`` or in a NETWORK_CONFIG with the packet id
        ``pushed_in``. Raises WireError."""
        controller = self._core.identity_of(self.controller)
        if controller is None or is_adhoc(self.nwid):
            raise WireError("configuration of a network whose controller is unknown")
        chunk = ConfigChunk.parse(payload)
        if self._client.has(chunk):
            return
        from_controller = peer.address == self.controller
        config = self._client.assemble(chunk, controller, from_controller)
        if chunk.flags & FLAG_FAST_PROPAGATE and chunk.signature:
            self._propagate(VERB_NETWORK_CONFIG, bytes(payload), (peer.address, self.controller), now)
        if config is None:
            return
        if not self._is_for_us(config):
            raise WireError("configuration for another member")
        if not self._is_later(config, from_controller=from_controller, in_re=in_re):
            self.forwarding.drop("drop_older_config")
            return
        self._accept(config, now)
        if pushed_in is not None:
            accepted = build_accepted(self.nwid, chunk.update_id)
            self._core.vl1.reply_ok(peer, VERB_NETWORK_CONFIG, pushed_in, accepted, now)

    def _is_later(self, config: NetworkConfig, *, from_controller: bool, in_re: int | None) -> bool:
        """Whether a configuration may take the place of what we hold: an older one is a replay, whoever sends it,
        unless the controller answers by it what we asked since (its clock was set back)."""
        present = self.config
        if present is None or (from_controller and in_re is not None and self._client.is_awaited(in_re)):
            return True
        age, held = (config.timestamp, config.revision), (present.timestamp, present.revision)
        return age > held or (from_controller and age == held)

    def _accept(self, config: NetworkConfig, now: float) -> None:
        """A configuration of the controller, just received."""
        before = self.snapshot()
        self._config_received_at = now
        self._client.configured(now)
        self._from_cache = False
        if config != self.config:
            self._core.events.append(ConfigStored(self.nwid, config.build()))
            self._apply(config, now)
        self._report_change(before)

    def _apply(self, config: NetworkConfig, now: float) -> None:
        self.config = config
        self._config_changed_at = now
        self.forwarding.configure(config)
        self.multicaster.configure(config, now)
        for address in self.contacts():
            self._core.vl1.contact(address, now)
        if now >= self.multicaster.next_announcement:
            self._announce(now)
        for address in [address for address, membership in self._members.items() if membership.held]:
            self._release(address)

    def refused(self, code: int, request_id: int, details: Buffer, now: float) -> None:
        """The controller answered with ERROR ``code``. Raises WireError."""
        before = self.snapshot()
        if not self._client.refused(code, request_id, details, now):
            self.forwarding.drop("drop_unexpected_error")
            return
        if self._client.refusal is NetworkStatus.WAITING_FOR_AUTHORIZATION:
            self._close(now)  # expelled: that acts at once
        self._report_change(before)

    def _close_if_outlived(self, now: float) -> None:
        """A controller that has lost the network, or wants a log-in, does not take it from its members: they go on for
        as long as their certificates agree (the reference goes on for good)."""
        config = self.config
        if config is None or self._client.refusal is None:
            return
        if (now - self._config_received_at) * 1000 >= config.credential_time_max_delta:
            before = self.snapshot()
            self._close(now)
            self._report_change(before)

    def _report_change(self, before: NetworkSnapshot) -> None:
        if self.snapshot() != before:
            self._core.events.append(NetworkChanged(self.nwid))

    def _close(self, now: float) -> None:
        """We are no member (any more): no frame passes, and a restart must not begin with what no longer holds."""
        if self.config is None:
            return
        self.config = None
        self._from_cache = False
        self.forwarding.configure(None)
        self.multicaster.configure(None, now)
        self._core.events.append(ConfigStored(self.nwid, _NO_CONFIG))

    # Members

    def membership(self, address: int) -> Membership:
        """What we know about another member; made on demand, the longest known making room if there are too many."""
        membership = self._members.get(address)
        if membership is None:
            membership = Membership()
            self._remember(address, membership)
        return membership

    def _remember(self, address: int, membership: Membership) -> None:
        if len(self._members) >= MAX_MEMBERSHIPS:
            oldest = next(iter(self._members))
            self._held -= len(self._members.pop(oldest).held)
        self._members[address] = membership

    def admits(self, peer: Peer, now: float) -> bool:
        """Whether a peer may take part; tells it our multicast groups now and then if so."""
        config = self.config
        if config is None:
            return False
        membership = self._members.get(peer.address)
        if config.is_private and (membership is None or not membership.allowed(config, peer.identity)):
            return False
        if membership is None:
            membership = self.membership(peer.address)
        if now - membership.announced_at >= ANNOUNCE_INTERVAL:
            membership.announced_at = now
            self.multicaster.announce_to(peer.address, now)
        return True

    def refuse(self, message: Message, now: float) -> None:
        """A frame came from a peer that may not take part: ask for its certificate, keep the frame until it comes."""
        peer, verb, packet_id, payload = message
        if self.config is None:
            self.forwarding.drop("drop_not_joined")
            return
        membership = self.membership(peer.address)
        if now - membership.refused_at >= REFUSAL_MIN_INTERVAL:
            membership.refused_at = now
            nwid = self.nwid.to_bytes(8, "big")
            self._core.vl1.reply_error(peer, verb, packet_id, ERROR_NEED_MEMBERSHIP_CERTIFICATE, nwid, now)
        if now - membership.held_at >= _HELD_LIFETIME:
            self._drop_held(membership)
            membership.held_at = now
        if len(membership.held) < MAX_HELD and self._held < MAX_HELD_IN_ALL:
            membership.held.append((peer, verb, packet_id, bytes(payload)))
            self._held += 1
        else:
            self.forwarding.drop("drop_no_certificate_of_membership")

    def _drop_held(self, membership: Membership) -> None:
        self._held -= len(membership.held)
        for _ in membership.held:
            self.forwarding.drop("drop_no_certificate_of_membership")
        membership.held.clear()

    def _release(self, address: int) -> None:
        """A member's certificate came: its frames may pass now."""
        membership = self._members[address]
        self._held -= len(membership.held)
        self._core.retry += membership.held
        membership.held = []

    def push_credentials(self, address: int, now: float) -> None:
        """Show a member what we have, unless it has seen it."""
        membership = self.membership(address)
        sent = membership.credentials_sent_at
        if sent < self._config_changed_at or now - sent >= CREDENTIALS_INTERVAL:
            self._send_credentials(address, membership, now)

    def credentials_wanted(self, peer: Peer, now: float) -> None:
        """A peer refused a frame for want of our certificate."""
        membership = self.membership(peer.address)
        if now - membership.credentials_sent_at >= CREDENTIALS_MIN_INTERVAL:
            self._send_credentials(peer.address, membership, now)

    def _send_credentials(self, address: int, membership: Membership, now: float) -> None:
        config = self.config
        if config is None or address == self._core.address:
            return
        membership.credentials_sent_at = now
        certificate = config.certificate_of_membership
        credentials = NetworkCredentials(
            () if certificate is None else (certificate,),
            config.capabilities,
            config.tags,
            certificates_of_ownership=config.certificates_of_ownership,
        )
        for packet in credentials.packets():
            self._core.send(address, VERB_NETWORK_CREDENTIALS, packet, now, compress=True)

    def receive_credentials(self, sender: Peer, credentials: NetworkCredentials, now: float) -> None:
        """Take credentials of this network; those of others are passed over."""
        leftover = self._take_credentials(sender, credentials, now)
        if leftover is not None and len(self._deferred) < MAX_DEFERRED:
            self._ask_for_givers(leftover, now)
            self._deferred.append(_Deferred(sender, leftover, now + _HELD_LIFETIME))

    def _ask_for_givers(self, credentials: NetworkCredentials, now: float) -> None:
        """Capabilities that were handed on wait for the identities of those who did (Capability::verify). Links before
        the first unknown giver have held, the controller's at least."""
        unknown = {
            next((link.giver for link in capability.custody if self._core.identity_of(link.giver) is None), 0)
            for capability in credentials.capabilities
        }
        for giver in unknown - {0, self.controller}:
            self._core.send(giver, VERB_NOP, b"", now)  # which has VL1 ask whose the address is

    def receive_certificate(self, sender: Peer, certificate: CertificateOfMembership | None, now: float) -> None:
        """Take a certificate that old peers attach to frames."""
        if certificate is not None:
            self.receive_credentials(sender, NetworkCredentials((certificate,)), now)

    def _take_credentials(self, sender: Peer, credentials: NetworkCredentials, now: float) -> NetworkCredentials | None:
        """Returns what has to wait for its signer's identity."""
        identity_of = self._core.identity_of
        changed: set[int] = set()

        def take(
            items: Iterable[_C], holder: Callable[[_C], int], add: Callable[[Membership, _C], Verdict]
        ) -> tuple[_C, ...]:
            waiting = []
            for item in items:
                address = holder(item)
                # A member is remembered only once something about it is proven: strangers can claim anything.
                membership = self._members.get(address) or Membership()
                verdict = add(membership, item)
                if verdict is Verdict.NEW:
                    if address not in self._members:
                        self._remember(address, membership)
                    changed.add(address)
                elif verdict is Verdict.DEFERRED:
                    waiting.append(item)
                elif verdict is Verdict.REJECTED:
                    self.forwarding.drop("drop_credential")
            return tuple(waiting)

        def ours(network_id: int) -> bool:
            return network_id == self.nwid

        waiting = NetworkCredentials(
            take(
                (c for c in credentials.certificates_of_membership if ours(c.network_id)),
                lambda c: c.issued_to,
                lambda m, c: m.add_membership(c, identity_of),
            ),
            take(
                (c for c in credentials.capabilities if ours(c.network_id)),
                lambda c: c.issued_to,
                lambda m, c: m.add_capability(c, identity_of),
            ),
            take(
                (t for t in credentials.tags if ours(t.network_id)),
                lambda t: t.issued_to,
                lambda m, t: m.add_tag(t, identity_of),
            ),
            take(
                (r for r in credentials.revocations if ours(r.network_id)),
                lambda r: r.target,
                lambda m, r: self._take_revocation(sender, m, r, now),
            ),
            take(
                (c for c in credentials.certificates_of_ownership if ours(c.network_id)),
                lambda c: c.issued_to,
                lambda m, c: m.add_ownership(c, identity_of),
            ),
        )
        if changed:
            self.forwarding.invalidate()
            for address in changed:
                if self._members[address].held:
                    self._release(address)
        return waiting if waiting != NetworkCredentials() else None

    def _take_revocation(self, sender: Peer, membership: Membership, revocation: Revocation, now: float) -> Verdict:
        verdict = membership.add_revocation(revocation, self._core.identity_of)
        if verdict is Verdict.NEW:
            if revocation.fast_propagate:
                packet = NetworkCredentials(revocations=(revocation,)).build()
                self._propagate(VERB_NETWORK_CREDENTIALS, packet, (sender.address, revocation.signed_by), now)
            if revocation.target == self._core.address and revocation.credential_type == CredentialType.COM:
                self._client.ask_again(now)
        return verdict

    def _propagate(self, verb: int, payload: bytes, without: tuple[int, ...], now: float) -> None:
        """Pass on to all members that we know."""
        for address in self._members:
            if address not in without and address != self._core.address:
                self._core.send(address, verb, payload, now)

    # The clock

    def handle_timer(self, now: float) -> None:
        """Do what has become due."""
        if now >= self._client.next_request:
            self.request_config(now)
        if now >= self.multicaster.next_announcement:
            self._announce(now)
        if self._deferred:
            waiting, self._deferred = self._deferred, []
            for entry in waiting:
                if entry.until > now:
                    leftover = self._take_credentials(entry.sender, entry.credentials, now)
                    if leftover is not None:
                        self._deferred.append(_Deferred(entry.sender, leftover, entry.until))
        self.multicaster.handle_timer(now)
        self._close_if_outlived(now)
        if now >= self._next_housekeeping:
            self._next_housekeeping = now + HOUSEKEEPING_INTERVAL
            self._housekeep(now)

    def next_timer(self, now: float) -> float:
        """When ``handle_timer`` has something to do."""
        multicaster = self.multicaster
        due = min(
            self._client.next_request,
            multicaster.next_announcement,
            multicaster.next_timer(),
            self._next_housekeeping,
        )
        return min(due, now + _DEFERRED_INTERVAL) if self._deferred else due

    def _announce(self, now: float) -> None:
        config = self.config
        if config is None:
            return
        admitted = []
        for address, membership in self._members.items():
            peer = self._core.vl1.peer(address)
            if peer is not None and membership.allowed(config, peer.identity):
                membership.announced_at = now
                admitted.append(address)
        self.multicaster.announce(admitted, now)

    def _housekeep(self, now: float) -> None:
        for address in [address for address in self._members if self._core.vl1.peer(address) is None]:
            self._held -= len(self._members.pop(address).held)
        for membership in self._members.values():
            if membership.held and now - membership.held_at >= _HELD_LIFETIME:
                self._drop_held(membership)
            if self.config is not None:
                membership.forget_expired(self.config)
        self.multicaster.expire(now)

    # What there is to see

    def subscribe(self, group: MulticastGroup, now: float) -> None:
        """Receive this group, too."""
        self.multicaster.subscribe(group, now)

    @property
    def status(self) -> NetworkStatus:
        """Where the membership stands. There may be a configuration, and all may work, though the controller's last
        answer was a refusal."""
        if self._client.refusal is not None:
            return self._client.refusal
        return NetworkStatus.OK if self.config is not None else NetworkStatus.REQUESTING

    def snapshot(self) -> NetworkSnapshot:
        """Everything a person may want to know."""
        config = self.config
        status = self.status
        return NetworkSnapshot(
            nwid=self.nwid,
            status=status,
            detail=self._detail(status),
            name=config.name if config else "",
            mac=self.mac,
            mtu=config.mtu if config else DEFAULT_MTU,
            addresses=config.static_addresses if config else (),
            routes=config.routes if config else (),
            dns=config.dns if config else Dns(),
            private=config.is_private if config else True,
            broadcast=config.broadcast if config else False,
            multicast_limit=config.multicast_limit if config else 0,
            bridge=config is not None and self._core.address in config.with_role(SPECIALIST_ACTIVE_BRIDGE),
            revision=config.revision if config else 0,
            sso=self._client.sso,
            from_cache=self._from_cache,
            groups=self.multicaster.groups,
            members=len(self._members),
            counters=dict(self.forwarding.counters),
            issued_at=config.timestamp if config else 0,
            received_at=self._config_received_at if config and not self._from_cache else None,
        )

    def figures(self) -> NetworkFigures:
        """What was counted."""
        frames = self.forwarding.figures
        return NetworkFigures(
            self.nwid,
            frames.received,
            frames.bytes_received,
            frames.sent,
            frames.bytes_sent,
            len(self.multicaster.groups),
            dict(self.forwarding.counters),
        )

    def _detail(self, status: NetworkStatus) -> str:
        controller = format_address(self.controller)
        if status is NetworkStatus.REQUESTING:
            return f"waiting for an answer of the controller {controller}"
        if status is NetworkStatus.WAITING_FOR_AUTHORIZATION:
            own = format_address(self._core.address)
            return f"an administrator of the network must authorize the address {own}"
        if status is NetworkStatus.NOT_FOUND:
            return f"the controller {controller} knows no such network{self._still_valid()}"
        if status is NetworkStatus.AUTHENTICATION_REQUIRED:
            return f"log in at the authentication URL to be admitted{self._still_valid()}"
        return "from the cache, not confirmed by the controller yet" if self._from_cache else ""

    def _still_valid(self) -> str:
        return "" if self.config is None else "; what it gave before holds until the certificate expires"
