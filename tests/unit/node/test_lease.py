"""What a holder may conclude from a store that fails; tests/system has leases on real stores."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from collections.abc import Iterable, Sequence
from dataclasses import replace
from pathlib import Path

import pytest

from ztnode.embedded import free_port
from ztnode.hookspecs import LeaseLost, SharedStore
from ztnode.node import lease as lease_module
from ztnode.node.lease import HELD_FOR, HOLDER, RENEW_EVERY, Holder, Lease, Process, down_for_everybody
from ztnode.node.opening import store_name


class Shared:
    """A shared store in memory, which may fail."""

    def __init__(self) -> None:
        self.values: dict[str, bytes] = {}
        self.failure: OSError | None = None
        self.where: list[tuple[str, int] | str] = []
        self._fence: tuple[str, bytes] | None = None

    def _try(self) -> None:
        if self.failure is not None:
            raise self.failure

    def read(self, key: str) -> bytes | None:
        self._try()
        return self.values.get(key)

    def items(self, prefix: str = "") -> Iterable[tuple[str, bytes]]:
        self._try()
        return [(key, value) for key, value in self.values.items() if key.startswith(prefix)]

    def write(self, key: str, value: bytes) -> None:
        self._try()
        if self._fence is not None and self.values.get(self._fence[0]) != self._fence[1]:
            raise LeaseLost("fenced")
        self.values[key] = value

    def delete(self, key: str) -> None:
        self._try()
        self.values.pop(key, None)

    def swap(self, key: str, old: bytes | None, new: bytes | None) -> bool:
        self._try()
        if self.values.get(key) != old:
            return False
        if new is None:
            self.values.pop(key, None)
        else:
            self.values[key] = new
        return True

    def fence(self, key: str, value: bytes) -> None:
        self._fence = key, value

    def endpoints(self) -> Sequence[tuple[str, int] | str]:
        return self.where

    def close(self) -> None:
        pass


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def store() -> Shared:
    return Shared()


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def lease(store: Shared, clock: Clock) -> Lease:
    assert isinstance(store, SharedStore)
    lease = Lease(store, token="ours", clock=clock)
    assert lease.try_take() is None
    return lease


def test_out_of_reach_the_holder_is_silent_in_time(lease: Lease, store: Shared, clock: Clock) -> None:
    told: list[str] = []
    lease.when_lost(told.append)
    store.failure = TimeoutError("no answer")
    while clock.now < HELD_FOR:
        assert lease.is_held() and lease.renew()
        clock.now += RENEW_EVERY
    assert not lease.is_held()
    assert not lease.renew() and len(told) == 1 and "could not be reached" in told[0]


def test_down_for_everybody_it_goes_on(lease: Lease, store: Shared, clock: Clock) -> None:
    store.where = [("127.0.0.1", free_port())]
    store.failure = ConnectionError("connection refused")
    for _ in range(100):
        clock.now += RENEW_EVERY
        assert lease.renew() and lease.is_held()
    clock.now += HELD_FOR  # it froze for so long: what it learns now says nothing about the time before
    assert not lease.renew() and not lease.is_held()


def test_a_beat_that_comes_late_and_is_let_through_proves_that_nobody_took_it(
    lease: Lease, store: Shared, clock: Clock
) -> None:
    clock.now += 100
    assert not lease.is_held()
    assert lease.renew() and lease.is_held()
    store.values[HOLDER] = Holder("other", 0, Process.current()).build()
    assert not lease.renew() and not lease.is_held()


@pytest.mark.parametrize("jump", [-7 * 3600, 7 * 3600, -1_700_000_000, 1 << 40])
def test_a_time_of_day_that_is_set_takes_and_gives_no_lease(
    store: Shared, jump: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is in the record for people alone: holder and waiting count seconds of their hosts' own."""
    monkeypatch.setattr(Process, "is_gone", lambda self: False)
    wall, clock, other = 1_700_000_000, Clock(), Shared()
    other.values = store.values  # the same server, by a connection of its own
    first = Lease(store, token="first", clock=clock, wall=lambda: wall)
    second = Lease(other, token="second", clock=clock, wall=lambda: wall)
    assert first.try_take() is None and second.try_take() is not None
    for _ in range(4):
        wall += jump
        clock.now += RENEW_EVERY
        assert first.is_held() and first.renew() and second.try_take() is not None
    wall -= 5 * jump
    clock.now += lease_module.TAKEN_AFTER - 0.1
    assert not first.is_held() and second.try_take() is not None
    clock.now += 0.2
    assert second.try_take() is None and second.is_held() and not first.renew()
    assert first.try_take() is not None, "what stands in the store can be read"


