"""What the tests of the control plane, the client and the command line share."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.unit import tls_files as tls_files_module
from tests.unit.fake_node import RunningNode


@pytest.fixture
def running_node(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[RunningNode]:
    """A fake node behind a real control server; clients of this process find it by ZTNODE_STATE."""
    state = tmp_path / "st"
    state.mkdir(mode=0o700)
    for name in ("ZTNODE_ADDRESS", "ZTNODE_TOKEN", "ZTNODE_TOKEN_FILE", "ZTNODE_CA_FILE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("ZTNODE_STATE", str(state))
    with RunningNode(state) as running:
        yield running


@pytest.fixture
def tls_files(tmp_path: Path) -> tls_files_module.TlsFiles:
    """A self-signed certificate for the overlay address that the tests dial, and for loopback."""
    return tls_files_module.make(tmp_path, "server", "10.121.15.99", "127.0.0.1")
