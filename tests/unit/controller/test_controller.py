"""The controller under a fake clock and a fake VL1 that records what leaves."""

import errno
import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from ipaddress import ip_address, ip_interface
from itertools import count
from types import SimpleNamespace
from typing import Any, cast

import pytest

from ztnode.controller import (
    ControlledNetworkChanged,
    Controller,
    ControllerError,
    ControllerLimits,
    MemberChanged,
    address_pools,
)
from ztnode.controller.documents import ControlledNetwork, Pool, member_key, network_key
from ztnode.controller.issue_clock import KEY as CLOCK
from ztnode.controller.issue_clock import IssueClock
from ztnode.vl1 import Vl1
from ztnode.wire import c25519
from ztnode.wire.config_chunk import ConfigChunk, build_accepted
from ztnode.wire.config_request import ConfigRequest, RequestMetadata
from ztnode.wire.dictionary import Dictionary
from ztnode.wire.identity import Identity
from ztnode.wire.network_config import SPECIALIST_ACTIVE_BRIDGE, NetworkConfig, NetworkType
from ztnode.wire.network_credentials import NetworkCredentials
from ztnode.wire.packet import (
    ERROR_NETWORK_ACCESS_DENIED,
    ERROR_OBJ_NOT_FOUND,
    VERB_ERROR,
    VERB_NETWORK_CONFIG,
    VERB_NETWORK_CONFIG_REQUEST,
    VERB_NETWORK_CREDENTIALS,
    VERB_OK,
)
from ztnode.wire.reply import build_ok

WALL = 1_700_000_000_000
SETTINGS = {
    "name": "lab",
    "private": True,
    "v4AssignMode": {"zt": True},
    "v6AssignMode": {"rfc4193": True},
    "ipAssignmentPools": [{"ipRangeStart": "10.121.15.1", "ipRangeEnd": "10.121.15.90"}],
    "routes": [{"target": "10.121.15.0/24", "via": None}, {"target": "192.168.55.0/24", "via": "10.121.15.99"}],
    "dns": {"domain": "lab.zt", "servers": ["10.121.15.99"]},
}


def identity(address: int) -> Identity:
    """A working key pair for any address: the controller leaves the proof of work to VL1."""
    secret = bytes([address & 0xFF]) * c25519.SECRET_LENGTH
    return Identity(address, c25519.derive_public(secret), secret)


@dataclass
class Sent:
    address: int
    verb: int
    payload: bytes
    code: int | None = None
    in_re: int | None = None


@dataclass
class FakeVl1:
    """Everybody is known; everything sent is kept."""

    sent: list[Sent] = field(default_factory=list)

    def peer(self, address: int) -> Any:
        return SimpleNamespace(address=address, identity=identity(address).without_secret())

    def send(self, address: int, verb: int, payload: bytes, now: float, *, compress: bool = False) -> int:
        if verb == VERB_ERROR:
            assert payload[0] == VERB_NETWORK_CONFIG_REQUEST
            in_re, code = int.from_bytes(payload[1:9], "big"), payload[9]
            self.sent.append(Sent(address, verb, bytes(payload[10:]), code, in_re))
        else:
            self.sent.append(Sent(address, verb, bytes(payload)))
        return len(self.sent)

    def reply_ok(self, peer: Any, verb: int, packet_id: int, payload: bytes, now: float) -> int:
        assert verb == VERB_NETWORK_CONFIG_REQUEST
        self.sent.append(Sent(peer.address, VERB_OK, bytes(payload), in_re=packet_id))
        return len(self.sent)

    def take(self) -> list[Sent]:
        sent, self.sent = self.sent, []
        return sent


CONTROLLER = identity(0x1122334455)


class Bench:
    """A controller, its clock and its members."""

    def __init__(
        self,
        documents: dict[str, bytes] | None = None,
        limits: ControllerLimits | None = None,
        *,
        strict: bool = False,
    ) -> None:
        self.vl1 = FakeVl1()
        self.now = 100.0
        self.set_by = 0
        """Milliseconds by which the time of day was set since."""
        self.store: dict[str, bytes] = dict(documents or {})
        self.full = False
        self._random = count(1)
        self.controller = Controller(
            cast(Vl1, self.vl1),
            CONTROLLER,
            random=lambda n: next(self._random).to_bytes(n, "big"),
            documents=self.store,
            commit=self._keep,
            limits=limits,
            strict=strict,
        )
        self._packet = count(1000)

    @property
    def wall(self) -> int:
        return WALL + int(self.now * 1000) + self.set_by

    def network(self, **settings: Any) -> int:
        return self.controller.create_network({**SETTINGS, **settings}, self.now, self.wall).nwid

    def ask(self, nwid: int, address: int, *, who: Identity | None = None, **metadata: Any) -> list[Sent]:
        """One request; what leaves for the asker because of it."""
        self.now += 1.0
        self.vl1.take()
        request = ConfigRequest(nwid, RequestMetadata(version=(1, 14, 1), **metadata).build_dictionary())
        peer = SimpleNamespace(address=address, identity=(who or identity(address)).without_secret())
        message = (cast(Any, peer), VERB_NETWORK_CONFIG_REQUEST, next(self._packet), request.build())
        self.controller.receive([message], self.now, self.wall)
        return [sent for sent in self.vl1.take() if sent.address == address]

    def config(self, nwid: int, address: int, **metadata: Any) -> NetworkConfig:
        return assemble(self.ask(nwid, address, **metadata))

    def authorize(self, nwid: int, address: int, **settings: Any) -> None:
        self.controller.update_member(nwid, address, {"authorized": True, **settings}, self.now, self.wall)

    def save(self) -> list[str]:
        """Write what has to be written; the keys."""
        changed = self.controller.changed_documents()
        for key, value in changed:
            self._keep(key, value)
        return [key for key, _ in changed]

    def _keep(self, key: str, value: bytes | None) -> None:
        if self.full:
            raise OSError(errno.ENOSPC, "No space left on device")
        if value is None:
            self.store.pop(key, None)
        else:
            self.store[key] = value


