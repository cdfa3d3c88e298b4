"""The metrics of a node whose figures are made up, but for its peers, which are real."""

from __future__ import annotations

import asyncio
import json
import re
from collections import Counter
from pathlib import Path

import pytest

pytest.importorskip("prometheus_client", reason="needs ztnode[web]")

from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.parser import text_string_to_metric_families

from tests.unit.fake_node import configured
from tests.unit.vl1.vl1_network import IDENTITIES
from ztnode.histogram import Histogram
from ztnode.node.api import DialError, NodeStatus, WorkerInfo
from ztnode.node.figures import ControllerFigures, DatagramFigures, Dials, NodeFigures
from ztnode.vl1 import Path as PeerPath
from ztnode.vl1 import Peer, Traffic
from ztnode.vl1.traffic import LATENCY_BOUNDS, VERB_HELLO_COPY
from ztnode.vl2 import NetworkFigures
from ztnode.web import reference_metrics
from ztnode.web.node_metrics import NodeCollector
from ztnode.wire.keys import PeerKeys
from ztnode.wire.packet import ERROR_NETWORK_ACCESS_DENIED, VERB_ERROR, VERB_FRAME, VERB_HELLO
from ztnode.wire.reply import build_error

THEIRS = json.loads((Path(__file__).parents[2] / "vectors/metrics.json").read_text())["families"]
NWID = 0x9AD07D01093A69E3


def peers(count: int) -> list[Peer]:
    keys = PeerKeys(IDENTITIES[1].agree(IDENTITIES[2]))
    made = []
    for number in range(count):
        peer = Peer(IDENTITIES[2].without_secret(), keys)
        peer.address = 0x1000000000 + number
        peer.latencies = Histogram(LATENCY_BOUNDS)
        for latency in (0.5, 7.0, 7.0, 5000.0):
            peer.latencies.observe(latency)
        peer.received, peer.sent, peer.invalid = 11, 12, 3
        for port in (1, 2, 3):
            path = peer.paths["192.0.2.1", port] = PeerPath(("192.0.2.1", port), 0.0)
            path.dead = port == 3
        made.append(peer)
    return made


def figures(count: int = 1) -> NodeFigures:
    traffic = Traffic()
    traffic.arrived[VERB_HELLO] = 4
    traffic.arrived[VERB_HELLO_COPY] = 2
    traffic.sent[VERB_FRAME] = 9
    traffic.count_sent(VERB_ERROR, (build_error(VERB_HELLO, 77, ERROR_NETWORK_ACCESS_DENIED)[1:],))
    dials = Dials()
    dials.opened.observe(0.02)
    dials.failure(DialError(111, "refused"))
    network = NetworkFigures(NWID, 5, 500, 6, 600, 2, {"drop_rules_in": 7, "drop_rules_out": 8})
    controller = ControllerFigures(
        1, 3, 2, Counter(requests=9), Counter(network=4), Counter(members_authorized=2, networks_changed=6)
    )
    return NodeFigures(traffic, peers(count), DatagramFigures(1, 100, 2, 200), [network], dials, controller)


async def written(of: NodeFigures) -> str:
    return b"".join([part async for part in reference_metrics.write(of)]).decode()


def samples_of(text: str) -> dict[str, float]:
    """By name and labels in the order of their names."""
    return {
        sample.name + json.dumps(sample.labels, sort_keys=True): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }


def test_every_metric_of_the_reference_has_its_name_type_and_labels() -> None:
    text = asyncio.run(written(figures()))
    kinds = dict(re.findall(r"^# TYPE (\w+) (\w+)$", text, re.MULTILINE))
    assert kinds == {name: family["type"] for name, family in THEIRS.items()}
    ours: dict[str, set[str]] = {name: set() for name in kinds}
    for line in text.splitlines():
        if not line.startswith("#"):
            name = re.match(r"\w+", line)
            assert name is not None
            family = name[0] if name[0] in ours else name[0].rpartition("_")[0]
            ours[family].add(re.sub(r'(node_id|network_id)="\w+"', r'\1="*"', line.rpartition(" ")[0]))
    assert {name: sorted(found) for name, found in ours.items()} == {
        name: sorted(family["samples"]) for name, family in THEIRS.items()
    }


