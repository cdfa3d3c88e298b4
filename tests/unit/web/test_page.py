"""The page: who gets in, what is refused and where that is said, and that nothing that is shown is taken for markup."""

from __future__ import annotations

import asyncio
import dataclasses
import logging
import os
import re
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Iterator
from html.parser import HTMLParser
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest

pytest.importorskip("jinja2", reason="needs ztnode[web]")
pytest.importorskip("starlette", reason="needs ztnode[web]")

import httpx
from starlette.responses import PlainTextResponse
from starlette.routing import Route

from tests.unit.fake_node import NWID, FakeNode
from ztnode.controller import Controller
from ztnode.node.administration import Administration
from ztnode.node.api import ConnectionInfo
from ztnode.vl1 import Vl1
from ztnode.web.page.forms import MAX_FORM
from ztnode.web.page.gate import BY_ITSELF
from ztnode.web.page.page import Page
from ztnode.web.page.recent_logs import MAX_LINES, RecentLogs
from ztnode.web.page.sessions import ATTEMPTS, IDLE_SECONDS, MAX_SESSIONS, WHOLE_SECONDS, Attempts, Sessions
from ztnode.web.page.throughput import KEPT, MAX_WATCHED, WATCHED_SECONDS, Throughput, Watched
from ztnode.wire import c25519
from ztnode.wire.identity import Identity

TOKEN = "the-token-of-the-node"
MARK = "<i id=mark>\"'&amp;</i>"
"""What would be markup, if anything were."""
MOST = 100_000
"""Bytes of one answer."""


class Browser:
    """With cookies; it follows no redirection. ``csrf`` is what its forms have once it is logged in."""

    csrf = ""

    def __init__(self, page: Page) -> None:
        self._client = httpx.AsyncClient(transport=httpx.ASGITransport(page), base_url="http://127.0.0.1:9993")

    def request(self, method: str, path: str, **options: Any) -> httpx.Response:
        return asyncio.run(self._client.request(method, path, **options))

    def get(self, path: str, **options: Any) -> httpx.Response:
        return self.request("GET", path, **options)

    def post(self, path: str, **options: Any) -> httpx.Response:
        return self.request("POST", path, **options)

    def log_in(self, token: str = TOKEN) -> int:
        status = self.post("/ui/login", data={"token": token}).status_code
        found = re.search('name="csrf" value="([^"]+)"', self.get("/ui/").text)
        self.csrf = found[1] if found is not None else ""
        return status

    def send(self, path: str, **fields: str) -> httpx.Response:
        return self.post(f"/ui{path}", data={"csrf": self.csrf, **fields})


class Parts(HTMLParser):
    """The ids, and the text of each element that has one."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.ids: list[str] = []
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        self.ids += [value for name, value in attrs if name == "id" and value is not None]


class Site:
    def __init__(self, directory: Path, *, secure: bool = False) -> None:
        secret = b"\x01" * c25519.SECRET_LENGTH
        identity = Identity(0x1122334455, c25519.derive_public(secret), secret)
        vl1 = SimpleNamespace(send=lambda *_, **__: 0, reply_ok=lambda *_, **__: 0)
        self.controller = Controller(cast(Vl1, vl1), identity, random=os.urandom)
        self.administration = Administration(self.controller, lambda: self.administration.publish())
        self.node = FakeNode(directory / "none")
        self.page = Page(
            self.node,
            self.administration,
            PlainTextResponse("beside"),
            token=TOKEN,
            secrets=(TOKEN,),
            port=9993,
            secure=secure,
        )
        self.browser = Browser(self.page)

    def network(self, **settings: Any) -> int:
        return self.administration.create_network(settings).nwid

    def at(self, now: float) -> None:
        self.page._gate._now = lambda: now


@pytest.fixture
def site(tmp_path: Path) -> Site:
    return Site(tmp_path)


def paths(site: Site, method: str) -> Iterator[str]:
    """One of each of the page's own routes."""
    nwid = site.network(name="one")
    site.administration.update_member(nwid, 0x0102030405, {})
    for route in cast(Any, site.page._gate._app).routes:
        if isinstance(route, Route) and method in (route.methods or ()) and "static" not in route.path:
            yield route.path.replace("{nwid:zt_network}", f"{nwid:016x}").replace("{address:zt_address}", "0102030405")


