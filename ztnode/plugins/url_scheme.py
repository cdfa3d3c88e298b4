"""Whether a source is a URL for some plugin or a path for the built-in one."""

from __future__ import annotations

import re
from typing import Final

_SCHEME: Final = re.compile(r"([A-Za-z][A-Za-z0-9+.-]+):")


def url_scheme(source: str) -> str | None:
    """The scheme that ``source`` begins with (RFC 3986, section 3.1; two letters at least), None for a path. A path
    with such a beginning is written with ./ before it."""
    match = _SCHEME.match(source)
    return match[1] if match else None
