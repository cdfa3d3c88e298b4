"""Who may take part: certificates shown and checked, frames refused, held and let through."""

from __future__ import annotations

from ipaddress import IPv4Address, IPv6Address

from tests.unit.vl2.vl2_lab import (
    ALICE,
    BOB,
    CONTROLLER,
    IDENTITIES,
    MALLORY,
    NWID,
    WALL,
    WINDOW,
    Wire,
    frame,
    mac,
    member_config,
)
from ztnode.vl2.membership import MAX_CREDENTIALS, MAX_HELD, MAX_REVOCATIONS, Membership, Verdict
from ztnode.wire.capability import Capability
from ztnode.wire.certificate_of_membership import CertificateOfMembership
from ztnode.wire.certificate_of_ownership import CertificateOfOwnership
from ztnode.wire.computed_ipv6 import rfc4193_address, sixplane_address
from ztnode.wire.config_request import ConfigRequest
from ztnode.wire.credential import CredentialType
from ztnode.wire.network_credentials import NetworkCredentials
from ztnode.wire.packet import (
    ERROR_NEED_MEMBERSHIP_CERTIFICATE,
    VERB_ERROR,
    VERB_FRAME,
    VERB_MULTICAST_LIKE,
    VERB_NETWORK_CONFIG_REQUEST,
    VERB_NETWORK_CREDENTIALS,
    VERB_NOP,
    VERB_USER_MESSAGE,
)
from ztnode.wire.revocation import Revocation
from ztnode.wire.rules import Rule, RuleType
from ztnode.wire.tag import Tag

KEY = IDENTITIES[CONTROLLER]
BY_ADDRESS = IDENTITIES.get
DATA = NWID.to_bytes(8, "big") + b"\x08\x00" + bytes(40)


def com(address: int, timestamp: int = WALL) -> CertificateOfMembership:
    return CertificateOfMembership.issue(NWID, timestamp, WINDOW, IDENTITIES[address]).sign(KEY)


def test_frames_pass_between_members_that_showed_their_certificates(pair: Wire) -> None:
    payload = bytes(range(60))
    pair.send(ALICE, frame(ALICE, BOB, payload))
    assert pair.inboxes[BOB] == [(mac(BOB) + mac(ALICE) + b"\x08\x00", payload)]
    assert len(pair.sent(ALICE, BOB, VERB_NETWORK_CREDENTIALS)) == 1
    assert pair.vl1s[BOB].trusted[ALICE]
    pair.send(BOB, frame(BOB, ALICE, payload))
    pair.send(ALICE, *[frame(ALICE, BOB, payload)] * 5)
    assert len(pair.inboxes[ALICE]) == 1 and len(pair.inboxes[BOB]) == 6
    assert len(pair.sent(ALICE, BOB, VERB_NETWORK_CREDENTIALS)) == 1, "shown once is enough"
    assert len(pair.sent(BOB, ALICE, VERB_MULTICAST_LIKE)) == 1, "a member is told our groups"


def test_credentials_are_shown_again_with_a_new_configuration_and_after_a_while(pair: Wire) -> None:
    pair.send(ALICE, frame(ALICE, BOB))
    pair.run(400)
    pair.send(ALICE, frame(ALICE, BOB))
    assert len(pair.sent(ALICE, BOB, VERB_NETWORK_CREDENTIALS)) == 1
    pair.run(150)
    pair.send(ALICE, frame(ALICE, BOB))
    assert len(pair.sent(ALICE, BOB, VERB_NETWORK_CREDENTIALS)) == 2
    pair.configs[ALICE] = member_config(ALICE, timestamp=WALL + 1)
    pair.run(61)
    pair.send(ALICE, frame(ALICE, BOB))
    assert len(pair.sent(ALICE, BOB, VERB_NETWORK_CREDENTIALS)) == 3


def test_a_stranger_is_refused_and_counted(pair: Wire) -> None:
    for _ in range(3):
        pair.deliver(MALLORY, BOB, VERB_FRAME, DATA)
    assert not pair.inboxes[BOB]
    (error,) = pair.sent(BOB, MALLORY, VERB_ERROR)
    assert error[0] == VERB_FRAME and error[9] == ERROR_NEED_MEMBERSHIP_CERTIFICATE
    assert error[10:] == NWID.to_bytes(8, "big")
    pair.run(40)
    assert pair.nodes[BOB].counters["drop_no_certificate_of_membership"] == 3
    assert pair.network(BOB).counters["drop_no_certificate_of_membership"] == 3


