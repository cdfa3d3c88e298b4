"""A node behind a wall that no UDP passes goes online by ZeroTier's own tcp-proxy (``make`` in ``tcp-proxy/`` of its
sources), named by ``ZTNODE_TCP_PROXY``; without that the relay is tested in ``tests/unit/node/test_tcp_relay.py``."""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

import ztclient
from tests.bench.site import site, unavailable
from tests.system.harness import identities, until
from ztnode.embedded import EmbeddedMember

NEAR, FAR = "80.1.1.1", "80.1.1.2"
"""Addresses of the internet, in namespaces of the test's own."""
PROXY = os.environ.get("ZTNODE_TCP_PROXY")


def is_online(member: EmbeddedMember) -> bool:
    with contextlib.suppress(ztclient.Error):
        return member.node.status().online
    return False


@pytest.mark.timeout(240)
@pytest.mark.skipif(PROXY is None, reason="ZTNODE_TCP_PROXY names no tcp-proxy")
@pytest.mark.parametrize("setting", [{"forceTcpRelay": True}, {}], ids=["forced", "after a minute"])
def test_online_by_a_tcp_proxy(setting: dict[str, object], tmp_path: Path) -> None:
    reason = unavailable()
    if reason is not None:
        pytest.skip(reason)
    assert PROXY is not None
    pool = identities()
    ztnode = [sys.executable, "-m", "ztnode"]
    for name in ("root", "leaf"):
        home = tmp_path / name / "zerotier"
        home.mkdir(parents=True)
        identity = next(pool)
        (home / "identity.secret").write_text(identity.build_text(include_secret=True))
        (home / "identity.public").write_text(identity.build_text())
    planet, secret = tmp_path / "planet", tmp_path / "planet.secret"
    root_at = f"{tmp_path / 'root/zerotier/identity.public'}@{FAR}/9993"
    subprocess.run([*ztnode, "world", "create", str(planet), "--secret", str(secret), "--root", root_at], check=True)
    conf = {"settings": {"tcpFallbackRelay": f"{FAR}/443", **setting}}
    (tmp_path / "leaf/zerotier/local.conf").write_text(json.dumps(conf))
    with site() as place:
        for each, address in ((place.near, NEAR), (place.far, FAR)):
            each.ip("addr", "add", f"{address}/24", "dev", "br0")
        wall = ["iptables", "-A", "INPUT", "-p", "udp", "-s", NEAR, "-j", "DROP"]
        subprocess.run([*place.far.prefix, *wall], check=True)
        proxy = subprocess.Popen([*place.far.prefix, PROXY], stdout=subprocess.DEVNULL)
        members = []
        try:
            arguments = ["--planet", str(planet), "--port", "9993"]
            for name, where, more in (("root", place.far, ["--root", "--controller"]), ("leaf", place.near, [])):
                members.append(EmbeddedMember(name, tmp_path / name, [*arguments, *more], where.prefix))
            root, leaf = members
            until(lambda: is_online(leaf), 150)
            log = (tmp_path / "leaf/serve.log").read_text()
            assert "packets go by the TCP relay" in log
            peer = next(each for each in leaf.node.peers() if each.address == root.node.status().address)
            assert peer.direct
        finally:
            for member in members:
                member.stop()
            proxy.terminate()
            proxy.wait()
