"""Documents: those that ZeroTier One's controller wrote, and whatever hypothesis makes up."""

import ipaddress
import json
import os
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ztnode.controller import ControllerError, documents
from ztnode.controller.address_pools import assign, managed_addresses
from ztnode.controller.database import Database
from ztnode.controller.documents import ControlledMember, ControlledNetwork, Pool
from ztnode.wire.network_config import Dns, ManagedRoute
from ztnode.wire.rules import Range, RuleType

VECTORS = Path(__file__).parents[2] / "vectors" / "controller"
NWID, MEMBER = 0x077069B9250A69E3, 0xC37A33FD8D


def stored() -> dict[str, bytes]:
    return {str(path.relative_to(VECTORS)): path.read_bytes() for path in VECTORS.rglob("*.json")}


def test_what_zerotier_one_wrote_is_read_whole() -> None:
    database = Database()
    database.load(stored())
    network, member = database.network(NWID), database.member(NWID, MEMBER)
    assert network is not None and member is not None
    assert (network.name, network.private, network.mtu, network.multicast_limit) == ("lab", True, 2000, 16)
    assert (network.v4_assign, network.v6_assign, network.rfc4193, network.sixplane) == (True, False, True, True)
    assert [str(route.target) for route in network.routes] == ["10.121.15.0/24", "192.168.55.0/24"]
    assert [rule.type for rule in network.rules][:3] == [
        RuleType.MATCH_ETHERTYPE,
        RuleType.MATCH_ETHERTYPE,
        RuleType.ACTION_DROP,
    ]
    assert network.tags == ((100, 7),) and network.capabilities[0].id == 5 and network.capabilities[0].default
    assert member.authorized and member.authorized_by == "api" and member.name == "printer"
    assert [str(address) for address in managed_addresses(network, member)][2:] == ["10.121.15.99/24"]


def test_what_is_not_understood_is_kept() -> None:
    for key, data in stored().items():
        nwid, address = documents.parse_key(key) or (0, None)
        original = json.loads(data)
        if address is None:
            written = documents.build_network(documents.parse_network(original, nwid))
        else:
            written = documents.build_member(documents.parse_member(original, nwid, address))
        assert original.keys() <= written.keys()
        for name in ("ssoEnabled", "clientId", "ssoExempt", "remoteTraceLevel"):
            assert written.get(name) == original.get(name)


def test_keys_name_networks_and_members() -> None:
    assert documents.parse_key(documents.network_key(NWID)) == (NWID, None)
    assert documents.parse_key(documents.member_key(NWID, MEMBER)) == (NWID, MEMBER)
    for other in (
        "controller.d/network/x.json",
        "controller.d/trace/1.json",
        "planet",
        "",
        "controller.d/network/../x",
    ):
        assert documents.parse_key(other) is None


def has_no_scope(address: ipaddress.IPv4Address | ipaddress.IPv6Address) -> bool:
    return getattr(address, "scope_id", None) is None


unscoped = st.ip_addresses(v=6).filter(has_no_scope)
addresses = st.one_of(st.ip_addresses(v=4), unscoped)
texts = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), max_size=31)
uint32 = st.integers(0, 0xFFFFFFFF)


@st.composite
def routes(draw: st.DrawFn) -> ManagedRoute:
    address = draw(addresses)
    target = ipaddress.ip_network((address, draw(st.integers(0, address.max_prefixlen))), strict=False)
    same = st.ip_addresses(v=4) if target.version == 4 else unscoped
    return ManagedRoute(target, draw(st.none() | same))


@st.composite
def pools(draw: st.DrawFn) -> Pool:
    ends = [draw(st.ip_addresses(v=4)), draw(st.ip_addresses(v=4))]
    return Pool(min(ends), max(ends))


