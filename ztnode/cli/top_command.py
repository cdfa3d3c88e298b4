"""ztnode top: what a node does, again and again."""

from __future__ import annotations

import datetime
import json
import os
import shutil
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import click

import ztclient
from ztclient.forms import format_host_port
from ztnode.cli.common import SECONDS, example, json_option, node_option
from ztnode.cli.printable import printable
from ztnode.cli.table import display_width, lay_out

_ENTER = "\x1b[?1049h\x1b[?25l"
"""The terminal's other screen, without a cursor; what was there comes back in the end."""
_LEAVE = "\x1b[?25h\x1b[?1049l"
_HOME = "\x1b[H"
_REST_OF_LINE = "\x1b[K"
_REST_OF_SCREEN = "\x1b[J"
_WIDTH_OF_PIPE = 80
_ROWS_OF_PIPE = 50
"""Of each of the three tables."""
_FIXED_ROWS = 13
"""Of a view: its head, and of each table the empty line, the headings and the line for how many more there are."""
_FIRST_SECONDS = 1.0
"""Between the two looks that rates need where nobody watches."""
_FRAME_BYTES = 12
"""What a frame's bytes are counted more than it has, on the average: header of the ring, and padding."""


@dataclass(frozen=True, slots=True)
class Rates:
    """A second, of Ethernet frames between the overlay and the stack."""

    bytes_in: float
    bytes_out: float
    frames_in: float
    frames_out: float


@dataclass(frozen=True, slots=True)
class View:
    """A node at one moment, Unix time in seconds; ``rates`` since the view before, None in the first."""

    time: float
    status: ztclient.Status
    networks: list[ztclient.Network]
    peers: list[ztclient.Peer]
    connections: list[ztclient.Connection]
    rates: Rates | None


