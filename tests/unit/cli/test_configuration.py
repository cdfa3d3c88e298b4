"""Options by command line, environment and file: which comes first, and what is refused."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import click
import pytest

from ztnode.cli.app import run
from ztnode.cli.option_sources import settings
from ztnode.cli.serve_command import serve

NETWORK = "9ad07d01093a69e3"


@pytest.fixture(autouse=True)
def plain_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for option in settings(serve).values():
        assert isinstance(option.envvar, str)
        monkeypatch.delenv(option.envvar, raising=False)


def parsed(*arguments: str) -> dict[str, Any]:
    with serve.make_context("ztnode serve", list(arguments)) as ctx:
        return ctx.params


def file(directory: Path, text: str) -> str:
    path = directory / "ztnode.toml"
    path.write_text(text)
    return str(path)


def test_command_line_before_environment_before_file_before_default(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = file(tmp_path, 'state = "a"\nworkers = 2\nlog-level = "debug"\nport = 7\nroot = true\n')
    monkeypatch.setenv("ZTNODE_WORKERS", "3")
    monkeypatch.setenv("ZTNODE_LOG_LEVEL", "warning")
    found = parsed("--config", config, "--log-level", "error")
    assert (found["log_level"], found["workers"], found["port"], found["root"]) == ("error", 3, 7, True)
    assert found["state"] == Path("a") and found["congestion"] == "cubic"
    monkeypatch.setenv("ZTNODE_CONFIG", config)
    assert parsed()["port"] == 7


def test_every_option_has_a_variable_and_a_key(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """None is forgotten, none shares a variable, and each is read."""
    options = settings(serve)
    named = {option for option in serve.params if isinstance(option, click.Option)}
    assert {option.name for option in named - set(options.values())} == {"as_json", "config", "isolated"}
    variables = [option.envvar for option in options.values()]
    assert len(set(variables)) == len(variables)
    existing = tmp_path / "file"
    existing.write_text("x:y")
    samples: dict[str, object] = {
        "tls-cert": existing,
        "tls-key": existing,
        "client-ca": existing,
        "proxy-credentials": existing,
        "store-key": existing,
        "identity-secret": existing,
    }
    samples |= {"join": f"{NETWORK} 8056c2e21c000001", "proxy": "1080", "log": "ztnode.vl1=debug", "sso-listen": "8443"}
    samples |= {"forward": "80:10.0.0.1:80", "expose": "80:127.0.0.1:80", "proxy-protocol": "2"}
    samples |= {"log-level": "debug", "log-format": "json", "congestion": "bbr", "trusted-path": "10.0.0.0/24=25"}
    samples |= {"gateway": "192.168.55.0/24 10.9.0.0/16", "gateway-except": "10.9.8.0/24"}
    samples |= {
        "tcp-relay": "force=192.0.2.1:443",
        "tcp-relay-listen": "4443",
        "outer-proxy": "socks5://192.0.2.1:1080",
        "fail-over-after": "30",
    }
    for key, option in options.items():
        assert isinstance(option.envvar, str)
        number = option.type.max if isinstance(option.type, click.IntRange) else "word"
        monkeypatch.setenv(option.envvar, "yes" if option.is_flag else str(samples.get(key, number)))
    found = parsed()
    assert found["networks"] == (NETWORK, "8056c2e21c000001")
    assert all(found[option.name or ""] not in (None, (), False) for option in options.values())


def test_what_others_put_into_the_environment_is_not_ours(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Kubernetes beside a service called ztnode; clients that find their token by file."""
    monkeypatch.setenv("ZTNODE_PORT", "tcp://10.96.0.7:7447")
    monkeypatch.setenv("ZTNODE_SERVICE_HOST", "10.96.0.7")
    monkeypatch.setenv("ZTNODE_TOKEN_FILE", str(tmp_path / "token"))
    assert run(["config", "check", file(tmp_path, 'state = "a"')]) == 0


def test_the_file_in_the_documentation_is_taken(tmp_path: Path) -> None:
    text = (Path(__file__).parents[3] / "docs/OPERATING.md").read_text()
    example = text.partition('title="ztnode.toml"\n')[2].partition("```")[0]
    assert run(["config", "check", file(tmp_path, example)]) == 0


def test_a_node_that_a_program_starts_is_not_the_users_own(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("ZTNODE_CONFIG", file(tmp_path, "workers = 7"))
    monkeypatch.setenv("ZTNODE_ROOT", "1")
    found = parsed("--isolated", "--state", "a")
    assert (found["workers"], found["root"]) == (1, False)


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ('joni = ["x"]', "did you mean 'join'"),
        ("zzzzzz = 1", "there is no option 'zzzzzz'"),
        ('join = ["short"]', "short"),
        ('root = "yes"', "root: true or false"),
        ("join = [[1]]", "join: [1] is neither text nor a number"),
        ("workers = 0", "ztnode.toml: workers"),
        ('port = "abc"', "ztnode.toml: port"),
        ("prot = 1", "'port'"),
        ('listen = "0.0.0.0:9000"', "beyond loopback"),
        ('api = "0.0.0.0:9000"', "beyond loopback"),
        ("state = {}", "state"),
        ("[state]\nx = 1", "state"),
        ("state = ", "ztnode.toml"),
        ('config = "other.toml"', "no option 'config'"),
        ('tls-cert = "{there}"', "belong to --listen"),
        ("proxy-direct = true", "belong to --proxy"),
        ("x" * 2_000_000, "too large"),
        ("state = " + "[" * 100_000, "ztnode.toml"),
        ("\ud800", "ztnode.toml"),
    ],
)
def test_what_is_wrong_is_named_in_one_line(
    text: str, complaint: str, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ZTNODE_STATE", "a")
    path = tmp_path / "ztnode.toml"
    path.write_bytes(text.replace("{there}", str(path)).encode(errors="surrogatepass"))
    for command in (["config", "check", str(path)], ["serve", "--config", str(path)]):
        assert run(command) == 2
        error = capsys.readouterr().err
        assert complaint in error and error.count("\n") == 1


def test_what_was_set_is_shown_with_where_it_was(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ZTNODE_ROOT", "1")
    config = file(tmp_path, f'state = "a"\njoin = "{NETWORK}"\nforward = ["5432:10.121.15.7:5432"]\n')
    assert run(["config", "check", config, "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["root"] == {"value": True, "source": "environment"}
    assert found["join"] == {"value": NETWORK, "source": "file"}
    assert "10.121.15.7" in found["forward"]["value"] and "workers" not in found
    assert run(["config", "check", config]) == 0
    assert NETWORK in capsys.readouterr().out
