"""join, leave, networks, ips, peers, status."""

from __future__ import annotations

import datetime
import socket
import sys
import time
from typing import Final

import click

import ztclient
from ztclient.forms import format_host_port, host_name, is_numeric, numeric_ip, without_brackets
from ztnode.cli.common import (
    GLANCE_SECONDS,
    NWID,
    SECONDS,
    Failure,
    Parameter,
    example,
    json_option,
    node_option,
    node_option_with_patience,
    print_fields,
    print_json,
    print_table,
)
from ztnode.cli.log_in import LogIn
from ztnode.cli.progress import Progress

ANSWER_SECONDS: Final = 2.0
"""How long `join` waits for the controller's first word, unasked: to say where to log in, or that it is refused."""


@click.command(
    short_help="Join a network.",
    epilog=example("ztnode join 9ad07d01093a69e3 --wait 60", "ztnode join 9ad07d01093a69e3 --auth-token - <token.txt"),
)
@click.argument("nwid", type=NWID)
@click.option(
    "--wait",
    type=SECONDS,
    metavar="S",
    help="Wait up to S seconds until the network can be used; exit 1 if it cannot.",
)
@click.option(
    "--allow-default/--no-allow-default",
    default=None,
    help="Whether default routes of the network (0.0.0.0/0, ::/0) are followed: all that no other route leads to then "
    "goes by the member that offers them, see ztnode gateway. It stays as it is where this is not given; at first not.",
)
@click.option(
    "--auth-token",
    metavar="TOKEN",
    help="What the network's controller lets this node in for; -: the first line of standard input.",
)
@click.option("--no-browser", is_flag=True, help="Where somebody must log in, say the URL and leave the browser alone.")
@json_option
@node_option_with_patience(lambda arguments: arguments["wait"] or 0.0)
def join(
    node: ztclient.Node,
    nwid: str,
    wait: float | None,
    allow_default: bool | None,
    auth_token: str | None,
    no_browser: bool,
    as_json: bool,
) -> None:
    """Join the network NWID; it stays joined over restarts. Where members log in at an identity provider, the URL is
    said, and opened in a browser on the same host; --wait waits for the log-in."""
    token = sys.stdin.readline().strip() if auth_token == "-" else auth_token or ""
    login = LogIn(browser=not no_browser and node.address.startswith("unix:"))
    if wait is None:
        network = _answered(node, node.join(nwid, auth_token=token, allow_default=allow_default))
        if network.authentication_url:
            login.ask(network.authentication_url, lambda line: click.echo(line, err=True))
    else:
        with Progress(f"joining {nwid}") as progress:

            def on_change(now: ztclient.Network) -> None:
                if now.authentication_url:
                    login.ask(now.authentication_url, progress.note)
                progress.update(f"{nwid}: {_state(now)}")

            network = node.join(nwid, wait, auth_token=token, on_change=on_change, allow_default=allow_default)
    if as_json:
        print_json(network)
    else:
        _print_network(network)


@click.command(short_help="Leave a network.", epilog=example("ztnode leave 9ad07d01093a69e3"))
@click.argument("nwid", type=NWID)
@node_option
def leave(node: ztclient.Node, nwid: str) -> None:
    """Leave the network NWID and forget its configuration."""
    try:
        node.leave(nwid)
    except ztclient.NotFoundError as error:
        raise Failure(f"network {nwid} is not joined: there is nothing to leave") from error


@click.command(
    short_help="List the joined networks.",
    epilog=example("ztnode networks", "ztnode networks --json | jq -r '.[].nwid'"),
)
@json_option
@node_option
def networks(node: ztclient.Node, as_json: bool) -> None:
    """List the joined networks, their states and this node's addresses on them."""
    found = node.networks()
    if as_json:
        print_json(found)
        return
    print_table(
        ("NWID", "NAME", "STATE", "MTU", "ADDRESSES", "DETAIL"),
        [
            (
                network.nwid,
                network.name,
                network.state.replace("_", " "),
                network.mtu or "",
                ", ".join(network.addresses),
                "" if network.ready else network.authentication_url or network.detail,
            )
            for network in found
        ],
        empty="no network is joined: ztnode join NWID",
    )


