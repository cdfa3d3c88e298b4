"""ztnode doctor: what keeps a node from working, and what to do about it."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import click

import ztclient
from ztnode.cli.common import NWID, example, json_option, node_option, print_json
from ztnode.cli.printable import printable

OK = "ok"
WARNING = "warning"
PROBLEM = "problem"

CLOCK_SECONDS = 60.0
"""By how much two clocks may differ: certificates are judged by minutes."""
FRESH_SECONDS = 90.0
"""Within which a root that is there was heard: it is greeted once a minute."""
_MARKS = {OK: "ok     ", WARNING: "warning", PROBLEM: "PROBLEM"}
_COLORS = {OK: "green", WARNING: "yellow", PROBLEM: "red"}


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing that was looked at. ``level`` is OK, WARNING or PROBLEM; ``advice``: what to do, or empty."""

    check: str
    level: str
    detail: str
    advice: str = ""


@click.command(
    short_help="Find out what is wrong.",
    epilog=example(
        "ztnode doctor", "ztnode doctor 9ad07d01093a69e3", "ztnode doctor --json | jq '.[] | select(.advice != \"\")'"
    ),
)
@click.argument("nwid", type=NWID, required=False)
@json_option
@node_option
@click.pass_context
def doctor(context: click.Context, node: ztclient.Node, nwid: str | None, as_json: bool) -> None:
    """Look at the node, its roots, UDP, clock and identity, and at the networks that it joined (or at NWID alone), and
    say of each what to do. The exit code is 1 where there is a problem; warnings alone make it 0."""
    findings = _examine(node, nwid)
    if as_json:
        print_json(findings)
    else:
        for each in findings:
            click.secho(_MARKS[each.level], fg=_COLORS[each.level], nl=False)
            click.echo(f"  {each.check}: {printable(each.detail)}")
            if each.advice:
                click.echo(f"         -> {printable(each.advice)}")
    if any(each.level == PROBLEM for each in findings):
        context.exit(1)


def _examine(node: ztclient.Node, nwid: str | None) -> list[Finding]:
    try:
        status, networks, peers = node.status(), node.networks(), node.peers()
    except ztclient.NodeUnavailableError as error:
        return [Finding("node", PROBLEM, str(error), "start one: ztnode serve --state ./st --join NWID")]
    except ztclient.AuthenticationError as error:
        return [Finding("node", PROBLEM, str(error), "give the node's token in ZTNODE_TOKEN or ZTNODE_TOKEN_FILE")]
    return diagnose(status, networks, peers, wall=time.time(), nwid=nwid)


def diagnose(
    status: ztclient.Status,
    networks: Sequence[ztclient.Network],
    peers: Sequence[ztclient.Peer],
    *,
    wall: float,
    nwid: str | None = None,
) -> list[Finding]:
    """What there is to say of a node. ``wall``: Unix time in seconds; ``nwid``: of this network alone."""
    concerned = [network for network in networks if nwid in (None, network.nwid)]
    return [
        Finding("node", OK, f"{status.address}, version {status.version}, up {status.uptime:.0f} s"),
        *_workers(status),
        *_roots(status, peers),
        *_udp(status, peers),
        _identity(status),
        _clock(status, networks, wall),
        *(_network(network, status) for network in concerned),
        *_not_joined(concerned, nwid),
    ]


def _workers(status: ztclient.Status) -> Iterator[Finding]:
    for worker in status.workers:
        if not worker.pid:
            yield Finding(
                "workers", PROBLEM, f"stack worker {worker.index} does not run", "the node's log says why it ended"
            )
        elif worker.restarts:
            detail = f"stack worker {worker.index} was replaced {worker.restarts} times, each time with its connections"
            yield Finding("workers", WARNING, detail, "the node's log says why; memory limits are the usual reason")


def _roots(status: ztclient.Status, peers: Sequence[ztclient.Peer]) -> Iterator[Finding]:
    roots = [peer for peer in peers if peer.role in ("planet", "moon")]
    if not roots and status.online:  # only a root of the planet is online by itself
        yield Finding("roots", OK, "this node is the only root of its planet")
        return
    if not roots:
        yield Finding("roots", WARNING, "the node knows no root but itself", "give it a planet: serve --planet FILE")
        return
    heard = {root.address: _last_heard(root) for root in roots}
    there = [root for root in roots if (age := heard[root.address]) is not None and age < FRESH_SECONDS]
    if status.online and there:
        quickest = min((root.latency_ms for root in there if root.latency_ms is not None), default=None)
        near = "" if quickest is None else f", the nearest {quickest:.0f} ms away"
        detail = f"{len(there)} of {len(roots)} answer{near}"
        if len(there) == len(roots):
            yield Finding("roots", OK, detail)
        else:
            silent = ", ".join(root.address for root in roots if root not in there)
            yield Finding("roots", WARNING, detail, f"silent: {silent}; one that answers is enough")
        return
    endpoints = ", ".join(path.endpoint for root in roots for path in root.paths) or "their addresses"
    last = min((age for age in heard.values() if age is not None), default=None)
    if last is None and status.transport != "udp":
        yield Finding(
            "roots",
            PROBLEM,
            f"none has ever answered by {status.transport}: it cannot be used, or the planet's roots are not there",
            "the node's log says why it cannot be used; another one: serve --tcp-relay, --outer-proxy, --transport",
        )
    elif last is None:
        yield Finding(
            "roots",
            PROBLEM,
            "none has ever answered: UDP seems to be blocked, or the planet names roots that are not there",
            f"let UDP out to {endpoints} and its answers in, or give it another way: serve --tcp-relay, --outer-proxy; "
            "a closed network needs its own planet: serve --planet FILE",
        )
    else:
        yield Finding(
            "roots",
            PROBLEM,
            f"none has answered for {last:.0f} s: this host has lost its network, or the roots are down",
            "look at the host's own network; nothing need be done to the node, which goes on trying",
        )


