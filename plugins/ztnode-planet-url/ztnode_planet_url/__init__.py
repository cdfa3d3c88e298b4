"""A planet source for ztnode: ``ztnode serve --planet https://planets.example/planet``.

For fleets whose own roots change: every start takes the planet from one place. The node checks the planet's
signature and size in any case; this plugin only fetches the bytes.
"""

from __future__ import annotations

import urllib.error
import urllib.request
from typing import Final

from ztnode.hookspecs import hookimpl

TIMEOUT: Final = 10.0
"""Seconds for the whole exchange; a node that starts should not hang on a web server."""
MAX_BYTES: Final = 16384


@hookimpl
def ztnode_planet(source: str | None) -> bytes | None:
    """The body at ``source`` when that is an http or https URL, otherwise not ours."""
    if source is None or not source.startswith(("https://", "http://")):
        return None
    try:
        with urllib.request.urlopen(source, timeout=TIMEOUT) as response:
            planet: bytes = response.read(MAX_BYTES + 1)
    except urllib.error.URLError as error:
        raise OSError(f"cannot fetch the planet from {source}: {error.reason}") from error
    if len(planet) > MAX_BYTES:
        raise ValueError(f"{source} is not a planet file: larger than {MAX_BYTES} bytes")
    return planet
