"""ztnode identity."""

from __future__ import annotations

import sys
from pathlib import Path

import click

from ztnode.cli.common import DIRECTORY, Failure, example, json_option, print_fields, print_json, write_new
from ztnode.cli.progress import Progress
from ztnode.wire.address import format_address
from ztnode.wire.identity import Identity
from ztnode.wire.wire_error import WireError

MAX_IDENTITY_FILE = 4096


@click.group(epilog=example("ztnode identity new --output ./st/zerotier"))
def identity() -> None:
    """Make, show and check ZeroTier identities."""


@identity.command(
    short_help="Make a new identity.",
    epilog=example("ztnode identity new --output ./st/zerotier", "ztnode identity new > identity.secret"),
)
@click.option("--output", type=DIRECTORY, metavar="DIR", help="Write DIR/identity.secret and DIR/identity.public.")
@json_option
def new(output: Path | None, as_json: bool) -> None:
    """Make a new identity: print it with its secret, or write it to files. Nothing is overwritten."""
    from ztnode.node.identity_pool import generate_identity

    if output is not None:
        for name in ("identity.secret", "identity.public"):
            if (output / name).exists():
                raise Failure(f"{output / name} exists already and is left as it is")
    with Progress("making an identity"):
        made = generate_identity()
    if output is not None:
        output.mkdir(mode=0o700, parents=True, exist_ok=True)
        write_new(output / "identity.secret", made.build_text(include_secret=True).encode(), secret=True)
        write_new(output / "identity.public", made.build_text().encode())
    if as_json:
        print_json(_fields(made) | ({} if output is not None else {"secret": made.build_text(include_secret=True)}))
    elif output is None:
        click.echo(made.build_text(include_secret=True))
    else:
        click.echo(format_address(made.address))


@identity.command(short_help="Show an identity.", epilog=example("ztnode identity show ./st/zerotier/identity.secret"))
@click.argument("source", metavar="FILE|TEXT")
@json_option
def show(source: str, as_json: bool) -> None:
    """Show the address and the public identity of an identity file or text (-: stdin). The secret is never printed."""
    found = _read(source)
    if as_json:
        print_json(_fields(found))
    else:
        print_fields(
            (
                ("address", format_address(found.address)),
                ("public", found.build_text()),
                ("has secret", "yes" if found.secret else "no"),
            )
        )


@identity.command(
    short_help="Check an identity.", epilog=example("ztnode identity validate ./st/zerotier/identity.public")
)
@click.argument("source", metavar="FILE|TEXT")
@json_option
def validate(source: str, as_json: bool) -> None:
    """Check that an identity's address belongs to its key; exit 1 if it does not."""
    found = _read(source)
    valid = found.validate()
    if as_json:
        print_json(_fields(found) | {"valid": valid})
    elif valid:
        click.echo(f"{format_address(found.address)} is valid")
    if not valid:
        raise Failure(f"{format_address(found.address)} is not valid: the address does not belong to the key")


def _read(source: str) -> Identity:
    """An identity from a file's name, from stdin or from its own text. Raises Failure, OSError."""
    if source == "-":
        text = sys.stdin.read(MAX_IDENTITY_FILE)
    elif ":" in source and not Path(source).exists():
        text = source
    else:
        with Path(source).open(encoding="utf-8", errors="replace") as file:
            text = file.read(MAX_IDENTITY_FILE)
    try:
        return Identity.parse_text(text.strip())
    except WireError as error:
        raise Failure(f"{source if text != source else 'the text'} is no identity: {error}") from None


def _fields(found: Identity) -> dict[str, object]:
    return {
        "address": format_address(found.address),
        "public": found.build_text(),
        "has_secret": found.secret is not None,
    }
