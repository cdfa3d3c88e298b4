"""What a node that runs takes from its configuration when it is told to read it again (SIGHUP)."""

from __future__ import annotations

import logging

import click

from ztnode import logs
from ztnode.cli.option_sources import read_again, settings
from ztnode.serve import Served
from ztnode.wire.address import parse_nwid

log = logging.getLogger(__name__)


class Reconfiguration:
    """Log levels are set and networks joined; of whatever else has changed it is said that it takes a start."""

    def __init__(self, ctx: click.Context) -> None:
        """``ctx``: of ``serve``."""
        self._ctx = ctx
        self._params = dict(ctx.params)

    async def apply(self, served: Served) -> None:
        """Read everything again; what cannot be used is one line, and nothing changes."""
        try:
            fresh = read_again(self._ctx)
            logs.set_levels(fresh["log_level"], fresh["logger_levels"], self._params["logger_levels"])
        except (click.ClickException, ValueError, OSError) as error:
            said = error.format_message() if isinstance(error, click.ClickException) else str(error)
            log.error("the configuration was not read again: %s", said)
            return
        log.info("the configuration was read again")
        for nwid in fresh["networks"]:
            if nwid not in self._params["networks"]:
                await self._join(served, nwid)
        for name in ("log_level", "logger_levels", "networks"):
            self._params[name] = fresh[name]
        changed = [key for key, option in settings(self._ctx.command).items() if self._is_other(option.name, fresh)]
        if changed:
            log.warning("changed, and in force after the next start only: %s", ", ".join(changed))

    def _is_other(self, name: str | None, fresh: dict[str, object]) -> bool:
        return name is not None and fresh.get(name) != self._params.get(name)

    async def _join(self, served: Served, nwid: str) -> None:
        try:
            await served.node.join(parse_nwid(nwid))
            log.info("joined %s", nwid)
        except OSError as error:
            log.error("network %s is not joined: %s", nwid, error.strerror or error)
