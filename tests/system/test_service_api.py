"""``serve --api``: what a real zerotier-one 1.14.1 answered to each request, this node answers in the same form."""

from __future__ import annotations

import contextlib
import http.client
import json
import re
import socket
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

import ztclient
from tests.system import controller_uis
from tests.system.harness import PORT, Overlay, ipv4, until
from ztnode.embedded import EmbeddedMember

VECTORS = json.loads((Path(__file__).parents[1] / "vectors/service_api.json").read_text())

VARIES = frozenset(VECTORS["varies"])
"""Depends on the node, its network or its host; the type is compared all the same. (``allowGlobal`` is true here,
``portDeviceName`` always "ztnode", and ``rulesSource`` kept: docs/CONTROLLER.md.)"""
OWN = {"ephemeral", "ephemeralMembers", "ephemeralTimeout", "ssoConfig", "ssoNonce", "ssoSubject"}
"""What is said here beside."""

TIMES = {"clock", "creationTime", "lastAuthorizedTime", "lastDeauthorizedTime"}


@dataclass(frozen=True, slots=True)
class Api:
    member: EmbeddedMember
    port: int
    token: str

    def ask(self, method: str, path: str, body: Any = None, token: str | None = "") -> tuple[int, Any]:
        """The status and what the JSON says; ``token`` empty: the right one."""
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=20)
        with contextlib.closing(connection):
            headers = {} if token is None else {"X-ZT1-Auth": token or self.token}
            data = body if body is None or isinstance(body, bytes) else json.dumps(body).encode()
            connection.request(method, path, data, headers)
            answer = connection.getresponse()
            text = answer.read()
            return answer.status, json.loads(text) if text else None


@pytest.fixture(scope="module")
def api(overlay: Overlay) -> Iterator[Api]:
    member = overlay.network.add("api", "--controller", "--api", "127.0.0.1:0")
    member.wait_online()
    home = member.state / "zerotier"
    until(lambda: (home / "zerotier-one.port").exists())
    yield Api(member, int((home / "zerotier-one.port").read_text()), (home / "authtoken.secret").read_text())
    overlay.network.members.pop("api").stop()


def same_form(theirs: Any, ours: Any, where: str) -> None:
    """The same members of the same types, and values but for those that vary."""
    if isinstance(theirs, dict) and isinstance(ours, dict):
        assert set(theirs) <= set(ours) and set(ours) <= set(theirs) | OWN, f"{where}: {set(theirs) ^ set(ours)}"
        for key in theirs:
            if key in VARIES:
                assert type(theirs[key]) is type(ours[key]), f"{where}.{key}: {ours[key]!r}"
            else:
                same_form(theirs[key], ours[key], f"{where}.{key}")
    elif isinstance(theirs, list) and isinstance(ours, list):
        if theirs and isinstance(theirs[0], dict):
            assert ours, where
            same_form(theirs[0], ours[0], f"{where}[]")
        elif not (theirs and re.fullmatch("[0-9a-f]{16}", str(theirs[0]))):
            assert theirs == ours, where
    else:
        assert theirs == ours, f"{where}: {theirs!r} there, {ours!r} here"


def test_each_request_is_answered_as_zerotier_one_answered_it(api: Api) -> None:
    address = api.member.node.status().address
    networks = dict.fromkeys(VECTORS["networks"], "")
    status, made = api.ask("POST", "/controller/network", {})
    assert status == 200
    networks[VECTORS["networks"][0]] = made["id"]
    assert api.ask("POST", f"/network/{made['id']}", {})[0] == 200
    peer = api.member.node.peers()[0].address
    for request in VECTORS["requests"]:
        path = request["path"].replace("778cde7190", peer)
        for theirs, ours in networks.items():
            path = path.replace(theirs, ours or theirs)
        path = path.replace(VECTORS["address"], address)
        token = "wrong" if request["status"] == 401 else None if path == "/health" else ""
        status, answer = api.ask(request["method"], path, request["sent"], token)
        assert status == request["status"], (request["method"], path, answer)
        if isinstance(answer, dict) and request["path"].endswith("______") and status == 200:
            networks[VECTORS["networks"][1]] = answer["id"]
        if path == "/unstable/controller/network":
            answer["data"] = [each for each in answer["data"] if each["id"] == networks[VECTORS["networks"][1]]]
        same_form(request["answer"], answer, f"{request['method']} {request['path']}")
    api.ask("DELETE", f"/network/{made['id']}")


def test_user_interfaces_get_the_answers_of_zerotier_one(api: Api) -> None:
    calls = json.loads(controller_uis.VECTORS.read_text())["calls"]
    for each in controller_uis.replay(calls, api.ask):
        where = f"{'/'.join(each.call['ui'])}: {each.call['what']}"
        assert each.status == each.call["status"], f"{where}: {each.answer}"
        if (path := each.call["path"]).startswith("/controller/"):
            answer = [] if path == "/controller/network" and each.call["method"] == "GET" else each.answer
            assert without_what_varies(answer) == without_what_varies(each.call["answer"]), where
        else:
            same_form(each.call["answer"], each.answer, where)


