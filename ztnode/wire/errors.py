"""The one exception family of the codecs."""

from __future__ import annotations


class WireError(ValueError):
    """The bytes do not form what they claim to be. The message says what is wrong and never quotes the bytes."""
