"""rules and controller rules: what may pass on a network, in the language in which administrators write it."""

from __future__ import annotations

import functools
import operator
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

import ztclient
from ztnode.cli.common import NWID, Failure, example, json_option, node_option, print_fields, print_json
from ztnode.cli.printable import printable

if TYPE_CHECKING:
    from ztclient.controller import ControllerNetwork
    from ztnode.rules_language import CompiledRules
    from ztnode.wire.rules import Rule

MAX_FILE = 1 << 20
"""Bytes."""
_LETS_PASS = ("ACTION_ACCEPT", "ACTION_REDIRECT")
SOURCE_FILE = click.Path(exists=True, dir_okay=False, readable=True, allow_dash=True, path_type=Path)


@click.command(short_help="Show what may pass on a network.", epilog=example("ztnode rules 9ad07d01093a69e3"))
@click.argument("nwid", type=NWID)
@json_option
@node_option
def rules(node: ztclient.Node, nwid: str, as_json: bool) -> None:
    """Show the rules of the network NWID that are in force at this node, with its own capabilities and tags, in the
    language of `ztnode controller rules`."""
    from ztnode.rules_language import decompile, parse_tables

    found = node.rules(nwid)
    if as_json:
        print_json(found)
        return
    carried = "".join(f"# This node carries the tag {tag} with the value {value}.\n" for tag, value in found.tags)
    tags = [(tag, None) for tag, _ in found.tags]
    text = decompile(parse_tables(found.rules), _capabilities(found.capabilities), tags)
    click.echo(carried + text, nl=False)


@click.command(
    "rules",
    short_help="Show or set what may pass on a network.",
    epilog=example(
        "ztnode controller rules 778cde71900a69e3 > rules.ztrules",
        "ztnode controller rules 778cde71900a69e3 --file rules.ztrules --check",
        "ztnode controller rules 778cde71900a69e3 --file rules.ztrules",
    ),
)
@click.argument("nwid", type=NWID)
@click.option(
    "--file",
    "path",
    type=SOURCE_FILE,
    metavar="FILE",
    help="Set the rules, capabilities and tags to those of this text; -: standard input.",
)
@click.option("--check", is_flag=True, help="With --file: say what it comes to, and set nothing.")
@json_option
@node_option
def controller_rules(node: ztclient.Node, nwid: str, path: Path | None, check: bool, as_json: bool) -> None:
    """Without --file, show the rules of the network NWID with its capabilities and tags: the text that they were set
    from, or where there is none, or another program has changed them since, one that compiles to them. The language is
    that of ZeroTier's rule compiler: see docs/RULES.md."""
    from ztclient.controller import Controller
    from ztnode.rules_language import RulesError, compile_rules

    controller = Controller(node)
    if path is None:
        if check:
            raise click.UsageError("--check belongs to --file")
        _show(controller.network(nwid), as_json)
        return
    source = _read(path)
    try:
        compiled = compile_rules(source)
    except RulesError as error:
        raise Failure(f"{path}:{error.line}:{error.column}: {printable(error.message)}") from None
    if not check:
        controller.update_network(
            nwid,
            rules=compiled.rules,
            capabilities=compiled.capabilities,
            tags=[(tag["id"], tag["default"]) for tag in compiled.tags],
            rules_source=source,
        )
    _print_compiled(compiled, as_json)
    tables = [compiled.rules, *(each["rules"] for each in compiled.capabilities)]
    if not any(rule["type"] in _LETS_PASS for table in tables for rule in table):
        click.echo("ztnode: no statement accepts, so nothing passes: `accept;` at the end lets the rest pass", err=True)


