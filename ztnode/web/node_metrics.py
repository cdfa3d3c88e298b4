"""The metrics that are ztnode's own, for prometheus-client to write. docs/OPERATING.md says what each means."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator
from typing import Final

from prometheus_client import ProcessCollector
from prometheus_client.core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    HistogramMetricFamily,
    InfoMetricFamily,
    Metric,
)
from prometheus_client.registry import Collector

from ztnode.node.api import JoinState, NetworkInfo, NodeStatus, WorkerInfo
from ztnode.node.figures import Dials, NodeFigures
from ztnode.wire.address import format_address, format_nwid

_TCP: Final = "tcp_"
"""Before the states among a worker's gauges."""
_HELD: Final = ("unread_bytes", "unacked_bytes")
"""Among a worker's counters, and none."""
_PROCESS: Final = {
    "process_cpu_seconds": "CPU time that a process of the node has used",
    "process_resident_memory_bytes": "Resident memory of a process of the node",
    "process_open_fds": "Descriptors that a process of the node has open",
}


class NodeCollector(Collector):
    """Looks at the node whenever it is asked."""

    def __init__(
        self,
        status: Callable[[], NodeStatus],
        networks: Callable[[], Iterable[NetworkInfo]],
        figures: Callable[[], NodeFigures],
    ) -> None:
        self._status = status
        self._networks = networks
        self._figures = figures

    def describe(self) -> Iterable[Metric]:
        """Nothing, so that registering looks at no node."""
        return ()

    def collect(self) -> Iterator[Metric]:
        """See prometheus-client."""
        status, figures = self._status(), self._figures()
        yield from _node(status)
        yield from _drops_and_events(status, figures)
        yield from _peers(figures)
        yield from _networks(list(self._networks()), figures)
        yield from _dials(figures.dials)
        yield from _rings(status)
        yield from _workers(status.workers)
        yield from _tcp(status.workers)
        yield from _processes(status.workers)


def _counter(name: str, text: str, *labels: str) -> CounterMetricFamily:
    return CounterMetricFamily(f"ztnode_{name}", text, labels=labels)


def _gauge(name: str, text: str, *labels: str) -> GaugeMetricFamily:
    return GaugeMetricFamily(f"ztnode_{name}", text, labels=labels)


def _value(name: str, text: str, value: float) -> GaugeMetricFamily:
    return GaugeMetricFamily(f"ztnode_{name}", text, value=value)


def _node(status: NodeStatus) -> Iterator[Metric]:
    address = format_address(status.address)
    yield InfoMetricFamily("ztnode", "Which node this is", value={"address": address, "version": status.version})
    yield _value("online", "Whether a root answers", status.online)
    yield _value("uptime_seconds", "Since the node started", status.uptime)
    yield _value("identity_conflict", "Whether another host seems to use this identity", bool(status.identity_conflict))


def _drops_and_events(status: NodeStatus, figures: NodeFigures) -> Iterator[Metric]:
    drops = _counter("drops", "Packets and frames dropped", "layer", "reason")
    events = _counter("events", "Other things that happened", "layer", "event")
    for key, count in status.counters.items():
        layer, _, name = key.partition(".")
        if name.startswith("drop_"):
            drops.add_metric((layer, name.removeprefix("drop_")), count)
        elif layer != "worker":  # those of the rings have names of their own
            events.add_metric((layer, name), count)
    yield drops
    yield events
    datagrams = _counter("datagrams", "UDP datagrams", "direction")
    datagrams.add_metric(("rx",), figures.datagrams.received)
    datagrams.add_metric(("tx",), figures.datagrams.sent)
    yield datagrams


def _peers(figures: NodeFigures) -> Iterator[Metric]:
    peers = _gauge("peers", "Peers by the way that packets take to them", "path")
    direct = sum([peer.path is not None for peer in figures.peers])
    peers.add_metric(("direct",), direct)
    peers.add_metric(("relayed",), len(figures.peers) - direct)
    yield peers


def _networks(networks: list[NetworkInfo], figures: NodeFigures) -> Iterator[Metric]:
    up = _gauge("network_up", "Whether the network can be used", "network_id", "state")
    for info in networks:
        up.add_metric((format_nwid(info.nwid), info.state.value), info.state is JoinState.OK)
    yield up
    frames = _counter("network_frames", "Ethernet frames of members to us and back", "network_id", "direction")
    octets = _counter("network_bytes", "Bytes of these frames", "network_id", "direction")
    drops = _counter("network_drops", "Frames of the network dropped", "network_id", "reason")
    for each in figures.networks:
        nwid = format_nwid(each.nwid)
        frames.add_metric((nwid, "rx"), each.frames_received)
        frames.add_metric((nwid, "tx"), each.frames_sent)
        octets.add_metric((nwid, "rx"), each.bytes_received)
        octets.add_metric((nwid, "tx"), each.bytes_sent)
        for reason, count in each.drops.items():
            drops.add_metric((nwid, reason.removeprefix("drop_")), count)
    yield from (frames, octets, drops)


