"""What the control plane is told about TCP."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True, slots=True)
class TcpOptions:
    """A TCP address for the control plane. ``address`` is ``host:port``, host numeric (IPv6 in brackets).

    With ``certificate`` and ``key`` (PEM files) it is TLS. With ``client_ca`` (PEM) callers must show a certificate by
    that authority and need no token; otherwise they need the token in ``token_file`` (None: control.token in the state
    directory, made on first use). ``insecure`` allows a token in clear beyond loopback.
    """

    address: str
    certificate: Path | None = None
    key: Path | None = None
    client_ca: Path | None = None
    token_file: Path | None = None
    insecure: bool = False

    @property
    def tls(self) -> bool:
        """True where the address is served with TLS."""
        return self.certificate is not None
