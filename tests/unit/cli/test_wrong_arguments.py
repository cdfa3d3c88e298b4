"""Every command, whatever is wrong with its arguments: one line on stderr that begins with the command, and exit 2."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import click
import pytest

from tests.unit.fake_node import NWID, RunningNode
from ztnode.cli.app import cli, run

NETWORK = f"{NWID:016x}"
GOOD = {
    "nwid": NETWORK,
    "address": "9ad07d0109",
    "url": "http://10.121.15.99/",
    "local": "8080",
    "remote": "10.121.15.99:80",
    "overlay": "80",
    "where": "80",
    "ip": "10.121.15.99",
    "host": "10.121.15.99",
    "name": "db.lab.example",
    "targets": "192.168.55.0/24",
    "source": "x",
    "file": "f",
    "moon": "000000deadbeef00",
    "seed": "9ad07d0109",
}
"""A right value for each argument."""


def leaves(group: click.Group, path: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], click.Command]]:
    context = click.Context(group)
    for name in group.list_commands(context):
        command = group.get_command(context, name)
        assert command is not None
        if isinstance(command, click.Group):
            yield from leaves(command, (*path, name))
        else:
            yield (*path, name), command


COMMANDS = dict(leaves(cli))


def arguments_of(command: click.Command) -> list[str]:
    found = [GOOD[str(each.name)] for each in command.params if isinstance(each, click.Argument)]
    for option in command.params:
        if isinstance(option, click.Option) and option.required:
            found += [option.opts[0], "x"]
    return found


def wrong() -> Iterator[Any]:
    for path, command in COMMANDS.items():
        name = " ".join(path)
        if name == "exec":  # what follows belongs to the program, which would take this one's place
            yield pytest.param([*path], id=f"{name}: nothing")
            continue
        right = arguments_of(command)
        yield pytest.param([*path, *right, "--no-such-option"], id=f"{name}: unknown option")
        yield pytest.param([*path, *right, "one-too-many"], id=f"{name}: one too many")
        if any(each.required for each in command.params):
            yield pytest.param([*path], id=f"{name}: nothing")
        for option in command.params:
            if not isinstance(option, click.Option) or option.is_flag or option.count:
                continue
            yield pytest.param([*path, *right, option.opts[0]], id=f"{name}: {option.opts[0]} without value")
            if isinstance(option.type, click.types.IntParamType | click.types.FloatParamType | click.Choice):
                for value in ("", "x", "-1", "1e999", "nan", "99999999999999999999", "\N{SUPERSCRIPT TWO}"):
                    if value in UNBOUNDED.get(option.opts[0], ()):
                        continue
                    yield pytest.param([*path, *right, option.opts[0], value], id=f"{name}: {option.opts[0]} {value!r}")
        for index, argument in enumerate(each for each in command.params if isinstance(each, click.Argument)):
            for value in BAD.get(str(argument.name), ()):
                given = [*right[:index], value, *right[index + 1 :]]
                yield pytest.param([*path, *given], id=f"{name}: {argument.name} {value[:30]!r}")


UNBOUNDED = {"--id": ("-1", "99999999999999999999")}
"""Any number is a number; what it means is for the command to say."""

BAD = {
    "nwid": (
        "",
        "xyz",
        "0" * 16,
        NETWORK[:-1],
        NETWORK + "0",
        "0x" + NETWORK[2:],
        "\N{ARABIC-INDIC DIGIT ONE}" * 16,
        "-1",
    ),
    "address": ("", "xyz", "9ad07d010", "9ad07d01090"),
    "moon": ("", "xyz", "0", "0" * 17, "-1"),
    "seed": ("", "xyz", "9ad07d010", "9ad07d01090", "0" * 10),
    "url": (
        "",
        "x",
        "http://",
        "http://[::1/",
        "http://10.1.2.3:x/",
        "http://10.1.2.3/\n",
        "file:///x",
    ),
    "local": ("", "x", "1:x", ":", "70000", "-1:80"),
    "remote": ("", "x", "80", "10.1.2.3", "10.1.2.3:70000", "10.1.2:80", ":80"),
    "overlay": ("", "x", "example.com:80", "10.1.2.3:70000"),
    "where": ("", "x", "70000"),
    "ip": ("", "x", "example.com", "10.1.2"),
}


@pytest.mark.parametrize("arguments", list(wrong()))
def test_wrong_usage_is_one_line_and_exit_2(
    running_node: RunningNode,
    arguments: list[str],
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("ZTNODE_STATE")
    monkeypatch.setenv("ZTNODE_ADDRESS", running_node.addresses[0])
    (tmp_path / "f").write_text("x")
    code = run(arguments)
    captured = capsys.readouterr()
    assert (code, captured.out) == (2, ""), captured.err
    assert captured.err.startswith("ztnode") and captured.err.count("\n") == 1, captured.err
    assert "; try ztnode " in captured.err


@pytest.mark.parametrize(
    ("arguments", "code", "said"),
    [
        (["expose", "--forwarded-for", "-R", "udp:53:127.0.0.1:53"], 2, "carries datagrams"),
        (["serve", "--forwarded-for", "-R", "udp:53:127.0.0.1:53"], 2, "carries datagrams"),
        (["join", "0" * 16], 2, "not a network id"),
        (["serve-http", ".", "--cert", "f"], 1, "f should hold a certificate chain with its private key"),
        (["serve-http", ".", "--cert", "f", "--key", "f"], 1, "and f its private key"),
    ],
)
def test_what_can_not_be_meant_says_why(
    running_node: RunningNode,
    arguments: list[str],
    code: int,
    said: str,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "f").write_text("x")
    assert run(arguments) == code
    err = capsys.readouterr().err
    assert said in err and err.count("\n") == 1, err


def test_nothing_that_a_node_may_say_back_breaks_a_command(
    running_node: RunningNode, capsys: pytest.CaptureFixture[str]
) -> None:
    """A network's name is its controller's choice; control characters in it must not reach a terminal as such."""
    info = running_node.node.known[NWID]
    hostile = "\x1b]0;owned\x07\x1b[2J\r\n\u202edrow\0"
    running_node.node.known[NWID] = dataclasses.replace(info, name=hostile, detail=hostile)
    assert run(["networks"]) == 0
    out = capsys.readouterr().out
    assert not set(out) & set("\x1b\x07\r\0\u202e") and len(out.splitlines()) == 2
    for command in (["join", NETWORK, "--wait", "5"], ["status"]):
        assert run(command) == 0
        captured = capsys.readouterr()
        assert not set(captured.out + captured.err) & set("\x1b\x07\r\0\u202e")
    assert run(["networks", "--json"]) == 0
    (network,) = json.loads(capsys.readouterr().out)
    assert network["name"] == hostile
