"""The OpenID Connect that signing on needs. Everything here blocks: call it in a thread, the import too (0.3 s).

Source: OpenID Connect Core 1.0 and Discovery 1.0, RFC 7636 (PKCE); what is asked for as the reference's
``rustybits/zeroidc/src/lib.rs`` does.
"""

from __future__ import annotations

import ipaddress
import threading
import time
from dataclasses import dataclass
from typing import Any, Final
from urllib.parse import urlsplit

import requests
from authlib.common.security import generate_token
from authlib.integrations.requests_client import OAuth2Session
from joserfc import jwt
from joserfc.jwk import KeySet
from requests.adapters import HTTPAdapter

from ztnode.sign_on.sign_on_error import SignOnError

ALGORITHMS: Final = ("RS256", "RS384", "RS512", "PS256", "PS384", "PS512", "ES256", "ES384", "ES512", "EdDSA")
"""Signatures by public keys alone: with a shared secret whoever can check a token could make one."""
TIMEOUT: Final = 10.0
"""Seconds for each step of a request."""
MAX_ANSWER: Final = 1 << 20
"""Bytes of one answer: discovery documents and key sets have a few thousand."""
LEEWAY: Final = 60
"""Seconds by which the provider's clock may differ from ours."""
KEYS_MIN_AGE: Final = 10.0
"""Seconds before a provider's keys are fetched anew for a signature by a key that is not among them."""

_USUAL_SCOPE: Final = "openid profile email offline_access"
_SCOPES: Final = {
    "okta": "openid profile email groups offline_access",
    "keycloak": "openid profile email",
    "onelogin": "openid profile email groups",
}


@dataclass(frozen=True, slots=True)
class Claims:
    """What an id token says. ``expiry``: Unix seconds."""

    subject: str
    expiry: int


@dataclass(frozen=True, slots=True)
class Tokens:
    """The fruit of a log-in. ``refresh``: what gets the next id token; None where the provider gives none."""

    id_token: str
    claims: Claims
    refresh: str | None


def check_url(url: str, what: str) -> str:
    """The URL, if one may confide in it: HTTPS, or HTTP to this very host. Raises SignOnError."""
    try:
        parts = urlsplit(url)
        safe = parts.scheme == "https" or (parts.scheme == "http" and _is_loopback(parts.hostname or ""))
    except ValueError:
        safe = False
    if not safe:
        raise SignOnError(f"{what} must be an https:// URL and is {url[:200]!r}")
    return url


def _is_loopback(host: str) -> bool:
    try:
        return host == "localhost" or ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


class _Bounded(HTTPAdapter):
    """Reads no more than it should of what a provider, or whoever poses as one, sends, and does not wait for ever."""

    def send(self, request: requests.PreparedRequest, *args: Any, **kwargs: Any) -> requests.Response:
        """See HTTPAdapter."""
        kwargs.update(timeout=TIMEOUT, stream=True)
        response = super().send(request, *args, **kwargs)
        body = b""
        until = time.monotonic() + 2 * TIMEOUT
        for block in response.iter_content(65536):
            body += block
            if len(body) > MAX_ANSWER or time.monotonic() > until:
                response.close()
                raise requests.ConnectionError("the answer is too long")
        response._content = body  # what requests itself would put there
        return response


def _bounded(session: requests.Session) -> requests.Session:
    session.mount("https://", _Bounded())
    session.mount("http://", _Bounded())
    session.trust_env = False  # no .netrc: its passwords are not for whom a controller names
    return session


