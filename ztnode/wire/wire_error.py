"""The one exception family of the codecs."""

from __future__ import annotations


class WireError(ValueError):
    """Bytes from outside are not what the protocol says: truncated, out of range, or of an unknown type.

    Codecs raise nothing else on bad input, so that a caller counts and drops with a single ``except``.
    """
