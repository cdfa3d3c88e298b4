"""What a node keeps between two runs: a ZeroTier One home directory behind a state store, as typed values.

The layout is the reference's (service/OneService.cpp, ``nodeStatePutFunction``), so that an existing home can be
brought along and taken away again: ``identity.secret``, ``identity.public``, ``planet``, ``moons.d/<id>.moon``,
``moons.d/<id>.seed`` (ours: a moon that is looked for, and whom we ask for it), ``networks.d/<nwid>.conf``, its
``networks.d/<nwid>.local.conf``, ``networks.d/<nwid>.secret`` (ours: what the controller may let us in for),
``peers.d/`` (in a form of our own) and, on a controller,
``controller.d/network/`` and ``controller.d/clock`` (ours); of ``local.conf`` what
``local_conf`` names is acted on.
"""

from __future__ import annotations

import re
import threading
from collections.abc import Awaitable, Callable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Final

from ztnode.hookspecs import StateStore
from ztnode.node import network_settings
from ztnode.node.local_conf import LocalConf
from ztnode.node.local_conf import parse as parse_local_conf
from ztnode.node.network_settings import NetworkSettings
from ztnode.wire import c25519
from ztnode.wire.address import format_address, format_nwid, parse_address
from ztnode.wire.dictionary import Dictionary
from ztnode.wire.identity import Identity
from ztnode.wire.known_peers import KnownPeers
from ztnode.wire.wire_error import WireError
from ztnode.wire.world import World, WorldType, moon_file_name, parse_world_id, seed_file_name

IDENTITY_SECRET: Final = "identity.secret"
IDENTITY_PUBLIC: Final = "identity.public"
PLANET: Final = "planet"
LOCAL_CONF: Final = "local.conf"
PORT: Final = "zerotier-one.port"
MOONS: Final = "moons.d/"
NETWORKS: Final = "networks.d/"
PEERS: Final = "peers.d/known.peers"
"""Beside the reference's own files ``peers.d/<address>.peer``, which are left alone (``wire.known_peers``)."""
CONTROLLER: Final = "controller.d/network/"
CLOCK: Final = "controller.d/clock"
"""Ours: how far certificates' times have come (``controller.issue_clock``)."""

NO_CONFIG: Final = b"\n"
"""What the reference keeps for a network that was joined but has no configuration yet."""

_TOKEN_KEY: Final = re.compile(r"networks\.d/([0-9a-f]{16})\.secret")
_NETWORK_KEY: Final = re.compile(r"networks\.d/([0-9a-f]{16})\.conf")
_SETTINGS_KEY: Final = re.compile(r"networks\.d/([0-9a-f]{16})\.local\.conf")


class StateError(Exception):
    """State that is there but cannot be used; the text is one line that says what to do. Nothing was overwritten."""