class Provider:
    """One issuer, found by its discovery document."""

    def __init__(self, issuer: str) -> None:
        """Raises SignOnError."""
        self.issuer = check_url(issuer, "the issuer")
        self._session = _bounded(requests.Session())
        self._lock = threading.Lock()
        found = self._get(f"{issuer.rstrip('/')}/.well-known/openid-configuration")
        # Or one provider could speak for another (Discovery 1.0, section 4.3).
        if found.get("issuer") != issuer:
            raise SignOnError(f"{issuer} says that it is {str(found.get('issuer'))[:200]!r}")
        self.authorization_endpoint, self.token_endpoint, self._keys_url = (
            check_url(str(found.get(name, "")), f"{name} of {issuer}")
            for name in ("authorization_endpoint", "token_endpoint", "jwks_uri")
        )
        self._keys: KeySet | None = None
        self._keys_at = float("-inf")

    def _get(self, url: str) -> dict[str, Any]:
        try:
            response = self._session.get(url, allow_redirects=False)
            if response.status_code != 200:
                raise SignOnError(f"{url} answers {response.status_code}")
            found = response.json()
        except (requests.RequestException, ValueError, RecursionError) as error:
            raise SignOnError(f"{url} cannot be read: {_reason(error)}") from None
        if not isinstance(found, dict):
            raise SignOnError(f"{url} gives no JSON object")
        return found

    def _key_set(self, *, renewed: bool = False) -> KeySet | None:
        """The provider's keys; ``renewed``: None unless they can be fetched anew by now."""
        with self._lock:
            now = time.monotonic()
            if renewed and now - self._keys_at < KEYS_MIN_AGE:
                return None
            if self._keys is None or renewed:
                self._keys_at = now
                found: Any = self._get(self._keys_url)
                try:
                    self._keys = KeySet.import_key_set(found)
                except Exception as error:  # as in ``_decode``
                    raise SignOnError(f"the keys of {self.issuer} cannot be used: {_reason(error)}") from None
            return self._keys

    def verify(self, id_token: str, client_id: str, nonce: str | None) -> Claims:
        """What the token says, if the provider gave it to this client and it is valid now (Core 1.0, 3.1.3.7).
        ``nonce``: what it must name; None: nothing (a renewed one need not, 12.2). Raises SignOnError."""
        keys = self._key_set()
        assert keys is not None
        try:
            claims = _decode(id_token, keys)
        except SignOnError:
            fresh = self._key_set(renewed=True)  # providers change their keys
            if fresh is None:
                raise
            claims = _decode(id_token, fresh)
        return self._check(claims, client_id, nonce)

    def _check(self, claims: dict[str, Any], client_id: str, nonce: str | None) -> Claims:
        audience = claims.get("aud")
        audiences = [audience] if isinstance(audience, str) else audience
        subject, expiry = claims.get("sub"), claims.get("exp")
        if claims.get("iss") != self.issuer:
            raise SignOnError("the id token is of another issuer")
        if not isinstance(audiences, list) or client_id not in audiences:
            raise SignOnError("the id token is for another client")
        if claims.get("azp", client_id) != client_id:
            raise SignOnError("the id token was given to another client")
        if nonce is not None and claims.get("nonce") != nonce:
            raise SignOnError("the id token is of another log-in")
        if not isinstance(expiry, (int, float)) or isinstance(expiry, bool) or not time.time() - LEEWAY < expiry < 1e11:
            raise SignOnError("the id token has expired")
        for name in ("nbf", "iat"):
            begins = claims.get(name, 0)
            if not isinstance(begins, (int, float)) or isinstance(begins, bool) or not begins <= time.time() + LEEWAY:
                raise SignOnError(f"the id token is not valid yet ({name}), or this host's clock is behind")
        if not isinstance(subject, str) or not 0 < len(subject) <= 255:
            raise SignOnError("the id token names nobody")
        return Claims(subject, int(expiry))


def _decode(id_token: str, keys: KeySet) -> dict[str, Any]:
    """What the token says, by a signature of one of the keys. Raises SignOnError."""
    try:
        claims = jwt.decode(id_token, keys, algorithms=ALGORITHMS).claims
    except Exception as error:  # strangers write the header, and the library trips over more than it says it does
        raise SignOnError(f"the id token cannot be verified: {_reason(error)}") from None
    if not isinstance(claims, dict):
        raise SignOnError("the id token says nothing")
    return claims