def test_frames_wait_for_the_certificate_and_then_pass_in_order(pair: Wire) -> None:
    for number in range(MAX_HELD + 4):
        pair.deliver(MALLORY, BOB, VERB_FRAME, DATA[:10] + bytes((number,)) * 20)
    assert not pair.inboxes[BOB]
    pair.deliver(MALLORY, BOB, VERB_NETWORK_CREDENTIALS, NetworkCredentials((com(MALLORY),)).build())
    assert [payload[0] for _, payload in pair.inboxes[BOB]] == list(range(MAX_HELD))
    assert pair.nodes[BOB].counters["drop_no_certificate_of_membership"] == 4


def test_bad_certificates_admit_nobody(pair: Wire) -> None:
    forged = CertificateOfMembership.issue(NWID, WALL, WINDOW, IDENTITIES[MALLORY]).sign(IDENTITIES[MALLORY])
    too_old = com(MALLORY, WALL - WINDOW - 1)
    for certificate in (forged, com(ALICE), too_old):
        packet = NetworkCredentials((certificate,)).build()
        pair.deliver(MALLORY, BOB, VERB_NETWORK_CREDENTIALS, packet)
        pair.deliver(MALLORY, BOB, VERB_FRAME, DATA)
        assert not pair.inboxes[BOB]
    assert pair.nodes[BOB].counters["drop_credential"] == 1
    assert pair.network(BOB).members <= 2, "claims without proof take no memory"


def test_we_show_our_certificate_when_asked(pair: Wire) -> None:
    error = bytes((VERB_FRAME,)) + bytes(8) + bytes((ERROR_NEED_MEMBERSHIP_CERTIFICATE,)) + NWID.to_bytes(8, "big")
    for _ in range(3):
        pair.deliver(BOB, ALICE, VERB_ERROR, error)
    packets = pair.sent(ALICE, BOB, VERB_NETWORK_CREDENTIALS)
    assert len(packets) == 1, "not more than once a second"
    assert NetworkCredentials.parse(packets[0]).certificates_of_membership[0].issued_to == ALICE


def test_credentials_wait_for_a_controller_that_is_not_known_yet(pair: Wire) -> None:
    controller = pair.vl1s[BOB].known.pop(CONTROLLER)
    pair.deliver(ALICE, BOB, VERB_NETWORK_CREDENTIALS, NetworkCredentials((com(ALICE),)).build())
    pair.deliver(ALICE, BOB, VERB_FRAME, DATA)
    assert not pair.inboxes[BOB]
    pair.run(0.5)
    pair.vl1s[BOB].known[CONTROLLER] = controller
    pair.run(0.2)
    assert len(pair.inboxes[BOB]) == 1


def test_revocation_shuts_a_member_out_and_travels_on(pair: Wire) -> None:
    pair.send(ALICE, frame(ALICE, BOB))
    pair.send(BOB, frame(BOB, ALICE))
    revocation = Revocation(NWID, 1, 0, WALL, 1, ALICE, CredentialType.COM).sign(KEY)
    packet = NetworkCredentials(revocations=(revocation,)).build()
    pair.log.clear()
    for _ in range(2):
        pair.deliver(CONTROLLER, BOB, VERB_NETWORK_CREDENTIALS, packet)
    assert pair.sent(BOB, ALICE, VERB_NETWORK_CREDENTIALS) == [packet]
    pair.inboxes[BOB].clear()
    pair.send(ALICE, frame(ALICE, BOB))
    assert not pair.inboxes[BOB]


def test_public_network_needs_no_certificate(wire: Wire) -> None:
    for address in (ALICE, BOB):
        wire.configs[address] = member_config(address, private=False, certificate_of_membership=None)
        wire.add(address).join(NWID, wire.now)
    wire.settle()
    wire.send(ALICE, frame(ALICE, BOB))
    assert len(wire.inboxes[BOB]) == 1
    assert not wire.sent(ALICE, BOB, VERB_NETWORK_CREDENTIALS)


