"""Telling the service manager how the node does: the notification protocol of systemd (sd_notify(3)).

Nothing happens where NOTIFY_SOCKET is not set, that is, anywhere else than under a manager that asked for it.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket
from collections.abc import Mapping


class ServiceManager:
    """Where to send notifications."""

    def __init__(self, environ: Mapping[str, str] = os.environ) -> None:
        self._address = environ.get("NOTIFY_SOCKET", "")
        if self._address.startswith("@"):
            self._address = "\0" + self._address[1:]
        # The variables may be meant for a process that we were started by (sd_watchdog_enabled(3)).
        ours = environ.get("WATCHDOG_PID", str(os.getpid())) == str(os.getpid())
        microseconds = environ.get("WATCHDOG_USEC", "0")
        self.watchdog = int(microseconds) / 2e6 if ours and microseconds.isdigit() else 0.0
        """Seconds between two signs of life, half of what the manager waits; 0: it does not wait for any."""

    def notify(self, **variables: str) -> None:
        """Send assignments such as ``READY="1"`` or ``STATUS="..."``. Never raises: a node does not depend on it."""
        if not self._address:
            return
        message = "\n".join(f"{name}={value}" for name, value in variables.items())
        with contextlib.suppress(OSError), socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as to:
            to.setblocking(False)
            to.sendto(message.encode(), self._address)

    async def keep_alive(self) -> None:
        """Give signs of life for as long as the event loop turns, until cancelled."""
        while self.watchdog:
            self.notify(WATCHDOG="1")
            await asyncio.sleep(self.watchdog)
