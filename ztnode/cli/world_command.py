"""ztnode world."""

from __future__ import annotations

import datetime
import os
import time
from pathlib import Path

import click

from ztnode import worldtool
from ztnode.cli.common import EXISTING_FILE, FILE, Failure, example, json_option, print_fields, print_json, write_new
from ztnode.wire.world import Root, WorldType

MAX_FILE = 65536


@click.group(epilog=example("ztnode world show ./st/zerotier/planet"))
def world() -> None:
    """Make and show planets and moons: the signed list of roots that a node starts from, and additions to it."""


@world.command(
    short_help="Make or update a planet or moon.",
    epilog=example(
        "ztnode world create planet --secret planet.secret --root root/zerotier/identity.public@203.0.113.7/9993",
        "ztnode world create moon --secret moon.secret --root root/zerotier/identity.public",
        "ztnode orbit --file moon",
    ),
)
@click.argument("file", type=FILE)
@click.option(
    "--root",
    "roots",
    metavar="IDENTITY@ENDPOINT[,ENDPOINT…]",
    multiple=True,
    help="A root: its identity.public file, and where it is reached, as IP/PORT; one to four times. A moon's may be "
    "without @ENDPOINT: it is then found through the planet's roots.",
)
@click.option(
    "--type",
    "kind",
    type=click.Choice(["planet", "moon"]),
    help="What to make. [default: what the secret was made for; else a moon where FILE is called moon or *.moon]",
)
@click.option(
    "--secret",
    "secret_file",
    type=FILE,
    required=True,
    metavar="FILE",
    help="The key that signs this world and its updates; made if missing. Keep it. For a moon also what "
    "zerotier-idtool initmoon prints, whose roots are taken where there is no --root.",
)
@click.option(
    "--id",
    "world_id",
    type=int,
    metavar="N",
    help="The world id of a new key. [default: a random one; a moon's is the address of its first root]",
)
@click.option("--update", is_flag=True, help="Replace FILE by a later world that its nodes will take over.")
@json_option
def create(
    file: Path,
    roots: tuple[str, ...],
    kind: str | None,
    secret_file: Path,
    world_id: int | None,
    update: bool,
    as_json: bool,
) -> None:
    """Make the planet or moon FILE of the given roots. A moon's file goes to ztnode orbit --file, or
    as ID.moon into moons.d of zerotier-one."""
    if file.exists() and not update:
        raise Failure(f"{file} exists already and is left as it is: give --update to replace it by a later one")
    previous = _read(file) if update else None
    parsed = [_root(text) for text in roots]
    wanted = None if kind is None else WorldType[kind.upper()]
    if secret_file.exists():
        if world_id is not None:
            raise click.UsageError(f"--id is for a new key, and {secret_file} exists")
        secret = worldtool.WorldSecret.from_json(_read(secret_file))
        if wanted not in (None, secret.type):
            raise click.UsageError(f"{secret_file} is the secret of a {secret.type.name.lower()}")
    elif update:
        raise Failure(f"there is no {secret_file}: an update must be signed by the key of the world that it replaces")
    else:
        wanted = wanted or (WorldType.MOON if file.suffix == ".moon" or file.name == "moon" else WorldType.PLANET)
        if wanted is WorldType.MOON and world_id is None and parsed:
            world_id = parsed[0].identity.address
        secret = worldtool.WorldSecret.generate(os.urandom, world_id, wanted)
    parsed = parsed or ([] if update else [*secret.roots])
    if not parsed and not update:
        raise click.UsageError("give at least one --root")
    now = int(time.time() * 1000)
    if previous is None:
        made = worldtool.create_world(parsed, secret, now)
    else:
        made = worldtool.update_world(previous, secret, now, parsed or None)
    # The key first: a world whose key is lost can never be updated.
    if not secret_file.exists():
        write_new(secret_file, secret.to_json(parsed), secret=True)
    write_new(file, made, replace=update)
    _print(made, as_json)


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
    moon = described["worldType"] == "moon"
    print_fields(
        (
            ("type", described["worldType"]),
            ("id", described["id"] if moon else f"{int(described['id'], 16)} (0x{described['id']})"),
            ("made", f"{made:%Y-%m-%d %H:%M:%S} UTC"),
            *(
                (f"root {root['address']}", ", ".join(root["stableEndpoints"]) or "wherever it is found")
                for root in described["roots"]
            ),
        )
    )


def _root(text: str) -> Root:
    file, at, endpoints = text.rpartition("@")
    if not (file and endpoints if at else Path(text).is_file()):
        raise click.UsageError(f"{text!r} is not a root such as identity.public@203.0.113.7/9993")
    content = _read(Path(file or endpoints)).decode("utf-8", "replace")
    return worldtool.parse_root(content, endpoints.split(",") if at else [])


def _read(path: Path) -> bytes:
    with path.open("rb") as file:
        return file.read(MAX_FILE)