def test_frames_of_networks_that_we_did_not_join_are_dropped(pair: Wire) -> None:
    pair.deliver(MALLORY, BOB, VERB_FRAME, bytes(8) + DATA[8:])
    assert pair.nodes[BOB].counters["drop_unknown_network"] == 1
    pair.nodes[BOB].send_frames(5, [bytes(60)], pair.now)
    assert pair.nodes[BOB].counters["drop_unknown_network"] == 2


def test_members_that_vl1_has_forgotten_are_forgotten(pair: Wire) -> None:
    pair.send(ALICE, frame(ALICE, BOB))
    assert pair.network(BOB).members == 1
    del pair.vl1s[BOB].known[ALICE]
    pair.run(60)
    assert pair.network(BOB).members == 0


def test_tags_capabilities_and_ownership() -> None:
    config = member_config(BOB)
    membership = Membership()
    tag = Tag(NWID, WALL, ALICE, 7, 1).sign(KEY)
    assert membership.add_tag(tag, BY_ADDRESS) is Verdict.NEW
    assert membership.add_tag(tag, BY_ADDRESS) is Verdict.REDUNDANT
    assert membership.add_tag(Tag(NWID, WALL - 1, ALICE, 7, 2).sign(KEY), BY_ADDRESS) is Verdict.REJECTED
    assert membership.add_tag(Tag(NWID, WALL + 1, ALICE, 7, 3), BY_ADDRESS) is Verdict.REJECTED
    assert membership.add_tag(Tag(NWID, WALL + 1, ALICE, 7, 3).sign(KEY), lambda address: None) is Verdict.DEFERRED
    assert membership.tag(config, 7) == 1
    assert membership.tag(member_config(BOB, timestamp=WALL + WINDOW + 1), 7) is None
    capability = Capability(NWID, WALL, 9, (Rule(RuleType.ACTION_ACCEPT),)).sign(KEY, ALICE)
    assert membership.add_capability(capability, BY_ADDRESS) is Verdict.NEW
    assert list(membership.capabilities(config)) == [capability]
    owned = CertificateOfOwnership(NWID, WALL, ALICE, 1).with_thing(IPv4Address("10.0.0.1")).sign(KEY)
    assert membership.add_ownership(owned, BY_ADDRESS) is Verdict.NEW
    assert membership.owns(config, IPv4Address("10.0.0.1")) and not membership.owns(config, IPv4Address("10.0.0.2"))
    revoked = Revocation(NWID, 1, 7, WALL, 0, ALICE, CredentialType.TAG).sign(KEY)
    assert membership.add_revocation(revoked, BY_ADDRESS) is Verdict.NEW
    assert membership.add_revocation(revoked, BY_ADDRESS) is Verdict.REDUNDANT
    assert membership.tag(config, 7) is None
    assert membership.add_tag(tag, BY_ADDRESS) is Verdict.REDUNDANT
    assert membership.add_tag(Tag(NWID, WALL, ALICE, 7, 9).sign(KEY), BY_ADDRESS) is Verdict.REJECTED
    nonsense = Revocation(NWID, 1, 7, WALL, 0, ALICE, 99).sign(KEY)
    assert membership.add_revocation(nonsense, BY_ADDRESS) is Verdict.REJECTED
    membership.forget_expired(member_config(BOB, timestamp=WALL + WINDOW + 1))
    assert not list(membership.capabilities(config))


def test_what_is_revoked_is_revoked_by_the_controller_that_is_known(pair: Wire) -> None:
    membership = Membership()
    revoked = Revocation(NWID, 1, 7, WALL, 0, ALICE, CredentialType.TAG)
    assert membership.add_revocation(revoked.sign(KEY), lambda address: None) is Verdict.DEFERRED
    assert membership.add_revocation(revoked.sign(IDENTITIES[MALLORY]), BY_ADDRESS) is Verdict.REJECTED
    for id_ in range(MAX_REVOCATIONS):
        each = Revocation(NWID, 1, id_, WALL, 0, ALICE, CredentialType.TAG).sign(KEY)
        assert membership.add_revocation(each, BY_ADDRESS) is Verdict.NEW
    one_more = Revocation(NWID, 1, MAX_REVOCATIONS, WALL, 0, ALICE, CredentialType.TAG).sign(KEY)
    assert membership.add_revocation(one_more, BY_ADDRESS) is Verdict.REJECTED


