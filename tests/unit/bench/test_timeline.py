"""Who woke whom, from what perf says."""

from __future__ import annotations

import pytest

from tests.bench.timeline import Trace

CLIENT, WORKER, NODE = 1, 2, 3


def woken(waker: int, at: float, who: int) -> str:
    return f"{waker:5} [001] 86321.{at:06.0f}: sched:sched_waking: comm=event engine pid={who} prio=120 target_cpu=000"


def runs(at: float, who: int) -> str:
    return (
        f"    0 [000] 86321.{at:06.0f}: sched:sched_switch: prev_comm=swapper/0 prev_pid=0 prev_prio=120 prev_state=R "
        f"==> next_comm=python next_pid={who} next_prio=120"
    )


def test_the_chain_of_a_request() -> None:
    lines = [
        woken(WORKER, 90, CLIENT),
        runs(100, CLIENT), woken(CLIENT, 140, WORKER), runs(150, WORKER), woken(WORKER, 230, NODE), runs(260, NODE),
        woken(NODE, 360, WORKER), runs(365, NODE), runs(370, WORKER), runs(380, WORKER), woken(WORKER, 500, CLIENT),
        "no line of perf's",
    ]  # fmt: skip
    (chain,) = Trace(lines).chains(CLIENT)
    assert [step.pid for step in chain] == [CLIENT, WORKER, NODE, WORKER]
    assert [(step.ran - step.woken) * 1e6 for step in chain] == pytest.approx([0, 10, 30, 10], abs=0.1)
    assert [(step.woke_next - step.ran) * 1e6 for step in chain] == pytest.approx([40, 80, 100, 130], abs=0.1)


def test_a_run_that_nobody_told_of_began_at_once() -> None:
    lines = [woken(WORKER, 90, CLIENT), woken(CLIENT, 140, WORKER), woken(WORKER, 500, CLIENT)]
    (chain,) = Trace(lines).chains(CLIENT)
    assert [(step.ran - step.woken) * 1e6 for step in chain] == [0, 0]
    assert [(step.woke_next - step.ran) * 1e6 for step in chain] == pytest.approx([50, 360], abs=0.1)


def test_what_the_client_did_not_begin_is_no_request() -> None:
    assert Trace([runs(1, WORKER), woken(WORKER, 5, CLIENT)]).chains(CLIENT) == []
    assert Trace([woken(NODE, 1, WORKER), woken(WORKER, 5, CLIENT)]).chains(CLIENT) == []
