"""ztnode capture."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import IO

import click

import ztclient
from ztnode.cli.common import NWID, SECONDS, Failure, example, node_option, standard_output
from ztnode.cli.progress import Progress


@click.command(
    short_help="Write a network's frames to a file for Wireshark.",
    epilog=example("ztnode capture 9ad07d01093a69e3 wire.pcapng", "ztnode capture 9ad07d01093a69e3 - | tshark -r -"),
)
@click.argument("nwid", type=NWID)
@click.argument("file", metavar="FILE.pcapng", type=click.Path(dir_okay=False, allow_dash=True, path_type=Path))
@click.option("--seconds", type=SECONDS, metavar="S", help="End after S seconds.")
@click.option(
    "--snaplen",
    type=click.IntRange(14, 65535),
    default=65535,
    metavar="N",
    help="Keep N bytes of each frame. [default: all]",
)
@node_option
def capture(node: ztclient.Node, nwid: str, file: Path, seconds: float | None, snaplen: int) -> None:
    """Write the Ethernet frames of the network NWID, decrypted, to FILE.pcapng (-: stdout) until Ctrl-C."""
    size = 0
    with contextlib.ExitStack() as stack:
        blocks = stack.enter_context(contextlib.closing(node.capture(nwid, snaplen=snaplen, timeout=seconds)))
        block = next(blocks, b"")  # an error comes before the file is touched
        output = standard_output() if str(file) == "-" else stack.enter_context(_file(file))
        try:
            with Progress(f"capturing {nwid}; Ctrl-C ends it") as progress:
                while block:
                    output.write(block)
                    output.flush()
                    size += len(block)
                    progress.tick(f"capturing {nwid}: {size:,} bytes; Ctrl-C ends it")
                    block = next(blocks, b"")
        except KeyboardInterrupt:
            pass  # the usual end
        except TimeoutError:
            if seconds is None:
                raise
        else:
            raise Failure(f"the node ended the capture after {size:,} bytes")
    click.echo(f"{size:,} bytes captured", err=True)


@contextlib.contextmanager
def _file(path: Path) -> Iterator[IO[bytes]]:
    """A file to write, which is not left behind with nothing in it when that fails, as on a full disk."""
    try:
        with path.open("wb") as file:
            yield file
    except OSError:
        if path.is_file() and not path.stat().st_size:
            path.unlink()
        raise
