"""The controller as the control plane sees it: acts on it with the clocks read, lets the node send what follows from
that, and tells watchers what changed. Glue alone; what the settings mean is the controller's business."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import AsyncGenerator, Callable, Iterator, Mapping
from contextlib import aclosing
from functools import partial
from typing import Any

from ztnode.controller import ControlledNetworkChanged, Controller, ControllerEvent, MemberChanged
from ztnode.controller.address_pools import managed_addresses
from ztnode.controller.controller import ONLINE_SECONDS
from ztnode.controller.documents import ControlledMember, ControlledNetwork
from ztnode.node.conflation import Conflation
from ztnode.node.figures import ControllerFigures
from ztnode.node.wall_clock import wall_clock


class Administration:
    """Reads raise KeyError for an unknown network or member; changes also ControllerError for a bad setting and OSError
    for a disk that does not take them; then nothing has changed. All methods run on the node's event loop."""

    def __init__(self, controller: Controller, carry_out: Callable[[], None]) -> None:
        """``carry_out`` has the node keep and send what the controller has left behind; it should call ``publish``."""
        self._controller = controller
        self._carry_out = carry_out
        self._reads: Counter[str] = Counter()
        self._watchers: Conflation[tuple[int, int | None], ControllerEvent] = Conflation()

    # Reading

    def networks(self) -> list[ControlledNetwork]:
        """All networks by id."""
        self._reads["network_list"] += 1
        return self._controller.networks()

    def network(self, nwid: int) -> ControlledNetwork:
        """One network."""
        self._reads["network"] += 1
        return self._controller.network(nwid)

    def members(self, nwid: int) -> list[ControlledMember]:
        """All members by address."""
        self._reads["member_list"] += 1
        return self._controller.members(nwid)

    def members_after(self, nwid: int, address: int) -> Iterator[ControlledMember]:
        """Those of higher address than this, in order."""
        self._reads["member_list"] += 1
        return self._controller.members_after(nwid, address)

    def member(self, nwid: int, address: int) -> ControlledMember:
        """One member."""
        self._reads["member"] += 1
        return self._controller.member(nwid, address)

    def count_members(self, nwid: int) -> tuple[int, int]:
        """(all members, the authorized ones) of a network."""
        return self._controller.count_members(nwid)

    def managed_addresses(self, member: ControlledMember) -> tuple[str, ...]:
        """What the member's configuration names, CIDR."""
        network = self._controller.network(member.nwid)
        return tuple(str(address) for address in managed_addresses(network, member))

    def last_seen_age(self, member: ControlledMember) -> float | None:
        """Seconds since the member last asked; None: not since this process started."""
        seen = self._controller.last_seen(member.nwid, member.address)
        return None if seen is None else time.monotonic() - seen

    def is_online(self, member: ControlledMember) -> bool:
        """Whether it asked within the last two refresh periods."""
        age = self.last_seen_age(member)
        return age is not None and age < ONLINE_SECONDS

    def figures(self) -> ControllerFigures:
        """What the controller has counted."""
        networks, members = self._controller.count_all()
        controller = self._controller
        return ControllerFigures(
            networks, members, controller.waiting, controller.counters, self._reads, controller.changes
        )

    # Changing

    def create_network(self, settings: Mapping[str, Any], nwid: int | None = None) -> ControlledNetwork:
        """A new network; ``settings`` in the words of ``controller.documents``."""
        network = self._controller.create_network(settings, time.monotonic(), wall_clock(), nwid=nwid)
        self._carry_out()
        return network

    def update_network(self, nwid: int, settings: Mapping[str, Any]) -> ControlledNetwork:
        """Change a network's settings."""
        network = self._controller.update_network(nwid, settings, time.monotonic(), wall_clock())
        self._carry_out()
        return network

    def delete_network(self, nwid: int) -> None:
        """Delete a network with its members."""
        self._controller.delete_network(nwid, time.monotonic())
        self._carry_out()

    def update_member(self, nwid: int, address: int, settings: Mapping[str, Any]) -> ControlledMember:
        """Change a member's settings, ``authorized`` among them."""
        member = self._controller.update_member(nwid, address, settings, time.monotonic(), wall_clock())
        self._carry_out()
        return member

    def delete_member(self, nwid: int, address: int) -> None:
        """Forget a member."""
        self._controller.delete_member(nwid, address, time.monotonic(), wall_clock())
        self._carry_out()

    # Logging in

    def offered(self, nonce: str, state: str) -> tuple[int, int] | None:
        """The network and member that a log-in was offered to, or (``state`` "refresh") that is logged in by it."""
        return self._controller.offered(nonce, state, wall_clock())

    def logged_in(self, nwid: int, address: int, nonce: str, subject: str, expiry: int) -> ControlledMember:
        """A provider has said who uses a member, until ``expiry`` (Unix seconds)."""
        now, wall = time.monotonic(), wall_clock()
        member = self._controller.logged_in(nwid, address, nonce, subject, expiry * 1000, now, wall)
        self._carry_out()
        return member

    # Watching

    def publish(self) -> None:
        """Tell the watchers what has changed since the last call; the node calls this whenever it handles events."""
        for event in self._controller.events():
            if isinstance(event, ControlledNetworkChanged) and event.network is None:
                self._watchers.publish(_key(event), event, supersedes=partial(_concerns, event.nwid))
            else:
                self._watchers.publish(_key(event), event)

    async def watch(self, nwid: int | None = None) -> AsyncGenerator[ControllerEvent, None]:
        """Everything as it is now, then each change, on one network or on all; KeyError if that does not exist. A
        reader has one place for each network and member: what it did not take in time gives way to what is newer."""
        present: list[ControllerEvent] = []
        for network in self.networks() if nwid is None else [self.network(nwid)]:
            present.append(ControlledNetworkChanged(network.nwid, network))
            present += (MemberChanged(network.nwid, member.address, member) for member in self.members(network.nwid))
        async with aclosing(self._watchers.watch((_key(event), event) for event in present)) as events:
            async for event in events:
                if nwid is None or event.nwid == nwid:
                    yield event

    def close(self) -> None:
        """End all watches."""
        self._watchers.close()


def _key(event: ControllerEvent) -> tuple[int, int | None]:
    """The network, and the member if the event is about one."""
    return event.nwid, event.address if isinstance(event, MemberChanged) else None


def _concerns(nwid: int, key: tuple[int, int | None]) -> bool:
    return key[0] == nwid