def test_only_who_is_logged_in_sees_anything(site: Site) -> None:
    browser = site.browser
    for method in ("GET", "POST"):
        for path in paths(site, method):
            answer = browser.request(method, path)
            assert answer.status_code == 303 and answer.headers["location"] == "/ui/login" and not answer.text, path
    assert browser.get("/ui/peers", headers={BY_ITSELF: "1"}).status_code == 401
    assert browser.get("/status").text == "beside" and browser.get("/").headers["location"] == "/ui/"
    assert browser.log_in("wrong") == 403 and not browser.csrf
    assert browser.log_in() == 303 and browser.csrf
    cookie = browser.post("/ui/login", data={"token": TOKEN}).headers["set-cookie"]
    assert "HttpOnly" in cookie and "SameSite=strict" in cookie and "Path=/ui" in cookie
    browser.log_in()
    for path in paths(site, "GET"):
        answer = browser.get(path)
        assert answer.status_code == 200, path
        assert "default-src 'none'" in answer.headers["content-security-policy"]
    assert browser.send("/logout").headers["location"] == "/ui/login"
    assert browser.get("/ui/").status_code == 303


def test_a_form_of_another_site_or_session_does_nothing(site: Site) -> None:
    site.browser.log_in()
    nwid = site.network(name="kept")
    other = Browser(site.page)
    other.log_in()
    for path in paths(site, "POST"):
        for csrf in ("", "x", "\ud800", other.csrf):
            body = {"csrf": csrf.encode(errors="surrogatepass"), "sure": "on", "name": "taken"}
            assert site.browser.post(path, data=body).status_code in (400, 403), path
        for headers in ({"Sec-Fetch-Site": "same-site"}, {"Origin": "http://127.0.0.1:8000"}, {"Origin": "null"}):
            data = {"csrf": site.browser.csrf, "sure": "on"}
            answer = site.browser.post(path, data=data, headers=headers)
            assert answer.status_code == 403, (path, headers)
    assert site.administration.network(nwid).name == "kept" and NWID in site.node.known


def test_by_https_the_cookie_is_for_that_alone(tmp_path: Path) -> None:
    site = Site(tmp_path, secure=True)
    cookie = site.browser.post("/ui/login", data={"token": TOKEN}).headers["set-cookie"]
    assert cookie.startswith("__Secure-ztnode-9993=") and "; Secure" in cookie


