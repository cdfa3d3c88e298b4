"""Joining: requests and their retries, answers of every kind, refresh, push, deauthorization, the cache."""

from __future__ import annotations

from ipaddress import IPv4Interface
from itertools import pairwise

import pytest

from tests.unit.vl2.vl2_lab import (
    ALICE,
    BOB,
    CONTROLLER,
    IDENTITIES,
    MALLORY,
    NWID,
    ROOT,
    WALL,
    Wire,
    frame,
    mac,
    member_config,
)
from ztnode.vl2 import ConfigStored, NetworkChanged, NetworkStatus
from ztnode.wire.config_chunk import FLAG_FAST_PROPAGATE, ConfigChunk
from ztnode.wire.config_request import ConfigRequest, RequestMetadata, build_auth_info
from ztnode.wire.credential import CredentialType
from ztnode.wire.network_config import DEFAULT_MTU, SingleSignOn
from ztnode.wire.network_credentials import NetworkCredentials
from ztnode.wire.packet import (
    ERROR_NETWORK_AUTHENTICATION_REQUIRED,
    ERROR_OBJ_NOT_FOUND,
    ERROR_UNSUPPORTED_OPERATION,
    VERB_ERROR,
    VERB_MULTICAST_GATHER,
    VERB_MULTICAST_LIKE,
    VERB_NETWORK_CONFIG,
    VERB_NETWORK_CONFIG_REQUEST,
    VERB_NETWORK_CREDENTIALS,
    VERB_OK,
)
from ztnode.wire.revocation import Revocation


def _error(
    wire: Wire, code: int, details: bytes = b"", *, sender: int = CONTROLLER, packet_id: int | None = None
) -> None:
    """An ERROR in answer to Alice's last request."""
    last = max(i for i, entry in enumerate(wire.log) if entry[2] == VERB_NETWORK_CONFIG_REQUEST) + 1
    in_re = bytes((VERB_NETWORK_CONFIG_REQUEST,)) + (last if packet_id is None else packet_id).to_bytes(8, "big")
    wire.deliver(sender, ALICE, VERB_ERROR, in_re + bytes((code,)) + NWID.to_bytes(8, "big") + details)


def test_join_asks_at_once_and_reports(wire: Wire) -> None:
    wire.configs[ALICE] = member_config(ALICE)
    wire.add(ALICE).join(NWID, wire.now)
    assert CONTROLLER in wire.vl1s[ALICE].contacts
    assert wire.network(ALICE).status is NetworkStatus.REQUESTING
    request = ConfigRequest.parse(wire.sent(ALICE, CONTROLLER, VERB_NETWORK_CONFIG_REQUEST)[0])
    metadata = RequestMetadata.parse_dictionary(request.metadata)
    assert (metadata.config_version, metadata.protocol, metadata.rules_engine_revision) == (7, 12, 1)
    assert metadata.max_rules == 1024 and request.revision == 0
    wire.settle()
    snapshot = wire.network(ALICE)
    assert snapshot.status is NetworkStatus.OK and not snapshot.from_cache and snapshot.detail == ""
    assert (snapshot.name, snapshot.mtu, snapshot.mac) == ("test", DEFAULT_MTU, int.from_bytes(mac(ALICE), "big"))
    config = wire.configs[ALICE]
    assert config is not None and wire.stored[ALICE] == config.build()
    assert len(wire.sent(ALICE, CONTROLLER, VERB_MULTICAST_LIKE)) == 1
    assert len(wire.sent(ALICE, ROOT, VERB_MULTICAST_LIKE)) == 1


def test_events_name_what_changed(wire: Wire) -> None:
    node = wire.add(ALICE)
    node.join(NWID, wire.now)
    node.join(NWID, wire.now)
    assert node.events() == [ConfigStored(NWID, b"\n"), NetworkChanged(NWID)]
    assert len(wire.requests) == 0 and len(wire.sent(ALICE)) == 1
    assert wire.vl1s[ALICE].contacts == {CONTROLLER}
    node.leave(NWID, wire.now)
    assert not wire.vl1s[ALICE].contacts
    assert node.events() == [ConfigStored(NWID, None), NetworkChanged(NWID)]
    assert node.network(NWID) is None and node.networks() == []
    with pytest.raises(KeyError):
        node.leave(NWID, wire.now)


