"""The time-out that was not given."""

from __future__ import annotations

import socket
from typing import Any

DEFAULT_TIMEOUT: Any = getattr(socket, "_GLOBAL_DEFAULT_TIMEOUT", object())
"""Stands for ``socket.getdefaulttimeout()``, the very object that ``http.client`` passes on."""
