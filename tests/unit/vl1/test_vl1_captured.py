"""Packets that ZeroTier One sent to ZeroTier One, given to a ``Vl1`` that has the receiver's identity."""

from __future__ import annotations

import json
import random
from typing import Any

import pytest

from tests.unit.vl1.vl1_network import VECTORS
from tests.unit.wire import packet_views
from ztnode.vl1 import Vl1
from ztnode.vl1.transmit import Expected
from ztnode.wire import packet
from ztnode.wire.compression import decompress
from ztnode.wire.hello import parse_ok_hello
from ztnode.wire.identity import Identity
from ztnode.wire.keys import PeerKeys
from ztnode.wire.packet import VERB_OK
from ztnode.wire.push_direct_paths import parse_push_direct_paths
from ztnode.wire.rendezvous import parse_rendezvous
from ztnode.wire.reply import parse_ok
from ztnode.wire.whois import parse_ok_whois, parse_whois
from ztnode.wire.world import World

CAPTURED = json.loads((VECTORS / "packets.json").read_text())
IDENTITIES = {name: Identity.parse_text(text) for name, text in CAPTURED["identities"].items()}
PORT = 9993
NOW = 100.0


def name(entry: dict[str, Any]) -> str:
    return "-".join(str(entry[key]) for key in ("source", "destination", "cipher", "verb", "in_re"))


def node(receiver: str, *, knows: bool = True) -> Vl1:
    """A node in the place of the receiver, which knows the others unless told otherwise."""
    vl1 = Vl1(
        IDENTITIES[receiver],
        World.parse(bytes.fromhex(CAPTURED["planet"])),
        random=random.Random(1).randbytes,
        now=NOW,
        wall=1,
    )
    for other, identity in IDENTITIES.items():
        if knows and other != receiver:
            vl1.add_peer(identity, NOW)
    vl1.to_send()
    return vl1


def opened(entry: dict[str, Any]) -> bytes:
    """The plaintext of a captured packet, by the codecs alone."""
    datagrams = [bytes.fromhex(text) for text in entry["datagrams"]]
    whole = datagrams[0] + b"".join(datagram[16:] for datagram in datagrams[1:])
    keys = PeerKeys(IDENTITIES[entry["destination"]].agree(IDENTITIES[entry["source"]]))
    plaintext = keys.open(whole)
    assert plaintext is not None
    return decompress(plaintext)


def give(vl1: Vl1, entry: dict[str, Any]) -> None:
    """Deliver a captured packet. If it is an answer, its question is made out to have been asked."""
    source = IDENTITIES[entry["source"]]
    plaintext = opened(entry)
    if entry["verb"] == "OK":
        ok = parse_ok(plaintext[1:])
        vl1._core.transmit.expect(ok.in_re_packet_id, Expected(source.address, ok.in_re_verb, NOW - 0.02))
    endpoint = (CAPTURED["addresses"]["root" if entry["hops"] else entry["source"]], PORT)
    vl1.receive([(bytes.fromhex(datagram), endpoint) for datagram in entry["datagrams"]], NOW)


def answers(vl1: Vl1, entry: dict[str, Any]) -> list[bytes]:
    """What the node has sent to the source of a captured packet, opened by that source's keys; HELLOs left out."""
    keys = PeerKeys(IDENTITIES[entry["source"]].agree(IDENTITIES[entry["destination"]]))
    plaintexts = [keys.open(data) for _, datagrams in vl1.to_send() for data in datagrams]
    return [plain for plain in plaintexts if plain is not None and plain[0] & packet.VERB_MASK != packet.VERB_HELLO]


def of_verb(verb: str, in_re: str | None = None) -> list[dict[str, Any]]:
    found = [entry for entry in CAPTURED["packets"] if entry["verb"] == verb and entry["in_re"] == in_re]
    assert found
    return found


UP = {"FRAME", "MULTICAST_FRAME", "MULTICAST_GATHER", "MULTICAST_LIKE", "NETWORK_CONFIG_REQUEST", "NETWORK_CREDENTIALS"}


