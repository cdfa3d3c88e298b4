"""Which id tokens count, and which URLs are confided in."""

from __future__ import annotations

import base64
import json
import time
from typing import Any

import pytest
import requests
from joserfc import jwt
from joserfc.jwk import ECKey, KeySet, OctKey, RSAKey
from requests.adapters import HTTPAdapter

from ztnode.sign_on import SignOnError
from ztnode.sign_on.openid import Attempt, Provider, check_url

ISSUER = "https://login.example"
KEY = ECKey.generate_key("P-256", auto_kid=True)
META = {
    "issuer": ISSUER,
    "authorization_endpoint": f"{ISSUER}/authorize",
    "token_endpoint": f"{ISSUER}/token",
    "jwks_uri": f"{ISSUER}/keys",
}


class Found(Provider):
    """Documents that were fetched before."""

    def __init__(self, keys: list[Any] | None = None, **meta: Any) -> None:
        self.keys = keys if keys is not None else [KEY]
        self.meta = {**META, **meta}
        self.fetched: list[str] = []
        super().__init__(ISSUER)

    def _get(self, url: str) -> dict[str, Any]:
        self.fetched.append(url)
        if url != self.meta["jwks_uri"]:
            return self.meta
        keys: dict[str, Any] = dict(KeySet(self.keys).as_dict(private=False))
        return keys


def token(key: Any = KEY, algorithm: str = "ES256", **claims: Any) -> str:
    said = {"iss": ISSUER, "aud": "lab", "sub": "ada", "nonce": "1", "exp": int(time.time()) + 60, **claims}
    header = {"alg": algorithm, "kid": key.kid or KEY.kid}
    return jwt.encode(header, {name: value for name, value in said.items() if value is not None}, key, [algorithm])


def test_a_good_token_says_who_it_is_and_until_when() -> None:
    provider = Found()
    claims = provider.verify(token(exp=2_000_000_000), "lab", "1")
    assert (claims.subject, claims.expiry) == ("ada", 2_000_000_000)
    assert provider.verify(token(nonce=None, aud=["other", "lab"], azp="lab"), "lab", None).subject == "ada"
    assert provider.fetched.count(META["jwks_uri"]) == 1


@pytest.mark.parametrize(
    "claims",
    [
        {"iss": "https://evil.example"},
        {"aud": "other"},
        {"aud": None},
        {"aud": ["lab", "other"], "azp": "other"},
        {"nonce": "2"},
        {"nonce": None},
        {"exp": 1_000_000_000},
        {"exp": None},
        {"exp": True},
        {"exp": 1e300},
        {"sub": None},
        {"sub": 7},
        {"sub": "x" * 256},
        {"nbf": 4_000_000_000},
        {"iat": 4_000_000_000},
        {"iat": "now"},
    ],
    ids=str,
)
def test_what_a_token_must_say(claims: dict[str, Any]) -> None:
    with pytest.raises(SignOnError):
        Found().verify(token(**claims), "lab", "1")


def part(value: Any) -> str:
    return base64.urlsafe_b64encode(json.dumps(value).encode()).rstrip(b"=").decode()


@pytest.mark.parametrize(
    "head",
    [
        [],
        5,
        None,
        {},
        {"alg": None},
        {"alg": ["ES256"]},
        {"alg": {}},
        {"alg": "ES256", "kid": []},
        {"alg": "ES256", "kid": {}},
        {"alg": "RS256", "crit": 5},
        {"alg": "ES256", "crit": ["b64"], "b64": False},
        {"alg": "ES256", "jwk": 5, "x5c": 3},
        {"enc": "A128GCM", "alg": "dir"},
    ],
    ids=str,
)
def test_whatever_the_library_trips_over_is_a_refusal(head: Any) -> None:
    """Strangers write the header, and a refusal is one line."""
    _, body, signature = token().split(".")
    for forged in (f"{part(head)}.{body}.{signature}", f"{part(head)}.{body}.", f"{part(head)}.{part([])}.{signature}"):
        with pytest.raises(SignOnError):
            Found().verify(forged, "lab", "1")


@pytest.mark.parametrize("keys", [5, [5], [{"kty": "EC", "crv": 5}], [{"kty": []}], {"keys": 1}], ids=str)
def test_keys_that_are_none_are_a_refusal(keys: Any) -> None:
    provider = Found()
    provider._get = lambda url: {"keys": keys}  # type: ignore[method-assign]
    with pytest.raises(SignOnError):
        provider.verify(token(), "lab", "1")


@pytest.mark.parametrize("said", ["5", "[]", "null", "{", '"x"', "{}"])
def test_a_provider_that_answers_nonsense_gives_no_tokens(said: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def answer(_adapter: object, request: requests.PreparedRequest, **_: Any) -> requests.Response:
        response = requests.Response()
        response.status_code, response._content, response.request = 200, said.encode(), request
        return response

    monkeypatch.setattr(HTTPAdapter, "send", answer)
    attempt = Attempt(Found(), "lab", "", "http://localhost:9993/sso", state="s", nonce="1")
    with pytest.raises(SignOnError):
        attempt.exchange("code")
    with pytest.raises(SignOnError):
        attempt.renew("refresh")


def test_signatures_of_others_do_not_count_and_fetch_keys_seldom() -> None:
    provider = Found()
    stranger = ECKey.generate_key("P-256", auto_kid=True)
    shared = OctKey.import_key(json.dumps(KEY.as_dict(private=False)))  # the public key as a shared secret
    unsigned = token().rsplit(".", 1)[0] + "."
    for forged in (token(stranger), token(shared, "HS256"), unsigned, "", "a.b.c", token() + "A" * 20):
        with pytest.raises(SignOnError):
            provider.verify(forged, "lab", "1")
    assert provider.fetched.count(META["jwks_uri"]) == 1
    provider.keys, provider._keys_at = [stranger], float("-inf")  # the provider changed its key long ago
    assert provider.verify(token(stranger), "lab", "1").subject == "ada"


def test_an_rsa_key_works_too() -> None:
    key = RSAKey.generate_key(2048, auto_kid=True)
    assert Found([key]).verify(token(key, "RS256"), "lab", "1").subject == "ada"


@pytest.mark.parametrize(
    "meta",
    [{"issuer": "https://evil.example"}, {"token_endpoint": "http://login.example"}, {"jwks_uri": None}],
    ids=str,
)
def test_a_provider_that_is_not_whom_it_should_be(meta: dict[str, Any]) -> None:
    with pytest.raises(SignOnError):
        Found(**meta)


def test_secrets_travel_by_tls_or_not_at_all() -> None:
    for url in ("https://login.example/a", "http://127.0.0.1:80/", "http://[::1]/", "http://localhost:9/"):
        assert check_url(url, "it") == url
    for url in ("http://login.example", "http://localhost.example", "file:///etc/passwd", "", "http://[", "ftp://::1"):
        with pytest.raises(SignOnError):
            check_url(url, "it")


def test_each_attempt_has_a_challenge_of_its_own() -> None:
    one, other = (
        Attempt(Found(), "lab", "okta", "http://localhost:9993/sso", state="s", nonce="n").url for _ in range(2)
    )
    assert one != other and "code_challenge_method=S256" in one and "state=s" in one and "nonce=n" in one
    assert "groups" in one and "redirect_uri=http%3A%2F%2Flocalhost%3A9993%2Fsso" in one