def test_a_form_that_does_not_come_is_not_waited_for(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ztnode.web.page.forms.FORM_SECONDS", 0.01)

    async def never() -> AsyncIterator[bytes]:
        yield b"token="
        await asyncio.Event().wait()

    form = {"Content-Type": "application/x-www-form-urlencoded"}
    assert site.browser.post("/ui/login", content=never(), headers=form).status_code == 408


def test_a_form_has_bounds(site: Site) -> None:
    site.browser.log_in()
    csrf = site.browser.csrf
    post = site.browser.post
    form = {"Content-Type": "application/x-www-form-urlencoded"}
    assert post("/ui/join", json={"csrf": csrf}).status_code == 415
    assert post("/ui/join", content=b"x=" + b"1" * MAX_FORM, headers=form).status_code == 413
    assert post("/ui/join", content=b"x=1&" * 65, headers=form).status_code == 400
    assert post("/ui/join", content=b"x=%ff\xff", headers=form).status_code == 400
    assert site.browser.request("DELETE", "/ui/peers").status_code == 405
    assert site.browser.get("/ui/nothing").status_code == 404
    for page in ("0", "-1", "x", "9" * 400, "²"):
        assert site.browser.get("/ui/peers", params={"page": page}).status_code == 200


def test_guesses_and_sessions_end() -> None:
    attempts = Attempts()
    assert [attempts.admit("192.0.2.1", 0.0) for _ in range(ATTEMPTS + 1)] == [True] * ATTEMPTS + [False]
    assert attempts.admit("192.0.2.2", 0.0) and attempts.admit("192.0.2.1", 60.0)
    assert sum(attempts.admit(f"2001:db8::{number:x}", 0.0) for number in range(99)) == ATTEMPTS  # one /64
    sessions = Sessions()
    one, other = sessions.open(0.0), sessions.open(0.0)
    assert sessions.find(one, IDLE_SECONDS - 1) and sessions.find(other, IDLE_SECONDS - 1, by_hand=False)
    assert sessions.find(one, IDLE_SECONDS) and sessions.find(other, IDLE_SECONDS) is None
    now = 0.0
    while now < WHOLE_SECONDS:
        assert sessions.find(one, now) is not None
        now += IDLE_SECONDS / 2
    assert sessions.find(one, WHOLE_SECONDS) is None
    first, *_ = [sessions.open(now) for _ in range(MAX_SESSIONS + 1)]
    assert sessions.find(first, now) is None


def test_too_many_guesses_are_said_and_the_right_one_waits_too(site: Site) -> None:
    site.at(0.0)
    statuses = [site.browser.log_in("wrong") for _ in range(ATTEMPTS + 1)]
    assert statuses == [403] * ATTEMPTS + [429] and site.browser.log_in() == 429
    site.at(60.0)
    assert site.browser.log_in() == 303


def test_nothing_that_is_shown_is_markup(site: Site) -> None:
    site.browser.log_in()
    nwid = site.network(name=MARK, dns={"domain": MARK, "servers": ["10.0.0.1"]})
    site.administration.update_member(nwid, 0x0102030405, {"name": MARK})
    info = site.node.known[NWID]
    site.node.known[NWID] = dataclasses.replace(
        info, name=MARK, dns_domain=MARK, detail=MARK, authentication_url=f"javascript:{MARK}"
    )
    site.page._logs.emit(logging.makeLogRecord({"name": MARK, "msg": MARK, "levelno": logging.INFO}))
    shown = 0
    pages = [(path, site.browser.get(path).text) for path in paths(site, "GET")]
    member = f"/networks/{nwid:016x}/members/0102030405"
    pages += [(path, site.browser.get(f"/ui{path}").text) for path in (f"/networks/{nwid:016x}", member)]
    pages += [(path, site.browser.get(f"/ui{path}").text) for path in (f"/networks/{nwid:016x}/members", "/networks")]
    pages.append(("search", site.browser.get(f"/ui/networks/{nwid:016x}/members", params={"search": MARK}).text))
    for path, form in (
        ("/join", {"nwid": MARK}),
        ("/networks", {"name": MARK, "subnet": MARK}),
        (f"/networks/{nwid:016x}", {"routes": MARK, "name": MARK}),
        (f"/networks/{nwid:016x}/rules", {"rules": MARK}),
        (f"/networks/{nwid:016x}/rules", {"rules": "[]</textarea>" + MARK}),
        (member, {"ipAssignments": MARK, "name": MARK}),
    ):
        pages.append((path, site.browser.send(path, **form).text))
    for path, text in pages:
        parts = Parts(text)
        assert "mark" not in parts.ids and "i" not in dict(parts.tags) and "javascript:" not in text, path
        assert len(parts.ids) == len(set(parts.ids)), path
        shown += "&lt;i id=mark&gt;" in text
    assert shown >= 14


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("name", "x" * 128),
        ("mtu", "12"),
        ("mtu", "many"),
        ("multicastLimit", "-1"),
        ("routes", "10.0.0.0/24\nnowhere"),
        ("routes", "10.0.0.0/24 through 10.0.0.1"),
        ("routes", "10.0.0.0/24 via fd00::1"),
        ("ipAssignmentPools", "10.0.0.9 - 10.0.0.1"),
        ("ipAssignmentPools", "10.0.0.9"),
        ("domain", "x" * 128),
        ("dns", "resolver"),
        ("rules", "accept everything;"),
        ("rules", "macro a\n  include a;\n;\ninclude a;"),
        ("rules", "(" * 50_000),
        ("rules", "cap one\n  id 70000000000\n;"),
    ],
)
def test_an_error_stands_at_its_field(site: Site, field: str, value: str) -> None:
    site.browser.log_in()
    nwid = site.network(name="before")
    path = f"/networks/{nwid:016x}" + ("/rules" if field == "rules" else "")
    form = {"revision": "1", "name": "after", "mtu": "2800", "multicastLimit": "32", field: value}
    answer = site.browser.send(path, **form)
    assert answer.status_code == 400
    parts = Parts(answer.text)
    assert f"{field}-error" in parts.ids
    (control,) = (attributes for _, attributes in parts.tags if attributes.get("id") == field)
    assert control["aria-invalid"] == "true" and f"{field}-error" in (control["aria-describedby"] or "")
    assert value[:60] in answer.text  # what was typed is not lost
    assert site.administration.network(nwid).name == "before" and site.administration.network(nwid).revision == 1


