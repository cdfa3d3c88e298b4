"""The conventions of the command line. A new command is a module ``…_command`` and a line in ``app.COMMANDS``.

- Answers go to stdout, everything else (progress, notes, errors) to stderr.
- A command that prints data has ``@json_option`` and prints with ``print_json`` when asked; the keys are those of the
  dataclasses in ztclient.model, times in seconds, unknown values null.
- A command that talks to a node has ``@node_option`` and gets a ``ztclient.Node``.
- An error is raised: ``Failure`` with one line, or just the OSError or ValueError that a function of ours raised with
  one; ``app.run`` prints it as ``ztnode: …`` and exits 1. Bad usage is ``click.UsageError`` and exits 2. Nothing prints
  a traceback, unless ZTNODE_DEBUG is set.
- A wait that may take more than a second runs under ``Progress``.
- ``--help`` ends with an example: ``epilog=example("ztnode …")``.
"""

from __future__ import annotations

import contextlib
import dataclasses
import enum
import errno
import functools
import json
import math
import os
import shutil
import socket
import sys
import time
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any, Concatenate, Final, Generic, ParamSpec, TypeVar

import click

from ztnode.atomic_file import write_atomically
from ztnode.cli.printable import printable, shows
from ztnode.cli.table import lay_out
from ztnode.wire.address import format_nwid, parse_nwid

if TYPE_CHECKING:
    from click.shell_completion import CompletionItem

    import ztclient

LOCK: Final = "zerotier/.ztnode.lock"
"""In a state directory: held by the node that has it."""
NODE_SECONDS: Final = 5.0
"""For how long commands that people paste right behind ``serve &`` wait for the node."""
GLANCE_SECONDS: Final = 2.0
"""For how long those do that also look whether there is a node at all."""
START_SECONDS: Final = 30.0
"""And for how long all do, for one that is seen to start."""

P = ParamSpec("P")
R = TypeVar("R")
T = TypeVar("T")


class Failure(click.ClickException):
    """An error for the user: one line, exit 1."""


if TYPE_CHECKING:

    class Parameter(click.ParamType[T]):
        """The type of an argument or option, whose values are T."""

else:
    # Before 8.4 click's own class takes no type argument.
    class Parameter(click.ParamType, Generic[T]):
        """The type of an argument or option, whose values are T."""


class NetworkId(Parameter[str]):
    """A network id argument: 16 hexadecimal digits, given on in lower case."""

    name = "nwid"

    def convert(self, value: str, param: click.Parameter | None, ctx: click.Context | None) -> str:
        """See click.ParamType."""
        try:
            return format_nwid(parse_nwid(value.strip()))
        except ValueError as error:
            self.fail(str(error), param, ctx)

    def shell_complete(self, ctx: click.Context, _param: click.Parameter, incomplete: str) -> list[CompletionItem]:
        """See click.ParamType."""
        from ztnode.cli import completion

        return completion.networks(ctx, incomplete)


class Seconds(click.FloatRange):
    """A time in seconds, more than 0 or at least ``least``, at most a year: what is called for ever still fits the
    system's timers."""

    name = "number of seconds"

    def __init__(self, least: float = 0, most: float = 365 * 86400) -> None:
        super().__init__(min=least, min_open=not least, max=most)

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> float:
        """See click.ParamType. Not a number is neither below a bound nor above."""
        number = float(super().convert(value, param, ctx))
        if math.isnan(number):
            self.fail(f"{value!r} is not a number of seconds", param, ctx)
        return number


NWID = NetworkId()

SECONDS = Seconds()

EXISTING_FILE = click.Path(exists=True, dir_okay=False, readable=True, path_type=Path)
FILE = click.Path(dir_okay=False, path_type=Path)
DIRECTORY = click.Path(file_okay=False, path_type=Path)


def example(*lines: str) -> str:
    """An epilog of example commands, which click leaves as they are."""
    return "\b\nExample:\n" + "\n".join(f"  {line}" for line in lines)


def node_option(command: Callable[Concatenate[ztclient.Node, P], R]) -> Callable[P, R]:
    """Add ``--address`` and ``--state``, and call the command with the ztclient.Node that they name."""
    return node_option_with_patience(lambda _arguments: 0.0)(command)


def node_option_with_patience(
    patience: Callable[[dict[str, Any]], float],
) -> Callable[[Callable[Concatenate[ztclient.Node, P], R]], Callable[P, R]]:
    """As ``node_option``, for a command that waits ``patience`` seconds, given its arguments, for a node that is still
    starting."""
    return functools.partial(_with_node, patience=patience)


