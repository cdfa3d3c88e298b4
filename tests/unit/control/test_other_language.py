"""The control plane spoken by a client in another language, from the .proto file alone."""

from __future__ import annotations

import json
import shutil
import subprocess
from pathlib import Path

import pytest

from tests.unit.fake_node import RunningNode
from tests.unit.peers import echo, peer, reset_after_some

HERE = Path(__file__).parent
PROTO = HERE.parents[2] / "proto"
PACKAGES = ("@grpc/grpc-js@1", "@grpc/proto-loader@0.8")
ABORTED, UNAVAILABLE = 10, 14


@pytest.fixture(scope="module")
def javascript(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A directory with the client and its libraries."""
    if shutil.which("node") is None or shutil.which("npm") is None:
        pytest.skip("node and npm are not installed")
    directory = tmp_path_factory.mktemp("javascript")
    shutil.copy(HERE / "other_language.mjs", directory)
    install = ["npm", "install", "--no-audit", "--no-fund", "--ignore-scripts", "--loglevel=error", *PACKAGES]
    done = subprocess.run(install, cwd=directory, capture_output=True, text=True, timeout=100, check=False)
    if done.returncode:
        pytest.skip(f"npm cannot install the gRPC library: {done.stderr.strip().splitlines()[:1]}")
    return directory


def test_status_and_byte_streams_from_javascript(running_node: RunningNode, javascript: Path) -> None:
    with peer(echo) as echoing, peer(reset_after_some) as resetting:
        running_node.serve("10.121.15.99", 7, echoing)
        running_node.serve("10.121.15.99", 8, resetting)
        command = ["node", "other_language.mjs", running_node.addresses[0], str(PROTO)]
        done = subprocess.run(command, cwd=javascript, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr
    result = json.loads(done.stdout)
    assert result["status"]["address"] == "778cde7190"
    assert result["status"]["online"] is True
    echoed = result["echoed"]
    assert echoed["opened"]["remote"] == {"ip": "10.121.15.99", "port": 7}
    assert (echoed["code"], echoed["bytes"], echoed["halfClosed"]) == (0, 32 * 65536, True)
    assert echoed["sha256"] == result["sent"]
    assert (result["refused"]["code"], result["refused"]["errno"]) == (UNAVAILABLE, "ECONNREFUSED")
    assert (result["reset"]["code"], result["reset"]["errno"]) == (ABORTED, "ECONNRESET")
    assert (result["reset"]["bytes"], result["reset"]["halfClosed"]) == (10, False)
