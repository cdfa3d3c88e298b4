"""ztnode serve."""

from __future__ import annotations

import contextlib
import gc
import json
import os
from ipaddress import ip_address, ip_network
from pathlib import Path
from typing import TYPE_CHECKING, Final

import click

from ztclient.forms import format_host_port, split_host_port
from ztnode.cli.common import DIRECTORY, EXISTING_FILE, FILE, NWID, Parameter, Seconds, example
from ztnode.cli.forward_commands import Where, flat, mapping_options, refuse_odd_words
from ztnode.cli.gateway_command import TARGET
from ztnode.cli.interrupts import ended_by_interrupt
from ztnode.cli.option_sources import ConfigurableCommand, given
from ztnode.cli.proxy_command import PROXY_ADDRESS
from ztnode.forwarding import Expose, Forward, LocalAddress, TcpAddress
from ztnode.init_process import step_aside
from ztnode.wire.address import format_address, parse_nwid
from ztnode.wire.tcp_relay import parse_relay

if TYPE_CHECKING:
    from ztnode.node.transports import RelayUse
    from ztnode.serve import Served
    from ztnode.vl1.trusted_paths import TrustedNetwork
    from ztnode.wire.endpoint import Endpoint


class TrustedPath(Parameter["TrustedNetwork"]):
    """A physical network and the number of its trusted path."""

    name = "network"

    def convert(
        self, value: TrustedNetwork | str, param: click.Parameter | None, ctx: click.Context | None
    ) -> TrustedNetwork:
        """See click.ParamType."""
        if not isinstance(value, str):
            return value
        network, _, number = value.partition("=")
        try:
            path_id = int(number) if number.isascii() and number.isdigit() else 0
            if not 0 < path_id < 1 << 64:
                raise ValueError
            return ip_network(network), path_id
        except ValueError:
            self.fail(f"{value!r} is no network with a number from 1 on, such as 10.0.0.0/24=25", param, ctx)


_RELAY_USES: Final[tuple[RelayUse, ...]] = ("auto", "force", "off")


class TcpRelayUse(Parameter["tuple[RelayUse, Endpoint | None]"]):
    """When packets go by a TCP relay, and by which."""

    name = "use"

    def convert(
        self, value: tuple[RelayUse, Endpoint | None] | str, param: click.Parameter | None, ctx: click.Context | None
    ) -> tuple[RelayUse, Endpoint | None]:
        """See click.ParamType."""
        if not isinstance(value, str):
            return value
        word, _, address = value.partition("=")
        use: RelayUse | None = next((known for known in _RELAY_USES if word == known), None)
        if use is None:
            self.fail(f"{value!r} is none of auto, force and off, nor one of them with =HOST:PORT", param, ctx)
        try:
            return use, parse_relay(address) if address else None
        except ValueError as error:
            self.fail(str(error), param, ctx)


_OF_LISTEN: Final = ("client_ca", "token_file")
_OF_EITHER: Final = ("tls_cert", "tls_key", "insecure")
_OF_CONTROLLER: Final = ("sso_listen", "sso_url")
WEB_ADDRESS: Final = "127.0.0.1:9993"
"""Where --web is without --api."""
_OF_PROXY: Final = ("proxy_direct", "proxy_credentials")