def test_a_store_that_is_full_is_as_one_that_is_out(
    store: Shared, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_arguments: object) -> bool:
        raise OSError("lease/holder: no space left")

    waiting = Lease(store, token="waiting", clock=clock)
    for held in (False, True):
        if held:
            store.values[HOLDER] = replace(
                Holder("other", 0, Process.current()), process=Process("elsewhere", 1, "", "")
            ).build()
            assert waiting.try_take() is not None
            clock.now += lease_module.TAKEN_AFTER
        with monkeypatch.context() as patch:
            patch.setattr(store, "swap", full)
            with pytest.raises(ConnectionError, match="no space left"):  # what a standby and one that lost it wait out
                waiting.try_take()
        assert waiting.try_take() is None
        waiting.release()


@pytest.mark.parametrize("silent", [False, True])
def test_what_tells_a_store_that_is_down_from_one_out_of_reach(silent: bool, tmp_path: Path) -> None:
    error = TimeoutError("") if silent else ConnectionError("")
    nobody = ("127.0.0.1", free_port())
    assert down_for_everybody(error, [nobody, str(tmp_path / "nothing.sock")])
    with socket.create_server(("127.0.0.1", 0)) as there:
        listening = there.getsockname()[:2]
        # It accepts: only if it then is silent, on this very host, is it down.
        assert down_for_everybody(error, [listening]) is silent
        assert down_for_everybody(error, [nobody, listening]) is silent
    assert not down_for_everybody(error, [])
    assert not down_for_everybody(error, [("store.invalid", 1)])
    assert not down_for_everybody(OSError("it answers, and refuses"), [nobody])
    assert down_for_everybody(ConnectionRefusedError("it is starting"), [])


def test_a_process_of_this_host_that_ended_is_gone(monkeypatch: pytest.MonkeyPatch) -> None:
    ours = Process.current()
    assert not ours.is_gone()
    with subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE) as child:
        other = replace(ours, pid=child.pid)
        assert other.is_gone(), "another process has its number now"
    assert not replace(ours, pid=1 << 22, space="another boot").is_gone()
    assert not replace(ours, pid=1 << 22, started="").is_gone()
    assert replace(ours, pid=1 << 22).is_gone()
    monkeypatch.setattr(lease_module, "_started", lambda pid: None)  # as /proc hides the processes of others
    assert not ours.is_gone()


def test_a_holder_is_read_as_it_was_written() -> None:
    holder = Holder("token", 1_700_000_000, Process("web-1", os.getpid(), "space", "1"))
    assert Holder.parse(holder.build()) == holder
    assert str(holder) == f"process {os.getpid()} on web-1 since 2023-11-14 22:13:20 UTC"
    with pytest.raises(ValueError, match="not the record"):
        Holder.parse(holder.build().replace(b"web-1", b"\\u001b[2J"))
    with pytest.raises(ValueError, match="not the record"):
        Holder.parse(holder.build().replace(b"1700000000", b"1e400"))


@pytest.mark.parametrize(
    ("url", "name"),
    [
        ("postgresql://me:secret@db.example/ztnode?password=secret", "postgresql://db.example/ztnode"),
        ("redis://:secret@[::1]:6379/0?hash=x", "redis://[::1]:6379/0"),
        ("etcd://a:1,b:2/x", "etcd://a:1,b:2/x"),
        ("/var/lib/ztnode", "/var/lib/ztnode"),
        ("sqlite:/var/x.db", "sqlite:/var/x.db"),
    ],
)
def test_no_password_is_in_a_stores_name(url: str, name: str) -> None:
    assert store_name(url) == name
