"""What a standby reads in advance, and what it reads again once the store is its own."""

from __future__ import annotations

import hashlib
import random
import threading
from collections.abc import Iterable, Sequence

import pytest

from tests.unit.node.test_lease import Shared
from ztnode.controller import ControllerError, ParsedDocuments
from ztnode.controller.database import Database
from ztnode.hookspecs import SharedStore, TellsChanges
from ztnode.node import ahead as ahead_module
from ztnode.node.ahead import PART, Ahead, changes
from ztnode.node.lease import Lease
from ztnode.node.shared_state import SharedState


class Counting(Shared):
    """Notes whose values were read."""

    def __init__(self) -> None:
        super().__init__()
        self.given: list[str] = []

    def items(self, prefix: str = "") -> Iterable[tuple[str, bytes]]:
        for key, value in super().items(prefix):
            self.given.append(key)
            yield key, value


class Telling(Counting):
    """Tells digests, as PostgreSQL does."""

    def digests(self, prefix: str = "") -> Iterable[tuple[str, bytes]]:
        self._try()
        return [(key, hashlib.sha256(value).digest()) for key, value in self.values.items()]

    def read_many(self, keys: Sequence[str]) -> Iterable[tuple[str, bytes]]:
        assert len(keys) <= PART
        self.given += keys
        return [(key, self.values[key]) for key in keys if key in self.values]


def key(number: int) -> str:
    return f"controller.d/network/1122334455000001/member/{number:010x}.json"


def filled(store: Counting, count: int = 3000) -> Counting:
    store.values = {"lease/holder": b"somebody", "lease/beat": b"1", "pool/0/planet": b"another's"}
    store.values |= {key(number): b'{"revision":%d}' % number for number in range(count)}
    return store


def state_of(store: Counting) -> dict[str, bytes]:
    return {key: value for key, value in store.values.items() if not key.startswith(("lease/", "pool/"))}


def taken_over(store: Shared, known: dict[str, bytes]) -> SharedState:
    state = SharedState(store, Lease(store, token="ours"), "the store")
    state.load(known)
    return state


def looked(store: Counting, prepared: list[str]) -> dict[str, bytes]:
    """What one look knows."""
    ahead = Ahead(lambda: store, "the store", lambda key, _value: prepared.append(key))
    ahead._look(store)
    return ahead.stop()


@pytest.mark.parametrize("kind", [Counting, Telling])
def test_only_what_is_other_by_then_is_read_and_nothing_stale_is_served(kind: type[Counting]) -> None:
    store = filled(kind())
    assert isinstance(store, SharedStore) and isinstance(store, TellsChanges) is (kind is Telling)
    prepared: list[str] = []
    known = looked(store, prepared)
    assert known == state_of(store) and sorted(prepared) == sorted(known)
    store.given.clear()
    store.values[key(7)] = b"changed"
    store.values[key(5000)] = b"new"
    store.values["lease/beat"] = b"2"
    del store.values[key(9)]
    state = taken_over(store, known)
    assert {name: state.read(name) for name in state.keys("")} == state_of(store)
    assert state.read(key(9)) is None
    if kind is Telling:
        assert sorted(store.given) == [key(7), key(5000)]
    state.close()


@pytest.mark.parametrize("seed", range(20))
def test_whatever_happens_between_looks_the_state_is_the_stores(seed: int) -> None:
    """A restored backup, a server that lost the last writes, other nodes in between: all are changes."""
    chance = random.Random(seed)
    store = filled(chance.choice((Counting, Telling))(), 50)
    known: dict[str, bytes] = {}
    for _ in range(4):
        for name, value in changes(store, known):
            if value is None:
                del known[name]
            else:
                known[name] = value
            if chance.random() < 0.02:
                break  # it was needed in the middle of a look
        for _ in range(chance.randrange(30)):
            number = chance.randrange(70)
            if chance.random() < 0.4:
                store.values.pop(key(number), None)
            else:
                store.values[key(number)] = chance.choice((b"a", b"b", b""))
    state = taken_over(store, known)
    assert {name: state.read(name) for name in state.keys("")} == state_of(store)
    state.close()


def test_a_standby_keeps_no_more_than_it_may(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ahead_module, "MAX_AHEAD_BYTES", 1000)
    store = filled(Telling())
    known = looked(store, [])
    assert 900 < sum(map(len, known.values())) <= 1000
    state = taken_over(store, known)
    assert {name: state.read(name) for name in state.keys("")} == state_of(store)
    state.close()


def test_a_store_that_fails_ends_no_standby_and_a_look_ends_when_it_is_needed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ahead_module, "LOOK_EVERY", 0.0)
    monkeypatch.setattr(ahead_module, "LOOK_SHARE", 0.0)
    monkeypatch.setattr(ahead_module, "GENTLY", 1)
    store = filled(Telling())
    tries, went_on = 0, threading.Event()

    def opened() -> Shared:
        nonlocal tries
        tries += 1
        if tries < 3:
            raise ConnectionError("it is out")
        return store

    ahead = Ahead(opened, "the store", lambda _key, _value: went_on.set())
    ahead.start()
    ahead.start()
    assert went_on.wait(10) and tries == 3
    assert ahead.stop().items() <= state_of(store).items()


def test_a_store_that_loses_all_while_it_is_read_is_not_believed() -> None:
    class Losing(Counting):
        def items(self, prefix: str = "") -> Iterable[tuple[str, bytes]]:
            state.forgotten()
            return super().items(prefix)

    store = filled(Losing())
    state = SharedState(store, Lease(store, token="ours"), "the store")
    with pytest.raises(ConnectionError, match="lost what it had"):
        state.load()
    state.close()


def test_a_document_that_was_parsed_in_advance_counts_for_the_same_bytes_alone() -> None:
    network = "controller.d/network/1122334455000001.json"
    documents = {network: b'{"name":"lab"}', key(1): b'{"name":"one"}', key(2): b'{"name":"two"}', key(3): b"{}"}
    parsed = ParsedDocuments()
    for name, data in {**documents, key(2): b'{"name":"stale"}', key(4): b"{", "planet": b"x", key(5): b"{}"}.items():
        parsed.prepare(name, data)
    parsed.prepare(key(3), b'{"name":"older"}')
    parsed.prepare(key(3), None)
    database, plain = Database(), Database()
    before = parsed._members[key(1)][1]
    database.load(documents, parsed)
    plain.load(documents)
    assert database.networks() == plain.networks()
    assert database.members(0x1122334455000001) == plain.members(0x1122334455000001)
    assert database.member(0x1122334455000001, 1) is before
    with pytest.raises(ControllerError, match=r"0000000004\.json: not JSON"):
        Database().load({**documents, key(4): b"{"}, parsed)
