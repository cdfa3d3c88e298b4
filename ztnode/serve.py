"""``ztnode serve``: a node, its control plane and its entry in the registry, from start to the last signal."""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import logging
import os
import shutil
import signal
import socket
import threading
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from ztclient.forms import format_host_port, split_host_port
from ztnode import plugins
from ztnode.control.tcp_options import TcpOptions
from ztnode.forwarding import Expose, Forward, LocalAddress, TcpAddress
from ztnode.node.lease import POLL_EVERY, LeaseHeld
from ztnode.node.options import HOME, NodeOptions
from ztnode.node.registry import Registration
from ztnode.node.start import start
from ztnode.service_manager import ServiceManager
from ztnode.web.options import WebOptions

if TYPE_CHECKING:  # gRPC and what else takes long to load comes once the roots are greeted
    from ztnode.control.control_server import ControlServer
    from ztnode.names import Resolver
    from ztnode.node.node import Node
    from ztnode.web.web_server import Web

log = logging.getLogger(__name__)

STDIN: Final = 0
HOSTS: Final = "hosts"
"""In the state directory: names and addresses as in /etc/hosts."""
STOP_GRACE: Final = 0.5
"""Seconds that control calls under way get when the node stops; all of it ends within two."""


@dataclass(frozen=True, slots=True)
class ProxyOptions:
    """A proxy for local programs. ``direct``: what no managed route leads to is dialled by the host. ``credentials``: a
    file with NAME:PASSWORD, which a proxy beyond loopback must have."""

    address: TcpAddress
    direct: bool = False
    credentials: Path | None = None


@dataclass(frozen=True, slots=True)
class ServeOptions:
    """A node and where its control plane listens beside the Unix socket in the state directory."""

    node: NodeOptions
    tcp: TcpOptions | None = None
    forwards: Sequence[Forward] = ()
    exposes: Sequence[Expose] = ()
    proxy_protocol: int | None = None
    """Version of the PROXY protocol by which servers behind ``exposes`` learn who the peer is."""
    forwarded_for: bool = False
    """Whether HTTP servers behind ``exposes`` are told it in X-Forwarded-For."""
    proxy: ProxyOptions | None = None
    api: WebOptions | None = None
    gateway: Sequence[str] = ()
    """Networks (CIDR) that members reach through this node, but for ``gateway_excepted``."""
    gateway_excepted: Sequence[str] = ()
    sso_port: int = 9993
    """Of localhost, where a browser ends a log-in to a joined network."""
    sso_listen: TcpAddress | None = None
    """Where members of the controller's networks hand in their log-ins."""
    tcp_relay_listen: TcpAddress | None = None
    """Where hosts from which UDP goes nowhere find a relay."""
    listed: bool = True
    """Whether this user's clients find the node without being told where it is."""
    until_eof: bool = False
    """End when standard input does, as it does when the process that holds the other end of the pipe is gone."""
    trace_dials: bool = False
    """Whether each dial is a span of OpenTelemetry."""
    ephemeral: bool = False
    """Keep state in memory alone, and leave no directory behind."""


@dataclass(slots=True)
class Served:
    """A node in service."""

    node: Node
    control: ControlServer
    reloadable: list[Callable[[], bool]]
    """Each takes the TLS files of some listener as they are now; False where it has none. Raise OSError, ValueError."""

    @property
    def addresses(self) -> list[str]:
        """Where the control plane listens, in the forms of ``ztclient.discovery``."""
        return self.control.addresses


def _no_word(_line: str) -> None:
    pass


@contextlib.asynccontextmanager
async def serving(options: ServeOptions, waiting: Callable[[str], None] = _no_word) -> AsyncIterator[Served]:
    """A node in service for as long as the context lasts; ``waiting`` is told what for while another node holds the
    store. Raises LeaseHeld, StateError, PluginError, OSError, ValueError."""
    async with contextlib.AsyncExitStack() as undo:
        if options.ephemeral:
            options = dataclasses.replace(options, node=_in_memory(options.node))
            undo.callback(shutil.rmtree, options.node.state, ignore_errors=True)
        yield await undo.enter_async_context(_serving(options, waiting))


