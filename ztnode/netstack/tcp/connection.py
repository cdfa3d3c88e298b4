"""One TCP connection as its owner sees it: what to look at, and what to call (RFC 9293 section 3.10.1 to 3.10.6).

The state is the control block's (``tcb``).
"""

from __future__ import annotations

import errno
from typing import Final

from ztnode.netstack.tcp.connection_info import ConnectionInfo, describe
from ztnode.netstack.tcp.control_segments import send_reset
from ztnode.netstack.tcp.ending import finish, predict, shut_down
from ztnode.netstack.tcp.fin_wait_2 import watch as watch_fin_wait_2
from ztnode.netstack.tcp.send_buffer import SMALL
from ztnode.netstack.tcp.state import RECEIVES_TEXT, State
from ztnode.netstack.tcp.tcb import PREDICTS_TEXT, ControlBlock
from ztnode.netstack.tcp.timers import arm_keepalive
from ztnode.os_error import os_error
from ztnode.wire.buffer import Buffer
from ztnode.wire.endpoint import ip_text

SEND_BUFFER_MAX: Final = 8 << 20
"""Bytes; where the growth of the send buffer ends."""


class TcpConnection(ControlBlock):
    """A connection. No method blocks; watch ``TcpLayer.ready()`` and look at the properties."""

    __slots__ = ()

    @property
    def readable(self) -> int:
        """Bytes in order and unread."""
        return self.rcv.queue.size

    @property
    def eof(self) -> bool:
        """The peer's FIN arrived and everything before it was read."""
        rcv = self.rcv
        return rcv.fin is not None and rcv.nxt > rcv.fin and not rcv.queue.size

    @property
    def writable(self) -> int:
        """Free bytes of the send buffer; 0 once nothing can be written any more."""
        snd = self.snd
        if snd.fin_queued or self.error is not None:
            return 0
        limit = 2 * snd.recovery.cc.cwnd
        config = self.config
        if limit < config.send_buffer:
            limit = config.send_buffer
        if limit > SEND_BUFFER_MAX:
            limit = SEND_BUFFER_MAX
        layer = self.layer
        share = layer.may_hold(self, layer.now)
        if limit > share:
            limit = share
        # Bytes that are acknowledged selectively stay in the buffer only in case the peer drops them again (reneges):
        # they do not count against the room for new data.
        free = limit - (snd.buffer.end - snd.buffer.start)
        sacked = snd.recovery.board.sacked
        if sacked:
            free += min(sacked, SEND_BUFFER_MAX - limit)
        return free if free > 0 else 0

    def drained(self) -> bool:
        """Whether all that was written is acknowledged and more may be written: ``writable`` is not less than
        ``send_memory.LEAST`` then, and to know that alone is less work."""
        snd = self.snd
        return snd.buffer.start == snd.buffer.end and not snd.fin_queued and self.error is None

    @property
    def unacknowledged(self) -> int:
        """Bytes written and not yet acknowledged by the peer, sent or not."""
        return len(self.snd.buffer)

    @property
    def nodelay(self) -> bool:
        """Whether Nagle's algorithm is off (TCP_NODELAY), as it is at first."""
        return self.snd.nodelay

    @nodelay.setter
    def nodelay(self, value: bool) -> None:
        self.snd.nodelay = value
        self.layer.want_flush(self)

    @property
    def keepalive(self) -> bool:
        """Whether an idle connection is probed (SO_KEEPALIVE), see ``TcpConfig.keepalive_idle``."""
        return self.timers.keepalive

    @keepalive.setter
    def keepalive(self, value: bool) -> None:
        self.timers.keepalive = value
        if self.state >= State.ESTABLISHED and not self.closed:
            arm_keepalive(self, self.layer.now)
            self.layer.want_flush(self)

    @property
    def port_index(self) -> int:
        """The network that the connection runs over."""
        return self.link.flow.port_index

    @property
    def local(self) -> tuple[str, int]:
        """Our address and port."""
        return ip_text(self.link.flow.local), self.link.local_port

    @property
    def remote(self) -> tuple[str, int]:
        """The peer's address and port."""
        return ip_text(self.link.flow.remote), self.link.remote_port

    def read(self, limit: int) -> list[Buffer]:
        """Take up to ``limit`` bytes in order. Views are good until the stack's ``copy_unread()``."""
        rcv = self.rcv
        queue = rcv.queue
        before = queue.size
        if not before:
            return []
        pieces = queue.read(limit)
        if self.predicts == PREDICTS_TEXT or (rcv.fin is None and self.state in RECEIVES_TEXT):
            window, left, rtt = rcv.window, queue.size, self.snd.rtt
            window.consumed(before - left, rtt.srtt or rtt.smoothed, self.layer.now)
            if window.update_due(rcv.nxt, left + rcv.aside, rcv.mss):
                rcv.acks.due = True
                self.layer.want_flush(self)
        return pieces

    def set_aside(self, size: int) -> None:
        """So many bytes of what was read wait for their reader: they count as held all the same."""
        rcv = self.rcv
        if size < rcv.aside:
            rcv.progressed_at = self.layer.now
        rcv.aside = size

    def write(self, data: Buffer) -> None:
        """Queue data; takes ownership (do not change the buffer), copies nothing large. May exceed ``writable``.

        Raises BrokenPipeError after ``shutdown()``, or ``error`` when the connection failed.
        """
        if self.error is not None:
            raise self.error
        snd = self.snd
        if snd.fin_queued or (not self.predicts and self.closed):
            raise BrokenPipeError(errno.EPIPE, "the sending side is shut down")
        buffer = snd.buffer
        length = len(data)
        if length >= SMALL or buffer.start != buffer.end:
            # What is small and alone, a request, is less than a connection takes itself: nobody need know of it.
            self.layer.wrote(self, length, self.layer.now)
        buffer.append(data)
        marks = self.marks
        if not marks.dirty:  # what ``want_flush`` does
            marks.dirty = True
            self.layer.dirty.append(self)

    def shutdown(self) -> None:
        """No more data from us: FIN after what is queued. Reading goes on."""
        if self.snd.fin_queued or self.closed or self.error is not None:
            return
        shut_down(self)

    def close(self) -> None:
        """No more interest: FIN after what is queued; received data that nobody read makes it a reset (RFC 2525).

        So do too many connections in this situation (``TcpConfig.orphans_max``, ``orphan_bytes_max``).
        """
        if self.closed or self.orphaned:
            return
        if self.state is State.SYN_SENT or self.rcv.queue.size or self.rcv.reassembly:
            self.abort()
            return
        if self.state is not State.FIN_WAIT_2 and not self.layer.adopt_orphan(self):
            self.abort()
            return
        self.orphaned = True
        self.shutdown()
        predict(self)
        watch_fin_wait_2(self)

    def abort(self) -> None:
        """Reset the connection now."""
        if self.closed:
            return
        if self.state is not State.SYN_SENT:
            send_reset(self)
        finish(self, os_error(errno.ECONNABORTED))

    def info(self) -> ConnectionInfo:
        """A snapshot of its figures."""
        return describe(self)