class Attempt:
    """One log-in: a URL to open in a browser, and the exchange of the code that it ends with. Also keeps the client for
    the renewals that follow."""

    def __init__(
        self, provider: Provider, client_id: str, kind: str, redirect_uri: str, *, state: str, nonce: str
    ) -> None:
        """``kind``: the make of the provider, as the controller names it. ``state``, ``nonce``: the controller's."""
        self._provider = provider
        self._client_id = client_id
        self._nonce = nonce
        self._verifier = generate_token(64)
        self._client = OAuth2Session(
            client_id,
            scope=_SCOPES.get(kind, _USUAL_SCOPE),
            redirect_uri=redirect_uri,
            token_endpoint_auth_method="none",
            code_challenge_method="S256",
        )
        _bounded(self._client)
        self.url: str = self._client.create_authorization_url(
            provider.authorization_endpoint, state=state, nonce=nonce, code_verifier=self._verifier
        )[0]

    def exchange(self, code: str) -> Tokens:
        """The tokens for the code that the browser brought. Raises SignOnError."""
        try:
            answer = self._client.fetch_token(
                self._provider.token_endpoint, code=code, code_verifier=self._verifier, grant_type="authorization_code"
            )
        except Exception as error:  # whatever the library makes of what the provider answers
            raise SignOnError(f"{self._provider.issuer} gives no token: {_reason(error)}") from None
        return self._tokens(answer, self._nonce, None)

    def renew(self, refresh: str) -> Tokens:
        """The next tokens. Raises SignOnError; OSError where the provider cannot be reached, which may pass."""
        try:
            answer = self._client.refresh_token(self._provider.token_endpoint, refresh_token=refresh)
        except (requests.ConnectionError, requests.Timeout) as error:
            raise ConnectionError(_reason(error)) from None
        except Exception as error:  # as above
            raise SignOnError(f"{self._provider.issuer} does not renew: {_reason(error)}") from None
        return self._tokens(answer, None, refresh)

    def _tokens(self, answer: Any, nonce: str | None, refresh: str | None) -> Tokens:
        id_token = answer.get("id_token") if isinstance(answer, dict) else None
        if not isinstance(id_token, str):
            raise SignOnError(f"{self._provider.issuer} gives no id token")
        following = answer.get("refresh_token", refresh)
        claims = self._provider.verify(id_token, self._client_id, nonce)
        return Tokens(id_token, claims, following if isinstance(following, str) else None)


def hand_in(central_url: str, form: dict[str, str]) -> None:
    """Give an id token to the controller. Raises SignOnError where it does not take it; OSError where it cannot be
    reached."""
    check_url(central_url, "where the controller takes log-ins")
    try:
        with _bounded(requests.Session()) as session:
            response = session.post(central_url, data=form, allow_redirects=False)
    except requests.RequestException as error:
        raise ConnectionError(f"{central_url} cannot be reached: {_reason(error)}") from None
    if response.status_code == 402:
        raise SignOnError("the network has no license for another member; ask its administrator")
    if response.status_code >= 500:
        raise ConnectionError(f"{central_url} answers {response.status_code}")
    if response.status_code != 200:
        raise SignOnError(f"the network's controller does not take the log-in: {_told(response)}")


def _told(response: requests.Response) -> str:
    try:
        return str(response.json()["errorMessage"])[:200]
    except (ValueError, KeyError, TypeError, RecursionError):
        return f"it answers {response.status_code}"


def _reason(error: BaseException) -> str:
    if isinstance(error, requests.Timeout):
        return "no answer in time"
    if isinstance(error, requests.exceptions.SSLError):
        return "its TLS certificate is not trusted here"
    if isinstance(error, requests.ConnectionError):
        return "no connection"
    return " ".join(str(error).split())[:200] or type(error).__name__