@contextlib.asynccontextmanager
async def _serving(options: ServeOptions, waiting: Callable[[str], None]) -> AsyncIterator[Served]:
    if options.node.store is None:  # where another node may hold the store, it may hold the ports as well
        _try_addresses(options)
    manager = plugins.load()
    node = await start(options.node, manager, waiting)
    try:
        # What speaks to clients takes longest to load: meanwhile the roots answer and the workers start.
        from ztnode.control import readiness
        from ztnode.control.control_server import ControlServer, node_service
        from ztnode.names import Resolver

        resolver = Resolver(node, options.node.state / HOSTS)
        services = [node_service(node, resolver)]
        if node.controller is not None:
            from ztnode.control.controller_service import controller_service

            services.append(controller_service(node))
        server = ControlServer(services, state=options.node.state, tcp=options.tcp)
        await node.ready()
        await server.start()
        published = asyncio.create_task(readiness.publish(node, server.health))
        try:
            async with contextlib.AsyncExitStack() as stack:
                if options.listed:
                    _list(stack, server.addresses[0], options.node.state)
                if options.trace_dials:
                    await stack.enter_async_context(_tracing(node))
                await stack.enter_async_context(_signing_on(options, node))
                await stack.enter_async_context(_mapped(options, node, resolver))
                if options.gateway:
                    node.open_gateway(options.gateway, options.gateway_excepted)
                    log.info("gateway to %s", ", ".join(options.gateway))
                if options.proxy is not None:
                    await stack.enter_async_context(_proxied(options.proxy, node, resolver))
                if options.tcp_relay_listen is not None:
                    await stack.enter_async_context(_relaying(options.tcp_relay_listen, node))
                reloadable = [server.reload]
                if options.api is not None:
                    web = await stack.enter_async_context(_api(options.api, node, options.node.state))
                    reloadable.append(web.reload)
                yield Served(node, server, reloadable)
        finally:
            published.cancel()
            await server.stop(STOP_GRACE)
    finally:
        await node.close()


def _try_addresses(options: ServeOptions) -> None:
    """Bind each local TCP address and let go: what is taken, or not ours to take, is refused before an identity is made
    and the workers start. Raises OSError, ValueError."""
    asked: list[tuple[str, str, int]] = []
    for option, address in (("--listen", options.tcp), ("--api", options.api)):
        if address is not None:
            asked.append((option, *split_host_port(address.address)))
    named: list[tuple[str, LocalAddress | None]] = [
        ("--proxy", None if options.proxy is None else options.proxy.address),
        ("--sso-listen", options.sso_listen),
        ("--tcp-relay-listen", options.tcp_relay_listen),
        *(("--forward", forward.local) for forward in options.forwards if not forward.udp),
    ]
    asked += [(option, each.host, each.port) for option, each in named if isinstance(each, TcpAddress)]
    for option, host, port in asked:
        is_ipv6 = ":" in host
        with socket.socket(socket.AF_INET6 if is_ipv6 else socket.AF_INET) as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            if is_ipv6:
                probe.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
            try:
                probe.bind((host, port))
            except socket.gaierror:
                continue  # a name: who listens there will say so
            except OSError as error:
                shown = format_host_port(host, port)
                raise OSError(error.errno, f"{option} {shown}: {os.strerror(error.errno or 0)}") from None


def _list(stack: contextlib.ExitStack | contextlib.AsyncExitStack, address: str, state: Path) -> None:
    """Let this user's clients find the node; where that cannot be, they need to be told where it is, and no more."""
    try:
        stack.enter_context(Registration(address, state))
    except OSError as error:
        log.warning(
            "not listed for clients: %s; they find this node by --state %s (see XDG_RUNTIME_DIR)",
            error.strerror or error,
            state,
        )


def _in_memory(options: NodeOptions) -> NodeOptions:
    """Options of a node that keeps nothing. Raises ValueError where something else would be lost with its directory."""
    if options.store is not None:
        raise ValueError("an ephemeral node keeps nothing: leave --store out")
    from ztclient.launch import LOCK_NAME, PIPE_NAME  # of ztclient.run, which counts who uses the node

    if options.state.is_dir() and any(entry.name not in (LOCK_NAME, PIPE_NAME) for entry in options.state.iterdir()):
        raise ValueError(f"{options.state} is not empty: the directory of an ephemeral node is removed when it ends")
    return dataclasses.replace(options, store="memory:", ephemeral=True)


