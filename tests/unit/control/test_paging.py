"""Pages of the List calls, and the client that turns them."""

from __future__ import annotations

import base64
import dataclasses
from collections.abc import Callable, Iterator
from typing import Any

import grpc
import pytest
from hypothesis import given
from hypothesis import strategies as st

import ztclient
from tests.unit.fake_node import NWID, RunningNode, configured
from ztclient.v1 import node_pb2 as pb
from ztclient.v1 import node_pb2_grpc as rpc
from ztnode.control import paging
from ztnode.control.failure import RpcFailure
from ztnode.control.paging import page

MANY = 2 * paging.MAX_ENTRIES + 1


@pytest.fixture
def stub(running_node: RunningNode) -> Iterator[rpc.NodeServiceStub]:
    with grpc.insecure_channel(running_node.addresses[0]) as channel:
        yield rpc.NodeServiceStub(channel)


def fill(running_node: RunningNode, count: int) -> list[str]:
    """Have the node in ``count`` networks; gives their ids in order."""
    numbers = [NWID + step for step in range(count)]
    running_node.node.known = {nwid: configured(nwid) for nwid in reversed(numbers)}
    return [f"{nwid:016x}" for nwid in numbers]


def test_pages_hold_every_entry_once_and_in_order(running_node: RunningNode, stub: rpc.NodeServiceStub) -> None:
    ids = fill(running_node, 7)
    found: list[str] = []
    lengths = []
    request = pb.ListNetworksRequest(page_size=3)
    while True:
        answer = stub.ListNetworks(request)
        lengths.append(len(answer.networks))
        found += [network.network_id for network in answer.networks]
        if not answer.next_page_token:
            break
        request.page_token = answer.next_page_token
    assert found == ids
    assert lengths == [3, 3, 1]


def test_a_page_that_ends_with_the_list_has_no_token(running_node: RunningNode, stub: rpc.NodeServiceStub) -> None:
    fill(running_node, 3)
    assert stub.ListNetworks(pb.ListNetworksRequest(page_size=3)).next_page_token == ""


def test_what_changes_between_two_pages_moves_nothing_else(
    running_node: RunningNode, stub: rpc.NodeServiceStub
) -> None:
    ids = fill(running_node, 6)
    first = stub.ListNetworks(pb.ListNetworksRequest(page_size=3))
    known = dict(running_node.node.known)
    for text in (ids[0], ids[2]):  # also the one that the token names
        del known[int(text, 16)]
    known[NWID - 1] = configured(NWID - 1)
    running_node.node.known = known
    second = stub.ListNetworks(pb.ListNetworksRequest(page_size=3, page_token=first.next_page_token))
    assert [network.network_id for network in second.networks] == ids[3:]


def test_no_page_is_longer_than_the_node_allows(running_node: RunningNode, stub: rpc.NodeServiceStub) -> None:
    fill(running_node, MANY)
    for size in (0, 2**31 - 1):
        assert len(stub.ListNetworks(pb.ListNetworksRequest(page_size=size)).networks) == paging.MAX_ENTRIES


def test_a_page_is_bounded_in_bytes_too(running_node: RunningNode, stub: rpc.NodeServiceStub) -> None:
    long = dataclasses.replace(configured(NWID), detail="x" * 100_000)
    running_node.node.known = {nwid: dataclasses.replace(long, nwid=nwid) for nwid in range(NWID, NWID + 100)}
    answer = stub.ListNetworks(pb.ListNetworksRequest())
    assert paging.MAX_BYTES <= answer.ByteSize() < 2 * paging.MAX_BYTES
    assert answer.next_page_token
    assert len(ztclient.Node(state=running_node.state).networks()) == 100


def test_the_client_turns_the_pages(running_node: RunningNode) -> None:
    ids = fill(running_node, MANY)
    node = ztclient.Node(state=running_node.state)
    assert [network.nwid for network in node.networks()] == ids
    assert [address.nwid for address in node.addresses()] == [nwid for nwid in ids for _ in range(2)]


def test_a_node_that_gives_the_same_page_for_ever_is_given_up(running_node: RunningNode) -> None:
    control = ztclient.Node(state=running_node.state).control

    def same(_request: Any, **_options: Any) -> pb.ListPeersResponse:
        return pb.ListPeersResponse(peers=[pb.Peer()], next_page_token="again")

    with pytest.raises(ztclient.Error, match="the same page"):
        list(control.entries(same, pb.ListPeersRequest()))


def other_list(stub: rpc.NodeServiceStub) -> str:
    return stub.ListPeers(pb.ListPeersRequest(page_size=1)).next_page_token


@pytest.mark.parametrize(
    "token",
    [
        lambda stub: "x",
        lambda stub: "ümlaut",
        lambda stub: "=" * 5,
        lambda stub: base64.urlsafe_b64encode(bytes(100)).decode(),
        other_list,
    ],
)
def test_a_token_of_another_list_or_of_nobody_is_refused(
    running_node: RunningNode, stub: rpc.NodeServiceStub, token: Callable[[rpc.NodeServiceStub], str]
) -> None:
    fill(running_node, 3)
    with pytest.raises(grpc.RpcError) as caught:
        stub.ListNetworks(pb.ListNetworksRequest(page_token=token(stub)))
    assert isinstance(caught.value, grpc.Call)
    assert caught.value.code() == grpc.StatusCode.INVALID_ARGUMENT
    assert "begin again" in (caught.value.details() or "")


def test_a_negative_page_size_is_refused(stub: rpc.NodeServiceStub) -> None:
    with pytest.raises(grpc.RpcError) as caught:
        stub.ListPeers(pb.ListPeersRequest(page_size=-1))
    assert isinstance(caught.value, grpc.Call)
    assert caught.value.code() == grpc.StatusCode.INVALID_ARGUMENT


@given(
    keys=st.sets(st.binary(min_size=5, max_size=5), max_size=40),
    size=st.integers(1, 10),
)
def test_all_pages_together_are_the_list(keys: set[bytes], size: int) -> None:
    request = pb.ListPeersRequest(page_size=size)
    found: list[str] = []
    while True:
        entries = ((key, key) for key in keys)
        peers, request.page_token = page(request, "peers", entries, lambda key: pb.Peer(address=key.hex()))
        assert len(peers) <= size
        found += [peer.address for peer in peers]
        if not request.page_token:
            break
    assert found == [key.hex() for key in sorted(keys)]


@given(st.text())
def test_no_token_does_harm(token: str) -> None:
    request = pb.ListPeersRequest(page_token=token)
    try:
        peers, following = page(request, "peers", [(b"k", 1)], lambda _: pb.Peer())
    except RpcFailure as failure:
        assert failure.code == grpc.StatusCode.INVALID_ARGUMENT
    else:
        assert len(peers) <= 1 and not following