def assemble(sent: list[Sent]) -> NetworkConfig:
    """The configuration in signed chunks, each checked."""
    chunks = [ConfigChunk.parse(item.payload) for item in sent if item.verb in (VERB_OK, VERB_NETWORK_CONFIG)]
    assert chunks and all(chunk.verify(CONTROLLER) for chunk in chunks)
    assert len({chunk.update_id for chunk in chunks}) == 1 and chunks[0].update_id
    data = b"".join(chunk.data for chunk in sorted(chunks, key=lambda chunk: chunk.index))
    assert len(data) == chunks[0].total_length
    return NetworkConfig.parse(data)


@pytest.fixture
def bench() -> Bench:
    return Bench()


def test_an_authorized_member_gets_a_complete_signed_configuration(bench: Bench) -> None:
    nwid = bench.network(mtu=1400, multicastLimit=7, enableBroadcast=False)
    bench.authorize(nwid, 0xAA00000001)
    config = bench.config(nwid, 0xAA00000001)
    assert (config.network_id, config.issued_to, config.name) == (nwid, 0xAA00000001, "lab")
    assert (config.mtu, config.multicast_limit, config.broadcast) == (1400, 7, False)
    assert config.type == NetworkType.PRIVATE and config.ndp_emulation
    assert [str(route.target) for route in config.routes] == ["10.121.15.0/24", "192.168.55.0/24"]
    assert config.dns.domain == "lab.zt" and config.dns.servers == (ip_address("10.121.15.99"),)
    six, four = config.static_addresses
    assert six.version == 6 and str(six).startswith("fd") and four in ip_interface("10.121.15.1/24").network
    com = config.certificate_of_membership
    assert com is not None and com.verify(CONTROLLER) and com.issued_to == 0xAA00000001
    assert com.agrees_with(com, identity(0xAA00000001)) and not com.agrees_with(com, identity(0xAA00000002))
    (ownership,) = config.certificates_of_ownership
    assert ownership.verify(CONTROLLER) and ownership.owns(four.ip) and ownership.owns(six.ip)
    assert not ownership.owns(ip_address("10.121.15.91"))


def test_a_private_network_refuses_and_records_who_asks(bench: Bench) -> None:
    nwid = bench.network()
    (refusal,) = bench.ask(nwid, 0xAA00000001)
    assert refusal.code == ERROR_NETWORK_ACCESS_DENIED and refusal.payload == nwid.to_bytes(8, "big")
    member = bench.controller.member(nwid, 0xAA00000001)
    assert not member.authorized and member.identity == identity(0xAA00000001).build_text()
    assert bench.controller.events()[-1] == MemberChanged(nwid, 0xAA00000001, member)
    assert member_key(nwid, 0xAA00000001) in bench.save()


def test_an_unknown_network_is_not_found(bench: Bench) -> None:
    (refusal,) = bench.ask(CONTROLLER.address << 24 | 99, 0xAA00000001)
    assert refusal.code == ERROR_OBJ_NOT_FOUND


def test_another_controllers_network_is_not_answered(bench: Bench) -> None:
    assert bench.ask(0xFEDCBA9876000001, 0xAA00000001) == []
    assert bench.controller.counters["drop_request_for_other_controller"] == 1


def test_a_public_network_lets_everybody_in(bench: Bench) -> None:
    nwid = bench.network(private=False)
    config = bench.config(nwid, 0xAA00000001)
    assert config.type == NetworkType.PUBLIC and len(config.static_addresses) == 2
    member = bench.controller.member(nwid, 0xAA00000001)
    assert member.authorized and member.authorized_by == "public" and member.version == (1, 14, 1, 12)


def test_a_waiting_member_is_pushed_its_configuration_when_authorized(bench: Bench) -> None:
    nwid = bench.network()
    bench.ask(nwid, 0xAA00000001)
    bench.authorize(nwid, 0xAA00000001)
    sent = bench.vl1.take()
    assert {item.verb for item in sent} == {VERB_NETWORK_CONFIG}
    assert len(assemble(sent).static_addresses) == 2
    assert bench.controller.member(nwid, 0xAA00000001).last_authorized_time == bench.wall


