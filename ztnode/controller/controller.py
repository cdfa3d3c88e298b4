"""The network controller: decides who is a member and tells each member its signed configuration. Sans-IO.

Driven like VL1 and VL2: messages of VL1 come in (``receive``), the clock wakes it (``handle_timer``), answers and
pushes leave through the ``Vl1`` that it was given. What must survive a restart is handed out as documents
(``changed_documents``), what an observer should know as events.

Facts: the reference's ``controller/EmbeddedNetworkController.cpp`` (request handling, pushes, revocations) and
``node/Node.cpp`` (``ncSendConfig``, ``ncSendRevocation``, ``ncSendError``). Two things are better than there: a member
that loses its authorization is told at once, where the reference lets it find out at its next refresh; and an address
is never given to a second member while another holds it.
"""

from __future__ import annotations

import contextlib
import heapq
from collections import Counter, OrderedDict, deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Final, TypeAlias

from ztnode.controller.address_pools import assign
from ztnode.controller.configuration import LEGACY_CONFIG_VERSION, NO_SSO, grant_defaults, issue
from ztnode.controller.controller_error import ControllerError
from ztnode.controller.database import Database
from ztnode.controller.documents import ControlledMember, ControlledNetwork, change_member, change_network
from ztnode.controller.issue_clock import KEY as CLOCK
from ztnode.controller.issue_clock import IssueClock
from ztnode.controller.parsed_documents import ParsedDocuments
from ztnode.controller.sign_ons import SignOns
from ztnode.vl1 import Message, Peer, Vl1
from ztnode.wire.address import controller_of, format_address, format_nwid, is_reserved
from ztnode.wire.buffer import Buffer
from ztnode.wire.config_chunk import parse_accepted, split_config
from ztnode.wire.config_request import ConfigRequest, RequestMetadata, build_auth_info
from ztnode.wire.credential import CredentialType
from ztnode.wire.identity import Identity
from ztnode.wire.network_config import SingleSignOn
from ztnode.wire.network_credentials import NetworkCredentials
from ztnode.wire.packet import (
    ERROR_NETWORK_ACCESS_DENIED,
    ERROR_NETWORK_AUTHENTICATION_REQUIRED,
    ERROR_OBJ_NOT_FOUND,
    VERB_ERROR,
    VERB_NETWORK_CONFIG,
    VERB_NETWORK_CONFIG_REQUEST,
    VERB_NETWORK_CREDENTIALS,
    VERB_OK,
)
from ztnode.wire.reply import build_error, parse_ok
from ztnode.wire.revocation import FLAG_FAST_PROPAGATE, Revocation
from ztnode.wire.wire_error import WireError

ONLINE_SECONDS: Final = 120.0
"""A member is online if it was heard within two refresh periods (ZT_NETWORK_AUTOCONF_DELAY is 60 s)."""
PUSHES_PER_TURN: Final = 32
"""Configurations and revocations sent in one go, each about 100 µs of signing: a change to a network of thousands of
members must not stop the node for seconds."""
EPHEMERAL_SWEEP: Final = 30.0
"""Seconds between two looks for ephemeral members that are to be forgotten."""
_MAX_STRANGERS: Final = 4096
_NWID_TRIALS: Final = 10_000


@dataclass(frozen=True, slots=True)
class ControllerLimits:
    """Bounds on what strangers can make the controller keep or do."""

    max_networks: int = 4096
    max_members: int = 131_072
    """Members of one network, authorized and not."""
    max_pending: int = 1024
    """Members of one network on which no administrator has acted; the one unheard for longest makes room."""
    min_request_interval: float = 1.0
    """Seconds between two requests of one member that are answered (reference: ZT_NETCONF_MIN_REQUEST_PERIOD)."""


@dataclass(frozen=True, slots=True)
class ControlledNetworkChanged:
    """A network was made, changed or (``network`` is None) deleted."""

    nwid: int
    network: ControlledNetwork | None


@dataclass(frozen=True, slots=True)
class MemberChanged:
    """A member appeared, changed, or (``member`` is None) was deleted."""

    nwid: int
    address: int
    member: ControlledMember | None


