"""The state diagram of RFC 9293 section 3.3.2 as a table."""

from __future__ import annotations

import enum


class State(enum.IntEnum):
    """The states of RFC 9293 section 3.3.2. Ordered, so that a comparison can say "synchronised or later"."""

    CLOSED = 0
    LISTEN = 1
    SYN_SENT = 2
    SYN_RECEIVED = 3
    ESTABLISHED = 4
    FIN_WAIT_1 = 5
    FIN_WAIT_2 = 6
    CLOSE_WAIT = 7
    CLOSING = 8
    LAST_ACK = 9
    TIME_WAIT = 10
