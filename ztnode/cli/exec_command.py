"""ztnode exec."""

from __future__ import annotations

import os
from pathlib import Path

import click

import ztclient
from ztclient import startup
from ztnode.cli.common import Failure, example, node_option


@click.command(
    "exec",
    short_help="Run a Python program over the overlay.",
    context_settings={"ignore_unknown_options": True, "allow_interspersed_args": False},
    epilog=example("ztnode exec -- python script.py", "ztnode exec -- pytest -q"),
)
@click.argument("command", nargs=-1, required=True, type=click.UNPROCESSED)
@node_option
def execute(node: ztclient.Node, command: tuple[str, ...]) -> None:
    """Run COMMAND, a Python program unchanged, so that its TCP connections to addresses of the joined networks go over
    this node, and all others as before. The Python processes that it starts do so too.

    That Python needs ztclient. What makes its sockets in C (uvloop, grpc) is not covered.
    """
    node.networks()  # who answers not shall say so now, and not in the program
    path = [str(Path(startup.__file__).parent), *filter(None, [os.environ.get("PYTHONPATH")])]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(path), "ZTNODE_ADDRESS": node.address}
    try:
        os.execvpe(command[0], command, environment)
    except OSError as error:
        raise Failure(f"cannot run {command[0]}: {error.strerror}") from None
