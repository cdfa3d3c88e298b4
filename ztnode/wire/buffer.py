"""What codecs and rooms take as bytes."""

from __future__ import annotations

from typing import TypeAlias

Buffer: TypeAlias = bytes | memoryview
"""Bytes, or a view of somebody else's bytes that the caller keeps valid for the call."""
