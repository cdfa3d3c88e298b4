"""What is promised of one state store is kept by all of them; the shared ones are shown with real servers."""

from __future__ import annotations

import contextlib
import socketserver
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from ztnode_store_sqlite import SqliteStore

from tests.system.store_servers import Servers, open_shared
from ztnode.hookspecs import LeaseLost, SharedStore, StateStore
from ztnode.node.lease import BEAT, HELD_FOR, HOLDER, TAKEN_AFTER, Lease, Process
from ztnode.node.opening import Part
from ztnode.node.sealed_store import SealedStore
from ztnode.node.shared_state import SharedState
from ztnode.plugins.stores import FileStore, MemoryStore

SHARED = ("postgresql", "redis", "etcd", "s3", "kubernetes")
KEY = bytes(range(32))
VALUES = {
    "identity.secret": b"89e92ceee5:0:" + b"ab" * 64,
    "networks.d/9ad07d01093a69e3.conf": b"\n",
    "peers.d/known.peers": bytes(range(256)) * 400,
    "controller.d/network/89e92ceee5000001/member/89e92ceee5.json": b'{"a":"\xc3\xa9"}',
    "empty": b"",
    "odd_name.with-all_2f": b"\0",
}


@pytest.fixture(scope="module")
def servers() -> Iterator[Servers]:
    started = Servers()
    yield started
    started.close()


@pytest.fixture(params=SHARED)
def url(request: pytest.FixtureRequest, servers: Servers) -> str:
    """Of an empty shared store."""
    return servers.url(request.param)


def leased(store: SharedStore, lease_store: SharedStore) -> StateStore:
    lease = Lease(lease_store, token="test")
    assert lease.try_take() is None
    lease.fence(store)
    state = SharedState(store, lease, "the store")
    state.load()
    return state


Open = Callable[[], StateStore]


@pytest.fixture(params=["file", "sqlite", "sealed", *SHARED, "pool", "sealed-postgresql"])
def opener(request: pytest.FixtureRequest, servers: Servers, tmp_path: Path) -> Open:
    """Opens one and the same store each time."""
    kind = request.param
    if kind == "file":
        return lambda: FileStore(tmp_path / "st")
    if kind == "sqlite":
        return lambda: SqliteStore(tmp_path / "st.db")
    if kind == "sealed":
        return lambda: SealedStore(FileStore(tmp_path / "st"), KEY)
    at = servers.url("redis" if kind == "pool" else kind.removeprefix("sealed-"))
    if kind == "pool":
        return lambda: leased(Part(open_shared(at), "pool/3/"), Part(open_shared(at), "pool/3/"))
    if kind.startswith("sealed"):
        return lambda: SealedStore(leased(open_shared(at), open_shared(at)), KEY)
    return lambda: leased(open_shared(at), open_shared(at))


def test_what_is_written_is_read_and_found_again(opener: Open) -> None:
    store = opener()
    assert list(store.keys()) == []
    for key, value in VALUES.items():
        assert store.read(key) is None
        store.write(key, b"before")
        store.write(key, value)
    store.write("gone", b"x")
    store.delete("gone")
    store.delete("gone")
    for _ in range(2):
        assert {key: store.read(key) for key in store.keys("")} == VALUES
        assert list(store.keys("networks.d/")) == ["networks.d/9ad07d01093a69e3.conf"]
        assert store.read("gone") is None
        store.close()
        store = opener()
    for key in VALUES:
        store.delete(key)
    store.close()
    store = opener()
    assert list(store.keys()) == []
    store.close()


@pytest.mark.parametrize("bad", ["", "/etc/passwd", "../x", "a/../../x", ".hidden"])
def test_a_key_cannot_leave_the_store(bad: str, servers: Servers) -> None:
    state = leased(open_shared(servers.url("redis")), open_shared(servers.url("redis")))
    with pytest.raises(ValueError, match="not a state key"):
        state.read(bad)
    with pytest.raises(ValueError, match="not a state key"):
        state.write(bad, b"x")
    with pytest.raises(ValueError, match="not a state key"):
        state.delete(bad)
    state.close()