@contextlib.asynccontextmanager
async def _signing_on(options: ServeOptions, node: Node) -> AsyncIterator[None]:
    """Log-ins: to the joined networks, and by members of the controller's. Raises OSError."""
    from ztnode.sign_on.members import MemberSignOn

    async with contextlib.AsyncExitStack() as stack:
        if options.sso_listen is not None and node.administration is not None:
            from ztnode.sign_on.authority import Authority

            authority = Authority(node.administration)
            await authority.open(options.sso_listen.host, options.sso_listen.port)
            stack.push_async_callback(authority.close)
            log.info("log-ins are taken at %s", options.node.sso_url)
        running = asyncio.create_task(MemberSignOn(node, options.sso_port).run())
        running.add_done_callback(_tell_failure)
        try:
            yield
        finally:
            running.cancel()
            await asyncio.gather(running, return_exceptions=True)


@contextlib.asynccontextmanager
async def _mapped(options: ServeOptions, node: Node, resolver: Resolver) -> AsyncIterator[None]:
    """The node's own port mappings at work. Raises OSError."""
    if not options.forwards and not options.exposes:
        yield
        return
    from ztnode.forwarding.mappings import Mappings
    from ztnode.forwarding.node_overlay import NodeOverlay

    mappings = Mappings(
        NodeOverlay(node, resolver),
        options.forwards,
        options.exposes,
        log.warning,
        proxy_protocol=options.proxy_protocol,
        forwarded_for=options.forwarded_for,
        patient=True,
    )
    running: asyncio.Task[None] | None = None
    try:
        for line in await mappings.open():
            log.info(line)
        running = asyncio.create_task(mappings.run())
        running.add_done_callback(_tell_failure)
        yield
    finally:
        if running is not None:
            running.cancel()
            await asyncio.gather(running, return_exceptions=True)
        await mappings.close()


@contextlib.asynccontextmanager
async def _proxied(options: ProxyOptions, node: Node, resolver: Resolver) -> AsyncIterator[None]:
    """The node's own proxy at work. Raises OSError, ValueError."""
    from ztnode.forwarding import admission
    from ztnode.forwarding.local import listen
    from ztnode.forwarding.node_overlay import NodeOverlay
    from ztnode.forwarding.proxy_service import ProxyService

    check_password = admission.load(options.credentials)
    admission.check_address(options.address, check_password)
    with listen(options.address) as listener:
        log.info("proxy at %s", TcpAddress(*listener.getsockname()[:2]))
        service = ProxyService(NodeOverlay(node, resolver), check_password=check_password, direct=options.direct)
        running = asyncio.create_task(service.run(listener))
        running.add_done_callback(_tell_failure)
        try:
            yield
        finally:
            running.cancel()
            await asyncio.gather(running, return_exceptions=True)


@contextlib.asynccontextmanager
async def _relaying(address: TcpAddress, node: Node) -> AsyncIterator[None]:
    """The TCP relay for others. Raises OSError."""
    from ztnode.node.tcp_relay_server import TcpRelayServer

    relay = TcpRelayServer()
    try:
        try:
            host, port = await relay.open(address.host, address.port)
        except OSError as error:
            reason = os.strerror(error.errno) if error.errno and error.errno > 0 else error.strerror
            raise OSError(error.errno, f"--tcp-relay-listen {address}: {reason}") from error
        node.count("tcp_relay_server", relay.counters)
        log.info("TCP relay at %s", TcpAddress(host, port))
        yield
    finally:
        relay.close()


@contextlib.asynccontextmanager
async def _api(options: WebOptions, node: Node, state: Path) -> AsyncIterator[Web]:
    """The service API. Raises OSError, ValueError."""
    try:
        from ztnode.web import web_server
    except ModuleNotFoundError as error:
        raise _not_installed("--web" if options.page else "--api", error) from None
    home = state / HOME if (state / HOME).is_dir() else state
    async with contextlib.AsyncExitStack() as stack:
        try:
            web = await stack.enter_async_context(web_server.serving(options, node, home))
        except ModuleNotFoundError as error:
            raise _not_installed("--web", error) from None
        log.info("service API at %s, its token in %s", web.url, home / web_server.TOKEN)
        if options.page:
            log.info("page at %s/, to log in with that token", web.url)
        yield web


@contextlib.asynccontextmanager
async def _tracing(node: Node) -> AsyncIterator[None]:
    try:
        from ztnode.dial_traces import tracing
    except ModuleNotFoundError as error:
        raise _not_installed("--trace-dials", error, "otel") from None
    async with tracing(node):
        yield


def _not_installed(option: str, error: ModuleNotFoundError, extra: str = "web") -> ValueError:
    return ValueError(f"{option} needs {error.name}, which is not installed: pip install 'ztnode[{extra}]'")


