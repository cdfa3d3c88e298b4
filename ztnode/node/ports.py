"""Which port of the stack carries which network."""

from __future__ import annotations


class Ports:
    """Numbers of ports, none of which is used twice in the life of a node."""

    def __init__(self) -> None:
        self.index_of: dict[int, int] = {}
        """By network id."""
        self.nwid_of: dict[int, int] = {}
        """By number of the port."""
        self._next = 0

    def open(self, nwid: int) -> int:
        """The number of a network's port, a new one where it has none."""
        index = self.index_of.get(nwid)
        if index is None:
            index = self.index_of[nwid] = self._next
            self.nwid_of[index] = nwid
            self._next += 1
        return index

    def close(self, nwid: int) -> int | None:
        """Forget a network's port; returns its number, None where there was none."""
        index = self.index_of.pop(nwid, None)
        if index is not None:
            del self.nwid_of[index]
        return index