class RuleNames:
    """The tags and capabilities that a network's rules define. Both methods raise click.UsageError."""

    def __init__(self, source: str) -> None:
        """``source``: the text of the rules, empty where there is none."""
        from ztnode.rules_language import RulesError, compile_rules

        try:
            compiled = compile_rules(source)
        except RulesError:  # it was made for another compiler: numbers do all the same
            compiled = compile_rules("")
        self._tags = compiled.tags_by_name
        self._capabilities = compiled.capabilities_by_name

    def capability(self, text: str) -> int:
        """Its number."""
        return _number(text, self._capabilities, "capability")

    def tag(self, text: str) -> tuple[int, int]:
        """``TAG=VALUE`` as numbers."""
        name, equals, value = text.partition("=")
        if not equals:
            raise click.UsageError(f"{text!r} is not of the form TAG=VALUE")
        tag = self._tags.get(name)
        number = _number(name, {each: defined.id for each, defined in self._tags.items()}, "tag")
        what = f"value of the tag {name}"
        if tag is None or "," not in value:
            return number, _number(value, {} if tag is None else {**tag.enums, **tag.flags}, what)
        mask = 0
        for flag in value.split(","):
            mask |= _number(flag, tag.flags, f"flag of the tag {name}")
        return number, mask

    def shown_capability(self, number: int) -> str:
        """Its name, the number alone where it has none."""
        return next((name for name, each in self._capabilities.items() if each == number), str(number))

    def shown_tag(self, number: int, value: int) -> str:
        """As ``tag`` takes it, as far as there are names."""
        name, tag = next(((name, tag) for name, tag in self._tags.items() if tag.id == number), (str(number), None))
        if tag is None:
            return f"{name}={value}"
        flags = [flag for flag, mask in tag.flags.items() if mask & value == mask]
        word = next((word for word, each in tag.enums.items() if each == value), None)
        if word is None and flags and functools.reduce(operator.or_, (tag.flags[flag] for flag in flags)) == value:
            word = ",".join(flags)
        return f"{name}={value if word is None else word}"


def _number(text: str, names: Mapping[str, int], what: str) -> int:
    if text in names:
        return names[text]
    if text.isascii() and text.isdecimal():
        return int(text)
    known = f"; there are {', '.join(names)}" if names else ""
    raise click.UsageError(f"{text!r} is neither a number nor the name of a {what}{known}")


def _read(path: Path) -> str:
    data = sys.stdin.buffer.read(MAX_FILE + 1) if str(path) == "-" else _bytes(path)
    if len(data) > MAX_FILE:
        raise Failure(f"{path} is longer than {MAX_FILE} bytes")
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise Failure(f"{path} is not UTF-8: {error.reason} at byte {error.start}") from None


def _bytes(path: Path) -> bytes:
    with path.open("rb") as file:
        return file.read(MAX_FILE + 1)


def _show(network: ControllerNetwork, as_json: bool) -> None:
    if as_json:
        print_json(
            {
                "rules": network.rules,
                "capabilities": network.capabilities,
                "tags": [{"id": tag, "default": default} for tag, default in network.tags],
                "source": network.rules_source,
            }
        )
    else:
        from ztnode.rules_language import current_text, parse_tables

        rules, capabilities = parse_tables(network.rules), _capabilities(network.capabilities)
        click.echo(current_text(network.rules_source, rules, capabilities, network.tags), nl=False)


def _capabilities(table: Sequence[Mapping[str, Any]]) -> list[tuple[int, bool, list[Rule]]]:
    from ztnode.rules_language import parse_tables

    return [(each["id"], each.get("default", False), parse_tables(each["rules"])) for each in table]


def _print_compiled(compiled: CompiledRules, as_json: bool) -> None:
    if as_json:
        print_json(
            {
                **compiled.config(),
                "capabilitiesByName": dict(compiled.capabilities_by_name),
                "tagsByName": {
                    name: {"id": tag.id, "default": tag.default, "enums": dict(tag.enums), "flags": dict(tag.flags)}
                    for name, tag in compiled.tags_by_name.items()
                },
            }
        )
        return
    print_fields(
        (
            ("rules", len(compiled.rules)),
            (
                "capabilities",
                ", ".join(f"{name} = {number}" for name, number in compiled.capabilities_by_name.items()),
            ),
            ("tags", ", ".join(f"{name} = {tag.id}" for name, tag in compiled.tags_by_name.items())),
        )
    )
