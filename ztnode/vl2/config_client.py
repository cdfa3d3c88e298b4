"""When to ask the controller for the configuration, and how its answers are to be read.

A small state machine beside the network that it serves: it holds the clock of requests, the ids of those under way and
the reason why there is no configuration, if there is none.
"""

from __future__ import annotations

from collections import deque
from typing import Final

from ztnode.vl2.config_assembly import ConfigAssembler
from ztnode.vl2.snapshot import NetworkStatus
from ztnode.wire.buffer import Buffer
from ztnode.wire.config_chunk import ConfigChunk
from ztnode.wire.config_request import parse_auth_info
from ztnode.wire.credential import PublicIdentity
from ztnode.wire.network_config import NetworkConfig, SingleSignOn
from ztnode.wire.packet import (
    ERROR_NETWORK_ACCESS_DENIED,
    ERROR_NETWORK_AUTHENTICATION_REQUIRED,
    ERROR_OBJ_NOT_FOUND,
    ERROR_UNSUPPORTED_OPERATION,
)
from ztnode.wire.wire_error import WireError

REFRESH_INTERVAL: Final = 60.0
"""Seconds between requests while all is well (ZT_NETWORK_AUTOCONF_DELAY)."""
RETRY_DELAYS: Final = (0.35, 0.7, 1.1, 2.0, 4.0, 8.0)
"""Seconds to wait for an answer, the last one again and again. Controllers ignore a request within a second of one that
they answer, so the second try helps if the first was lost on the way there, the third if the answer was."""
_POLL_INTERVALS: Final = {
    NetworkStatus.WAITING_FOR_AUTHORIZATION: (2.0, 10.0),
    NetworkStatus.AUTHENTICATION_REQUIRED: (2.0, 10.0),
    NetworkStatus.NOT_FOUND: (5.0, 30.0),
}
"""Seconds between requests that are denied: while somebody may be watching, and later. Controllers do not push the
configuration to a member that they have never admitted."""
_WATCHED: Final = 300.0
"""Seconds after the first refusal during which somebody may be watching."""
_QUEUED: Final = 3.0
"""Seconds for which VL1 keeps a request while it has no way to send it; a lower bound."""
_REFUSALS: Final = {
    ERROR_OBJ_NOT_FOUND: NetworkStatus.NOT_FOUND,
    ERROR_UNSUPPORTED_OPERATION: NetworkStatus.NOT_FOUND,
    ERROR_NETWORK_ACCESS_DENIED: NetworkStatus.WAITING_FOR_AUTHORIZATION,
    ERROR_NETWORK_AUTHENTICATION_REQUIRED: NetworkStatus.AUTHENTICATION_REQUIRED,
}


class ConfigClient:
    """``refusal`` is the status that the controller's last answer put us in, None if it gave us a configuration or has
    not answered at all."""

    def __init__(self, now: float) -> None:
        self.refusal: NetworkStatus | None = None
        self.sso = SingleSignOn()
        self.next_request = now
        self._assembler = ConfigAssembler()
        self._tries = 0
        self._requested_at = float("-inf")
        self._refused_since = float("inf")
        self._ids: deque[int] = deque(maxlen=16)
        self._last_id: int | None = None

    def requested(self, packet_id: int, now: float) -> None:
        """A request has gone out."""
        self._ids.append(packet_id)
        self._last_id = packet_id
        self._requested_at = now
        self.next_request = now + RETRY_DELAYS[min(self._tries, len(RETRY_DELAYS) - 1)]
        self._tries += 1

    def ask_again(self, now: float) -> None:
        """Something suggests that another answer is to be had now."""
        self._tries = 0
        self.next_request = now

    def went_online(self, now: float) -> None:
        """Roots can be reached (again): ask, unless a request is about to leave anyway."""
        if now - self._requested_at >= _QUEUED:
            self.ask_again(now)

    def configured(self, now: float) -> None:
        """There is a valid configuration, as of now."""
        self.refusal = None
        self.sso = SingleSignOn()
        self._refused_since = float("inf")
        self._tries = 0
        self._ids.clear()
        self.next_request = now + REFRESH_INTERVAL

    def is_awaited(self, request_id: int) -> bool:
        """Whether this is one of the requests made since the last configuration came."""
        return request_id in self._ids

    def refused(self, code: int, request_id: int, details: Buffer, now: float) -> bool:
        """Take an ERROR of the controller; ``details`` is what follows the network id. False if it means nothing to us:
        an unknown code, or not an answer to a recent request. Raises WireError."""
        status = _REFUSALS.get(code)
        # Our controller takes a configuration back by answering once more what it answered with it. An earlier request
        # that was refused does not count: what came of the later one is newer.
        if status is None or (request_id not in self._ids and request_id != self._last_id):
            return False
        login = status is NetworkStatus.AUTHENTICATION_REQUIRED
        self.sso = parse_auth_info(details) if login else SingleSignOn()
        self.refusal = status
        self._tries = 0
        if self._refused_since == float("inf"):
            self._refused_since = now
        watched, later = _POLL_INTERVALS[status]
        self.next_request = now + (watched if now - self._refused_since < _WATCHED else later)
        return True

    def has(self, chunk: ConfigChunk) -> bool:
        """True for a chunk that came before."""
        return bool(chunk.signature) and self._assembler.has(chunk)

    def assemble(self, chunk: ConfigChunk, controller: PublicIdentity, from_controller: bool) -> NetworkConfig | None:
        """Take a chunk; the configuration when it was the last one missing, else None. Raises WireError for one that
        is not signed by the controller (or, if unsigned, not sent by it), and for a dictionary that is none."""
        if chunk.signature:
            if not chunk.verify(controller):
                raise WireError("configuration chunk with a bad signature")
        elif not from_controller:
            raise WireError("unsigned configuration from somebody else than the controller")
        else:
            return NetworkConfig.parse(chunk.data)
        dictionary = self._assembler.add(chunk)
        return None if dictionary is None else NetworkConfig.parse(dictionary)