networks = st.builds(
    ControlledNetwork,
    nwid=st.just(NWID),
    name=texts,
    private=st.booleans(),
    enable_broadcast=st.booleans(),
    mtu=st.integers(1280, 10000),
    multicast_limit=st.integers(0, 65535),
    v4_assign=st.booleans(),
    v6_assign=st.booleans(),
    rfc4193=st.booleans(),
    sixplane=st.booleans(),
    pools=st.lists(pools(), max_size=4).map(tuple),
    routes=st.lists(routes(), max_size=4).map(tuple),
    dns=st.builds(Dns, texts, st.lists(addresses, max_size=4).map(tuple)),
    rules=st.just(documents.ACCEPT_ALL),
    capabilities=st.just(()),
    tags=st.lists(st.tuples(uint32, st.none() | uint32), max_size=4).map(tuple),
    credential_window=st.integers(documents.MIN_CREDENTIAL_WINDOW, documents.MAX_CREDENTIAL_WINDOW),
    creation_time=st.integers(0, 1 << 50),
    revision=st.integers(0, 1 << 50),
    extra=st.just({}),
)
members = st.builds(
    ControlledMember,
    nwid=st.just(NWID),
    address=st.just(MEMBER),
    identity=texts,
    authorized=st.booleans(),
    active_bridge=st.booleans(),
    no_auto_assign_ips=st.booleans(),
    ip_assignments=st.lists(addresses, max_size=4, unique=True).map(tuple),
    tags=st.lists(st.tuples(uint32, uint32), max_size=4).map(tuple),
    capabilities=st.lists(uint32, max_size=4, unique=True).map(tuple),
    name=texts,
    version=st.tuples(*[st.integers(-1, 65535)] * 4),
    creation_time=st.integers(0, 1 << 50),
    last_authorized_time=st.integers(0, 1 << 50),
    last_deauthorized_time=st.integers(0, 1 << 50),
    authorized_by=st.none() | st.sampled_from(["api", "public"]),
    revision=st.integers(0, 1 << 50),
    extra=st.just({}),
)


@given(networks)
def test_networks_survive_their_document(network: ControlledNetwork) -> None:
    data = documents.build_document(documents.build_network(network))
    assert documents.parse_network(documents.parse_document(data), NWID) == network


@given(members)
def test_members_survive_their_document(member: ControlledMember) -> None:
    data = documents.build_document(documents.build_member(member))
    assert documents.parse_member(documents.parse_document(data), NWID, MEMBER) == member


scalars = st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8)
anything = st.recursive(
    scalars, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=4), inner)
)


@given(
    st.dictionaries(st.sampled_from(sorted(documents.NETWORK_KEYS)), anything),
    st.dictionaries(st.sampled_from(sorted(documents.MEMBER_KEYS)), anything),
    st.binary(max_size=64),
)
def test_nonsense_is_refused_and_nothing_else_happens(network: Any, member: Any, data: bytes) -> None:
    for parse in (
        lambda: documents.parse_network(network, NWID),
        lambda: documents.parse_member(member, NWID, MEMBER),
        lambda: documents.parse_document(data),
    ):
        try:
            parse()
        except ControllerError as error:
            assert "\n" not in str(error)


def test_what_forms_send_is_taken() -> None:
    network = documents.change_network(
        ControlledNetwork(NWID),
        {"private": "false", "mtu": "1400", "v4AssignMode": {"zt": "True"}, "tags": [{"id": "7", "default": "0"}]},
    )
    assert (network.private, network.mtu, network.v4_assign, network.tags) == (False, 1400, True, ((7, 0),))
    sized = [{"type": "MATCH_FRAME_SIZE_RANGE", "start": "64", "end": "100"}, {"type": "MATCH_VLAN_ID", "vlanId": "10"}]
    rules = documents.change_network(network, {"rules": sized}).rules
    assert [rule.value for rule in rules] == [Range(64, 100), 10]
    member = documents.change_member(ControlledMember(NWID, MEMBER), {"authorized": "1", "tags": [[7, "200"]]})
    assert member.authorized and member.tags == ((7, 200),)


