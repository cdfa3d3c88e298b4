"""The node as the other end of a managed route: what members send to the network behind it goes on by the host's own
sockets, one for each flow.

A SYN is answered when the target is connected and not before, so that a member sees a refusal, or that nobody is there,
as it would from the target itself. What cannot be carried on is counted and, where the protocol has a word for it, told
to the member. Flows are bounded: with no room left a new connection waits for its SYN to come again, and a new datagram
takes the place of the flow that has been idle longest.
"""

from __future__ import annotations

import errno
import socket
from typing import TYPE_CHECKING, Final, Protocol

from ztnode.worker.adoption import adopt
from ztnode.worker.gateway_datagrams import Datagrams, Echoes
from ztnode.worker.poller import WRITE, Poller
from ztnode.worker.splice import Splice, SpliceHost

if TYPE_CHECKING:
    from collections.abc import Sequence

    from ztnode.netstack.stack import Stack
    from ztnode.netstack.tcp.connection import TcpConnection
    from ztnode.netstack.tcp.held_syns import HeldSyn
    from ztnode.worker.tcp_pair import PairStock

DIAL_SECONDS: Final = 20.0
"""How long a target may take to answer a SYN: the kernel has sent it five times by then."""
TCP_IDLE: Final = 7440.0
"""Seconds after which a connection without a byte either way is reset (RFC 5382 REQ-5: at least 2 h 4 min)."""
LOOK_SECONDS: Final = 60.0
"""Between two looks for such connections."""


class GatewayHost(SpliceHost, Protocol):
    """What the gateway asks of the loop that it lives on."""

    @property
    def stack(self) -> Stack: ...

    @property
    def pairs(self) -> PairStock: ...

    @property
    def congested(self) -> bool:
        """Whether the node does not keep up: what may be lost is lost now."""


class Gateway:
    """All flows through one worker. It is what its own splices take for the loop."""

    def __init__(self, host: GatewayHost) -> None:
        self._host = host
        self.counters = dict.fromkeys(
            ("gateway_connections", "gateway_refused", "gateway_full", "gateway_dropped", "gateway_no_descriptor"), 0
        )
        self.timed: Final = True
        """There may be timers: ``next_timer`` knows."""
        self._flows = 0
        self._dials: dict[_Dial, None] = {}
        self._openings: set[_Opening] = set()
        self._splices: dict[Splice, tuple[tuple[int, int], float]] = {}
        """What each had carried at the last look, and when that was new."""
        self._look_at: float | None = None
        self._datagrams = Datagrams(self)
        self._echoes = Echoes(self)
        host.stack.transit.owner = self

    # What it shares with its flows

    @property
    def stack(self) -> Stack:
        """The stack that the flows come from."""
        return self._host.stack

    @property
    def poller(self) -> Poller:
        """See SpliceHost."""
        return self._host.poller

    @property
    def now(self) -> float:
        """See SpliceHost."""
        return self._host.now

    @property
    def congested(self) -> bool:
        """See GatewayHost."""
        return self._host.congested

    @property
    def full(self) -> bool:
        """Whether there are as many flows as there may be."""
        tcp = len(self._dials) + len(self._openings) + len(self._splices)
        return tcp + len(self._datagrams) + len(self._echoes) >= self._flows

    def make_room(self) -> bool:
        """Give up the datagrams' flow that has been idle longest; False where there is none."""
        self.counters["gateway_full"] += 1
        return self._datagrams.drop_oldest() or self._echoes.drop_oldest()

    def count(self, what: str) -> None:
        """One more of it."""
        self.counters[what] += 1

    # Its life

    def set(self, targets: Sequence[str], flows: int) -> None:
        """Carry on what goes to these networks (CIDR), ``flows`` at a time at most. Raises ValueError."""
        self._flows = flows
        self.stack.transit.set_targets(targets)
        self.ports_changed()

    def ports_changed(self) -> None:
        """Networks, routes or targets changed: flows that could not begin any more end."""
        leads = self.stack.transit.leads
        for dial in [dial for dial in self._dials if not leads(dial.syn.port_index, dial.syn.destination)]:
            dial.fail(errno.ENETUNREACH)
        for opening in list(self._openings):
            if not _still(opening.connection, self.stack):
                opening.abort()
        for splice in list(self._splices):
            if not _still(splice.connection, self.stack):
                splice.reset()
        self._datagrams.keep(leads)
        self._echoes.keep(leads)

    def close(self) -> None:
        """The worker ends."""
        for dial in list(self._dials):
            dial.close()
        for opening in list(self._openings):
            opening.abort()
        self._datagrams.close()
        self._echoes.close()

    # The loop

    def on_ready(self) -> None:
        """Something came."""
        transit = self.stack.transit
        for syn in transit.syns.take():
            self._dial(syn)
        for flow, data in transit.datagrams():
            self._datagrams.send(flow, data)
        for echo, sequence, body in transit.echoes():
            self._echoes.send(echo, sequence, body)

    def next_timer(self) -> float | None:
        """When ``handle_timer`` is due."""
        due = [self._datagrams.next_timer(), self._echoes.next_timer(), self._look_at]
        if self._dials:
            due.append(next(iter(self._dials)).deadline)
        return min((time for time in due if time is not None), default=None)

    def handle_timer(self, now: float) -> None:
        """Give up what took too long, or has been idle too long."""
        while self._dials and (dial := next(iter(self._dials))).deadline <= now:
            dial.fail(errno.ETIMEDOUT)
        self._datagrams.handle_timer(now)
        self._echoes.handle_timer(now)
        if self._look_at is not None and self._look_at <= now:
            self._look_at = now + LOOK_SECONDS if self._splices else None
            self._end_idle(now)

    def _end_idle(self, now: float) -> None:
        for splice, (carried, since) in list(self._splices.items()):
            progress = _carried(splice.connection)
            if progress != carried:
                self._splices[splice] = progress, now
            elif now - since >= TCP_IDLE:
                splice.reset()

    # Connections

    def _dial(self, syn: HeldSyn) -> None:
        if self.full and not self.make_room():
            self.stack.transit.syns.settle(syn)  # it comes again, when there may be room
            return
        family = socket.AF_INET if len(syn.destination) == 4 else socket.AF_INET6
        try:
            sock = socket.socket(family, socket.SOCK_STREAM)
        except OSError:
            self.count("gateway_no_descriptor")
            self.stack.transit.syns.settle(syn)
            return
        sock.setblocking(False)
        dial = _Dial(self, syn, sock)
        self._dials[dial] = None
        dial.begin(socket.inet_ntop(family, syn.destination))

    def dial_over(self, dial: _Dial) -> None:
        """It was answered, one way or the other."""
        self._dials.pop(dial, None)

    def dialled(self, syn: HeldSyn, sock: socket.socket) -> None:
        """The target is connected by ``sock``, which is ours now."""
        connection = self.stack.accept(syn, self.now)
        if connection is None:
            sock.close()
            return
        self.count("gateway_connections")
        connection.keepalive = True
        self._openings.add(_Opening(self, connection, sock))

    def opened(self, opening: _Opening, sock: socket.socket | None) -> None:
        """The member has answered too; no ``sock``: it has not."""
        self._openings.discard(opening)
        if sock is None:
            return
        try:
            Splice(opening.connection, adopt(sock.detach(), self._host.pairs.clients), self)
        except OSError:  # the target was gone again at once
            opening.connection.abort()

    def splice_started(self, splice: Splice) -> None:
        """See SpliceHost."""
        self._splices[splice] = _carried(splice.connection), self.now
        if self._look_at is None:
            self._look_at = self.now + LOOK_SECONDS
        self._host.splice_started(splice)

    def splice_ended(self, splice: Splice) -> None:
        """See SpliceHost."""
        self._splices.pop(splice, None)
        self._host.splice_ended(splice)

    def splice_draining(self, splice: Splice) -> None:
        """See SpliceHost."""
        self._host.splice_draining(splice)


