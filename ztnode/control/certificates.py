"""The TLS files of the control plane, read again when told so."""

from __future__ import annotations

import errno
import ssl
from pathlib import Path
from typing import cast

import grpc


class Certificates:
    """A certificate chain with its key, and perhaps the authority that callers' certificates must be signed by; PEM."""

    def __init__(self, certificate: Path, key: Path, client_ca: Path | None) -> None:
        """Raises OSError as ``reload`` does."""
        self._certificate = certificate
        self._key = key
        self._client_ca = client_ca
        self._fresh: grpc.ServerCertificateConfiguration | None = None
        self.reload()

    def credentials(self) -> grpc.ServerCredentials:
        """What a server is started with; from then on it asks here before each handshake."""
        initial = self._take()
        return grpc.dynamic_ssl_server_credentials(
            initial, self._take, require_client_authentication=self._client_ca is not None
        )

    def reload(self) -> None:
        """Read the files. Raises OSError with one line for a person; what was read before stays in use then."""
        self._try()
        authority = None if self._client_ca is None else self._client_ca.read_bytes()
        pair = (self._key.read_bytes(), self._certificate.read_bytes())
        self._fresh = grpc.ssl_server_certificate_configuration([pair], root_certificates=authority)

    def _take(self) -> grpc.ServerCertificateConfiguration:
        # Called by gRPC's threads. None says that nothing has changed, which the type stubs do not know.
        fresh, self._fresh = self._fresh, None
        return cast(grpc.ServerCertificateConfiguration, fresh)

    def _try(self) -> None:
        # On OpenSSL's own Python binding first: gRPC would print several lines and give no reason.
        trial = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        try:
            # OpenSSL would ask the terminal for a pass phrase, or standard input, and the node wait with it.
            trial.load_cert_chain(self._certificate, self._key, password="")
            if self._client_ca is not None:
                trial.load_verify_locations(self._client_ca)
        except ssl.SSLError as error:
            files = ", ".join(str(path) for path in self._files())
            raise OSError(
                errno.EINVAL,
                f"no certificate with its key in PEM form, without a pass phrase: {files} ({error.reason})",
            ) from error
        except FileNotFoundError as error:
            missing = next(path for path in self._files() if not path.exists())
            raise FileNotFoundError(errno.ENOENT, f"there is no file {missing}") from error

    def _files(self) -> list[Path]:
        return [path for path in (self._certificate, self._key, self._client_ca) if path is not None]
