"""Documents that are parsed before a controller loads them: most of what it costs to load a large network."""

from __future__ import annotations

import contextlib

from ztnode.controller.controller_error import ControllerError
from ztnode.controller.documents import (
    ControlledMember,
    ControlledNetwork,
    parse_document,
    parse_key,
    parse_member,
    parse_network,
)


class ParsedDocuments:
    """What documents say, each with the bytes that say it: with others it counts for nothing."""

    def __init__(self) -> None:
        self._networks: dict[str, tuple[bytes, ControlledNetwork]] = {}
        self._members: dict[str, tuple[bytes, ControlledMember]] = {}

    def prepare(self, key: str, data: bytes | None) -> None:
        """Parse what the state store has under ``key``, None: nothing any more. What is no document of a controller, or
        a damaged one, is passed over: who loads it names it."""
        self._networks.pop(key, None)
        self._members.pop(key, None)
        if data is None or (names := parse_key(key)) is None:
            return
        nwid, address = names
        with contextlib.suppress(ControllerError):
            if address is None:
                self._networks[key] = data, parse_network(parse_document(data), nwid)
            else:
                self._members[key] = data, parse_member(parse_document(data), nwid, address)

    def network(self, key: str, data: bytes, nwid: int) -> ControlledNetwork:
        """The network that ``data`` says. Raises ControllerError that names the key."""
        known = self._networks.pop(key, None)
        if known is not None and known[0] == data:
            return known[1]
        try:
            return parse_network(parse_document(data), nwid)
        except ControllerError as error:
            raise ControllerError(f"{key}: {error}") from None

    def member(self, key: str, data: bytes, nwid: int, address: int) -> ControlledMember:
        """The member that ``data`` says. Raises ControllerError that names the key."""
        known = self._members.pop(key, None)
        if known is not None and known[0] == data:
            return known[1]
        try:
            return parse_member(parse_document(data), nwid, address)
        except ControllerError as error:
            raise ControllerError(f"{key}: {error}") from None