def test_a_deauthorized_member_is_told_and_its_certificate_revoked_with_the_others(bench: Bench) -> None:
    nwid = bench.network()
    for address in (0xAA00000001, 0xAA00000002):
        bench.authorize(nwid, address)
        bench.ask(nwid, address)
    bench.controller.update_member(nwid, 0xAA00000001, {"authorized": False}, bench.now, bench.wall)
    refusal, revocation = sorted(bench.vl1.take(), key=lambda item: item.address)
    assert (refusal.address, refusal.code) == (0xAA00000001, ERROR_NETWORK_ACCESS_DENIED)
    assert (revocation.address, revocation.verb) == (0xAA00000002, VERB_NETWORK_CREDENTIALS)
    (revoked,) = NetworkCredentials.parse(revocation.payload).revocations
    assert revoked.verify(CONTROLLER) and revoked.target == 0xAA00000001 and revoked.threshold == bench.wall
    (again,) = bench.ask(nwid, 0xAA00000001)
    assert again.code == ERROR_NETWORK_ACCESS_DENIED


def test_a_changed_route_is_pushed_to_who_is_online_and_counts_a_revision(bench: Bench) -> None:
    nwid = bench.network()
    for address in (0xAA00000001, 0xAA00000002):
        bench.authorize(nwid, address)
    first = bench.config(nwid, 0xAA00000001)
    bench.now += 200  # 0xaa00000001 falls silent
    bench.ask(nwid, 0xAA00000002)
    routes = [*SETTINGS["routes"], {"target": "172.16.0.0/16"}]  # type: ignore[misc]
    bench.controller.update_network(nwid, {"routes": routes}, bench.now, bench.wall)
    sent = bench.vl1.take()
    assert {item.address for item in sent} == {0xAA00000002}
    pushed = assemble(sent)
    assert pushed.revision == first.revision + 1 and str(pushed.routes[-1].target) == "172.16.0.0/16"


def test_a_change_that_changes_nothing_is_neither_saved_nor_pushed(bench: Bench) -> None:
    nwid = bench.network()
    bench.authorize(nwid, 0xAA00000001)
    bench.ask(nwid, 0xAA00000001)
    bench.save()
    bench.controller.update_network(nwid, {"name": "lab"}, bench.now, bench.wall)
    bench.authorize(nwid, 0xAA00000001)
    assert bench.vl1.take() == [] and bench.save() == []


def test_a_large_network_is_pushed_to_in_turns(bench: Bench) -> None:
    nwid = bench.network(private=False, v4AssignMode={"zt": False})
    for number in range(100):
        bench.ask(nwid, 0xAA00000001 + number)
    bench.now += 0.5
    bench.controller.update_network(nwid, {"name": "new"}, bench.now, bench.wall)
    reached = {item.address for item in bench.vl1.take()}
    assert 0 < len(reached) < 100 and bench.controller.next_timer() == bench.now
    for _ in range(100):
        if bench.controller.next_timer() is None:
            break
        bench.controller.handle_timer(bench.now, bench.wall)
        reached |= {item.address for item in bench.vl1.take()}
    assert len(reached) == 100


def test_a_member_is_answered_once_a_second(bench: Bench) -> None:
    nwid = bench.network()
    bench.authorize(nwid, 0xAA00000001)
    assert bench.ask(nwid, 0xAA00000001)
    bench.now -= 0.9
    assert bench.ask(nwid, 0xAA00000001) == []
    assert bench.controller.counters["drop_request_too_soon"] == 1
    assert bench.ask(nwid, 0xAA00000001)


def test_a_stranger_is_answered_once_a_second_too(bench: Bench) -> None:
    nwid = CONTROLLER.address << 24 | 99
    assert bench.ask(nwid, 0xAA00000001)
    bench.now -= 0.9
    assert bench.ask(nwid, 0xAA00000001) == []


def test_another_identity_with_a_members_address_stays_out(bench: Bench) -> None:
    nwid = bench.network()
    bench.authorize(nwid, 0xAA00000001)
    bench.ask(nwid, 0xAA00000001)
    stranger = Identity(0xAA00000001, identity(0x77).public)
    (refusal,) = bench.ask(nwid, 0xAA00000001, who=stranger)
    assert refusal.code == ERROR_NETWORK_ACCESS_DENIED
    assert bench.controller.member(nwid, 0xAA00000001).identity == identity(0xAA00000001).build_text()


def test_addresses_differ_and_survive_a_restart(bench: Bench) -> None:
    nwid = bench.network(private=False)
    addresses = {a: bench.config(nwid, a).static_addresses for a in range(0xAA00000001, 0xAA00000051)}
    assert len({four for _, four in addresses.values()}) == 80
    assert bench.config(nwid, 0xAA00000001).static_addresses == addresses[0xAA00000001]
    bench.save()
    again = Bench(bench.store)
    assert again.config(nwid, 0xAA00000050).static_addresses == addresses[0xAA00000050]
    assert again.controller.network(nwid) == bench.controller.network(nwid)