@click.command(
    cls=ConfigurableCommand,
    short_help="Run a node.",
    epilog=example(
        "ztnode serve --state ./st --join 9ad07d01093a69e3",
        "ztnode serve --state ./st --listen 127.0.0.1:7447",
        "ztnode serve --state ./st -L 5432:10.121.15.7:5432 -R 80:127.0.0.1:8000",
        "ztnode serve --state ./st --controller --web",
        "ztnode serve --state ./st --tcp-relay force=relay.example:443",
        "ztnode serve --state ./st --controller --store postgresql://ztnode@db/ztnode --store-key ./store.key",
        "ztnode serve --config /etc/ztnode.toml",
    ),
)
@click.option(
    "--state",
    type=DIRECTORY,
    required=True,
    help="Where the node keeps its state.",
)
@click.option("--planet", metavar="FILE", help="A planet other than ZeroTier's own.")
@click.option(
    "--join",
    "networks",
    type=NWID,
    multiple=True,
    help="Join this network; may be given several times.",
)
@click.option(
    "--port",
    type=click.IntRange(0, 65535),
    metavar="N",
    help="UDP port, 0: any. Without it primaryPort of local.conf, else 9993, or another one where that is in use.",
)
@click.option(
    "--workers",
    type=click.IntRange(1, 64),
    default=1,
    show_default=True,
    help="Stack worker processes to share connections.",
)
@click.option(
    "--lanes/--no-lanes",
    default=True,
    show_default=True,
    help="Let the stack worker seal and open the frames of busy peers itself, with keys that the node lends it.",
)
@click.option(
    "--congestion",
    type=click.Choice(["cubic", "newreno", "bbr"]),
    default="cubic",
    show_default=True,
    help="Congestion control of TCP. bbr keeps its speed on paths that lose packets at random.",
)
@click.option(
    "--physical-mtu",
    type=click.IntRange(548, 10100),
    metavar="BYTES",
    default=1432,
    show_default=True,
    help="Longest UDP payload to send. A path that carries less gets less by itself; local.conf may name networks.",
)
@click.option(
    "--transport",
    "transports",
    multiple=True,
    metavar="NAME",
    help="What carries packets: udp, tcp://HOST:PORT (a TCP relay), socks5://[NAME:PASSWORD@]HOST:PORT, or a plugin's "
    "name. Given several times, the first is used that brings answers.  [default: udp]",
)
@click.option(
    "--tcp-relay",
    type=TcpRelayUse(),
    metavar="auto|force|off[=HOST:PORT]",
    help="Go by a TCP relay when nothing else brings answers (auto), always (force), or never; HOST:PORT is a relay in "
    "the place of ZeroTier's.  [default: auto; off with --planet unless one is named]",
)
@click.option(
    "--tcp-relay-listen",
    type=Where("0.0.0.0", tcp=True),
    metavar="[IP:]PORT",
    help="Be such a relay for others there: they name it by --tcp-relay, zerotier-one by tcpFallbackRelay.",
)
@click.option(
    "--fail-over-after",
    type=Seconds(1, 3600),
    metavar="SECONDS",
    default=60,
    show_default=True,
    help="How long nothing may answer before the next of --transport or the TCP relay is used too; one that has worked "
    "is given up within seconds.",
)
@click.option(
    "--no-port-mapping",
    is_flag=True,
    help="Do not ask the router for a port (PCP, NAT-PMP; UPnP with ztnode[upnp]) where a NAT is between us.",
)
@click.option(
    "--outer-proxy",
    metavar="URL",
    help="How this host reaches the internet: http://[NAME:PASSWORD@]HOST:PORT (carries the TCP relay) or "
    "socks5://... (carries UDP and the TCP relay); none: straight.  [default: HTTPS_PROXY, ALL_PROXY, NO_PROXY]",
)
@click.option(
    "--store", metavar="URL", help="Where state is kept, if not in files under --state: memory:, or a plugin's."
)
@click.option(
    "--store-key",
    type=EXISTING_FILE,
    metavar="FILE",
    help="Encrypt what is kept: 32 bytes in base64 (openssl rand -base64 32). ZTNODE_STORE_KEY is the key itself.",
)
@click.option(
    "--pool",
    type=click.IntRange(1, 4096),
    metavar="N",
    help="Be one of N nodes: take the first free one of N identities that --store keeps, made where it is missing.",
)
@click.option(
    "--no-standby",
    is_flag=True,
    help="End with code 75 where another node holds --store, in place of waiting for it to end or die.",
)
@click.option(
    "--identity-secret",
    type=EXISTING_FILE,
    metavar="FILE",
    help="Be this identity, a line as in identity.secret, where the store has none yet. ZTNODE_IDENTITY_SECRET or "
    "ZEROTIER_IDENTITY_SECRET is the line itself.",
)
@click.option(
    "--ephemeral",
    is_flag=True,
    help="Keep nothing: the state directory, empty or missing, is removed in the end.",
)
@click.option("--root", is_flag=True, help="Be a root: relay packets and introduce nodes to each other.")
@click.option(
    "--trusted-path",
    "trusted_paths",
    type=TrustedPath(),
    multiple=True,
    metavar="NETWORK=ID",
    help="Neither encrypt nor authenticate what goes to and comes from this physical network; the other hosts there "
    "need the same ID. As trustedPathId in local.conf.",
)
@click.option("--controller", is_flag=True, help="Be a network controller too: see ztnode controller.")
@click.option(
    "--listen",
    metavar="IP:PORT",
    help="Offer the control service by TCP too; callers need the token, or see --client-ca.",
)
@click.option("--tls-cert", type=EXISTING_FILE, metavar="FILE", help="Serve --listen with TLS: certificate chain, PEM.")
@click.option("--tls-key", type=EXISTING_FILE, metavar="FILE", help="Its private key, PEM.")
@click.option(
    "--client-ca",
    type=EXISTING_FILE,
    metavar="FILE",
    help="Callers show a certificate by this authority and need no token.",
)
@click.option(
    "--token-file", type=FILE, metavar="FILE", help="The token, made if missing. [default: DIR/control.token]"
)
@click.option(
    "--insecure", is_flag=True, help="Allow --listen without TLS beyond loopback: the token travels in clear."
)
@mapping_options
@click.option(
    "--proxy",
    type=PROXY_ADDRESS,
    metavar="[IP:]PORT",
    help="Serve SOCKS5, SOCKS4a and HTTP there: see ztnode proxy.",
)
@click.option("--proxy-direct", is_flag=True, help="As ztnode proxy --direct.")
@click.option(
    "--proxy-credentials",
    type=EXISTING_FILE,
    metavar="FILE",
    help="One line NAME:PASSWORD for --proxy; ZTNODE_PROXY_CREDENTIALS is the line itself.",
)
@click.option(
    "--gateway",
    "gateway_targets",
    type=TARGET,
    multiple=True,
    metavar="NETWORK",
    help="Lead members into this network, as ztnode gateway does; may be given several times.",
)
@click.option(
    "--gateway-except",
    "gateway_excepted",
    type=TARGET,
    multiple=True,
    metavar="NETWORK",
    help="As ztnode gateway --except.",
)
@click.option(
    "--api",
    metavar="[IP:]PORT",
    help="Serve the HTTP API of zerotier-one there, for zerotier-cli and user interfaces; needs ztnode[web].",
)
@click.option(
    "--web",
    is_flag=True,
    help=f"Serve a page for browsers where --api is, or at {WEB_ADDRESS}: the node and, with --controller, its "
    "networks. Log in with what is in zerotier/authtoken.secret in the state directory.",
)
@click.option(
    "--trace-dials",
    is_flag=True,
    help="Send a span for each dial to the OpenTelemetry collector that OTEL_EXPORTER_OTLP_ENDPOINT names (pip install "
    "'ztnode[otel]').",
)
@click.option(
    "--sso-port",
    type=click.IntRange(1, 65535),
    metavar="N",
    default=9993,
    show_default=True,
    help="Port of localhost where a browser ends a log-in to a joined network. Identity providers know the URL: change "
    "it there, too.",
)
@click.option(
    "--sso-listen",
    type=PROXY_ADDRESS,
    metavar="[IP:]PORT",
    help="With --controller: take log-ins of members of its networks there, by HTTP.",
)
@click.option(
    "--sso-url",
    metavar="URL",
    help="How members reach --sso-listen: the https:// URL of what adds TLS before it. [default: that itself, for "
    "members on this host]",
)
@click.option("--unlisted", is_flag=True, help="Clients find this node only where they are told its state or address.")
@click.option(
    "--until-eof", is_flag=True, help="End with standard input too: for a program that must not leave its node behind."
)
@click.option(
    "--log-level",
    type=click.Choice(["debug", "info", "warning", "error"]),
    default="info",
    show_default=True,
    help="What is said on stderr.",
)
@click.option(
    "--log-format",
    type=click.Choice(["text", "json"]),
    default="text",
    show_default=True,
    help="How it is said: for people, or one JSON object a line.",
)
@click.option(
    "--log",
    "logger_levels",
    multiple=True,
    metavar="PACKAGE=LEVEL",
    help="Another level for one package, such as ztnode.vl1=debug; may be given several times.",
)
@click.option("--json", "as_json", is_flag=True, help="Say on stdout in one line of JSON when the node is up.")
@click.pass_context
def serve(
    ctx: click.Context,
    state: Path,
    planet: str | None,
    networks: tuple[str, ...],
    port: int | None,
    workers: int,
    lanes: bool,
    congestion: str,
    physical_mtu: int,
    transports: tuple[str, ...],
    tcp_relay: tuple[RelayUse, Endpoint | None] | None,
    tcp_relay_listen: LocalAddress | None,
    fail_over_after: float,
    no_port_mapping: bool,
    outer_proxy: str | None,
    store: str | None,
    store_key: Path | None,
    pool: int | None,
    no_standby: bool,
    identity_secret: Path | None,
    ephemeral: bool,
    root: bool,
    trusted_paths: tuple[TrustedNetwork, ...],
    controller: bool,
    listen: str | None,
    tls_cert: Path | None,
    tls_key: Path | None,
    client_ca: Path | None,
    token_file: Path | None,
    insecure: bool,
    forwards: tuple[list[Forward], ...],
    exposes: tuple[list[Expose], ...],
    proxy_protocol: str | None,
    forwarded_for: bool,
    proxy: LocalAddress | None,
    proxy_direct: bool,
    proxy_credentials: Path | None,
    gateway_targets: tuple[str, ...],
    gateway_excepted: tuple[str, ...],
    api: str | None,
    web: bool,
    trace_dials: bool,
    sso_port: int,
    sso_listen: LocalAddress | None,
    sso_url: str | None,
    unlisted: bool,
    until_eof: bool,
    log_level: str,
    log_format: str,
    logger_levels: tuple[str, ...],
    as_json: bool,
) -> None:
    """Run a node until Ctrl-C or SIGTERM. The other commands and ztclient talk to it."""
    refuse_contradictions(ctx)
    refuse_odd_words(proxy_protocol, forwarded_for, flat(exposes))
    step_aside()
    gc.disable()  # what is loaded now stays: there is nothing to collect
    if web and api is None:
        api = WEB_ADDRESS

    # The node starts processes and none of them uses this one's channels; gRPC's fork handlers would only say on stderr
    # each time that they were skipped. It reads this when it is imported.
    os.environ.setdefault("GRPC_ENABLE_FORK_SUPPORT", "0")

    ctx.with_resource(ended_by_interrupt())

    from ztnode.worker.launch import launch_ahead

    if store is None:  # what waits for a lease needs no worker yet
        launch_ahead(min(workers, (os.cpu_count() or 1) - 1))  # one core is for the node, which has more to do

    import uvloop

    from ztnode import logs
    from ztnode.cli import given_secrets
    from ztnode.cli.exit_codes import STORE_HELD
    from ztnode.cli.reconfiguration import Reconfiguration
    from ztnode.control.tcp_options import TcpOptions
    from ztnode.descriptors import raise_descriptor_limit
    from ztnode.node.lease import LeaseHeld
    from ztnode.node.options import DEFAULT_PORT, NodeOptions
    from ztnode.node.transports import WaysOut
    from ztnode.serve import ProxyOptions, ServeOptions, run
    from ztnode.web.options import WebOptions

    relay_use, relay = (None, None) if tcp_relay is None else tcp_relay
    logs.set_up(log_level, log_format, logger_levels)
    raise_descriptor_limit()
    gc.freeze()
    gc.enable()
    tcp = None if listen is None else TcpOptions(listen, tls_cert, tls_key, client_ca, token_file, insecure)
    options = ServeOptions(
        NodeOptions(
            state=state,
            planet=planet,
            store=store,
            port_mapping=not no_port_mapping,
            ways_out=WaysOut(transports, relay_use, relay, fail_over_after, outer_proxy),
            store_key=given_secrets.store_key(store_key),
            pool=pool or 0,
            standby=not no_standby,
            identity=given_secrets.identity(identity_secret),
            port=DEFAULT_PORT if port is None else port,
            port_required=bool(port),
            workers=workers,
            lanes=lanes,
            congestion=congestion,
            physical_mtu=physical_mtu,
            root=root,
            controller=controller,
            sso_url=_sso_url(sso_listen, sso_url),
            networks=tuple(dict.fromkeys(map(parse_nwid, (*networks, *given_secrets.networks())))),
            trusted_paths=trusted_paths,
        ),
        tcp,
        forwards=flat(forwards),
        exposes=flat(exposes),
        proxy_protocol=None if proxy_protocol is None else int(proxy_protocol),
        forwarded_for=forwarded_for,
        proxy=None if not isinstance(proxy, TcpAddress) else ProxyOptions(proxy, proxy_direct, proxy_credentials),
        gateway=gateway_targets,
        gateway_excepted=gateway_excepted,
        api=None if api is None else WebOptions(_with_host(api), tls_cert, tls_key, insecure, web),
        trace_dials=trace_dials,
        sso_port=sso_port,
        sso_listen=sso_listen if isinstance(sso_listen, TcpAddress) else None,
        tcp_relay_listen=tcp_relay_listen if isinstance(tcp_relay_listen, TcpAddress) else None,
        listed=not unlisted,
        until_eof=until_eof,
        ephemeral=ephemeral,
    )

    def ready(served: Served) -> None:
        address = format_address(served.node.status().address)
        if as_json:
            click.echo(json.dumps({"address": address, "control": served.addresses, "pid": os.getpid()}))
        else:
            click.echo(f"node {address} is up; control at {', '.join(served.addresses)}", err=True)
        gc.freeze()  # nor is what the node has by now
        _give_memory_back()

    try:
        uvloop.run(run(options, ready, Reconfiguration(ctx).apply))
    except LeaseHeld as error:
        click.echo(f"ztnode: {error}; this node was told not to wait (--no-standby)", err=True)
        ctx.exit(STORE_HELD)


