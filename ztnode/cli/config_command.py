"""ztnode config."""

from __future__ import annotations

from pathlib import Path

import click

from ztnode.cli.common import EXISTING_FILE, example, json_option, print_json, print_table
from ztnode.cli.option_sources import effective
from ztnode.cli.serve_command import refuse_contradictions, serve


@click.group(
    short_help="Look at a configuration before a node runs with it.",
    epilog=example("ztnode config check ./ztnode.toml"),
)
def config() -> None:
    """Look at a configuration before a node runs with it."""


@config.command(
    short_help="Say whether serve would take it.",
    epilog=example("ztnode config check /etc/ztnode.toml", "ztnode config check --json"),
)
@click.argument("file", type=EXISTING_FILE, required=False, envvar="ZTNODE_CONFIG")
@json_option
def check(file: Path | None, as_json: bool) -> None:
    """Read FILE (or what ZTNODE_CONFIG names) and the environment as `ztnode serve` would, start nothing, and show what
    was set and where. Exits 2 with the reason where serve would refuse an option; what plugins, the planet and the
    state directory have to say comes with the start."""
    arguments = [] if file is None else ["--config", str(file)]
    with serve.make_context("ztnode serve", arguments) as ctx:
        refuse_contradictions(ctx)
        found = [entry for entry in effective(ctx) if entry[2] != "default"]
    if as_json:
        print_json({key: {"value": _shown(value), "source": source} for key, value, source in found})
    else:
        rows = [(key, source, _shown(value)) for key, value, source in found]
        print_table(("option", "from", "value"), rows, empty="nothing is set: all options have their defaults")


def _shown(value: object) -> object:
    """A value as a person wrote it, or nearly so."""
    if isinstance(value, list | tuple):
        return ", ".join(str(_shown(entry)) for entry in value)
    return value if isinstance(value, bool | int) else str(value)