def test_a_full_pool_gives_no_address_but_a_configuration(bench: Bench) -> None:
    nwid = bench.network(
        private=False,
        v6AssignMode={},
        ipAssignmentPools=[{"ipRangeStart": "10.121.15.254", "ipRangeEnd": "10.121.15.255"}],
    )
    assert [str(a) for a in bench.config(nwid, 0xAA00000001).static_addresses] == ["10.121.15.254/24"]
    assert bench.config(nwid, 0xAA00000002).static_addresses == ()


def test_a_static_assignment_is_kept_and_belongs_to_one_member(bench: Bench) -> None:
    nwid = bench.network()
    bench.authorize(nwid, 0xAA00000001, ipAssignments=["10.121.15.99"])
    _, four = bench.config(nwid, 0xAA00000001).static_addresses
    assert str(four) == "10.121.15.99/24"
    with pytest.raises(ControllerError, match="aa00000001"):
        bench.authorize(nwid, 0xAA00000002, ipAssignments=["10.121.15.99"])


def test_a_bridge_stands_in_everybodys_configuration(bench: Bench) -> None:
    nwid = bench.network()
    for address in (0xAA00000001, 0xAA00000002):
        bench.authorize(nwid, address)
        bench.ask(nwid, address)
    bench.controller.update_member(nwid, 0xAA00000002, {"activeBridge": True}, bench.now, bench.wall)
    pushed = assemble([item for item in bench.vl1.take() if item.address == 0xAA00000001])
    assert pushed.with_role(SPECIALIST_ACTIVE_BRIDGE) == (0xAA00000002,)


def test_tags_and_capabilities_are_signed_for_who_holds_them(bench: Bench) -> None:
    rule = {"type": "ACTION_ACCEPT"}
    nwid = bench.network(
        tags=[{"id": 5, "default": 50}, {"id": 6, "default": None}],
        capabilities=[{"id": 1, "default": True, "rules": [rule]}, {"id": 2, "rules": [rule]}],
    )
    bench.authorize(nwid, 0xAA00000001, tags=[[6, 60]], capabilities=[2, 99])
    config = bench.config(nwid, 0xAA00000001)
    assert {tag.id: tag.value for tag in config.tags} == {5: 50, 6: 60}
    assert all(tag.verify(CONTROLLER) for tag in config.tags)
    assert [capability.id for capability in config.capabilities] == [2]
    assert config.capabilities[0].issued_to == 0xAA00000001
    assert config.capabilities[0].verify({CONTROLLER.address: CONTROLLER}.get) is True
    # An applicant that is new gets the default capability as well.
    bench.ask(nwid, 0xAA00000002)
    bench.authorize(nwid, 0xAA00000002)
    assert bench.config(nwid, 0xAA00000002).tags[0].id == 5


def test_an_old_node_gets_accept_rules_and_legacy_fields(bench: Bench) -> None:
    nwid = bench.network(rules=[{"type": "ACTION_DROP"}])
    bench.authorize(nwid, 0xAA00000001)
    assert [rule.type for rule in bench.config(nwid, 0xAA00000001).rules] == [0]
    sent = bench.ask(nwid, 0xAA00000001, rules_engine_revision=0, config_version=5)
    assert [rule.type for rule in assemble(sent).rules] == [1]
    data = b"".join(ConfigChunk.parse(item.payload).data for item in sent)
    assert Dictionary.parse(data).text("v4s").startswith("10.121.15.")


def test_a_deleted_network_is_gone_for_its_members(bench: Bench) -> None:
    nwid = bench.network()
    bench.authorize(nwid, 0xAA00000001)
    bench.ask(nwid, 0xAA00000001)
    bench.save()
    bench.controller.delete_network(nwid, bench.now)
    (told,) = bench.vl1.take()
    assert told.code == ERROR_OBJ_NOT_FOUND
    assert bench.controller.events()[-1] == ControlledNetworkChanged(nwid, None)
    bench.save()
    assert bench.store.keys() <= {CLOCK}
    with pytest.raises(KeyError):
        bench.controller.network(nwid)


def test_a_deleted_member_frees_its_address(bench: Bench) -> None:
    nwid = bench.network()
    bench.authorize(nwid, 0xAA00000001, ipAssignments=["10.121.15.99"])
    bench.controller.delete_member(nwid, 0xAA00000001, bench.now, bench.wall)
    bench.authorize(nwid, 0xAA00000002, ipAssignments=["10.121.15.99"])
    bench.save()
    assert sorted(bench.store.keys() - {CLOCK}) == [network_key(nwid), member_key(nwid, 0xAA00000002)]


def test_applicants_are_bounded_and_the_silent_make_room() -> None:
    bench = Bench(limits=ControllerLimits(max_pending=3, max_members=10))
    nwid = bench.network()
    bench.authorize(nwid, 0xAA00000099)
    for number in range(1, 6):
        bench.ask(nwid, 0xAA00000000 + number)
    assert [member.address & 0xFF for member in bench.controller.members(nwid)] == [3, 4, 5, 0x99]


def test_members_of_a_public_network_are_bounded() -> None:
    bench = Bench(limits=ControllerLimits(max_members=2))
    nwid = bench.network(private=False)
    assert [bench.ask(nwid, 0xAA00000000 + n)[0].code for n in (1, 2, 3)] == [None, None, ERROR_NETWORK_ACCESS_DENIED]


