"""The overlay for asyncio, on its own loop or on uvloop: everything over grpc.aio, no thread.

    import asyncio
    from ztclient import aio

    async def main():
        reader, writer = await aio.open_connection("10.121.15.99", 5380)
        writer.write(b"GET / HTTP/1.0\\r\\n\\r\\n")
        print(await reader.read())
        writer.close()

    asyncio.run(main())

The functions are those of asyncio, with ``node`` beside: a ``Node``, or its address; left out, it is found as
``ztclient.discovery`` says. ``get_extra_info("peername")`` of a stream's writer gives the address on the overlay.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from ztclient.aio.listener import Listener
    from ztclient.aio.node import Node
    from ztclient.aio.streams import (
        Server,
        create_connection,
        create_datagram_endpoint,
        open_connection,
        start_server,
    )

__all__ = [
    "Listener",
    "Node",
    "Server",
    "create_connection",
    "create_datagram_endpoint",
    "open_connection",
    "start_server",
]

# Looked up at first use, as in ztclient: the node process needs ztclient.aio.handoff alone.
_HOMES: Final = {"Listener": "listener", "Node": "node"}


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(importlib.import_module(f"{__name__}.{_HOMES.get(name, 'streams')}"), name)
    globals()[name] = value
    return value
