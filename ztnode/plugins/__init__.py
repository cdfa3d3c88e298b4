"""The built-in plugins, and how those of others are found: by entry points in the group ``ztnode``.

The built-ins use the same hooks as everybody else, but are registered by name: entry points are read from metadata,
which a vendored copy, a zip application or a frozen program does not have.
"""

from __future__ import annotations

import os
import sys
import traceback
from collections.abc import Iterable
from importlib import import_module
from importlib.machinery import PathFinder
from typing import TYPE_CHECKING, Any, Final

import pluggy

from ztnode import hookspecs

if TYPE_CHECKING:
    from importlib.metadata import EntryPoint

GROUP: Final = "ztnode"
BUILT_IN: Final = ("planets", "stores", "udp", "tcp", "socks5")
"""Modules of this package."""


class PluginError(Exception):
    """A plugin that could not be loaded, or that raised; the message names it."""


def load() -> pluggy.PluginManager:
    """A plugin manager with every installed plugin. Raises PluginError naming the first that cannot be loaded."""
    manager = pluggy.PluginManager(GROUP)
    manager.add_hookspecs(hookspecs)
    for name in BUILT_IN:
        manager.register(import_module(f"{__name__}.{name}"), name=f"builtin-{name}")
    for entry in sorted(_installed(), key=lambda entry: entry.name):
        package = entry.dist.name if entry.dist is not None else entry.value
        try:
            plugin = entry.load()
            # Metadata that an older version left behind names the built-ins too.
            if not manager.is_registered(plugin):
                manager.register(plugin, name=entry.name)
        except Exception as error:
            raise PluginError(
                f"plugin {entry.name} of package {package} cannot be loaded: {describe(error)}"
            ) from error
    manager.check_pending()
    return manager


def _installed() -> Iterable[EntryPoint]:
    """The entry points of others' plugins. ``importlib.metadata`` takes 20 ms to load and to read what every
    distribution offers; where none has plugins, which most nodes have not, the roots are greeted so much earlier."""
    if not _may_have_plugins():
        return ()
    from importlib.metadata import entry_points

    return entry_points(group=GROUP)


def _may_have_plugins() -> bool:
    """Whether some distribution names our group, or is kept where a look into directories does not show it."""
    if any(hasattr(finder, "find_distributions") and finder is not PathFinder for finder in sys.meta_path):
        return True
    section = f"[{GROUP}]".encode()
    for place in sys.path:
        if not isinstance(place, str | os.PathLike):
            continue  # as Python's own import does
        path = os.fsdecode(place)
        if path.lower().endswith(".egg"):
            return True  # an old way, of which hardly any are left
        try:
            with os.scandir(path or ".") as entries:
                folders = [entry.path for entry in entries if entry.name.lower().endswith((".dist-info", ".egg-info"))]
        except NotADirectoryError:
            return True  # a zip archive
        except (OSError, ValueError):  # it is not there, or no path at all
            continue
        for folder in folders:
            try:
                with open(f"{folder}/entry_points.txt", "rb") as file:  # noqa: PTH123 - there may be hundreds
                    if section in file.read():
                        return True
            except OSError:
                continue  # it offers nothing
    return False


def call(manager: pluggy.PluginManager, hook_name: str, **arguments: Any) -> Any:
    """Call one hook. ValueError and OSError are a plugin's own clear words on bad input and pass through; anything
    else that a plugin raises becomes a PluginError that names the plugin."""
    hook = getattr(manager.hook, hook_name)
    try:
        return hook(**arguments)
    except (ValueError, OSError):
        raise
    except Exception as error:
        raised_in = {frame.f_code for frame, _ in traceback.walk_tb(error.__traceback__)}
        names = [
            implementation.plugin_name
            for implementation in hook.get_hookimpls()
            if getattr(implementation.function, "__code__", None) in raised_in
        ]
        raise PluginError(f"plugin {', '.join(names) or 'unknown'} failed in {hook_name}: {describe(error)}") from error


def describe(error: BaseException) -> str:
    """An exception in one line."""
    return f"{type(error).__name__}: {error}".splitlines()[0]