class _Dial:
    """A target that is being connected for a held SYN."""

    def __init__(self, gateway: Gateway, syn: HeldSyn, sock: socket.socket) -> None:
        self.syn = syn
        self.deadline = gateway.now + DIAL_SECONDS
        self._gateway = gateway
        self._sock = sock
        self._watched = False

    def begin(self, host: str) -> None:
        """Connect; the answer may come at once."""
        number = self._sock.connect_ex((host, self.syn.destination_port))
        if number == errno.EINPROGRESS:
            self._gateway.poller.register(self._sock.fileno(), WRITE, self._on_socket)
            self._watched = True
        elif number:
            self.fail(number)
        else:
            self._connected()

    def _on_socket(self, _mask: int) -> None:
        number = self._sock.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
        if number:
            self.fail(number)
        else:
            self._connected()

    def _connected(self) -> None:
        self._leave()
        self._gateway.dialled(self.syn, self._sock)

    def fail(self, number: int) -> None:
        """Tell the member."""
        self.close()
        self._gateway.count("gateway_refused")
        self._gateway.stack.refuse(self.syn, number, self._gateway.now)

    def close(self) -> None:
        """Give up without a word."""
        self._leave()
        self._sock.close()

    def _leave(self) -> None:
        if self._watched:
            self._gateway.poller.unregister(self._sock.fileno())
            self._watched = False
        self._gateway.dial_over(self)


class _Opening:
    """A connection whose target stands and whose member has not finished the handshake yet."""

    def __init__(self, gateway: Gateway, connection: TcpConnection, sock: socket.socket) -> None:
        self.connection = connection
        self._gateway = gateway
        self._sock = sock
        connection.owner = self

    def on_ready(self) -> None:
        """The handshake is over."""
        if self.connection.error is not None or self.connection.closed:
            self.connection.owner = None
            self._sock.close()
            self._gateway.opened(self, None)
        elif self.connection.established:
            self._gateway.opened(self, self._sock)

    def abort(self) -> None:
        """Reset both ends."""
        self.connection.owner = None
        self.connection.abort()
        self._sock.close()
        self._gateway.opened(self, None)


def _carried(connection: TcpConnection) -> tuple[int, int]:
    """What changes with every byte either way."""
    return connection.rcv.nxt, connection.snd.recovery.una


def _still(connection: TcpConnection, stack: Stack) -> bool:
    return stack.transit.leads(connection.port_index, connection.link.flow.local)
