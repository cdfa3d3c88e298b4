"""``ztnode capture`` writes what Wireshark reads, and finds nothing wrong with."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

import ztclient
from tests.system.harness import PORT, Overlay, content

CHECKS = [option for name in ("ip", "tcp", "udp") for option in ("-o", f"{name}.check_checksum:TRUE")]
WRONG = "_ws.malformed || ip.checksum.status == 0 || tcp.checksum.status == 0 || udp.checksum.status == 0"


def frames(capture: Path, display_filter: str) -> int:
    command = ["tshark", *CHECKS, "-r", str(capture), "-Y", display_filter, "-T", "fields", "-e", "frame.number"]
    return len(subprocess.run(command, check=True, capture_output=True, text=True, timeout=60).stdout.split())


def test_wireshark_finds_nothing_wrong_in_a_capture(overlay: Overlay, tmp_path: Path) -> None:
    if shutil.which("tshark") is None:
        pytest.skip("tshark is not installed: deploy/test-tools.sh installs it as root on Debian")
    capture = tmp_path / "wire.pcapng"
    command = [
        sys.executable,
        "-m",
        "ztnode",
        "capture",
        overlay.nwid,
        str(capture),
        "--state",
        str(overlay.beta.state),
    ]
    with subprocess.Popen([*command, "--seconds", "3"], stderr=subprocess.PIPE) as process:
        size = 1 << 20
        while process.poll() is None:  # traffic for as long as it records, so that none is missed at its start
            connection = ztclient.HTTPConnection(overlay.ip, PORT, timeout=10, node=overlay.beta.node)
            connection.request("GET", f"/{size}")
            assert connection.getresponse().read() == content(size)
            connection.close()
        assert process.returncode == 0
    assert frames(capture, "tcp") > 100
    assert frames(capture, f"tcp.port == {PORT} && tcp.flags.syn == 1") > 0
    assert frames(capture, WRONG) == 0