def _last_heard(peer: ztclient.Peer) -> float | None:
    return min((path.last_receive_age for path in peer.paths if path.last_receive_age is not None), default=None)


def _udp(status: ztclient.Status, peers: Sequence[ztclient.Peer]) -> Iterator[Finding]:
    if status.transport != "udp":
        relay = status.transport.startswith("tcp")
        yield Finding(
            "UDP",
            OK if not status.listening else WARNING,
            f"packets go by {status.transport}" + (": nothing answers by UDP" if status.listening else ""),
            "let UDP out; it works all the same, more slowly" if relay and status.listening else "",
        )
        return
    if not status.listening:
        yield Finding("UDP", PROBLEM, "the node has no UDP socket", "the node's log says why")
        return
    listening = ", ".join(status.listening)
    if not status.online:
        return
    seen: dict[str, set[str]] = {}
    for endpoint in status.surface_addresses:
        ip, _, port = endpoint.rpartition(":")
        seen.setdefault(ip, set()).add(port)
    leaves = [peer for peer in peers if peer.role == "leaf"]
    relayed = [peer for peer in leaves if not peer.direct]
    if any(len(ports) > 1 for ports in seen.values()):
        yield Finding(
            "UDP",
            WARNING,
            f"listening on {listening}, and seen at different ports by different hosts: a symmetric NAT",
            "members behind such a NAT, too, are reached by relay: forward a UDP port to this host, and serve --port N",
        )
    elif relayed and len(relayed) == len(leaves):
        yield Finding(
            "UDP",
            WARNING,
            f"listening on {listening}, but all {len(leaves)} peers are reached by relay",
            "let UDP in at this port, or between the two hosts; it works all the same, more slowly",
        )
    else:
        where = f", seen as {', '.join(status.surface_addresses)}" if status.surface_addresses else ""
        yield Finding("UDP", OK, f"listening on {listening}{where}")


def _identity(status: ztclient.Status) -> Finding:
    if status.identity_conflict:
        return Finding(
            "identity",
            PROBLEM,
            status.identity_conflict,
            "run one of the two nodes only, or give one another state directory, and authorize its new address",
        )
    return Finding("identity", OK, f"no other host uses that of {status.address}")


def _clock(status: ztclient.Status, networks: Sequence[ztclient.Network], wall: float) -> Finding:
    advice = "set the clock of this host, by NTP if you can (timedatectl set-ntp true)"
    behind = status.planet_timestamp / 1000 - wall
    if behind > 0:
        return Finding(
            "clock", PROBLEM, f"it is {_span(behind)} before the planet was signed, which is in the past", advice
        )
    offsets = [(network.clock_offset, network.nwid) for network in networks if network.clock_offset is not None]
    if not offsets:
        return Finding(
            "clock", OK, "later than the planet's; no controller has answered that it could be compared with"
        )
    offset, nwid = max(offsets, key=lambda each: abs(each[0]))
    if abs(offset) < CLOCK_SECONDS:
        return Finding("clock", OK, f"within {max(1.0, abs(offset)):.0f} s of the controllers'")
    if all(abs(each) >= CLOCK_SECONDS for each, _ in offsets):
        word = "behind" if offset > 0 else "ahead of"
        return Finding("clock", PROBLEM, f"{_span(abs(offset))} {word} that of the controller of {nwid}", advice)
    detail = f"the controller of {nwid} has another time, by {_span(abs(offset))}; other controllers have ours"
    return Finding("clock", WARNING, detail, "its administrator should set that host's clock")


def _network(network: ztclient.Network, status: ztclient.Status) -> Finding:
    check = f"network {network.nwid}"
    controller = network.nwid[:10]
    if network.ready and network.from_cache:
        detail = "works by the configuration of the last run; the controller has not answered since"
        return Finding(check, WARNING, detail, f"is the controller {controller} up?")
    if network.ready and not network.addresses:
        advice = "members get none without a pool: ztnode controller update NWID --subnet CIDR, on the controller"
        return Finding(check, WARNING, "ready, but this node has no address on it", advice)
    if network.ready:
        return Finding(check, OK, f"{network.name} {', '.join(network.addresses)}".strip())
    advice = {
        "waiting_for_authorization": f"its administrator must authorize this node: {status.address} (on a controller "
        f"of ztnode: ztnode controller authorize {network.nwid} {status.address})",
        "not_found": f"check the id: the controller {controller} knows no such network; ztnode leave {network.nwid}",
        "authentication_required": f"sign in at {network.authentication_url}",
        "requesting": f"is the controller {controller} up, and does it reach the same roots?",
    }.get(network.state, "")
    return Finding(check, PROBLEM, network.detail or network.state.replace("_", " "), advice)


def _not_joined(concerned: Sequence[ztclient.Network], nwid: str | None) -> Iterator[Finding]:
    if concerned:
        return
    if nwid is None:
        yield Finding("networks", WARNING, "no network is joined", "ztnode join NWID")
    else:
        yield Finding(f"network {nwid}", PROBLEM, "not joined", f"ztnode join {nwid}")


def _span(seconds: float) -> str:
    for size, unit in ((86400, "days"), (3600, "hours"), (60, "minutes")):
        if seconds >= 2 * size:
            return f"{seconds / size:.0f} {unit}"
    return f"{seconds:.0f} seconds"