def test_another_token_is_shown_soon_and_the_end_is_said(wire: Wire) -> None:
    def tokens() -> list[str]:
        asked = wire.sent(ALICE, CONTROLLER, VERB_NETWORK_CONFIG_REQUEST)
        return [RequestMetadata.parse_dictionary(ConfigRequest.parse(each).metadata).auth_token for each in asked]

    node = wire.add(ALICE)
    node.join(NWID, wire.now, auth_token="first")
    assert node.has_news
    wire.settle()
    assert not node.has_news, "they were taken"
    node.join(NWID, wire.now)
    node.join(NWID, wire.now, auth_token="second")
    node.ask_again(NWID + 1, wire.now)
    wire.configs[ALICE] = member_config(ALICE)
    wire.run(1)
    assert tokens() == ["token:first", "token:second"]
    before = len(wire.sent(ALICE, CONTROLLER))
    node.say_goodbye(wire.now)
    assert len(wire.sent(ALICE, CONTROLLER)) == before + 1
    (figures,) = node.figures()
    assert figures.nwid == NWID and node.network(NWID + 1) is None


def test_silence_is_answered_with_retries_that_slow_down(wire: Wire) -> None:
    wire.add(ALICE).join(NWID, wire.now)
    start = wire.now
    wire.run(60)
    times = [at - start for at, _ in wire.requests]
    assert times[:4] == pytest.approx([0, 0.35, 1.05, 2.15])
    gaps = [b - a for a, b in pairwise(times)]
    assert max(gaps) == pytest.approx(8.0) and len(times) < 15
    assert wire.network(ALICE).status is NetworkStatus.REQUESTING
    assert "1122334455" in wire.network(ALICE).detail


def test_refresh_every_minute_and_news_is_taken(wire: Wire) -> None:
    wire.configs[ALICE] = member_config(ALICE)
    wire.add(ALICE).join(NWID, wire.now)
    wire.run(30)
    wire.configs[ALICE] = member_config(ALICE, timestamp=WALL + 60_000, revision=2, name="renamed")
    wire.run(100)
    assert 2 <= len(wire.requests) <= 3
    assert (wire.network(ALICE).name, wire.network(ALICE).revision) == ("renamed", 2)
    second = wire.sent(ALICE, CONTROLLER, VERB_NETWORK_CONFIG_REQUEST)[1]
    assert ConfigRequest.parse(second).revision == 1


def test_waiting_for_authorization_names_our_address_and_goes_on(wire: Wire) -> None:
    wire.configs[ALICE] = None
    wire.add(ALICE).join(NWID, wire.now)
    wire.settle()
    snapshot = wire.network(ALICE)
    assert snapshot.status is NetworkStatus.WAITING_FOR_AUTHORIZATION
    assert f"{ALICE:010x}" in snapshot.detail
    wire.run(5)
    wire.configs[ALICE] = member_config(ALICE)
    wire.run(2.5)
    assert wire.network(ALICE).status is NetworkStatus.OK
    wire.requests.clear()


def test_polling_slows_down_when_nobody_authorizes(wire: Wire) -> None:
    wire.configs[ALICE] = None
    wire.add(ALICE).join(NWID, wire.now)
    wire.run(1300)
    late = [at for at, _ in wire.requests if at > wire.now - 100]
    assert 9 <= len(late) <= 11


def test_not_found(wire: Wire) -> None:
    for code in (ERROR_OBJ_NOT_FOUND, ERROR_UNSUPPORTED_OPERATION):
        fresh = Wire()
        fresh.add(ALICE).join(NWID, fresh.now)
        _error(fresh, code)
        assert fresh.network(ALICE).status is NetworkStatus.NOT_FOUND
        assert "1122334455" in fresh.network(ALICE).detail


def test_authentication_required_gives_the_url(wire: Wire) -> None:
    wire.add(ALICE).join(NWID, wire.now)
    sso = SingleSignOn(enabled=True, authentication_url="https://login.example/abc")
    _error(wire, ERROR_NETWORK_AUTHENTICATION_REQUIRED, build_auth_info(sso))
    snapshot = wire.network(ALICE)
    assert snapshot.status is NetworkStatus.AUTHENTICATION_REQUIRED
    assert snapshot.sso.authentication_url == "https://login.example/abc"


