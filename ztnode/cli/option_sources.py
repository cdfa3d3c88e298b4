"""Options that can be given by environment and by a TOML file too.

What is given on the command line comes first, then the environment, then the file, then the default (click's order).
A key of the file is the long name of an option, without its dashes in front: ``join = ["9ad07d01093a69e3"]``,
``log-level = "debug"``, ``root = true``. Its variable is that name with ZTNODE_ before it: ZTNODE_LOG_LEVEL. An option
that may be given several times is a list in the file and words with spaces between them in the environment.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

import click

from ztnode.cli import given_secrets
from ztnode.cli.common import EXISTING_FILE, describe

CONFIG: Final = "config"
"""The option that names the file."""
_CONFIG_VARIABLE: Final = "ZTNODE_CONFIG"
_ARGUMENTS: Final = "ztnode.arguments"
MAX_FILE_BYTES: Final = 1 << 20

_VARIABLES: Final = {
    # Kubernetes sets ZTNODE_PORT=tcp://... beside a service called ztnode; primaryPort is ZeroTier's own word.
    "port": "ZTNODE_PRIMARY_PORT",
    # Without _FILE it is the credentials themselves.
    "proxy-credentials": "ZTNODE_PROXY_CREDENTIALS_FILE",
    "identity-secret": "ZTNODE_IDENTITY_SECRET_FILE",
    "store-key": "ZTNODE_STORE_KEY_FILE",
}
_UNSETTABLE: Final = {CONFIG, "help", "isolated", "json"}
"""What says how one call goes, not how the node is."""


class ConfigurableCommand(click.Command):
    """A command with ``--config FILE``, whose every option has a variable."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """See click.Command."""
        ctx.meta[_ARGUMENTS] = tuple(args)
        return super().parse_args(ctx, args)

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        for key, option in settings(self).items():
            option.envvar = _VARIABLES.get(key, "ZTNODE_" + key.upper().replace("-", "_"))
            option.show_envvar = True
        self.params.append(
            click.Option(
                ["--isolated"], is_flag=True, is_eager=True, expose_value=False, hidden=True, callback=_isolate
            )
        )
        self.params.append(
            click.Option(
                [f"--{CONFIG}"],
                type=EXISTING_FILE,
                metavar="FILE",
                envvar=_CONFIG_VARIABLE,
                show_envvar=True,
                is_eager=True,
                expose_value=False,
                callback=_load,
                help="Options in TOML: keys are their long names. The command line and the environment come first.",
            )
        )


def read_again(ctx: click.Context) -> dict[str, Any]:
    """The parameters of a command that runs, from the same arguments and what environment and file say now. Raises
    click.ClickException."""
    with ctx.command.make_context(ctx.info_name, list(ctx.meta[_ARGUMENTS]), parent=ctx.parent) as fresh:
        return fresh.params


def settings(command: click.Command) -> dict[str, click.Option]:
    """The options that a file can set, by key."""
    found = {}
    for option in command.params:
        if isinstance(option, click.Option):
            key = next((name[2:] for name in option.opts if name.startswith("--")), "")
            if key and key not in _UNSETTABLE:
                found[key] = option
    return found


def given(ctx: click.Context, name: str) -> bool:
    """Whether somebody set a parameter for this command: in the environment, a variable may be there for others."""
    return ctx.get_parameter_source(name) in (
        click.core.ParameterSource.COMMANDLINE,
        click.core.ParameterSource.DEFAULT_MAP,
    )


def read(path: Path, command: click.Command) -> dict[str, Any]:
    """The values of a file for click's ``default_map``. Raises click.UsageError that names what is wrong and where."""
    import tomllib  # most have no file

    try:
        with path.open("rb") as file:
            content = file.read(MAX_FILE_BYTES + 1)
        if len(content) > MAX_FILE_BYTES:
            raise ValueError("too large for a configuration")
        table = tomllib.loads(content.decode())
    except (OSError, ValueError, RecursionError) as error:  # TOMLDecodeError, UnicodeDecodeError are ValueErrors
        raise click.UsageError(f"{path}: {describe(error)}") from error
    options = settings(command)
    values: dict[str, Any] = {}
    for key, value in table.items():
        option = options.get(key)
        if option is None:
            import difflib  # not needed where all is well

            close = difflib.get_close_matches(key, options, 2)
            meant = f"; did you mean {' or '.join(map(repr, close))}" if close else f"; there are {', '.join(options)}"
            raise click.UsageError(f"{path}: there is no option {key!r}{meant}")
        assert option.name is not None
        try:
            values[option.name] = _plain(value, option)
            option.type_cast_value(click.Context(command), values[option.name])
        except ValueError as error:
            raise click.UsageError(f"{path}: {key}: {error}") from None
        except click.BadParameter as error:
            raise click.UsageError(f"{path}: {key}: {error.message}") from None
    return values


def effective(ctx: click.Context) -> Iterator[tuple[str, Any, str]]:
    """Each key with its value and where that comes from: command line, environment, file or default."""
    words = {
        click.core.ParameterSource.COMMANDLINE: "command line",
        click.core.ParameterSource.ENVIRONMENT: "environment",
        click.core.ParameterSource.DEFAULT_MAP: "file",
    }
    for key, option in settings(ctx.command).items():
        assert option.name is not None
        source = ctx.get_parameter_source(option.name)
        yield key, ctx.params.get(option.name), words.get(source, "default") if source is not None else "default"


def _isolate(ctx: click.Context, _param: click.Parameter, wanted: bool) -> None:
    """For a node that a program of ours starts: the command line alone counts."""
    if wanted:
        for option in settings(ctx.command).values():
            assert isinstance(option.envvar, str)
            os.environ.pop(option.envvar, None)
        for variable in (_CONFIG_VARIABLE, *given_secrets.VARIABLES):
            os.environ.pop(variable, None)


def _load(ctx: click.Context, _param: click.Parameter, path: Path | None) -> None:
    if path is not None:
        ctx.default_map = read(path, ctx.command)


def _plain(value: Any, option: click.Option) -> Any:
    """A TOML value as the command line would have it: text, which the option's own type reads."""
    if option.is_flag:
        if not isinstance(value, bool):
            raise ValueError("true or false")
        return value
    if option.multiple:
        entries = value if isinstance(value, list) else [value]
        return [_text(entry) for entry in entries]
    return _text(value)


def _text(value: Any) -> str:
    if isinstance(value, bool) or not isinstance(value, str | int | float):
        raise ValueError(f"{value!r:.60} is neither text nor a number")
    return str(value)
