"""The built-in plugins, and how those of others are found: by entry points in the group ``ztnode``.

The built-ins use the same hooks as everybody else, but are registered by name: entry points are read from metadata,
which a vendored copy, a zip application or a frozen program does not have.
"""

from __future__ import annotations

import traceback
from importlib import import_module
from importlib.metadata import entry_points
from typing import Any, Final

import pluggy

from ztnode import hookspecs

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
    for entry in sorted(entry_points(group=GROUP), key=lambda entry: entry.name):
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
