"""Every command against a fake node: what it prints, as text and as JSON, and how it ends."""

from __future__ import annotations

import errno
import http.server
import io
import json
import os
import signal
import socket
import ssl
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import click
import pytest

from tests.unit.fake_node import IP, NWID, RunningNode, asking, configured
from tests.unit.peers import echo, peer, read_to_end
from tests.unit.tls_files import TlsFiles
from ztnode.cli import progress
from ztnode.cli.app import cli, run
from ztnode.node.api import JoinState, RouteInfo

NETWORK = f"{NWID:016x}"
OTHER = "8056c2e21c000001"
HOST = "10.121.15.99"


def all_commands(group: click.Group, path: tuple[str, ...] = ()) -> Iterator[tuple[str, ...]]:
    context = click.Context(group)
    for name in group.list_commands(context):
        command = group.get_command(context, name)
        yield (*path, name)
        if isinstance(command, click.Group):
            yield from all_commands(command, (*path, name))


def as_json(capsys: pytest.CaptureFixture[str], *arguments: str) -> Any:
    assert run([*arguments, "--json"]) == 0
    return json.loads(capsys.readouterr().out)


@pytest.mark.parametrize("command", [(), *all_commands(cli)], ids=" ".join)
def test_help_ends_with_an_example(command: tuple[str, ...], capsys: pytest.CaptureFixture[str]) -> None:
    assert run([*command, "--help"]) == 0
    out = capsys.readouterr().out
    assert out.startswith("Usage: ztnode")
    assert "Example:\n    ztnode " in out or "Example:\n  ztnode " in out


def test_a_command_that_there_is_not_names_the_nearest(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["controllr"]) == 2
    assert "did you mean 'controller'?" in capsys.readouterr().err
    assert run(["nonsense"]) == 2
    assert "did you mean" not in capsys.readouterr().err


def test_version(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["--version"]) == 0
    assert capsys.readouterr().out.startswith("ztnode 0.")


