"""What a node keeps: found again, never overwritten when damaged, readable by and from a ZeroTier One home."""

from __future__ import annotations

import asyncio
import errno
import json
import os
import threading
from collections.abc import Iterator
from dataclasses import replace
from ipaddress import ip_network
from pathlib import Path

import pytest

from tests.system.harness import identities
from ztnode.node.home import Home, StateError
from ztnode.plugins.stores import FileStore, MemoryStore
from ztnode.wire import c25519
from ztnode.wire.default_planet import DEFAULT_PLANET
from ztnode.wire.identity import Identity
from ztnode.wire.known_peers import KnownPeer, KnownPeers
from ztnode.wire.world import PLANET_ID_EARTH, World, WorldType

NWID = 0x9AD07D01093A69E3


@pytest.fixture(scope="module")
def identity() -> Identity:
    return next(identities())


@pytest.fixture
def home(tmp_path: Path) -> Iterator[Home]:
    opened = Home(FileStore(tmp_path))
    yield opened
    opened.close()


def load(home: Home, identity: Identity) -> Identity:
    async def generate() -> Identity:
        return identity

    return asyncio.run(home.identity(generate))


def planet(identity: Identity, *, world_id: int = 7, timestamp: int = 1) -> World:
    secret = bytes(range(64))
    public = c25519.derive_public(secret)
    roots = World.parse(DEFAULT_PLANET).roots
    return World.sign(WorldType.PLANET, world_id, timestamp, public, roots, public=public, secret=secret)


def test_an_identity_is_made_once(home: Home, tmp_path: Path, identity: Identity) -> None:
    assert load(home, identity) == identity

    async def never() -> Identity:
        raise AssertionError("an identity is there")

    again = asyncio.run(home.identity(never))
    assert again == identity and again.secret == identity.secret
    assert (tmp_path / "identity.secret").read_text() == identity.build_text(include_secret=True)
    assert (tmp_path / "identity.public").read_text() == identity.build_text()


@pytest.mark.parametrize("damage", ["truncated", "flipped", "binary", "public only", "empty"])
def test_a_damaged_identity_is_refused_and_kept(home: Home, tmp_path: Path, identity: Identity, damage: str) -> None:
    text = identity.build_text(include_secret=True)
    damaged = {
        "truncated": text[:-9].encode(),
        "flipped": (text[:-1] + ("0" if text[-1] != "0" else "1")).encode(),
        "binary": os.urandom(64) + b"\xff",
        "public only": identity.build_text().encode(),
        "empty": b"",
    }[damage]
    (tmp_path / "identity.secret").write_bytes(damaged)
    with pytest.raises(StateError, match=r"identity\.secret is damaged"):
        load(home, identity)
    assert (tmp_path / "identity.secret").read_bytes() == damaged


def test_a_lost_secret_is_not_replaced(home: Home, tmp_path: Path, identity: Identity) -> None:
    (tmp_path / "identity.public").write_text(identity.build_text())
    with pytest.raises(StateError, match="restore"):
        load(home, identity)


def test_the_default_planet_is_used_and_not_kept(home: Home, tmp_path: Path) -> None:
    assert home.planet(DEFAULT_PLANET, chosen=False).id == PLANET_ID_EARTH
    assert not (tmp_path / "planet").exists()


def test_a_chosen_planet_is_kept_and_used_without_being_named_again(home: Home, identity: Identity) -> None:
    chosen = planet(identity)
    assert home.planet(chosen.build(), chosen=True) == chosen
    assert home.planet(DEFAULT_PLANET, chosen=False) == chosen


def test_the_newer_of_two_versions_is_used(home: Home, identity: Identity) -> None:
    old, new = planet(identity, timestamp=1), planet(identity, timestamp=2)
    home.keep_planet(new.build()).result()
    assert home.planet(old.build(), chosen=True) == new
    newest = planet(identity, timestamp=3)
    assert home.planet(newest.build(), chosen=True) == newest


def test_a_damaged_planet_is_refused_and_kept(home: Home, tmp_path: Path) -> None:
    (tmp_path / "planet").write_bytes(DEFAULT_PLANET[:100])
    with pytest.raises(StateError, match=r"planet .* is damaged"):
        home.planet(DEFAULT_PLANET, chosen=False)
    assert (tmp_path / "planet").read_bytes() == DEFAULT_PLANET[:100]
    with pytest.raises(StateError, match="cannot be used"):
        home.planet(b"not a planet", chosen=True)


def test_networks_come_back(home: Home, tmp_path: Path) -> None:
    home.keep_network(NWID, b"").result()
    assert home.networks() == {NWID: b""}
    home.keep_network(NWID, b"nwid=9ad07d01093a69e3\n").result()
    (tmp_path / "networks.d/9ad07d01093a69e3.local.conf").write_text("allowManaged=1\n")
    assert home.networks() == {NWID: b"nwid=9ad07d01093a69e3\n"}
    home.keep_network(NWID, None).result()
    assert home.networks() == {}


@pytest.mark.parametrize("damaged", [b"\0" * 100, b"nwid=1\n", os.urandom(300)])
def test_a_damaged_network_is_refused_and_kept(home: Home, tmp_path: Path, damaged: bytes) -> None:
    home.keep_network(NWID, damaged).result()
    with pytest.raises(StateError, match=r"networks.d/9ad07d01093a69e3.conf .* damaged"):
        home.networks()
    assert (tmp_path / "networks.d/9ad07d01093a69e3.conf").read_bytes() == damaged


