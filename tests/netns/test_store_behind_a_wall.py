"""A store that a packet filter keeps one host from is not down: another host may reach it, and take the lease."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys

import pytest

SCRIPT = '''
import subprocess
from ztnode.node.lease import down_for_everybody

def nft(rules):
    subprocess.run(["nft", "-f", "-"], input=rules.encode(), check=True)

subprocess.run(["ip", "link", "set", "lo", "up"], check=True)
lost = ConnectionError("the connection is lost")
for host in ("127.0.0.1", "::1"):
    assert down_for_everybody(lost, [(host, 5432)]), "nothing listens there"
nft("""
table inet wall {
 chain out {
  type filter hook output priority 0;
  tcp dport 5432 reject with icmpx port-unreachable
 }
}
""")
for host in ("127.0.0.1", "::1"):
    assert not down_for_everybody(lost, [(host, 5432)]), "something may listen there"
    assert down_for_everybody(lost, [(host, 5433)])
'''


def test_a_wall_that_refuses_is_no_store_that_is_down() -> None:
    if sys.platform != "linux" or os.geteuid() != 0 or shutil.which("nft") is None:
        pytest.skip("needs root on Linux, and the programs nft, ip and unshare")
    subprocess.run(["unshare", "--net", sys.executable, "-c", SCRIPT], check=True, timeout=60)