def test_nonsense_is_counted_and_dropped(bench: Bench) -> None:
    peer = bench.vl1.peer(0xAA00000001)
    nwid = bench.network().to_bytes(8, "big")
    for payload in (b"", b"\0" * 7, nwid + b"\xff\xff", nwid + b"\x00\x05ab"):
        bench.controller.receive([(peer, VERB_NETWORK_CONFIG_REQUEST, 1, payload)], bench.now, bench.wall)
        bench.controller.receive([(peer, 0x1F, 1, payload)], bench.now, bench.wall)
    assert bench.controller.counters["drop_malformed_request"] == 4 and bench.vl1.take() == []


def test_the_controller_may_be_a_member_itself(bench: Bench) -> None:
    """What a node sends to itself comes back from VL1, so there is nothing special to do."""
    nwid, own = bench.network(), CONTROLLER.address
    assert [item.code for item in bench.ask(nwid, own, who=CONTROLLER)] == [ERROR_NETWORK_ACCESS_DENIED]
    bench.authorize(nwid, own)
    assert {(item.address, item.verb) for item in bench.vl1.take()} == {(own, VERB_NETWORK_CONFIG)}
    bench.controller.update_member(nwid, own, {"authorized": False}, bench.now, bench.wall)
    assert [(item.address, item.code) for item in bench.vl1.take()] == [(own, ERROR_NETWORK_ACCESS_DENIED)]


def test_network_ids_belong_to_the_controller(bench: Bench) -> None:
    nwid = CONTROLLER.address << 24 | 0x0A69E3
    assert bench.controller.create_network({}, bench.now, bench.wall, nwid=nwid).nwid == nwid
    for bad in (nwid, 0xFEDCBA9876000001, CONTROLLER.address << 24):
        with pytest.raises(ControllerError):
            bench.controller.create_network({}, bench.now, bench.wall, nwid=bad)
    for address in (0, 0xFF00000001, 1 << 40):
        with pytest.raises(ControllerError):
            bench.controller.update_member(nwid, address, {}, bench.now, bench.wall)


def test_a_broken_document_is_named(bench: Bench) -> None:
    nwid = bench.network()
    bench.save()
    key = network_key(nwid)
    for broken in (b"{", b"[]", json.dumps({**json.loads(bench.store[key]), "mtu": "big"}).encode()):
        with pytest.raises(ControllerError, match=key):
            Bench({key: broken})


@pytest.fixture(autouse=True)
def _documents_reload(bench: Bench) -> Iterator[None]:
    """Whatever a test did, what was saved makes the same controller again."""
    yield
    bench.save()
    again = Bench(bench.store).controller
    assert again.networks() == bench.controller.networks()
    for network in again.networks():
        assert again.members(network.nwid) == bench.controller.members(network.nwid)


CHANGES: dict[str, Callable[[Controller, int, int, float, int], object]] = {
    "create": lambda it, nwid, who, now, wall: it.create_network(SETTINGS, now, wall),
    "update": lambda it, nwid, who, now, wall: it.update_network(nwid, {"mtu": 1400}, now, wall),
    "delete": lambda it, nwid, _who, now, _wall: it.delete_network(nwid, now),
    "authorize": lambda it, nwid, who, now, wall: it.update_member(nwid, who + 1, {"authorized": True}, now, wall),
    "deauthorize": lambda it, nwid, who, now, wall: it.update_member(nwid, who, {"authorized": False}, now, wall),
    "delete member": lambda it, nwid, who, now, wall: it.delete_member(nwid, who, now, wall),
}


@pytest.mark.parametrize("change", CHANGES.values(), ids=CHANGES)
def test_a_change_that_the_disk_does_not_take_does_not_happen(
    bench: Bench, change: Callable[[Controller, int, int, float, int], object]
) -> None:
    who, it = 0xAA00000001, bench.controller
    nwid = bench.network()
    for member in (who, who + 1, who + 2):
        bench.ask(nwid, member)
    bench.authorize(nwid, who)
    bench.authorize(nwid, who + 2)
    bench.save()
    it.events()
    bench.vl1.take()
    before, kept = (it.networks(), it.members(nwid)), dict(bench.store)
    bench.full = True
    with pytest.raises(OSError, match="No space left"):
        change(it, nwid, who, bench.now, bench.wall)
    assert (it.networks(), it.members(nwid)) == before
    assert it.events() == [] and bench.vl1.take() == [] and it.next_timer() is None
    bench.full = False
    assert bench.save() == [] and bench.store == kept
    change(it, nwid, who, bench.now, bench.wall)
    assert bench.store != kept


def test_a_network_that_was_deleted_stays_so_if_its_members_were_not(bench: Bench) -> None:
    """The power fails between the network's document and those of its members."""
    nwid = bench.network()
    bench.authorize(nwid, 0xAA00000001)
    bench.controller.delete_network(nwid, bench.now)
    assert list(bench.store) == [member_key(nwid, 0xAA00000001)]
    again = Bench(bench.store)
    assert again.controller.networks() == []
    assert again.save() == [member_key(nwid, 0xAA00000001)] and not again.store