def test_errors_that_prove_nothing_are_ignored(wire: Wire) -> None:
    wire.configs[ALICE] = member_config(ALICE)
    wire.add(ALICE).join(NWID, wire.now)
    wire.settle()
    _error(wire, ERROR_OBJ_NOT_FOUND, sender=MALLORY)
    _error(wire, ERROR_OBJ_NOT_FOUND, packet_id=999)
    _error(wire, 0x77)
    assert wire.network(ALICE).status is NetworkStatus.OK
    assert wire.nodes[ALICE].counters["drop_unexpected_error"] == 2


def test_configuration_in_many_chunks_in_any_order(wire: Wire) -> None:
    wire.add(ALICE).join(NWID, wire.now)
    chunks = wire.chunks(member_config(ALICE), chunk_size=50)
    assert len(chunks) > 5
    for chunk in [*reversed(chunks), *chunks]:
        wire.deliver(CONTROLLER, ALICE, VERB_NETWORK_CONFIG, chunk)
    assert wire.network(ALICE).status is NetworkStatus.OK
    assert len(wire.sent(ALICE, CONTROLLER, VERB_OK)) == 1


def test_pushed_configuration_of_another_member_or_forged(wire: Wire) -> None:
    wire.add(ALICE).join(NWID, wire.now)
    node = wire.nodes[ALICE]
    for_bob = wire.chunks(member_config(BOB))
    forged = ConfigChunk.parse(wire.chunks(member_config(ALICE))[0]).sign(IDENTITIES[MALLORY]).build()
    legacy = NWID.to_bytes(8, "big") + len(data := member_config(ALICE).build()).to_bytes(2, "big") + data
    for sender, chunk in ((CONTROLLER, for_bob[0]), (MALLORY, forged), (CONTROLLER, forged), (MALLORY, legacy)):
        wire.deliver(sender, ALICE, VERB_NETWORK_CONFIG, chunk)
        assert wire.network(ALICE).status is NetworkStatus.REQUESTING
    assert node.counters["drop_malformed"] == 4
    wire.deliver(CONTROLLER, ALICE, VERB_OK, bytes((VERB_NETWORK_CONFIG_REQUEST,)) + bytes(8) + legacy)
    assert wire.network(ALICE).status is NetworkStatus.OK


def test_old_configuration_replayed_by_a_member_is_ignored(wire: Wire) -> None:
    wire.configs[ALICE] = member_config(ALICE, timestamp=WALL + 5, name="new")
    wire.add(ALICE).join(NWID, wire.now)
    wire.settle()
    old = wire.chunks(member_config(ALICE, timestamp=WALL, name="old"))
    wire.deliver(MALLORY, ALICE, VERB_NETWORK_CONFIG, old[0])
    assert wire.network(ALICE).name == "new"


def test_fast_propagation_passes_a_chunk_on_once(pair: Wire) -> None:
    pair.send(ALICE, frame(ALICE, BOB))
    chunk = pair.chunks(member_config(ALICE, timestamp=WALL + 1, name="pushed"), flags=FLAG_FAST_PROPAGATE)[0]
    pair.log.clear()
    for _ in range(3):
        pair.deliver(MALLORY, ALICE, VERB_NETWORK_CONFIG, chunk)
    pair.settle()
    assert pair.network(ALICE).name == "pushed"
    assert pair.sent(ALICE, BOB, VERB_NETWORK_CONFIG) == [chunk]


def test_deauthorization_closes_the_network(pair: Wire) -> None:
    pair.configs[ALICE] = None
    pair.run(61)
    snapshot = pair.network(ALICE)
    assert snapshot.status is NetworkStatus.WAITING_FOR_AUTHORIZATION and snapshot.addresses == ()
    assert pair.stored[ALICE] == b"\n", "a restart must not begin with what no longer holds"
    pair.log.clear()
    pair.send(ALICE, frame(ALICE, BOB))
    pair.send(BOB, frame(BOB, ALICE))
    assert not pair.sent(ALICE) and not pair.inboxes[ALICE]
    assert pair.nodes[ALICE].counters["drop_not_joined"] == 2
    pair.configs[ALICE] = member_config(ALICE, timestamp=WALL + 1)
    pair.run(2.5)
    assert pair.network(ALICE).status is NetworkStatus.OK