def _dials(dials: Dials) -> Iterator[Metric]:
    bounds = (*(str(bound) for bound in dials.opened.bounds), "+Inf")
    yield HistogramMetricFamily(
        "ztnode_dial_seconds",
        "Until a TCP connection to an overlay address was opened",
        buckets=list(zip(bounds, dials.opened.cumulative(), strict=True)),
        sum_value=dials.opened.total,
    )
    failed = _counter("dial_failures", "TCP connections to overlay addresses that were not opened", "error")
    for name, count in dials.failed.items():
        failed.add_metric((name,), count)
    yield failed


def _rings(status: NodeStatus) -> Iterator[Metric]:
    counters = status.counters
    frames = _counter("ring_frames", "Frames between node and workers", "direction")
    octets = _counter("ring_bytes", "Bytes between node and workers, with some 12 for each frame", "direction")
    for direction in ("to_worker", "from_worker"):
        frames.add_metric((direction,), counters[f"worker.frames_{direction}"])
        octets.add_metric((direction,), counters[f"worker.bytes_{direction}"])
    yield from (frames, octets)
    dropped = _counter("ring_dropped_frames", "Frames for which a worker's ring had no room")
    dropped.add_metric((), counters["worker.to_worker_dropped"])
    yield dropped


def _workers(workers: Iterable[WorkerInfo]) -> Iterator[Metric]:
    up = _gauge("worker_up", "Whether the stack worker runs", "worker")
    clients = _gauge("worker_clients", "Local programs' connections that the stack worker carries", "worker")
    restarts = _counter("worker_restarts", "Times that the stack worker was replaced", "worker")
    stalls = _counter("ring_stalls", "Times that the stack had to wait for the node", "worker")
    events = _counter("worker_events", "Other things that happened in the stack worker", "worker", "event")
    held = _gauge("worker_held_bytes", "Bytes of TCP that the stack worker holds", "worker", "kind")
    for each in workers:
        index = str(each.index)
        up.add_metric((index,), bool(each.pid))
        clients.add_metric((index,), each.connections)
        restarts.add_metric((index,), each.restarts)
        stalls.add_metric((index,), each.counters.get("ring_stalls", 0))
        for name, count in each.counters.items():
            if name in _HELD:
                held.add_metric((index, name.removesuffix("_bytes")), count)
            elif name not in ("ring_stalls", "retransmits"):
                events.add_metric((index, name), count)
    yield from (up, clients, restarts, stalls, events, held)


def _tcp(workers: Iterable[WorkerInfo]) -> Iterator[Metric]:
    connections = _gauge("tcp_connections", "TCP connections of the overlay", "worker", "state")
    retransmits = _counter("tcp_retransmits", "TCP segments sent again", "worker")
    mean = _gauge("tcp_rtt_mean_seconds", "Smoothed round trip, mean of the open connections", "worker")
    longest = _gauge("tcp_rtt_max_seconds", "Smoothed round trip, longest of the open connections", "worker")
    for each in workers:
        index, gauges = str(each.index), each.gauges
        for name, count in gauges.items():
            if name.startswith(_TCP):
                connections.add_metric((index, name.removeprefix(_TCP)), count)
        retransmits.add_metric((index,), each.counters.get("retransmits", 0))
        if gauges.get("rtt_count"):
            mean.add_metric((index,), gauges["rtt_sum"] / gauges["rtt_count"] / 1e6)
            longest.add_metric((index,), gauges["rtt_max"] / 1e6)
    yield from (connections, retransmits, mean, longest)


def _processes(workers: Iterable[WorkerInfo]) -> Iterator[Metric]:
    """What the kernel says of each process; nothing where there is no /proc."""
    families: dict[str, Metric] = {
        "process_cpu_seconds": _counter("process_cpu_seconds", _PROCESS["process_cpu_seconds"], "process"),
        "process_resident_memory_bytes": _gauge(
            "process_resident_memory_bytes", _PROCESS["process_resident_memory_bytes"], "process"
        ),
        "process_open_fds": _gauge("process_open_fds", _PROCESS["process_open_fds"], "process"),
    }
    for process, pid in (("node", os.getpid()), *((f"worker-{each.index}", each.pid) for each in workers if each.pid)):
        for found in ProcessCollector(pid=lambda pid=pid: pid, registry=None).collect():  # type: ignore[misc]
            family = families.get(found.name)
            if family is not None:
                for sample in found.samples:
                    family.add_sample(f"ztnode_{sample.name}", {"process": process}, sample.value)
    yield from families.values()