def test_what_is_typed_over_somebody_elses_change_is_refused(site: Site) -> None:
    site.browser.log_in()
    nwid = site.network(name="mine")
    form = {"name": "after", "mtu": "2800", "multicastLimit": "32", "revision": "1"}
    assert site.browser.send(f"/networks/{nwid:016x}", **form).status_code == 303
    answer = site.browser.send(f"/networks/{nwid:016x}", **{**form, "name": "late"})
    assert answer.status_code == 400 and "revision" in answer.text
    assert site.administration.network(nwid).name == "after"


def test_a_network_from_making_to_deleting(site: Site) -> None:
    send = site.browser.send
    site.browser.log_in()
    path = send("/networks", name="lab", subnet="10.9.0.0/24").headers["location"].removeprefix("/ui").partition("?")[0]
    nwid = int(path.rpartition("/")[2], 16)
    form = {
        "revision": "1",
        "name": "lab",
        "private": "on",
        "mtu": "1500",
        "multicastLimit": "0",
        "v4AssignMode": "on",
        "rfc4193": "on",
        "routes": "10.9.0.0/24\r\n\r\n10.10.0.0/16 via 10.9.0.1",
        "ipAssignmentPools": "10.9.0.1 - 10.9.0.99\nfd00::1-fd00::ff",
        "domain": "lab.example",
        "dns": "10.9.0.53",
    }
    assert send(path, **form).status_code == 303
    network = site.administration.network(nwid)
    assert network.mtu == 1500 and network.rfc4193 and not network.enable_broadcast and network.private
    assert [str(each.via) for each in network.routes] == ["None", "10.9.0.1"] and len(network.pools) == 2
    assert network.dns.domain == "lab.example"
    # What the form shows, sent back, changes nothing.
    page = site.browser.get(f"/ui{path}").text
    assert "10.9.0.0/24\n10.10.0.0/16 via 10.9.0.1</textarea>" in page
    rules = "accept ethertype ipv4;\n# nothing else\ntag kind\n  id 7\n;"
    assert send(f"{path}/rules", rules=rules, revision="2").status_code == 303
    network = site.administration.network(nwid)
    assert len(network.rules) == 2 and network.tags == ((7, None),)
    page = site.browser.get(f"/ui{path}/rules").text
    assert "# nothing else" in page and "nothing passes" not in page
    # Another program has set others: the text is of these, and what has no words is said to have none.
    site.administration.update_network(nwid, {"rules": [{"type": "ACTION_DROP"}]})
    page = site.browser.get(f"/ui{path}/rules").text
    assert "# nothing else" not in page and "drop" in page and "no words" not in page and "nothing passes" in page
    integers = {"type": "INTEGER_RANGE", "start": "0", "end": "1", "idx": 0, "little": True, "bits": 8}
    site.administration.update_network(nwid, {"rules": [integers, {"type": "ACTION_DROP"}]})
    assert "no words" in site.browser.get(f"/ui{path}/rules").text
    site.administration.update_member(nwid, 0x0102030405, {})
    members = f"{path}/members"
    assert send(members, authorize="0102030405").headers["location"].endswith("members#member-0102030405")
    assert site.administration.member(nwid, 0x0102030405).authorized
    revision = str(site.administration.member(nwid, 0x0102030405).revision)
    fields = {"name": "printer", "ipAssignments": "10.9.0.7", "authorized": "on", "revision": revision}
    assert send(f"{members}/0102030405", **fields).status_code == 303
    found = site.administration.member(nwid, 0x0102030405)
    assert found.name == "printer" and found.authorized and [str(ip) for ip in found.ip_assignments] == ["10.9.0.7"]
    site.administration.update_member(nwid, 0x0102030406, {})
    taken = send(f"{members}/0102030406", ipAssignments="10.9.0.7", revision="1")
    assert taken.status_code == 400 and "ipAssignments-error" in taken.text
    assert send(members, **{"shut-out": "0102030405"}).status_code == 303
    assert not site.administration.member(nwid, 0x0102030405).authorized
    assert send(members, authorize="x").status_code == 404
    assert send(f"{members}/0102030405/delete").status_code == 400
    assert send(f"{members}/0102030405/delete", sure="on").status_code == 303
    assert len(site.administration.members(nwid)) == 1
    assert send(f"{path}/delete").status_code == 400 and site.administration.networks()
    assert send(f"{path}/delete", sure="on").status_code == 303 and not site.administration.networks()
    assert site.browser.get(f"/ui{path}").status_code == 404