def test_our_own_revocation_makes_us_ask_at_once(pair: Wire) -> None:
    pair.configs[ALICE] = None
    revocation = Revocation(NWID, 1, 0, WALL + 1, 1, ALICE, CredentialType.COM).sign(IDENTITIES[CONTROLLER])
    packet = NetworkCredentials(revocations=(revocation,)).build()
    pair.deliver(CONTROLLER, ALICE, VERB_NETWORK_CREDENTIALS, packet)
    pair.run(0.01)
    assert pair.network(ALICE).status is NetworkStatus.WAITING_FOR_AUTHORIZATION


def test_cached_configuration_is_used_before_the_controller_answers(wire: Wire) -> None:
    config = member_config(ALICE)
    wire.add(ALICE).join(NWID, wire.now, cached=config.build())
    snapshot = wire.network(ALICE)
    assert snapshot.status is NetworkStatus.OK and snapshot.from_cache and "cache" in snapshot.detail
    wire.send(ALICE, frame(ALICE, BOB))
    assert wire.sent(ALICE, BOB)
    wire.configs[ALICE] = config
    wire.run(1)
    assert not wire.network(ALICE).from_cache and wire.network(ALICE).detail == ""


USELESS = [b"", b"\n", b"garbage", member_config(BOB).build(), member_config(ALICE).build()[:99]]


@pytest.mark.parametrize("cached", USELESS)
def test_useless_cache_is_ignored(wire: Wire, cached: bytes) -> None:
    wire.add(ALICE).join(NWID, wire.now, cached=cached)
    assert wire.network(ALICE).status is NetworkStatus.REQUESTING
    assert len(wire.sent(ALICE, CONTROLLER, VERB_NETWORK_CONFIG_REQUEST)) == 1


def test_after_a_long_time_offline_we_ask_and_announce_again(wire: Wire) -> None:
    wire.configs[ALICE] = member_config(ALICE)
    node = wire.add(ALICE)
    node.join(NWID, wire.now)
    wire.run(10)
    wire.vl1s[ALICE].online = False
    node.handle_timer(wire.now)
    assert node.next_timer() == pytest.approx(wire.now + 0.1)
    wire.run(20)
    wire.requests.clear()
    wire.log.clear()
    wire.vl1s[ALICE].online = True
    wire.run(0.5)
    assert len(wire.requests) == 1
    assert wire.sent(ALICE, ROOT, VERB_MULTICAST_LIKE)


def test_config_request_to_a_node_without_controller(wire: Wire) -> None:
    wire.add(ALICE)
    wire.add(BOB, controller=True)
    request = ConfigRequest(NWID, RequestMetadata().build_dictionary()).build()
    for target in (ALICE, BOB):
        wire.deliver(MALLORY, target, VERB_NETWORK_CONFIG_REQUEST, request)
    (error,) = wire.sent(ALICE, MALLORY, VERB_ERROR)
    assert error[9] == ERROR_UNSUPPORTED_OPERATION and error[10:] == NWID.to_bytes(8, "big")
    assert not wire.sent(BOB)


def test_adhoc_networks_need_no_controller(wire: Wire) -> None:
    node = wire.add(ALICE)
    for nwid, expected in (
        (0xFF00160016000000, NetworkStatus.OK),
        (0xFF0A000000000001, NetworkStatus.OK),
        (0xFF00170016000000, NetworkStatus.NOT_FOUND),
        (0xFF000000000000AA, NetworkStatus.NOT_FOUND),
    ):
        node.join(nwid, wire.now)
        snapshot = node.network(nwid)
        assert snapshot is not None and snapshot.status is expected
    ports, open_net = node.networks()[:2]
    assert ports.name == "adhoc-0016-0016" and str(ports.addresses[0]).startswith("fc")
    assert open_net.name == "adhoc-10.0.0.0" and str(open_net.addresses[1]) == "10.224.0.1/8"
    assert not wire.sent(ALICE, verb=VERB_NETWORK_CONFIG_REQUEST)
    wire.run(200)
    assert not wire.sent(ALICE, verb=VERB_NETWORK_CONFIG_REQUEST)