@pytest.mark.parametrize(
    "arguments",
    [
        ["nonsense"],
        ["join"],
        ["join", "xyz"],
        ["join", "0" * 16],
        ["join", NETWORK, "--wait", "-1"],
        ["join", NETWORK, "--address", "http://x"],
        ["status", "--address", "x:1", "--state", "y"],
        ["serve"],
        ["serve", "--state", "x", "--insecure"],
        ["serve", "--state", "x", "--port", "70000"],
        ["serve", "--state", "x", "--join", "12"],
        ["serve", "--state", "x", "--listen", "7447"],
        ["serve", "--state", "x", "--api", "99x"],
        ["serve", "--state", "x", "--api", "70000"],
        ["serve", "--state", "x", "--trusted-path", "10.0.0.0/24"],
        ["serve", "--state", "x", "--gateway-except", "10.0.0.0/24"],
        ["gateway", "192.168.55.1/24"],
        ["serve", "--state", "x", "--trusted-path", "10.0.0.0/24=0"],
        ["serve", "--state", "x", "--trusted-path", "10.0.0.1/24=25"],
        ["call", "10.1.2.3:http"],
        ["call", "ftp://10.1.2.3/"],
        ["call", "http://10.1.2.3:99999/"],
        ["call", "http://a@10.1.2.3/"],
        ["call", "http://10.1.2.3/a b"],
        ["call", "http://10.1.2.3/", "-H", "nonsense"],
        ["call", "http://10.1.2.3/", "-k"],
        ["call", "http://10.1.2.3/", "--stack", "lwip"],
        ["forward", "x", "10.1.2.3:80"],
        ["forward", "80", "a..example:80"],
        ["world", "create", "planet", "--secret", "s"],
        ["world", "create", "planet", "--secret", "s", "--root", "x"],
    ],
    ids=" ".join,
)
def test_bad_usage_is_one_line_and_exit_2(
    running_node: RunningNode,
    arguments: list[str],
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("ZTNODE_STATE")
    if "--address" not in arguments:
        monkeypatch.setenv("ZTNODE_ADDRESS", running_node.addresses[0])
    assert run(arguments) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.startswith("ztnode")
    assert captured.err.count("\n") == 1


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        (["leave", OTHER], "is not joined: there is nothing to leave"),
        (["ips", OTHER], "is not joined"),
        (["capture", OTHER, "x.pcapng"], "is not joined"),
        (["call", f"http://{HOST}:1/"], "refused"),
        (["call", "http://192.0.2.1/"], "no answer to ARP"),
        (["call", "http://8.8.8.8/"], "no joined network has a route"),
        (["call", "http://example.com/"], "no name of the overlay"),
        (["call", "http://198.51.100.1/", "--timeout", "0.2"], "did not answer"),
        (["call", f"https://{HOST}/", "--cacert", __file__], "no certificates"),
        (["call", f"http://{HOST}/", "-d", "@/nonexistent"], "/nonexistent"),
        (["expose", "10.9.9.9:80", "127.0.0.1:1"], "not a managed address"),
        (["controller", "networks"], "--controller"),
        (["identity", "show", "/nonexistent"], "No such file"),
        (["identity", "show", __file__], "no identity"),
        (["world", "show", __file__], "not a world"),
        (["networks", "--address", "unix:/nonexistent/ztnode.sock"], "no node answers"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_errors_are_one_line_and_exit_1(
    running_node: RunningNode, arguments: list[str], reason: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(arguments) == 1
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.startswith("ztnode: ")
    assert captured.err.count("\n") == 1
    assert reason in captured.err


def test_no_node_says_how_to_start_one(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path))
    monkeypatch.delenv("ZTNODE_STATE", raising=False)
    monkeypatch.delenv("ZTNODE_ADDRESS", raising=False)
    assert run(["status"]) == 1
    assert "ztnode serve --state DIR" in capsys.readouterr().err


def test_debug_shows_the_traceback(
    running_node: RunningNode, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("ZTNODE_DEBUG", "1")
    assert run(["leave", OTHER]) == 1
    err = capsys.readouterr().err
    assert "Traceback" in err
    assert err.splitlines()[-1].startswith("ztnode: network 8056c2e21c000001 is not joined")


def test_a_capture_that_cannot_be_written_leaves_no_file(
    running_node: RunningNode, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    class FullDisk(io.FileIO):
        def write(self, _data: Any, /) -> int:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    def full(path: Path, *arguments: Any, **named: Any) -> Any:
        return io.BufferedWriter(FullDisk(path, "wb")) if path == file else usual(path, *arguments, **named)

    file = tmp_path / "wire.pcapng"
    usual = Path.open
    monkeypatch.setattr(Path, "open", full)
    assert run(["capture", NETWORK, str(file), "--seconds", "5"]) == 1
    assert not file.exists()
    err = capsys.readouterr().err.splitlines()
    assert err[0].startswith("capturing") and len(err) == 2 and "No space left" in err[1]


def test_a_call_says_what_it_waits_for(
    running_node: RunningNode, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(progress, "LONG", 0.0)
    assert run(["call", "http://198.51.100.1/", "--timeout", "0.5"]) == 1
    first, last = capsys.readouterr().err.splitlines()
    assert first == "waiting for 198.51.100.1 to answer" and last.startswith("ztnode: ")


@pytest.mark.parametrize(
    "option", ["--listen", "--api", "--proxy", "--tcp-relay-listen", "--forward", "--sso-listen --controller"]
)
def test_serve_refuses_a_port_that_is_taken_before_it_makes_anything(option: str, tmp_path: Path) -> None:
    name, *more = option.split()
    with socket.create_server(("127.0.0.1", 0)) as taken:
        where = f"127.0.0.1:{taken.getsockname()[1]}"
        value = f"{where}:10.1.2.3:80" if name == "--forward" else where
        state = tmp_path / "state"
        serve = command("serve", "--unlisted", "--state", str(state), name, value, *more)
        ended = subprocess.run(serve, capture_output=True, text=True, timeout=60, check=False)
        assert ended.stderr.splitlines() == [f"ztnode: {name} {where}: Address already in use"]
    assert not state.exists() or not [*state.rglob("identity*")]


def test_join(running_node: RunningNode, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["join", OTHER.upper()]) == 0
    out = capsys.readouterr().out
    assert f"{OTHER} lab" in out
    assert f"{IP}/16" in out
    assert as_json(capsys, "join", OTHER)["state"] == "ok"


def test_join_and_wait_shows_what_is_waited_for(running_node: RunningNode, capsys: pytest.CaptureFixture[str]) -> None:
    running_node.node.on_join = lambda nwid: asking(
        nwid, JoinState.WAITING_FOR_AUTHORIZATION, "authorize 778cde7190 at the controller"
    )
    timer = threading.Timer(0.3, running_node.call, (running_node.node.change, configured(int(OTHER, 16))))
    timer.start()
    assert run(["join", OTHER, "--wait", "5"]) == 0
    captured = capsys.readouterr()
    assert f"joining {OTHER}\n{OTHER}: authorize 778cde7190 at the controller\n" in captured.err
    assert "ok" in captured.out


def test_join_says_where_to_log_in(running_node: RunningNode, capsys: pytest.CaptureFixture[str]) -> None:
    running_node.node.on_join = asking
    told = replace(
        asking(int(OTHER, 16), JoinState.AUTHENTICATION_REQUIRED, "log in"), authentication_url="https://id.example/x"
    )
    timer = threading.Timer(0.2, running_node.call, (running_node.node.change, told))
    timer.start()
    assert run(["join", OTHER, "--no-browser"]) == 0
    captured = capsys.readouterr()
    assert captured.err == "log in at https://id.example/x\n"
    assert "https://id.example/x" in captured.out


def test_join_and_wait_in_vain(running_node: RunningNode, capsys: pytest.CaptureFixture[str]) -> None:
    running_node.node.on_join = asking
    assert run(["join", OTHER, "--wait", "0.2"]) == 1
    err = capsys.readouterr().err
    assert f"ztnode: network {OTHER} is not ready after 0.2 s: asking the controller\n" in err


def test_leave(running_node: RunningNode, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["leave", NETWORK]) == 0
    assert running_node.node.known == {}
    assert run(["networks"]) == 0
    assert "no network is joined" in capsys.readouterr().err
    assert run(["ips"]) == 1


def test_networks(running_node: RunningNode, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["networks"]) == 0
    heading, line = capsys.readouterr().out.splitlines()
    assert heading.split() == ["NWID", "NAME", "STATE", "MTU", "ADDRESSES", "DETAIL"]
    assert line.split()[:4] == [NETWORK, "lab", "ok", "2800"]
    (network,) = as_json(capsys, "networks")
    assert network["addresses"][0] == f"{IP}/16"
    assert network["routes"][1] == {"target": "10.9.0.0/24", "via": "10.121.0.1", "metric": 5}


def test_ips(running_node: RunningNode, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["ips", NETWORK]) == 0
    assert capsys.readouterr().out == f"{IP}\nfd9a:d07d:109:3a69:e399:9377:8cde:7190\n"
    assert as_json(capsys, "ips")[0] == {"nwid": NETWORK, "ip": IP, "prefix_length": 16}


def test_peers(running_node: RunningNode, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["peers"]) == 0
    _heading, root, leaf = capsys.readouterr().out.splitlines()
    assert root.split() == ["3a46f1bf30", "planet", "1.14.1", "21.5", "ms", "direct", "198.51.100.2:9993"]
    assert leaf.split() == ["99937780cd", "leaf", "-", "-", "relayed", "-"]
    assert as_json(capsys, "peers")[1]["latency_ms"] is None


def test_status(running_node: RunningNode, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["status"]) == 0
    out = capsys.readouterr().out
    assert "778cde7190" in out
    assert "worker 0   pid 4711, 3 connections, 1 restarts" in out
    status = as_json(capsys, "status")
    assert status["online"] is True
    assert status["counters"]["packets_in"] == 2**40


class Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def handle_any(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        if self.path == "/short":
            self.send_response(200)
            self.send_header("Content-Length", "1000")
            self.end_headers()
            self.wfile.write(b"not all")
            self.close_connection = True
            return
        status = 404 if self.path == "/missing" else 200
        answer = bytes(range(256)) if self.path == "/binary" else None
        shown = [self.command, self.path, body.decode(), self.headers["X-Test"], self.headers["Content-Type"]]
        answer = " ".join(part or "" for part in shown).encode() if answer is None else answer
        self.send_response(status)
        self.send_header("Content-Length", str(len(answer)))
        self.end_headers()
        self.wfile.write(answer)

    do_GET = do_POST = do_PUT = handle_any

    def log_message(self, format: str, *args: object) -> None:
        pass


@pytest.fixture
def web(running_node: RunningNode) -> Iterator[str]:
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True).start()
        running_node.serve(HOST, 5380, ("127.0.0.1", server.server_port))
        yield f"http://{HOST}:5380"
        server.shutdown()


def test_call(web: str, capsys: pytest.CaptureFixture[str]) -> None:
    for stack in ("zerotier", "libzt"):
        assert run(["call", f"{web}/a/b?c=d", "--stack", stack, "-H", "X-Test: yes"]) == 0
        assert capsys.readouterr().out == "GET /a/b?c=d  yes "


def test_call_with_a_body(web: str, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    assert run(["call", web, "-d", "a=1"]) == 0
    assert capsys.readouterr().out == "POST / a=1  application/x-www-form-urlencoded"
    (tmp_path / "body").write_text("from a file")
    assert run(["call", web, "-X", "PUT", "-d", f"@{tmp_path / 'body'}", "-H", "Content-Type: text/plain"]) == 0
    assert capsys.readouterr().out == "PUT / from a file  text/plain"


def test_call_include_json_and_fail(web: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["call", "-i", f"{web}/missing"]) == 0
    head, _, body = capsys.readouterr().out.replace("\r\n", "\n").partition("\n\n")
    assert head.startswith("HTTP/1.1 404 Not Found\nServer: ")
    assert body == "GET /missing   "
    assert run(["call", "-f", f"{web}/missing"]) == 1
    assert f"ztnode: {web}/missing: HTTP 404 Not Found\n" in capsys.readouterr().err
    answer = as_json(capsys, "call", f"{web}/x")
    assert (answer["status"], answer["body"], answer["bytes"]) == (200, "GET /x   ", 9)
    assert as_json(capsys, "call", f"{web}/binary")["body_base64"].startswith("AAECAwQ")


def test_call_writes_a_whole_file_or_none(web: str, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    target = tmp_path / "out"
    assert run(["call", f"{web}/binary", "-o", str(target)]) == 0
    assert target.read_bytes() == bytes(range(256))
    target.unlink()
    assert run(["call", f"{web}/short", "-o", str(target)]) == 1
    assert "the answer is not whole" in capsys.readouterr().err
    assert not [path for path in tmp_path.iterdir() if path.name.startswith("out")]


def test_call_https(running_node: RunningNode, tls_files: TlsFiles, capsys: pytest.CaptureFixture[str]) -> None:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(tls_files.certificate, tls_files.key)
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        server.socket = context.wrap_socket(server.socket, server_side=True)
        threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True).start()
        running_node.serve(HOST, 443, ("127.0.0.1", server.server_port))
        assert run(["call", f"https://{HOST}/", "--cacert", str(tls_files.certificate)]) == 0
        assert run(["call", f"https://{HOST}/", "-k"]) == 0
        assert run(["call", f"https://{HOST}/"]) == 1
        assert "--cacert FILE or -k" in capsys.readouterr().err
        server.shutdown()


def test_capture_for_some_time(running_node: RunningNode, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "x.pcapng"
    assert run(["capture", NETWORK, str(file), "--seconds", "0.3", "--snaplen", "96"]) == 0
    assert file.read_bytes() == b"\x0a\x0d\x0d\x0a" + (96).to_bytes(4, "little") + NWID.to_bytes(8, "big")
    assert "16 bytes captured" in capsys.readouterr().err


def command(*arguments: str) -> list[str]:
    return [sys.executable, "-m", "ztnode", *arguments]


def test_ctrl_c_ends_a_capture_well(running_node: RunningNode, tmp_path: Path) -> None:
    file = tmp_path / "x.pcapng"
    with subprocess.Popen(command("capture", NETWORK, str(file)), stderr=subprocess.PIPE) as process:
        deadline = time.monotonic() + 10
        while (not file.exists() or file.stat().st_size < 16) and time.monotonic() < deadline:
            time.sleep(0.02)
        process.send_signal(signal.SIGINT)
        assert process.wait(30) == 0
    assert file.stat().st_size == 16


def test_ctrl_c_elsewhere_is_exit_130(running_node: RunningNode) -> None:
    running_node.node.on_join = asking
    with subprocess.Popen(command("join", OTHER, "--wait", "60"), stderr=subprocess.PIPE) as process:
        assert process.stderr is not None
        process.stderr.readline()
        time.sleep(0.3)
        process.send_signal(signal.SIGINT)
        assert process.wait(30) == 130
        assert b"Traceback" not in process.stderr.read()


def test_a_reader_that_goes_away_is_no_error(running_node: RunningNode) -> None:
    with subprocess.Popen(command("networks", "--json"), stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        assert process.stdout is not None and process.stderr is not None
        process.stdout.close()
        assert process.wait(10) == 141
        assert process.stderr.read() == b""


def test_forward(running_node: RunningNode) -> None:
    with (
        peer(echo) as real,
        subprocess.Popen(command("forward", "0", f"{HOST}:7"), stderr=subprocess.PIPE) as process,
    ):
        running_node.serve(HOST, 7, real)
        assert process.stderr is not None
        port = int(process.stderr.readline().split()[3])
        with socket.create_connection(("127.0.0.1", port), 30) as connected:
            connected.sendall(b"x" * 1_000_00)
            connected.shutdown(socket.SHUT_WR)
            assert len(read_to_end(connected)) == 1_000_00
        running_node.node.overlay.clear()
        with socket.create_connection(("127.0.0.1", port), 30) as connected, pytest.raises(ConnectionResetError):
            connected.recv(1)
        process.send_signal(signal.SIGINT)
        assert process.wait(30) == 130


def test_expose(running_node: RunningNode) -> None:
    with (
        peer(echo) as real,
        subprocess.Popen(command("expose", f"{IP}:80", f"127.0.0.1:{real[1]}"), stderr=subprocess.PIPE) as process,
    ):
        assert process.stderr is not None
        process.stderr.readline()
        with socket.create_connection(running_node.node.overlay[IP, 80], 30) as connected:
            connected.sendall(b"hello")
            connected.shutdown(socket.SHUT_WR)
            assert read_to_end(connected) == b"hello"
        process.send_signal(signal.SIGINT)
        assert process.wait(30) == 130


def test_gateway(running_node: RunningNode) -> None:
    with subprocess.Popen(
        command("gateway", "192.168.55.0/24", "--except", "192.168.55.8/29"), stderr=subprocess.PIPE
    ) as process:
        assert process.stderr is not None
        assert process.stderr.readline() == b"gateway to 192.168.55.0/24\n"
        lines = iter(process.stderr.readline, b"")
        advice = next(line for line in lines if b"no managed route" in line)
        assert f"controller update {NETWORK} --route 10.121.0.0/16".encode() in advice
        assert f"--route 192.168.55.0/24={IP}".encode() in advice
        assert "192.168.55.8/29" not in running_node.node.led_to and "192.168.55.0/29" in running_node.node.led_to
        lan = RouteInfo("192.168.55.0/24", IP)
        running_node.call(running_node.node.change, replace(configured(NWID), routes=(lan,)))
        assert next(lines) == f"network {NETWORK} leads to 192.168.55.0/24 by {IP}, this node\n".encode()
        process.send_signal(signal.SIGINT)
        assert process.wait(30) == 130
    with subprocess.Popen(command("gateway", "192.168.55.1", "--json"), stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        assert json.loads(process.stdout.readline())["routes"][0]["via"] == IP
        process.send_signal(signal.SIGINT)
        assert process.wait(30) == 130
    deadline = time.monotonic() + 30
    while running_node.node.led_to and time.monotonic() < deadline:
        time.sleep(0.01)
    assert not running_node.node.led_to


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("identity")
    assert run(["identity", "new", "--output", str(directory / "home")]) == 0
    return directory / "home"


def test_identity(made: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert (made / "identity.secret").stat().st_mode & 0o777 == 0o600
    secret = (made / "identity.secret").read_text()
    public = (made / "identity.public").read_text()
    assert secret.startswith(public + ":")
    shown = as_json(capsys, "identity", "show", str(made / "identity.secret"))
    assert shown == {"address": public[:10], "public": public, "has_secret": True}
    assert as_json(capsys, "identity", "validate", public)["valid"] is True
    assert run(["identity", "validate", str(made / "identity.secret")]) == 0
    assert capsys.readouterr().out == f"{public[:10]} is valid\n"


def test_identity_of_another_address_is_not_valid(made: Path, capsys: pytest.CaptureFixture[str]) -> None:
    public = (made / "identity.public").read_text()
    assert run(["identity", "validate", "0123456789" + public[10:]]) == 1
    assert "0123456789 is not valid" in capsys.readouterr().err


def test_identity_new_overwrites_nothing(made: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before = (made / "identity.secret").read_bytes()
    assert run(["identity", "new", "--output", str(made)]) == 1
    assert "left as it is" in capsys.readouterr().err
    assert (made / "identity.secret").read_bytes() == before


def test_world(made: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    planet, secret = tmp_path / "planet", tmp_path / "planet.secret"
    root = f"{made / 'identity.public'}@203.0.113.7/9993,[2001:db8::7]:9993"
    described = as_json(capsys, "world", "create", str(planet), "--secret", str(secret), "--root", root)
    assert described["worldType"] == "planet"
    assert described["roots"][0]["stableEndpoints"] == ["203.0.113.7/9993", "2001:db8::7/9993"]
    assert secret.stat().st_mode & 0o777 == 0o600
    assert as_json(capsys, "world", "show", str(planet)) == described
    assert run(["world", "create", str(planet), "--secret", str(secret), "--root", root]) == 1
    assert "left as it is" in capsys.readouterr().err
    updated = as_json(capsys, "world", "create", str(planet), "--secret", str(secret), "--update")
    assert updated["timestamp"] > described["timestamp"]
    assert updated["id"] == described["id"]
    assert run(["world", "show", str(planet)]) == 0
    assert "203.0.113.7/9993, 2001:db8::7/9993" in capsys.readouterr().out


def test_world_update_with_another_key(made: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    planet = tmp_path / "planet"
    root = f"{made / 'identity.public'}@203.0.113.7/9993"
    assert run(["world", "create", str(planet), "--secret", str(tmp_path / "a"), "--root", root]) == 0
    before = planet.read_bytes()
    assert run(["world", "create", str(tmp_path / "other"), "--secret", str(tmp_path / "b"), "--root", root]) == 0
    assert run(["world", "create", str(planet), "--secret", str(tmp_path / "b"), "--update"]) == 1
    assert run(["world", "create", str(planet), "--secret", str(tmp_path / "c"), "--update"]) == 1
    capsys.readouterr()
    assert planet.read_bytes() == before
    assert not (tmp_path / "c").exists()


def test_whois(running_node: RunningNode, capsys: pytest.CaptureFixture[str]) -> None:
    found = as_json(capsys, "whois", HOST)
    assert found["address"] == "3a46f1bf30"
    assert found["nwid"] == NETWORK
    assert found["name"] == "bo"
    assert found["gateway"] is None
    assert found["public_identity"].startswith("3a46f1bf30:0:")
    assert found["peer"]["paths"][0]["endpoint"] == "198.51.100.2:9993"
    assert run(["whois", HOST]) == 0
    assert "path      198.51.100.2:9993\n" in capsys.readouterr().out
    assert as_json(capsys, "whois", "10.9.0.7", "--network", NETWORK)["gateway"] == "10.121.0.1"
    assert run(["whois", "192.0.2.1"]) == 1
    assert "no answer to ARP" in capsys.readouterr().err
    assert run(["whois", HOST, "--network", OTHER]) == 1
    assert "not joined" in capsys.readouterr().err


def test_rules(running_node: RunningNode, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["rules", NETWORK]) == 0
    shown = capsys.readouterr().out
    assert shown.startswith("# This node carries the tag 100 with the value 3.\n")
    assert shown.endswith("cap cap_7\n\tid 7\n\taccept and ;\n;\n\ndrop\n\tethertype arp\n;\n\naccept;\n")
    assert as_json(capsys, "rules", NETWORK)["tags"] == [[100, 3]]
    assert run(["rules", OTHER]) == 1
    assert "not joined" in capsys.readouterr().err
    assert run(["join", OTHER]) == 0 and run(["rules", OTHER]) == 1
    assert "no configuration yet" in capsys.readouterr().err


def test_connections(running_node: RunningNode, capsys: pytest.CaptureFixture[str]) -> None:
    found = as_json(capsys, "connections")
    assert [each["remote"][1] for each in found] == list(range(1, 1501)), "more than a page"
    assert found[0]["rtt_ms"] == 12.5
    assert found[0]["ssthresh"] is None
    assert run(["connections"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[1].split()[:5] == ["ESTABLISHED", f"{IP}:50000", f"{HOST}:1", "12.5", "ms"]


def test_moons(running_node: RunningNode, made: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    moon, secret, root = tmp_path / "moon", tmp_path / "s", str(made / "identity.public")
    described = as_json(capsys, "world", "create", str(moon), "--secret", str(secret), "--root", root)
    address = described["roots"][0]["address"]
    assert (described["worldType"], described["id"]) == ("moon", f"000000{address}")
    assert json.loads(secret.read_text())["roots"][0]["stableEndpoints"] == []
    assert as_json(
        capsys, "world", "create", str(moon), "--secret", str(secret), "--update", "--root", f"{root}@10.0.0.1/1"
    )["roots"][0]["stableEndpoints"] == ["10.0.0.1/1"]
    assert (
        run(["world", "create", str(tmp_path / "p"), "--type", "planet", "--secret", str(secret), "--root", root]) == 2
    )
    capsys.readouterr()

    assert run(["moons"]) == 0 and "no moon is orbited" in capsys.readouterr().err
    assert as_json(capsys, "orbit", "deadbeef00")["seed"] == "deadbeef00"
    assert as_json(capsys, "orbit", "--file", str(moon))["roots"][0]["endpoints"] == ["10.0.0.1:1"]
    assert [each["id"] for each in as_json(capsys, "listmoons")] == sorted([f"000000{address}", "000000deadbeef00"])
    assert run(["moons"]) == 0
    out = capsys.readouterr().out
    assert "asking deadbeef00" in out and f"{address} 10.0.0.1:1" in out
    assert run(["orbit", "--file", str(secret)]) == 1
    assert "this is no moon file" in capsys.readouterr().err
    assert run(["deorbit", "deadbeef00"]) == 0 and run(["deorbit", "deadbeef00"]) == 1
    assert "is not orbited" in capsys.readouterr().err
    assert run(["orbit", "deadbeef00", "--file", str(moon)]) == 2