@click.command(
    short_help="Show what the node does, live.",
    epilog=example("ztnode top", "ztnode top --interval 5", "ztnode top --json --count 10 | jq .rates.bytes_in"),
)
@click.option("--interval", type=SECONDS, default=2.0, metavar="S", help="Seconds between two looks. [default: 2]")
@click.option(
    "--count",
    type=click.IntRange(1, 10**9),
    metavar="N",
    help="Look N times. [default: until Ctrl-C; once into a pipe]",
)
@json_option
@node_option
def top(node: ztclient.Node, interval: float, count: int | None, as_json: bool) -> None:
    """Show networks, peers with their paths, rates and TCP connections of the node, and again every few seconds. Into a
    pipe, or where TERM is "dumb", it prints once; with --json one object a line, until Ctrl-C."""
    if as_json:
        for view in _views(node, interval, count):
            click.echo(json.dumps(as_object(view), ensure_ascii=False))
        return
    if not sys.stdout.isatty() or os.environ.get("TERM") == "dumb":
        seconds = min(interval, _FIRST_SECONDS) if count is None else interval
        *_, last = _views(node, seconds, 2 if count is None else count)
        for line in lines(last, _WIDTH_OF_PIPE, _ROWS_OF_PIPE):
            click.echo(line)
        return
    click.echo(_ENTER, nl=False)
    try:
        for view in _views(node, interval, count):
            columns, rows = shutil.get_terminal_size()
            shown = lines(view, columns, max(2, (rows - _FIXED_ROWS) // 3))[: rows - 1]
            click.echo(_HOME + "".join(f"{line}{_REST_OF_LINE}\n" for line in shown) + _REST_OF_SCREEN, nl=False)
            sys.stdout.flush()
    finally:
        click.echo(_LEAVE, nl=False)
        sys.stdout.flush()


def _views(node: ztclient.Node, interval: float, count: int | None) -> Iterator[View]:
    before: View | None = None
    number = 0
    while count is None or number < count:
        if before is not None:
            time.sleep(interval)
        before = _look(node, before)
        number += 1
        yield before


def _look(node: ztclient.Node, before: View | None) -> View:
    now, status = time.time(), node.status()
    rates = None
    if before is not None and status.uptime >= before.status.uptime:  # else it is another node
        rates = _rates(before.status, status, max(now - before.time, 0.001))
    return View(now, status, node.networks(), node.peers(), node.connections(), rates)


def _rates(before: ztclient.Status, after: ztclient.Status, seconds: float) -> Rates:
    def rate(name: str) -> float:
        return max(0, after.counters.get(name, 0) - before.counters.get(name, 0)) / seconds

    def rates(way: str) -> tuple[float, float]:
        """Bytes and frames, by the rings and by lanes."""
        by_ring, by_lane = rate(f"worker.frames_{way}_worker"), rate(f"lanes.frames_{way}_worker")
        octets = max(0.0, rate(f"worker.bytes_{way}_worker") - _FRAME_BYTES * by_ring)
        return octets + rate(f"lanes.bytes_{way}_worker"), by_ring + by_lane

    bytes_in, frames_in = rates("to")
    bytes_out, frames_out = rates("from")
    return Rates(bytes_in=bytes_in, bytes_out=bytes_out, frames_in=frames_in, frames_out=frames_out)


def as_object(view: View) -> dict[str, Any]:
    """A view as an object of plain values."""
    return asdict(view)


def lines(view: View, width: int, rows: int) -> list[str]:
    """A view as lines of at most ``width`` places, with so many ``rows`` of each table at the most."""
    status = view.status
    up = datetime.timedelta(seconds=round(status.uptime))
    online = "online" if status.online else "OFFLINE"
    seen = f", seen as {status.surface_addresses[0]}" if status.surface_addresses else ""
    found = [f"ztnode {status.address}  {online}, up {up}, {_count(len(status.workers), 'worker')}{seen}"]
    if status.identity_conflict:
        found.append(status.identity_conflict)
    found.append(_traffic(view))
    found += _section(
        ("NETWORK", "NAME", "STATE", "ADDRESSES"),
        [(each.nwid, each.name, each.state.replace("_", " "), ", ".join(each.addresses)) for each in view.networks],
        "no network is joined",
        rows,
    )
    order = {"planet": 0, "moon": 1}
    peers = sorted(view.peers, key=lambda each: (order.get(each.role, 2), not each.direct, each.address))
    found += _section(
        ("PEER", "ROLE", "LATENCY", "HEARD", "PATH"), [_peer(each) for each in peers], "no peer is known yet", rows
    )
    busiest = sorted(view.connections, key=lambda each: each.unacked + each.unsent, reverse=True)
    found += _section(
        ("REMOTE", "LOCAL", "STATE", "RTT", "CWND", "QUEUED", "RETR"),
        [_connection(each) for each in busiest],
        "no TCP connection",
        rows,
    )
    return [_cut(printable(line), width) for line in found]


def _traffic(view: View) -> str:
    connections = _count(len(view.connections), "TCP connection")
    rates = view.rates
    if rates is None:
        return f"rates follow; {connections}"
    return (
        f"in {_size(rates.bytes_in)}/s ({rates.frames_in:,.0f} frames), "
        f"out {_size(rates.bytes_out)}/s ({rates.frames_out:,.0f} frames); {connections}"
    )


def _peer(peer: ztclient.Peer) -> tuple[str, ...]:
    preferred = next((path for path in peer.paths if path.preferred), None)
    heard = None if preferred is None else preferred.last_receive_age
    others = f" (+{len(peer.paths) - 1})" if len(peer.paths) > 1 else ""
    return (
        peer.address,
        peer.role,
        "-" if peer.latency_ms is None else f"{peer.latency_ms:.1f} ms",
        "-" if heard is None else f"{heard:.0f} s",
        "relayed" if preferred is None else preferred.endpoint + others,
    )


def _connection(each: ztclient.Connection) -> tuple[str, ...]:
    return (
        format_host_port(*each.remote),
        format_host_port(*each.local),
        each.state,
        "-" if each.rtt_ms is None else f"{each.rtt_ms:.1f} ms",
        _size(each.cwnd),
        _size(each.unacked + each.unsent),
        str(each.retransmits),
    )


def _section(headings: Sequence[str], rows: Sequence[Sequence[str]], empty: str, most: int) -> list[str]:
    table = lay_out(headings, rows[:most], None)
    more = (f"and {len(rows) - most:,} more",) if len(rows) > most else ()
    return ["", *table.headings, *(table.rows or (empty,)), *more]


def _count(number: int, what: str) -> str:
    return f"{number:,} {what}" if number == 1 else f"{number:,} {what}s"


def _size(number: float) -> str:
    for unit in ("B", "KB", "MB"):
        if number < 1000:
            return f"{number:.0f} {unit}" if unit == "B" else f"{number:.1f} {unit}"
        number /= 1000
    return f"{number:.1f} GB"


def _cut(line: str, width: int) -> str:
    while display_width(line) > width:
        line = line[:-1]
    return line
