"""ztnode world."""

from __future__ import annotations

import datetime
import os
import time
from pathlib import Path

import click

from ztnode import worldtool
from ztnode.cli.common import EXISTING_FILE, FILE, Failure, example, json_option, print_fields, print_json, write_new
from ztnode.wire.world import Root

MAX_FILE = 65536


@click.group(epilog=example("ztnode world show ./st/zerotier/planet"))
def world() -> None:
    """Make and show planets: the signed list of roots that a node starts from."""


@world.command(
    short_help="Make or update a planet.",
    epilog=example(
        "ztnode world create planet --secret planet.secret --root root/zerotier/identity.public@203.0.113.7/9993"
    ),
)
@click.argument("file", type=FILE)
@click.option(
    "--root",
    "roots",
    metavar="IDENTITY@ENDPOINT[,ENDPOINT…]",
    multiple=True,
    help="A root: its identity.public file, and where it is reached, as IP/PORT; one to four times.",
)
@click.option(
    "--secret",
    "secret_file",
    type=FILE,
    required=True,
    metavar="FILE",
    help="The key that signs this planet and its updates; made if missing. Keep it.",
)
@click.option("--id", "world_id", type=int, metavar="N", help="The world id of a new key. [default: a random one]")
@click.option("--update", is_flag=True, help="Replace FILE by a later planet that its nodes will take over.")
@json_option
def create(
    file: Path, roots: tuple[str, ...], secret_file: Path, world_id: int | None, update: bool, as_json: bool
) -> None:
    """Make the planet FILE of the given roots."""
    if not roots and not update:
        raise click.UsageError("give at least one --root")
    if file.exists() and not update:
        raise Failure(f"{file} exists already and is left as it is: give --update to replace it by a later one")
    previous = _read(file) if update else None
    parsed = [_root(text) for text in roots]
    if secret_file.exists():
        if world_id is not None:
            raise click.UsageError(f"--id is for a new key, and {secret_file} exists")
        secret = worldtool.WorldSecret.from_json(_read(secret_file))
    elif update:
        raise Failure(f"there is no {secret_file}: an update must be signed by the key of the planet that it replaces")
    else:
        secret = worldtool.WorldSecret.generate(os.urandom, world_id)
    now = int(time.time() * 1000)
    if previous is None:
        planet = worldtool.create_planet(parsed, secret, now)
    else:
        planet = worldtool.update_planet(previous, secret, now, parsed or None)
    # The key first: a planet whose key is lost can never be updated.
    if not secret_file.exists():
        write_new(secret_file, secret.to_json(), secret=True)
    write_new(file, planet, replace=update)
    _print(planet, as_json)


@world.command(short_help="Show a planet or moon.", epilog=example("ztnode world show ./st/zerotier/planet --json"))
@click.argument("file", type=EXISTING_FILE)
@json_option
def show(file: Path, as_json: bool) -> None:
    """Show a planet or moon file: its id, age and roots."""
    _print(_read(file), as_json)


def _print(data: bytes, as_json: bool) -> None:
    described = worldtool.describe_world(data)
    if as_json:
        print_json(described)
        return
    made = datetime.datetime.fromtimestamp(described["timestamp"] / 1000, datetime.UTC)
    print_fields(
        (
            ("type", described["worldType"]),
            ("id", f"{int(described['id'], 16)} (0x{described['id']})"),
            ("made", f"{made:%Y-%m-%d %H:%M:%S} UTC"),
            *((f"root {root['address']}", ", ".join(root["stableEndpoints"])) for root in described["roots"]),
        )
    )


def _root(text: str) -> Root:
    file, at, endpoints = text.rpartition("@")
    if not at or not file or not endpoints:
        raise click.UsageError(f"{text!r} is not a root such as identity.public@203.0.113.7/9993")
    return worldtool.parse_root(_read(Path(file)).decode("utf-8", "replace"), endpoints.split(","))


def _read(path: Path) -> bytes:
    with path.open("rb") as file:
        return file.read(MAX_FILE)
