"""The metrics of zerotier-one 1.14 under their own names (node/Metrics.cpp), as Prometheus' text format.

Written here and not by prometheus-client, whose counters all have names that end in ``_total``, and which takes 8 us a
line: 140 ms for the 18,000 of 1,000 peers.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Iterable, Mapping
from typing import Final

from ztnode.node.figures import ControllerFigures, NodeFigures
from ztnode.vl1 import Peer
from ztnode.vl1.traffic import LATENCY_BOUNDS
from ztnode.wire import packet
from ztnode.wire.address import format_nwid

PEERS_A_TURN: Final = 100
"""Of one metric, before the event loop has its turn."""

_PACKETS: Final = {
    "nop": packet.VERB_NOP,
    "error": packet.VERB_ERROR,
    "ack": packet.VERB_ACK,
    "qos": packet.VERB_QOS_MEASUREMENT,
    "hello": packet.VERB_HELLO,
    "ok": packet.VERB_OK,
    "whois": packet.VERB_WHOIS,
    "rendezvous": packet.VERB_RENDEZVOUS,
    "frame": packet.VERB_FRAME,
    "ext_frame": packet.VERB_EXT_FRAME,
    "echo": packet.VERB_ECHO,
    "multicast_like": packet.VERB_MULTICAST_LIKE,
    "network_credentials": packet.VERB_NETWORK_CREDENTIALS,
    "network_config_request": packet.VERB_NETWORK_CONFIG_REQUEST,
    "network_config": packet.VERB_NETWORK_CONFIG,
    "multicast_gather": packet.VERB_MULTICAST_GATHER,
    "multicast_frame": packet.VERB_MULTICAST_FRAME,
    "push_direct_paths": packet.VERB_PUSH_DIRECT_PATHS,
    "user_message": packet.VERB_USER_MESSAGE,
    "remote_trace": packet.VERB_REMOTE_TRACE,
    "path_negotiation_request": packet.VERB_PATH_NEGOTIATION_REQUEST,
}
_ERRORS: Final = {
    "obj_not_found": packet.ERROR_OBJ_NOT_FOUND,
    "unsupported_operation": packet.ERROR_UNSUPPORTED_OPERATION,
    "identity_collision": packet.ERROR_IDENTITY_COLLISION,
    "need_membership_certificate": packet.ERROR_NEED_MEMBERSHIP_CERTIFICATE,
    "network_access_denied": packet.ERROR_NETWORK_ACCESS_DENIED,
    "unwanted_multicast": packet.ERROR_UNWANTED_MULTICAST,
    "authentication_required": packet.ERROR_NETWORK_AUTHENTICATION_REQUIRED,
    "internal_server_error": -1,  # no code of the wire: the reference never counts one either
}


async def write(figures: NodeFigures) -> AsyncIterator[bytes]:
    """The text in parts, with a turn of the event loop after each: as a whole, a thousand peers are a megabyte."""
    networks = figures.networks
    lines = _family("zt_packet", "counter", "ZeroTier packet type counts", _packets(figures))
    lines += _family("zt_packet_error", "counter", "ZeroTier packet errors", _errors(figures))
    lines += _family("zt_data", "counter", "number of bytes ZeroTier has transmitted or received", _data(figures))
    lines += _plain("zt_num_networks", "gauge", "number of networks this instance is joined to", len(networks))
    lines += _family(
        "zt_network_multicast_groups_subscribed",
        "gauge",
        "number of multicast groups networks are subscribed to",
        [(f'network_id="{format_nwid(each.nwid)}"', each.groups) for each in networks],
    )
    lines += _family(
        "zt_network_packets", "counter", "number of incoming/outgoing packets per network", _network_packets(figures)
    )
    lines += _controller(figures.controller)
    yield _part(lines)
    for name, kind, text, lines_of in _PEER_FAMILIES:
        lines = _head(name, kind, text)
        for start in range(0, len(figures.peers), PEERS_A_TURN):
            turn = figures.peers[start : start + PEERS_A_TURN]
            lines += [lines_of(peer, f"{peer.address:010x}") for peer in turn]
            yield _part(lines)
            lines = []
            await asyncio.sleep(0)
        yield _part(lines)


def _part(lines: list[str]) -> bytes:
    return "\n".join((*lines, "")).encode() if lines else b""


def _head(name: str, kind: str, text: str) -> list[str]:
    return [f"# HELP {name} {text}", f"# TYPE {name} {kind}"]


def _family(name: str, kind: str, text: str, samples: Iterable[tuple[str, int]]) -> list[str]:
    return [*_head(name, kind, text), *(f"{name}{{{labels}}} {value}" for labels, value in samples)]


def _plain(name: str, kind: str, text: str, value: int) -> list[str]:
    return [*_head(name, kind, text), f"{name} {value}"]


def _both_ways(label: str, value: str, received: int, sent: int) -> list[tuple[str, int]]:
    return [(f'direction="rx",{label}="{value}"', received), (f'direction="tx",{label}="{value}"', sent)]


def _packets(figures: NodeFigures) -> list[tuple[str, int]]:
    traffic = figures.traffic
    samples = []
    for name, verb in _PACKETS.items():
        samples += _both_ways("packet_type", name, traffic.received(verb), traffic.sent[verb])
    return samples


def _errors(figures: NodeFigures) -> list[tuple[str, int]]:
    traffic = figures.traffic
    samples = []
    for name, code in _ERRORS.items():
        samples += _both_ways("error_type", name, traffic.errors_received[code], traffic.errors_sent[code])
    return samples


def _data(figures: NodeFigures) -> list[tuple[str, int]]:
    carried = figures.datagrams
    # Packets that a TCP relay or a proxy carries are counted where all are, as the datagrams that they are.
    return _both_ways("protocol", "udp", carried.bytes_received, carried.bytes_sent) + _both_ways(
        "protocol", "tcp", 0, 0
    )


def _network_packets(figures: NodeFigures) -> list[tuple[str, int]]:
    samples = []
    for each in figures.networks:
        network = f'network_id="{format_nwid(each.nwid)}"'
        for direction, accepted, refused in (
            ("rx", each.frames_received, each.drops.get("drop_rules_in", 0)),
            ("tx", each.frames_sent, each.drops.get("drop_rules_out", 0)),
        ):
            samples.append((f'accepted="yes",direction="{direction}",{network}', accepted))
            samples.append((f'accepted="no",direction="{direction}",{network}', refused))
    return samples


# Peers


_LATENCY: Final = "\n".join(
    (
        'zt_peer_latency_count{node_id="%s"} %d',
        'zt_peer_latency_sum{node_id="%s"} %d',
        *(f'zt_peer_latency_bucket{{node_id="%s",le="{bound}"}} %d' for bound in (*LATENCY_BOUNDS, "+Inf")),
    )
)
_NO_LATENCIES: Final = (0,) * (len(LATENCY_BOUNDS) + 1)


def _latency(peer: Peer, node: str) -> str:
    values: list[str | int] = [node] * (2 * len(_NO_LATENCIES) + 4)
    measured = peer.latencies
    if measured is None:
        values[1::2] = (0, 0, *_NO_LATENCIES)
    else:
        counts = list(measured.cumulative())
        values[1::2] = (counts[-1], round(measured.total), *counts)
    return _LATENCY % tuple(values)


def _paths(peer: Peer, node: str) -> str:
    dead = sum([path.dead for path in peer.paths.values()])
    alive = len(peer.paths) - dead
    return (
        f'zt_peer_path_count{{node_id="{node}",status="alive"}} {alive}\n'
        f'zt_peer_path_count{{node_id="{node}",status="dead"}} {dead}'
    )


def _peer_packets(peer: Peer, node: str) -> str:
    return (
        f'zt_peer_packets{{direction="rx",node_id="{node}"}} {peer.received}\n'
        f'zt_peer_packets{{direction="tx",node_id="{node}"}} {peer.sent}'
    )


def _invalid(peer: Peer, node: str) -> str:
    return f'zt_peer_packet_errors{{node_id="{node}"}} {peer.invalid}'


_PEER_FAMILIES: Final[tuple[tuple[str, str, str, Callable[[Peer, str], str]], ...]] = (
    ("zt_peer_latency", "histogram", "peer latency (ms)", _latency),
    ("zt_peer_path_count", "gauge", "number of paths to peer", _paths),
    ("zt_peer_packets", "counter", "number of packets to/from a peer", _peer_packets),
    ("zt_peer_packet_errors", "counter", "number of incoming packet errors from a peer", _invalid),
)


# The controller


def _controller(figures: ControllerFigures | None) -> list[str]:
    counters: Mapping[str, int] = {} if figures is None else figures.counters
    changes: Mapping[str, int] = {} if figures is None else figures.changes
    reads: Mapping[str, int] = {} if figures is None else figures.reads
    requests = counters.get("requests", 0)
    lines: list[str] = []
    for name, kind, text, value in (
        ("network_count", "gauge", "number of networks the controller is serving", figures.networks if figures else 0),
        (
            "member_count",
            "gauge",
            "number of network members the controller is serving",
            figures.members if figures else 0,
        ),
        (
            "network_change_count",
            "counter",
            "number of times a network configuration is changed",
            changes.get("networks_changed", 0),
        ),
        (
            "member_change_count",
            "counter",
            "number of times a network member configuration is changed",
            changes.get("members_changed", 0),
        ),
        ("member_auth_count", "counter", "number of network member auths", changes.get("members_authorized", 0)),
        ("member_deauth_count", "counter", "number of network member deauths", changes.get("members_deauthorized", 0)),
        (
            "network_config_request_queue",
            "gauge",
            "number of entries in the request queue for network configurations",
            figures.waiting if figures else 0,
        ),
        (
            "sso_expiration_checks",
            "counter",
            "number of sso expiration checks done",
            counters.get("log_ins_checked", 0),
        ),
        ("sso_timeouts", "counter", "number of sso timeouts", counters.get("log_ins_ended", 0)),
        ("network_config_request", "counter", "count of config requests handled", requests),
        (
            "network_config_request_threads",
            "gauge",
            "number of active network config handling threads",
            int(figures is not None),
        ),
        ("db_get_network", "counter", "counter", reads.get("network", 0)),
        ("db_get_network_and_member", "counter", "counter", reads.get("member", 0)),
        ("db_get_networK_and_member_summary", "counter", "counter", requests),  # so it is spelt there
        ("db_get_member_list", "counter", "counter", reads.get("member_list", 0)),
        ("db_get_network_list", "counter", "counter", reads.get("network_list", 0)),
        ("db_member_change", "counter", "counter", changes.get("members", 0)),
        ("db_network_change", "counter", "counter", changes.get("networks", 0)),
    ):
        lines += _plain(f"controller_{name}", kind, text, value)
    return lines
