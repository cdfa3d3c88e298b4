"""Worlds are made, signed, updated and shown, as zerotier-idtool does it; bad input gets one clear line."""

import json
import os
import shutil
import subprocess
from pathlib import Path

import pytest

from ztnode import worldtool
from ztnode.wire.identity import Identity
from ztnode.wire.world import PLANET_ID_EARTH, Root, World, WorldType
from ztnode.worldtool import WorldSecret, WorldToolError

# Made by zerotier-one 1.14.1 (``zerotier-idtool generate``).
IDENTITY = (
    "df6361ad96:0:07d860caf5f59104f7d5a572735afdcbe492e9fc03e03f1b43543f8123bb3d7e998c4dfb6d98b"
    "69fcd847ddbe36737a0340bf1293eccb2fa47b96378b54a45f4"
)
SECRET = (
    "a0136bd1c8d46b0c21608912e2d1fafc86949eac821ffcda55dca062c5a6f182e75081cf9dbff41cc18661625c"
    "d7d1d4c66fd9bba60a2424e44952bea3b2dfa4"
)


@pytest.fixture(scope="module")
def secret() -> WorldSecret:
    return WorldSecret.generate(os.urandom)


def root(*endpoints: str) -> Root:
    return worldtool.parse_root(IDENTITY, endpoints or ["10.77.0.1/9993"])


def test_a_planet_carries_its_roots_and_signature(secret: WorldSecret) -> None:
    world = World.parse(worldtool.create_world([root("10.77.0.1/9993", "[fd00::1]:9993")], secret, 1234))
    assert (world.type, world.id, world.timestamp) == (WorldType.PLANET, secret.world_id, 1234)
    assert world.is_signed_by(secret.public) and world.updates_signed_by == secret.public
    assert world.roots[0].endpoints == (("10.77.0.1", 9993), ("fd00::1", 9993))
    assert world.roots[0].identity.build_text() == IDENTITY


def test_an_update_replaces_the_old_planet_even_with_a_clock_behind(secret: WorldSecret) -> None:
    old = worldtool.create_world([root()], secret, 5000)
    new = worldtool.update_world(old, secret, 4000)
    assert World.parse(old).may_be_replaced_by(World.parse(new))
    moved = World.parse(worldtool.update_world(old, secret, 9000, [root("10.9.9.9/1")]))
    assert moved.timestamp == 9000 and moved.roots[0].endpoints == (("10.9.9.9", 1),)


def test_an_update_needs_the_planets_own_key(secret: WorldSecret) -> None:
    old = worldtool.create_world([root()], secret, 5000)
    with pytest.raises(WorldToolError, match="another key"):
        worldtool.update_world(old, WorldSecret.generate(os.urandom, secret.world_id), 6000)


def test_the_secret_survives_its_file(secret: WorldSecret) -> None:
    assert WorldSecret.from_json(secret.to_json()) == secret
    assert secret.secret.hex() not in repr(secret)


def test_a_random_id_is_never_that_of_zerotiers_own_planet() -> None:
    numbers = iter([PLANET_ID_EARTH, 0, 7])

    def random(count: int) -> bytes:
        return next(numbers).to_bytes(4, "big") if count == 4 else os.urandom(count)

    assert WorldSecret.generate(random).world_id == 7


@pytest.mark.parametrize(
    "data", [b"", b"[]", b"{}", b'{"id": "1", "signingKey": "00", "signingKey_SECRET": "00"}', b"\xff", b"[" * 100_000]
)
def test_a_broken_secret_file_is_refused(data: bytes) -> None:
    with pytest.raises(WorldToolError):
        WorldSecret.from_json(data)


@pytest.mark.parametrize("text", ["10.0.0.1/9993", "10.0.0.1:9993", " 10.0.0.1/9993 "])
def test_endpoints_as_people_write_them(text: str) -> None:
    assert worldtool.parse_endpoint(text) == ("10.0.0.1", 9993)


@pytest.mark.parametrize("text", ["fd00::1/9993", "[fd00::1]:9993"])
def test_ipv6_endpoints(text: str) -> None:
    assert worldtool.parse_endpoint(text) == ("fd00::1", 9993)


@pytest.mark.parametrize(
    "text",
    ["", "10.0.0.1", "10.0.0.1/0", "10.0.0.1/70000", "host/9993", "fd00::1:9993", "0.0.0.0/9993", "fe80::1%eth0/9993"],
)
def test_bad_endpoints(text: str) -> None:
    with pytest.raises(WorldToolError):
        worldtool.parse_endpoint(text)


