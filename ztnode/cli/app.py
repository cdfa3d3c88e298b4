"""The list of commands, and what happens to whatever they raise."""

from __future__ import annotations

import importlib
import os
import sys
import traceback
from collections.abc import Sequence

import click

from ztnode import __version__
from ztnode.cli.common import describe, example
from ztnode.cli.exit_codes import INTERRUPTED, PIPE_CLOSED
from ztnode.cli.interrupts import ended_by_interrupt
from ztnode.cli.printable import printable

COMMANDS = {
    "serve": "ztnode.cli.serve_command:serve",
    "config": "ztnode.cli.config_command:config",
    "join": "ztnode.cli.network_commands:join",
    "leave": "ztnode.cli.network_commands:leave",
    "networks": "ztnode.cli.network_commands:networks",
    "ips": "ztnode.cli.network_commands:ips",
    "peers": "ztnode.cli.network_commands:peers",
    "connections": "ztnode.cli.network_commands:connections",
    "whois": "ztnode.cli.network_commands:whois",
    "rules": "ztnode.cli.rules_commands:rules",
    "resolve": "ztnode.cli.network_commands:resolve",
    "status": "ztnode.cli.network_commands:status",
    "top": "ztnode.cli.top_command:top",
    "doctor": "ztnode.cli.doctor_command:doctor",
    "orbit": "ztnode.cli.moon_commands:orbit",
    "deorbit": "ztnode.cli.moon_commands:deorbit",
    "moons": "ztnode.cli.moon_commands:moons",
    "ping": "ztnode.cli.ping_command:ping",
    "call": "ztnode.cli.call_command:call",
    "exec": "ztnode.cli.exec_command:execute",
    "forward": "ztnode.cli.forward_commands:forward",
    "expose": "ztnode.cli.forward_commands:expose",
    "serve-http": "ztnode.cli.serve_http_command:serve_http",
    "nc": "ztnode.cli.nc_command:nc",
    "proxy": "ztnode.cli.proxy_command:proxy",
    "gateway": "ztnode.cli.gateway_command:gateway",
    "capture": "ztnode.cli.capture_command:capture",
    "identity": "ztnode.cli.identity_command:identity",
    "store": "ztnode.cli.store_commands:store",
    "world": "ztnode.cli.world_command:world",
    "controller": "ztnode.cli.controller_commands:controller",
    "demo": "ztnode.cli.demo_command:demo",
}
"""Name of each command, and where it is: imported when it is needed."""

ALIASES = {"info": "status", "listnetworks": "networks", "listpeers": "peers", "listmoons": "moons"}
"""What users of zerotier-cli type."""


class OutputClosed(Exception):
    """What reads our output wants no more of it."""


class Commands(click.Group):
    """A group that imports a command's module only when the command is asked for."""

    def list_commands(self, _ctx: click.Context) -> list[str]:
        """See click.Group; in the order of COMMANDS."""
        return list(COMMANDS)

    def get_command(self, _ctx: click.Context, cmd_name: str) -> click.Command | None:
        """See click.Group."""
        where = COMMANDS.get(ALIASES.get(cmd_name, cmd_name))
        if where is None:
            return None
        module, _, name = where.partition(":")
        with ended_by_interrupt():
            command = getattr(importlib.import_module(module), name)
        assert isinstance(command, click.Command)
        return command

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        """See click.Group, which knows no near names of commands that are not imported."""
        try:
            return super().resolve_command(ctx, args)
        except click.UsageError as error:
            import difflib  # not needed where all is well

            near = difflib.get_close_matches(args[0], COMMANDS, n=1)
            if not near:
                raise
            text = error.format_message().removesuffix(".")
            raise click.UsageError(f"{text}; did you mean {near[0]!r}?", ctx) from None

    def invoke(self, ctx: click.Context) -> object:
        """See click.Group. click would take a BrokenPipeError for exit code 1."""
        try:
            result: object = super().invoke(ctx)
            sys.stdout.flush()
            return result
        except BrokenPipeError:
            raise OutputClosed from None


@click.group(
    cls=Commands,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
    epilog=example(
        "ztnode serve --state ./st --join 9ad07d01093a69e3 &",
        "ztnode join 9ad07d01093a69e3 --wait 60",
        "ztnode call http://10.121.15.99:5380/",
    ),
)
@click.version_option(__version__, package_name="ztnode", message="%(prog)s %(version)s")
def cli() -> None:
    """A ZeroTier node in pure Python: joins a network and opens TCP connections over it, without root rights."""


def run(arguments: Sequence[str]) -> int:
    """Run one command line; returns the exit code."""
    try:
        # With standalone_mode off, click gives an exit code for --help and --version, and what the command returned
        # (None) otherwise.
        return cli.main(args=list(arguments), prog_name="ztnode", standalone_mode=False) or 0
    except BaseException as error:
        return _report(error)


def _report(error: BaseException) -> int:
    """Print what ended a command; returns the exit code."""
    if os.environ.get("ZTNODE_DEBUG") and not isinstance(error, SystemExit | click.exceptions.Exit):
        traceback.print_exception(error)
    match error:
        case SystemExit():
            return error.code if isinstance(error.code, int) else int(error.code is not None)
        case click.exceptions.Exit():
            return error.exit_code
        case click.Abort() | KeyboardInterrupt():
            return INTERRUPTED
        case click.exceptions.NoArgsIsHelpError():
            click.echo(error.ctx.get_help() if error.ctx is not None else "", err=True)
            return 2
        case click.UsageError():
            path = error.ctx.command_path if error.ctx is not None else "ztnode"
            _complain(f"{path}: {_sentence(error.format_message())}; try {path} --help")
            return 2
        case click.ClickException():
            _complain(f"ztnode: {_sentence(error.format_message())}")
            return error.exit_code
        case OutputClosed():
            # Python would complain once more when it flushes stdout at exit.
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            return PIPE_CLOSED
        case OSError() | ValueError():
            _complain(f"ztnode: {describe(error)}")
            return 1
        case _ if type(error).__module__.partition(".")[0] in ("ztnode", "ztclient"):
            # An exception of ours has one line for the user.
            _complain(f"ztnode: {describe(error)}")
            return 1
        case _:
            _complain(f"ztnode: {type(error).__name__}: {describe(error)}; ZTNODE_DEBUG=1 shows where")
            return 1


def _sentence(text: str) -> str:
    return printable(" ".join(text.split())).removesuffix(".")


def _complain(line: str) -> None:
    click.echo(line, err=True)
