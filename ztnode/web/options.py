"""What ``ztnode serve`` was asked for, without what serves it: that is imported only then."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True, slots=True)
class WebOptions:
    """``address`` is ``host:port``, host numeric (IPv6 in brackets). With ``certificate`` and ``key`` (PEM files) it is
    HTTPS; without, it is on loopback, unless ``insecure`` allows the token to travel in clear. ``page``: whether
    people are served, too, and not only programs."""

    address: str
    certificate: Path | None = None
    key: Path | None = None
    insecure: bool = False
    page: bool = False
