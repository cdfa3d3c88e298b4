"""The parts of a node from what its state holds and what was asked for. The first of them is what greets the roots, and
does so before the others are even loaded: half of a start is the loading of modules."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import platform
import sys
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

import pluggy

from ztnode import plugins
from ztnode.hookspecs import Datagrams
from ztnode.node.early import Early
from ztnode.node.fail_over import FailOver
from ztnode.node.home import Home
from ztnode.node.identity_pool import generate_identity, usable_cores
from ztnode.node.keeping import Complaints, Documents
from ztnode.node.lease import Lease
from ztnode.node.local_conf import LocalConf
from ztnode.node.opening import open_state, unknown
from ztnode.node.options import DEFAULT_PORT, NodeOptions
from ztnode.node.os_arch import os_arch
from ztnode.node.transports import joined, named_transports
from ztnode.node.wall_clock import wall_clock
from ztnode.vl1 import Vl1, Vl1Config
from ztnode.wire.address import format_nwid
from ztnode.wire.default_planet import DEFAULT_PLANET
from ztnode.wire.identity import Identity
from ztnode.wire.world import World

if TYPE_CHECKING:  # loaded when the roots are greeted, or where a node is a controller
    from ztnode.controller import Controller
    from ztnode.vl2 import Vl2

log = logging.getLogger(__name__)

MAX_KEYS_NAMED: Final = 32
"""Of those in a file that mean nothing here, in one line of the log."""
HASHES_PER_CORE: Final = 10.0
"""Checks of strangers' identities that a root makes in a second with each core: half of what it can do."""
MAX_PEERS: Final = 16384
MAX_PEERS_OF_LEAF: Final = 4096
"""Peers kept in memory, at 10 KB each: what strangers with good identities can take of a leaf is 40 MB."""


@dataclass(frozen=True, slots=True)
class Parts:
    """What a node is made of. ``transport`` is open, and the roots are greeted; ``early``: what came since.
    ``lease``: None where nothing can take the state from it; ``kept_networks``: those of the last run with their
    configurations."""

    home: Home
    vl1: Vl1
    vl2: Vl2
    controller: Controller | None
    documents: Documents
    transport: FailOver
    early: Early
    lease: Lease | None
    local_conf: LocalConf
    kept_networks: Mapping[int, bytes]


async def assemble(options: NodeOptions, manager: pluggy.PluginManager, waiting: Callable[[str], None]) -> Parts:
    """Open the state, which may take a wait for another node (``waiting`` is told), greet the roots, and make the other
    parts. The caller closes ``transport`` and then ``home``. Raises LeaseHeld, StateError, PluginError, OSError or
    ValueError, each with one clear line."""
    async with contextlib.AsyncExitStack() as undo:
        options.state.mkdir(mode=0o700, parents=True, exist_ok=True)
        parsed = None
        if options.controller:
            from ztnode.controller import Controller, ParsedDocuments  # what a node is not, it does not load

            parsed = ParsedDocuments()
        prepare = _forget if parsed is None else parsed.prepare
        opened = await open_state(options.where_state_is(), manager, waiting, prepare)
        home = Home(opened.state)
        undo.push_async_callback(asyncio.to_thread, home.close)
        given = plugins.call(manager, "ztnode_planet", source=options.planet)
        if given is None:
            raise ValueError(unknown("planet source", options.planet or ""))
        # Before anything is made that takes long or stays: a name that nobody knows must leave nothing behind.
        named = named_transports(options.ways_out, manager)
        planet = home.planet(given, chosen=options.planet is not None)
        moons, kept_networks, local_conf = home.moons(), home.networks(), home.local_conf()
        foreign = planet.updates_signed_by != World.parse(DEFAULT_PLANET).updates_signed_by
        transport = joined(named, options.ways_out, local_conf, manager, foreign=foreign)
        identity = await home.identity(_make_identity, options.identity)
        _tell_unused(home, local_conf)
        vl1 = _make_vl1(options, home, identity, planet, moons, local_conf)
        early = Early()
        undo.push_async_callback(transport.close)
        await _open(transport, options, home, local_conf, early.hold)
        if opened.lease is None or opened.lease.is_held():
            for endpoint, datagrams in vl1.to_send():
                transport.send(endpoint, datagrams)
        from ztnode.vl2 import Vl2

        documents = Documents(home, Complaints())
        controller = None
        if parsed is not None:
            controller = Controller(
                vl1,
                identity,
                random=os.urandom,
                documents=home.controller_documents(),
                commit=documents.commit,
                sso_url=options.sso_url,
                strict=opened.lease is not None,
                parsed=parsed,
            )
        vl2 = Vl2(
            vl1,
            identity,
            random=os.urandom,
            now=time.monotonic(),
            wall=wall_clock(),
            is_upstream=lambda: vl1.is_relay,
            upstreams=vl1.upstreams,
            acquaintances=vl1.acquaintances,
            os_arch=os_arch(sys.platform, platform.machine()),
            ephemeral=options.ephemeral,
            authorized=None if controller is None else controller.authorizes,
            controller=controller is not None,
        )
        undo.pop_all()
        lease = opened.lease
        return Parts(home, vl1, vl2, controller, documents, transport, early, lease, local_conf, kept_networks)


