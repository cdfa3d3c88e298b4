"""ztnode controller: the networks that a node controls, and their members."""

from __future__ import annotations

import copy
import datetime
import json
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar, cast

import click

import ztclient
from ztnode.cli.common import (
    EXISTING_FILE,
    NODE_SECONDS,
    NWID,
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
from ztnode.cli.rules_commands import RuleNames, controller_rules
from ztnode.wire.address import format_address, parse_address

if TYPE_CHECKING:
    from click.shell_completion import CompletionItem

    from ztclient.controller import (
        Controller,
        ControllerMember,
        ControllerNetwork,
        MemberSettings,
        NetworkSettings,
        SingleSignOn,
    )

MAX_RULES_FILE = 1 << 20
_Command = TypeVar("_Command", bound=Callable[..., Any])


class ZeroTierAddress(Parameter[str]):
    """A ZeroTier address argument: 10 hexadecimal digits, given on in lower case."""

    name = "address"

    def convert(self, value: str, param: click.Parameter | None, ctx: click.Context | None) -> str:
        """See click.ParamType."""
        try:
            return format_address(parse_address(value.strip()))
        except ValueError as error:
            self.fail(str(error), param, ctx)

    def shell_complete(self, ctx: click.Context, _param: click.Parameter, incomplete: str) -> list[CompletionItem]:
        """See click.ParamType."""
        from ztnode.cli import completion

        return completion.members(ctx, incomplete)


ADDRESS = ZeroTierAddress()


@click.group(
    epilog=example(
        "ztnode controller create --name home --subnet 10.121.15.0/24",
        "ztnode controller members 778cde71900a69e3",
        "ztnode controller authorize 778cde71900a69e3 9ad07d0109",
    )
)
def controller() -> None:
    """Administer the networks of a node that runs with --controller."""


def network_options(command: _Command) -> _Command:
    """The settings that create and update share."""
    options = (
        click.option("--name", metavar="TEXT", help="A name for people."),
        click.option(
            "--private/--public",
            default=None,
            help="Whether members need authorization; without it they need it in a new network.",
        ),
        click.option(
            "--subnet", metavar="CIDR", help="Give members IPv4 addresses of this subnet: route and pool in one option."
        ),
        click.option(
            "--pool",
            "pools",
            metavar="FIRST-LAST",
            multiple=True,
            help="Assign addresses from this range; may be given several times.",
        ),
        click.option(
            "--route",
            "routes",
            metavar="CIDR[=GATEWAY]",
            multiple=True,
            help="A route for all members; may be given several times, in place of all that there are.",
        ),
        click.option("--rfc4193/--no-rfc4193", default=None, help="Give members their RFC 4193 IPv6 address."),
        click.option(
            "--6plane/--no-6plane", "sixplane", default=None, help="Give members their 6PLANE IPv6 addresses."
        ),
        click.option("--broadcast/--no-broadcast", default=None, help="Whether Ethernet broadcast reaches members."),
        click.option("--mtu", type=click.IntRange(1280, 10000), metavar="N", help="Bytes of Ethernet payload."),
        click.option(
            "--multicast-limit", type=click.IntRange(0, 65535), metavar="N", help="Recipients of one multicast frame."
        ),
        click.option(
            "--ephemeral-members/--no-ephemeral-members",
            default=None,
            help="Whether every new member is ephemeral; without it, those are that ask for it, as ztclient.run does.",
        ),
        click.option(
            "--ephemeral-timeout",
            type=click.IntRange(120, 30 * 86400),
            metavar="SECONDS",
            help="Forget ephemeral members that are not heard for so long. [default: 900]",
        ),
        click.option("--dns", metavar="DOMAIN=IP[,IP…]", help="Search domain and name servers."),
        click.option(
            "--rules",
            "rules_file",
            type=EXISTING_FILE,
            metavar="FILE",
            help="The rules as JSON, in the form of ZeroTier One's controller API; as text: ztnode controller rules.",
        ),
        click.option(
            "--sso",
            metavar="ISSUER=CLIENT_ID",
            help="Members log in at this OpenID Connect provider: see docs/SIGN_ON.md.",
        ),
        click.option("--no-sso", is_flag=True, help="Members need no log-in."),
        click.option(
            "--sso-provider",
            type=click.Choice(["default", "auth0", "keycloak", "okta", "onelogin"]),
            help="The make of the provider, where --sso names one. [default: default]",
        ),
        click.option(
            "--auth-token",
            "auth_tokens",
            metavar="TOKEN",
            multiple=True,
            help="Let in who joins with this token; may be given several times, in place of all that there are.",
        ),
        click.option("--no-auth-tokens", is_flag=True, help="Let nobody in for a token any more."),
    )
    for option in reversed(options):
        command = option(command)
    return command


@controller.command("networks", epilog=example("ztnode controller networks --json"))
@json_option
@node_option
def list_networks(node: ztclient.Node, as_json: bool) -> None:
    """List the networks of this controller."""
    found = _controller(node).networks()
    if as_json:
        print_json(found)
        return
    print_table(
        ("NWID", "NAME", "ACCESS", "MEMBERS", "ROUTES"),
        [
            (
                network.nwid,
                network.name,
                "private" if network.private else "public",
                f"{network.authorized_members} of {network.members}",
                ", ".join(route.target for route in network.routes),
            )
            for network in found
        ],
        empty="there is no network yet: ztnode controller create --subnet 10.121.15.0/24",
    )


@controller.command(epilog=example("ztnode controller create --name home --subnet 10.121.15.0/24"))
@click.option(
    "--nwid", type=NWID, help="The network id, which begins with this node's address. [default: a random one]"
)
@network_options
@json_option
@node_option_with_patience(lambda _arguments: NODE_SECONDS)
def create(node: ztclient.Node, /, nwid: str | None, as_json: bool, **options: Any) -> None:
    """Make a network and print it."""
    _print_network(_controller(node).create_network(nwid, **_settings(**options)), as_json)


@controller.command(epilog=example("ztnode controller update 778cde71900a69e3 --public"))
@click.argument("nwid", type=NWID)
@network_options
@json_option
@node_option
def update(node: ztclient.Node, /, nwid: str, as_json: bool, **options: Any) -> None:
    """Change settings of the network NWID; members that are online get them at once."""
    settings = _settings(**options)
    if not settings:
        raise click.UsageError("give at least one setting to change")
    _print_network(_controller(node).update_network(nwid, **settings), as_json)


@controller.command(epilog=example("ztnode controller show 778cde71900a69e3 --json"))
@click.argument("nwid", type=NWID)
@json_option
@node_option
def show(node: ztclient.Node, nwid: str, as_json: bool) -> None:
    """Show the settings of the network NWID."""
    _print_network(_controller(node).network(nwid), as_json)


@controller.command(epilog=example("ztnode controller delete 778cde71900a69e3"))
@click.argument("nwid", type=NWID)
@node_option
def delete(node: ztclient.Node, nwid: str) -> None:
    """Delete the network NWID with all its members."""
    _controller(node).delete_network(nwid)


@controller.command(epilog=example("ztnode controller members 778cde71900a69e3"))
@click.argument("nwid", type=NWID)
@json_option
@node_option
def members(node: ztclient.Node, nwid: str, as_json: bool) -> None:
    """List who is a member of the network NWID, and who waits to become one."""
    found = _controller(node).members(nwid)
    if as_json:
        print_json(found)
        return
    print_table(
        ("ADDRESS", "NAME", "ACCESS", "LAST SEEN", "VERSION", "ADDRESSES"),
        [
            (
                member.address,
                member.name,
                _access(member),
                "-" if member.last_seen_age is None else f"{member.last_seen_age:.0f} s ago",
                member.version or "-",
                ", ".join(member.managed_addresses),
            )
            for member in found
        ],
        empty="nobody has asked yet: ztnode join NWID on another node",
    )


@controller.command(epilog=example("ztnode controller authorize 778cde71900a69e3 9ad07d0109 --ip 10.121.15.99"))
@click.argument("nwid", type=NWID)
@click.argument("address", type=ADDRESS)
@click.option("--ip", "ips", metavar="IP", multiple=True, help="Give it this address; may be given several times.")
@click.option("--name", metavar="TEXT", help="A name for people.")
@click.option("--sso-exempt/--no-sso-exempt", default=None, help="Whether it needs no log-in where others do.")
@json_option
@node_option
def authorize(
    node: ztclient.Node,
    nwid: str,
    address: str,
    ips: tuple[str, ...],
    name: str | None,
    sso_exempt: bool | None,
    as_json: bool,
) -> None:
    """Let the node ADDRESS into the network NWID, whether or not it has asked yet."""
    administration = _controller(node)
    settings: MemberSettings = {}
    if ips:
        settings["addresses"] = ips
    if name is not None:
        settings["name"] = name
    if sso_exempt is not None:
        settings["sso_exempt"] = sso_exempt
    if settings:  # first, so that it enters with what it shall have
        administration.update_member(nwid, address, **settings)
    _print_member(administration.authorize(nwid, address), as_json, administration)


@controller.command(epilog=example("ztnode controller deauthorize 778cde71900a69e3 9ad07d0109"))
@click.argument("nwid", type=NWID)
@click.argument("address", type=ADDRESS)
@json_option
@node_option
def deauthorize(node: ztclient.Node, nwid: str, address: str, as_json: bool) -> None:
    """Shut the member ADDRESS out of the network NWID."""
    administration = _controller(node)
    _print_member(administration.deauthorize(nwid, address), as_json, administration)


controller.add_command(controller_rules)


for _command in (authorize, deauthorize):
    # The British spelling works too; it is not shown.
    _alias = copy.copy(_command)
    _alias.hidden = True
    controller.add_command(_alias, str(_command.name).replace("ize", "ise"))


@controller.group(epilog=example("ztnode controller member set 778cde71900a69e3 9ad07d0109 --ephemeral"))
def member() -> None:
    """One member of a network."""


@member.command("set", epilog=example("ztnode controller member set 778cde71900a69e3 9ad07d0109 --ephemeral"))
@click.argument("nwid", type=NWID)
@click.argument("address", type=ADDRESS)
@click.option("--name", metavar="TEXT", help="A name for people.")
@click.option(
    "--ip",
    "ips",
    metavar="IP",
    multiple=True,
    help="Give it this address, in place of those it has; may be given several times.",
)
@click.option(
    "--ephemeral/--no-ephemeral",
    default=None,
    help="Whether it is forgotten when it ends, or is not heard for the network's --ephemeral-timeout.",
)
@click.option("--bridge/--no-bridge", default=None, help="Whether it may pass frames of other hosts.")
@click.option(
    "--tag",
    "tags",
    metavar="TAG=VALUE",
    multiple=True,
    help="Give it this tag, in place of those it has: numbers, or names that the network's rules define, of flags "
    "several with commas; may be given several times.",
)
@click.option(
    "--capability",
    "capabilities",
    metavar="CAPABILITY",
    multiple=True,
    help="Give it this capability, in place of those it has: a number, or a name that the network's rules define; may "
    "be given several times.",
)
@click.option("--no-tags", is_flag=True, help="Take all its tags; it has the defaults of the rules then.")
@click.option("--no-capabilities", is_flag=True, help="Take all its capabilities.")
@json_option
@node_option
def set_member(
    node: ztclient.Node,
    nwid: str,
    address: str,
    name: str | None,
    ips: tuple[str, ...],
    ephemeral: bool | None,
    bridge: bool | None,
    tags: tuple[str, ...],
    capabilities: tuple[str, ...],
    no_tags: bool,
    no_capabilities: bool,
    as_json: bool,
) -> None:
    """Change settings of the member ADDRESS of the network NWID, whether or not it has asked yet."""
    settings: MemberSettings = {}
    if name is not None:
        settings["name"] = name
    if ips:
        settings["addresses"] = ips
    if ephemeral is not None:
        settings["ephemeral"] = ephemeral
    if bridge is not None:
        settings["active_bridge"] = bridge
    if (tags and no_tags) or (capabilities and no_capabilities):
        raise click.UsageError("give --tag or --no-tags, --capability or --no-capabilities, not both")
    if no_tags:
        settings["tags"] = []
    if no_capabilities:
        settings["capabilities"] = []
    if tags or capabilities:
        names = RuleNames(_controller(node).network(nwid).rules_source)
        if tags:
            settings["tags"] = [names.tag(text) for text in tags]
        if capabilities:
            settings["capabilities"] = [names.capability(text) for text in capabilities]
    if not settings:
        raise click.UsageError("give at least one setting to change")
    administration = _controller(node)
    _print_member(administration.update_member(nwid, address, **settings), as_json, administration)


@member.command("show", epilog=example("ztnode controller member show 778cde71900a69e3 9ad07d0109 --json"))
@click.argument("nwid", type=NWID)
@click.argument("address", type=ADDRESS)
@json_option
@node_option
def show_member(node: ztclient.Node, nwid: str, address: str, as_json: bool) -> None:
    """Show the member ADDRESS of the network NWID."""
    administration = _controller(node)
    _print_member(administration.member(nwid, address), as_json, administration)


@controller.command(epilog=example("ztnode controller forget 778cde71900a69e3 9ad07d0109"))
@click.argument("nwid", type=NWID)
@click.argument("address", type=ADDRESS)
@node_option
def forget(node: ztclient.Node, nwid: str, address: str) -> None:
    """Shut the member ADDRESS out, if need be, and free its addresses."""
    _controller(node).delete_member(nwid, address)


def _controller(node: ztclient.Node) -> Controller:
    from ztclient.controller import Controller

    return Controller(node)


def _settings(
    *,
    subnet: str | None,
    pools: tuple[str, ...],
    routes: tuple[str, ...],
    dns: str | None,
    rules_file: Path | None,
    sso: str | None,
    no_sso: bool,
    sso_provider: str | None,
    auth_tokens: tuple[str, ...],
    no_auth_tokens: bool,
    **plain: Any,
) -> NetworkSettings:
    """``plain``: options that are settings by the same name; None: not given."""
    from ztclient import controller as client

    settings = cast("NetworkSettings", {name: value for name, value in plain.items() if value is not None})
    if subnet is not None:
        try:
            settings.update(client.subnet(subnet))
        except ValueError as error:
            raise click.UsageError(f"--subnet: {error}") from None
    if pools:
        ranges = [_range(text) for text in pools]
        settings["pools"] = ranges
        settings["assign_ipv4"] = any("." in first for first, _ in ranges)
        settings["assign_ipv6"] = any(":" in first for first, _ in ranges)
    if routes:
        settings["routes"] = [*settings.get("routes", ()), *(_route(text) for text in routes)]
    if dns is not None:
        domain, equals, servers = dns.partition("=")
        if not equals:
            raise click.UsageError(f"{dns!r} is not of the form DOMAIN=IP[,IP…]")
        settings["dns"] = (domain, [server for server in servers.split(",") if server])
    if rules_file is not None:
        settings["rules"] = _rules(rules_file)
    if sso is not None or sso_provider is not None or no_sso:
        settings["sso"] = _sso(sso, no_sso, sso_provider)
    if auth_tokens or no_auth_tokens:
        settings["auth_tokens"] = dict.fromkeys(auth_tokens)
    return settings


def _sso(text: str | None, off: bool, provider: str | None) -> SingleSignOn:
    from ztclient.controller import SingleSignOn

    if off:
        if text is not None or provider is not None:
            raise click.UsageError("give --sso or --no-sso, not both")
        return SingleSignOn()
    # From the right: an issuer may have a query, a client id has no "=".
    issuer, equals, client_id = (text or "").rpartition("=")
    if not equals:
        raise click.UsageError("--sso takes ISSUER=CLIENT_ID, such as https://login.example.org=ztnode")
    return SingleSignOn(True, issuer, client_id, provider or "default")


def _range(text: str) -> tuple[str, str]:
    first, dash, last = text.partition("-")
    if not dash:
        raise click.UsageError(f"{text!r} is not a range such as 10.121.15.10-10.121.15.90")
    return first.strip(), last.strip()


def _route(text: str) -> tuple[str, str | None]:
    target, _, gateway = text.partition("=")
    return target, gateway or None


def _rules(path: Path) -> list[dict[str, Any]]:
    with path.open("rb") as file:
        data = file.read(MAX_RULES_FILE)
    try:
        rules = json.loads(data)
    except (ValueError, RecursionError) as error:
        hint = "rules as text are set by `ztnode controller rules NWID --file FILE`"
        raise Failure(f"{path} is not JSON: {error}; {hint}") from None
    if not isinstance(rules, list):
        raise Failure(f"{path} is not a JSON array of rules")
    return rules


def _print_network(network: ControllerNetwork, as_json: bool) -> None:
    if as_json:
        print_json(network)
        return
    computed = [name for name, on in (("RFC 4193", network.rfc4193), ("6PLANE", network.sixplane)) if on]
    print_fields(
        (
            ("network", f"{network.nwid} {network.name}".strip()),
            ("access", "private" if network.private else "public"),
            ("members", f"{network.authorized_members} authorized, {network.members} known"),
            ("routes", ", ".join(_route_text(route.target, route.via) for route in network.routes)),
            ("pools", ", ".join(f"{first}-{last}" for first, last in network.pools)),
            ("computed IPs", ", ".join(computed)),
            ("DNS", f"{network.dns_domain} {' '.join(network.dns_servers)}".strip()),
            ("MTU", network.mtu),
            (
                "ephemeral",
                f"{'all new members' if network.ephemeral_members else 'members that ask for it'}, "
                f"forgotten after {network.ephemeral_timeout:g} s",
            ),
            ("log-in", f"{network.sso.issuer} as {network.sso.client_id}" if network.sso.enabled else ""),
            ("auth tokens", len(network.auth_tokens) or ""),
            ("rules", len(network.rules)),
            ("revision", network.revision),
        )
    )


def _access(member: ControllerMember) -> str:
    access = "authorized" if member.authorized else "waiting" if member.last_deauthorized is None else "shut out"
    return f"{access}, ephemeral" if member.ephemeral else access


def _route_text(target: str, via: str | None) -> str:
    return target if via is None else f"{target} via {via}"


def _log_in(member: ControllerMember) -> str:
    if member.authentication_expires is None:
        return ""
    until = datetime.datetime.fromtimestamp(member.authentication_expires, datetime.UTC)
    return f"{member.sso_subject} until {until:%Y-%m-%d %H:%M} UTC"


def _print_member(member: ControllerMember, as_json: bool, administration: Controller) -> None:
    if as_json:
        print_json(member)
        return
    carries = member.tags or member.capabilities
    names = RuleNames(administration.network(member.nwid).rules_source if carries else "")
    in_use = {address.partition("/")[0] for address in member.managed_addresses}
    unused = [address for address in member.assigned_addresses if member.authorized and address not in in_use]
    since = member.last_authorized if member.authorized else member.last_deauthorized
    print_fields(
        (
            ("member", f"{member.address} {member.name}".strip()),
            ("access", "authorized" if member.authorized else "not authorized"),
            ("ephemeral", "yes" if member.ephemeral else ""),
            (
                "since",
                "" if since is None else f"{datetime.datetime.fromtimestamp(since, datetime.UTC):%Y-%m-%d %H:%M} UTC",
            ),
            ("log-in", "exempt" if member.sso_exempt else _log_in(member)),
            ("online", "yes" if member.online else "no"),
            ("addresses", ", ".join(member.managed_addresses)),
            ("not in use", f"{', '.join(unused)}: in no route of the network" if unused else ""),
            ("bridge", "yes" if member.active_bridge else ""),
            ("tags", ", ".join(names.shown_tag(tag, value) for tag, value in member.tags)),
            ("capabilities", ", ".join(names.shown_capability(number) for number in member.capabilities)),
        )
    )