class SlowStore(MemoryStore):
    """A store that takes nothing before it is let go, and notes what it took."""

    def __init__(self) -> None:
        super().__init__()
        self.busy, self.go = threading.Event(), threading.Event()
        self.taken: list[tuple[str, bytes | None]] = []

    def write(self, key: str, value: bytes) -> None:
        self._take(key, value)

    def delete(self, key: str) -> None:
        self._take(key, None)

    def _take(self, key: str, value: bytes | None) -> None:
        self.busy.set()
        assert self.go.wait(10)
        if value == b"bad":
            raise OSError(errno.EIO, os.strerror(errno.EIO))
        self.taken.append((key, value))


@pytest.fixture
def slow() -> Iterator[SlowStore]:
    store = SlowStore()
    yield store
    store.go.set()


def test_what_waits_for_the_disk_is_the_newest_value_of_each_key(slow: SlowStore) -> None:
    home = Home(slow)
    first = home.keep_document("first", b"1")
    assert slow.busy.wait(10)  # this one is being written: what comes now waits
    writes = [home.keep_document(f"key {number % 3}", b"%d" % number) for number in range(3000)]
    writes.append(home.keep_document("key 1", None))
    writes.append(home.keep_document("first", b"2"))
    assert not any(write.done() for write in writes)
    slow.go.set()
    home.close()
    first.result(0)
    for write in writes:
        write.result(0)
    assert slow.taken == [("first", b"1"), ("key 0", b"2997"), ("key 1", None), ("key 2", b"2999"), ("first", b"2")]


def test_who_stops_waiting_takes_no_write_back(slow: SlowStore) -> None:
    home = Home(slow)
    home.keep_document("first", b"1")
    assert slow.busy.wait(10)
    assert not home.keep_document("key", b"1").cancel()
    write = home.keep_document("key", b"2")
    slow.go.set()
    write.result(10)
    home.close()
    assert slow.taken[-1] == ("key", b"2")


def test_a_write_that_failed_says_so_to_everyone_who_waits(slow: SlowStore) -> None:
    home = Home(slow)
    home.keep_document("first", b"1")
    assert slow.busy.wait(10)
    writes = [home.keep_document("key", b"good"), home.keep_document("key", b"bad")]
    slow.go.set()
    for write in writes:
        with pytest.raises(OSError, match="Input/output error"):
            write.result(10)
    home.keep_document("key", b"good").result(10)
    home.close()


def test_known_peers_are_kept_and_a_damaged_list_is_forgotten(home: Home, tmp_path: Path, identity: Identity) -> None:
    assert len(home.known_peers(0)) == 0
    peer = KnownPeer(identity.without_secret(), 1_700_000_000_000, (("192.0.2.1", 9993),))
    home.keep_known_peers(KnownPeers().build([peer])).result(5)
    assert home.known_peers(1_700_000_000_001).get(identity.address) == peer
    (tmp_path / "peers.d" / "known.peers").write_bytes(b"rubbish")
    assert len(home.known_peers(0)) == 0


def test_a_moon_that_is_looked_for_outlives_a_restart_until_it_is_there(home: Home, tmp_path: Path) -> None:
    home.keep_seed(0xDEADBEEF00, 0x9AD07D0109).result()
    home.keep_seed(7, 0x9AD07D0109).result()
    (tmp_path / "moons.d" / "0000000000000007.moon.bak").write_bytes(b"not ours")
    assert home.seeds() == {0xDEADBEEF00: 0x9AD07D0109, 7: 0x9AD07D0109}
    public = c25519.derive_public(bytes(range(64)))
    roots = World.parse(DEFAULT_PLANET).roots
    moon = World.sign(WorldType.MOON, 7, 1, public, roots, public=public, secret=bytes(range(64)))
    home.keep_moon(7, moon.build()).result()
    assert home.moons() == [moon] and home.seeds() == {0xDEADBEEF00: 0x9AD07D0109}
    home.forget_moon(7).result()
    home.forget_moon(0xDEADBEEF00).result()
    assert home.moons() == [] and home.seeds() == {}
    (tmp_path / "moons.d" / "000000deadbeef00.seed").write_text("nonsense")
    with pytest.raises(StateError, match="remove it"):
        home.seeds()


def test_local_conf_names_trusted_paths(home: Home, tmp_path: Path) -> None:
    assert home.local_conf().trusted == ()
    entry = {"trustedPathId": 101010024}
    (tmp_path / "local.conf").write_text(json.dumps({"physical": {"10.10.10.0/24": entry, "10.0.0.0/8": {}}, "x": 1}))
    assert home.local_conf().trusted == ((ip_network("10.10.10.0/24"), 101010024),)
    for bad in (
        "[",
        '{"physical": 1}',
        '{"physical": {"x": {}}}',
        '{"physical": {"10.0.0.0/8": {"trustedPathId": "1"}}}',
    ):
        (tmp_path / "local.conf").write_text(bad)
        with pytest.raises(StateError, match=r"local\.conf"):
            home.local_conf()


def test_an_identity_that_is_given_is_kept_and_takes_no_others_place(home: Home, identity: Identity) -> None:
    async def generate() -> Identity:
        raise AssertionError("there is one")

    assert asyncio.run(home.identity(generate, identity)) == identity
    assert asyncio.run(home.identity(generate)) == identity
    assert asyncio.run(home.identity(generate, identity)) == identity
    other = replace(identity, address=identity.address ^ 1, secret=bytes(64))
    with pytest.raises(StateError, match="the identity given is"):
        asyncio.run(home.identity(generate, other))