def without_what_varies(answer: Any) -> Any:
    """An answer of the controller without times, what is ours alone, and what docs/CONTROLLER.md says is otherwise."""
    if not isinstance(answer, dict):
        return answer
    kept = {key: value for key, value in answer.items() if key not in OWN | TIMES | {"rulesSource"}}
    if "rules" in kept:
        actions = (rule for rule in kept["rules"] if rule["type"].startswith("ACTION_"))
        for rule in actions:  # the reference shows flags of the one that a network has at first, and of no other
            rule.pop("not", None), rule.pop("or", None)
    if kept.get("dns") == {"domain": "", "servers": []}:
        kept["dns"] = []
    return kept


def test_what_is_set_by_it_is_acted_on_and_kept(api: Api, overlay: Overlay) -> None:
    status, network = api.ask("POST", f"/network/{overlay.nwid}", {"allowManaged": False, "allowDefault": True})
    assert status == 200 and network["allowDefault"] and not network["allowManaged"]
    until(lambda: api.ask("GET", f"/network/{overlay.nwid}")[1]["status"] == "OK")
    assert api.ask("GET", f"/network/{overlay.nwid}")[1]["assignedAddresses"] == []
    assert api.member.node.ips() == []
    api.ask("POST", f"/network/{overlay.nwid}", {"allowManaged": True})
    until(lambda: api.member.node.ips())
    kept = (api.member.state / f"zerotier/networks.d/{overlay.nwid}.local.conf").read_text()
    assert "allowDefault=1\n" in kept and "allowManaged=1\n" in kept
    assert api.ask("POST", "/config/settings", {"portMappingEnabled": True}) == (200, {})
    assert api.ask("GET", "/config")[1] == {"settings": {"portMappingEnabled": True}}
    assert api.ask("DELETE", f"/network/{overlay.nwid}") == (200, {"result": True})


def test_what_is_no_use_is_refused_and_named(api: Api, overlay: Overlay) -> None:
    status, made = api.ask("POST", "/controller/network", {})
    network = f"/controller/network/{made['id']}"
    for path, body, named in (
        (network, b"{", "not JSON"),
        (network, b"[" * 100_000, "not JSON"),
        (network, [1], "object"),
        (network, {"mtu": "large"}, "mtu"),
        (network, {"routes": [{"target": "nowhere"}]}, "routes"),
        (network, {"rules": [{"type": "MATCH_NOTHING"}]}, "MATCH_NOTHING"),
        (f"{network}/member/0123456789", {"authorized": "yes"}, "authorized"),
        (f"{network}/member/0123456789", {"ipAssignments": ["x"]}, "ipAssignments"),
        (f"/network/{made['id']}", {"allowManaged": 1}, "allowManaged"),
        ("/network/" + "0" * 16, {}, "no controller"),
        ("/moon/1234567890", {"seed": "moon"}, "seed"),
    ):
        status, answer = api.ask("POST", path, body)
        assert status == 400 and named in answer["description"], (path, body, answer)
    assert api.ask("POST", network, {"name": "x" * (2 << 20)})[0] == 413
    for secret in (None, "wrong", api.token + "x"):
        assert api.ask("POST", network, {"name": "taken"}, secret) == (401, {})
    assert api.ask("GET", network)[1]["name"] == ""
    assert api.ask("GET", f"/status?auth={api.token}", token=None)[0] == 200
    assert {
        path.name: path.stat().st_mode & 0o777 for path in (api.member.state / "zerotier").glob("*token.secret")
    } == {
        "authtoken.secret": 0o600,
        "metricstoken.secret": 0o600,
    }


def test_ready_when_the_networks_can_be_used(api: Api, overlay: Overlay) -> None:
    def asked(path: str) -> tuple[int, str]:
        connection = http.client.HTTPConnection("127.0.0.1", api.port, timeout=20)
        with contextlib.closing(connection):
            connection.request("GET", path)
            answer = connection.getresponse()
            return answer.status, answer.read().decode()

    assert asked("/healthz") == (200, "ok\n")
    assert asked("/readyz") == (200, "ok\n")
    status, reason = asked("/readyz?network=1234567890abcdef")
    assert status == 503 and "not joined" in reason
    api.member.node.join("1234567890abcdef")
    status, reason = asked("/readyz")
    assert status == 503 and "1234567890abcdef" in reason
    api.member.node.leave("1234567890abcdef")


