"""Single sign-on with a provider that is not ours, and tokens that admit: whole programs on loopback."""

from __future__ import annotations

import contextlib
import re
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import requests

import ztclient
from tests.system.harness import identities, until
from ztclient.controller import Controller, SingleSignOn
from ztnode.embedded import EmbeddedNetwork, free_port

PROVIDER = Path(__file__).parents[1] / "integrations/oidc_provider.py"
LIFE = 8
"""Seconds for which a log-in is good, and half of which pass before it is renewed."""


@pytest.fixture(scope="module")
def sso_port() -> int:
    return free_port()


@pytest.fixture(scope="module")
def network(tmp_path_factory: pytest.TempPathFactory) -> Iterator[EmbeddedNetwork]:
    with EmbeddedNetwork(
        tmp_path_factory.mktemp("sso"),
        identities=identities(),
        controller_arguments=["--sso-listen", f"127.0.0.1:{free_port()}"],
    ) as network:
        yield network


class Provider:
    """django-oauth-toolkit in a process of its own."""

    def __init__(self, directory: Path, redirect_uri: str) -> None:
        port = free_port()
        self.issuer = f"http://localhost:{port}/o"
        command = [sys.executable, str(PROVIDER), str(port), str(directory), str(LIFE), redirect_uri]
        self.process = subprocess.Popen(command, stdout=subprocess.PIPE)
        assert self.process.stdout is not None and self.process.stdout.readline() == b"ready\n"

    def close(self) -> None:
        self.process.kill()
        self.process.wait()
        assert self.process.stdout is not None
        self.process.stdout.close()


@pytest.fixture
def provider(tmp_path: Path, sso_port: int) -> Iterator[Provider]:
    with contextlib.closing(Provider(tmp_path, f"http://localhost:{sso_port}/sso")) as provider:
        yield provider


def browse(url: str) -> requests.Response:
    """What a person does: opens the URL, logs in. Returns the last page."""
    with requests.Session() as browser:
        page = browser.get(url)
        csrf = re.search(r'name="csrfmiddlewaretoken" value="([^"]+)"', page.text)
        assert csrf is not None, page.text
        form = {"csrfmiddlewaretoken": csrf[1], "username": "ada", "password": "lovelace"}
        return browser.post(page.url, data=form)


def test_a_person_logs_in_and_the_log_in_is_renewed_until_the_provider_is_gone(
    network: EmbeddedNetwork, provider: Provider, sso_port: int
) -> None:
    controller = Controller(network.controller.node)
    nwid = network.create(private=True)
    controller.update_network(nwid, sso=SingleSignOn(True, provider.issuer, "ztnode"))
    alpha = network.add("alpha", "--sso-port", str(sso_port))
    alpha.wait_online()
    command = [sys.executable, "-m", "ztnode", "join", nwid, "--wait", "90", "--no-browser", "--state"]
    with subprocess.Popen([*command, str(alpha.state)], stderr=subprocess.PIPE, text=True) as join:
        assert join.stderr is not None
        url = next(line.split()[-1] for line in join.stderr if "log in at http" in line)
        assert "code_challenge_method=S256" in url and "offline_access" in url
        page = browse(url)
        assert page.status_code == 200 and "Logged in" in page.text, page.text
        join.stderr.read()
        assert join.wait(60) == 0
    (member,) = controller.members(nwid)
    assert member.authorized_by == "sso" and member.sso_subject and member.authentication_expires is not None

    first = member.authentication_expires
    until(lambda: (controller.members(nwid)[0].authentication_expires or 0) > first + 1, 60, "it was not renewed")
    assert alpha.node.network(nwid).ready

    provider.close()
    until(lambda: alpha.node.network(nwid).state == "authentication_required", 60, "the log-in did not end")
    until(lambda: "cannot log in yet" in alpha.node.network(nwid).detail, 60, "nobody says why")


def test_what_was_not_offered_is_not_taken(network: EmbeddedNetwork) -> None:
    listening = network.controller.command[network.controller.command.index("--sso-listen") + 1]
    url = f"http://{listening}/sso"
    assert requests.get(url, timeout=10).status_code == 405
    assert requests.post(f"http://{listening}/", timeout=10).status_code == 404
    for form in (
        {},
        {"id_token": "x.y.z", "state": "refresh"},
        {"id_token": "e30.eyJub25jZSI6IjAwIn0.", "state": "00"},
    ):
        answer = requests.post(url, data=form, timeout=10)
        assert answer.status_code == 403 and "not offered" in answer.json()["errorMessage"]
    assert requests.post(url, data=b"x" * 100_000, timeout=10).status_code == 413


def test_a_token_admits_and_is_kept_until_the_network_is_left(network: EmbeddedNetwork) -> None:
    controller = Controller(network.controller.node)
    nwid = network.create(private=True)
    controller.update_network(nwid, auth_tokens={"open sesame": None, "stale": time.time() - 60})
    beta = network.add("beta")
    beta.wait_online()
    with pytest.raises(ztclient.JoinTimeoutError):
        beta.node.join(nwid, 1.0, auth_token="stale")
    command = [sys.executable, "-m", "ztnode", "join", nwid, "--wait", "30", "--auth-token", "-", "--state"]
    subprocess.run([*command, str(beta.state)], input=b"open sesame\n", check=True, timeout=60)
    (member,) = controller.members(nwid)
    assert member.authorized_by == "token"
    assert "lastAuthorizedCredential" in _document(network, nwid, member.address)
    kept = beta.state / f"zerotier/networks.d/{nwid}.secret"
    assert kept.read_text() == "open sesame" and kept.stat().st_mode & 0o77 == 0

    controller.deauthorize(nwid, member.address)  # an administrator's word is above a token
    until(lambda: beta.node.network(nwid).state == "waiting_for_authorization")

    def unheard_for() -> float:
        age = controller.members(nwid)[0].last_seen_age
        assert age is not None
        return age

    until(lambda: unheard_for() > 1.2)  # sooner the controller does not answer
    beta.node.join(nwid, auth_token="open sesame")
    until(lambda: unheard_for() < 1.2)
    assert not controller.members(nwid)[0].authorized
    beta.node.leave(nwid)
    until(lambda: not kept.exists())


def _document(network: EmbeddedNetwork, nwid: str, address: str) -> str:
    path = f"zerotier/controller.d/network/{nwid}/member/{address}.json"
    return (network.controller.state / path).read_text()
