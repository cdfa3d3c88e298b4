"""What is in deploy/, run as far as it goes without a container engine, systemd or a CI service: every command that
the compose file runs, the script of the CI templates, the roles' configurations. ``make manifests`` has the schemas."""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import time
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

import ztclient
from tests.system.harness import identities
from ztnode.cli import app
from ztnode.embedded import free_port

DEPLOY = Path(__file__).parents[2] / "deploy"
BIN = Path(sys.executable).parent
ROLES = sorted(path.stem for path in (DEPLOY / "systemd").glob("*.toml"))


class Compose:
    """The services of a compose file as processes, their volumes as directories."""

    def __init__(self, directory: Path, port: int) -> None:
        self.directory = directory
        self.services: dict[str, Any] = yaml.safe_load((DEPLOY / "compose/compose.yaml").read_text())["services"]
        self.port = port
        self.page_port = free_port()

    def command(self, service: str) -> tuple[list[str], dict[str, str]]:
        """How a service is run, and its variables."""
        entry = self.services[service]
        words = [*entry.get("entrypoint", ["ztnode"]), *entry["command"]]
        places = {}
        for volume in entry["volumes"]:
            source, target = volume.split(":")[:2]
            inside = DEPLOY / "compose" / source if source.startswith("./") else self.directory / source
            places[target] = str(inside)

        def put(text: str) -> str:
            for target, inside in places.items():
                text = re.sub(rf"^{target}(?=/|$)", inside, text)
            return text.replace("172.30.93.2/9993", f"127.0.0.1/{self.port}").replace("8000", str(self.page_port))

        environment = {key: put(value) for key, value in entry.get("environment", {}).items()}
        if service == "root":
            environment["ZTNODE_PRIMARY_PORT"] = str(self.port)
        path = f"{BIN}:{os.environ['PATH']}"
        return [put(word) for word in words], {**os.environ, "PATH": path, "XDG_RUNTIME_DIR": "", **environment}

    def once(self, service: str) -> None:
        """Run one that ends."""
        command, environment = self.command(service)
        subprocess.run(command, env=environment, check=True, timeout=60, stdout=subprocess.DEVNULL)

    @contextlib.contextmanager
    def up(self, service: str) -> Iterator[None]:
        """Run one that stays, until the block ends; it is healthy when the block begins."""
        command, environment = self.command(service)
        process = subprocess.Popen(command, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        try:
            check = self.services[service].get("healthcheck", {}).get("test")
            deadline = time.monotonic() + 60
            while check and not self.is_online(service):
                assert process.poll() is None and time.monotonic() < deadline, service
                time.sleep(0.05)
            if service == "root":  # the others have the same
                self.run(service, *check[1:])
            yield
        finally:
            process.terminate()
            process.wait(10)

    def is_online(self, service: str) -> bool:
        with contextlib.suppress(ztclient.Error):
            return ztclient.Node(state=self.directory / service).status().online
        return False

    def run(self, service: str, *words: str) -> str:
        """What ``compose exec SERVICE`` prints."""
        state = str(self.directory / service)
        command = [state if word == "/state" else word for word in words]
        environment = {**self.command(service)[1], "ZTNODE_STATE": state}
        return subprocess.run(command, env=environment, capture_output=True, text=True, timeout=60, check=True).stdout


@pytest.fixture(scope="module")
def composed(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Compose]:
    """All services but beta are up."""
    directory = tmp_path_factory.mktemp("compose")
    compose = Compose(directory, free_port())
    (directory / "shared").mkdir()
    for service, identity in zip(("root", "controller", "alpha", "beta"), identities(), strict=False):
        home = directory / service / "zerotier"  # to make one takes seconds
        home.mkdir(parents=True)
        (home / "identity.secret").write_text(identity.build_text(include_secret=True))
        (home / "identity.public").write_text(identity.build_text())
    compose.once("setup")
    compose.once("setup")
    with compose.up("root"), compose.up("controller"):
        compose.once("network")
        compose.once("network")
        with compose.up("alpha"), compose.up("page"):
            yield compose


def test_the_compose_file(composed: Compose) -> None:
    with composed.up("beta"):
        deadline = time.monotonic() + 60
        while not (ip := composed.run("alpha", "ztnode", "ips").strip()):
            assert time.monotonic() < deadline
            time.sleep(0.05)
        page = composed.run("beta", "ztnode", "call", f"http://{ip.partition('/')[0]}/")
        assert "member.toml" in page


def test_joining_a_network_in_a_ci_job(tmp_path: Path, composed: Compose) -> None:
    *_, identity = identities()
    port = free_port()
    member = tomllib.loads((composed.directory / "shared/member.toml").read_text())
    environment = {
        **os.environ,
        "PATH": f"{BIN}:{os.environ['PATH']}",
        "ZTNODE_NETWORK": member["join"][0],
        "ZTNODE_SECRET": identity.build_text(include_secret=True),
        "ZTNODE_STATE": str(tmp_path),
        "ZTNODE_PROXY_PORT": str(port),
    }
    command = [str(DEPLOY / "ci/join.sh"), "--planet", member["planet"]]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    said = dict(line.split("=", 1) for line in done.stdout.splitlines())
    try:
        assert said["ZTNODE_IP"].startswith("10.121.15.") and said["ZTNODE_STATE"] == str(tmp_path)
        assert said["ZTNODE_PROXY_URL"] == f"socks5h://127.0.0.1:{port}"
        socket.create_connection(("127.0.0.1", port), 10).close()
        assert ztclient.Node(state=tmp_path).status().address == identity.build_text()[:10]
        assert (tmp_path / "zerotier/identity.secret").stat().st_mode & 0o077 == 0
    finally:
        os.kill(int(said["ZTNODE_PID"]), signal.SIGTERM)
    environment["ZTNODE_STATE"] = str(tmp_path / "other")
    done = subprocess.run([*command, "--nonsense"], env=environment, capture_output=True, text=True, timeout=120)
    assert done.returncode == 1 and not done.stdout
    assert "the node ended" in done.stderr and "No such option" in done.stderr


@pytest.mark.parametrize("role", ROLES)
def test_a_unit_for_each_role(role: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    words = ["config", "check", str(DEPLOY / f"systemd/{role}.toml")]
    monkeypatch.setenv("ZTNODE_STATE", str(tmp_path))
    assert app.run(words) == 0
    if shutil.which("systemd-analyze") is None:
        pytest.skip("needs systemd-analyze (Debian: systemd)")
    unit = (DEPLOY / "systemd/ztnode@.service").read_text().replace("/opt/ztnode/bin/ztnode", str(BIN / "ztnode"))
    (tmp_path / "ztnode@.service").write_text(unit)
    verify = ["systemd-analyze", "verify", "--recursive-errors=no", str(tmp_path / f"ztnode@{role}.service")]
    done = subprocess.run(verify, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0 and not done.stderr, done.stderr


def test_what_is_fetched_is_pinned() -> None:
    base = re.findall(r"^ARG PYTHON=(\S+)$", (DEPLOY / "Containerfile").read_text(), re.M)
    assert len(base) == 1 and re.fullmatch(r"docker.io/library/python:3.13-slim@sha256:[0-9a-f]{64}", base[0])
    assert re.findall(r"^FROM (\S+)", (DEPLOY / "Containerfile").read_text(), re.M) == ["${PYTHON}"] * 2
    template = yaml.safe_load((DEPLOY / "gitlab/ztnode.gitlab-ci.yml").read_text())
    assert template[".ztnode"]["image"] == base[0]
    for name in ("constraints.txt", "constraints-sbom.txt"):
        lines = (DEPLOY / name).read_text().splitlines()
        pinned = [line for line in lines if re.match(r"[a-z0-9]", line)]
        assert pinned and all("==" in line and line.endswith("\\") for line in pinned)
