"""ztnode ping."""

from __future__ import annotations

import itertools
import math
import time

import click

import ztclient
from ztclient.forms import is_numeric
from ztnode.cli.common import SECONDS, Failure, example, json_option, node_option, print_json
from ztnode.cli.network_commands import HostArgument


@click.command(
    short_help="Ping a host on the overlay.",
    epilog=example("ztnode ping 10.121.15.99", "ztnode ping -c 3 10.121.15.99"),
)
@click.argument("host", type=HostArgument())
@click.option(
    "--count", "-c", type=click.IntRange(1, 1_000_000_000), metavar="N", help="Stop after N; without it, at Ctrl-C."
)
@click.option(
    "--interval", "-i", type=SECONDS, default=1.0, show_default=True, metavar="S", help="Seconds between two."
)
@click.option(
    "--timeout", "-W", type=SECONDS, default=3.0, show_default=True, metavar="S", help="Seconds to wait for each."
)
@click.option(
    "--size", "-s", type=click.IntRange(0, 65000), default=56, show_default=True, metavar="BYTES", help="Of payload."
)
@json_option
@node_option
def ping(
    node: ztclient.Node, host: str, count: int | None, interval: float, timeout: float, size: int, as_json: bool
) -> None:
    """Send ICMP echoes to HOST over the overlay, and print loss and times as ping does. Exit 1 when nothing came."""
    times: list[float] = []
    ip = host if is_numeric(host) else node.resolve(host)[0]
    sent = 0
    if not as_json:
        click.echo(f"PING {host}{f' ({ip})' if ip != host else ''}: {size} data bytes")
    try:
        for number in itertools.count(1) if count is None else range(1, count + 1):
            started = time.monotonic()
            sent = number
            line = _one(node, ip, number, timeout, size, times)
            if not as_json:
                click.echo(line)
            if number != count:
                time.sleep(max(0.0, interval - (time.monotonic() - started)))
    except KeyboardInterrupt:
        pass  # the sum, then
    if as_json:
        print_json(
            {"ip": ip, "sent": sent, "received": len(times), "round_trips_ms": [round(t * 1e3, 3) for t in times]}
        )
    else:
        _summary(ip, sent, times)
    if not times:
        raise Failure(f"{ip} did not answer")


def _one(node: ztclient.Node, ip: str, number: int, timeout: float, size: int, times: list[float]) -> str:
    try:
        seconds = node.ping(ip, timeout, size=size)
    except (ztclient.NodeUnavailableError, ztclient.AuthenticationError):
        raise
    except TimeoutError:
        return f"no answer yet: seq={number}"
    except OSError as error:
        return f"seq={number}: {error.strerror or error}"
    times.append(seconds)
    return f"{size + 8} bytes from {ip}: seq={number} time={seconds * 1e3:.3f} ms"


def _summary(ip: str, sent: int, times: list[float]) -> None:
    loss = 100 * (sent - len(times)) / sent if sent else 0
    click.echo(f"\n--- {ip} ping statistics ---")
    click.echo(f"{sent} packets transmitted, {len(times)} received, {loss:.3g}% packet loss")
    if times:
        mean = math.fsum(times) / len(times)
        deviation = math.sqrt(math.fsum((each - mean) ** 2 for each in times) / len(times))
        shown = "/".join(f"{each * 1e3:.3f}" for each in (min(times), mean, max(times), deviation))
        click.echo(f"rtt min/avg/max/mdev = {shown} ms")
