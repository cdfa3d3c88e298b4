"""Which transports a node uses."""

from __future__ import annotations

import importlib.metadata
import sys
import types

import pytest

from ztnode import plugins
from ztnode.hookspecs import Transport, hookimpl
from ztnode.node.local_conf import LocalConf
from ztnode.node.transports import WaysOut, joined, named_transports
from ztnode.plugins.udp import UdpTransport

RELAY = ("192.0.2.1", 443)
SOCKS = "socks5://joe:secret@proxy.example:1080"


def ways(asked: WaysOut, conf: LocalConf | None = None, *, foreign: bool = False) -> list[str]:
    manager = plugins.load()
    made = joined(named_transports(asked, manager), asked, conf or LocalConf(), manager, foreign=foreign)
    return [way.name for way in made._ways]


@pytest.fixture(autouse=True)
def no_proxies(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("HTTPS_PROXY", "ALL_PROXY", "NO_PROXY", "ZTNODE_SOCKS5"):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.lower(), raising=False)


def test_a_relay_comes_last_or_alone_or_not_at_all() -> None:
    assert ways(WaysOut()) == ["udp", "tcp"]
    assert ways(WaysOut(), foreign=True) == ["udp"], "a planet of one's own is no business of ZeroTier, Inc."
    assert ways(WaysOut(), LocalConf(tcp_relay=RELAY), foreign=True) == ["udp", "tcp://192.0.2.1:443"]
    assert ways(WaysOut(relay_use="auto"), foreign=True) == ["udp", "tcp"]
    assert ways(WaysOut(relay_use="force", relay=RELAY)) == ["tcp://192.0.2.1:443"]
    assert ways(WaysOut(), LocalConf(tcp_relay_use="force")) == ["tcp"]
    assert ways(WaysOut(relay_use="off"), LocalConf(tcp_relay=RELAY, tcp_relay_use="force")) == ["udp"]
    assert ways(WaysOut(("tcp://a.example:1", "udp"))) == ["tcp://a.example:1", "udp"]


def test_a_strangers_is_as_good_as_ours(monkeypatch: pytest.MonkeyPatch) -> None:
    stranger = types.ModuleType("stranger")

    @hookimpl
    def ztnode_transport(name: str) -> Transport | None:
        return UdpTransport() if name.startswith("pigeon") else None

    stranger.ztnode_transport = ztnode_transport  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "stranger", stranger)
    found = importlib.metadata.EntryPoint("transport-pigeon", "stranger", plugins.GROUP)
    monkeypatch.setattr(plugins, "_installed", lambda: [found])
    asked = WaysOut(("udp", "pigeon://coop", "tcp://a.example:1"))
    assert ways(asked) == ["udp", "pigeon://coop", "tcp://a.example:1"]


def test_proxies(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HTTPS_PROXY", "proxy.example:3128")
    assert ways(WaysOut()) == ["udp", "tcp"]
    assert ways(WaysOut(outer_proxy=SOCKS)) == ["udp", "socks5", "tcp"]
    assert ways(WaysOut((SOCKS,), "off")) == ["socks5://proxy.example:1080"], "without the password"
    monkeypatch.delenv("HTTPS_PROXY")
    monkeypatch.setenv("all_proxy", "socks5h://proxy.example")
    assert ways(WaysOut()) == ["udp", "socks5", "tcp"]
    assert ways(WaysOut(outer_proxy="none")) == ["udp", "tcp"]


@pytest.mark.parametrize(
    ("asked", "reason"),
    [
        (WaysOut(("quic",)), "no plugin offers the transport 'quic'"),
        (WaysOut(("quic://joe:secret@x",)), "'quic://x'"),
        (WaysOut(("socks5",)), "knows no proxy"),
        (WaysOut(("socks5://joe:secret@x:port",)), "'socks5://x:port' is no proxy"),
        (WaysOut((f"socks5://{'n' * 256}:p@x:1",)), "1 to 255 bytes"),
        (WaysOut(outer_proxy="ftp://joe:secret@x"), "'ftp://x' is no proxy"),
    ],
)
def test_what_cannot_be_is_refused(asked: WaysOut, reason: str) -> None:
    with pytest.raises(ValueError, match=reason) as refused:
        ways(asked)
    assert "secret" not in str(refused.value)
