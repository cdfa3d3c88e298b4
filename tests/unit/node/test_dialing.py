"""Dials go on while nobody can have heard the question, and say what their network's state is when they fail."""

from __future__ import annotations

import asyncio
import errno
from collections.abc import Callable

import pytest

from ztnode.node.api import DialError, JoinState, NetworkInfo, RouteInfo
from ztnode.node.dialing import concerned, explained, persist


def network(
    nwid: int, state: JoinState, *addresses: str, detail: str = "", routes: tuple[str, ...] = ()
) -> NetworkInfo:
    return NetworkInfo(
        nwid=nwid,
        name="",
        state=state,
        detail=detail,
        mac=1,
        mtu=2800,
        addresses=addresses,
        routes=tuple(RouteInfo(target, None) for target in routes),
        dns_domain="",
        dns_servers=(),
        private=True,
        broadcast=True,
        revision=1,
        authentication_url="",
        from_cache=False,
    )


def dials(results: list[int | str], tried: list[float]) -> Callable[[float], object]:
    async def dial(left: float) -> str:
        tried.append(left)
        result = results.pop(0)
        if isinstance(result, int):
            raise DialError(result, "no")
        return result

    return dial


def test_lonely_dial_goes_on() -> None:
    tried: list[float] = []
    dial = dials([errno.EHOSTUNREACH] * 3 + ["connected"], tried)
    assert asyncio.run(persist(dial, lambda: True, 30.0, pause=0.0)) == "connected"  # type: ignore[arg-type]
    assert len(tried) == 4 and tried[0] > 29 and tried == sorted(tried, reverse=True)


@pytest.mark.parametrize(
    ("results", "lonely", "timeout"),
    [
        ([errno.EHOSTUNREACH], False, 30.0),
        ([errno.ECONNREFUSED], True, 30.0),
        ([errno.EHOSTUNREACH], True, 0.0),
        ([errno.ETIMEDOUT], True, 30.0),
    ],
)
def test_any_other_failure_counts_at_once(results: list[int | str], lonely: bool, timeout: float) -> None:
    expected = results[0]
    with pytest.raises(DialError) as failure:
        asyncio.run(persist(dials(results, []), lambda: lonely, timeout))  # type: ignore[arg-type]
    assert failure.value.errno == expected


@pytest.mark.parametrize("results", [[errno.EHOSTUNREACH, errno.ETIMEDOUT], [errno.EHOSTUNREACH] * 99])
def test_a_lonely_dial_whose_time_is_over_tells_of_the_whole_of_it(results: list[int | str]) -> None:
    with pytest.raises(DialError) as failure:
        asyncio.run(persist(dials(results, []), lambda: True, 0.2, pause=0.05))  # type: ignore[arg-type]
    assert failure.value.errno == errno.EHOSTUNREACH
    assert failure.value.strerror == "no; no other member of its network is known so far"


def test_failure_names_the_network_and_its_state() -> None:
    good = network(1, JoinState.OK, "10.0.0.1/24", routes=("10.9.0.0/16",))
    waiting = network(0x9AD07D01093A69E3, JoinState.WAITING_FOR_AUTHORIZATION, detail="authorize it")
    lost = network(3, JoinState.NOT_FOUND, "10.3.0.1/24")
    assert concerned([good, waiting, lost], "10.9.1.1", None) == [good]
    assert concerned([good, waiting, lost], "10.9.1.1", 3) == [lost]
    unreachable = DialError(errno.ENETUNREACH, "no joined network has a route to it")
    told = explained(unreachable, [good, waiting], "192.168.1.1", None, online=True)
    assert told.errno == errno.ENETUNREACH
    assert "9ad07d01093a69e3 is waiting for authorization (authorize it)" in str(told)
    assert "not found" in str(
        explained(DialError(errno.EHOSTUNREACH, "x"), [good, lost], "10.3.0.9", None, online=True)
    )
    assert explained(unreachable, [good], "192.168.1.1", None, online=True) is unreachable
    refused = DialError(errno.ECONNREFUSED, "x")
    assert explained(refused, [lost], "10.3.0.9", None, online=True) is refused


@pytest.mark.parametrize("number", [errno.ENETUNREACH, errno.EHOSTUNREACH, errno.ETIMEDOUT])
def test_a_call_of_a_node_without_a_root_says_so(number: int) -> None:
    good = network(1, JoinState.OK, "10.3.0.1/24")
    failed = DialError(number, "no answer")
    told = explained(failed, [good], "10.3.0.9", None, online=False)
    assert told.errno == number and str(told.strerror) == "no answer; this node is offline: no root answers"
    assert explained(failed, [good], "10.3.0.9", None, online=True) is failed
