"""What happens in the layers, and who is to hear of it: the log, the state, the stack and those who watch."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

from ztnode.node.assembly import Parts
from ztnode.node.conflation import Conflation
from ztnode.node.host_watch import HostWatch
from ztnode.node.identity_conflicts import IdentityConflicts
from ztnode.node.keeping import Writes
from ztnode.node.memberships import Memberships
from ztnode.node.root_watch import RootWatch
from ztnode.vl1 import (
    IdentityCollision,
    IdentityShared,
    MoonUpdated,
    Offline,
    Online,
    PathMtuFound,
    PathNotTrusted,
    PeerPathChanged,
    PeerReturned,
    PeerShared,
    PlanetUpdated,
)
from ztnode.vl2 import ConfigStored, NetworkChanged
from ztnode.wire.address import format_address, format_nwid
from ztnode.wire.endpoint import format_endpoint
from ztnode.wire.world import format_world_id

if TYPE_CHECKING:  # loaded where a node is a controller
    from ztnode.node.administration import Administration

log = logging.getLogger(__name__)


class Events:
    """Takes the events of ``parts``, and tells those whose business they are."""

    def __init__(
        self,
        parts: Parts,
        *,
        memberships: Memberships,
        host: HostWatch,
        roots: RootWatch,
        conflicts: IdentityConflicts,
        writes: Writes,
        online: Conflation[None, bool],
        administration: Administration | None,
    ) -> None:
        self._vl1 = parts.vl1
        self._vl2 = parts.vl2
        self._home = parts.home
        self._memberships = memberships
        self._host = host
        self._roots = roots
        self._conflicts = conflicts
        self._writes = writes
        self._online = online
        self._administration = administration

    def handle(self) -> None:
        """Take all that there are."""
        self._handle_transport()
        self._handle_networks()
        if self._administration is not None:
            self._administration.publish()

    def _handle_transport(self) -> None:
        for event in self._vl1.events():
            match event:
                case Online(root):
                    self._host.ask_router()
                    self._roots.answered(format_address(root))
                    self._online.publish(None, True)
                case Offline():
                    self._roots.silent()
                    self._online.publish(None, False)
                case PlanetUpdated(data):
                    self._writes.watch(self._home.keep_planet(data), "the new planet")
                case MoonUpdated(moon_id, data):
                    log.info("moon %s is there", format_world_id(moon_id))
                    self._writes.watch(self._home.keep_moon(moon_id, data), "a moon")
                case PathNotTrusted(address, endpoint, path_id):
                    log.warning(
                        "%s at %s sends on a trusted path, id %d, which is none here: dropped (see --trusted-path)",
                        format_address(address),
                        format_endpoint(endpoint),
                        path_id,
                    )
                case PeerReturned(address) | PeerPathChanged(address, _):
                    self._memberships.peer_returned(address)
                case PathMtuFound(address, mtu):
                    self._memberships.limit_peer(address, mtu)
                case IdentityCollision(root):
                    self._conflicts.collided(root)
                case IdentityShared():
                    self._conflicts.shared()
                case PeerShared(address, one, other):
                    log.info(
                        "the traffic of %s comes from %s and %s in turn: do two hosts have one identity?",
                        format_address(address),
                        format_endpoint(one),
                        format_endpoint(other),
                    )

    def _handle_networks(self) -> None:
        for change in self._vl2.events():
            match change:
                case NetworkChanged(nwid):
                    self._memberships.changed(nwid)
                case ConfigStored(nwid, config):
                    what = f"the configuration of network {format_nwid(nwid)}"
                    self._writes.watch(self._home.keep_network(nwid, config), what)
