"""ztnode gateway."""

from __future__ import annotations

import dataclasses
import json
from ipaddress import ip_interface, ip_network
from typing import Final

import click

import ztclient
from ztnode.cli.common import Parameter, example, json_option, node_option

PING_SETTING: Final = "net.ipv4.ping_group_range='0 2147483647'"


class Target(Parameter[str]):
    """A network that a gateway leads to: CIDR, or one address."""

    name = "network"

    def convert(self, value: str, param: click.Parameter | None, ctx: click.Context | None) -> str:
        """See click.ParamType."""
        from ztnode.node.gateways import parse

        try:
            return str(parse(value))
        except ValueError as error:
            self.fail(str(error), param, ctx)


TARGET = Target()


@click.command(
    short_help="Lead members into a network behind this host.",
    epilog=example(
        "ztnode gateway 192.168.55.0/24",
        "ztnode controller update 9ad07d01093a69e3 --route 10.121.15.0/24 --route 192.168.55.0/24=10.121.15.7",
        "ztnode gateway 0.0.0.0/0 --except 192.168.0.0/16",
    ),
)
@click.argument("targets", metavar="NETWORK...", type=TARGET, nargs=-1, required=True)
@click.option(
    "--except",
    "excepted",
    type=TARGET,
    multiple=True,
    metavar="NETWORK",
    help="But not to this part of them; may be given several times.",
)
@click.option(
    "--flows",
    type=click.IntRange(1, 65536),
    default=4096,
    show_default=True,
    metavar="N",
    help="Connections and datagram flows at a time, at most.",
)
@json_option
@node_option
def gateway(
    node: ztclient.Node, targets: tuple[str, ...], excepted: tuple[str, ...], flows: int, as_json: bool
) -> None:
    """Make the node the other end of managed routes, until Ctrl-C: members reach these networks through it by TCP, UDP
    and ping, each flow carried on by a socket of the node's host. No root rights are needed, and nothing is set up on
    the host. The route itself is the controller's: to the network, by an address of this node.

    Wide networks do not stand for the host's own loopback, link-local addresses or the metadata services of clouds:
    name those for themselves if members are to reach them. 0.0.0.0/0 is an exit for members that join with
    --allow-default. --json prints one line of JSON now and at each change."""
    first = True
    for state in node.gateway(targets, excepted, flows=flows):
        if as_json:
            click.echo(json.dumps(dataclasses.asdict(state)))
            continue
        if first:
            click.echo(f"gateway to {', '.join(targets)}", err=True)
            if not state.ping_ipv4:
                click.echo(
                    f"pings are not passed on, the kernel has no sockets for them: sysctl -w {PING_SETTING}", err=True
                )
        first = False
        for route in state.routes:
            click.echo(f"network {route.nwid} leads to {route.target} by {route.via}, this node", err=True)
        for target in state.unrouted:
            click.echo(_advice(target, node.networks()), err=True)


def _advice(target: str, networks: list[ztclient.Network]) -> str:
    """What is to be done at the controller, with our own words where there is one network that can be meant."""
    version = ip_network(target).version
    addresses = [
        (network, str(interface.ip))
        for network in networks
        for interface in map(ip_interface, network.addresses)
        if interface.version == version
    ]
    said = f"no managed route leads to {target} by this node yet"
    if len(addresses) != 1:
        return f"{said}: give one, by an address of this node, on its network's controller"
    network, ip = addresses[0]
    # --route stands for all the routes of the network.
    routes = [*((route.target, route.via) for route in network.routes), (target, ip)]
    words = " ".join(f"--route {to}" if via is None else f"--route {to}={via}" for to, via in routes)
    return f"{said}; on the controller: ztnode controller update {network.nwid} {words}"
