"""All networks and members in memory, with the look-ups that answering a request needs, and what has to be saved."""

from __future__ import annotations

import gc
from bisect import bisect_right
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import replace

from ztnode.controller.documents import (
    ControlledMember,
    ControlledNetwork,
    Pool,
    build_document,
    build_member,
    build_network,
    member_key,
    network_key,
    parse_key,
)
from ztnode.controller.parsed_documents import ParsedDocuments
from ztnode.wire.network_config import IpAddress


class _Entry:
    """One network and what is counted about its members."""

    __slots__ = ("authorized", "bridges", "ephemeral", "full", "members", "network", "order", "pending", "taken")

    def __init__(self, network: ControlledNetwork) -> None:
        self.network = network
        self.members: dict[int, ControlledMember] = {}
        self.order: list[int] | None = []
        """The members' addresses in order; None: to be sorted again."""
        self.authorized = 0
        self.full: set[Pool] = set()
        self.taken: Counter[IpAddress] = Counter()
        self.bridges: set[int] = set()
        self.pending: set[int] = set()
        self.ephemeral: set[int] = set()


class Database:
    """Every change goes through ``put_…`` and ``delete_…``, which keep the look-ups and the unsaved documents right."""

    def __init__(self, commit: Callable[[str, bytes | None], None] | None = None, *, strict: bool = False) -> None:
        """``commit`` keeps a document (None: deletes it) before a change that an administrator asked for takes effect;
        the change does not happen if it raises. None: such documents are among the unsaved, like all others.
        ``strict``: what members bring about is committed so too, where it gives or takes anything."""
        self._commit = commit
        self._strict = strict
        self._entries: dict[int, _Entry] = {}
        self._unsaved: dict[str, bytes | None] = {}
        self.changes: Counter[str] = Counter()
        """Changes to networks and members, for whatever reason; how many of those changed one that was there; and how
        often members were authorized and deauthorized (controller/DB.cpp, ``_networkChanged``, ``_memberChanged``)."""

    def load(self, documents: Mapping[str, bytes], parsed: ParsedDocuments | None = None) -> None:
        """Take what the state store has; ``parsed`` spares what was parsed in advance. Raises ControllerError that
        names the document at fault."""
        # Each thousand new objects has the collector look at some, each million at all: a third of the time to load a
        # large network, and nothing here is garbage.
        collecting = gc.isenabled()
        gc.disable()
        try:
            self._load(documents, parsed or ParsedDocuments())
        finally:
            if collecting:
                gc.enable()

    def _load(self, documents: Mapping[str, bytes], parsed: ParsedDocuments) -> None:
        members: list[tuple[str, int, int]] = []
        for key, data in sorted(documents.items()):
            if (names := parse_key(key)) is None:
                continue
            nwid, address = names
            if address is not None:
                members.append((key, nwid, address))
            else:
                self._entries[nwid] = _Entry(parsed.network(key, data, nwid))
        for key, nwid, address in members:
            entry = self._entries.get(nwid)
            if entry is None:
                # Left over from a deletion that was interrupted: no member of a later network of that id.
                self._unsaved[key] = None
            else:
                self._index(entry, parsed.member(key, documents[key], nwid, address))

    def unsaved(self) -> list[tuple[str, bytes | None]]:
        """Documents that changed since the last call, None for those to delete."""
        changed, self._unsaved = list(self._unsaved.items()), {}
        return changed

    def _save(self, key: str, document: bytes | None, *, asked: bool) -> None:
        if asked and self._commit is not None:
            self._commit(key, document)
            self._unsaved.pop(key, None)
        else:
            self._unsaved[key] = document

    # Networks

    def __len__(self) -> int:
        return len(self._entries)

    def __contains__(self, nwid: int) -> bool:
        return nwid in self._entries

    def networks(self) -> list[ControlledNetwork]:
        """All networks by id."""
        return [self._entries[nwid].network for nwid in sorted(self._entries)]

    def network(self, nwid: int) -> ControlledNetwork | None:
        """The network, if there is one."""
        entry = self._entries.get(nwid)
        return None if entry is None else entry.network

    def put_network(self, network: ControlledNetwork) -> ControlledNetwork:
        """Save a new or changed network with its revision counted up; an unchanged one as it was."""
        entry = self._entries.get(network.nwid)
        if entry is not None and entry.network == network:
            return network
        network = replace(network, revision=network.revision + 1)
        self._save(network_key(network.nwid), build_document(build_network(network)), asked=True)
        self.changes["networks"] += 1
        self.changes["networks_changed"] += entry is not None
        if entry is None:
            self._entries[network.nwid] = _Entry(network)
        else:
            entry.network = network
            entry.full.clear()
        return network

    def delete_network(self, nwid: int) -> None:
        """Forget a network and its members. KeyError if there is none."""
        entry = self._entries[nwid]
        # The network first: ``load`` does away with members that have none.
        self._save(network_key(nwid), None, asked=True)
        self.changes["networks"] += 1
        for address in entry.members:
            self._save(member_key(nwid, address), None, asked=False)
        del self._entries[nwid]

    # Members

    def members(self, nwid: int) -> list[ControlledMember]:
        """All members by address. KeyError if there is no such network."""
        return list(self.members_after(nwid, -1))

    def members_after(self, nwid: int, address: int) -> Iterator[ControlledMember]:
        """The members of higher address than this, in order, as they are now. KeyError if there is no such network."""
        entry = self._entries[nwid]
        if entry.order is None:
            entry.order = sorted(entry.members)
        order = entry.order
        for index in range(bisect_right(order, address), len(order)):
            if (member := entry.members.get(order[index])) is not None:
                yield member

    def addresses(self, nwid: int) -> Iterable[int]:
        """The members' addresses. KeyError if there is no such network."""
        return self._entries[nwid].members.keys()

    def member(self, nwid: int, address: int) -> ControlledMember | None:
        """The member, if network and member exist."""
        entry = self._entries.get(nwid)
        return None if entry is None else entry.members.get(address)

    def total(self) -> int:
        """How many members all networks have."""
        return sum(len(entry.members) for entry in self._entries.values())

    def count(self, nwid: int) -> int:
        """How many members the network has. KeyError if there is no such network."""
        return len(self._entries[nwid].members)

    def count_authorized(self, nwid: int) -> int:
        """How many of them are authorized. KeyError if there is no such network."""
        return self._entries[nwid].authorized

    def put_member(self, member: ControlledMember, *, asked: bool) -> ControlledMember:
        """Save a new or changed member with its revision counted up; an unchanged one as it was. ``asked``: by an
        administrator. KeyError if there is no such network; what ``commit`` raises."""
        entry = self._entries[member.nwid]
        old = entry.members.get(member.address)
        if old == member:
            return member
        member = replace(member, revision=member.revision + 1)
        asked = asked or (self._strict and (old is None or _promises(old) != _promises(member)))
        self._save(member_key(member.nwid, member.address), build_document(build_member(member)), asked=asked)
        self._count(old is not None and old.authorized, member.authorized)
        if old is not None:
            self._unindex(entry, old)
            if not set(old.ip_assignments) <= set(member.ip_assignments):
                entry.full.clear()
        self._index(entry, member)
        return member

    def delete_member(self, nwid: int, address: int, *, asked: bool) -> None:
        """Forget a member. ``asked``: by an administrator. KeyError if there is none."""
        entry = self._entries[nwid]
        member = entry.members[address]
        self._save(member_key(nwid, address), None, asked=asked or self._strict)
        self._count(member.authorized, False)
        del entry.members[address]
        entry.order = None
        self._unindex(entry, member)
        if member.ip_assignments:
            entry.full.clear()

    def _count(self, was_authorized: bool, is_authorized: bool) -> None:
        self.changes["members"] += 1
        if was_authorized == is_authorized:
            self.changes["members_changed"] += 1
        else:
            self.changes["members_authorized" if is_authorized else "members_deauthorized"] += 1

    # What answering a request needs

    def taken(self, nwid: int) -> Mapping[IpAddress, int]:
        """Addresses that members hold, with by how many. KeyError if there is no such network."""
        return self._entries[nwid].taken

    def full_pools(self, nwid: int) -> set[Pool]:
        """Pools that had no free address when one was looked for, and in which none has become free since; for the
        caller to add to. KeyError if there is no such network."""
        return self._entries[nwid].full

    def holder(self, nwid: int, ip: IpAddress) -> int | None:
        """Which member holds ``ip``."""
        entry = self._entries[nwid]
        if ip not in entry.taken:  # of thousands of members none has to be looked at, mostly
            return None
        return next((member.address for member in entry.members.values() if ip in member.ip_assignments), None)

    def bridges(self, nwid: int) -> frozenset[int]:
        """Authorized members that are active bridges. KeyError if there is no such network."""
        return frozenset(self._entries[nwid].bridges)

    def pending(self, nwid: int) -> Iterable[int]:
        """Members that asked and on which no administrator has ever acted. KeyError if there is no such network."""
        return self._entries[nwid].pending

    def ephemeral(self) -> list[ControlledMember]:
        """The ephemeral members of all networks."""
        return [entry.members[address] for entry in self._entries.values() for address in entry.ephemeral]

    def has_ephemeral(self) -> bool:
        """Whether there is one."""
        return any(entry.ephemeral for entry in self._entries.values())

    @staticmethod
    def _index(entry: _Entry, member: ControlledMember) -> None:
        if member.address not in entry.members:
            entry.order = None
        entry.members[member.address] = member
        entry.authorized += member.authorized
        entry.taken.update(member.ip_assignments)
        if member.active_bridge and member.authorized:
            entry.bridges.add(member.address)
        if member.ephemeral:
            entry.ephemeral.add(member.address)
        if is_pending(member):
            entry.pending.add(member.address)

    @staticmethod
    def _unindex(entry: _Entry, member: ControlledMember) -> None:
        for ip in member.ip_assignments:
            entry.taken[ip] -= 1
            if not entry.taken[ip]:
                del entry.taken[ip]
        entry.authorized -= member.authorized
        entry.bridges.discard(member.address)
        entry.pending.discard(member.address)
        entry.ephemeral.discard(member.address)


def _promises(member: ControlledMember) -> tuple[object, ...]:
    """What somebody else must not be given, and what must not be forgotten of a member."""
    return (
        member.identity,
        member.authorized,
        member.ip_assignments,
        member.tags,
        member.capabilities,
        member.authentication_expiry,
    )


def is_pending(member: ControlledMember) -> bool:
    """Whether nobody has ever decided anything about this member: it only knocked."""
    touched = member.authorized or member.last_authorized_time or member.last_deauthorized_time or member.name
    return not (touched or member.ip_assignments or member.tags or member.capabilities or member.active_bridge)
