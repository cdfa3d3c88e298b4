"""A node whose processes have no descriptors left: what its clients and its log are told."""

from __future__ import annotations

import contextlib
import errno
import resource
import sys
from pathlib import Path

import pytest

import ztclient
from tests.system.harness import PORT, Overlay, ipv4, until

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="needs prlimit")


def test_a_worker_without_descriptors_says_so(overlay: Overlay) -> None:
    member = overlay.network.add("full")
    member.wait_online()
    ipv4(member, overlay.nwid)
    ztclient.create_connection((overlay.ip, PORT), node=member.node).close()
    pid = member.node.status().workers[0].pid
    used = max(int(entry.name) for entry in Path(f"/proc/{pid}/fd").iterdir()) + 1
    before = resource.prlimit(pid, resource.RLIMIT_NOFILE)
    resource.prlimit(pid, resource.RLIMIT_NOFILE, (used, before[1]))
    with contextlib.ExitStack() as stack:
        for _ in range(3):
            with pytest.raises(OSError) as failed:
                for _ in range(20):
                    stack.enter_context(ztclient.create_connection((overlay.ip, PORT), timeout=10, node=member.node))
            assert failed.value.errno == errno.EMFILE, failed.value
    resource.prlimit(pid, resource.RLIMIT_NOFILE, before)

    def dials() -> bool:
        with contextlib.suppress(OSError):
            ztclient.create_connection((overlay.ip, PORT), timeout=10, node=member.node).close()
            return True
        return False

    until(dials)
    log = Path(member.state / "serve.log").read_text()
    assert log.count("descriptors") == 1, log
    overlay.network.members.pop("full").stop()
