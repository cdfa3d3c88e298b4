"""Configurations, credentials and messages that zerotier-one 1.14.1 made."""

from __future__ import annotations

import json
from ipaddress import IPv4Address, IPv4Interface, IPv4Network, IPv6Address, IPv6Interface
from pathlib import Path

import pytest

from ztnode.wire.certificate_of_ownership import CertificateOfOwnership
from ztnode.wire.computed_ipv6 import rfc4193_address, sixplane_address
from ztnode.wire.config_chunk import ConfigChunk
from ztnode.wire.credential import CredentialType
from ztnode.wire.dictionary import Dictionary
from ztnode.wire.ethernet import TYPE_ARP
from ztnode.wire.frame import EXT_FLAG_INBOUND, EXT_FLAG_TEE, build_ext_frame, parse_ext_frame
from ztnode.wire.identity import Identity
from ztnode.wire.mac import address_of, mac_of, parse_mac
from ztnode.wire.multicast import (
    MulticastGroup,
    build_gathered,
    build_likes,
    build_multicast_frame,
    build_multicast_frame_reply,
    parse_gathered,
    parse_likes,
    parse_multicast_frame,
    parse_multicast_frame_reply,
)
from ztnode.wire.network_config import SPECIALIST_ACTIVE_BRIDGE, NetworkConfig
from ztnode.wire.network_credentials import NetworkCredentials
from ztnode.wire.rules import RuleType, build_rule_json, parse_rule_json
from ztnode.wire.tag import Tag

VECTORS = Path(__file__).parents[2] / "vectors" / "vl2"
CONTROLLER = Identity.parse_text((VECTORS / "ctrl.identity").read_text())
MEMBER = Identity.parse_text((VECTORS / "peer.identity").read_text())
MESSAGES = json.loads((VECTORS / "messages.json").read_text())


def config(name: str) -> NetworkConfig:
    return NetworkConfig.parse((VECTORS / name).read_bytes())


def payloads(verb: int, in_re: int | None = None) -> list[bytes]:
    found = [bytes.fromhex(message["payload"]) for message in MESSAGES if message["verb"] == verb]
    return found if in_re is None else [payload[9:] for payload in found if payload[0] == in_re]


@pytest.mark.parametrize("name", ["private.conf", "rich.conf"])
def test_config_survives_decode_and_encode_byte_for_byte(name: str) -> None:
    data = (VECTORS / name).read_bytes()
    assert NetworkConfig.parse(data).build() == data
    assert Dictionary.parse(data).build() == data


def test_private_config_fields() -> None:
    c = config("private.conf")
    assert (c.name, c.mtu, c.multicast_limit, c.revision) == ("lab", 2800, 32, 1)
    assert c.is_private and c.broadcast and c.ndp_emulation
    assert c.issued_to == MEMBER.address
    assert c.static_addresses == (
        rfc4193_address(c.network_id, MEMBER.address),
        sixplane_address(c.network_id, MEMBER.address),
        IPv4Interface("10.121.15.99/24"),
    )
    assert [(r.target, r.via) for r in c.routes] == [
        (IPv4Network("10.121.15.0/24"), None),
        (IPv4Network("192.168.55.0/24"), IPv4Address("10.121.15.99")),
    ]
    assert (c.dns.domain, c.dns.servers) == ("lab.zt", (IPv4Address("10.121.15.99"),))
    assert [rule.type for rule in c.rules] == [RuleType.ACTION_ACCEPT]
    assert not c.sso.enabled and not c.unknown


def test_rich_config_fields() -> None:
    c = config("rich.conf")
    assert (c.name, c.mtu, c.multicast_limit, c.broadcast) == ("rich ☃", 1500, 5, False)
    assert c.with_role(SPECIALIST_ACTIVE_BRIDGE) == (MEMBER.address,)
    assert [(tag.id, tag.value) for tag in c.tags] == [(1000, 3), (2000, 9)]
    assert [(capability.id, len(capability.rules)) for capability in c.capabilities] == [(1, 2), (4000000000, 40)]
    assert IPv6Interface("2001:db8::c3/64") in c.static_addresses
    assert c.dns.servers == (IPv4Address("10.9.0.1"), IPv6Address("2001:db8::53"))


