"""Our own endpoints as others see them, and the discovery that they have changed (reference: SelfAwareness.cpp)."""

from __future__ import annotations

from enum import IntEnum
from typing import Final, TypeAlias

from ztnode.vl1.scope import Scope, scope_of
from ztnode.wire.endpoint import Endpoint

ENTRY_TIMEOUT: Final = 600.0
"""Seconds for which a report counts (ZT_SELFAWARENESS_ENTRY_TIMEOUT)."""
MAX_REPORTS: Final = 256
_SURFACE_SCOPES: Final = frozenset(Scope) - {Scope.NONE, Scope.LOOPBACK, Scope.MULTICAST}


class Credit(IntEnum):
    """How far a report about us is believed, most first."""

    ROOT = 0
    MEMBER = 1
    STRANGER = 2


_Key: TypeAlias = tuple[int, Endpoint, Scope]


class SelfAwareness:
    """What peers that we have direct contact with say our endpoint is."""

    def __init__(self) -> None:
        self._reports: dict[_Key, tuple[Endpoint, float, Credit]] = {}

    def report(
        self,
        reporter: int,
        reporter_endpoint: Endpoint,
        surface: Endpoint,
        *,
        trusted: bool,
        now: float,
        known: bool = False,
    ) -> Scope | None:
        """``reporter``, at ``reporter_endpoint``, says that our packets come from ``surface``.

        Returns the scope in which our address has changed, so that all paths in it (of the same family) are in
        doubt; None if nothing has. A port that changed is no such change: NATs do that. Only a ``trusted``
        reporter, a root, can say so. ``known``: it shares a network with us. What others say never takes the place of
        what these have said."""
        scope = scope_of(surface[0])
        if scope not in _SURFACE_SCOPES or scope is not scope_of(reporter_endpoint[0]) or not surface[1]:
            return None
        key = (reporter, reporter_endpoint, scope)
        present = self._reports.pop(key, None)
        changed = trusted and present is not None and now - present[1] < ENTRY_TIMEOUT and present[0][0] != surface[0]
        if changed:  # what others said of this scope is out of date; left in, it would look like one more change
            for other in [other for other in self._reports if other[2] is scope and other[1] != reporter_endpoint]:
                del self._reports[other]
        credit = Credit.ROOT if trusted else Credit.MEMBER if known else Credit.STRANGER
        if len(self._reports) >= MAX_REPORTS:
            least = max(given for _, _, given in self._reports.values())
            if least < credit:
                return None
            del self._reports[next(key for key, (_, _, given) in self._reports.items() if given is least)]
        self._reports[key] = (surface, now, credit)
        return scope if changed else None

    def seen_by(self, reporter: int, endpoint: Endpoint) -> Endpoint | None:
        """From where our packets reach ``reporter`` at ``endpoint``, as it has said."""
        report = self._reports.get((reporter, endpoint, scope_of(endpoint[0])))
        return None if report is None else report[0]

    def surface_addresses(self) -> list[Endpoint]:
        """Our endpoints as seen from outside, none twice: those that roots confirm first, then those that members of
        our networks do, then the rest; in each of these the latest report last."""
        reports = sorted(self._reports.values(), key=lambda report: report[2])
        return list(dict.fromkeys(surface for surface, _, _ in reports))

    def expire(self, now: float) -> None:
        """Forget what nobody has confirmed for long."""
        for key in [key for key, (_, when, _) in self._reports.items() if now - when >= ENTRY_TIMEOUT]:
            del self._reports[key]