async def _open(
    transport: FailOver,
    options: NodeOptions,
    home: Home,
    local_conf: LocalConf,
    receive: Callable[[Datagrams], None],
) -> None:
    """Open the transport at the port that the options say or, where they and their kind say nothing, ``local.conf``.
    Raises OSError."""
    port, required = options.port, options.port_required
    configured = local_conf.port
    if configured is not None and not required and port == DEFAULT_PORT:
        port, required = configured, configured > 0
    # The port of the last run first: peers go on sending there for a while.
    ports = [port] if required else [*home.port(), port, 0]
    for port in ports:
        try:
            await transport.open(port, receive)
            return
        except OSError as error:
            if port == ports[-1]:
                raise OSError(error.errno, f"cannot open UDP port {port}: {error.strerror or error}") from error


def _forget(_key: str, _value: bytes | None) -> None:
    """What a node that is no controller makes in advance of what is kept: nothing."""


def _make_vl1(
    options: NodeOptions,
    home: Home,
    identity: Identity,
    planet: World,
    moons: Sequence[World],
    local_conf: LocalConf,
) -> Vl1:
    trusted = (*options.trusted_paths, *local_conf.trusted)
    for network, path_id in trusted:
        log.warning("packets on %s with the path id %d are neither encrypted nor authenticated", network, path_id)
    wall = wall_clock()
    return Vl1(
        identity,
        planet,
        moons=moons,
        seeds=home.seeds(),
        random=os.urandom,
        now=time.monotonic(),
        wall=wall,
        config=Vl1Config(
            relay=options.root,
            mtu=options.physical_mtu,
            physical_mtus=local_conf.mtus,
            defer_identity_checks=True,
            max_peers=MAX_PEERS if options.root or options.controller else MAX_PEERS_OF_LEAF,
            max_peers_of_root=MAX_PEERS,
            trusted_paths=trusted,
            hints=local_conf.hints,
            avoided_of=local_conf.avoided_of,
            hashes_per_second=HASHES_PER_CORE * usable_cores(),
        ),
        known=home.known_peers(wall),
    )


async def _make_identity() -> Identity:
    """A new identity, made beside the event loop; stops soon when it is cancelled."""
    log.info("making an identity, which takes a few seconds")
    stop = threading.Event()
    try:
        return await asyncio.to_thread(generate_identity, stop=stop)
    finally:
        stop.set()


def _tell_unused(home: Home, local_conf: LocalConf) -> None:
    if local_conf.unused:
        log.warning("local.conf: nothing here acts on %s", _listed(local_conf.unused))
    for nwid, keys in home.unused_network_settings().items():
        log.warning("networks.d/%s.local.conf: nothing here acts on %s", format_nwid(nwid), _listed(keys))


def _listed(keys: Sequence[str]) -> str:
    """Keys of a file, for one line of the log."""
    shown = [each[:64].encode("unicode_escape").decode() for each in keys[:MAX_KEYS_NAMED]]
    return ", ".join(shown) + (f" and {len(keys) - len(shown)} more" if len(keys) > len(shown) else "")
