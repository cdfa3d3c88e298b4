"""A frame on its way out."""

from __future__ import annotations

from typing import TypeAlias

from ztnode.wire.buffer import Buffer

Frame: TypeAlias = tuple[Buffer, ...]
"""An Ethernet frame as a gather list: (headers, payload, ...)."""