@pytest.mark.parametrize(
    ("code", "status"),
    [
        (ERROR_OBJ_NOT_FOUND, NetworkStatus.NOT_FOUND),
        (ERROR_UNSUPPORTED_OPERATION, NetworkStatus.NOT_FOUND),
        (ERROR_NETWORK_AUTHENTICATION_REQUIRED, NetworkStatus.AUTHENTICATION_REQUIRED),
    ],
)
def test_controllers_mishap_does_not_take_the_network_away(pair: Wire, code: int, status: NetworkStatus) -> None:
    """Frames go on until the certificate has expired; the state says what the controller has answered."""
    del pair.configs[ALICE]
    pair.run(61)
    asked = pair.nodes[ALICE]._networks[NWID]._client._ids[-1]
    sso = SingleSignOn(enabled=True, authentication_url="https://login")
    _error(pair, code, build_auth_info(sso), packet_id=asked)
    snapshot = pair.network(ALICE)
    assert snapshot.status is status and snapshot.addresses and "until the certificate expires" in snapshot.detail
    assert pair.stored[ALICE] not in (None, b"\n")
    pair.send(ALICE, frame(ALICE, BOB))
    assert pair.inboxes[BOB]
    window = pair.nodes[ALICE]._networks[NWID].config
    assert window is not None
    pair.run(window.credential_time_max_delta / 1000 + 1)
    assert pair.network(ALICE).status is status and not pair.network(ALICE).addresses
    pair.configs[ALICE] = member_config(ALICE, timestamp=WALL + 1)
    pair.run(31)
    assert pair.network(ALICE).status is NetworkStatus.OK


def test_known_members_are_asked_where_root_and_controller_are_away(pair: Wire) -> None:
    """A root that lost its memory, or is gone, and a controller that is: Bob knows himself."""
    pair.send(ALICE, frame(ALICE, BOB))
    pair.send(BOB, frame(BOB, ALICE))
    for vl1 in pair.vl1s.values():
        vl1.planet.roots = []
    subscriptions = pair.nodes[ALICE]._networks[NWID].multicaster.subscriptions
    for address in (BOB, ROOT):
        for group in list(subscriptions._groups_of.get(address, ())):
            subscriptions.remove(group, address)
    assert pair.nodes[ALICE].is_lonely(NWID) and not pair.nodes[ALICE].is_lonely(5)
    arp = bytes.fromhex("0001080006040001") + mac(ALICE) + bytes(4) + bytes(6) + bytes((10, 0, 0, 2))
    pair.inboxes[BOB].clear()
    pair.send(ALICE, b"\xff" * 6 + mac(ALICE) + b"\x08\x06" + arp)
    assert pair.inboxes[BOB]
    assert not pair.nodes[ALICE].is_lonely(NWID)


def test_peers_of_the_last_run_are_asked_where_nobody_else_is_known(wire: Wire) -> None:
    config = member_config(ALICE, static_addresses=(IPv4Interface("10.0.0.1/24"),))
    wire.add(ALICE, acquaintances=lambda count, now: [ALICE, BOB][:count], upstreams=lambda: [MALLORY])
    wire.nodes[ALICE].join(NWID, wire.now, cached=config.build())
    arp = bytes.fromhex("0001080006040001") + mac(ALICE) + bytes(4) + bytes(6) + bytes((10, 0, 0, 2))
    wire.nodes[ALICE].send_frames(NWID, [b"\xff" * 6 + mac(ALICE) + b"\x08\x06" + arp], wire.now)
    asked = {target for source, target, verb, _ in wire.log if verb == VERB_MULTICAST_GATHER}
    assert asked == {CONTROLLER, MALLORY, BOB}
    assert wire.sent(ALICE, MALLORY, VERB_MULTICAST_LIKE), "every upstream serves multicast, moons' roots too"
    assert not wire.sent(ALICE, ROOT)