def test_a_certificate_older_than_the_one_held_or_revoked_admits_nobody() -> None:
    membership = Membership()
    assert membership.add_membership(com(ALICE, WALL + 10), BY_ADDRESS) is Verdict.NEW
    assert membership.add_membership(com(ALICE, WALL + 9), BY_ADDRESS) is Verdict.REJECTED
    revoked = Revocation(NWID, 1, 0, WALL + 20, 0, ALICE, CredentialType.COM).sign(KEY)
    assert membership.add_revocation(revoked, BY_ADDRESS) is Verdict.NEW
    assert membership.add_membership(com(ALICE, WALL + 20), BY_ADDRESS) is Verdict.REJECTED
    assert membership.add_membership(com(ALICE, WALL + 21), BY_ADDRESS) is Verdict.NEW


def test_credentials_of_one_member_are_bounded() -> None:
    membership = Membership()
    verdicts = [
        membership.add_tag(Tag(NWID, WALL, ALICE, id_, 1).sign(KEY), BY_ADDRESS) for id_ in range(MAX_CREDENTIALS + 2)
    ]
    assert verdicts.count(Verdict.NEW) == MAX_CREDENTIALS and verdicts[-1] is Verdict.REJECTED


def test_emulated_ipv6_addresses_count_as_owned() -> None:
    own = (rfc4193_address(NWID, BOB), sixplane_address(NWID, BOB))
    config = member_config(BOB, static_addresses=own)
    membership = Membership()
    for address in (rfc4193_address(NWID, ALICE).ip, sixplane_address(NWID, ALICE).ip):
        assert membership.owns(config, address)
        assert not membership.owns(member_config(BOB), address)
    assert not membership.owns(config, IPv6Address("2001:db8::1"))


def test_giver_of_a_capability_that_was_handed_on_is_asked_for(pair: Wire) -> None:
    """Capability::verify asks WHOIS for a giver that it does not know, and the capability waits for the answer."""
    given = Capability(NWID, WALL, 7, (Rule(RuleType.ACTION_ACCEPT),), max_custody_chain=2)
    handed_on = given.sign(IDENTITIES[CONTROLLER], MALLORY).sign(IDENTITIES[MALLORY], BOB)
    giver = pair.vl1s[ALICE].known.pop(MALLORY)
    packet = NetworkCredentials(capabilities=(handed_on,)).build()
    pair.deliver(BOB, ALICE, VERB_NETWORK_CREDENTIALS, packet)
    assert pair.sent(ALICE, MALLORY, VERB_NOP) == [b""]
    pair.vl1s[ALICE].known[MALLORY] = giver
    pair.run(0.3)
    network = pair.nodes[ALICE]._networks[NWID]
    assert network.config is not None
    assert list(network.membership(BOB).capabilities(network.config)) == [handed_on]
    forged = given.sign(IDENTITIES[BOB], 0x1111111111)
    pair.log.clear()
    pair.deliver(BOB, ALICE, VERB_NETWORK_CREDENTIALS, NetworkCredentials(capabilities=(forged,)).build())
    assert not pair.sent(ALICE)


def test_user_messages_are_counted_and_controllers_told_what_we_run_on(wire: Wire) -> None:
    node = wire.add(ALICE, os_arch="linux/x86_64")
    node.join(NWID, wire.now)
    (request,) = wire.sent(ALICE, CONTROLLER, VERB_NETWORK_CONFIG_REQUEST)
    assert ConfigRequest.parse(request).metadata["o"] == b"linux/x86_64"
    wire.deliver(BOB, ALICE, VERB_USER_MESSAGE, bytes(8) + b"data")
    wire.deliver(BOB, ALICE, VERB_USER_MESSAGE, bytes(7))
    assert (node.counters["user_messages"], node.counters["drop_malformed"]) == (1, 1)
    assert not node.counters["drop_unknown_verb"]