@click.command(short_help="Print this node's managed IPs.", epilog=example("ztnode ips 9ad07d01093a69e3"))
@click.argument("nwid", type=NWID, required=False)
@json_option
@node_option
def ips(node: ztclient.Node, nwid: str | None, as_json: bool) -> None:
    """Print this node's managed IPs, one a line: on the network NWID, or on all."""
    found = node.addresses(nwid)
    if as_json:
        print_json(found)
        return
    for address in found:
        click.echo(address.ip)
    if not found:
        raise Failure("there is no managed IP yet: see ztnode networks")


@click.command(short_help="List the ZeroTier peers.", epilog=example("ztnode peers"))
@json_option
@node_option
def peers(node: ztclient.Node, as_json: bool) -> None:
    """List the ZeroTier peers that the node knows, and how they are reached. VERSION is what a peer says of itself:
    ztnode says 1.14.1, the ZeroTier One whose protocol it speaks."""
    found = node.peers()
    if as_json:
        print_json(found)
        return
    print_table(
        ("ADDRESS", "ROLE", "VERSION", "LATENCY", "LINK", "PATH"),
        [
            (
                peer.address,
                peer.role,
                peer.version or "-",
                "-" if peer.latency_ms is None else f"{peer.latency_ms:.1f} ms",
                "direct" if peer.direct else "relayed",
                next((path.endpoint for path in peer.paths if path.preferred), "-"),
            )
            for peer in found
        ],
        empty="no peer is known yet",
    )


@click.command(short_help="List the TCP connections.", epilog=example("ztnode connections"))
@json_option
@node_option
def connections(node: ztclient.Node, as_json: bool) -> None:
    """List the TCP connections of the overlay with the figures that ss -ti shows of the kernel's."""
    found = node.connections()
    if as_json:
        print_json(found)
        return
    print_table(
        ("STATE", "LOCAL", "REMOTE", "RTT", "CWND", "UNACKED", "UNSENT", "RETRANS", "CONTROL"),
        [
            (
                each.state,
                format_host_port(*each.local),
                format_host_port(*each.remote),
                "-" if each.rtt_ms is None else f"{each.rtt_ms:.1f} ms",
                each.cwnd,
                each.unacked,
                each.unsent,
                each.retransmits,
                each.congestion,
            )
            for each in found
        ],
        empty="there is no connection",
    )


class NumericIp(Parameter[str]):
    """A numeric IP address."""

    name = "ip"

    def convert(self, value: str, param: click.Parameter | None, ctx: click.Context | None) -> str:
        """See click.ParamType."""
        try:
            return numeric_ip(without_brackets(value))
        except ValueError:
            self.fail(f"{value!r} is not a numeric IP address", param, ctx)


class HostArgument(Parameter[str]):
    """A numeric IP address or a host name."""

    name = "host"

    def convert(self, value: str, param: click.Parameter | None, ctx: click.Context | None) -> str:
        """See click.ParamType."""
        bare = without_brackets(value)
        try:
            return numeric_ip(bare) if is_numeric(bare) else host_name(bare)
        except ValueError as error:
            self.fail(str(error), param, ctx)


@click.command(
    short_help="Show the addresses of a name.",
    epilog=example("ztnode resolve db.lab.example", "ztnode resolve 778cde7190.zt"),
)
@click.argument("name", type=HostArgument())
@click.option("--ipv4", "-4", "family", flag_value=4, type=int, help="IPv4 addresses alone.")
@click.option("--ipv6", "-6", "family", flag_value=6, type=int, help="IPv6 addresses alone.")
@click.option("--network", "nwid", type=NWID, metavar="NWID", help="On this network alone.")
@json_option
@node_option
def resolve(node: ztclient.Node, name: str, family: int | None, nwid: str | None, as_json: bool) -> None:
    """Show the addresses of NAME, one a line: a name in the DNS domain of a joined network, one of the file "hosts" in
    the node's state directory, or ADDRESS.zt for a member with computed IPv6 addresses."""
    families = {None: 0, 4: socket.AF_INET, 6: socket.AF_INET6}
    ips = node.resolve(name, families[family], nwid=nwid)
    if as_json:
        print_json({"name": name, "addresses": ips})
    else:
        click.echo("\n".join(ips))


