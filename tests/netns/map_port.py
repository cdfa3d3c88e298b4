"""``python -m tests.netns.map_port WAY GATEWAY PORT``: have a port mapped by pcp, nat-pmp or upnp, say where and for
how long in JSON, and give it back when standard input ends."""

from __future__ import annotations

import asyncio
import json
import sys
from collections.abc import Callable

from ztnode.node.pcp import Mapper, NatPmp, Pcp
from ztnode.node.upnp import Upnp


async def main(way: str, gateway: str, port: int) -> None:
    """See the module."""
    mappers: dict[str, Callable[[str], Mapper]] = {"pcp": Pcp, "nat-pmp": NatPmp, "upnp": Upnp}
    mapper = mappers[way](gateway)
    print(json.dumps(await mapper.map(port, 7200)), flush=True)
    await asyncio.to_thread(sys.stdin.read)
    await mapper.unmap(port)


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1], sys.argv[2], int(sys.argv[3])))