def test_each_figure_stands_where_it_belongs() -> None:
    found = samples_of(asyncio.run(written(figures())))

    def value(name: str, **labels: str) -> float:
        # The parser gives counters the suffix that the reference's do not have.
        suffix = "_total" if THEIRS[name.removesuffix("_bucket")]["type"] == "counter" else ""
        return found[name + suffix + json.dumps(labels, sort_keys=True)]

    node, network = {"node_id": "1000000000"}, {"network_id": f"{NWID:016x}"}
    assert value("zt_packet", packet_type="hello", direction="rx") == 6
    assert value("zt_packet", packet_type="frame", direction="tx") == 9
    assert value("zt_packet_error", error_type="network_access_denied", direction="tx") == 1
    assert value("zt_data", protocol="udp", direction="rx") == 100
    assert value("zt_network_packets", accepted="no", direction="rx", **network) == 7
    assert value("zt_network_packets", accepted="yes", direction="tx", **network) == 6
    assert value("zt_network_multicast_groups_subscribed", **network) == 2
    assert [value("zt_peer_latency_bucket", le=bound, **node) for bound in ("1", "6", "10", "1000", "+Inf")] == [
        *(1, 1, 3, 3, 4)
    ]
    key = json.dumps(node)
    assert found[f"zt_peer_latency_sum{key}"] == round(5014.5) and found[f"zt_peer_latency_count{key}"] == 4
    assert [value("zt_peer_path_count", status=status, **node) for status in ("alive", "dead")] == [2, 1]
    assert [value("zt_peer_packets", direction=direction, **node) for direction in ("rx", "tx")] == [11, 12]
    assert value("zt_peer_packet_errors", **node) == 3
    assert value("controller_member_count") == 3 and value("controller_member_auth_count") == 2
    assert value("controller_network_change_count") == 6 and value("controller_db_get_network") == 4


def test_the_event_loop_has_its_turn_while_many_peers_are_written() -> None:
    """However many there are: a turn writes 100 peers."""

    async def scenario() -> int:
        turns = 0
        building = asyncio.ensure_future(written(figures(1000)))
        while not building.done():
            await asyncio.sleep(0)
            turns += 1
        assert building.result().count("zt_peer_packet_errors{") == 1000
        return turns

    assert asyncio.run(scenario()) >= 40


def test_our_own_metrics_are_written_by_prometheus_client() -> None:
    worker = WorkerInfo(
        0,
        0,
        3,
        2,
        {"ring_stalls": 5, "retransmits": 6, "bad_checksum": 7, "unread_bytes": 8},
        {"tcp_established": 3, "rtt_count": 2, "rtt_sum": 30_000, "rtt_max": 20_000},
    )
    counters = dict.fromkeys(
        (f"worker.{what}_{way}" for what in ("frames", "bytes") for way in ("to_worker", "from_worker")), 9
    )
    counters |= {"worker.to_worker_dropped": 4, "vl1.drop_forged": 2, "vl1.moves": 1, "transport.drop_send": 3}
    status = NodeStatus(1, "", True, "0.2.0", 5.0, 0, 0, (), (), (worker,), counters)
    registry = CollectorRegistry()
    registry.register(NodeCollector(lambda: status, lambda: [configured(NWID)], figures))
    found = samples_of(generate_latest(registry).decode())
    for name, labels, expected in (
        ("ztnode_online", {}, 1),
        ("ztnode_network_bytes_total", {"network_id": f"{NWID:016x}", "direction": "rx"}, 500),
        ("ztnode_network_up", {"network_id": f"{NWID:016x}", "state": "ok"}, 1),
        ("ztnode_drops_total", {"layer": "vl1", "reason": "forged"}, 2),
        ("ztnode_events_total", {"layer": "vl1", "event": "moves"}, 1),
        ("ztnode_ring_dropped_frames_total", {}, 4),
        ("ztnode_ring_stalls_total", {"worker": "0"}, 5),
        ("ztnode_worker_restarts_total", {"worker": "0"}, 2),
        ("ztnode_worker_up", {"worker": "0"}, 0),
        ("ztnode_worker_events_total", {"worker": "0", "event": "bad_checksum"}, 7),
        ("ztnode_tcp_connections", {"worker": "0", "state": "established"}, 3),
        ("ztnode_tcp_retransmits_total", {"worker": "0"}, 6),
        ("ztnode_tcp_rtt_mean_seconds", {"worker": "0"}, 0.015),
        ("ztnode_dial_seconds_bucket", {"le": "0.025"}, 1),
        ("ztnode_dial_failures_total", {"error": "ECONNREFUSED"}, 1),
    ):
        assert found[name + json.dumps(labels, sort_keys=True)] == expected, name
    assert Path("/proc/self/stat").exists() == ('ztnode_process_cpu_seconds_total{"process": "node"}' in found)