@click.command(short_help="Show who has an address.", epilog=example("ztnode whois 10.121.15.99"))
@click.argument("ip", type=NumericIp())
@click.option("--network", "nwid", type=NWID, metavar="NWID", help="On this network alone.")
@json_option
@node_option
def whois(node: ztclient.Node, ip: str, nwid: str | None, as_json: bool) -> None:
    """Show which member of a network has the managed address IP: its ZeroTier address, identity and path, and on the
    network's controller its name."""
    found = node.whois(ip, nwid=nwid)
    if as_json:
        print_json(found)
        return
    peer = found.peer
    print_fields(
        (
            ("ip", found.ip),
            ("gateway", found.gateway),
            ("network", found.nwid),
            ("address", found.address),
            ("name", found.name),
            ("mac", found.mac),
            ("identity", found.public_identity),
            ("version", "" if peer is None else peer.version),
            ("latency", "" if peer is None or peer.latency_ms is None else f"{peer.latency_ms:.1f} ms"),
            ("path", "" if peer is None else _path(peer)),
        )
    )


def _path(peer: ztclient.Peer) -> str:
    preferred = next((path.endpoint for path in peer.paths if path.preferred), None)
    return preferred or ("relayed" if not peer.direct else "")


@click.command(
    short_help="Show the node.",
    epilog=example(
        "ztnode status", "ztnode status --json | jq .online", "ztnode status --check --network 9ad07d01093a69e3"
    ),
)
@click.option(
    "--check", is_flag=True, help="Say nothing but the reason, with exit code 1, while the node cannot be used."
)
@click.option("--network", "nwid", type=NWID, metavar="NWID", help="With --check: nor this network.")
@json_option
@node_option_with_patience(lambda arguments: 0.0 if arguments["check"] else GLANCE_SECONDS)
def status(node: ztclient.Node, check: bool, nwid: str | None, as_json: bool) -> None:
    """Show the node: its address, whether it is online, where it listens, its workers."""
    if check:
        _check(node, nwid)
        return
    if nwid is not None:
        raise click.UsageError("--network belongs to --check")
    found = node.status()
    if as_json:
        print_json(found)
        return
    planet = datetime.datetime.fromtimestamp(found.planet_timestamp / 1000, datetime.UTC)
    print_fields(
        (
            ("address", found.address),
            ("online", "yes" if found.online else f"no: {_why_offline(found)}"),
            ("identity", found.identity_conflict),
            ("version", found.version),
            ("uptime", datetime.timedelta(seconds=round(found.uptime))),
            ("planet", f"{found.planet_id} of {planet:%Y-%m-%d %H:%M} UTC"),
            ("listening", ", ".join(found.listening)),
            ("seen as", ", ".join(found.surface_addresses)),
            ("mapped", found.mapped_address),
            ("by", "" if found.transport == "udp" else found.transport),
            ("control", node.address),
            *((f"worker {worker.index}", _worker(worker)) for worker in found.workers),
        )
    )


def _worker(worker: ztclient.Worker) -> str:
    restarts = f", {worker.restarts} restarts" if worker.restarts else ""
    return f"pid {worker.pid}, {worker.connections} connections{restarts}"


def _state(network: ztclient.Network) -> str:
    return network.detail or network.state.replace("_", " ")


def _answered(node: ztclient.Node, network: ztclient.Network) -> ztclient.Network:
    """The network after its controller's first answer, which is mostly there in a blink; as it is where none comes."""
    deadline = time.monotonic() + ANSWER_SECONDS
    while network.state == "requesting" and time.monotonic() < deadline:
        time.sleep(0.05)
        network = node.network(network.nwid)
    return network


def _print_network(network: ztclient.Network) -> None:
    print_fields(
        (
            ("network", f"{network.nwid} {network.name}".strip()),
            ("state", network.state.replace("_", " ")),
            ("detail", network.detail if network.detail != network.state else ""),
            ("addresses", ", ".join(network.addresses)),
            ("default routes", "followed" if network.allow_default else ""),
            ("sign in at", network.authentication_url),
        )
    )


def _why_offline(status: ztclient.Status) -> str:
    if status.transport == "udp":
        return "no root answers; is UDP allowed from here?"
    return f"no root answers by {status.transport}; ztnode doctor says more"


def _check(node: ztclient.Node, nwid: str | None) -> None:
    status = node.status()
    if not status.online:
        raise Failure(f"offline: {_why_offline(status)}")
    if status.identity_conflict:
        raise Failure(status.identity_conflict)
    if nwid is None:
        return
    network = next((network for network in node.networks() if network.nwid == nwid), None)
    if network is None:
        raise Failure(f"{nwid} is not joined: ztnode join {nwid}")
    if not network.ready:
        raise Failure(f"{nwid}: {_state(network)}")