def test_the_node_joins_and_leaves(site: Site) -> None:
    site.browser.log_in()
    assert site.browser.send("/join", nwid=" 8056C2E21C000001 ").status_code == 303
    assert 0x8056C2E21C000001 in site.node.known
    for nwid, token in (("short", ""), ("0" * 16, ""), (f"{NWID:x}", "x" * 506)):
        answer = site.browser.send("/join", nwid=nwid, token=token)
        assert answer.status_code == 400 and ("token-error" if token else "nwid-error") in answer.text
    assert site.browser.send("/allow", nwid=f"{NWID:x}", allowDefault="on", allowDNS="on").status_code == 303
    allowed = site.node.known[NWID].settings
    assert allowed.allow_default and allowed.allow_dns and not allowed.allow_managed and not allowed.allow_global
    assert "nwid-error" in site.browser.send("/allow", nwid="1" * 16).text
    assert site.browser.send("/leave", nwid=f"{NWID:x}").status_code == 303
    assert NWID not in site.node.known


def test_no_answer_is_long(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    """The worst that there can be, beside a thousand members."""
    site.browser.log_in()
    wide = '"' * 127
    nwid = site.network(
        name=wide,
        routes=[{"target": "fd00:1111::/32"}, *({"target": f"fd00:0:0:{number:x}::/64"} for number in range(31))],
        rules=[{"type": "MATCH_IPV6_SOURCE", "ip": f"fd00::{number:x}/128"} for number in range(1023)]
        + [{"type": "ACTION_ACCEPT"}],
    )
    for number in range(1000):
        ips = [f"fd00:1111:2222:3333:4444:5555:{number:x}:{each:x}" for each in range(16 if number < 60 else 0)]
        site.administration.update_member(
            nwid, 0x0100000000 + number, {"name": wide, "authorized": number % 2 == 0, "ipAssignments": ips}
        )
    many = range(300)
    peer = site.node.peers()[1]
    peers = [dataclasses.replace(peer, address=number + 1, paths=peer.paths * 20) for number in many]
    monkeypatch.setattr(site.node, "peers", lambda: peers)
    joined = site.node.known[NWID]
    for number in many:
        routes = joined.routes * 16
        site.node.known[number] = dataclasses.replace(
            joined, nwid=number + 1, name=wide, detail=wide * 20, routes=routes
        )
        site.page._logs.emit(
            logging.makeLogRecord({"name": "n", "msg": '"' * 2000, "levelno": logging.INFO, "created": time.time()})
        )
    figures = {
        "local": ("fd00::1", 1),
        "remote": ("fd00::2", 2),
        "state": "ESTABLISHED",
        "rtt": 0.1,
        "congestion": "cubic",
    }
    numbers = {"cwnd": 1 << 30, "unacked": 1 << 30, "unsent": 1 << 30, "retransmits": 1 << 30}
    connections = [ConnectionInfo(0, {**figures, **numbers}) for _ in many]

    async def all_connections() -> list[ConnectionInfo]:
        return connections

    monkeypatch.setattr(site.node, "connections", all_connections)
    network = f"/networks/{nwid:016x}"
    looked_at = ["/", "/?page=2", "/peers", "/connections", "/logs", "/networks", network, f"{network}/rules"]
    looked_at += [f"{network}/members?page={page}" for page in range(1, 21)]
    for path in looked_at[:3]:
        site.browser.get(f"/ui{path}")
    for second in range(KEPT):
        site.node.traffic = dict.fromkeys(range(301), (second * second << 30, second << 30))
        site.page._pages.sample(time.monotonic() + second / 10)
    for path in looked_at:
        answer = site.browser.get(f"/ui{path}")
        assert answer.status_code == 200 and len(answer.content) < MOST, (path, len(answer.content))
    rows = re.findall(
        r'<tr id="member-([0-9a-f]{10})">',
        "".join(site.browser.get(f"/ui{network}/members?page={page}").text for page in range(1, 21)),
    )
    assert len(rows) == len(set(rows)) == 1000
    for search in (f"{0x0100000000 + 59:010x}", "5555:3b:", wide + "x"):
        found = site.browser.get(f"/ui{network}/members", params={"search": search[-64:]}).text
        assert found.count('<tr id="member-') == (not search.endswith("x")), search


def test_log_lines_are_few_and_tell_no_secret(site: Site) -> None:
    logs = RecentLogs([TOKEN])
    for number in range(MAX_LINES + 10):
        logs.emit(
            logging.makeLogRecord(
                {"name": "n", "msg": "%d with " + TOKEN, "args": (number,), "levelno": 20, "created": 100.0}
            )
        )
    logs.emit(logging.makeLogRecord({"name": "n", "msg": "x" * 9999, "levelno": 30, "created": 100.0}))
    lines = logs.lines(logging.INFO, 101.0)
    assert len(lines) == MAX_LINES and not any(TOKEN in line.text for line in lines)
    assert [len(line.text) for line in logs.lines(logging.WARNING, 101.0)] == [500]
    assert logs.lines(logging.DEBUG, 100.0 + 15 * 60) == []


def test_the_chart_follows_the_counters() -> None:
    throughput = Throughput()
    assert throughput.chart().points_in == ""
    for second in range(KEPT + 50):
        frames = 10 * second
        counters = {"bytes_to": 5000 * second + 12 * frames, "frames_to": frames, "bytes_from": 0, "frames_from": 0}
        by_ring = {f"worker.{name}_worker": value for name, value in counters.items()}
        throughput.sample(by_ring | {"lanes.bytes_to_worker": 1000 * second}, float(second))
    chart = throughput.chart()
    assert (chart.rate_in, chart.rate_out, chart.seconds) == (6000.0, 0.0, KEPT)
    assert chart.points_in.endswith(" 600,0") and chart.points_out.endswith(" 600,100")
    throughput.sample({}, KEPT + 51.0)  # a worker was replaced
    assert throughput.chart().rate_in == 0.0


def test_what_nobody_looks_at_is_not_sampled() -> None:
    read: list[int] = []

    def traffic(key: int) -> tuple[int, int] | None:
        read.append(key)
        return None if key == 3 else (len(read) * 100, 0)

    watched = Watched(traffic, 10.0)
    watched.sample(0.0)
    assert read == []
    assert watched.charts([1, 2, 3], 0.0)[1].points_in == ""
    for second in (0.0, 1.0):
        watched.sample(second)
    assert read == [1, 2, 3, 1, 2] and watched.charts([1], 1.0)[1].rate_in == 300.0
    watched.sample(WATCHED_SECONDS + 0.5)
    watched.sample(WATCHED_SECONDS + 1.5)
    assert read[5:] == [2, 1, 1]
    watched.charts(range(9000), 100.0)
    read.clear()
    watched.sample(100.0)
    assert len(read) == MAX_WATCHED


def test_without_it_nothing_of_it_is_imported() -> None:
    script = "import sys, ztnode.serve, ztnode.cli.serve_command; print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=60, check=True)
    loaded = {name.partition(".")[0] for name in done.stdout.split()}
    assert not loaded & {"jinja2", "markupsafe", "segno", "starlette", "uvicorn", "httptools"}
    assert "ztnode.web.page" not in done.stdout