def test_networks_are_bounded_and_get_ids_that_are_free() -> None:
    bench = Bench(limits=ControllerLimits(max_networks=2))
    first, second = bench.network(), bench.network()
    assert first != second and {first >> 24, second >> 24} == {CONTROLLER.address}
    with pytest.raises(ControllerError, match="2 networks"):
        bench.network()


def test_members_are_counted_and_have_addresses_that_can_be(bench: Bench) -> None:
    nwid = bench.network()
    bench.authorize(nwid, 0xAA00000001)
    bench.ask(nwid, 0xAA00000002)
    assert bench.controller.count_members(nwid) == (2, 1)
    assert bench.controller.authorizes(nwid, 0xAA00000001) and not bench.controller.authorizes(nwid, 0xAA00000002)
    for address in (0, 0xFF00000001, 1 << 40):
        with pytest.raises(ControllerError, match="not an address"):
            bench.authorize(nwid, address)


def test_a_bridge_that_is_deleted_is_none_any_more_for_the_others(bench: Bench) -> None:
    nwid = bench.network()
    bench.authorize(nwid, 0xAA00000001, activeBridge=True)
    bench.authorize(nwid, 0xAA00000002)
    assert bench.config(nwid, 0xAA00000002).with_role(SPECIALIST_ACTIVE_BRIDGE) == (0xAA00000001,)
    bench.now += 1.0
    bench.controller.delete_member(nwid, 0xAA00000001, bench.now, bench.wall)
    pushed = assemble([sent for sent in bench.vl1.take() if sent.address == 0xAA00000002])
    assert pushed.with_role(SPECIALIST_ACTIVE_BRIDGE) == ()


MEMBER = 0xAA00000001


def goes(bench: Bench, nwid: int, address: int, who: Identity | None = None) -> bool:
    """Whether a member is gone after a goodbye in its name; it gets no answer."""
    assert bench.ask(nwid, address, who=who, goodbye=True) == []
    return all(member.address != address for member in bench.controller.members(nwid))


def test_an_ephemeral_member_is_forgotten_when_it_says_goodbye(bench: Bench) -> None:
    nwid = bench.network(private=False)
    first = bench.config(nwid, MEMBER, ephemeral=True).static_addresses
    bench.config(nwid, MEMBER + 1)
    bench.save()
    assert bench.controller.member(nwid, MEMBER).ephemeral
    assert not goes(bench, nwid, MEMBER, who=identity(0xBB00000009)), "somebody else said so"
    assert not goes(bench, nwid, MEMBER + 1), "it is not ephemeral"
    bench.now += 0.001 - 1.0  # right after it asked
    assert goes(bench, nwid, MEMBER)
    assert bench.save() == [member_key(nwid, MEMBER)] and member_key(nwid, MEMBER) not in bench.store
    bench.now -= 0.9
    assert bench.ask(nwid, MEMBER, ephemeral=True) == [], "what was on the way does not make it a member again"
    assert set(first) & set(bench.config(nwid, MEMBER, ephemeral=True).static_addresses)


def test_an_ephemeral_member_that_is_not_heard_is_forgotten(bench: Bench) -> None:
    nwid = bench.network(private=False, ephemeralMembers=True, ephemeralTimeout=300_000)
    for address in (MEMBER, MEMBER + 1, MEMBER + 2):
        bench.config(nwid, address)
    bench.controller.update_member(nwid, MEMBER + 1, {"ephemeral": False}, bench.now, bench.wall)
    bench.vl1.take()

    def after(seconds: float) -> list[int]:
        end = bench.now + seconds
        while (due := bench.controller.next_timer()) is not None and due <= end:
            bench.now = max(bench.now, due)
            bench.controller.handle_timer(bench.now, bench.wall)
        bench.now = end
        return [member.address - MEMBER for member in bench.controller.members(nwid)]

    assert after(200) == [0, 1, 2]
    bench.config(nwid, MEMBER + 2)
    assert after(150) == [1, 2]
    revoked = [sent.address - MEMBER for sent in bench.vl1.take() if sent.verb == VERB_NETWORK_CREDENTIALS]
    assert revoked == [2], "those who are there learn that its certificate is void"
    bench.save()
    bench = Bench(bench.store)
    assert after(299) == [1, 2], "after a restart it has as long again"
    assert after(60) == [1]
    assert bench.controller.next_timer() is None


def test_a_member_that_takes_what_is_pushed_to_it_is_heard(bench: Bench) -> None:
    """Each push puts off its next request by a minute; what it confirms counts as well."""
    nwid = bench.network(private=False, ephemeralMembers=True, ephemeralTimeout=120_000)
    bench.config(nwid, MEMBER)
    bench.config(nwid, MEMBER + 1)
    for number in range(8):
        bench.now += 40
        bench.controller.update_network(nwid, {"name": str(number)}, bench.now, bench.wall)
        peer = SimpleNamespace(address=MEMBER, identity=identity(MEMBER).without_secret())
        taken = build_ok(VERB_NETWORK_CONFIG, 7, build_accepted(nwid, 1))[1:]
        for payload in (taken[:12], taken):
            bench.controller.receive([(cast(Any, peer), VERB_OK, 8, payload)], bench.now, bench.wall)
        bench.controller.handle_timer(bench.now, bench.wall)
    assert [member.address for member in bench.controller.members(nwid)] == [MEMBER]