ControllerEvent: TypeAlias = ControlledNetworkChanged | MemberChanged
_Key: TypeAlias = tuple[int, int]
"""(nwid, member address)."""


class _Contact:
    """What is known of a member that asked since this process started, and is kept nowhere else."""

    __slots__ = ("last_heard", "last_request", "metadata", "packet_id")

    def __init__(self) -> None:
        self.last_request = float("-inf")
        self.last_heard = float("-inf")
        """When it asked, or took what was pushed to it: its next request comes a minute after either."""
        self.packet_id = 0
        self.metadata = RequestMetadata()


class Controller:
    """All networks that this node's identity controls."""

    def __init__(
        self,
        vl1: Vl1,
        identity: Identity,
        *,
        random: Callable[[int], bytes],
        documents: Mapping[str, bytes] | None = None,
        commit: Callable[[str, bytes | None], None] | None = None,
        limits: ControllerLimits | None = None,
        sso_url: str = "",
        strict: bool = False,
        parsed: ParsedDocuments | None = None,
    ) -> None:
        """``identity`` has its private keys. ``documents``: what the state store has under ``controller.d/``, by
        key; ``parsed`` spares what was parsed in advance, and is used up. ``commit`` keeps one document (None:
        deletes it) and returns when that is done; see "Administration".
        ``sso_url``: where members hand in their log-ins; empty: nowhere. ``strict``: no member is given anything that
        ``commit`` did not keep; without it a full disk does not stop new members.
        Raises ControllerError that names the key of a document it cannot use: a controller that forgot a member would
        hand its address to another."""
        self._vl1 = vl1
        self._identity = identity
        self._random = random
        self._limits = limits or ControllerLimits()
        self._database = Database(commit, strict=strict)
        self._database.load(documents or {}, parsed)
        self._clock = IssueClock((documents or {}).get(CLOCK))
        self._contacts: dict[_Key, _Contact] = {}
        # Those who ask for what does not exist or may not get in, with when they were answered last.
        self._strangers: OrderedDict[_Key, float] = OrderedDict()
        self._pushes: dict[_Key, None] = {}
        self._revocations: deque[tuple[int, bytes]] = deque()
        self._events: dict[tuple[int, int | None], ControllerEvent] = {}
        self.sso_url = sso_url
        self._sign_ons = SignOns(random)
        for network in self._database.networks():
            for member in self._database.members(network.nwid):
                if member.sso_nonce:
                    self._sign_ons.settle((network.nwid, member.address), member.sso_nonce)
        # When log-ins end, by the monotonic clock; each member that asked has one place.
        self._endings: list[tuple[float, _Key]] = []
        self._ending: set[_Key] = set()
        self._due: float | None = None
        self._unheard: dict[_Key, float] = {}
        """Ephemeral members that have not asked since this process started: since when we have waited for them."""
        self._next_sweep = float("-inf")
        self.counters: Counter[str] = Counter()

    # Driven by the owner

    def receive(self, messages: Sequence[Message], now: float, wall: int) -> None:
        """Answer what is for the controller among VL1's messages (others pass by). ``now``: monotonic seconds,
        ``wall``: Unix milliseconds. Never raises on their content."""
        for peer, verb, packet_id, payload in messages:
            if verb == VERB_NETWORK_CONFIG_REQUEST:
                try:
                    self._request(peer, packet_id, payload, now, wall)
                except WireError:
                    self.counters["drop_malformed_request"] += 1
                except OSError:
                    # It asks again; an address that is not kept could be given to another one by who takes over.
                    self.counters["drop_request_not_kept"] += 1
            elif verb == VERB_OK:
                with contextlib.suppress(WireError):
                    self._accepted(peer, payload, now)

    def handle_timer(self, now: float, wall: int) -> None:
        """Send the next of the pushes that wait, end log-ins and forget ephemeral members whose time is over."""
        self._end_log_ins(now, wall)
        if now >= self._next_sweep and self._database.has_ephemeral():
            self._sweep(now, wall)
        if self._due is not None and now >= self._due:
            self._drain(now, wall)

    def next_timer(self) -> float | None:
        """When ``handle_timer`` wants to be called next: at once while pushes wait, else when a log-in ends, and now
        and then while there are ephemeral members."""
        if self._due is not None:
            return self._due
        due = [self._endings[0][0]] if self._endings else []
        if self._database.has_ephemeral():
            due.append(self._next_sweep)
        return min(due, default=None)

    def changed_documents(self) -> list[tuple[str, bytes | None]]:
        """State-store keys with their new values (None: delete) since the last call. Write them before ``to_send``:
        an address that was promised must not be forgotten."""
        return [*self._database.unsaved(), *self._clock.unsaved()]

    def events(self) -> list[ControllerEvent]:
        """What changed since the last call, for whoever watches: the newest state of each thing."""
        events, self._events = list(self._events.values()), {}
        return events

    # Administration: raises KeyError for an unknown network or member, ControllerError for a bad setting, and what
    # ``commit`` raises; then nothing has changed

    def networks(self) -> list[ControlledNetwork]:
        """All networks by id."""
        return self._database.networks()

    def network(self, nwid: int) -> ControlledNetwork:
        """One network."""
        network = self._database.network(nwid)
        if network is None:
            raise KeyError(nwid)
        return network

    def create_network(
        self, settings: Mapping[str, Any], now: float, wall: int, *, nwid: int | None = None
    ) -> ControlledNetwork:
        """A new network; ``settings`` as in ``documents.NETWORK_SETTINGS``; ``nwid`` None: a random one of ours.
        ControllerError if the id exists or is not ours."""
        if len(self._database) >= self._limits.max_networks:
            raise ControllerError(f"this controller has {len(self._database)} networks, as many as it may have")
        if nwid is None:
            nwid = self._free_nwid()
        elif controller_of(nwid) != self._identity.address or not nwid & 0xFFFFFF:
            ours = format_address(self._identity.address)
            raise ControllerError(f"{format_nwid(nwid)} is not an id for this controller: ids begin with {ours}")
        elif nwid in self._database:
            raise ControllerError(f"the network {format_nwid(nwid)} exists already")
        network = change_network(ControlledNetwork(nwid, creation_time=wall), settings)
        return self._put_network(self._checked(network), now, wall)

    def update_network(self, nwid: int, settings: Mapping[str, Any], now: float, wall: int) -> ControlledNetwork:
        """Change settings; members that are online get the new configuration at once."""
        return self._put_network(self._checked(change_network(self.network(nwid), settings)), now, wall)

    def _checked(self, network: ControlledNetwork) -> ControlledNetwork:
        if network.sso.enabled and not self.sso_url:
            raise ControllerError(
                "members would have nowhere to hand in their log-ins: start the node with --sso-listen"
            )
        return network

    def delete_network(self, nwid: int, now: float) -> None:
        """Delete the network and all its members; those online are told."""
        self.network(nwid)
        members = self._database.addresses(nwid)
        self._database.delete_network(nwid)
        for address in members:
            self._tell(nwid, address, ERROR_OBJ_NOT_FOUND, now, 0)
            self._contacts.pop((nwid, address), None)
        for key in [key for key in self._events if key[0] == nwid]:
            del self._events[key]
        self._events[nwid, None] = ControlledNetworkChanged(nwid, None)

    def members(self, nwid: int) -> list[ControlledMember]:
        """All members by address."""
        return self._database.members(nwid)

    def members_after(self, nwid: int, address: int) -> Iterator[ControlledMember]:
        """Those of higher address than this, in order."""
        return self._database.members_after(nwid, address)

    def member(self, nwid: int, address: int) -> ControlledMember:
        """One member."""
        member = self._database.member(nwid, address)
        if member is None:
            raise KeyError(address)
        return member

    def count_members(self, nwid: int) -> tuple[int, int]:
        """(all members, the authorized ones) of a network. KeyError if there is none."""
        return self._database.count(nwid), self._database.count_authorized(nwid)

    @property
    def changes(self) -> Counter[str]:
        """See ``Database``."""
        return self._database.changes

    @property
    def waiting(self) -> int:
        """How many members wait to be told of a change."""
        return len(self._pushes)

    def count_all(self) -> tuple[int, int]:
        """(networks, members of all of them)."""
        return len(self._database), self._database.total()

    def authorizes(self, nwid: int, address: int) -> bool:
        """Whether a node is an authorized member of a network of ours."""
        member = self._database.member(nwid, address)
        return member is not None and member.authorized

    def last_seen(self, nwid: int, address: int) -> float | None:
        """When the member asked last, in the ``now`` of the calls; None if not since this process started."""
        contact = self._contacts.get((nwid, address))
        return None if contact is None else contact.last_heard

    def update_member(
        self, nwid: int, address: int, settings: Mapping[str, Any], now: float, wall: int
    ) -> ControlledMember:
        """Change (or make known in advance) a member; ``settings`` as in ``documents.MEMBER_SETTINGS``, ``authorized``
        among them. Pushed at once if it is online; a deauthorized one's certificate is revoked."""
        self.network(nwid)
        if is_reserved(address) or address >> 40:
            raise ControllerError(f"{address:010x} is not an address that a member can have")
        old = self._database.member(nwid, address)
        if old is None and self._database.count(nwid) >= self._limits.max_members:
            raise ControllerError(f"the network has {self._limits.max_members} members, as many as it may have")
        before = old or ControlledMember(nwid, address, creation_time=wall)
        member = change_member(before, settings)
        for ip in set(member.ip_assignments) - set(before.ip_assignments):
            holder = self._database.holder(nwid, ip)
            if holder is not None and holder != address:
                raise ControllerError(f"ipAssignments: {ip} is assigned to the member {format_address(holder)}")
        if member.authorized and not before.authorized:
            member = replace(member, last_authorized_time=wall, authorized_by="api")
        elif before.authorized and not member.authorized:
            member = replace(member, last_deauthorized_time=wall)
        member = self._put_member(member, before, asked=True)
        if before.authorized and not member.authorized:
            self._expel(nwid, address, now, wall)
        elif member.authorized and replace(member, revision=before.revision) != before:
            self._pushes[nwid, address] = None
        self._drain(now, wall)
        return member

    def delete_member(self, nwid: int, address: int, now: float, wall: int) -> None:
        """Forget a member; its addresses become free. A member that asks again is new."""
        self._forget(self.member(nwid, address), now, wall, asked=True)

    def _forget(self, member: ControlledMember, now: float, wall: int, *, asked: bool) -> None:
        """``asked``: by an administrator."""
        nwid, address = member.nwid, member.address
        self._database.delete_member(nwid, address, asked=asked)
        self._sign_ons.forget((nwid, address), member.sso_nonce)
        self._events[nwid, address] = MemberChanged(nwid, address, None)
        if member.authorized:
            self._expel(nwid, address, now, wall)
            if member.active_bridge:
                self._push_all(nwid)
        self._contacts.pop((nwid, address), None)
        self._unheard.pop((nwid, address), None)
        self._drain(now, wall)

    # Ephemeral members

    def _sweep(self, now: float, wall: int) -> None:
        """Forget the ephemeral members that were not heard for too long. What was heard before this process started is
        not known: those have as long again. One that is shut out is not forgotten: it would come back as a new one."""
        self._next_sweep = now + EPHEMERAL_SWEEP
        waited: dict[_Key, float] = {}
        for member in self._database.ephemeral():
            if _is_shut_out(member):
                continue
            key = (member.nwid, member.address)
            contact = self._contacts.get(key)
            if contact is None:
                heard = waited[key] = self._unheard.get(key, now)
            else:
                heard = contact.last_heard
            if now - heard >= self.network(member.nwid).ephemeral_timeout / 1000:
                try:
                    self._forget(member, now, wall, asked=False)
                except OSError:  # the next time, then
                    break
                self.counters["ephemeral_members_forgotten"] += 1
                waited.pop(key, None)
        self._unheard = waited

    def _take_leave(self, peer: Peer, nwid: int, now: float, wall: int) -> None:
        """A member ends. One that is not ephemeral, or is shut out, stays what it is."""
        member = self._database.member(nwid, peer.address)
        if member is None or not member.ephemeral or _is_shut_out(member):
            return
        if member.identity != peer.identity.build_text():
            return
        # It needs no word that it is out, and what it asked before comes too late now.
        self._contacts.pop((nwid, peer.address), None)
        self._forget(member, now, wall, asked=False)
        self._note_stranger((nwid, peer.address), now)

    # A person logs in at a member

    def offered(self, nonce: str, state: str, wall: int) -> _Key | None:
        """The network and member that a log-in was offered to, or (``state`` "refresh") that is logged in by it."""
        return self._sign_ons.find(nonce, state, wall)

    def logged_in(
        self, nwid: int, address: int, nonce: str, subject: str, expiry: int, now: float, wall: int
    ) -> ControlledMember:
        """The provider has said who uses a member, until ``expiry`` (Unix milliseconds): it is let in. Raises KeyError
        for what is gone, ControllerError where that changes nothing."""
        before = self.member(nwid, address)
        if not self.network(nwid).sso.enabled:
            raise ControllerError("this network asks for no log-in")
        if _is_shut_out(before):
            raise ControllerError("the network's administrator has shut this member out")
        if nonce == before.sso_nonce and subject != before.sso_subject:
            raise ControllerError("somebody else is logged in here")
        member = replace(before, authentication_expiry=expiry, sso_nonce=nonce, sso_subject=subject)
        if not member.authorized:
            member = replace(member, authorized=True, last_authorized_time=wall, authorized_by="sso")
        member = self._put_member(member, before, asked=True)
        self._sign_ons.settle((nwid, address), nonce, before.sso_nonce)
        self._pushes[nwid, address] = None
        self._drain(now, wall)
        return member

    def _needs_log_in(self, network: ControlledNetwork, member: ControlledMember, wall: int) -> bool:
        return network.sso.enabled and not member.sso_exempt and member.authentication_expiry <= wall

    def _sign_on(self, network: ControlledNetwork, nonce: str) -> SingleSignOn:
        """What a member needs to know to log in, or is logged in by."""
        sso = network.sso
        return SingleSignOn(
            enabled=True,
            version=1,
            issuer_url=sso.issuer,
            central_url=self.sso_url,
            nonce=nonce,
            state=f"{self._sign_ons.state(nonce)}_{format_nwid(network.nwid)}",
            client_id=sso.client_id,
            provider=sso.provider,
        )

    def _watch_log_in(self, member: ControlledMember, now: float, wall: int) -> None:
        key = member.nwid, member.address
        if key not in self._ending:
            self._ending.add(key)
            heapq.heappush(self._endings, (now + (member.authentication_expiry - wall) / 1000, key))

    def _end_log_ins(self, now: float, wall: int) -> None:
        while self._endings and self._endings[0][0] <= now:
            _, key = heapq.heappop(self._endings)
            self.counters["log_ins_checked"] += 1
            self._ending.discard(key)
            network, member = self._database.network(key[0]), self._database.member(*key)
            if network is None or member is None or not member.authorized:
                continue
            if self._needs_log_in(network, member, wall):
                self._void(*key, now, wall)
                self._tell(*key, ERROR_NETWORK_AUTHENTICATION_REQUIRED, now, wall)
                self.counters["log_ins_ended"] += 1
                self._drain(now, wall)
            elif network.sso.enabled and not member.sso_exempt:
                self._watch_log_in(member, now, wall)  # it was renewed

    # A member asks

    def _request(self, peer: Peer, packet_id: int, payload: Buffer, now: float, wall: int) -> None:
        request = ConfigRequest.parse(payload)
        nwid, address = request.network_id, peer.address
        if controller_of(nwid) != self._identity.address:
            self.counters["drop_request_for_other_controller"] += 1
            return
        if RequestMetadata.parse_dictionary(request.metadata).goodbye:
            self._take_leave(peer, nwid, now, wall)
            return
        if not self._may_ask(nwid, address, now):
            self.counters["drop_request_too_soon"] += 1
            return
        self.counters["requests"] += 1
        admitted = self._admit(peer.identity, request, packet_id, now, wall)
        if isinstance(admitted, int):
            self._refuse(nwid, address, packet_id, admitted, now, wall)
            return
        for chunk in self._chunks(admitted, now, wall):
            self._vl1.reply_ok(peer, VERB_NETWORK_CONFIG_REQUEST, packet_id, chunk, now)
        self.counters["configurations_answered"] += 1

    def _admit(
        self, identity: Identity, request: ConfigRequest, packet_id: int, now: float, wall: int
    ) -> ControlledMember | int:
        """Note that somebody asks for a configuration: the member, ready to get one, or the code of the ERROR that it
        gets in place of it."""
        nwid, address = request.network_id, identity.address
        network = self._database.network(nwid)
        if network is None:
            return ERROR_OBJ_NOT_FOUND
        known = self._database.member(nwid, address)
        # A known address with another key is a collision or an impostor: neither may enter on the member's behalf.
        text = identity.build_text()
        if known is not None and known.identity and known.identity != text:
            self.counters["drop_request_other_identity"] += 1
            return ERROR_NETWORK_ACCESS_DENIED
        if known is None and not self._room_for_another(network):
            self.counters["drop_request_network_full"] += 1
            return ERROR_NETWORK_ACCESS_DENIED
        before = known or ControlledMember(nwid, address, creation_time=wall)
        said = RequestMetadata.parse_dictionary(request.metadata)
        member = before
        if not before.identity:  # heard for the first time
            ephemeral = before.ephemeral or network.ephemeral_members or said.ephemeral
            member = replace(before, identity=text, ephemeral=ephemeral)
        contact = self._contacts.setdefault((nwid, address), _Contact())
        contact.last_request = contact.last_heard = now
        contact.packet_id = packet_id
        contact.metadata = said
        self._strangers.pop((nwid, address), None)
        if not member.authorized and not network.private:
            member = replace(member, authorized=True, last_authorized_time=wall, authorized_by="public")
        elif not member.authorized and not _is_shut_out(member):
            member = _let_in_by_token(network, member, contact.metadata.auth_token, wall)
        if self._needs_log_in(network, member, wall) and not _is_shut_out(member):
            self._put_member(member, before, asked=False)
            return ERROR_NETWORK_AUTHENTICATION_REQUIRED
        if not member.authorized:
            self._put_member(member, before, asked=False)
            return ERROR_NETWORK_ACCESS_DENIED
        if network.sso.enabled and not member.sso_exempt:
            self._watch_log_in(member, now, wall)
        return self._put_member(self._equip(network, member, new=known is None), before, asked=False)

    def _accepted(self, peer: Peer, payload: Buffer, now: float) -> None:
        """A member confirms what was pushed to it."""
        ok = parse_ok(payload)
        if ok.in_re_verb == VERB_NETWORK_CONFIG:
            nwid, _ = parse_accepted(ok.payload)
            contact = self._contacts.get((nwid, peer.address))
            if contact is not None:
                contact.last_heard = now

    def _may_ask(self, nwid: int, address: int, now: float) -> bool:
        """The gate that bounds how often one node gets an answer about one network."""
        key = (nwid, address)
        if key in self._contacts:
            return now - self._contacts[key].last_request >= self._limits.min_request_interval
        last = self._strangers.get(key)
        if last is not None and now - last < self._limits.min_request_interval:
            return False
        self._note_stranger(key, now)
        return True

    def _note_stranger(self, key: _Key, now: float) -> None:
        self._strangers[key] = now
        self._strangers.move_to_end(key)
        if len(self._strangers) > _MAX_STRANGERS:
            self._strangers.popitem(last=False)

    def _room_for_another(self, network: ControlledNetwork) -> bool:
        """Whether one more member may be recorded; on a private network a mere applicant makes room for it if need
        be."""
        if network.private:
            pending = set(self._database.pending(network.nwid))
            if len(pending) >= self._limits.max_pending:
                oldest = min(pending, key=lambda address: self._heard(network.nwid, address))
                self._database.delete_member(network.nwid, oldest, asked=False)
                self._contacts.pop((network.nwid, oldest), None)
                self._events[network.nwid, oldest] = MemberChanged(network.nwid, oldest, None)
        return self._database.count(network.nwid) < self._limits.max_members

    def _heard(self, nwid: int, address: int) -> float:
        contact = self._contacts.get((nwid, address))
        return float("-inf") if contact is None else contact.last_heard

    def _refuse(self, nwid: int, address: int, packet_id: int, code: int, now: float, wall: int) -> None:
        payload = nwid.to_bytes(8, "big")
        network = self._database.network(nwid)
        if code == ERROR_NETWORK_AUTHENTICATION_REQUIRED and network is not None:
            nonce = self._sign_ons.offer((nwid, address), wall)
            payload += build_auth_info(self._sign_on(network, nonce))
        error = build_error(VERB_NETWORK_CONFIG_REQUEST, packet_id, code, payload)
        self._vl1.send(address, VERB_ERROR, error[1:], now)
        self.counters["requests_refused"] += 1

    # What a member gets

    def _equip(self, network: ControlledNetwork, member: ControlledMember, *, new: bool) -> ControlledMember:
        """The member with the version that it says it runs, default tags and capabilities, and with addresses if it has
        none yet."""
        version = _version(self._contacts[member.nwid, member.address].metadata)
        if member.version != version:
            member = replace(member, version=version)
        member = grant_defaults(network, member, new=new)
        taken, full = self._database.taken(network.nwid), self._database.full_pools(network.nwid)
        return assign(network, member, taken, self._random, full)

    def _configuration(self, member: ControlledMember, now: float, wall: int) -> bytes:
        """The signed configuration of an authorized member that has asked before, encoded."""
        network = self._database.network(member.nwid)
        assert network is not None
        metadata = self._contacts[member.nwid, member.address].metadata
        identity, bridges = Identity.parse_text(member.identity), self._database.bridges(member.nwid)
        logged_in = network.sso.enabled and not member.sso_exempt
        sso = self._sign_on(network, member.sso_nonce) if logged_in else NO_SSO
        issued = self._clock.read(now, wall)
        config = issue(network, member, identity, self._identity, metadata, bridges, issued, sso)
        return config.build(legacy=metadata.config_version < LEGACY_CONFIG_VERSION)

    def _chunks(self, member: ControlledMember, now: float, wall: int) -> Iterator[bytes]:
        """The payloads that carry the member's configuration."""
        update_id = int.from_bytes(self._random(8), "big") or 1
        data = self._configuration(member, now, wall)
        return (chunk.build() for chunk in split_config(member.nwid, data, update_id, self._identity))

    # Changes and whom they concern

    def _put_network(self, network: ControlledNetwork, now: float, wall: int) -> ControlledNetwork:
        saved = self._database.put_network(network)
        if saved is not network:
            self._events[saved.nwid, None] = ControlledNetworkChanged(saved.nwid, saved)
            self._push_all(saved.nwid)
            self._drain(now, wall)
        return saved

    def _put_member(self, member: ControlledMember, before: ControlledMember, *, asked: bool) -> ControlledMember:
        saved = self._database.put_member(member, asked=asked)
        if saved is not member:
            self._events[saved.nwid, saved.address] = MemberChanged(saved.nwid, saved.address, saved)
            # Every member's configuration lists the bridges.
            if (saved.active_bridge and saved.authorized) != (before.active_bridge and before.authorized):
                self._push_all(saved.nwid)
        return saved

    def _push_all(self, nwid: int) -> None:
        for address in self._database.addresses(nwid):
            self._pushes[nwid, address] = None

    def _expel(self, nwid: int, address: int, now: float, wall: int) -> None:
        """Void the member's certificate, and tell the member."""
        self._void(nwid, address, now, wall)
        self._tell(nwid, address, ERROR_NETWORK_ACCESS_DENIED, now, wall)

    def _void(self, nwid: int, address: int, now: float, wall: int) -> None:
        """Revoke the member's certificate with everybody who is online."""
        revocation = Revocation(
            network_id=nwid,
            id=int.from_bytes(self._random(4), "big"),
            credential_id=0,
            threshold=self._clock.read(now, wall),
            flags=FLAG_FAST_PROPAGATE,
            target=address,
            credential_type=CredentialType.COM,
        ).sign(self._identity)
        payload = NetworkCredentials(revocations=(revocation,)).build()
        for other in self._database.addresses(nwid):
            if other != address and self._is_online(nwid, other, now):
                self._revocations.append((other, payload))

    def _tell(self, nwid: int, address: int, code: int, now: float, wall: int) -> None:
        """Answer a member's last request once more, now with an error."""
        contact = self._contacts.get((nwid, address))
        if contact is not None and self._is_online(nwid, address, now):
            self._refuse(nwid, address, contact.packet_id, code, now, wall)

    def _is_online(self, nwid: int, address: int, now: float) -> bool:
        return now - self._heard(nwid, address) < ONLINE_SECONDS

    def _drain(self, now: float, wall: int) -> None:
        """Send some of what waits; ``next_timer`` asks for another turn while there is more."""
        budget = PUSHES_PER_TURN
        while self._revocations and budget:
            address, payload = self._revocations.popleft()
            self._vl1.send(address, VERB_NETWORK_CREDENTIALS, payload, now)
            budget -= 1
        while self._pushes and budget:
            nwid, address = next(iter(self._pushes))
            del self._pushes[nwid, address]
            budget -= self._push(nwid, address, now, wall)
        self._due = now if self._revocations or self._pushes else None

    def _push(self, nwid: int, address: int, now: float, wall: int) -> bool:
        """Send a member its configuration unasked; False if it is not there to get it."""
        network, before = self._database.network(nwid), self._database.member(nwid, address)
        if network is None or before is None:
            return False
        if not before.authorized or not self._is_online(nwid, address, now):
            return False
        if self._needs_log_in(network, before, wall):
            self._tell(nwid, address, ERROR_NETWORK_AUTHENTICATION_REQUIRED, now, wall)
            return True
        try:
            member = self._put_member(self._equip(network, before, new=False), before, asked=False)
        except OSError:
            return False  # it asks by itself within a minute
        if network.sso.enabled and not member.sso_exempt:
            self._watch_log_in(member, now, wall)
        for chunk in self._chunks(member, now, wall):
            self._vl1.send(address, VERB_NETWORK_CONFIG, chunk, now, compress=True)
        self.counters["configurations_pushed"] += 1
        return True

    def _free_nwid(self) -> int:
        for _ in range(_NWID_TRIALS):
            nwid = self._identity.address << 24 | int.from_bytes(self._random(3), "big")
            if nwid & 0xFFFFFF and nwid not in self._database:
                return nwid
        raise ControllerError("no free network id found")


def _is_shut_out(member: ControlledMember) -> bool:
    """Whether an administrator took its authorization back: neither a token nor a log-in gives it again."""
    return not member.authorized and member.last_deauthorized_time > 0


def _let_in_by_token(network: ControlledNetwork, member: ControlledMember, shown: str, wall: int) -> ControlledMember:
    """The member, authorized if what it shows is a token of the network."""
    kind, _, token = shown.partition(":")
    until = dict(network.auth_tokens).get(token) if kind == "token" else None
    if until is None or (until and until <= wall):
        return member
    extra = {**member.extra, "lastAuthorizedCredential": token}
    return replace(member, authorized=True, last_authorized_time=wall, authorized_by="token", extra=extra)


def _version(metadata: RequestMetadata) -> tuple[int, int, int, int]:
    """What the member says it runs, bounded: a document holds numbers of 16 bits."""
    major, minor, revision = (min(part, 0xFFFF) for part in metadata.version)
    return major, minor, revision, min(metadata.protocol, 0xFFFF)
