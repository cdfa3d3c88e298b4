"""Planet sources: the default planet, embedded; and a file."""

from __future__ import annotations

from pathlib import Path
from typing import Final

from ztnode.hookspecs import hookimpl
from ztnode.plugins.url_scheme import url_scheme

MAX_PLANET_BYTES: Final = 16384
"""Far above any real planet (four roots of a few endpoints each); a larger file is not one."""


@hookimpl(trylast=True)
def ztnode_planet(source: str | None) -> bytes | None:
    """The embedded planet when nothing was given, otherwise the file at ``source``, if that is not another plugin's
    URL."""
    if source is None:
        from ztnode.wire.default_planet import DEFAULT_PLANET

        return DEFAULT_PLANET
    if url_scheme(source) is not None:
        return None
    with Path(source).expanduser().open("rb") as file:
        planet = file.read(MAX_PLANET_BYTES + 1)
    if len(planet) > MAX_PLANET_BYTES:
        raise ValueError(f"{source} is not a planet file: larger than {MAX_PLANET_BYTES} bytes")
    return planet