def _tell_failure(task: asyncio.Task[None]) -> None:
    if not task.cancelled() and (error := task.exception()) is not None:
        log.error("connections are carried no more: %s", error)


async def run(
    options: ServeOptions,
    ready: Callable[[Served], None] = lambda _served: None,
    configure: Callable[[Served], Awaitable[None]] | None = None,
) -> None:
    """Serve until SIGTERM, SIGINT or, if told so, the end of standard input; ``ready`` is called when clients can come,
    ``configure`` at SIGHUP, after the TLS files were read again. A node that loses the lease of its store ends and
    waits for it again, unless it was told not to wait. Raises as ``serving`` does."""
    stop = asyncio.Event()
    manager = ServiceManager()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    loop.add_signal_handler(signal.SIGHUP, lambda: None)  # sent too early: there is nothing to read again yet
    if options.until_eof:
        threading.Thread(target=_wait_for_eof, args=(loop, stop), daemon=True).start()
    stopping = asyncio.ensure_future(stop.wait())
    alive: list[asyncio.Task[None]] = []

    def say_ready(status: str) -> None:
        manager.notify(READY="1", STATUS=status)
        if not alive:
            alive.append(asyncio.create_task(manager.keep_alive()))

    def say_stopping(_done: asyncio.Future[Any]) -> None:
        if stop.is_set():
            manager.notify(STOPPING="1")

    stopping.add_done_callback(say_stopping)
    lost = ""
    try:
        while not stop.is_set():
            try:
                lost = await _serve_once(options, ready, configure, stopping, say_ready)
            except (ConnectionError, TimeoutError):
                if not lost:
                    raise
                # The store that we lost is still out: that was said, and is no reason to end.
                await asyncio.wait((stopping,), timeout=POLL_EVERY)
            if lost and not options.node.standby:
                raise LeaseHeld(f"the store's lease is lost ({lost})")
    finally:
        for task in (stopping, *alive):
            task.cancel()


async def _serve_once(
    options: ServeOptions,
    ready: Callable[[Served], None],
    configure: Callable[[Served], Awaitable[None]] | None,
    stopping: asyncio.Future[Any],
    say_ready: Callable[[str], None],
) -> str:
    """Serve until ``stopping`` is done, or the lease of the store is lost: why, then. A standby that waits says that it
    is ready, too: a service manager would take it for one that hangs."""
    loop = asyncio.get_running_loop()
    async with contextlib.AsyncExitStack() as stack:
        entering = asyncio.ensure_future(stack.enter_async_context(serving(options, say_ready)))
        await asyncio.wait((stopping, entering), return_when=asyncio.FIRST_COMPLETED)
        if not entering.done():  # a signal while a long start was under way, such as making an identity
            entering.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await entering
            return ""
        served = entering.result()
        reloading: set[asyncio.Task[None]] = set()

        def reload() -> None:
            task = loop.create_task(_reload(served, configure))
            reloading.add(task)
            task.add_done_callback(reloading.discard)

        loop.add_signal_handler(signal.SIGHUP, reload)
        ready(served)
        say_ready(f"control at {', '.join(served.addresses)}")
        losing = asyncio.create_task(served.node.lease_lost())
        await asyncio.wait((stopping, losing), return_when=asyncio.FIRST_COMPLETED)
        lost = losing.result() if losing.done() else ""
        losing.cancel()
        if lost:
            log.error("offline: this node's store is no longer its own: %s", lost)
        else:
            log.info("stopping")
        loop.add_signal_handler(signal.SIGHUP, lambda: None)
    return lost


async def _reload(served: Served, configure: Callable[[Served], Awaitable[None]] | None) -> None:
    for reload in served.reloadable:
        try:
            if reload():
                log.info("the TLS files were read again")
        except (OSError, ValueError) as error:
            log.error("the TLS files were not read again: %s", getattr(error, "strerror", None) or error)
    if configure is not None:
        await configure(served)


def _wait_for_eof(loop: asyncio.AbstractEventLoop, stop: asyncio.Event) -> None:
    # Not by the event loop, which cannot watch every kind of file, nor through sys.stdin, whose lock would be held
    # while Python ends.
    with contextlib.suppress(OSError):
        while os.read(STDIN, 4096):
            pass
    with contextlib.suppress(RuntimeError):  # the loop is closed: we stop already
        loop.call_soon_threadsafe(stop.set)