def _give_memory_back() -> None:
    """What the start used for a moment goes back to the system: 4 MB where Python had to compile its modules first."""
    import ctypes

    with contextlib.suppress(AttributeError, OSError):  # glibc alone has it
        ctypes.CDLL(None).malloc_trim(0)


def _refuse_no_address(option: str, address: str) -> None:
    """Before anything is started, or an identity made."""
    try:
        split_host_port(_with_host(address) if option == "--api" else address)
    except ValueError:
        raise click.UsageError(f"{option}: {address!r} is no address to listen on, such as 127.0.0.1:7447") from None


def _refuse_clear_tokens(option: str, address: str) -> None:
    with contextlib.suppress(ValueError):  # a name is resolved, or refused, where it is used
        if not ip_address(split_host_port(_with_host(address))[0]).is_loopback:
            raise click.UsageError(
                f"{option} {address} is beyond loopback, where the token would travel in clear: give --tls-cert and "
                "--tls-key, or --insecure"
            )


def _with_host(address: str) -> str:
    return f"127.0.0.1:{address}" if address.isdigit() else address


def refuse_contradictions(ctx: click.Context) -> None:
    """Raises click.UsageError where an option has no meaning without another that is missing."""
    # What the environment has may be there for clients, such as ZTNODE_TOKEN_FILE.
    if ctx.params["listen"] is None and any(given(ctx, name) for name in _OF_LISTEN):
        raise click.UsageError("--client-ca and --token-file belong to --listen")
    served = any(ctx.params[name] for name in ("listen", "api", "web"))
    if not served and any(given(ctx, name) for name in _OF_EITHER):
        raise click.UsageError("--tls-cert, --tls-key and --insecure belong to --listen, --api or --web")
    for name in ("listen", "api"):
        if ctx.params[name] is not None:
            _refuse_no_address(f"--{name}", ctx.params[name])
        if ctx.params[name] is not None and ctx.params["tls_cert"] is None and not ctx.params["insecure"]:
            _refuse_clear_tokens(f"--{name}", ctx.params[name])
    if not ctx.params["controller"] and any(given(ctx, name) for name in _OF_CONTROLLER):
        raise click.UsageError("--sso-listen and --sso-url belong to --controller")
    if ctx.params["sso_url"] is not None and ctx.params["sso_listen"] is None:
        raise click.UsageError("--sso-url belongs to --sso-listen")
    if ctx.params["proxy"] is None and any(given(ctx, name) for name in _OF_PROXY):
        raise click.UsageError("--proxy-direct and --proxy-credentials belong to --proxy")
    if ctx.params["pool"] and (ctx.params["store"] is None or ctx.params["identity_secret"] is not None):
        raise click.UsageError("--pool needs --store, where the identities are; --identity-secret does not go with it")
    if ctx.params["gateway_excepted"] and not ctx.params["gateway_targets"]:
        raise click.UsageError("--gateway-except belongs to --gateway")


def _sso_url(listen: LocalAddress | None, url: str | None) -> str:
    if url is not None or not isinstance(listen, TcpAddress):
        return url or ""
    return f"http://{format_host_port(listen.host, listen.port)}/sso"