def test_an_ephemeral_member_that_is_shut_out_stays_so(bench: Bench) -> None:
    """If it were forgotten it would be new when it asks again, and its token would let it in."""
    nwid = bench.network(authTokens={"sesame": 0}, ephemeralTimeout=300_000)
    shown: dict[str, Any] = {"ephemeral": True, "auth_token": "token:sesame"}
    assert bench.config(nwid, MEMBER, **shown).static_addresses
    bench.controller.update_member(nwid, MEMBER, {"authorized": False}, bench.now, bench.wall)
    assert not goes(bench, nwid, MEMBER)
    bench.save()
    bench = Bench(bench.store)  # it has never been heard there
    for _ in range(2):
        bench.now += 1000
        bench.controller.handle_timer(bench.now, bench.wall)
    (refusal,) = bench.ask(nwid, MEMBER, **shown)
    assert refusal.code == ERROR_NETWORK_ACCESS_DENIED
    bench.authorize(nwid, MEMBER)
    assert goes(bench, nwid, MEMBER), "let in again it is as ephemeral as before"


@pytest.mark.parametrize(
    "setting", [{"ephemeralTimeout": 1000}, {"ephemeralTimeout": 1 << 40}, {"ephemeralMembers": 1}]
)
def test_ephemeral_settings_are_bounded(bench: Bench, setting: dict[str, Any]) -> None:
    with pytest.raises(ControllerError, match=r"ephemeral"):
        bench.network(**setting)


# Where another controller may take over (strict): nothing is promised that is not kept


def test_nothing_is_promised_that_was_not_kept() -> None:
    bench = Bench(strict=True)
    nwid = bench.network(private=False, ephemeralMembers=True, ephemeralTimeout=120_000)
    given = bench.config(nwid, MEMBER).static_addresses
    assert member_key(nwid, MEMBER) in bench.store, "kept before it is told, not after"
    bench.save()
    bench.full = True
    assert bench.config(nwid, MEMBER, protocol=13).static_addresses == given, "it has nothing new to promise"
    assert bench.ask(nwid, MEMBER + 1) == []
    assert bench.controller.counters["drop_request_not_kept"] == 1
    assert [member.address for member in bench.controller.members(nwid)] == [MEMBER]
    assert goes(bench, nwid, MEMBER) is False, "its address is free when that is kept, and not before"
    assert bench.controller.authorizes(nwid, MEMBER)
    bench.now += 200
    bench.controller.handle_timer(bench.now, bench.wall)
    bench.now += 200
    bench.controller.handle_timer(bench.now, bench.wall)
    assert bench.controller.authorizes(nwid, MEMBER)
    bench.full = False
    assert bench.config(nwid, MEMBER + 1).static_addresses
    bench.now += 200
    bench.controller.handle_timer(bench.now, bench.wall)
    assert member_key(nwid, MEMBER) not in bench.store


def test_a_push_that_would_promise_something_new_waits_for_the_member_to_ask() -> None:
    bench = Bench(strict=True)
    nwid = bench.network(private=False, v4AssignMode={"zt": False})
    bench.config(nwid, MEMBER)
    bench.vl1.take()
    before = bench.controller.member(nwid, MEMBER)

    def refuse_members(key: str, value: bytes | None) -> None:
        if "/member/" in key:
            raise OSError(errno.EIO, "out")
        bench.store[key] = value or b""

    bench.controller._database._commit = refuse_members
    bench.controller.update_network(nwid, {"v4AssignMode": {"zt": True}}, bench.now, bench.wall)
    assert bench.vl1.take() == [] and bench.controller.member(nwid, MEMBER) == before


def test_members_are_read_in_order_from_anywhere_while_they_come_and_go(bench: Bench) -> None:
    nwid = bench.network(private=False)
    for address in (MEMBER + 4, MEMBER, MEMBER + 2):
        bench.config(nwid, address)
    members = bench.controller.members_after(nwid, -1)
    assert next(members).address == MEMBER
    bench.controller.delete_member(nwid, MEMBER + 2, bench.now, bench.wall)
    bench.config(nwid, MEMBER + 3)
    assert [member.address for member in members] == [MEMBER + 4], "as it was begun, without those that are gone"
    assert [member.address for member in bench.controller.members_after(nwid, MEMBER)] == [MEMBER + 3, MEMBER + 4]
    assert bench.controller.count_members(nwid) == (3, 3)
    bench.controller.update_member(nwid, MEMBER, {"authorized": False}, bench.now, bench.wall)
    assert bench.controller.count_members(nwid) == (3, 2)