class Home:
    """Typed access to a state store. Writes happen on one thread of their own, in order: a disk that is slow to flush
    does not hold up the event loop. Of the values of one key that wait for it, the newest alone is written. The futures
    raise OSError."""

    def __init__(self, store: StateStore) -> None:
        self._store = store
        self._writer = ThreadPoolExecutor(1, thread_name_prefix="ztnode-state")
        self._lock = threading.Lock()
        self._waiting: dict[str, tuple[bytes | None, Future[None]]] = {}

    async def identity(self, generate: Callable[[], Awaitable[Identity]], given: Identity | None = None) -> Identity:
        """This node's identity; the one ``given``, or made by ``generate``, and kept when there is none. Raises
        StateError, also where another one is kept than was given; OSError."""
        data = self._store.read(IDENTITY_SECRET)
        if data is None:
            if self._store.read(IDENTITY_PUBLIC) is not None and given is None:
                raise StateError(f"{IDENTITY_PUBLIC} is there but {IDENTITY_SECRET} is not; restore it or remove both")
            identity = given or await generate()
            self._store.write(IDENTITY_SECRET, identity.build_text(include_secret=True).encode())
            self._store.write(IDENTITY_PUBLIC, identity.build_text().encode())
            return identity
        try:
            identity = Identity.parse_text(data.decode("ascii"))
            intact = identity.secret is not None and c25519.derive_public(identity.secret) == identity.public
        except (WireError, UnicodeDecodeError):
            intact = False
        if not intact:
            raise StateError(f"{IDENTITY_SECRET} is damaged: restore it from a copy, or remove it to get a new address")
        if given is not None and given.secret != identity.secret:
            kept, wanted = format_address(identity.address), format_address(given.address)
            raise StateError(f"the identity given is {wanted}, and what is kept here is {kept}'s: give another --state")
        return identity

    def planet(self, given: bytes, *, chosen: bool) -> World:
        """The planet to use: what is kept, unless ``given`` is newer or (``chosen`` by the user) another one.
        Raises StateError."""
        try:
            planet = World.parse(given)
        except WireError as error:
            raise StateError(f"the planet cannot be used: {error}") from None
        if planet.type is not WorldType.PLANET or not planet.roots:
            raise StateError("the planet cannot be used: it is a moon or has no roots")
        data = self._store.read(PLANET)
        if data is not None:
            try:
                kept = World.parse(data)
            except WireError as error:
                raise StateError(f"{PLANET} in the state directory is damaged ({error}): remove it") from None
            same = kept.id == planet.id
            if (same and kept.timestamp > planet.timestamp) or not (same or chosen):
                return kept
            if kept == planet:
                return planet
        if chosen:
            self._store.write(PLANET, given)
        return planet

    def moons(self) -> list[World]:
        """The moons that this node orbits. Raises StateError."""
        moons = []
        for key in self._store.keys(MOONS):
            data = self._store.read(key)
            if data is None or not key.endswith(".moon"):
                continue
            try:
                moon = World.parse(data)
            except WireError as error:
                raise StateError(f"{key} in the state directory is damaged ({error}): remove it") from None
            if moon.type is WorldType.MOON:
                moons.append(moon)
        return moons

    def seeds(self) -> dict[int, int]:
        """The moons that were asked for and have not come yet, each with the address that is asked for it."""
        found = {}
        for key in self._store.keys(MOONS):
            data = self._store.read(key)
            if data is None or not key.endswith(".seed"):
                continue
            try:
                found[parse_world_id(key[len(MOONS) : -len(".seed")])] = parse_address(data.decode("ascii").strip())
            except ValueError as error:
                raise StateError(f"{key} in the state directory is damaged ({error}): remove it") from None
        return found

    def networks(self) -> dict[int, bytes]:
        """The networks that were joined, each with its last configuration (blank: none yet). Raises StateError."""
        networks = {}
        for key in self._store.keys(NETWORKS):
            match = _NETWORK_KEY.fullmatch(key)
            data = self._store.read(key)
            if match is None or data is None:
                continue
            nwid = int(match[1], 16)
            if data.strip():
                try:
                    intact = Dictionary.parse(data).unsigned("nwid") == nwid
                except WireError:
                    intact = False
                if not intact:
                    raise StateError(f"{key} in the state directory is damaged: remove it and join again")
            networks[nwid] = data
        return networks

    def network_settings(self) -> dict[int, NetworkSettings]:
        """What the user lets networks do, where that is kept."""
        found = {}
        for key in self._store.keys(NETWORKS):
            match = _SETTINGS_KEY.fullmatch(key)
            if match is not None:
                found[int(match[1], 16)] = network_settings.parse(self._store.read(key) or b"")
        return found

    def unused_network_settings(self) -> dict[int, tuple[str, ...]]:
        """What these files say beside, by network."""
        found = {}
        for key in self._store.keys(NETWORKS):
            match = _SETTINGS_KEY.fullmatch(key)
            if match is not None and (unused := network_settings.unused(self._store.read(key) or b"")):
                found[int(match[1], 16)] = unused
        return found

    def keep_network_settings(self, nwid: int, settings: NetworkSettings) -> Future[None]:
        """What the user lets a network do; what else its file says stays as it is."""
        key = f"{NETWORKS}{format_nwid(nwid)}.local.conf"
        return self._put(key, network_settings.build(settings, self._store.read(key) or b""))

    def known_peers(self, wall: int) -> KnownPeers:
        """The peers of the last run; none where that is damaged, for it is but a memory. ``wall``: Unix time in ms."""
        try:
            return KnownPeers(self._store.read(PEERS) or b"", wall)
        except WireError:
            return KnownPeers()

    def keep_known_peers(self, data: bytes) -> Future[None]:
        """What ``Vl1.known_peers`` gave."""
        return self._put(PEERS, data)

    def local_conf(self) -> LocalConf:
        """What ``local.conf`` says; nothing where there is none. Raises StateError."""
        data = self._store.read(LOCAL_CONF)
        try:
            return LocalConf() if data is None else parse_local_conf(data)
        except ValueError as error:
            raise StateError(f"zerotier/{LOCAL_CONF} in the state directory: {error}") from None

    def local_conf_text(self) -> bytes | None:
        """``local.conf`` as it is; None where there is none."""
        return self._store.read(LOCAL_CONF)

    def keep_local_conf(self, data: bytes) -> Future[None]:
        """``local.conf``, for the next start to act on."""
        return self._put(LOCAL_CONF, data)

    def controller_documents(self) -> dict[str, bytes]:
        """The network controller's documents by key."""
        keys = (*self._store.keys(CONTROLLER), CLOCK)
        found = ((key, self._store.read(key)) for key in keys)
        return {key: data for key, data in found if data is not None}

    def port(self) -> list[int]:
        """The UDP port of the last run; empty if none is kept."""
        data = self._store.read(PORT) or b""
        return [int(data)] if len(data) <= 5 and data.isdigit() and 0 < int(data) < 65536 else []

    def keep_port(self, port: int) -> Future[None]:
        """The UDP port of this run."""
        return self._put(PORT, str(port).encode())

    def keep_planet(self, data: bytes) -> Future[None]:
        """A signed update of the planet."""
        return self._put(PLANET, data)

    def keep_moon(self, moon_id: int, data: bytes) -> Future[None]:
        """A moon that we orbit, new or updated; it need not be looked for any more."""
        self._put(MOONS + seed_file_name(moon_id), None)
        return self._put(MOONS + moon_file_name(moon_id), data)

    def keep_seed(self, moon_id: int, seed: int) -> Future[None]:
        """A moon that we look for, and a root of it."""
        return self._put(MOONS + seed_file_name(moon_id), format_address(seed).encode() + b"\n")

    def forget_moon(self, moon_id: int) -> Future[None]:
        """A moon that was left, or is looked for no more."""
        self._put(MOONS + seed_file_name(moon_id), None)
        return self._put(MOONS + moon_file_name(moon_id), None)

    def keep_network(self, nwid: int, config: bytes | None) -> Future[None]:
        """A network's configuration; NO_CONFIG: joined, none yet; None: left, and what the user set for it is gone."""
        if config is None:
            self._put(f"{NETWORKS}{format_nwid(nwid)}.local.conf", None)
        return self._put(f"{NETWORKS}{format_nwid(nwid)}.conf", config)

    def auth_tokens(self) -> dict[int, str]:
        """What the controllers of joined networks may let us in for."""
        found = {}
        for key in self._store.keys(NETWORKS):
            match, data = _TOKEN_KEY.fullmatch(key), self._store.read(key)
            if match is not None and data is not None:
                found[int(match[1], 16)] = data.decode("utf-8", "replace").strip()
        return found

    def keep_auth_token(self, nwid: int, token: str | None) -> Future[None]:
        """What a network's controller may let us in for; None: nothing any more."""
        return self._put(f"{NETWORKS}{format_nwid(nwid)}.secret", None if token is None else token.encode())

    def keep_document(self, key: str, data: bytes | None) -> Future[None]:
        """A document of the network controller."""
        return self._put(key, data)

    def close(self) -> None:
        """Finish what is being written and release the store."""
        self._writer.shutdown()
        self._store.close()

    def _put(self, key: str, value: bytes | None) -> Future[None]:
        with self._lock:
            if key in self._waiting:
                _, written = self._waiting[key]
                self._waiting[key] = value, written
                return written
            written = Future()
            written.set_running_or_notify_cancel()  # so that nobody can cancel what others wait for too
            self._waiting[key] = value, written
        self._writer.submit(self._write_next)
        return written

    def _write_next(self) -> None:
        with self._lock:
            key = next(iter(self._waiting))
            value, written = self._waiting.pop(key)
        try:
            if value is None:
                self._store.delete(key)
            else:
                self._store.write(key, value)
        except OSError as error:
            reason = f"this node's state cannot be written: {error.strerror or error}"
            written.set_exception(OSError(error.errno, reason))
        except BaseException as error:
            written.set_exception(error)
        else:
            written.set_result(None)
