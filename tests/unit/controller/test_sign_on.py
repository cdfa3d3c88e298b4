"""What the controller does about log-ins and tokens."""

from __future__ import annotations

from typing import Any

import pytest

from tests.unit.controller.test_controller import Bench, Sent, assemble, identity
from ztnode.controller import ControllerError
from ztnode.controller.sign_ons import ACCEPTED, MAX_OFFERS, REFRESH, SignOns
from ztnode.wire.config_request import parse_auth_info
from ztnode.wire.network_config import SingleSignOn
from ztnode.wire.packet import (
    ERROR_NETWORK_ACCESS_DENIED,
    ERROR_NETWORK_AUTHENTICATION_REQUIRED,
    VERB_NETWORK_CONFIG,
    VERB_NETWORK_CREDENTIALS,
)

ADA, BOB = 0xAA00000001, 0xAA00000002
SSO = {
    "ssoEnabled": True,
    "ssoConfig": {"issuer": "https://login.example", "clientId": "lab", "provider": "keycloak"},
}


@pytest.fixture
def bench() -> Bench:
    bench = Bench()
    bench.controller.sso_url = "https://controller.example/sso"
    return bench


def offer(sent: list[Sent]) -> SingleSignOn:
    (error,) = sent
    assert error.code == ERROR_NETWORK_AUTHENTICATION_REQUIRED
    return parse_auth_info(error.payload[8:])


def log_in(bench: Bench, nwid: int, sso: SingleSignOn, seconds: int = 100, who: str = "ada", **more: Any) -> None:
    state = more.get("state", sso.state.partition("_")[0])
    key = bench.controller.offered(sso.nonce, state, bench.wall)
    assert key is not None and key[0] == nwid
    bench.controller.logged_in(*key, sso.nonce, who, bench.wall + seconds * 1000, bench.now, bench.wall)


def test_a_member_is_let_in_for_as_long_as_somebody_is_logged_in(bench: Bench) -> None:
    nwid = bench.network(**SSO)
    bench.authorize(nwid, BOB, ssoExempt=True)
    assert not bench.config(nwid, BOB).sso.enabled
    first = offer(bench.ask(nwid, ADA))
    assert (first.issuer_url, first.client_id, first.provider) == ("https://login.example", "lab", "keycloak")
    assert first.central_url == bench.controller.sso_url and first.state.endswith(f"_{nwid:016x}")
    assert offer(bench.ask(nwid, ADA)) == first
    log_in(bench, nwid, first)
    config = assemble([sent for sent in bench.vl1.take() if sent.verb == VERB_NETWORK_CONFIG])
    assert config.sso.nonce == first.nonce and config.issued_to == ADA
    member = bench.controller.member(nwid, ADA)
    assert member.authorized_by == "sso" and member.sso_subject == "ada"

    bench.now += 50
    bench.ask(nwid, BOB)
    log_in(bench, nwid, first, 100, state=REFRESH)  # renewed in time
    bench.now = bench.controller.next_timer() or 0
    bench.controller.handle_timer(bench.now, bench.wall)
    assert not [sent for sent in bench.vl1.take() if sent.verb == VERB_NETWORK_CREDENTIALS]
    bench.now = (bench.controller.next_timer() or 0) - 2
    bench.ask(nwid, ADA)
    bench.ask(nwid, BOB)
    bench.now += 0.01
    bench.controller.handle_timer(bench.now, bench.wall)
    told = bench.vl1.take()
    assert [sent.address for sent in told if sent.verb == VERB_NETWORK_CREDENTIALS] == [BOB]
    again = offer([sent for sent in told if sent.address == ADA])
    assert again.nonce != first.nonce


def test_a_log_in_survives_the_controller(bench: Bench) -> None:
    nwid = bench.network(**SSO)
    sso = offer(bench.ask(nwid, ADA))
    log_in(bench, nwid, sso)
    bench.save()
    later = Bench(bench.store)
    later.controller.sso_url, later.now = bench.controller.sso_url, bench.now
    assert later.config(nwid, ADA).sso.nonce == sso.nonce
    assert later.controller.offered(sso.nonce, REFRESH, later.wall) == (nwid, ADA)


def test_who_may_not_log_in(bench: Bench) -> None:
    nwid = bench.network(**SSO)
    sso = offer(bench.ask(nwid, ADA))
    state = sso.state.partition("_")[0]
    for nonce, shown in ((sso.nonce, "0" * 96), ("00", state), (sso.nonce, REFRESH), ("", ""), (sso.nonce, "é")):
        assert bench.controller.offered(nonce, shown, bench.wall) is None
    assert bench.controller.offered(sso.nonce, state, bench.wall + ACCEPTED) is None
    log_in(bench, nwid, sso)
    with pytest.raises(ControllerError, match="somebody else"):
        log_in(bench, nwid, sso, who="eve", state=REFRESH)
    bench.controller.update_member(nwid, ADA, {"authorized": False}, bench.now, bench.wall)
    assert [sent.code for sent in bench.ask(nwid, ADA)] == [ERROR_NETWORK_ACCESS_DENIED]
    with pytest.raises(ControllerError, match="shut"):
        log_in(bench, nwid, sso, state=REFRESH)
    bench.controller.delete_member(nwid, ADA, bench.now, bench.wall)
    assert bench.controller.offered(sso.nonce, REFRESH, bench.wall) is None


def test_offers_are_bounded() -> None:
    numbers = iter(range(10**6))
    offers = SignOns(lambda n: bytes(n - 8) + next(numbers).to_bytes(8, "big"))
    first = offers.offer((1, 0), 0)
    for address in range(1, MAX_OFFERS + 1):
        offers.offer((1, address), 0)
    assert offers.find(first, offers.state(first), 0) is None
    assert len(offers._offers) == len(offers._newest) == MAX_OFFERS


def test_settings_that_cannot_work_are_refused(bench: Bench) -> None:
    for sso in ({"issuer": "https://login.example"}, {"issuer": "ftp://x", "clientId": "lab"}):
        with pytest.raises(ControllerError, match="issuer"):
            bench.network(ssoEnabled=True, ssoConfig=sso)
    bench.controller.sso_url = ""
    with pytest.raises(ControllerError, match="--sso-listen"):
        bench.network(**SSO)


@pytest.mark.parametrize(
    ("shown", "admitted"),
    [
        ("token:blue", True),
        ("token:red", True),
        ("token:stale", False),
        ("token:", False),
        ("blue", False),
        ("", False),
    ],
)
def test_a_token_admits(bench: Bench, shown: str, admitted: bool) -> None:
    nwid = bench.network(authTokens={"blue": 0, "red": bench.wall + 60_000, "stale": bench.wall, "": 0})
    sent = bench.ask(nwid, ADA, auth_token=shown)
    assert bench.controller.member(nwid, ADA).authorized is admitted
    if admitted:
        assert assemble(sent).issued_to == ADA and bench.controller.member(nwid, ADA).authorized_by == "token"
        bench.controller.update_network(nwid, {"authTokens": None}, bench.now, bench.wall)
        bench.controller.update_member(nwid, ADA, {"authorized": False}, bench.now, bench.wall)
        bench.controller.update_network(nwid, {"authTokens": {"blue": 0, "red": 0}}, bench.now, bench.wall)
        assert [each.code for each in bench.ask(nwid, ADA, auth_token=shown)] == [ERROR_NETWORK_ACCESS_DENIED]
    assert identity(ADA).address == ADA