@pytest.mark.parametrize(
    "settings",
    [
        {"nmae": "typo"},
        {"mtu": "1400x"},
        {"mtu": "²"},
        {"tags": [{"id": "9" * 5000}]},
        {"private": 1},
        {"rules": [{"type": "MATCH_VLAN_ID", "vlanId": "0x10"}]},
        {"mtu": 100},
        {"mtu": True},
        {"name": "x" * 128},
        {"routes": [{"target": "10.0.0.0/8", "via": "fd00::1"}]},
        {"ipAssignmentPools": [{"ipRangeStart": "10.0.0.9", "ipRangeEnd": "10.0.0.1"}]},
        {"rules": [{"type": "MATCH_NOTHING"}]},
        {"revision": 99},
        {"name": 7},
        {"name": "\ud800"},
        {"routes": {"target": "10.0.0.0/8"}},
        {"routes": [{"target": 10}]},
        {"routes": [{"target": "10.0.0.0/8"}] * 1000},
        {"tags": [{"id": -1, "default": 0}]},
        {"v4AssignMode": {"zt": "yes"}},
    ],
)
def test_a_setting_that_cannot_be_is_refused(settings: dict[str, Any]) -> None:
    with pytest.raises(ControllerError):
        documents.change_network(ControlledNetwork(NWID), settings)


def test_the_short_forms_of_assignment_modes_are_read() -> None:
    """As controllers of old wrote them."""
    network = documents.parse_network({"v4AssignMode": "zt", "v6AssignMode": "rfc4193,6plane"}, NWID)
    assert (network.v4_assign, network.v6_assign, network.rfc4193, network.sixplane) == (True, False, True, True)


def test_a_document_is_bounded() -> None:
    with pytest.raises(ControllerError, match="larger"):
        documents.parse_document(bytes(documents.MAX_DOCUMENT_BYTES + 1))


def test_what_is_no_document_is_passed_over_and_an_orphan_removed() -> None:
    """A member of a network that is not there was left by a deletion that did not finish."""
    database = Database()
    orphan = documents.member_key(NWID, MEMBER)
    database.load({"controller.d/notes.txt": b"x", orphan: b"{}"})
    assert len(database) == 0 and database.unsaved() == [(orphan, None)]


def test_addresses_are_routed_free_and_the_same_again() -> None:
    network = ControlledNetwork(
        NWID,
        v4_assign=True,
        pools=(Pool(ipaddress.ip_address("10.0.0.0"), ipaddress.ip_address("10.0.1.255")),),
        routes=(ManagedRoute(ipaddress.ip_network("10.0.1.0/24")),),
    )
    taken: set[Any] = set()
    for address in range(1, 255):
        (given_address,) = assign(network, ControlledMember(NWID, address), taken, os.urandom).ip_assignments
        assert given_address in ipaddress.ip_network("10.0.1.0/24") and given_address not in taken
        assert given_address not in (ipaddress.ip_address("10.0.1.0"), ipaddress.ip_address("10.0.1.255"))
        taken.add(given_address)
    assert assign(network, ControlledMember(NWID, 999), taken, os.urandom).ip_assignments == ()
    again = [assign(network, ControlledMember(NWID, MEMBER), set(), os.urandom).ip_assignments for _ in range(2)]
    assert again[0] == again[1]


def test_a_huge_ipv6_pool_is_sampled() -> None:
    network = ControlledNetwork(
        NWID,
        v6_assign=True,
        pools=(Pool(ipaddress.ip_address("fd00::"), ipaddress.ip_address("fd00::ffff:ffff:ffff:ffff")),),
        routes=(ManagedRoute(ipaddress.ip_network("fd00::/64")),),
    )
    first = assign(network, ControlledMember(NWID, MEMBER), set(), os.urandom)
    assert first.ip_assignments == (ipaddress.ip_address("fd00::") + MEMBER,)
    second = assign(network, ControlledMember(NWID, MEMBER), set(first.ip_assignments), os.urandom)
    assert second.ip_assignments and second.ip_assignments != first.ip_assignments
    assert assign(network, replace(first, no_auto_assign_ips=True), set(), os.urandom).ip_assignments == (
        first.ip_assignments
    )