@pytest.mark.parametrize("entry", CAPTURED["packets"], ids=name)
def test_every_captured_packet_is_taken(entry: dict[str, Any]) -> None:
    vl1 = node(entry["destination"])
    give(vl1, entry)
    assert not {key: count for key, count in vl1.counters.items() if key.startswith("drop_") and count}
    verb = entry["verb"] if entry["verb"] != "OK" else entry["in_re"]
    messages = vl1.messages()
    assert len(messages) == (verb in UP)
    for peer, code, packet_id, payload in messages:
        assert peer.address == IDENTITIES[entry["source"]].address
        assert packet_views.VERB_NAMES[code] == entry["verb"]
        assert packet_id == int(entry["datagrams"][0][:16], 16)
        assert bytes(payload) == opened(entry)[1:]
    give(vl1, entry)
    assert vl1.messages() == []


def test_hello_of_an_unknown_peer_is_answered() -> None:
    (entry,) = of_verb("HELLO")
    vl1 = node("root", knows=False)
    give(vl1, entry)
    peer = vl1.peer(IDENTITIES["peer"].address)
    assert peer is not None
    assert (peer.protocol, peer.version) == (12, (1, 14, 1))
    (answer,) = answers(vl1, entry)
    ok = parse_ok(answer[1:])
    assert answer[0] == VERB_OK
    assert ok.in_re_packet_id == int(entry["datagrams"][0][:16], 16)
    assert parse_ok_hello(ok.payload).surface == (CAPTURED["addresses"]["peer"], PORT)


def test_ok_hello_of_a_root_brings_a_node_online() -> None:
    (entry,) = (found for found in of_verb("OK", "HELLO") if found["source"] == "root")
    vl1 = node("peer", knows=False)
    give(vl1, entry)
    root = vl1.peer(IDENTITIES["root"].address)
    assert vl1.online and root is not None
    assert root.endpoint == (CAPTURED["addresses"]["root"], PORT)
    assert root.version == (1, 14, 1)
    assert root.latency == pytest.approx(0.02)
    assert [ip for ip, _ in vl1.surface_addresses] == [CAPTURED["addresses"]["peer"]]


def test_echo_is_answered() -> None:
    (entry,) = of_verb("ECHO")
    vl1 = node(entry["destination"])
    give(vl1, entry)
    (answer,) = answers(vl1, entry)
    assert parse_ok(answer[1:]).in_re_verb == packet.VERB_ECHO


def test_whois_is_answered() -> None:
    (entry,) = of_verb("WHOIS")
    vl1 = node(entry["destination"])
    give(vl1, entry)
    (answer,) = answers(vl1, entry)
    asked = parse_whois(opened(entry)[1:])
    assert [identity.address for identity in parse_ok_whois(parse_ok(answer[1:]).payload)] == asked


def test_answer_to_whois_makes_a_peer_known() -> None:
    (entry,) = of_verb("OK", "WHOIS")
    vl1 = node(entry["destination"], knows=False)
    (identity,) = parse_ok_whois(parse_ok(opened(entry)[1:]).payload)
    vl1.send(identity.address, packet.VERB_USER_MESSAGE, b"waiting", NOW)
    give(vl1, entry)
    peer = vl1.peer(identity.address)
    assert peer is not None and peer.identity == identity


@pytest.mark.parametrize("entry", of_verb("RENDEZVOUS") + of_verb("PUSH_DIRECT_PATHS"), ids=name)
def test_suggested_endpoints_are_tried(entry: dict[str, Any]) -> None:
    vl1 = node(entry["destination"])
    give(vl1, entry)
    body = opened(entry)[1:]
    if entry["verb"] == "RENDEZVOUS":
        suggested = {parse_rendezvous(body).endpoint}
    else:
        suggested = {path.endpoint for path in parse_push_direct_paths(body)}
    tried = {endpoint for endpoint, _ in vl1.to_send()}
    assert suggested
    assert suggested <= tried
