"""What the controller tells one member: its configuration with every certificate in it signed. Pure functions.

Facts: the reference's ``EmbeddedNetworkController::_request``, from where the member is known to be authorized.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import replace
from typing import Final

from ztnode.controller.address_pools import managed_addresses
from ztnode.controller.documents import ACCEPT_ALL, ControlledMember, ControlledNetwork
from ztnode.wire.capability import Capability
from ztnode.wire.certificate_of_membership import CertificateOfMembership
from ztnode.wire.certificate_of_ownership import MAX_THINGS, CertificateOfOwnership
from ztnode.wire.config_request import RequestMetadata
from ztnode.wire.identity import Identity
from ztnode.wire.network_config import (
    FLAG_ENABLE_BROADCAST,
    FLAG_ENABLE_IPV6_NDP_EMULATION,
    MAX_CERTIFICATES_OF_OWNERSHIP,
    MAX_SPECIALISTS,
    MAX_STATIC_ADDRESSES,
    SPECIALIST_ACTIVE_BRIDGE,
    IpInterface,
    NetworkConfig,
    NetworkType,
    SingleSignOn,
)
from ztnode.wire.tag import Tag

NO_SSO: Final = SingleSignOn()
LEGACY_CONFIG_VERSION: Final = 6
"""Members whose metadata claims less read text fields in place of some binary ones."""


def grant_defaults(network: ControlledNetwork, member: ControlledMember, *, new: bool) -> ControlledMember:
    """The member with the network's default tags and, if it is ``new``, default capabilities. Default tags go to every
    member that lacks them, because rules compare tags and a missing one matches nothing."""
    held = {tag for tag, _ in member.tags}
    tags = [(tag, default) for tag, default in network.tags if default is not None and tag not in held]
    capabilities: list[int] = []
    if new:
        capabilities = [g.id for g in network.capabilities if g.default and g.id not in member.capabilities]
    if not tags and not capabilities:
        return member
    return replace(member, tags=(*member.tags, *tags), capabilities=(*member.capabilities, *capabilities))


def issue(
    network: ControlledNetwork,
    member: ControlledMember,
    identity: Identity,
    controller: Identity,
    metadata: RequestMetadata,
    bridges: Iterable[int],
    wall: int,
    sso: SingleSignOn = NO_SSO,
) -> NetworkConfig:
    """The signed configuration of an authorized member. ``identity`` is the member's, ``controller`` has its secret
    key, ``bridges`` are the addresses of active bridges, ``wall`` (Unix milliseconds) is the certificates' time,
    ``sso`` how it is logged in."""
    addresses = managed_addresses(network, member)[:MAX_STATIC_ADDRESSES]
    computed = (network.rfc4193 or network.sixplane) and not member.no_auto_assign_ips
    # A node without a rules engine gets "accept"; the others enforce the real rules on what it sends them.
    engine = metadata.rules_engine_revision > 0
    return NetworkConfig(
        network_id=network.nwid,
        issued_to=member.address,
        timestamp=wall,
        credential_time_max_delta=network.credential_window,
        revision=network.revision,
        flags=(FLAG_ENABLE_BROADCAST if network.enable_broadcast else 0)
        | (FLAG_ENABLE_IPV6_NDP_EMULATION if computed else 0),
        multicast_limit=network.multicast_limit,
        type=NetworkType.PRIVATE if network.private else NetworkType.PUBLIC,
        name=network.name,
        mtu=network.mtu,
        static_addresses=addresses,
        routes=network.routes,
        specialists=tuple(address | SPECIALIST_ACTIVE_BRIDGE for address in sorted(bridges)[:MAX_SPECIALISTS]),
        rules=network.rules if engine else ACCEPT_ALL,
        capabilities=tuple(_capabilities(network, member, controller, wall)) if engine else (),
        tags=tuple(_tags(member, network.nwid, controller, wall)) if engine else (),
        certificate_of_membership=CertificateOfMembership.issue(
            network.nwid, wall, network.credential_window, identity
        ).sign(controller),
        certificates_of_ownership=tuple(_ownership(addresses, member, controller, wall)),
        dns=network.dns,
        sso=sso,
    )


def _capabilities(
    network: ControlledNetwork, member: ControlledMember, controller: Identity, wall: int
) -> Iterator[Capability]:
    granted = {grant.id: grant for grant in network.capabilities}
    for number in member.capabilities:
        grant = granted.get(number)
        if grant is not None:
            yield Capability(network.nwid, wall, number, grant.rules).sign(controller, member.address)


def _tags(member: ControlledMember, nwid: int, controller: Identity, wall: int) -> Iterator[Tag]:
    for number, value in sorted(dict(member.tags).items()):
        yield Tag(nwid, wall, member.address, number, value).sign(controller)


def _ownership(
    addresses: tuple[IpInterface, ...], member: ControlledMember, controller: Identity, wall: int
) -> Iterator[CertificateOfOwnership]:
    """One certificate for every MAX_THINGS addresses; a member of an ordinary network has one."""
    for number, at in enumerate(range(0, len(addresses), MAX_THINGS)[:MAX_CERTIFICATES_OF_OWNERSHIP], 1):
        certificate = CertificateOfOwnership(member.nwid, wall, member.address, number)
        for address in addresses[at : at + MAX_THINGS]:
            certificate = certificate.with_thing(address.ip)
        yield certificate.sign(controller)
