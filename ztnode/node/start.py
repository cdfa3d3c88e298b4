"""A node from its options, in the order in which it is online soonest."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable
from typing import TYPE_CHECKING

import pluggy

from ztnode.node.assembly import assemble
from ztnode.node.options import NodeOptions

if TYPE_CHECKING:
    from ztnode.node.node import Node


async def start(
    options: NodeOptions, manager: pluggy.PluginManager, waiting: Callable[[str], None] = lambda _line: None
) -> Node:
    """Bring a node up as far as it greets its roots and its workers start; ``Node.ready`` waits for these. ``waiting``
    is told what for while another node holds the store. Raises LeaseHeld, StateError, PluginError, OSError or
    ValueError, each with one clear line."""
    parts = await assemble(options, manager, waiting)
    async with contextlib.AsyncExitStack() as undo:
        undo.push_async_callback(asyncio.to_thread, parts.home.close)
        undo.push_async_callback(parts.transport.close)
        from ztnode.node.node import Node  # with all that clients may ask for: the roots answer meanwhile

        node = Node(options, parts)
        undo.pop_all()  # from here on the node owns its parts
        undo.push_async_callback(node.close)
        await node.begin()
        undo.pop_all()
        return node