def test_a_pool_without_a_free_address_is_walked_through_once(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    """And again once it may have one: when a member goes, loses an address, or the pools change."""
    walks: list[int] = []
    pick = address_pools._pick

    def counted(network: ControlledNetwork, pool: Pool, member: int, *rest: Any) -> Any:
        walks.append(member)
        return pick(network, pool, member, *rest)

    monkeypatch.setattr(address_pools, "_pick", counted)
    nwid = bench.network(
        private=False, ipAssignmentPools=[{"ipRangeStart": "10.121.15.1", "ipRangeEnd": "10.121.15.2"}]
    )

    def has_address(address: int) -> bool:
        walks.clear()
        return any(ip.version == 4 for ip in bench.config(nwid, address).static_addresses)

    assert has_address(MEMBER) and has_address(MEMBER + 1)
    assert not has_address(MEMBER + 2) and len(walks) == 1
    for _ in range(3):
        assert not has_address(MEMBER + 2) and not walks
    assert not has_address(MEMBER + 3) and not walks
    bench.controller.delete_member(nwid, MEMBER, bench.now, bench.wall)
    assert has_address(MEMBER + 3) and not has_address(MEMBER + 2)
    bench.controller.update_member(
        nwid, MEMBER + 1, {"ipAssignments": [], "noAutoAssignIps": True}, bench.now, bench.wall
    )
    assert has_address(MEMBER + 2)
    assert not has_address(MEMBER + 4)
    pools = [{"ipRangeStart": "10.121.15.1", "ipRangeEnd": "10.121.15.3"}]
    bench.controller.update_network(nwid, {"ipAssignmentPools": pools}, bench.now, bench.wall)
    assert has_address(MEMBER + 4)


HOUR = 3600_000


@pytest.mark.parametrize("jumps", [(3 * HOUR,), (-3 * HOUR,), (2 * HOUR, -5 * HOUR, 23 * HOUR), (-20 * HOUR, 60_000)])
@pytest.mark.parametrize("fails_over", [False, True])
def test_members_certificates_agree_whatever_happens_to_the_time_of_day(
    jumps: tuple[int, ...], fails_over: bool
) -> None:
    """Each member asks once a minute, at another moment; the clock is set, or another host with another one goes on."""
    bench = Bench()
    nwid = bench.network(certificateTimeoutWindowSize=300_000)  # the shortest
    members = [0xAA00000001, 0xAA00000002]
    for member in members:
        bench.authorize(nwid, member)
    held: dict[int, NetworkConfig] = {}

    def go_on(minutes: int) -> None:
        for _ in range(minutes):
            for member in members:
                bench.now += 29.0
                config = bench.config(nwid, member)
                if member in held:
                    assert config.timestamp > held[member].timestamp, "an older one is a replay"
                held[member] = config
                bench.save()
                for one in held.values():
                    for other in held.values():
                        ours, theirs = one.certificate_of_membership, other.certificate_of_membership
                        assert ours is not None and theirs is not None
                        assert ours.agrees_with(theirs, identity(other.issued_to))
                        if one is not other:
                            assert abs(one.timestamp - other.timestamp) < 300_000, "tags and ownership"

    go_on(3)
    for jump in jumps:
        if fails_over:
            after = Bench(bench.store)
            after.now, after.set_by = 5.0, bench.set_by + int((bench.now - 5.0) * 1000)  # its host started just now
            bench = after
        bench.set_by += jump
        go_on(3)


@pytest.mark.parametrize(("set_by", "hours"), [(3 * HOUR, 1), (-3 * HOUR, 4), (25 * HOUR, 0), (3650 * 24 * HOUR, 0)])
def test_the_time_of_issue_comes_back_to_the_time_of_day(set_by: int, hours: int) -> None:
    clock = IssueClock()
    assert clock.read(0.0, WALL) == WALL
    for minute in range(60 * hours + 1):
        issued = clock.read(60.0 * minute, WALL + 60_000 * minute + set_by)
        if minute < 60 * hours - 10:
            assert issued != WALL + 60_000 * minute + set_by
    assert issued == WALL + HOUR * hours + set_by


def test_a_member_that_was_expelled_stays_so_when_the_clock_is_set_back(bench: Bench) -> None:
    nwid = bench.network()
    for member in (0xAA00000001, 0xAA00000002):
        bench.authorize(nwid, member)
        certificate = bench.config(nwid, member).certificate_of_membership
    bench.set_by = -3 * HOUR
    bench.controller.update_member(nwid, 0xAA00000002, {"authorized": False}, bench.now, bench.wall)
    (sent,) = [each for each in bench.vl1.take() if each.verb == VERB_NETWORK_CREDENTIALS]
    (revocation,) = NetworkCredentials.parse(sent.payload).revocations
    assert certificate is not None and revocation.threshold >= certificate.timestamp


@pytest.mark.parametrize("nonsense", [b"", b"x", b"-1", b"9" * 400, b"1e9", bytes(range(256))])
def test_a_damaged_clock_is_the_time_of_day(nonsense: bytes) -> None:
    bench = Bench({CLOCK: nonsense})
    nwid = bench.network()
    bench.authorize(nwid, 0xAA00000001)
    assert bench.config(nwid, 0xAA00000001).timestamp == bench.wall