def test_roots_must_be_valid_and_reachable(secret: WorldSecret) -> None:
    forged = ("1" if IDENTITY[0] != "1" else "2") + IDENTITY[1:]
    with pytest.raises(WorldToolError, match="not valid"):
        worldtool.parse_root(forged, ["10.0.0.1/9993"])
    with pytest.raises(WorldToolError, match="not an identity"):
        worldtool.parse_root("nonsense", ["10.0.0.1/9993"])
    with pytest.raises(WorldToolError, match="needs an endpoint"):
        worldtool.create_world([worldtool.parse_root(IDENTITY, [])], secret, 1)
    with pytest.raises(WorldToolError, match="more than 32"):
        worldtool.parse_root(IDENTITY, [f"10.0.0.{last}/1" for last in range(1, 34)])
    for roots in ([], [root()] * 2, [root()] * 5):
        with pytest.raises(WorldToolError):
            worldtool.create_world(roots, secret, 1)


def test_show_tells_everything(secret: WorldSecret) -> None:
    shown = worldtool.describe_world(worldtool.create_world([root()], secret, 77))
    assert shown["worldType"] == "planet" and shown["timestamp"] == 77 and shown["selfSigned"] is True
    assert shown["id"] == f"{secret.world_id:016x}"
    assert shown["roots"] == [
        {"address": IDENTITY[:10], "identity": IDENTITY, "stableEndpoints": ["10.77.0.1/9993"]},
    ]
    with pytest.raises(WorldToolError):
        worldtool.describe_world(b"\x01junk")


def test_a_root_never_carries_its_secret_into_the_planet(secret: WorldSecret) -> None:
    own = Identity.parse_text(IDENTITY)
    planet = worldtool.create_world([worldtool.parse_root(f"{IDENTITY}:{SECRET}", ["10.0.0.1/1"])], secret, 1)
    assert World.parse(planet).roots[0].identity == own


VECTORS = json.loads((Path(__file__).parents[1] / "vectors" / "vl1" / "moons.json").read_text())


def test_a_moon_is_the_one_that_genmoon_makes() -> None:
    """Same definition, same time: the same bytes, signature and all."""
    secret = WorldSecret.from_json(json.dumps(VECTORS["definition"]).encode())
    assert secret.type is WorldType.MOON and f"{secret.world_id:010x}" == VECTORS["definition"]["id"]
    first, second = bytes.fromhex(VECTORS["first"]), bytes.fromhex(VECTORS["second"])
    assert worldtool.create_world(World.parse(first).roots, secret, World.parse(first).timestamp) == first
    # genmoon writes roots in the order of their addresses, and ours in that of the definition
    assert {root.identity.address for root in secret.roots} == {
        root.identity.address for root in World.parse(first).roots
    }
    assert worldtool.update_world(first, secret, World.parse(second).timestamp, World.parse(second).roots) == second


def test_a_moons_root_may_be_anywhere() -> None:
    secret = WorldSecret.generate(os.urandom, 0x1234, WorldType.MOON)
    moon = World.parse(worldtool.create_world([worldtool.parse_root(IDENTITY, [])], secret, 5))
    assert moon.type is WorldType.MOON and moon.roots[0].endpoints == ()
    with pytest.raises(WorldToolError, match="is a moon, and the secret that of a planet"):
        worldtool.update_world(moon.build(), WorldSecret.generate(os.urandom, 0x1234), 6)


@pytest.mark.skipif(shutil.which("zerotier-idtool") is None, reason="needs zerotier-idtool; the vectors stand for it")
def test_genmoon_takes_our_secret_file(tmp_path: Path) -> None:
    secret = WorldSecret.generate(os.urandom, int(IDENTITY[:10], 16), WorldType.MOON)
    roots = [worldtool.parse_root(IDENTITY, ["10.0.0.1/9993"])]
    (tmp_path / "moon.json").write_bytes(secret.to_json(roots))
    subprocess.run(["zerotier-idtool", "genmoon", "moon.json"], cwd=tmp_path, check=True, timeout=30)
    theirs = (tmp_path / f"000000{IDENTITY[:10]}.moon").read_bytes()
    assert worldtool.create_world(roots, secret, World.parse(theirs).timestamp) == theirs
    assert World.parse(theirs).may_be_replaced_by(World.parse(worldtool.update_world(theirs, secret, 1)))
