"""What a shell may complete: the ids of the networks and members that a running node knows. Nothing is said of what
goes wrong, since somebody is typing."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from itertools import chain
from typing import TYPE_CHECKING

import click
from click.shell_completion import CompletionItem

if TYPE_CHECKING:
    import ztclient


def networks(context: click.Context, incomplete: str) -> list[CompletionItem]:
    """Ids of networks that begin so: those that the node has joined, or after ``controller`` those that it controls."""
    import ztclient

    try:
        node = _node(context)
        found: Iterable[tuple[str, str]]
        if _is_for_controller(context):
            from ztclient.controller import Controller

            found = [(network.nwid, network.name) for network in Controller(node).networks()]
        else:
            found = [(network.nwid, network.name) for network in node.networks()]
    except (OSError, ValueError, ztclient.Error):
        return []
    return _items(found, incomplete)


def members(context: click.Context, incomplete: str) -> list[CompletionItem]:
    """Addresses of members that begin so, of the network that stands before them."""
    import ztclient
    from ztclient.controller import Controller

    try:
        found = [(member.address, member.name) for member in Controller(_node(context)).members(context.params["nwid"])]
    except (OSError, ValueError, KeyError, ztclient.Error):
        return []
    return _items(found, incomplete)


def _items(found: Iterable[tuple[str, str]], incomplete: str) -> list[CompletionItem]:
    return [CompletionItem(each, help=name or None) for each, name in found if each.startswith(incomplete.lower())]


def _node(context: click.Context) -> ztclient.Node:
    """The node that the words typed so far name. Raises OSError, ValueError."""
    import ztclient

    return ztclient.Node(context.params.get("node_address"), state=context.params.get("node_state"))


def _is_for_controller(context: click.Context) -> bool:
    return any(each.info_name == "controller" for each in chain((context,), _parents(context)))


def _parents(context: click.Context) -> Iterator[click.Context]:
    while context.parent is not None:
        context = context.parent
        yield context