def _with_node(
    command: Callable[Concatenate[ztclient.Node, P], R], patience: Callable[[dict[str, Any]], float]
) -> Callable[P, R]:
    @click.option(
        "--address",
        "node_address",
        metavar="ADDR",
        help="The node's control address: unix:PATH, tcp://IP:PORT (token in ZTNODE_TOKEN or ZTNODE_TOKEN_FILE) or "
        "tls://HOST:PORT (authority in ZTNODE_CA_FILE). [env: ZTNODE_ADDRESS]",
    )
    @click.option(
        "--state",
        "node_state",
        metavar="DIR",
        type=DIRECTORY,
        help="The state directory of the node. Without it and --address: your running node. [env: ZTNODE_STATE]",
    )
    @functools.wraps(command)
    def with_node(*args: P.args, **kwargs: P.kwargs) -> R:
        address, state = kwargs.pop("node_address"), kwargs.pop("node_state")
        assert address is None or isinstance(address, str)
        assert state is None or isinstance(state, Path)
        if address is not None and state is not None:
            raise click.UsageError("give --address or --state, not both")
        try:
            node = _find(address, state, patience(kwargs))
        except ValueError as error:
            raise click.UsageError(str(error)) from None
        return command(node, *args, **kwargs)

    return with_node


def _find(address: str | None, state: Path | None, patience: float) -> ztclient.Node:
    """The node; waited for ``patience`` seconds where it is not there yet, and longer where it is seen to start. Raises
    ValueError, ztclient.NodeUnavailableError."""
    import ztclient
    from ztnode.cli.progress import Progress

    if state is None and address is None and (named := os.environ.get("ZTNODE_STATE")):
        state = Path(named)
    began = time.monotonic()
    told = False

    def over() -> bool:
        waited = time.monotonic() - began
        return waited >= (patience if state is None or not _is_taken(state) else max(patience, START_SECONDS))

    with contextlib.ExitStack() as waiting:
        while True:
            try:
                node = ztclient.Node(address, state=state)
                if _answers(node.address) or over():
                    return node
            except ztclient.NodeUnavailableError as error:
                # Among several nodes only the user can choose.
                if error.errno == errno.EINVAL or over():
                    raise
            if not told:
                told = True
                waiting.enter_context(Progress("waiting for a node to start"))
            time.sleep(0.1)


def _is_taken(state: Path) -> bool:
    """Whether a process holds the lock of a state directory: a node that does not answer yet is starting, perhaps with
    an identity to make. Looks without taking the lock, which would keep the node out; only Linux shows it that way."""
    try:
        inode = (state / LOCK).stat().st_ino
        held = Path("/proc/locks").read_text().splitlines()
    except OSError:
        return False
    return any(line.split()[-3].endswith(f":{inode}") for line in held if " FLOCK " in line)


def _answers(address: str) -> bool:
    """Whether somebody listens there; what only a call could tell counts as yes."""
    scheme, _, path = address.partition(":")
    if scheme != "unix":
        return True
    with socket.socket(socket.AF_UNIX) as probe:
        return probe.connect_ex(path) == 0


json_option = click.option("--json", "as_json", is_flag=True, help="Print JSON.")


def print_json(value: Any) -> None:
    """Print a value as JSON: dataclasses become objects, enums their values, paths and bytes text."""
    click.echo(json.dumps(value, default=_plain, indent=2, ensure_ascii=False))


def _plain(value: Any) -> Any:
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {field.name: getattr(value, field.name) for field in dataclasses.fields(value)}
    if isinstance(value, enum.Enum):
        return value.value
    if isinstance(value, Path):
        return str(value)
    if isinstance(value, bytes):
        return value.hex()
    raise TypeError(f"{type(value).__name__} has no form in JSON")


def print_table(columns: Sequence[str], rows: Iterable[Sequence[object]], *, empty: str) -> None:
    """Print rows under headings, as wide as they need to be, on a terminal no wider than that; ``empty`` goes to stderr
    when there are none."""
    texts = [["" if cell is None else printable(str(cell)) for cell in row] for row in rows]
    if not texts:
        click.echo(empty, err=True)
        return
    # A pipe has no width, and what reads it wants one line a row.
    terminal = sys.stdout.isatty()
    table = lay_out(columns, texts, shutil.get_terminal_size().columns if terminal else None)
    for line in table.headings:
        click.secho(line, bold=True)
    if terminal:
        click.echo(("─" if shows("─", sys.stdout) else "-") * table.width)
    for line in table.rows:
        click.echo(line)


def print_fields(fields: Iterable[tuple[str, object]]) -> None:
    """Print names and values, one pair a line; pairs without a value are left out."""
    known = [(name, printable(str(value))) for name, value in fields if value not in (None, "", ())]
    width = max((len(name) for name, _ in known), default=0)
    for name, value in known:
        click.echo(f"{name:<{width}}  {value}")


def write_new(path: Path, content: bytes, *, secret: bool = False, replace: bool = False) -> None:
    """Write a file whole or not at all; a ``secret`` one for its owner alone. Raises Failure where it exists and is not
    to be replaced, OSError."""
    taken = Failure(f"{path} exists already and is left as it is")
    if path.exists() and not replace:
        raise taken
    try:
        write_atomically(path, content, mode=0o600 if secret else 0o644, replace=replace)
    except FileExistsError:
        raise taken from None


def describe(error: BaseException) -> str:
    """One line on an exception, for the user."""
    if isinstance(error, OSError) and error.strerror:
        text = f"{error.filename}: {error.strerror}" if error.filename is not None else error.strerror
    else:
        text = str(error) or type(error).__name__
    return printable(" ".join(text.split()))


def standard_output() -> IO[bytes]:
    """stdout for bytes."""
    return sys.stdout.buffer
