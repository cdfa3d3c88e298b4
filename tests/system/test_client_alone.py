"""The client's distribution, built and installed alone into an empty environment, against a running node."""

from __future__ import annotations

import importlib.metadata
import os
import re
import shutil
import subprocess
import sys
import sysconfig
import venv
import zipfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.system.harness import PORT, Overlay, content, ipv4

CLIENT = Path(__file__).parents[2] / "ztclient"
LARGEST = 60 << 20
"""Bytes that an environment with the client alone may have."""


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The client's wheel, built from a copy, so that nothing is left in the checkout."""
    source = tmp_path_factory.mktemp("source") / "ztclient"
    shutil.copytree(CLIENT, source, ignore=shutil.ignore_patterns("build", "*.egg-info", "__pycache__"))
    build = "import sys; from setuptools import build_meta; build_meta.build_wheel(sys.argv[1])"
    subprocess.run([sys.executable, "-c", build, str(source.parent)], cwd=source, check=True, capture_output=True)
    (built,) = source.parent.glob("*.whl")
    return built


@pytest.fixture(scope="module")
def alone(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The interpreter of an environment with the wheel and what its metadata asks for, no more. That is copied from the
    environment of these tests, so that no network is needed."""
    home = tmp_path_factory.mktemp("alone")
    venv.create(home, with_pip=False, symlinks=True)
    packages = Path(sysconfig.get_path("purelib", "venv", {"base": str(home), "platbase": str(home)}))
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(packages)
    waiting, done = ["ztclient"], set[str]()
    while waiting:
        name = waiting.pop()
        if name in done:
            continue
        done.add(name)
        if name != "ztclient":
            copy_installed(name, packages)
        found = importlib.metadata.Distribution.discover(name=name, path=[str(packages)])
        waiting += [requirement for each in found for requirement in required(each)]
    assert done >= {"ztclient", "grpcio", "protobuf"}
    return home / "bin" / "python"


def required(distribution: importlib.metadata.Distribution) -> Iterator[str]:
    """The names of what it needs; extras are not asked for."""
    for requirement in distribution.requires or ():
        if "extra ==" not in requirement:
            name = re.match(r"[A-Za-z0-9._-]+", requirement)
            assert name is not None
            yield name.group()


def copy_installed(name: str, packages: Path) -> None:
    """Copy an installed distribution, by its list of files."""
    files = importlib.metadata.files(name)
    assert files
    for file in files:
        if ".." in file.parts or "__pycache__" in file.parts:
            continue  # a console script
        target = packages / file
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(str(file.locate()), target)


def run(python: Path, script: str, *arguments: str, **environment: str) -> str:
    """What a script printed, run without anything of the checkout or of the tests' environment."""
    clean = {name: value for name, value in os.environ.items() if not name.startswith(("ZTNODE_", "PYTHON"))}
    command = [str(python), "-I", "-c", script, *arguments]
    result = subprocess.run(
        command, env=clean | environment, cwd="/", capture_output=True, text=True, timeout=60, check=False
    )
    assert result.returncode == 0, result.stderr
    return result.stdout


def test_the_wheel_is_pure_and_holds_the_client_alone(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        names = archive.namelist()
    assert wheel.name.endswith("-py3-none-any.whl")
    assert {name.partition("/")[0].partition("-")[0] for name in names} == {"ztclient"}
    assert {"ztclient/py.typed", "ztclient/v1/node_pb2.py", "ztclient/v1/controller_pb2_grpc.pyi"} <= set(names)
    assert not [name for name in names if "pyproject" in name or "egg-info" in name]


def test_no_module_hides_one_of_the_standard_library() -> None:
    """The project is the package's own directory; tools that are run there, such as a build, look into it first."""
    assert not {path.stem for path in CLIENT.iterdir()} & sys.stdlib_module_names


def test_the_environment_is_small(alone: Path) -> None:
    packages = alone.parents[1] / "lib"
    assert sum(path.stat().st_size for path in packages.rglob("*") if path.is_file()) < LARGEST


def test_it_has_nothing_of_the_node(alone: Path) -> None:
    script = """
import importlib.util, pkgutil, sys, ztclient
for module in pkgutil.walk_packages(ztclient.__path__, "ztclient."):
    try:
        importlib.import_module(module.name)
    except ModuleNotFoundError:  # an integration's library is its user's to install
        assert module.name.startswith("ztclient.integrations."), module.name
print(importlib.util.find_spec("ztnode"), ztclient.__file__.startswith(sys.prefix))
"""
    assert run(alone, script) == "None True\n"


def test_it_lists(alone: Path, overlay: Overlay) -> None:
    script = """
import ztclient
node = ztclient.Node()
print(*(network.nwid for network in node.networks()))
print(*node.ips())
print(len(node.peers()) > 0, node.status().online)
"""
    listed = run(alone, script, ZTNODE_STATE=str(overlay.beta.state)).splitlines()
    # Other tests give this network's members IPv6 addresses too.
    assert ipv4(overlay.beta, overlay.nwid) in listed[1].split()
    assert listed == [overlay.nwid, " ".join(overlay.beta.node.ips()), "True True"]


def test_it_dials(alone: Path, overlay: Overlay) -> None:
    script = """
import sys, ztclient
connection = ztclient.HTTPConnection(sys.argv[1], int(sys.argv[2]), timeout=30)
connection.request("GET", "/100000")
sys.stdout.write(connection.getresponse().read().hex())
"""
    out = run(alone, script, overlay.ip, str(PORT), ZTNODE_STATE=str(overlay.beta.state))
    assert bytes.fromhex(out) == content(100_000)


def test_it_serves(alone: Path, overlay: Overlay) -> None:
    script = """
import sys, ztclient
with ztclient.create_server((sys.argv[1], 0)) as listener:
    listener.settimeout(30)
    dialled = ztclient.Node(state=sys.argv[2]).create_connection(listener.getsockname(), 30)
    accepted, peer = listener.accept()
    dialled.sendall(b"hello")
    accepted.sendall(accepted.recv(100).upper())
    print(dialled.recv(100), peer[0])
"""
    beta, alpha = overlay.beta, overlay.alpha
    ip = ipv4(beta, overlay.nwid)
    out = run(alone, script, ip, str(alpha.state), ZTNODE_STATE=str(beta.state))
    assert out == f"b'HELLO' {overlay.ip}\n"