def test_rules_are_what_the_controller_says_they_are() -> None:
    shown = json.loads((VECTORS / "rich-rules.json").read_text())
    c = config("rich.conf")
    rendered = [build_rule_json(rule) for rule in c.rules]
    for ours, theirs in zip(rendered, shown["rules"], strict=True):
        assert {key: ours[key] for key in theirs} == theirs
    assert tuple(parse_rule_json(item) for item in shown["rules"]) == c.rules
    by_id = {capability["id"]: capability for capability in shown["capabilities"]}
    for capability in c.capabilities:
        assert tuple(parse_rule_json(item) for item in by_id[capability.id]["rules"]) == capability.rules


@pytest.mark.parametrize("name", ["private.conf", "rich.conf"])
def test_every_credential_of_the_real_controller_verifies(name: str) -> None:
    c = config(name)
    com = c.certificate_of_membership
    assert com is not None
    assert com.verify(CONTROLLER)
    assert (com.issued_to, com.network_id, com.timestamp) == (MEMBER.address, c.network_id, c.timestamp)
    assert com.agrees_with(com, MEMBER)
    assert not com.agrees_with(com, CONTROLLER), "the identity hash must be that of the member"
    assert not com.verify(MEMBER)
    assert c.certificates_of_ownership
    credentials: list[Tag | CertificateOfOwnership] = [*c.tags, *c.certificates_of_ownership]
    for credential in credentials:
        assert credential.verify(CONTROLLER)
        assert not credential.verify(MEMBER)
        assert credential.issued_to == MEMBER.address
    for capability in c.capabilities:
        assert capability.verify({CONTROLLER.address: CONTROLLER}.get) is True
        assert capability.verify(lambda address: None) is None
        assert capability.issued_to == MEMBER.address
    for address in c.static_addresses:
        assert any(certificate.owns(address.ip) for certificate in c.certificates_of_ownership)


def test_member_mac() -> None:
    nwid = config("rich.conf").network_id
    assert mac_of(MEMBER.address, nwid) == parse_mac("e6:f3:5d:b3:07:8a")
    assert address_of(parse_mac("e6:f3:5d:b3:07:8a"), nwid) == MEMBER.address


def test_config_chunks() -> None:
    chunks = [ConfigChunk.parse(payload) for payload in payloads(12) + payloads(3, 11)]
    assert len(chunks) >= 3
    for chunk in chunks:
        assert chunk.verify(CONTROLLER)
        assert not chunk.verify(MEMBER)
        assert (chunk.index, chunk.total_length) == (0, len(chunk.data))
        assert NetworkConfig.parse(chunk.data).network_id == chunk.network_id
    assert [chunk.build() for chunk in chunks] == payloads(12) + payloads(3, 11)


def test_credentials() -> None:
    decoded = [NetworkCredentials.parse(payload) for payload in payloads(10)]
    assert [credentials.build() for credentials in decoded] == payloads(10)
    rich, revoking, plain = decoded
    assert rich.certificates_of_membership[0].verify(CONTROLLER)
    assert len(rich.tags) == 2 and len(rich.capabilities) == 2 and len(rich.certificates_of_ownership) == 1
    assert plain.certificates_of_membership[0].issued_to == MEMBER.address
    (revocation,) = revoking.revocations
    assert revocation.verify(CONTROLLER)
    assert revocation.credential_type == CredentialType.COM and revocation.fast_propagate


def test_multicast_messages() -> None:
    (likes,) = payloads(9)
    assert build_likes(parse_likes(likes)) == likes
    for payload in payloads(3, 13):
        gathered = parse_gathered(payload)
        assert gathered.members == (MEMBER.address,) and gathered.total == 1
        assert gathered.group.adi
        assert build_gathered(gathered) == payload
    for payload in payloads(3, 14):
        reply = parse_multicast_frame_reply(payload)
        assert reply.members == (MEMBER.address,)
        assert build_multicast_frame_reply(reply) == payload
    (payload,) = payloads(14)
    frame = parse_multicast_frame(payload)
    assert frame.ethertype == TYPE_ARP and frame.gather_limit
    assert frame.group == MulticastGroup.for_resolution_of(IPv4Address(bytes(frame.payload[24:28])))
    assert build_multicast_frame(frame) == payload


def test_ext_frames() -> None:
    by_sender, by_receiver = (parse_ext_frame(payload) for payload in payloads(7))
    assert (by_sender.flags, by_receiver.flags) == (EXT_FLAG_TEE, EXT_FLAG_INBOUND)
    assert by_sender.ethertype == TYPE_ARP and by_sender.payload == by_receiver.payload
    assert [build_ext_frame(frame) for frame in (by_sender, by_receiver)] == payloads(7)