def test_the_metrics_of_a_node_at_work(api: Api, overlay: Overlay) -> None:
    """All that the dashboard and the alert rules name is there, and tells what happens."""
    nwid = overlay.nwid
    ipv4(api.member, nwid)

    def scraped(token: str = "") -> dict[str, float]:
        with contextlib.closing(http.client.HTTPConnection("127.0.0.1", api.port, timeout=20)) as connection:
            secret = token or (api.member.state / "zerotier/metricstoken.secret").read_text()
            connection.request("GET", "/metrics", headers={"Authorization": f"Bearer {secret}"})
            answer = connection.getresponse()
            text = answer.read().decode()
            assert answer.status == (401 if token == "wrong" else 200)
        samples = (line.rpartition(" ") for line in text.splitlines() if line[:1] not in ("#", "{"))
        return {name: float(value) for name, _, value in samples}

    scraped("wrong")
    before = scraped(api.token)
    url = f"http://{overlay.ip}:{PORT}/100000"
    with ztclient.create_connection((overlay.ip, PORT), node=api.member.node) as connection:
        connection.sendall(b"GET /100000 HTTP/1.1\r\nHost: x\r\n\r\n")
        got = 0
        while got < 100_000:
            got += len(connection.recv(65536))
        until(lambda: scraped().get('ztnode_tcp_connections{state="established",worker="0"}') == 1, what=url)
        now = scraped()
    with pytest.raises(ConnectionRefusedError):
        ztclient.create_connection((overlay.ip, 9), node=api.member.node)
    for name, least in (
        (f'ztnode_network_bytes_total{{direction="rx",network_id="{nwid}"}}', 100_000),
        (f'ztnode_network_frames_total{{direction="tx",network_id="{nwid}"}}', 2),
        (f'zt_network_packets{{accepted="yes",direction="rx",network_id="{nwid}"}}', 2),
        ('zt_packet{direction="rx",packet_type="frame"}', 2),
        ('zt_packet{direction="tx",packet_type="frame"}', 2),
        ('zt_data{direction="rx",protocol="udp"}', 100_000),
        (f'zt_peer_packets{{direction="rx",node_id="{overlay.alpha.node.status().address}"}}', 2),
        ("ztnode_dial_seconds_count", 1),
        ('ztnode_ring_frames_total{direction="to_worker"}', 2),
    ):
        assert now[name] - before.get(name, 0) >= least, name
    after = scraped()
    assert after['ztnode_dial_failures_total{error="ECONNREFUSED"}'] == 1
    assert after[f'ztnode_network_up{{network_id="{nwid}",state="ok"}}'] == 1
    assert any(name.startswith("zt_peer_latency_bucket{") and after[name] for name in after)
    for peer in api.member.node.peers():
        assert after[f'zt_peer_path_count{{node_id="{peer.address}",status="alive"}}'] >= bool(peer.paths)
    there = {name.partition("{")[0] for name in after}
    there |= {name.removesuffix("_bucket") for name in there}
    root = Path(__file__).parents[2]
    texts = [(root / "deploy" / name).read_text() for name in ("alerts.yml", "grafana-dashboard.json")]
    # In the manual, the rows of its tables.
    texts.append("\n".join(re.findall(r"^\| (`[^|]*)\|", (root / "docs/OPERATING.md").read_text(), re.MULTILINE)))
    for text in texts:
        named = set(re.findall(r"\b(?:zt|ztnode|controller|process)_[a-zA-Z_]+", text))
        assert len(named) >= 10 and named - there <= {"ztnode_network_drops_total"}, "it comes with the first drop"
    assert api.ask("DELETE", f"/network/{nwid}") == (200, {"result": True})


def test_silent_connections_are_bounded_and_leave_no_line(api: Api) -> None:
    with contextlib.ExitStack() as stack:
        silent = [stack.enter_context(socket.create_connection(("127.0.0.1", api.port), 20)) for _ in range(400)]
        assert silent[-1].recv(1) == b"", "hung up at once"
        assert api.member.node.status().address
    until(lambda: _answers(api))
    with socket.create_connection(("127.0.0.1", api.port), 20) as junk:
        junk.sendall(b"junk\r\n\r\n")
        assert b" 400 " in junk.recv(100)
    log = (api.member.state / "serve.log").read_text()
    assert not any(line in log for line in ("server process", "concurrency", "Invalid HTTP")), log


def _answers(api: Api) -> bool:
    with contextlib.suppress(OSError, http.client.HTTPException):
        return api.ask("GET", "/health")[0] == 200
    return False


def test_beyond_loopback_it_wants_tls(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "ztnode", "serve", "--state", str(tmp_path), "--unlisted", "--port", "0"]
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        for address, reason in (("0.0.0.0:1", "--tls-cert"), (f"127.0.0.1:{port}", "in use"), ("nowhere", "nowhere")):
            done = subprocess.run([*command, "--api", address], capture_output=True, text=True, timeout=90, check=False)
            assert done.returncode != 0
            last = done.stderr.strip().splitlines()[-1]
            assert reason in last and "Traceback" not in done.stderr, done.stderr
