"""VL2: the virtual Ethernet switch, without I/O.

``Vl2`` stands on a ``Vl1`` that it sends through. Its drivers are the messages of VL1 (``receive``), the frames of
the stack (``send_frames``) and the clock (``handle_timer`` at ``next_timer``). What comes out for the stack is taken
with ``frames``, what the owner should know with ``events``; what goes to peers is in ``Vl1.to_send``.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from typing import Final

from ztnode.vl1 import Message, Peer, Vl1
from ztnode.vl1.gates import KeyedBucket
from ztnode.vl2.forwarding import Frame, Inflow, PlainFlow
from ztnode.vl2.joined_network import JoinedNetwork
from ztnode.vl2.snapshot import NetworkFigures, NetworkSnapshot
from ztnode.vl2.subscriptions import Subscriptions
from ztnode.vl2.vl2_core import Vl2Core
from ztnode.vl2.vl2_events import ConfigStored, Event, NetworkChanged
from ztnode.wire.buffer import Buffer
from ztnode.wire.frame import EXT_FRAME_HEADER, FRAME_HEADER, parse_ext_frame
from ztnode.wire.identity import Identity
from ztnode.wire.multicast import (
    LIKE_LENGTH,
    Gathered,
    Like,
    MulticastFrameReply,
    MulticastGroup,
    build_gathered,
    build_multicast_frame_reply,
    parse_gather,
    parse_gathered,
    parse_likes,
    parse_multicast_frame,
    parse_multicast_frame_reply,
)
from ztnode.wire.network_config import NetworkConfig
from ztnode.wire.network_credentials import NetworkCredentials
from ztnode.wire.packet import (
    ERROR_NEED_MEMBERSHIP_CERTIFICATE,
    ERROR_UNSUPPORTED_OPERATION,
    ERROR_UNWANTED_MULTICAST,
    VERB_ERROR,
    VERB_EXT_FRAME,
    VERB_FRAME,
    VERB_MULTICAST_FRAME,
    VERB_MULTICAST_GATHER,
    VERB_MULTICAST_LIKE,
    VERB_NETWORK_CONFIG,
    VERB_NETWORK_CONFIG_REQUEST,
    VERB_NETWORK_CREDENTIALS,
    VERB_OK,
    VERB_USER_MESSAGE,
)
from ztnode.wire.reader import Reader
from ztnode.wire.wire_error import WireError

MAX_FOREIGN_SUBSCRIPTIONS: Final = 262144
"""Multicast subscriptions that we keep, as root or controller, for networks that we are no member of."""
MAX_INFLOW_PEERS: Final = 4096
MAX_INFLOWS_PER_PEER: Final = 256
CREDENTIALS_RATE: Final = (4.0, 20.0)
CONFIG_RATE: Final = (20.0, 200.0)
"""Messages with signatures to check that one peer may send: per second, and at once. A signature costs a tenth of a
millisecond or more, and one packet may hold dozens. A full-size configuration is 128 chunks of 4 KB."""
LIKES_RATE: Final = (200.0, 4096.0)
"""Multicast subscriptions that one peer may announce; each takes a few microseconds to note."""
GATHER_RATE: Final = (50.0, 300.0)
"""Questions about multicast groups that one peer may ask; the answer is a choice out of up to 4,096 members."""
OFFLINE_POLL: Final = 0.1
"""Seconds between looks at whether VL1 has reached a root."""
_FOREIGN_EXPIRY_INTERVAL: Final = 60.0


class Vl2:
    """All joined networks of this node."""

    def __init__(
        self,
        vl1: Vl1,
        identity: Identity,
        *,
        random: Callable[[int], bytes],
        now: float,
        wall: int,
        is_upstream: Callable[[], bool] = lambda: False,
        authorized: Callable[[int, int], bool] | None = None,
        controller: bool = False,
        upstreams: Callable[[], Sequence[int]] | None = None,
        acquaintances: Callable[[int, float], Sequence[int]] | None = None,
        os_arch: str = "",
        ephemeral: bool = False,
    ) -> None:
        """``now``: monotonic seconds; ``wall``: Unix time in ms at ``now``.

        ``is_upstream()``: this node is a root now and so keeps and answers multicast subscriptions for networks that
        it is no member of. ``authorized(nwid, address)`` does the same for a local controller's members.
        ``controller``: somebody else answers NETWORK_CONFIG_REQUEST; otherwise it is answered with
        ERROR_UNSUPPORTED_OPERATION here.
        ``upstreams()`` gives the roots that serve multicast (None: those of the planet), ``acquaintances(count, now)``
        peers that share a network with us, to be asked for members while nobody else can be. ``os_arch``: what
        controllers are told that we run on, as "linux/x86_64".
        """
        self.counters: Counter[str] = Counter()
        """Frames and packets dropped, by reason, over all networks."""
        self._core = Vl2Core(
            vl1,
            identity,
            random,
            self.counters,
            now,
            forget_inflows=self._forget_inflows,
            upstreams=upstreams,
            acquaintances=acquaintances or (lambda _count, _now: ()),
            os_arch=os_arch,
            ephemeral=ephemeral,
        )
        self._wall_offset = wall - round(now * 1000)
        self._is_upstream = is_upstream
        self._authorized = authorized
        self._controller = controller
        self._networks: dict[int, JoinedNetwork] = {}
        self._foreign: Subscriptions[Like] = Subscriptions(MAX_FOREIGN_SUBSCRIPTIONS)
        self._next_foreign_expiry = now + _FOREIGN_EXPIRY_INTERVAL
        self._inflows: dict[Peer, dict[bytes, Inflow]] = {}
        self.on_undecided: Callable[[], None] = lambda: None
        """Called when ``plain_flows`` that were named may not be plain any more."""
        self._signature_gates = {
            VERB_NETWORK_CREDENTIALS: KeyedBucket(*CREDENTIALS_RATE, MAX_INFLOW_PEERS),
            VERB_NETWORK_CONFIG: KeyedBucket(*CONFIG_RATE, MAX_INFLOW_PEERS),
        }
        self._likes_gate = KeyedBucket(*LIKES_RATE, MAX_INFLOW_PEERS)
        self._gather_gate = KeyedBucket(*GATHER_RATE, MAX_INFLOW_PEERS)
        self._online = vl1.online
        self._handlers: dict[int, Callable[[Message, float], None]] = {
            VERB_OK: self._receive_ok,
            VERB_ERROR: self._receive_error,
            VERB_EXT_FRAME: self._receive_ext_frame,
            VERB_MULTICAST_LIKE: self._receive_like,
            VERB_NETWORK_CREDENTIALS: self._receive_credentials,
            VERB_NETWORK_CONFIG_REQUEST: self._receive_config_request,
            VERB_NETWORK_CONFIG: self._receive_config,
            VERB_MULTICAST_GATHER: self._receive_gather,
            VERB_MULTICAST_FRAME: self._receive_multicast_frame,
            VERB_USER_MESSAGE: self._receive_user_message,
        }

    # Networks

    def join(self, nwid: int, now: float, *, cached: bytes | None = None, auth_token: str = "") -> None:
        """Join (idempotent). ``cached`` is what ``ConfigStored`` gave last, as kept in ``networks.d/<nwid>.conf``; it
        is used at once if it is a configuration for this node, and ignored otherwise. ``auth_token``: what the
        controller may let us in for; another one than before is shown at once."""
        if nwid in self._networks:
            if auth_token:
                self._networks[nwid].auth_token = f"token:{auth_token}"
                self.ask_again(nwid, now)
            return
        self._core.now = now
        wall = self._wall_offset + round(now * 1000)
        network = self._networks[nwid] = JoinedNetwork(self._core, nwid, now, wall)
        if auth_token:
            network.auth_token = f"token:{auth_token}"
        network.start(cached, now)

    def ask_again(self, nwid: int, now: float) -> None:
        """Something was done that may change the controller's answer. Nothing happens if not joined."""
        network = self._networks.get(nwid)
        if network is not None:
            network.ask_again(now)

    def leave(self, nwid: int, now: float) -> None:
        """Leave and forget. Raises KeyError if not joined."""
        left = self._networks.pop(nwid)
        self._core.now = now
        left.say_goodbye(now)
        still_wanted = {address for network in self._networks.values() for address in network.contacts()}
        for address in left.contacts() - still_wanted:
            self._core.vl1.release(address)
        self._forget_inflows()
        self._core.events += (ConfigStored(nwid, None), NetworkChanged(nwid))

    def say_goodbye(self, now: float) -> None:
        """Tell the controllers that this node ends for good."""
        for network in self._networks.values():
            network.say_goodbye(now)

    def is_lonely(self, nwid: int) -> bool:
        """Whether no other member's subscriptions are known: a question to all then reaches nobody, and that nobody
        answers is no evidence of anything. False if not joined."""
        network = self._networks.get(nwid)
        return network is not None and not len(network.multicaster.subscriptions)

    def subscribe(self, nwid: int, group: MulticastGroup, now: float) -> None:
        """Receive this multicast group too, beside those that follow from the managed addresses. KeyError if not
        joined."""
        self._networks[nwid].subscribe(group, now)

    def join_groups(self, nwid: int, groups: frozenset[MulticastGroup], now: float) -> None:
        """Receive these groups, and no longer those of the last call that are not among them. KeyError if not
        joined."""
        self._networks[nwid].multicaster.join(groups, now)

    # Messages of VL1

    def receive(self, messages: Sequence[Message], now: float) -> None:
        """Take what ``Vl1.messages`` gave. Never raises on its content."""
        self._core.now = now
        self._dispatch(messages, now)
        if self._core.retry:
            self._let_through(now)

    def _let_through(self, now: float) -> None:
        """Take frames that were held back until their sender's certificate came."""
        while self._core.retry:
            held, self._core.retry = self._core.retry, []
            self._dispatch(held, now)

    def _dispatch(self, messages: Sequence[Message], now: float) -> None:
        last_peer: Peer | None = None
        inflows: dict[bytes, Inflow] = {}
        trust = self._core.vl1.trust
        for message in messages:
            peer, verb, _, payload = message
            if verb != VERB_FRAME:
                self._handle(message, now)
                # The message may have changed what was decided about frames.
                last_peer = None
                continue
            if peer is not last_peer:
                last_peer = peer
                inflows = self._inflows.get(peer) or {}
                if inflows:
                    trust(peer, now)
            head = bytes(payload[:10])
            inflow = inflows.get(head)
            if inflow is None or now >= inflow.until:
                inflow = self._inflow(message, head, now)
                if inflow is None:
                    continue
                inflows = self._inflows[peer]
            data = memoryview(payload)[10:]
            if inflow.filter is not None and not inflow.filter.passes(data):
                inflow.forwarding.drop("drop_rules_in")
                continue
            inflow.forwarding.inbox.append((inflow.header, data))

    def _handle(self, message: Message, now: float) -> None:
        handler = self._handlers.get(message[1])
        if handler is None:
            self.counters["drop_unknown_verb"] += 1
            return
        gate = self._signature_gates.get(message[1])
        if gate is not None and not gate.admit(message[0].address, now):
            self.counters["drop_too_many_signatures"] += 1
            return
        try:
            handler(message, now)
        except WireError:
            self.counters["drop_malformed"] += 1

    def _inflow(self, message: Message, head: bytes, now: float) -> Inflow | None:
        """Decide about FRAMEs like this one, and remember it; None if it may not pass."""
        peer = message[0]
        if len(message[3]) <= FRAME_HEADER.size:
            self.counters["drop_malformed"] += 1
            return None
        network = self._networks.get(int.from_bytes(head[:8], "big"))
        if network is None:
            self.counters["drop_unknown_network"] += 1
            return None
        if not network.admits(peer, now):
            network.refuse(message, now)
            return None
        self._core.vl1.trust(peer, now)
        inflow = network.forwarding.inflow(peer, head[8:], now)
        known = self._inflows.get(peer)
        if known is None:
            if len(self._inflows) >= MAX_INFLOW_PEERS:
                self._inflows.clear()
            known = self._inflows[peer] = {}
        elif len(known) >= MAX_INFLOWS_PER_PEER:
            known.clear()
        known[head] = inflow
        return inflow

    def _forget_inflows(self) -> None:
        self._inflows.clear()
        self.on_undecided()

    def _network(self, payload: Buffer) -> JoinedNetwork | None:
        """The joined network whose NWID is at the start of ``payload``. Raises WireError if that is too short."""
        if len(payload) < 8:
            raise WireError("message without a network id")
        return self._networks.get(int.from_bytes(payload[:8], "big"))

    def _receive_ext_frame(self, message: Message, now: float) -> None:
        peer, _, packet_id, payload = message
        network = self._network(payload)
        if network is None:
            self.counters["drop_unknown_network"] += 1
            return
        if len(payload) < EXT_FRAME_HEADER.size:
            raise WireError("EXT_FRAME too short")
        frame = parse_ext_frame(memoryview(payload))
        network.receive_certificate(peer, frame.certificate, now)
        if not network.admits(peer, now):
            network.refuse(message, now)
            return
        self._core.vl1.trust(peer, now)
        network.forwarding.receive_ext(peer, packet_id, frame, now)

    def _receive_multicast_frame(self, message: Message, now: float) -> None:
        peer, verb, packet_id, payload = message
        network = self._network(payload)
        if network is None:
            self.counters["drop_unknown_network"] += 1
            return
        frame = parse_multicast_frame(memoryview(payload))
        network.receive_certificate(peer, frame.certificate, now)
        if not network.admits(peer, now):
            network.refuse(message, now)
            return
        self._core.vl1.trust(peer, now)
        network.forwarding.receive_multicast(peer, frame, now)
        if frame.gather_limit:
            total, members = network.multicaster.gathered_for(frame.group, peer.address, frame.gather_limit)
            if members:
                reply = MulticastFrameReply(network.nwid, frame.group, total, tuple(members))
                self._core.vl1.reply_ok(peer, verb, packet_id, build_multicast_frame_reply(reply), now)

    def _receive_credentials(self, message: Message, now: float) -> None:
        peer, _, _, payload = message
        credentials = NetworkCredentials.parse(payload)
        concerned = {
            credential.network_id
            for kind in (
                credentials.certificates_of_membership,
                credentials.capabilities,
                credentials.tags,
                credentials.revocations,
                credentials.certificates_of_ownership,
            )
            for credential in kind
        }
        for nwid in concerned & self._networks.keys():
            self._networks[nwid].receive_credentials(peer, credentials, now)

    # Multicast subscriptions

    def _receive_like(self, message: Message, now: float) -> None:
        peer, _, _, payload = message
        if not self._likes_gate.admit(peer.address, now, max(1, len(payload) // LIKE_LENGTH)):
            self.counters["drop_rate_multicast_like"] += 1
            return
        admitted: dict[int, bool] = {}
        for like in parse_likes(payload):
            nwid, group = like
            network = self._networks.get(nwid)
            if nwid not in admitted:
                admitted[nwid] = network is not None and network.admits(peer, now)
            if network is not None and admitted[nwid]:
                network.multicaster.learn(group, (peer.address,), now)
            elif not self._serves(nwid, peer):
                self.counters["drop_like_not_authorized"] += 1
            elif network is not None:
                network.multicaster.subscriptions.add(group, peer.address, now)
            else:
                self._foreign.add(like, peer.address, now)

    def _serves(self, nwid: int, peer: Peer) -> bool:
        """Whether we help this peer with multicast on a network that we are no member of (or that it is none of)."""
        return self._is_upstream() or (self._authorized is not None and self._authorized(nwid, peer.address))

    def _receive_gather(self, message: Message, now: float) -> None:
        peer, verb, packet_id, payload = message
        if not self._gather_gate.admit(peer.address, now):
            self.counters["drop_rate_multicast_gather"] += 1
            return
        query = parse_gather(payload)
        network = self._networks.get(query.network_id)
        if network is not None:
            network.receive_certificate(peer, query.certificate, now)
        if network is not None and (network.admits(peer, now) or self._serves(query.network_id, peer)):
            total, members = network.multicaster.gathered_for(query.group, peer.address, query.limit)
        elif self._serves(query.network_id, peer):
            like = Like(query.network_id, query.group)
            total, members = self._foreign.gather(like, peer.address, query.limit, self._core.random)
        else:
            self.counters["drop_gather_not_authorized"] += 1
            return
        if members:
            reply = Gathered(query.network_id, query.group, total, tuple(members))
            self._core.vl1.reply_ok(peer, verb, packet_id, build_gathered(reply), now)

    def _receive_user_message(self, message: Message, _now: float) -> None:
        """A type (8 bytes) and data for a program that has the reference's library inside; there is none here."""
        Reader(message[3]).skip(8)
        self.counters["user_messages"] += 1

    # Configuration

    def _receive_config_request(self, message: Message, now: float) -> None:
        peer, verb, packet_id, payload = message
        if not self._controller:
            nwid = Reader(payload).take(8)
            self._core.vl1.reply_error(peer, verb, packet_id, ERROR_UNSUPPORTED_OPERATION, nwid, now)

    def _receive_config(self, message: Message, now: float) -> None:
        peer, _, packet_id, payload = message
        network = self._network(payload)
        if network is not None:
            network.receive_chunk(peer, payload, now, pushed_in=packet_id)

    # Answers

    def _receive_ok(self, message: Message, now: float) -> None:
        peer, _, _, payload = message
        reader = Reader(payload)
        in_re_verb, in_re_packet_id = reader.u8(), reader.u64()
        body = memoryview(payload)[reader.position :]
        network = self._network(body) if len(body) >= 8 else None
        if network is None:
            return
        if in_re_verb == VERB_NETWORK_CONFIG_REQUEST:
            network.receive_chunk(peer, body, now, in_re=in_re_packet_id)
        elif in_re_verb == VERB_MULTICAST_GATHER:
            gathered = parse_gathered(body)
            network.multicaster.learn(gathered.group, gathered.members, now)
        elif in_re_verb == VERB_MULTICAST_FRAME:
            reply = parse_multicast_frame_reply(body)
            network.receive_certificate(peer, reply.certificate, now)
            network.multicaster.learn(reply.group, reply.members, now)

    def _receive_error(self, message: Message, now: float) -> None:
        peer, _, _, payload = message
        reader = Reader(payload)
        in_re_verb, in_re_packet_id, code = reader.u8(), reader.u64(), reader.u8()
        body = memoryview(payload)[reader.position :]
        network = self._network(body) if len(body) >= 8 else None
        if network is None:
            return
        if in_re_verb == VERB_NETWORK_CONFIG_REQUEST:
            if peer.address == network.controller:
                network.refused(code, in_re_packet_id, body[8:], now)
        elif code == ERROR_NEED_MEMBERSHIP_CERTIFICATE:
            network.credentials_wanted(peer, now)
        elif code == ERROR_UNWANTED_MULTICAST and network.admits(peer, now):
            reader = Reader(body, 8)
            group = MulticastGroup(reader.unsigned(6), reader.u32())
            network.multicaster.unwanted(group, peer.address)

    # The stack

    def send_frames(self, nwid: int, frames: Sequence[Buffer], now: float) -> None:
        """Send Ethernet frames (14-byte header and payload) of the stack. Buffers must stay valid until ``Vl1.to_send``
        was called; those kept longer are copied. Frames for a network that is not joined are counted and dropped."""
        self._core.now = now
        network = self._networks.get(nwid)
        if network is None:
            self.counters["drop_unknown_network"] += len(frames)
        else:
            network.forwarding.send(frames, now)

    def frames(self) -> list[tuple[int, list[Frame]]]:
        """What arrived for the stack since the last call: (nwid, frames in order). Payloads stay valid.

        Ask after ``send_frames`` too: neighbour solicitations and frames to ourselves are answered on the spot.
        """
        result = []
        for nwid, network in self._networks.items():
            forwarding = network.forwarding
            if forwarding.inbox:
                result.append((nwid, forwarding.take()))
        return result

    def plain_flows(self, now: float) -> list[PlainFlow]:
        """Frames that nobody has to look at, by member and EtherType: they came and went lately, and all pass."""
        flows = []
        for network in self._networks.values():
            for flow in network.forwarding.plain_flows(now):
                peer = self._core.vl1.peer(flow.address)
                inflows = None if peer is None else self._inflows.get(peer)
                inflow = None if inflows is None else inflows.get(flow.nwid.to_bytes(8, "big") + flow.ethertype)
                if inflow is not None and inflow.filter is None and now < inflow.until:
                    flows.append(flow._replace(until=min(flow.until, inflow.until)))
        return flows

    def carried(self, flow: PlainFlow, *, sent: int, octets_sent: int, received: int, octets_received: int) -> None:
        """Somebody else has carried so many frames of a plain flow; bytes include the Ethernet header."""
        network = self._networks.get(flow.nwid)
        if network is not None:
            network.forwarding.figures.count_sent(sent, octets_sent)
            network.forwarding.figures.count_received(received, octets_received)

    # The clock

    def handle_timer(self, now: float) -> None:
        """Do what has become due."""
        self._core.now = now
        online = self._core.vl1.online
        if online and not self._online:
            for network in self._networks.values():
                network.went_online(now)
        self._online = online
        for network in list(self._networks.values()):
            network.handle_timer(now)
        self._let_through(now)
        if now >= self._next_foreign_expiry:
            self._next_foreign_expiry = now + _FOREIGN_EXPIRY_INTERVAL
            self._foreign.expire(now)

    def next_timer(self) -> float | None:
        """When ``handle_timer`` wants to be called next, in the caller's monotonic seconds."""
        now = self._core.now
        earliest = self._next_foreign_expiry if self._foreign else float("inf")
        for network in self._networks.values():
            due = network.next_timer(now)
            if due < earliest:
                earliest = due
        if self._networks and not self._online:
            earliest = min(earliest, now + OFFLINE_POLL)
        return None if earliest == float("inf") else earliest

    # What there is to see

    @property
    def has_news(self) -> bool:
        """Whether there are ``events``."""
        return bool(self._core.events)

    def events(self) -> list[Event]:
        """What the owner should know, since the last call."""
        events, self._core.events = self._core.events, []
        return events

    def figures(self) -> list[NetworkFigures]:
        """What was counted for each joined network, in the order of joining."""
        return [network.figures() for network in self._networks.values()]

    def networks(self) -> list[NetworkSnapshot]:
        """All joined networks, in the order of joining."""
        return [network.snapshot() for network in self._networks.values()]

    def network(self, nwid: int) -> NetworkSnapshot | None:
        """One joined network; None if it is not joined."""
        network = self._networks.get(nwid)
        return None if network is None else network.snapshot()

    def config(self, nwid: int) -> NetworkConfig | None:
        """The configuration in force; None while there is none. Raises KeyError if it is not joined."""
        return self._networks[nwid].config
