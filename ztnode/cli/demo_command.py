"""ztnode demo."""

from __future__ import annotations

import contextlib
import signal
import sys
import tempfile
from pathlib import Path

import click

from ztnode.cli.common import example, json_option, print_json
from ztnode.cli.progress import Progress


@click.command(short_help="See it work: two nodes, one network, one page.", epilog=example("ztnode demo"))
@json_option
def demo(as_json: bool) -> None:
    """Start a network with its own root and controller on this machine, join two nodes to it, serve a page on one and
    fetch it from the other; show each step and its time, and end."""
    from ztnode.demo import demo as run

    stopped: list[int] = []

    def stop(number: int, _frame: object) -> None:
        stopped.append(number)
        sys.exit(128 + number)

    # Whatever ends it, the nodes that were started must not be left behind.
    for each in (signal.SIGINT, signal.SIGTERM):
        signal.signal(each, stop)
    steps = []
    with (
        tempfile.TemporaryDirectory(prefix="ztnode-demo-") as directory,
        contextlib.closing(run(Path(directory))) as running,
    ):
        while True:
            with Progress("a network of our own, on this machine") if sys.stderr.isatty() else contextlib.nullcontext():
                step = next(running, None)
            if stopped:
                # Python drops an exception that a handler raises inside the import system's own callbacks.
                sys.exit(128 + stopped[0])
            if step is None:
                break
            steps.append(step)
            if not as_json:
                click.echo(f"{step.at:6.2f} s  {step.what:<36} {step.result}  ({_duration(step.seconds)})")
    if as_json:
        print_json(steps)


def _duration(seconds: float) -> str:
    return f"{seconds * 1000:.0f} ms" if seconds < 1 else f"{seconds:.1f} s"
