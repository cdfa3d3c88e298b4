"""The first segment of a connection and others without text, and a connection that is made before it is asked for."""

from __future__ import annotations

import random
from collections.abc import Callable

import pytest

from tests.unit.netstack.tcp.tcp_script import ACK, SYN, Script
from tests.unit.netstack.tcp.tcp_sim import PORT, World
from ztnode.netstack.tcp.connection import TcpConnection
from ztnode.netstack.tcp.framing import HeaderFields, SegmentWriter
from ztnode.netstack.tcp.tcp_config import TcpConfig
from ztnode.wire import tcp as wire


@pytest.mark.parametrize("v6", [False, True])
@pytest.mark.parametrize("flags", [SYN, SYN | ACK])
def test_a_syn_made_in_one_step_is_the_one_made_in_several(v6: bool, flags: int) -> None:
    rng = random.Random(flags + v6)
    world = World(seed=1)
    client, _ = world.pair(v6=v6)
    writer = SegmentWriter(client.link.flow, 50_000, 80)
    for _ in range(200):
        seq, ack, tsval, recent = (rng.getrandbits(32) for _ in range(4))
        window, mss, scale = rng.getrandbits(16), rng.getrandbits(16), rng.randrange(15)
        options = wire.build_options(wire.Options(mss, scale, True, (), (tsval, recent)))
        assert writer.syn(seq, ack, flags, window, mss, scale, tsval, recent) == writer.control(
            seq, flags, HeaderFields(ack, window, options)
        )


@pytest.mark.parametrize("v6", [False, True])
def test_a_segment_without_text_is_the_one_with_no_text(v6: bool) -> None:
    rng = random.Random(v6)
    client, _ = World(seed=1).pair(v6=v6)
    writer = SegmentWriter(client.link.flow, 50_000, 80)
    for _ in range(200):
        seq, ack, flags, window = rng.getrandbits(32), rng.getrandbits(32), rng.getrandbits(8), rng.getrandbits(16)
        fields = HeaderFields(ack, window, rng.randbytes(4 * rng.randrange(11)))
        assert [writer.control(seq, flags, fields)] == writer.build(((),), [0], [0], seq, flags, flags, fields)


def repeated(s: Script) -> TcpConnection:
    """The second connection to one place, and what is made ahead after it."""
    s.connect()
    second = s.connect()
    s.sent()
    s.layer.make_ahead(s.now)
    return second


@pytest.fixture
def made(monkeypatch: pytest.MonkeyPatch) -> list[TcpConnection]:
    """All connections, when they are made."""
    found: list[TcpConnection] = []
    really = TcpConnection.__init__

    def init(self: TcpConnection, *arguments: object) -> None:
        really(self, *arguments)  # type: ignore[arg-type]
        found.append(self)

    monkeypatch.setattr(TcpConnection, "__init__", init)
    return found


def test_a_connection_made_ahead_is_the_next_to_that_place(made: list[TcpConnection]) -> None:
    s = Script()
    repeated(s)
    assert len(made) == 3
    assert made[2] not in s.layer.connections()
    assert s.sent() == [] and s.frames == []
    s.layer.make_ahead(s.now)
    assert len(made) == 3, "one is enough"
    s.now += 20
    assert s.established(ts=True) is made[2]
    assert made[2].snd.rtt.srtt == pytest.approx(0.01)
    assert made[2] in s.layer.connections()
    assert len({connection.link.local_port for connection in made}) == 3
    made[2].write(b"question")
    assert [payload for _, payload in s.sent()] == [b"question"]
    s.layer.make_ahead(s.now)
    assert len(made) == 4


def test_nothing_is_made_ahead_for_who_goes_somewhere_else_each_time(made: list[TcpConnection]) -> None:
    s = Script()
    for port in (80, 81, 80):
        s.peer_port = port
        s.connect()
        s.layer.make_ahead(s.now)
    assert len(made) == 3
    s.connect(congestion="newreno")
    s.layer.make_ahead(s.now)
    assert len(made) == 4
    assert s.connect(congestion="newreno").config.congestion == "newreno"
    s.layer.make_ahead(s.now)
    assert s.connect().config.congestion == "cubic", "it was made for another"


def _narrower(s: Script, ahead: TcpConnection) -> None:
    s.mtu, s.generation = 1280, s.generation + 1


def _listens(s: Script, ahead: TcpConnection) -> None:
    s.layer.listen(ahead.link.local_port)


def _connects(s: Script, ahead: TcpConnection) -> None:
    s.layer.connect(s, s.peer_port, s.now, local_port=ahead.link.local_port)


def _address_goes(s: Script, ahead: TcpConnection) -> None:
    s.layer.address_removed(PORT, s.local, s.now)


def _network_goes(s: Script, ahead: TcpConnection) -> None:
    s.layer.port_removed(PORT, s.now)


@pytest.mark.parametrize("change", [_narrower, _listens, _connects, _address_goes, _network_goes])
def test_what_was_made_ahead_is_not_used_after_a_change(
    made: list[TcpConnection], change: Callable[[Script, TcpConnection], None]
) -> None:
    s = Script()
    repeated(s)
    ahead = made[-1]
    change(s, ahead)
    connection = s.connect()
    assert connection is not ahead
    assert ahead not in s.layer.connections()
    assert connection.link.size.offer == s.mtu - 40


def test_without_a_free_port_nothing_is_made_ahead(made: list[TcpConnection]) -> None:
    s = Script(TcpConfig(ephemeral_ports=(50_000, 50_001)))
    repeated(s)
    assert len(made) == 2