def test_of_many_that_swap_one_wins(url: str) -> None:
    """Each of two clients counts up ten times; nothing is lost."""
    first = open_shared(url)
    assert first.swap("n", None, b"0") and not first.swap("n", None, b"1") and not first.swap("n", b"7", b"8")

    def count() -> None:
        store = open_shared(url)
        done = 0
        while done < 10:
            before = store.read("n")
            assert before is not None
            done += store.swap("n", before, str(int(before) + 1).encode())
        store.close()

    threads = [threading.Thread(target=count) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert first.read("n") == b"20"
    assert first.swap("n", b"20", None) and first.read("n") is None and dict(first.items()) == {}
    assert first.swap("n", None, b"again") and dict(first.items()) == {"n": b"again"}
    first.close()


def test_a_fence_lets_nothing_through_once_the_lease_changed_hands(url: str) -> None:
    old, new = open_shared(url), open_shared(url)
    assert old.swap(HOLDER, None, b"old")
    old.fence(HOLDER, b"old")
    old.write("a", b"1")
    assert new.swap(HOLDER, b"old", b"new")
    new.fence(HOLDER, b"new")
    for key in "ab":
        with pytest.raises(LeaseLost):
            old.write(key, b"2")
    with pytest.raises(LeaseLost):
        old.delete("a")
    assert new.read("a") == b"1" and new.read("b") is None
    assert dict(new.items("a")) == {"a": b"1"}
    new.delete("a")
    new.write("b", b"3")
    assert {key: value for key, value in old.items() if key != HOLDER} == {"b": b"3"}
    assert new.swap(HOLDER, b"new", None)
    with pytest.raises(LeaseLost):
        new.write("b", b"4")
    old.close()
    new.close()


class Clock:
    now = 1000.0

    def __call__(self) -> float:
        return self.now


def elsewhere(monkeypatch: pytest.MonkeyPatch) -> None:
    """As if the other process ran on another host, where nobody sees whether it is there."""
    monkeypatch.setattr(Process, "is_gone", lambda self: False)


def test_who_waits_follows_a_holder_that_died_and_not_before_it_is_silent(
    url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    elsewhere(monkeypatch)
    clock = Clock()
    first, second = (Lease(open_shared(url), token=token, clock=clock) for token in ("one", "two"))
    assert first.try_take() is None and first.is_held()
    holder = second.try_take()
    assert holder is not None and holder.token == "one" and f"process {holder.process.pid} on " in str(holder)
    for _ in range(3):  # it lives
        clock.now += TAKEN_AFTER - 1
        assert first.renew() and first.is_held()
        assert second.try_take() is not None
    died = clock.now
    while second.try_take() is not None:
        clock.now += 0.5
    assert clock.now - died <= TAKEN_AFTER + 0.5
    assert not first.is_held() and clock.now - died > HELD_FOR
    assert second.is_held()
    told: list[str] = []
    first.when_lost(told.append)
    assert not first.renew() and not first.is_held()
    assert len(told) == 1 and "taken by process" in told[0]
    second.release()
    third = Lease(open_shared(url), token="three", clock=clock)
    assert third.try_take() is None  # what was given back is free at once
    third.release()


def test_a_lease_that_makes_no_sense_is_named_and_stays(url: str) -> None:
    store = open_shared(url)
    lease = Lease(open_shared(url), token="x")
    for nonsense in (b"", b"{}", b"[]", b"\xff", b'{"token":1}', b"9" * 10_000, b"[" * 3000):
        store.write(HOLDER, nonsense)
        with pytest.raises(OSError, match="lease/holder in the store is damaged"):
            lease.try_take()
        assert store.read(HOLDER) == nonsense and store.read(BEAT) is None
    store.close()


def test_a_value_that_is_no_state_is_named_and_stays(servers: Servers) -> None:
    at = servers.url("redis")
    store = open_shared(at)
    store.write("planet", bytes((1 << 20) + 1))
    store.write("../../etc/passwd", b"not ours")
    with pytest.raises(OSError, match="planet in the store is damaged"):
        leased(open_shared(at), open_shared(at))
    assert len(store.read("planet") or b"") == (1 << 20) + 1
    store.delete("planet")
    assert list(leased(open_shared(at), open_shared(at)).keys()) == []
    assert store.read("../../etc/passwd") == b"not ours"


@pytest.mark.parametrize(
    ("url", "said"),
    [
        ("redis://127.0.0.1:1/shop", "'shop' is none"),
        ("redis://127.0.0.1:1/0?hsah=x", "'hsah'"),
        ("etcd://127.0.0.1:1/x?ca=ca.pem", "no parameter 'ca'"),
        ("etcds://127.0.0.1:1/x?caa=ca.pem", "no parameter 'caa'"),
        ("etcds://127.0.0.1:1/x?ca=nothing.pem", "ca=nothing.pem: No such file"),
        ("s3://state/x?endpiont=http://127.0.0.1:1", "no parameter 'endpiont'"),
        ("kubernetes://a/b?api=https://127.0.0.1:1&ca=nothing.pem", "ca=nothing.pem"),
        ("kubernetes://a/b?apo=https://127.0.0.1:1", "no parameter 'apo'"),
    ],
)
def test_what_a_url_says_is_used_or_refused(url: str, said: str) -> None:
    with pytest.raises(ValueError, match=said):
        open_shared(url)


def test_another_key_is_refused_and_a_moved_value_noticed(tmp_path: Path) -> None:
    inner = MemoryStore()
    SealedStore(inner, KEY).write("planet", b"a secret")
    assert b"secret" not in (inner.read("planet") or b"")
    with pytest.raises(OSError, match="another key"):
        SealedStore(inner, bytes(32))
    again = SealedStore(inner, KEY)
    assert again.read("planet") == b"a secret"
    inner.write("moons.d/x.moon", inner.read("planet") or b"")
    with pytest.raises(OSError, match=r"moons.d/x.moon in the store is damaged"):
        again.read("moons.d/x.moon")
    inner.write("planet", b"in the clear")
    with pytest.raises(OSError, match="planet in the store is not encrypted"):
        again.read("planet")
    clear = MemoryStore()
    clear.write("planet", b"x")
    with pytest.raises(OSError, match="the store is not encrypted"):
        SealedStore(clear, KEY)
    assert list(clear.keys()) == ["planet"]


class Nonsense(socketserver.StreamRequestHandler):
    """Answers whatever is asked with what no store says."""

    answer = b""

    def handle(self) -> None:
        with contextlib.suppress(OSError):
            self.connection.settimeout(0.2)
            self.connection.recv(65536)
            self.connection.sendall(self.answer)


def http(body: bytes) -> bytes:
    return b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n%s" % (len(body), body)


NONSENSE = (
    b"\xff" * 100,
    http(b"<html>not yours</html>"),
    http(b"[]"),
    http(b'{"kvs": [{"key": "%%%"}], "kind": 7, "metadata": null, "succeeded": "yes"}'),
)


@pytest.mark.parametrize("answer", NONSENSE)
@pytest.mark.parametrize(
    "url",
    [
        "postgresql://x@{}/x",
        "redis://{}/0",
        "etcd://{}/x",
        "s3://state/x?endpoint=http://{}",
        "kubernetes://a/b?api=http://{}",
    ],
)
def test_what_is_no_such_store_is_said_in_one_line(url: str, answer: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.setenv(name, "test")
    monkeypatch.setenv("AWS_DEFAULT_REGION", "us-east-1")
    handler = type("Answering", (Nonsense,), {"answer": answer})
    with socketserver.ThreadingTCPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True).start()
        with pytest.raises(OSError) as caught:
            open_shared(url.format(f"127.0.0.1:{server.server_address[1]}"))
        assert str(caught.value) and "\n" not in str(caught.value)
        server.shutdown()
