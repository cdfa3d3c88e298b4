"""ztnode store: what a state store has, and moving it to another one."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from pathlib import Path
from typing import TYPE_CHECKING

import click

from ztnode.cli.common import EXISTING_FILE, example, json_option, print_json
from ztnode.cli.on_loop import run_until_interrupted
from ztnode.cli.printable import printable

if TYPE_CHECKING:
    from ztnode.hookspecs import StateStore


@click.group(
    short_help="What a state store has, and copies of it.",
    epilog=example("ztnode store list ./st/zerotier", "ztnode store copy ./st/zerotier postgresql://ztnode@db/ztnode"),
)
def store() -> None:
    """State stores by their URLs, as ztnode serve --store takes them: a directory (DIR/zerotier is that of a node), or
    what an installed plugin offers. The node that uses one must be stopped."""


@store.command(
    epilog=example(
        "ztnode store copy ./st/zerotier postgresql://ztnode@db/ztnode",
        "ztnode store copy ./st/zerotier ./sealed --to-key ./store.key",
    )
)
@click.argument("source", metavar="FROM")
@click.argument("name", metavar="TO")
@click.option("--from-key", type=EXISTING_FILE, metavar="FILE", help="The key that FROM is encrypted with.")
@click.option("--to-key", type=EXISTING_FILE, metavar="FILE", help="Encrypt TO with this key.")
def copy(source: str, name: str, from_key: Path | None, to_key: Path | None) -> None:
    """Copy everything that a store has to another one, which must be empty."""
    count = run_until_interrupted(_copy(source, name, from_key, to_key))
    click.echo(f"{count} values copied", err=True)


@store.command("list", epilog=example("ztnode store list ./st/zerotier"))
@click.argument("source", metavar="STORE")
@click.option("--store-key", type=EXISTING_FILE, metavar="FILE", help="The key that it is encrypted with.")
@json_option
def list_keys(source: str, store_key: Path | None, as_json: bool) -> None:
    """Name what a store has, each with its size in bytes; all of it is read, and decrypted."""

    async def found() -> list[tuple[str, int]]:
        async with _opened(source, store_key) as opened:
            return [(key, len(opened.read(key) or b"")) for key in opened.keys("")]

    keys = run_until_interrupted(found())
    if not keys:
        raise click.ClickException(_empty(source))
    if as_json:
        print_json([{"key": key, "size": size} for key, size in keys])
        return
    for key, size in keys:
        click.echo(f"{size:8} {printable(key)}")


@contextlib.asynccontextmanager
async def _opened(url: str, key: Path | None) -> AsyncIterator[StateStore]:
    from ztnode import plugins
    from ztnode.cli import given_secrets
    from ztnode.node.lease import LeaseHeld
    from ztnode.node.opening import StoreOptions, open_state

    secret = None if key is None else given_secrets.store_key(key)
    try:
        opened = await open_state(StoreOptions(url, secret, standby=False), plugins.load())
    except LeaseHeld as error:
        raise click.ClickException(f"{error}: stop that node first") from None
    try:
        yield opened.state
    finally:
        await asyncio.to_thread(opened.state.close)


def _empty(url: str) -> str:
    from ztnode.node.opening import store_name

    return f"{store_name(url)} has no state of a node (the identities of a pool are not counted)"


async def _copy(source: str, name: str, from_key: Path | None, to_key: Path | None) -> int:
    from ztnode.node.opening import store_name

    async with _opened(source, from_key) as before:
        keys = list(before.keys(""))
        if not keys:
            raise click.ClickException(_empty(source))
        async with _opened(name, to_key) as after:
            there = next(iter(after.keys("")), None)
            if there is not None:
                raise click.ClickException(f"{store_name(name)} is not empty, it has {there}: nothing was copied")
            for key in keys:
                # The identity last: a copy that was broken off is no node.
                if not key.startswith("identity."):
                    after.write(key, before.read(key) or b"")
            for key in keys:
                if key.startswith("identity."):
                    after.write(key, before.read(key) or b"")
    return len(keys)
