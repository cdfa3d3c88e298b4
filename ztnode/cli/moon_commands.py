"""orbit, deorbit, moons."""

from __future__ import annotations

import datetime
from pathlib import Path

import click

import ztclient
from ztnode.cli.common import (
    EXISTING_FILE,
    Parameter,
    example,
    json_option,
    node_option,
    print_json,
    print_table,
)
from ztnode.wire.address import format_address, parse_address
from ztnode.wire.world import format_world_id, parse_world_id

MAX_FILE = 65536


class MoonId(Parameter[str]):
    """A moon's world id: up to 16 hexadecimal digits, given on as 16."""

    name = "moon"

    def convert(self, value: str, param: click.Parameter | None, ctx: click.Context | None) -> str:
        """See click.ParamType."""
        try:
            return format_world_id(parse_world_id(value.strip()))
        except ValueError as error:
            self.fail(str(error), param, ctx)


class RootAddress(Parameter[str]):
    """A ZeroTier address."""

    name = "address"

    def convert(self, value: str, param: click.Parameter | None, ctx: click.Context | None) -> str:
        """See click.ParamType."""
        try:
            return format_address(parse_address(value.strip()))
        except ValueError as error:
            self.fail(str(error), param, ctx)


@click.command(
    short_help="Take the roots of a moon too.",
    epilog=example("ztnode orbit deadbeef00 deadbeef00", "ztnode orbit --file 000000deadbeef00.moon", "ztnode moons"),
)
@click.argument("moon", type=MoonId(), required=False)
@click.argument("seed", type=RootAddress(), required=False)
@click.option("--file", type=EXISTING_FILE, metavar="FILE", help="The moon's file, in the place of its id and seed.")
@json_option
@node_option
def orbit(node: ztclient.Node, moon: str | None, seed: str | None, file: Path | None, as_json: bool) -> None:
    """Orbit the moon with the world id MOON: its roots become upstreams of the node beside those of the planet, over
    restarts too. SEED, the address of one of its roots, is asked for it; without SEED the last 10 digits of MOON, which
    usually are its first root."""
    if (moon is None) == (file is None):
        raise click.UsageError("give either MOON, or --file")
    if file is None:
        assert moon is not None
        found = node.orbit(moon, seed)
    else:
        with file.open("rb") as opened:
            found = node.orbit(opened.read(MAX_FILE))
    if as_json:
        print_json(found)
    else:
        _print([found])


@click.command(short_help="Leave a moon.", epilog=example("ztnode deorbit deadbeef00"))
@click.argument("moon", type=MoonId())
@node_option
def deorbit(node: ztclient.Node, moon: str) -> None:
    """Leave the moon with the world id MOON, or give up looking for it."""
    node.deorbit(moon)


@click.command(short_help="List the moons.", epilog=example("ztnode moons", "ztnode moons --json | jq -r '.[].id'"))
@json_option
@node_option
def moons(node: ztclient.Node, as_json: bool) -> None:
    """List the moons that the node orbits, and those that it looks for."""
    found = node.moons()
    if as_json:
        print_json(found)
    else:
        _print(found)


def _print(found: list[ztclient.Moon]) -> None:
    print_table(
        ("ID", "STATE", "SIGNED", "ROOTS"),
        [
            (
                moon.id,
                "known" if moon.known else f"asking {moon.seed}",
                f"{datetime.datetime.fromtimestamp(moon.timestamp / 1000, datetime.UTC):%Y-%m-%d %H:%M}"
                if moon.known
                else "",
                ", ".join(f"{root.address} {'/'.join(root.endpoints)}".strip() for root in moon.roots),
            )
            for moon in found
        ],
        empty="no moon is orbited: ztnode orbit MOON SEED",
    )
